//! Calls of ffmpeg and ffprobe, in the sandbox.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{ChildStdin, ChildStdout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    kind::MediaKind,
    sandbox::{Tool, ToolError, ToolLimits, ToolNetwork},
};

/// The arguments of a call.
mod arguments;

pub use arguments::FfmpegArguments;

/// The greatest picture that is decoded, in pixels.
pub const MAX_PIXELS: u64 = 100_000_000;
/// How long looking at a file may take.
const PROBE_TIME: Duration = Duration::from_secs(60);

/// The programs of ffmpeg on this machine.
#[derive(Debug, Clone)]
pub struct Programs {
    pub ffmpeg: PathBuf,
    pub ffprobe: PathBuf,
}

impl Programs {
    /// Looks in the folders of a search path.
    pub fn find(search_path: &OsStr) -> Option<Self> {
        let find = |name: &str| {
            std::env::split_paths(search_path)
                .map(|folder| folder.join(name))
                .find(|program| program.is_absolute() && program.is_file())
        };
        Some(Self {
            ffmpeg: find("ffmpeg")?,
            ffprobe: find("ffprobe")?,
        })
    }
}

/// Where a job is done.
#[derive(Debug, Clone)]
pub struct JobFolder {
    /// The only folder that tools write. Outputs are left there.
    pub folder: PathBuf,
    /// In the order of the operation's sources. They stand outside the folder.
    pub inputs: Vec<InputFile>,
}

#[derive(Debug, Clone)]
pub struct InputFile {
    pub path: PathBuf,
    /// As its owner calls it.
    pub name: String,
}

/// Why no output was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct MediaFailure {
    pub sentence: String,
    /// A word that lists can be filtered by.
    pub code: &'static str,
    /// True when another attempt may end otherwise.
    pub retryable: bool,
}

impl MediaFailure {
    /// The input is at fault, so that another attempt ends the same.
    pub fn of_input(code: &'static str, sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            code,
            retryable: false,
        }
    }

    /// The worker is at fault.
    pub fn of_worker(sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            code: "worker",
            retryable: true,
        }
    }

    pub fn damaged() -> Self {
        Self::of_input("damaged", "The file is damaged or cut off")
    }
}

impl From<ToolError> for MediaFailure {
    fn from(error: ToolError) -> Self {
        match error {
            ToolError::Cancelled => Self {
                sentence: "The job was cancelled".into(),
                code: "cancelled",
                retryable: true,
            },
            ToolError::TooSlow => Self::of_input(
                "too_slow",
                "The work takes longer than this worker allows; use a smaller file",
            ),
            ToolError::NotStarted(_) | ToolError::Io(_) => {
                tracing::warn!(%error, "media worker: a tool did not run");
                Self::of_worker("The worker could not run its tools")
            }
        }
    }
}

impl From<std::io::Error> for MediaFailure {
    fn from(error: std::io::Error) -> Self {
        tracing::warn!(%error, "media worker: a file of the job was not read or written");
        Self::of_worker("The worker could not read or write the job's files")
    }
}

/// Runs the tools of one job.
pub struct Workbench<'a> {
    pub programs: &'a Programs,
    pub job: &'a JobFolder,
    /// From 0 to 1.
    pub progress: &'a mut (dyn FnMut(f64) + Send + Sync),
    pub cancel: CancellationToken,
    pub limits: ToolLimits,
}

/// The part of a job that a call of ffmpeg does.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    /// The length of what it writes, in seconds.
    pub seconds: f64,
    /// Where the whole job stands before and after.
    pub from: f64,
    pub to: f64,
}

impl Stretch {
    /// All of the job.
    pub fn whole(seconds: f64) -> Self {
        Self {
            seconds,
            from: 0.0,
            to: 1.0,
        }
    }

    /// Work that moves no progress.
    pub fn unseen() -> Self {
        Self {
            seconds: 0.0,
            from: 0.0,
            to: 0.0,
        }
    }

    fn at(self, seconds: f64) -> f64 {
        let part = if self.seconds > 0.0 {
            (seconds / self.seconds).clamp(0.0, 1.0)
        } else {
            0.0
        };
        self.from + (self.to - self.from) * part
    }
}

/// The time that ffmpeg has written up to, in seconds, if this line of its progress tells it.
fn written_time(line: &str) -> Option<f64> {
    let micros: i64 = line.strip_prefix("out_time_us=")?.trim().parse().ok()?;
    u64::try_from(micros).ok().map(|micros| micros as f64 / 1e6)
}

