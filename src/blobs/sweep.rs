//! Deletes bytes that belong to nobody: those of forgotten users, and of uploads that broke off.
//!
//! Invariant: only bytes are deleted that the store's own tables name, and leftovers of uploads only
//! in a blob store that is marked as this log's. So an installation that was given the bucket of
//! another deletes nothing there. The blob store is never listed as a whole.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt};
use genie_events::{BlobId, Timestamp, UserId};
use genie_log::{Election, blobs::ROWS_AT_ONCE};
use object_store::{Error, ObjectStoreExt, PutMode, path::Path};
use tracing::{info, warn};

use super::{BlobError, Blobs, delete, in_time};

/// How often the sweep looks for uploads that broke off.
const SWEEP: Duration = Duration::from_secs(15 * 60);
/// A part that is on its way to the store has arrived by then, or never does.
const UNDER_WAY_MILLIS: i64 = 3600 * 1000;
/// The object that says whose the blob store is.
const MARKER: &str = ".genie-log";
/// A name of a log is far shorter.
const MARKER_BYTES: u64 = 1024;

/// Whose the blob store is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StoreOwner {
    ThisLog,
    /// The marker's text.
    Other(String),
}

impl Blobs {
    /// Deletes the bytes and rows of all files of a forgotten user, and the bytes of those that are
    /// being uploaded. May be called again. After a crash the sweep finishes it.
    pub async fn delete_of(&self, user: UserId) -> Result<(), BlobError> {
        let table = self.0.log.blobs();
        table.doom_of_user(user).await?;
        self.delete_doomed(user).await?;
        let soon = self.0.log.clock().now().plus_millis(UNDER_WAY_MILLIS);
        table.expire_uploads_of(user, soon).await?;
        let mut after = None;
        loop {
            let uploads = table.uploads_of(user, after).await?;
            for begun in &uploads {
                // The row stays for the sweep: a part may still be on its way.
                self.delete_leftovers(begun.user, begun.file).await?;
            }
            after = uploads.last().map(|begun| begun.file);
            if uploads.len() < ROWS_AT_ONCE {
                return Ok(());
            }
        }
    }

    /// Deletes the bytes of a user's doomed files, and then their rows.
    async fn delete_doomed(&self, user: UserId) -> Result<(), BlobError> {
        let table = self.0.log.blobs();
        let mut after = None;
        loop {
            let files = table.doomed_of(user, after).await?;
            for file in &files {
                self.delete_file(user, *file).await?;
            }
            after = files.last().copied();
            if files.len() < ROWS_AT_ONCE {
                return Ok(());
            }
        }
    }

    /// Deletes the bytes of a doomed file, and then its row.
    pub async fn delete_file(&self, user: UserId, file: BlobId) -> Result<(), BlobError> {
        self.delete_leftovers(user, file).await?;
        Ok(self.0.log.blobs().drop_doomed(file).await?)
    }

    /// Deletes what broken uploads left, whenever this node leads. Runs for ever; spawn it.
    pub async fn sweep(self, mut election: Election) {
        loop {
            election.elected().await;
            let clock = self.0.log.clock();
            match self.sweep_expired(clock.now()).await {
                Ok(0) => {}
                Ok(count) => info!(count, "uploads: deleted unfinished uploads"),
                Err(error) => {
                    warn!(%error, "uploads: sweeping the blob store failed; trying again later")
                }
            }
            clock.pause(SWEEP).await;
        }
    }

    /// Answers the number of uploads that it deleted.
    pub(super) async fn sweep_expired(&self, before: Timestamp) -> Result<usize, BlobError> {
        let table = self.0.log.blobs();
        for user in table.doomed_owners().await? {
            self.delete_doomed(user).await?;
        }
        if let StoreOwner::Other(marker) = self.owner().await? {
            warn!(
                marker,
                "uploads: the blob store belongs to another log; nothing is swept there. Give each installation a blob store of its own"
            );
            return Ok(0);
        }
        let mut count = 0;
        loop {
            let old = table.uploads_expired_before(before).await?;
            let files = old.iter().map(|begun| begun.file).collect();
            let kept = table.known(files).await?;
            for begun in &old {
                if !kept.contains(&begun.file) {
                    self.delete_leftovers(begun.user, begun.file).await?;
                    count += 1;
                }
                table.end_upload(begun.file).await?;
            }
            if old.len() < ROWS_AT_ONCE {
                return Ok(count);
            }
        }
    }

    /// Reads the marker. A blob store without one becomes this log's.
    pub(super) async fn owner(&self) -> Result<StoreOwner, BlobError> {
        let objects = Arc::clone(&self.0.objects);
        let path = self.0.root.clone().join(MARKER);
        let mine = self.0.log.hashes().log_name().to_owned();
        self.run(async move {
            in_time(async {
                for mode in [PutMode::Create, PutMode::Overwrite] {
                    match objects.get(&path).await {
                        Ok(found) if found.meta.size > MARKER_BYTES => {
                            return Ok(StoreOwner::Other("a large file".into()));
                        }
                        Ok(found) => return Ok(owner_of(&found.bytes().await?, &mine)),
                        Err(Error::NotFound { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                    match objects
                        .put_opts(&path, mine.clone().into(), mode.into())
                        .await
                    {
                        // Read again: another installation may have been first, or overwrite it.
                        Ok(_) | Err(Error::AlreadyExists { .. }) => {}
                        // Not every bucket knows a condition.
                        Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                match objects.get(&path).await {
                    Ok(found) => Ok(owner_of(&found.bytes().await?, &mine)),
                    Err(error) => Err(error.into()),
                }
            })
            .await
        })
        .await
    }

    /// Deletes the bytes of an upload that ended, and then its row.
    pub async fn delete_upload(&self, user: UserId, file: BlobId) -> Result<(), BlobError> {
        self.delete_leftovers(user, file).await?;
        Ok(self.0.log.blobs().end_upload(file).await?)
    }

    /// Deletes whatever lies in the place of a file.
    async fn delete_leftovers(&self, user: UserId, file: BlobId) -> Result<(), BlobError> {
        let prefix = self
            .0
            .root
            .clone()
            .join(user.to_string())
            .join(file.to_string());
        let objects = Arc::clone(&self.0.objects);
        let folder = self.0.folder.clone();
        self.run(async move {
            let paths = objects.list(Some(&prefix)).map_ok(|object| object.location);
            delete(&*objects, paths.boxed()).await?;
            match folder {
                Some(root) => remove_folder(root, &prefix).await,
                None => Ok(()),
            }
        })
        .await
    }
}

fn owner_of(marker: &[u8], mine: &str) -> StoreOwner {
    let text = String::from_utf8_lossy(marker);
    match text.trim() {
        text if text == mine => StoreOwner::ThisLog,
        text => StoreOwner::Other(text.chars().take(100).collect()),
    }
}

/// In a local folder a part is written as `<part>#<number>` and then renamed. A crash may leave such
/// a file, which the object store does not list.
async fn remove_folder(root: std::path::PathBuf, prefix: &Path) -> Result<(), BlobError> {
    let folder = root.join(prefix.as_ref());
    match tokio::fs::remove_dir_all(&folder).await {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(BlobError::Away(error.to_string()));
        }
        _ => {}
    }
    if let Some(of_user) = folder.parent() {
        // The system refuses when the user has other files. A running upload makes it again.
        let _ = tokio::fs::remove_dir(of_user).await;
    }
    Ok(())
}
