//! The blob store: uploaded files in a local folder or a bucket. Each part of a file is an object
//! `<user>/<file>/<part>`, encrypted under the user's key before it is sent.
//!
//! A file is not one multipart upload. Stores hide unfinished multipart uploads, while the parts
//! that a crash leaves can be swept.
//!
//! Invariant: all work on the store runs on the runtime that owns all I/O, and finishes even when
//! the caller goes away.

use std::{
    collections::BTreeMap, fs, ops::Range, os::unix::fs::DirBuilderExt, path::PathBuf, sync::Arc,
    time::Duration,
};

use actix_web::web::Bytes;
use futures_util::{Stream, StreamExt, stream};
use genie_events::{BlobId, UserId};
use genie_log::{
    Log, LogError, UserKeys,
    blobs::{Blob, PART, open_part, parts_of},
    store::in_time_or,
};
use object_store::{
    ObjectStore, ObjectStoreExt, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    local::LocalFileSystem,
    path::Path,
};
use secrecy::{ExposeSecret, SecretString};
use tracing::Instrument;
use zeroize::Zeroizing;

/// Reads a file at any offset.
mod reader;
mod resumable;
/// Deletes bytes that belong to nobody any more.
mod sweep;
mod upload;
pub use reader::BlobReader;
pub use resumable::{ResumableUpload, ResumeError, hash_of_nothing};
pub use upload::{FoundFile, Upload};

/// The longest time for one part.
const LONGEST: Duration = Duration::from_secs(60);

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
    /// Of the folder's disk, in bytes. With less free nothing is uploaded.
    min_free: u64,
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
    /// What is left of the disk belongs to the store.
    #[error("the disk of the blob store has less than {min_free} bytes free")]
    DiskLow { min_free: u64 },
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
    /// Opens the store. Sends no request to a bucket yet. `min_free` bytes of a folder's disk stay free.
    pub fn open(log: Log, place: BlobLocation, min_free: u64) -> Result<Self, String> {
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
            min_free,
        })))
    }

    /// Refuses to write when the disk is low: a full disk would stop the store, too. A bucket has no such bound.
    pub fn check_disk(&self) -> Result<(), BlobError> {
        let Inner {
            folder, min_free, ..
        } = &*self.0;
        let Some(folder) = folder.as_ref().filter(|_| *min_free > 0) else {
            return Ok(());
        };
        let disk =
            rustix::fs::statvfs(folder).map_err(|error| BlobError::Away(error.to_string()))?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) >= *min_free {
            return Ok(());
        }
        Err(BlobError::DiskLow {
            min_free: *min_free,
        })
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
        let path = self.path(blob.user, blob.id, number);
        let is_last = number + 1 == parts_of(blob.size);
        let opened = self.object(blob.id, number, path, keys, is_last).await?;
        let wanted = if is_last {
            blob.size - number * PART as u64
        } else {
            PART as u64
        };
        if opened.len() as u64 == wanted {
            return Ok(opened);
        }
        Err(BlobError::Damaged {
            file: blob.id,
            number,
            reason: "has another length than it was kept with".into(),
        })
    }

    /// Reads and decrypts an object that was sealed as this part of the file.
    async fn object(
        &self,
        file: BlobId,
        number: u64,
        path: Path,
        keys: &UserKeys,
        is_last: bool,
    ) -> Result<Zeroizing<Vec<u8>>, BlobError> {
        let objects = Arc::clone(&self.0.objects);
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
        open_part(keys, file, number, is_last, &sealed.await?).map_err(|reason| damaged(&reason))
    }

    /// Streams these bytes of a file, one part at a time.
    pub fn read(
        &self,
        blob: &Blob,
        keys: Arc<UserKeys>,
        wanted: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, BlobError>> + use<> {
        let blobs = self.clone();
        let bounds = BlobRef {
            user: blob.user,
            id: blob.id,
            size: blob.size,
        };
        let part = PART as u64;
        let first = wanted.start / part;
        let last = wanted.end.saturating_sub(1).max(wanted.start) / part;
        stream::iter(first..=last).then(move |number| {
            let blobs = blobs.clone();
            let keys = Arc::clone(&keys);
            let from = wanted.start.saturating_sub(number * part) as usize;
            let to = (wanted.end - number * part).min(part) as usize;
            async move {
                let bytes = std::mem::take(&mut *blobs.part(bounds, &keys, number).await?);
                Ok(Bytes::from(bytes).slice(from..to))
            }
        })
    }
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
