//! Limits the uploads that this server receives and checks: one per user, and a number at once.

use std::{collections::HashSet, sync::Arc};

use genie_events::UserId;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Uploads that are received at once. Further ones are refused as busy.
const RECEIVED_AT_ONCE: usize = 32;
/// Uploads that are checked at once. Unpacking a large one takes a core for seconds.
const CHECKED_AT_ONCE: usize = 2;

#[derive(Clone)]
pub struct Uploads {
    receiving: Arc<Mutex<HashSet<UserId>>>,
    checks: Arc<Semaphore>,
}

/// A user's slot among the uploads. Dropping it gives the slot back.
pub struct UploadSlot {
    uploads: Uploads,
    user: UserId,
}

/// Why an upload may not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoUploadSlot {
    #[error("Another upload of yours is running; wait for it to end")]
    SameUser,
    #[error("too many uploads are running")]
    TooMany,
}

impl Default for Uploads {
    fn default() -> Self {
        Self {
            receiving: Arc::default(),
            checks: Arc::new(Semaphore::new(CHECKED_AT_ONCE)),
        }
    }
}

impl Uploads {
    /// Takes a user's only slot.
    pub fn begin(&self, user: UserId) -> Result<UploadSlot, NoUploadSlot> {
        let mut receiving = self.receiving.lock();
        if receiving.contains(&user) {
            return Err(NoUploadSlot::SameUser);
        }
        if receiving.len() >= RECEIVED_AT_ONCE {
            return Err(NoUploadSlot::TooMany);
        }
        receiving.insert(user);
        Ok(UploadSlot {
            uploads: self.clone(),
            user,
        })
    }

    /// Waits for a turn to check an upload.
    pub async fn may_check(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.checks)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed")
    }
}

impl Drop for UploadSlot {
    fn drop(&mut self) {
        self.uploads.receiving.lock().remove(&self.user);
    }
}
