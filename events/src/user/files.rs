//! Files of a user. The state holds their number and size together, and none of them by itself.

use serde::{Deserialize, Serialize};

use super::{User, changes};
use crate::{
    Now,
    event::Change,
    file::{File, FileCommand, FileEvent, NewFile},
    ids::BlobId,
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
