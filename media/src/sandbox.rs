//! Runs one program that touches untrusted bytes, with as few rights as it can work with.
//!
//! A program is not started directly. This program starts itself again as `sandbox-exec`, which gives up its
//! rights one after the other and then becomes the program. What it gives up:
//!
//! - Files: it reads its inputs and the system's libraries, and writes one folder (Landlock).
//! - Network: no socket at all, or TCP to one port for a program that downloads (seccomp, Landlock).
//! - Memory, CPU time, the size of files and their number (rlimits).
//! - Its environment. Signals to others. System calls that make namespaces, mounts, or trace others.
//!
//! It leads its own process group, which is killed whole. It dies with its parent, and is the first to be
//! killed when the machine runs out of memory.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus, Stdio},
    sync::OnceLock,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

/// Gives up rights, and becomes the program.
mod confine;
/// The files and system calls that a confined program has.
mod rights;
/// A program that runs.
mod running;
/// Starts programs from a thread that never ends.
mod spawner;

pub use confine::{Confinement, SandboxLevel};
pub use running::{Running, ToolEnd};

use confine::Policy;

/// The first argument of the program that confines itself.
pub const SUBCOMMAND: &str = "sandbox-exec";

/// Becomes the program that the command line names, confined, when it begins with `sandbox-exec`. Call it
/// first in `main`: it must not read keys, nor start threads. It returns only when it failed.
pub fn exec_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next()?;
    (first == SUBCOMMAND).then(|| confine::exec(arguments))
}

static LAUNCHER: OnceLock<PathBuf> = OnceLock::new();

/// Names the program whose `main` calls [`exec_if_asked`], for a process that is another one: a test. The
/// first call counts.
pub fn launch_with(program: &Path) {
    let _ = LAUNCHER.set(program.to_owned());
}

fn launcher() -> Result<PathBuf, ToolError> {
    if let Some(program) = LAUNCHER.get() {
        return Ok(program.clone());
    }
    std::env::current_exe()
        .map_err(|error| ToolError::NotStarted(format!("its own program is not found: {error}")))
}

fn written(policy: &Policy) -> Result<String, ToolError> {
    policy
        .written()
        .map_err(|error| ToolError::NotStarted(error.to_string()))
}

/// What the sandbox of this machine can do, told by a process that confined itself.
pub async fn probe() -> Result<Confinement, ToolError> {
    let mut command = tokio::process::Command::new(launcher()?);
    command
        .arg(SUBCOMMAND)
        .arg(written(&Policy::Probe)?)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(30), command.output());
    let output = match output.await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(ToolError::NotStarted(error.to_string())),
        Err(_) => return Err(ToolError::TooSlow),
    };
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let told = String::from_utf8_lossy(&output.stderr);
        ToolError::NotStarted(told.trim().to_owned())
    })
}

/// The network of a confined program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ToolNetwork {
    None,
    /// TCP connections to this port, where a proxy of this process listens. The kernel's rule names ports,
    /// not addresses.
    Loopback(u16),
}

/// What a program may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolLimits {
    /// Address space in bytes, of each process.
    pub memory: u64,
    /// CPU time of each process, all its threads together.
    pub cpu: Duration,
    /// The size of a file that it writes, in bytes.
    pub file_bytes: u64,
    pub open_files: u64,
    /// How long the program may take.
    pub time: Duration,
    /// How much of its standard output is kept, in bytes.
    pub output: usize,
}

impl Default for ToolLimits {
    fn default() -> Self {
        Self {
            memory: 4 << 30,
            cpu: Duration::from_secs(4 * 3600),
            file_bytes: 8 << 30,
            open_files: 256,
            time: Duration::from_secs(2 * 3600),
            output: 1 << 20,
        }
    }
}

/// A program with its arguments, and what it may do.
#[derive(Debug, Clone)]
pub struct Tool {
    /// An absolute path.
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// The only folder that it may write, and its current one.
    pub folder: PathBuf,
    /// Files and folders that it may read. Keep them out of `folder`, where it may also write.
    pub inputs: Vec<PathBuf>,
    pub limits: ToolLimits,
    pub network: ToolNetwork,
}

/// What a program left behind.
#[derive(Debug)]
pub struct ToolOutput {
    pub status: ExitStatus,
    /// Its standard output, as far as [`ToolLimits::output`] allows.
    pub stdout: Vec<u8>,
    /// True when standard output was longer.
    pub is_cut: bool,
    /// The end of its standard error.
    pub stderr: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error("the program was not started: {0}")]
    NotStarted(String),
    #[error("the program was cancelled")]
    Cancelled,
    #[error("the program took too long")]
    TooSlow,
    #[error("the program's output was not read: {0}")]
    Io(#[from] std::io::Error),
}

impl Tool {
    /// Runs the program to its end. `on_line` gets each line of its standard output. The program and all that
    /// it started are killed when `cancel` is cancelled, when the time is over, and when this future is
    /// dropped. An exit code that is not 0 is no error.
    pub async fn run(
        &self,
        on_line: &mut (dyn FnMut(&str) + Send),
        cancel: CancellationToken,
    ) -> Result<ToolOutput, ToolError> {
        let mut running = self.start(Stdio::null()).await?;
        let stdout = running.stdout();
        let read = running::read_lines(stdout, self.limits.output, on_line);
        let (end, (stdout, is_cut)) = running.finish_with(read, cancel).await?;
        Ok(ToolOutput {
            status: end.status,
            stdout,
            is_cut,
            stderr: end.stderr,
        })
    }

    /// Starts the program, for a caller that reads its standard output, or feeds its standard input, itself.
    pub async fn start(&self, stdin: Stdio) -> Result<Running, ToolError> {
        let mut command = tokio::process::Command::new(launcher()?);
        command
            .arg(SUBCOMMAND)
            .arg(written(&Policy::of(self))?)
            .arg(&self.program)
            .args(&self.arguments)
            .env_clear()
            .current_dir(&self.folder)
            .process_group(0)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = spawner::spawn(command).await?;
        Running::new(child, self.limits.time)
    }
}
