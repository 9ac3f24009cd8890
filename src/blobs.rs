//! The blob store: uploaded files in a local folder or a bucket. Each part of a file is an object
//! `<user>/<file>/<part>`, encrypted under the user's key before it is sent.
//!
//! A file is not one multipart upload. Stores hide unfinished multipart uploads, while the parts
//! that a crash leaves can be listed and swept.
//!
//! Invariant: all work on the store runs on the runtime that owns all I/O, and finishes even when
//! the caller goes away.

use std::{
    collections::BTreeMap, fs, os::unix::fs::DirBuilderExt, path::PathBuf, sync::Arc,
    time::Duration,
};

use actix_web::web::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use genie_events::{BlobId, Timestamp, UserId};
use genie_log::{
    Election, Log, LogError, UserKeys,
    blobs::{Blob, PART, ROWS_AT_ONCE, open_part, parts_of},
    store::in_time_or,
};
use object_store::{
    ObjectStore, ObjectStoreExt, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    local::LocalFileSystem,
    path::Path,
};
use secrecy::{ExposeSecret, SecretString};
use tracing::{Instrument, info, warn};
use zeroize::Zeroizing;

/// Reads a file at any offset.
mod reader;
/// Sweeps the parts that a crash left in the local folder.
mod temporary_parts;
mod upload;
pub use reader::BlobReader;
pub use upload::Upload;

/// The longest time for one part.
const LONGEST: Duration = Duration::from_secs(60);
/// How often the sweep looks for parts without a file.
const SWEEP: Duration = Duration::from_secs(15 * 60);
/// Parts of this age without a row belong to no file, because no upload lasts this long.
const ORPHANED_AFTER: Duration = Duration::from_secs(3600);

pub enum BlobLocation {
    /// Created when it is absent.
    Folder(PathBuf),
    /// `url` is `s3://bucket/prefix`. `aws` has the `AWS_*` variables of the AWS tools.
    Bucket {
        url: String,
        aws: BTreeMap<String, SecretString>,
    },
}

#[derive(Clone)]
pub struct Blobs(Arc<Inner>);

struct Inner {
    log: Log,
    objects: Arc<dyn ObjectStore>,
    /// The prefix of each path.
    root: Path,
    /// `None` for a bucket.
    folder: Option<PathBuf>,
}

/// Why bytes cannot be written or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BlobError {
    /// The store does not answer, or refuses. This may pass.
    #[error("the blob store is away: {0}")]
    Away(String),
    /// A part is missing or differs from what was written.
    #[error("part {number} of file {file} {reason}")]
    Damaged {
        file: BlobId,
        number: u64,
        reason: String,
    },
    #[error(transparent)]
    Log(#[from] LogError),
}

/// The values that reading a file needs.
#[derive(Debug, Clone, Copy)]
struct BlobRef {
    user: UserId,
    id: BlobId,
    size: u64,
}

impl From<object_store::Error> for BlobError {
    fn from(error: object_store::Error) -> Self {
        Self::Away(error.to_string())
    }
}

