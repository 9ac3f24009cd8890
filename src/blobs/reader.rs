//! Reads a file at any offset, on a thread that may block.

use std::{io, sync::Arc};

use genie_log::{UserKeys, blobs::PART};
use parking_lot::{Mutex, MutexGuard};
use rawzip::ReaderAt;
use tokio::runtime::Handle;
use zeroize::Zeroizing;

use super::{BlobError, BlobRef, Blobs};

/// Reads one part at a time, and keeps the last one. Use it on a thread for blocking work.
pub struct BlobReader {
    blobs: Blobs,
    bounds: BlobRef,
    keys: Arc<UserKeys>,
    io: Handle,
    seen: Mutex<ReadState>,
}

#[derive(Default)]
struct ReadState {
    part: Option<(u64, Zeroizing<Vec<u8>>)>,
    failure: Option<BlobError>,
}

impl BlobReader {
    pub(super) fn new(blobs: Blobs, bounds: BlobRef, keys: Arc<UserKeys>) -> Self {
        let io = blobs.0.log.store().io().clone();
        Self {
            blobs,
            bounds,
            keys,
            io,
            seen: Mutex::default(),
        }
    }

    /// The error that stopped the reading. `ReaderAt` itself can only say that it failed.
    pub fn failure(&self) -> Option<BlobError> {
        self.lock().failure.clone()
    }

    fn lock(&self) -> MutexGuard<'_, ReadState> {
        self.seen.lock()
    }
}

impl ReaderAt for BlobReader {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= self.bounds.size {
            return Ok(0);
        }
        let number = offset / PART as u64;
        let begin = (offset % PART as u64) as usize;
        let mut seen = self.lock();
        if seen.part.as_ref().is_none_or(|(held, _)| *held != number) {
            seen.part = None; // before the next part is read, so that memory holds one, not two
            match self
                .io
                .block_on(self.blobs.part(self.bounds, &self.keys, number))
            {
                Ok(part) => seen.part = Some((number, part)),
                Err(error) => {
                    seen.failure = Some(error);
                    return Err(io::Error::other("the blob store failed"));
                }
            }
        }
        let part = seen
            .part
            .as_ref()
            .and_then(|(_, part)| part.get(begin..))
            .unwrap_or_default();
        let length = part.len().min(buffer.len());
        buffer[..length].copy_from_slice(&part[..length]);
        Ok(length)
    }
}
