//! Files of a user. The state holds their number and size together, and none of them by itself.

use serde::{Deserialize, Serialize};

use super::{User, changes};
use crate::{
    Now,
    event::Change,
    file::{File, FileCommand, FileEvent, NewFile, RemovedBecause},
    ids::{BlobId, JobId},
    job::{Job, JobSpec},
    refusal::Refusal,
};

/// The files that a user keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTally {
    pub files: u64,
    pub bytes: u64,
}

impl FileTally {
    fn add(&mut self, event: &FileEvent) {
        match event {
            FileEvent::Stored(file) => {
                self.files += 1;
                self.bytes = self.bytes.saturating_add(file.bytes);
            }
            FileEvent::Removed { bytes, .. } => {
                self.files = self.files.saturating_sub(1);
                self.bytes = self.bytes.saturating_sub(*bytes);
            }
        }
    }
}

impl User {
    pub fn files(&self) -> FileTally {
        self.files
    }

    /// Checks that the user may keep so many bytes more, those of unfinished uploads included.
    pub fn check_room_for_bytes(&self, now: &Now, bytes: u64) -> Result<(), Refusal> {
        self.account.active()?;
        let most = now.limits.file_bytes();
        if self.files.bytes.saturating_add(bytes) <= most {
            return Ok(());
        }
        Err(Refusal::files_full(self.files.bytes, most))
    }

    /// What a job made is kept past the user's limit: the work was allowed when the job was queued.
    pub(super) fn store_file(
        &self,
        now: &Now,
        id: BlobId,
        file: NewFile,
    ) -> Result<Vec<Change>, Refusal> {
        let bytes = file.bytes;
        let is_output = file.job.is_some();
        let stored = self.file_changes(id, FileCommand::Store(file))?;
        if !stored.is_empty() && !is_output {
            self.check_room_for_bytes(now, bytes)?;
        }
        Ok(stored)
    }

    /// A file stays while a job that has not ended names it.
    pub(super) fn remove_file(
        &self,
        id: BlobId,
        reason: RemovedBecause,
    ) -> Result<Vec<Change>, Refusal> {
        let removed = self.file_changes(id, FileCommand::Remove(reason))?;
        match self.job_naming(id).filter(|_| !removed.is_empty()) {
            None => Ok(removed),
            Some(job) => {
                let sentence = format!(
                    "The job {job} has not ended and names this file; wait for its end, or cancel it"
                );
                Err(Refusal::conflict("file_in_use", sentence))
            }
        }
    }

    /// A job that has not ended and names the file. All of the user's such jobs are looked through, in memory.
    fn job_naming(&self, file: BlobId) -> Option<JobId> {
        let is_named = |(id, job): (&JobId, &Job)| {
            let outline = job.outline().filter(|_| !job.has_ended())?;
            outline.files.contains(&file).then_some(*id)
        };
        let left_out = |(id, files): (&JobId, &Vec<BlobId>)| files.contains(&file).then_some(*id);
        self.jobs
            .iter()
            .find_map(is_named)
            .or_else(|| self.files_of_left_out.iter().find_map(left_out))
    }

    /// Refuses a job that names a file which is gone by now.
    pub(super) fn check_named_files(&self, spec: &JobSpec) -> Result<(), Refusal> {
        let is_gone = |id: &str| {
            let id = id.parse::<BlobId>();
            id.is_ok_and(|id| self.removed_files.contains(&id))
        };
        let named = spec.named_files();
        match named.into_iter().find(|(_, id)| is_gone(id)) {
            None => Ok(()),
            Some((field, _)) => Err(JobSpec::foreign_file(field)),
        }
    }

    pub(super) fn file_changes(
        &self,
        id: BlobId,
        command: FileCommand,
    ) -> Result<Vec<Change>, Refusal> {
        let file = self.recalled_file.filter(|(known, _)| *known == id);
        let file = file.map_or(File::Absent, |(_, file)| file);
        Ok(changes(id, file.decide(command)?))
    }

    pub(super) fn evolve_file(&mut self, event: FileEvent) {
        self.files.add(&event);
    }
}
