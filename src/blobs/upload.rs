//! A file that is being uploaded: bytes come in, encrypted parts go to the store. It belongs to its
//! user once its row is appended. An upload that is not kept deletes its parts.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use genie_events::{BlobId, Timestamp, UserId, file::NewFile};
use genie_log::{
    UserKeys, Work,
    blobs::{self, BegunUpload, PART, seal_part},
};
use object_store::ObjectStoreExt;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tracing::{Instrument, warn};

use super::{BlobError, BlobReader, BlobRef, Blobs, delete, in_time};
use crate::file_kind::FileKind;

/// An upload of this age broke off: none lasts this long.
pub(super) const EXPIRES_AFTER_MILLIS: i64 = 24 * 3600 * 1000;

pub struct Upload {
    blobs: Blobs,
    user: UserId,
    id: BlobId,
    keys: Arc<UserKeys>,
    /// Bytes that are not encrypted yet. A full part stays here until more bytes come, because the
    /// last part is marked as the last.
    buffer: Vec<u8>,
    size: u64,
    hash: Sha256,
    /// Known once the first part is encrypted.
    kind: Option<FileKind>,
    /// Parts encrypted so far.
    parts: u64,
    /// The part on its way to the store. The next part waits for it.
    writing: Option<JoinHandle<Result<(), BlobError>>>,
    is_kept: bool,
}

/// What the bytes of a finished upload turned out to be.
#[derive(Debug, Clone)]
pub struct FoundFile {
    pub bytes: u64,
    /// In hexadecimal.
    pub sha256: String,
    pub kind: FileKind,
}

impl Blobs {
    pub fn upload(&self, user: UserId, keys: Arc<UserKeys>) -> Upload {
        let blobs = self.clone();
        let id = BlobId(self.0.log.clock().new_uuid());
        let buffer = Vec::with_capacity(PART);
        Upload {
            blobs,
            user,
            id,
            keys,
            buffer,
            size: 0,
            hash: Sha256::new(),
            kind: None,
            parts: 0,
            writing: None,
            is_kept: false,
        }
    }
}

impl Upload {
    pub fn id(&self) -> BlobId {
        self.id
    }

    pub fn user(&self) -> UserId {
        self.user
    }

    /// The bytes received so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds bytes. Waits when they come faster than the store takes them.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), BlobError> {
        self.hash.update(bytes);
        while !bytes.is_empty() {
            if self.buffer.len() == PART {
                self.seal(false).await?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(PART - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            self.size += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Ends the file. After `Ok` all bytes are in the store.
    pub async fn finish(&mut self) -> Result<FoundFile, BlobError> {
        let kind = self.seal(true).await?;
        self.written().await?;
        Ok(FoundFile {
            bytes: self.size,
            sha256: hex::encode(self.hash.finalize_reset()),
            kind,
        })
    }

    async fn seal(&mut self, is_last: bool) -> Result<FileKind, BlobError> {
        self.blobs.check_disk()?;
        let kind = match self.kind.take() {
            Some(kind) => kind,
            None => FileKind::of(&self.buffer, is_last),
        };
        self.kind = Some(kind.clone());
        let sealed = seal_part(&self.keys, self.id, self.parts, is_last, &self.buffer);
        self.buffer.clear();
        self.written().await?;
        let objects = Arc::clone(&self.blobs.0.objects);
        let path = self.blobs.path(self.user, self.id, self.parts);
        let table = self.blobs.0.log.blobs();
        let now = self.blobs.0.log.clock().now();
        let begun = (self.parts == 0).then_some(BegunUpload {
            file: self.id,
            user: self.user,
            expires_at: now.plus_millis(EXPIRES_AFTER_MILLIS),
        });
        self.parts += 1;
        let write = async move {
            if let Some(begun) = begun {
                table.begin_upload(begun).await?;
            }
            in_time(async { Ok(objects.put(&path, sealed.into()).await.map(drop)?) }).await
        };
        self.writing = Some(self.blobs.0.log.store().io().spawn(write.in_current_span()));
        Ok(kind)
    }

    async fn written(&mut self) -> Result<(), BlobError> {
        let Some(writing) = &mut self.writing else {
            return Ok(());
        };
        // By reference: if the caller goes away meanwhile, the part is still known to be on its
        // way.
        let written = writing.await;
        self.writing = None;
        written.unwrap_or_else(|stopped| Err(BlobError::Away(stopped.to_string())))
    }

    /// A reader of the finished file.
    pub fn reader(&self) -> BlobReader {
        let bounds = BlobRef {
            user: self.user,
            id: self.id,
            size: self.size,
        };
        BlobReader::new(self.blobs.clone(), bounds, Arc::clone(&self.keys))
    }

    /// The row that makes the upload a file of its user.
    pub fn row(&self, file: &NewFile, created_at: Timestamp) -> Work {
        blobs::row_of(self.id, self.user, file, created_at, &self.keys)
    }

    /// Keeps the parts, because the row is in the log or may be. If it is not, the sweep deletes
    /// them.
    pub fn keep(mut self) {
        self.is_kept = true;
    }

    /// Deletes the parts, and waits until that is done.
    pub async fn discard(mut self) {
        let _ = self.delete().await; // after a panic the sweep deletes the parts
    }

    fn delete(&mut self) -> JoinHandle<()> {
        self.is_kept = true;
        let blobs = self.blobs.clone();
        let user = self.user;
        let id = self.id;
        let parts = self.parts;
        let writing = self.writing.take();
        self.blobs.0.log.store().io().spawn(async move {
            if let Some(writing) = writing {
                let _ = writing.await; // whatever the outcome, the part can be deleted afterwards
            }
            let paths: Vec<_> = (0..parts)
                .map(|number| Ok(blobs.path(user, id, number)))
                .collect();
            let deleted = async {
                delete(&*blobs.0.objects, stream::iter(paths).boxed()).await?;
                Ok::<_, BlobError>(blobs.0.log.blobs().end_upload(id).await?)
            };
            if let Err(error) = deleted.await {
                warn!(%error, file.id = %id, "uploads: deleting an unfinished upload failed; the sweep deletes it");
            }
        })
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.is_kept {
            self.delete();
        }
    }
}
