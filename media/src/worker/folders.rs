//! The folders of jobs: one for each attempt, for this user of the machine alone, wiped when the attempt ends, and all
//! of them when a worker starts.

use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock, statvfs};
use tracing::error;

use super::leftovers;

pub(super) struct JobFolders {
    jobs: PathBuf,
    /// Locked while the worker lives: two would wipe each other's files.
    _only_worker: File,
}

/// The folder of one attempt, wiped when it is dropped.
pub(super) struct AttemptFolder {
    root: PathBuf,
}

impl JobFolders {
    pub async fn open(folder: &Path) -> Result<Self, String> {
        let sentence = |error: io::Error| {
            format!(
                "the folder of the media worker, {}: {error}",
                folder.display()
            )
        };
        make(folder).map_err(sentence)?;
        // Programs need paths that hold wherever they stand.
        let real = folder.canonicalize().map_err(sentence)?;
        let lock = File::create(real.join("lock")).map_err(sentence)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| format!("another media worker uses the folder {}", folder.display()))?;
        let jobs = real.join("jobs");
        leftovers::end_programs(&jobs).await.map_err(sentence)?;
        remove(&jobs).map_err(sentence)?;
        make(&jobs).map_err(sentence)?;
        Ok(Self {
            jobs,
            _only_worker: lock,
        })
    }

    /// The free bytes of the disk; `None` when the system does not say.
    pub fn free(&self) -> Option<u64> {
        let disk = statvfs(&self.jobs).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    pub fn attempt(&self, job: &str, attempt: u32) -> io::Result<AttemptFolder> {
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
        if job.is_empty() || !job.chars().all(is_name) {
            return Err(io::Error::other("the job's id is not a UUID"));
        }
        let root = self.jobs.join(format!("{job}-{attempt}"));
        remove(&root)?;
        let folder = AttemptFolder { root };
        for part in [folder.inputs(), folder.work()] {
            make(&part)?;
        }
        Ok(folder)
    }
}

impl AttemptFolder {
    /// What programs may read.
    pub fn inputs(&self) -> PathBuf {
        self.root.join("inputs")
    }

    /// What programs may write.
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }
}

impl Drop for AttemptFolder {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.root) {
            error!(%error, "media worker: files of a job are not wiped; the next start tries again");
        }
    }
}

fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, time::Duration};

    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn files_of_jobs_are_private_and_wiped() {
        let root = tempfile::TempDir::new().unwrap();
        let folder = root.path().join("worker");
        let folders = JobFolders::open(&folder).await.unwrap();
        let attempt = folders.attempt("0190-ab", 1).unwrap();
        let mode = std::fs::metadata(attempt.work())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
        let file = attempt.inputs().join("0");
        std::fs::write(&file, "x").unwrap();
        drop(attempt);
        assert!(!file.exists());
        for bad in ["", "..", "a/b"] {
            assert!(folders.attempt(bad, 1).is_err(), "{bad}");
        }
        // A worker that was killed left something.
        let left = folder.join("jobs/left");
        std::fs::create_dir(&left).unwrap();
        let second = JobFolders::open(&folder).await;
        assert!(second.is_err(), "the folder is in use");
        drop(folders);
        // A program that another test starts in this moment holds the lock until it runs.
        for _ in 0..400 {
            match JobFolders::open(&folder).await {
                Ok(_) => break,
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
        assert!(!left.exists());
    }
}
