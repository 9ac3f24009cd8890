//! A process that holds keys must not leave an image of its memory on disk.

/// Turns core dumps off for this process and its children. On Linux only root can then trace the
/// process.
pub fn forbid() -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let told = |error: rustix::io::Errno| format!("core dumps can't be turned off: {error}");
    setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    )
    .map_err(told)?;
    // The kernel ignores the limit when it pipes cores to a program (core(5)), but never this flag
    // (PR_SET_DUMPABLE, prctl(2)).
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(told)?;
    Ok(())
}
