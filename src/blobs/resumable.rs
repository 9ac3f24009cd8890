//! An upload that its client may break off and go on with. Whole parts are durable as they come. What is behind the last
//! whole part is kept as an object of its own when the client stops, and is the beginning of the next part when it goes
//! on.
//!
//! Invariant: the row in the log's store never says more bytes than are in the blob store. A part is written before its
//! row is moved on, and an object with a tail belongs to the turn that wrote it.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use genie_events::{BlobId, Timestamp, UserId, file::NewFile};
use genie_log::{
    LogError, UserKeys, Work,
    blobs::{self, PART, seal_part},
    resumable::{Advance, Resumable, seal_hash},
};
use object_store::{ObjectStoreExt, path::Path};
use sha2::{
    Digest, Sha256,
    digest::common::hazmat::{SerializableState, SerializedState},
};

use super::{BlobError, BlobRef, Blobs, FoundFile, delete, in_time};
use crate::file_kind::FileKind;

pub struct ResumableUpload {
    blobs: Blobs,
    keys: Arc<UserKeys>,
    row: Resumable,
    /// The whole parts that are in the store.
    parts: u64,
    /// The hash of those.
    hash: Sha256,
    /// The bytes behind them.
    buffer: Vec<u8>,
    /// Nothing counts before all of what a request sends was checked.
    is_held_back: bool,
}

/// Why an upload does not go on.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    #[error("a newer request goes on with this upload")]
    TakenOver,
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl From<LogError> for ResumeError {
    fn from(error: LogError) -> Self {
        Self::Blob(error.into())
    }
}

/// The sealed state of the hash of no bytes.
pub fn hash_of_nothing(keys: &UserKeys, id: BlobId) -> Vec<u8> {
    seal_hash(keys, id, 0, &Sha256::new().serialize())
}

impl Blobs {
    /// Goes on with an upload whose turn was taken.
    pub async fn resume(
        &self,
        row: Resumable,
        keys: Arc<UserKeys>,
        is_held_back: bool,
    ) -> Result<ResumableUpload, BlobError> {
        let parts = row.stored / PART as u64;
        let tail = (row.stored % PART as u64) as usize;
        let state = row.hash(&keys, parts)?;
        let damaged = |reason: &str| BlobError::Damaged {
            file: row.id,
            number: parts,
            reason: reason.to_owned(),
        };
        let state = SerializedState::<Sha256>::try_from(state.as_slice())
            .map_err(|_| damaged("has a hash of another length"))?;
        let hash = Sha256::deserialize(&state).map_err(|_| damaged("has no good hash"))?;
        let mut buffer = Vec::with_capacity(PART);
        if tail > 0 {
            let path = self.tail_path(row.user, row.id, row.tail_turn);
            let read = self.object(row.id, parts, path, &keys, false).await?;
            let read = read
                .get(..tail)
                .ok_or_else(|| damaged("is shorter than its row says"))?;
            buffer.extend_from_slice(read);
        }
        Ok(ResumableUpload {
            blobs: self.clone(),
            keys,
            row,
            parts,
            hash,
            buffer,
            is_held_back,
        })
    }

    fn tail_path(&self, user: UserId, file: BlobId, turn: u64) -> Path {
        self.0
            .root
            .clone()
            .join(user.to_string())
            .join(file.to_string())
            .join(format!("tail-{turn}"))
    }
}

impl ResumableUpload {
    /// The bytes so far.
    pub fn size(&self) -> u64 {
        self.parts * PART as u64 + self.buffer.len() as u64
    }

    pub fn length(&self) -> u64 {
        self.row.length
    }

    pub fn user(&self) -> UserId {
        self.row.user
    }

    pub fn id(&self) -> BlobId {
        self.row.id
    }

    pub fn name(&self) -> Result<String, LogError> {
        self.row.name(&self.keys)
    }