impl Workbench<'_> {
    /// Runs ffmpeg. Tells how far the last output reached, in seconds.
    pub async fn encode(
        &mut self,
        arguments: FfmpegArguments,
        stretch: Stretch,
    ) -> Result<f64, MediaFailure> {
        let tool = self.tool(&self.programs.ffmpeg, arguments.all(), self.limits);
        let mut reached = 0.0;
        let progress = &mut *self.progress;
        let mut on_line = |line: &str| {
            if let Some(seconds) = written_time(line) {
                reached = seconds;
                if stretch.to > stretch.from {
                    progress(stretch.at(seconds));
                }
            }
        };
        let output = tool.run(&mut on_line, self.cancel.clone()).await?;
        check(output.status, &output.stderr)?;
        Ok(reached)
    }

    /// Gives each frame that ffmpeg decodes to `on_frame`.
    pub async fn read_frames(
        &mut self,
        decode: FfmpegArguments,
        bytes: usize,
        on_frame: &mut FrameWork<'_>,
    ) -> Result<(), MediaFailure> {
        let tool = self.tool(&self.programs.ffmpeg, decode.all(), self.limits);
        let mut decoder = tool.start(Stdio::null()).await?;
        let from = decoder.stdout();
        let mut wrong = None;
        let read = each_frame(from, None, bytes, on_frame, &mut wrong);
        let (end, ()) = decoder.finish_with(read, self.cancel.clone()).await?;
        wrong.map_or(Ok(()), Err)?;
        check(end.status, &end.stderr)
    }

    /// Gives each frame that one ffmpeg decodes to `on_frame`, and what becomes of it to another ffmpeg.
    pub async fn change_frames(
        &mut self,
        decode: FfmpegArguments,
        encode: FfmpegArguments,
        bytes: usize,
        on_frame: &mut FrameWork<'_>,
        stretch: Stretch,
    ) -> Result<(), MediaFailure> {
        let ffmpeg = &self.programs.ffmpeg;
        let decoder = self.tool(ffmpeg, decode.all(), self.limits);
        let encoder = self.tool(ffmpeg, encode.all(), self.limits);
        let mut decoder = decoder.start(Stdio::null()).await?;
        let mut encoder = encoder.start(Stdio::piped()).await?;
        let (from, into) = (decoder.stdout(), encoder.stdin());
        let told = encoder.stdout();
        let mut wrong = None;
        let changed = each_frame(from, into, bytes, on_frame, &mut wrong);
        let progress = &mut *self.progress;
        let watched = async {
            let Some(told) = told else { return Ok(()) };
            let mut lines = BufReader::new(told).lines();
            while let Some(line) = lines.next_line().await? {
                if let Some(seconds) = written_time(&line) {
                    progress(stretch.at(seconds));
                }
            }
            Ok(())
        };
        let (decoded, encoded) = tokio::join!(
            decoder.finish_with(changed, self.cancel.clone()),
            encoder.finish_with(watched, self.cancel.clone()),
        );
        wrong.map_or(Ok(()), Err)?;
        let (encoded, ()) = encoded?;
        let (decoded, ()) = decoded?;
        check(decoded.status, &decoded.stderr)?;
        check(encoded.status, &encoded.stderr)
    }

    /// Asks ffprobe about a file, as JSON.
    pub async fn probe(&self, kind: MediaKind, path: &Path) -> Result<Vec<u8>, MediaFailure> {
        let limits = ToolLimits {
            time: PROBE_TIME.min(self.limits.time),
            ..self.limits
        };
        let tool = self.tool(&self.programs.ffprobe, arguments::probe(kind, path), limits);
        let output = tool.run(&mut |_| {}, self.cancel.clone()).await?;
        check(output.status, &output.stderr)?;
        if output.is_cut {
            return Err(MediaFailure::of_input(
                "too_many_streams",
                "The file has too many streams",
            ));
        }
        Ok(output.stdout)
    }

    /// A path in the job's folder.
    pub fn place(&self, name: &str) -> PathBuf {
        self.job.folder.join(name)
    }

    fn tool(&self, program: &Path, arguments: Vec<OsString>, limits: ToolLimits) -> Tool {
        Tool {
            program: program.to_owned(),
            arguments,
            folder: self.job.folder.clone(),
            inputs: self
                .job
                .inputs
                .iter()
                .map(|input| input.path.clone())
                .collect(),
            limits,
            network: ToolNetwork::None,
        }
    }
}

/// What is done to each frame's bytes.
pub type FrameWork<'a> = dyn FnMut(&mut [u8]) -> Result<(), MediaFailure> + Send + 'a;

/// Reads frames of so many bytes to the end, and writes what becomes of them. A failure of the work ends it and is left in
/// `wrong`; one of a program is told by its own end.
async fn each_frame(
    from: Option<ChildStdout>,
    mut into: Option<ChildStdin>,
    bytes: usize,
    on_frame: &mut FrameWork<'_>,
    wrong: &mut Option<MediaFailure>,
) -> std::io::Result<()> {
    let Some(mut from) = from else {
        return Ok(());
    };
    let mut frame = vec![0; bytes];
    while from.read_exact(&mut frame).await.is_ok() {
        if let Err(failure) = on_frame(&mut frame) {
            *wrong = Some(failure);
            break;
        }
        if let Some(into) = &mut into
            && into.write_all(&frame).await.is_err()
        {
            break;
        }
    }
    Ok(())
}

fn check(status: ExitStatus, stderr: &str) -> Result<(), MediaFailure> {
    if status.success() {
        return Ok(());
    }
    tracing::debug!(stderr, "media worker: a tool failed");
    if status.code().is_none() {
        return Err(MediaFailure::of_input(
            "limits",
            "The work needs more memory or time than this worker allows; use a smaller file",
        ));
    }
    if stderr.contains("No space left on device") {
        return Err(MediaFailure::of_worker("The worker's disk is full"));
    }
    if stderr.contains("Cannot allocate memory") {
        return Err(MediaFailure::of_input(
            "limits",
            "The work needs more memory than this worker allows; use a smaller file",
        ));
    }
    Err(MediaFailure::of_input(
        "damaged",
        "The file is damaged, cut off, or not what its first bytes say",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_the_time_written() {
        assert_eq!(written_time("out_time_us=1500000"), Some(1.5));
        assert_eq!(written_time("out_time_us=N/A"), None);
        assert_eq!(written_time("out_time_us=-40000"), None);
        assert_eq!(written_time("frame=3"), None);
        let half = Stretch {
            seconds: 10.0,
            from: 0.5,
            to: 1.0,
        };
        assert_eq!(half.at(5.0), 0.75);
        assert_eq!(half.at(99.0), 1.0);
        assert_eq!(Stretch::whole(0.0).at(1.0), 0.0);
    }
}