impl Blobs {
    /// Opens the store. Sends no request to a bucket yet.
    pub fn open(log: Log, place: BlobLocation) -> Result<Self, String> {
        let (objects, root, folder): (Arc<dyn ObjectStore>, _, _) = match place {
            BlobLocation::Folder(folder) => {
                let wrong = |error: &dyn std::fmt::Display| {
                    format!("the blob store {}: {error}", folder.display())
                };
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&folder)
                    .map_err(|error| wrong(&error))?;
                let objects =
                    LocalFileSystem::new_with_prefix(&folder).map_err(|error| wrong(&error))?;
                (
                    Arc::new(objects.with_fsync(true).with_automatic_cleanup(true)),
                    Path::default(),
                    Some(folder),
                )
            }
            BlobLocation::Bucket { url, aws } => {
                let wrong = |error: &dyn std::fmt::Display| format!("GENIE_BLOBS_URL: {error}");
                let parsed = reqwest::Url::parse(&url).map_err(|error| wrong(&error))?;
                let root = Path::from_url_path(parsed.path()).map_err(|error| wrong(&error))?;
                let retry = RetryConfig {
                    max_retries: 3,
                    retry_timeout: LONGEST / 2,
                    ..RetryConfig::default()
                };
                let mut builder = AmazonS3Builder::new().with_url(url).with_retry(retry);
                for (name, value) in aws {
                    // Other programs may use names that the store does not know.
                    if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                        builder = builder.with_config(key, value.expose_secret());
                    }
                }
                (
                    Arc::new(builder.build().map_err(|error| wrong(&error))?),
                    root,
                    None,
                )
            }
        };
        Ok(Self(Arc::new(Inner {
            log,
            objects,
            root,
            folder,
        })))
    }

    /// Runs `work` on the runtime that owns all I/O.
    async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, BlobError>> + Send + 'static,
    ) -> Result<T, BlobError> {
        let task = self.0.log.store().io().spawn(work.in_current_span());
        task.await
            .unwrap_or_else(|stopped| Err(BlobError::Away(stopped.to_string())))
    }

    fn path(&self, user: UserId, file: BlobId, number: u64) -> Path {
        self.0
            .root
            .clone()
            .join(user.to_string())
            .join(file.to_string())
            .join(format!("{number:08}"))
    }

    /// Reads and decrypts a part of a file.
    async fn part(
        &self,
        blob: BlobRef,
        keys: &UserKeys,
        number: u64,
    ) -> Result<Zeroizing<Vec<u8>>, BlobError> {
        let objects = Arc::clone(&self.0.objects);
        let path = self.path(blob.user, blob.id, number);
        let file = blob.id;
        let damaged = move |reason: &dyn ToString| BlobError::Damaged {
            file,
            number,
            reason: reason.to_string(),
        };
        let sealed = self.run(async move {
            let read = async {
                let found = match objects.get(&path).await {
                    Ok(found) => found,
                    Err(object_store::Error::NotFound { .. }) => {
                        return Err(damaged(&"is missing"));
                    }
                    Err(error) => return Err(error.into()),
                };
                if found.meta.size <= 2 * PART as u64 {
                    Ok(found.bytes().await?)
                } else {
                    Err(damaged(&"is larger than any part"))
                }
            };
            in_time(read).await
        });
        let is_last = number + 1 == parts_of(blob.size);
        let opened = open_part(keys, file, number, is_last, &sealed.await?)
            .map_err(|reason| damaged(&reason))?;
        let wanted = if is_last {
            blob.size - number * PART as u64
        } else {
            PART as u64
        };
        if opened.len() as u64 == wanted {
            Ok(opened)
        } else {
            Err(damaged(&"has another length than it was kept with"))
        }
    }

    /// Streams the bytes of a file, one part at a time.
    pub fn read(
        &self,
        blob: &Blob,
        keys: Arc<UserKeys>,
    ) -> impl Stream<Item = Result<Bytes, BlobError>> + use<> {
        let blobs = self.clone();
        let bounds = BlobRef {
            user: blob.user,
            id: blob.id,
            size: blob.size,
        };
        stream::iter(0..parts_of(bounds.size)).then(move |number| {
            let blobs = blobs.clone();
            let keys = Arc::clone(&keys);
            async move {
                Ok(Bytes::from(std::mem::take(
                    &mut *blobs.part(bounds, &keys, number).await?,
                )))
            }
        })
    }

    /// Deletes the bytes and rows of all files of a forgotten user, with those that are being
    /// uploaded. May be called again. After a crash the sweep finishes it.
    pub async fn delete_of(&self, user: UserId) -> Result<(), BlobError> {
        self.0.log.blobs().doom_of_user(user).await?;
        let objects = Arc::clone(&self.0.objects);
        let prefix = self.0.root.clone().join(user.to_string());
        self.run(async move {
            let paths = objects.list(Some(&prefix)).map_ok(|object| object.location);
            delete(&*objects, paths.boxed()).await
        })
        .await?;
        Ok(self.0.log.blobs().drop_doomed(user).await?)
    }

    /// Deletes parts without a file whenever this node leads. Runs for ever; spawn it.
    pub async fn sweep(self, mut election: Election) {
        loop {
            election.elected().await;
            let before = self
                .0
                .log
                .clock()
                .now()
                .plus_millis(-(ORPHANED_AFTER.as_millis() as i64));
            match self.sweep_older(before).await {
                Ok(0) => {}
                Ok(count) => info!(count, "uploads: deleted the parts of unfinished uploads"),
                Err(error) => {
                    warn!(%error, "uploads: sweeping the blob store failed; trying again later")
                }
            }
            self.0.log.clock().pause(SWEEP).await;
        }
    }

    /// Returns the number of deleted parts.
    async fn sweep_older(&self, before: Timestamp) -> Result<usize, BlobError> {
        for user in self.0.log.blobs().doomed_owners().await? {
            self.delete_of(user).await?;
        }
        if let Some(folder) = self.0.folder.clone() {
            let swept =
                tokio::task::spawn_blocking(move || temporary_parts::sweep(&folder, before)).await;
            swept
                .unwrap_or_else(|stopped| Err(std::io::Error::other(stopped)))
                .map_err(|error| BlobError::Away(error.to_string()))?;
        }
        let old =
            |object: &object_store::ObjectMeta| object.last_modified.timestamp_micros() <= before.0;
        let found = self
            .0
            .objects
            .list((!self.0.root.as_ref().is_empty()).then_some(&self.0.root));
        let found = found
            .try_filter(|object| std::future::ready(old(object)))
            .map_ok(|object| object.location);
        // An object whose name is not a part's belongs to somebody else.
        let parts = found.try_filter_map(|path| {
            std::future::ready(Ok(file_of(&self.0.root, &path).map(|file| (file, path))))
        });
        let mut batches = parts.try_chunks(ROWS_AT_ONCE);
        let mut count = 0;
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|broken| broken.1)?;
            let mut files: Vec<BlobId> = batch.iter().map(|(file, _)| *file).collect();
            files.sort_unstable();
            files.dedup();
            let known = self.0.log.blobs().known(files).await?;
            let orphans: Vec<Path> = batch
                .into_iter()
                .filter(|(file, _)| !known.contains(file))
                .map(|(_, path)| path)
                .collect();
            count += orphans.len();
            delete(
                &*self.0.objects,
                stream::iter(orphans.into_iter().map(Ok)).boxed(),
            )
            .await?;
        }
        Ok(count)
    }
}

/// The file of a part, by the part's path.
fn file_of(root: &Path, path: &Path) -> Option<BlobId> {
    let names: Vec<_> = path.prefix_match(root)?.collect();
    let [user, file, number] = names.as_slice() else {
        return None;
    };
    let _: (UserId, u64) = (user.as_ref().parse().ok()?, number.as_ref().parse().ok()?);
    file.as_ref().parse().ok()
}

type Paths = stream::BoxStream<'static, Result<Path, object_store::Error>>;

/// Deletes objects. A missing object counts as deleted.
async fn delete(objects: &dyn ObjectStore, paths: Paths) -> Result<(), BlobError> {
    let mut deleted = objects.delete_stream(paths);
    while let Some(one) = deleted.next().await {
        match one {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

async fn in_time<T>(work: impl Future<Output = Result<T, BlobError>>) -> Result<T, BlobError> {
    let late = || BlobError::Away("it did not answer in time".into());
    in_time_or(LONGEST, work, late).await
}

#[cfg(test)]
mod tests;
