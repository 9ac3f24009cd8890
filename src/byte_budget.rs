//! Bounds the bytes that are held in memory at once for one purpose. Nobody waits for room: a holder
//! may keep its bytes for long, so a taker without room is refused.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Debug, Clone)]
pub struct ByteBudget(Arc<Semaphore>);

/// Bytes that count until this is dropped.
#[derive(Debug)]
pub struct TakenBytes(
    #[expect(dead_code, reason = "held until it is dropped")] OwnedSemaphorePermit,
);

impl ByteBudget {
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }

    /// Takes bytes; `None` without room for all of them.
    pub fn take(&self, bytes: usize) -> Option<TakenBytes> {
        let bytes = u32::try_from(bytes).ok()?;
        let permit = Arc::clone(&self.0).try_acquire_many_owned(bytes).ok()?;
        Some(TakenBytes(permit))
    }
}
