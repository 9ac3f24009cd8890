//! Deletes what jobs made once it is older than `FILES_KEEP_DAYS`, as facts of its users. Files that users uploaded stay.

use std::time::Duration;

use genie_actors::{WriteError, WriteSide};
use genie_events::{Metadata, Timestamp, file::RemovedBecause};
use genie_log::{Election, Log, blobs::ROWS_AT_ONCE};
use tracing::{info, warn};

use crate::blobs::{BlobError, Blobs};

/// How often the leader looks for old files.
const TICK: Duration = Duration::from_secs(15 * 60);

#[derive(Clone)]
pub struct FileRetention {
    pub log: Log,
    pub write: WriteSide,
    pub blobs: Blobs,
    pub keep: Duration,
}

#[derive(Debug, thiserror::Error)]
enum RetentionError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl FileRetention {
    /// Deletes old files whenever this node leads. Runs for ever; spawn it.
    pub async fn run(self, mut election: Election) {
        loop {
            election.elected().await;
            match self.delete_old().await {
                Ok(0) => {}
                Ok(count) => info!(count, "files: deleted old files of jobs"),
                Err(error) => {
                    warn!(%error, "files: deleting old files of jobs failed; trying again later")
                }
            }
            self.log.clock().pause(TICK).await;
        }
    }

    /// Answers the number of files that it deleted.
    async fn delete_old(&self) -> Result<usize, RetentionError> {
        let keep = i64::try_from(self.keep.as_secs()).unwrap_or(i64::MAX);
        let before = self.log.clock().now().plus_seconds(-keep);
        let mut count = 0;
        let mut after = None;
        loop {
            let old = self.old_files(before, after).await?;
            for file in &old {
                let because = RemovedBecause::Old;
                let system = Metadata::system();
                let removed = self.write.files.remove(file.user, file.id, because, system);
                match removed.await {
                    Ok(_) => self.blobs.delete_file(file.user, file.id).await?,
                    Err(WriteError::Forgotten) => continue, // forgetting deletes it
                    // A job still needs it. It stays until a later look.
                    Err(WriteError::Refused(refusal)) if refusal.code == "file_in_use" => continue,
                    Err(error) => return Err(error.into()),
                }
                count += 1;
            }
            after = old.last().map(|file| (file.created_at, file.id));
            if old.len() < ROWS_AT_ONCE {
                return Ok(count);
            }
        }
    }

    async fn old_files(
        &self,
        before: Timestamp,
        after: Option<(Timestamp, genie_events::BlobId)>,
    ) -> Result<Vec<genie_log::blobs::Blob>, BlobError> {
        Ok(self.log.blobs().outputs_before(before, after).await?)
    }
}
