//! A process that holds keys leaves no image of its memory behind, wherever the machine would write one.

/// Turns core dumps off for this process and its children. On Linux it can't be traced either, but by root.
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
    // The limit is not asked when cores go to a program (core(5)); this is, always (PR_SET_DUMPABLE, prctl(2)).
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(told)?;
    Ok(())
}
