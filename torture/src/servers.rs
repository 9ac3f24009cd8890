//! The servers under torture: child processes of the `genie` program. A server that goes down is started again at once,
//! whatever the cause.

use std::{
    fs::OpenOptions,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// How long a start may take before it is tried anew.
const START: Duration = Duration::from_secs(60);
/// Pause after a start that failed.
const PAUSE: Duration = Duration::from_millis(200);

pub struct Launch {
    pub program: PathBuf,
    /// The server's folder, private to this user.
    pub folder: PathBuf,
    pub environment: Vec<(&'static str, String)>,
}

#[derive(Default)]
pub struct ServerProcess {
    state: Mutex<ProcessState>,
    /// Successful starts.
    pub starts: AtomicU64,
    /// Times that it went down or did not come up although it was not killed here.
    pub fell: AtomicU64,
}

#[derive(Default)]
struct ProcessState {
    base: Option<String>,
    pid: Option<Pid>,
    /// True when the server was killed here, so that its end is expected.
    killed: bool,
}

impl ServerProcess {
    fn state(&self) -> MutexGuard<'_, ProcessState> {
        self.state.lock()
    }

    /// The server's address, while it runs.
    pub fn base(&self) -> Option<String> {
        self.state().base.clone()
    }

    /// Sends kill -9. Returns whether there was a process to kill.
    pub fn kill(&self) -> bool {
        let mut state = self.state();
        state.base = None;
        let Some(pid) = state.pid else { return false };
        state.killed = true;
        kill_process(pid, Signal::KILL).is_ok()
    }

    /// Stops the process with SIGSTOP, or lets it go on.
    pub fn freeze(&self, frozen: bool) -> bool {
        let state = self.state();
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        state
            .pid
            .is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    /// Keeps the server running until it is told to stop, and then ends it in order.
    pub async fn keep(self: Arc<Self>, launch: Launch, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let Some((mut child, lines)) = self.start(&launch, &stop).await else {
                if !stop.is_cancelled() {
                    if !std::mem::take(&mut self.state().killed) {
                        self.fell.fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                continue;
            };
            let reading = tokio::spawn(read_on(lines));
            tokio::select! {
                _ = child.wait() => {
                    let mut state = self.state();
                    if !std::mem::take(&mut state.killed) {
                        self.fell.fetch_add(1, Ordering::Relaxed);
                    }
                    *state = ProcessState::default();
                }
                () = stop.cancelled() => {
                    if let Some(pid) = self.state().pid {
                        let _ = kill_process(pid, Signal::TERM); // it may have gone by itself
                    }
                    if timeout(START, child.wait()).await.is_err() {
                        let _ = child.kill().await; // it may have gone by itself
                    }
                }
            }
            reading.abort();
        }
    }

    /// Starts the server and waits until it listens. `None` when it does not come up.
    async fn start(
        &self,
        launch: &Launch,
        stop: &CancellationToken,
    ) -> Option<(Child, Lines<BufReader<ChildStdout>>)> {
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .open(launch.folder.join("server.log"))
            .ok()?;
        let mut child = Command::new(&launch.program)
            .arg("serve")
            .current_dir(&launch.folder)
            .env_clear()
            .envs(launch.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0) // Ctrl-C must reach torture, not its servers
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        let pid = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        *self.state() = ProcessState {
            base: None,
            pid,
            killed: false,
        };
        let mut lines = BufReader::new(child.stdout.take()?).lines();
        let listens = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(base) = line.strip_prefix("genie listens on ") {
                    return Some(base.to_owned());
                }
            }
            None
        };
        let base = tokio::select! {
            base = timeout(START, listens) => base.ok().flatten(),
            () = stop.cancelled() => None,
        };
        let Some(base) = base else {
            let _ = child.kill().await; // it may have gone by itself
            self.state().pid = None;
            return None;
        };
        let mut state = self.state();
        if !state.killed {
            state.base = Some(base);
        }
        self.starts.fetch_add(1, Ordering::Relaxed);
        drop(state);
        Some((child, lines))
    }
}

/// Reads the rest of the output, so that it does not fill the pipe.
async fn read_on(mut lines: Lines<BufReader<ChildStdout>>) {
    while let Ok(Some(_)) = lines.next_line().await {}
}
