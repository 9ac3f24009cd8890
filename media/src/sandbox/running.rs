//! A program that runs: its pipes, its end, and the end of all that it started.

use std::{process::ExitStatus, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{ToolError, confine};

/// How much of a program's standard error is kept.
const STDERR_KEPT: usize = 8 << 10;
/// A longer line reaches nobody in one piece.
const LONGEST_LINE: usize = 16 << 10;

/// The processes of a program. They are killed when this is dropped.
struct ProcessGroup(Pid);

impl ProcessGroup {
    fn kill(&self) {
        let _ = kill_process_group(self.0, Signal::KILL); // fails when all have ended
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A started program.
pub struct Running {
    // First, so that all processes are killed before the leader is dropped and its number is free again.
    group: ProcessGroup,
    child: Child,
    stderr: JoinHandle<String>,
    until: Instant,
}

/// How a program ended.
#[derive(Debug)]
pub struct ToolEnd {
    pub status: ExitStatus,
    /// The end of its standard error.
    pub stderr: String,
}

impl Running {
    pub(super) fn new(mut child: Child, time: Duration) -> Result<Self, ToolError> {
        let number = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let Some(leader) = number else {
            return Err(ToolError::NotStarted("it has no number".into()));
        };
        let stderr = child.stderr.take();
        Ok(Self {
            group: ProcessGroup(leader),
            child,
            stderr: tokio::spawn(async move {
                match stderr {
                    Some(stderr) => end_of(stderr).await,
                    None => String::new(),
                }
            }),
            until: Instant::now() + time,
        })
    }

    /// The program's standard input, when it was started with a pipe.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// The program's standard output, once.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits for the program's end, while `work` reads what it writes.
    pub async fn finish_with<T>(
        mut self,
        work: impl Future<Output = std::io::Result<T>>,
        cancel: CancellationToken,
    ) -> Result<(ToolEnd, T), ToolError> {
        let until = self.until;
        let whole = async {
            // What the program started and left behind would keep the pipes open.
            let ended = async {
                let status = self.child.wait().await;
                self.group.kill();
                status
            };
            let (status, worked) = tokio::join!(ended, work);
            let stderr = (&mut self.stderr).await.unwrap_or_default();
            Ok::<_, ToolError>((status?, stderr, worked?))
        };
        let (status, stderr, worked) = tokio::select! {
            done = timeout_at(until, whole) => done.map_err(|_| ToolError::TooSlow)??,
            () = cancel.cancelled() => return Err(ToolError::Cancelled),
        };
        if status.code() == Some(confine::FAILED) && stderr.starts_with(confine::COMPLAINT) {
            let why = stderr.trim_start_matches(confine::COMPLAINT).trim();
            return Err(ToolError::NotStarted(why.to_owned()));
        }
        Ok((ToolEnd { status, stderr }, worked))
    }
}

/// Reads to the end, and keeps what comes last.
async fn end_of(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut piece = vec![0; 4096];
    while let Ok(read @ 1..) = stderr.read(&mut piece).await {
        kept.extend_from_slice(&piece[..read]);
        if kept.len() > STDERR_KEPT {
            kept.drain(..kept.len() - STDERR_KEPT);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Reads to the end, gives out lines, and keeps the first `most` bytes. The flag says whether more came.
pub(super) async fn read_lines(
    stdout: Option<impl AsyncRead + Unpin>,
    most: usize,
    on_line: &mut (dyn FnMut(&str) + Send),
) -> std::io::Result<(Vec<u8>, bool)> {
    let mut kept = Vec::new();
    let mut is_cut = false;
    let Some(mut stdout) = stdout else {
        return Ok((kept, is_cut));
    };
    let mut line = Vec::new();
    let mut piece = vec![0; 16 << 10];
    loop {
        let read = stdout.read(&mut piece).await?;
        let piece = &piece[..read];
        let room = most - kept.len();
        is_cut |= read > room;
        kept.extend_from_slice(&piece[..read.min(room)]);
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            if part.ends_with(b"\n") || line.len() > LONGEST_LINE {
                on_line(String::from_utf8_lossy(&line).trim_end());
                line.clear();
            }
        }
        if read == 0 {
            break;
        }
    }
    if !line.is_empty() {
        on_line(String::from_utf8_lossy(&line).trim_end());
    }
    Ok((kept, is_cut))
}
