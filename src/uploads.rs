//! Limits the uploads that this server receives and checks: a few per user, and a number at once.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use genie_events::UserId;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Uploads that are received at once. Further ones are refused as busy. Each holds up to 3 MiB.
const RECEIVED_AT_ONCE: usize = 64;
/// Files that one user uploads at once.
const FILES_AT_ONCE: usize = 8;
/// Archives for onboarding are checked while they are held.
const ARCHIVES_AT_ONCE: usize = 1;
/// Uploads that are checked at once. Unpacking a large one takes a core for seconds.
const CHECKED_AT_ONCE: usize = 2;

#[derive(Clone)]
pub struct Uploads {
    receiving: Arc<Mutex<HashMap<(UserId, UploadKind), usize>>>,
    checks: Arc<Semaphore>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum UploadKind {
    Archive,
    File,
}

/// A user's slot among the uploads. Dropping it gives the slot back.
pub struct UploadSlot {
    uploads: Uploads,
    holder: (UserId, UploadKind),
}

/// Why an upload may not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoUploadSlot {
    #[error("Another upload of yours is running; wait for it to end")]
    SameUser,
    #[error("{FILES_AT_ONCE} uploads of yours are running; wait for one to end")]
    ManyOfUser,
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
    /// Takes a user's only slot for an archive.
    pub fn begin(&self, user: UserId) -> Result<UploadSlot, NoUploadSlot> {
        let full = NoUploadSlot::SameUser;
        self.take((user, UploadKind::Archive), ARCHIVES_AT_ONCE, full)
    }

    /// Takes one of a user's slots for files.
    pub fn begin_file(&self, user: UserId) -> Result<UploadSlot, NoUploadSlot> {
        let full = NoUploadSlot::ManyOfUser;
        self.take((user, UploadKind::File), FILES_AT_ONCE, full)
    }

    fn take(
        &self,
        holder: (UserId, UploadKind),
        most: usize,
        full: NoUploadSlot,
    ) -> Result<UploadSlot, NoUploadSlot> {
        let mut receiving = self.receiving.lock();
        if receiving.get(&holder).is_some_and(|count| *count >= most) {
            return Err(full);
        }
        if receiving.values().sum::<usize>() >= RECEIVED_AT_ONCE {
            return Err(NoUploadSlot::TooMany);
        }
        *receiving.entry(holder).or_default() += 1;
        Ok(UploadSlot {
            uploads: self.clone(),
            holder,
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
        if let Entry::Occupied(mut held) = self.uploads.receiving.lock().entry(self.holder) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}
