//! Bounds the bytes that are held in memory at once for one purpose. Nobody waits for room: a holder
//! may keep its bytes for long, so a taker without room is refused.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Debug, Clone)]
pub struct ByteBudget(Arc<Semaphore>);

/// Bytes that count until this is dropped.
#[derive(Debug)]
pub struct TakenBytes(OwnedSemaphorePermit);

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

impl TakenBytes {
    pub fn count(&self) -> usize {
        self.0.num_permits()
    }

    /// Adds bytes of the same budget.
    pub fn add(&mut self, more: Self) {
        self.0.merge(more.0);
    }
}

/// Bytes of requests' bodies. Strangers have a budget of their own, so that they can't use up that
/// of known callers.
#[derive(Debug, Clone)]
pub struct BodyBytes {
    pub open_routes: ByteBudget,
    pub other_routes: ByteBudget,
}

impl BodyBytes {
    pub fn new(bytes: usize) -> Self {
        Self {
            open_routes: ByteBudget::new(bytes / 8),
            other_routes: ByteBudget::new(bytes),
        }
    }
}
