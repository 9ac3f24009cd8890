//! Programs that a killed worker left behind. A program dies with its worker, but what the program itself started does
//! not: the kernel tells only children of the worker. They stand in the folder of their job, where they are found.

use std::{io, path::Path, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::sleep;
use tracing::warn;

const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Some seconds, for a process that the disk holds up.
const LOOKS: usize = 500;

/// Kills the programs whose current folder is in this one, and waits for their end.
pub(super) async fn end_programs(folder: &Path) -> io::Result<()> {
    for look in 0..LOOKS {
        let killed = kill_programs(folder)?;
        if killed == 0 {
            return Ok(());
        }
        if look == 0 {
            let programs = killed;
            warn!(
                programs,
                "media worker: programs of an earlier worker are killed"
            );
        }
        sleep(LOOK_AGAIN).await;
    }
    Err(io::Error::other("programs of an earlier worker do not end"))
}

/// The number of programs that were there.
fn kill_programs(folder: &Path) -> io::Result<usize> {
    let mut killed = 0;
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        let Some(process) = number.and_then(Pid::from_raw) else {
            continue; // no process
        };
        // The handle comes first. When the number has another process meanwhile, the signal goes nowhere.
        let Ok(handle) = pidfd_open(process, PidfdFlags::empty()) else {
            continue; // it has ended
        };
        let current = std::fs::read_link(Path::new("/proc").join(&name).join("cwd"));
        if current.is_ok_and(|current| current.starts_with(folder)) {
            let _ = pidfd_send_signal(&handle, Signal::KILL); // fails when it has ended
            killed += 1;
        }
    }
    Ok(killed)
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::ExitStatusExt,
        process::{Command, Stdio},
    };

    use super::*;

    fn program(folder: &Path) -> std::process::Child {
        let mut sleep = Command::new("sleep");
        sleep.arg("600").current_dir(folder).stdin(Stdio::null());
        sleep.spawn().unwrap()
    }

    #[tokio::test]
    async fn what_a_killed_worker_left_is_ended_and_nothing_else() {
        let root = tempfile::TempDir::new().unwrap();
        let jobs = root.path().join("jobs");
        let of_a_job = jobs.join("0190-ab-1/work");
        let beside = root.path().join("jobs-of-others");
        std::fs::create_dir_all(&of_a_job).unwrap();
        std::fs::create_dir_all(&beside).unwrap();
        let mut left = program(&of_a_job);
        let mut other = program(&beside);
        end_programs(&jobs).await.unwrap();
        assert_eq!(left.wait().unwrap().signal(), Some(9));
        assert!(other.try_wait().unwrap().is_none(), "it runs on");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