    /// Adds bytes, of which there must not be more than are missing.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), ResumeError> {
        while !bytes.is_empty() {
            let room = PART - self.buffer.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == PART && self.size() < self.row.length {
                self.write_part().await?;
            }
        }
        Ok(())
    }

    /// Writes a whole part that is not the last.
    async fn write_part(&mut self) -> Result<(), ResumeError> {
        self.put_part(false).await?;
        self.hash.update(&self.buffer);
        self.parts += 1;
        self.buffer.clear();
        if self.is_held_back {
            return Ok(());
        }
        let moved = self.table().advance(self.step()).await?;
        moved.then_some(()).ok_or(ResumeError::TakenOver)
    }

    async fn put_part(&self, is_last: bool) -> Result<(), BlobError> {
        self.blobs.check_disk()?;
        let path = self.blobs.path(self.row.user, self.row.id, self.parts);
        let sealed = seal_part(&self.keys, self.row.id, self.parts, is_last, &self.buffer);
        self.put(path, sealed).await
    }

    async fn put(&self, path: Path, sealed: Vec<u8>) -> Result<(), BlobError> {
        let objects = Arc::clone(&self.blobs.0.objects);
        in_time(async { Ok(objects.put(&path, sealed.into()).await.map(drop)?) }).await
    }

    fn table(&self) -> genie_log::resumable::ResumableTable {
        self.blobs.0.log.resumable()
    }

    fn step(&self) -> Advance {
        let state = self.hash.serialize();
        Advance {
            id: self.row.id,
            turn: self.row.turn,
            stored: self.size(),
            hash: seal_hash(&self.keys, self.row.id, self.parts, &state),
        }
    }

    /// Makes all bytes durable until somebody goes on.
    pub async fn pause(&mut self) -> Result<(), ResumeError> {
        let Resumable {
            id,
            user,
            turn,
            tail_turn,
            ..
        } = self.row;
        let table = self.table();
        let moved = if self.buffer.is_empty() {
            table.advance(self.step()).await?
        } else {
            let path = self.blobs.tail_path(user, id, turn);
            let sealed = seal_part(&self.keys, id, self.parts, false, &self.buffer);
            self.put(path, sealed).await?;
            table.advance_with_tail(self.step()).await?
        };
        if !moved {
            return Err(ResumeError::TakenOver);
        }
        if tail_turn > 0 && tail_turn != turn {
            let _ = self.delete_tail(tail_turn).await; // it goes with the upload at the latest
        }
        Ok(())
    }

    async fn delete_tail(&self, turn: u64) -> Result<(), BlobError> {
        let path = self.blobs.tail_path(self.row.user, self.row.id, turn);
        let path = stream::iter([Ok(path)]).boxed();
        delete(&*self.blobs.0.objects, path).await
    }

    /// Writes the last part. The upload is no file yet, and is as far as before until its row is appended.
    pub async fn finish(&mut self) -> Result<FoundFile, BlobError> {
        self.put_part(true).await?;
        let kind = if self.parts == 0 {
            FileKind::of(&self.buffer, true)
        } else {
            FileKind::of(&self.first_part().await?, false)
        };
        let hash = self.hash.clone().chain_update(&self.buffer);
        Ok(FoundFile {
            bytes: self.size(),
            sha256: hex::encode(hash.finalize()),
            kind,
        })
    }

    async fn first_part(&self) -> Result<zeroize::Zeroizing<Vec<u8>>, BlobError> {
        let whole = BlobRef {
            user: self.row.user,
            id: self.row.id,
            size: self.row.length,
        };
        self.blobs.part(whole, &self.keys, 0).await
    }

    /// The row that makes the upload a file of its user.
    pub fn row(&self, file: &NewFile, created_at: Timestamp) -> Work {
        blobs::row_of(self.row.id, self.row.user, file, created_at, &self.keys)
    }

    /// Cleans up after the row is appended.
    pub async fn settle(self) {
        if self.row.tail_turn > 0 {
            let _ = self.delete_tail(self.row.tail_turn).await; // it goes with the file at the latest
        }
    }
}
