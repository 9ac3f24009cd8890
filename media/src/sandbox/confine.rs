//! Gives up rights, and becomes the program. This runs in a process of its own, on its only thread.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use rustix::process::{
    Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};
use serde::{Deserialize, Serialize};

use super::{Tool, ToolNetwork, rights};

/// The exit code when the program was not started.
pub(super) const FAILED: i32 = 125;
/// The beginning of standard error then.
pub(super) const COMPLAINT: &str = "sandbox-exec: ";

/// How far this machine can confine a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxLevel {
    /// Files, network and system calls, by every rule that is asked for.
    Full,
    /// Some rules are missing in this kernel.
    Partial,
    /// Memory and time alone are limited.
    None,
}

impl SandboxLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Partial => "partial",
            Self::None => "none",
        }
    }
}

/// What the sandbox of a machine can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    pub level: SandboxLevel,
    /// What is missing to the full level, in words.
    pub missing: Vec<String>,
}

/// What the process that confines itself is told.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Policy {
    /// Confine yourself, and say how far that went.
    Probe,
    /// Become the program that is named next, with its arguments.
    Run(Box<Run>),
}

#[derive(Serialize, Deserialize)]
pub(super) struct Run {
    /// The process that must be alive.
    parent: u32,
    folder: PathBuf,
    inputs: Vec<PathBuf>,
    network: ToolNetwork,
    memory: u64,
    cpu_seconds: u64,
    file_bytes: u64,
    open_files: u64,
}

impl Policy {
    pub(super) fn of(tool: &Tool) -> Self {
        Self::Run(Box::new(Run {
            parent: std::process::id(),
            folder: tool.folder.clone(),
            inputs: tool.inputs.clone(),
            network: tool.network,
            memory: tool.limits.memory,
            cpu_seconds: tool.limits.cpu.as_secs().max(1),
            file_bytes: tool.limits.file_bytes,
            open_files: tool.limits.open_files,
        }))
    }

    pub(super) fn written(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

pub(super) fn exec(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match become_program(arguments) {
        Ok(confinement) => {
            println!("{confinement}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{COMPLAINT}{why}");
            ExitCode::from(FAILED as u8)
        }
    }
}

/// Returns what a probe found. A program that is started never returns.
fn become_program(mut arguments: impl Iterator<Item = OsString>) -> Result<String, String> {
    let policy = arguments.next().unwrap_or_default();
    let policy = policy
        .to_str()
        .and_then(|text| serde_json::from_str(text).ok());
    match policy.ok_or("a policy must come first; genie calls this itself")? {
        Policy::Probe => {
            let confinement = restrict(None, None, &[], ToolNetwork::None)?;
            serde_json::to_string(&confinement).map_err(|error| error.to_string())
        }
        Policy::Run(run) => {
            let program = PathBuf::from(arguments.next().ok_or("a program must be named")?);
            // A link would hide the place of a program that needs more than itself.
            let program = program
                .canonicalize()
                .map_err(|error| format!("{}: {error}", program.display()))?;
            die_with(run.parent)?;
            // Whoever started genie may have left files open.
            close_fds::CloseFdsBuilder::new().cloexecfrom(3);
            let mut command = Command::new(&program);
            command
                .args(arguments)
                .env_clear()
                .envs(environment(&run.folder));
            restrict(Some(&program), Some(&run.folder), &run.inputs, run.network)?;
            limit(&run)?;
            let error = command.exec();
            Err(format!("{}: {error}", program.display()))
        }
    }
}

fn environment(folder: &Path) -> [(&'static str, OsString); 6] {
    [
        ("HOME", folder.into()),
        ("TMPDIR", folder.into()),
        ("PATH", "/usr/local/bin:/usr/bin:/bin".into()),
        ("LANG", "C.UTF-8".into()),
        // Each further arena of glibc takes 64 MiB of address space.
        ("MALLOC_ARENA_MAX", "2".into()),
        ("PYTHONDONTWRITEBYTECODE", "1".into()),
    ]
}

/// Asks the kernel to kill this process when its parent ends.
fn die_with(parent: u32) -> Result<(), String> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("no signal at the parent's death: {error}"))?;
    // It may have ended before.
    let parent_now = getppid().map(|parent| parent.as_raw_nonzero().get());
    if parent_now != Some(parent.cast_signed()) {
        return Err("the parent has ended".into());
    }
    Ok(())
}

fn restrict(
    program: Option<&Path>,
    folder: Option<&Path>,
    inputs: &[PathBuf],
    network: ToolNetwork,
) -> Result<Confinement, String> {
    let mut missing = Vec::new();
    // The first to be killed when the machine runs out of memory.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "1000") {
        missing.push(format!("the order of death when memory runs out: {error}"));
    }
    let files = rights::restrict_files(program, folder, inputs, network)?;
    let lacking = rights::lacking(&files);
    missing.extend(lacking.iter().map(ToString::to_string));
    let has_calls = rights::restrict_calls(network)?;
    if !has_calls {
        missing.push("no filter of system calls for this architecture".into());
    }
    let has_files = files.ruleset != landlock::RulesetStatus::NotEnforced;
    let level = match (has_files, has_calls) {
        (false, false) => SandboxLevel::None,
        _ if missing.is_empty() => SandboxLevel::Full,
        _ => SandboxLevel::Partial,
    };
    Ok(Confinement { level, missing })
}

fn limit(run: &Run) -> Result<(), String> {
    let limits = [
        (Resource::Core, 0),
        (Resource::Fsize, run.file_bytes),
        (Resource::Nofile, run.open_files),
        (Resource::Cpu, run.cpu_seconds),
        (Resource::As, run.memory),
    ];
    for (resource, wanted) in limits {
        let allowed = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limit = Some(wanted.min(allowed));
        let both = Rlimit {
            current: limit,
            maximum: limit,
        };
        setrlimit(resource, both).map_err(|error| format!("{resource:?}: {error}"))?;
    }
    Ok(())
}
