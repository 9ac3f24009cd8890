//! A working table: one sealed snapshot of each user's state, so that loading a user reads few
//! facts. Snapshots are written off the command path and are never the truth: when one is missing,
//! of another version or unreadable, the log is read instead.

use std::sync::Arc;

use genie_events::{User, UserId, user::snapshot::VERSION};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::warn;
use zeroize::Zeroizing;

use crate::{
    LogError,
    encryption::Place,
    keys::{KeyState, UserKeys},
    load_users::UserStates,
    store::{Store, in_time},
};

/// The snapshots that may wait to be written. Beyond that a snapshot is dropped; the next one
/// comes.
const QUEUE: usize = 256;
/// The most snapshots of one transaction.
const BATCH: usize = 64;
/// The most bytes of snapshots that wait to be written. Beyond that a snapshot is dropped; the next
/// one comes.
const QUEUE_BYTES: usize = 64 << 20;
/// A state holds little but unfinished work, which is bounded. A larger one is kept, and worth a
/// look.
const LARGE: usize = 8 << 20;

#[derive(Debug, Clone)]
pub(crate) struct StoredSnapshot {
    pub version: i64,
    pub user_seq: u64,
    pub position: u64,
    pub sealed: Vec<u8>,
}

struct NewSnapshot {
    user: UserId,
    user_seq: u64,
    position: u64,
    sealed: Vec<u8>,
    /// The bytes' place in the queue, until they are written.
    _room: OwnedSemaphorePermit,
}

/// The queue of the task that writes snapshots.
#[derive(Clone)]
pub(crate) struct Snapshots {
    queue: mpsc::Sender<NewSnapshot>,
    room: Arc<Semaphore>,
}

impl Snapshots {
    /// Starts the task on the current runtime, which must be the one that owns the store's
    /// connections.
    pub fn start(store: Store) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(write(store, waiting));
        let room = Arc::new(Semaphore::new(QUEUE_BYTES));
        Self { queue, room }
    }
}

impl UserStates {
    /// Keeps a snapshot of a user's state after the event at `position`. Best effort: nothing
    /// depends on it.
    pub async fn keep_snapshot(&self, user: &User, position: u64) {
        let snapshots = self.log().snapshots();
        let Ok(place_in_line) = snapshots.queue.try_reserve() else {
            return;
        };
        let Ok(KeyState::Live(keys)) = self.log().keys().of(user.id().0).await else {
            return;
        };
        let json = Zeroizing::new(user.to_snapshot());
        if json.len() > LARGE {
            warn!(user.id = %user.id(), bytes = json.len(), "snapshots: a user's state is large; it is kept");
        }
        let bytes = json.len().min(QUEUE_BYTES) as u32;
        let Ok(room) = Arc::clone(&snapshots.room).try_acquire_many_owned(bytes) else {
            return;
        };
        let sealed = keys
            .payload()
            .seal(&json, &place(user.id(), user.seq(), position));
        place_in_line.send(NewSnapshot {
            user: user.id(),
            user_seq: user.seq(),
            position,
            sealed,
            _room: room,
        });
    }
}

impl StoredSnapshot {
    /// The state inside, if it is one that this release wrote and nobody changed.
    pub fn open(&self, user: UserId, keys: &UserKeys) -> Option<User> {
        if self.version != i64::from(VERSION) {
            return None;
        }
        let opened = keys
            .payload()
            .open(&self.sealed, &place(user, self.user_seq, self.position))
            .ok()?;
        User::from_snapshot(&opened)
            .filter(|state| state.id() == user && state.seq() == self.user_seq)
    }
}

fn place(user: UserId, user_seq: u64, position: u64) -> Place {
    Place::new(&[
        "snapshot v1",
        &user.to_string(),
        &user_seq.to_string(),
        &position.to_string(),
    ])
}

async fn write(store: Store, mut waiting: mpsc::Receiver<NewSnapshot>) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        if let Err(error) = in_time(commit(&store, &batch)).await {
            warn!(%error, snapshots = batch.len(), "snapshots: writing failed; loading a user reads more of the log");
        }
        batch.clear();
    }
}

/// An older snapshot never replaces a newer one, and none is written for a user whose key is gone.
async fn commit(store: &Store, batch: &[NewSnapshot]) -> Result<(), LogError> {
    let sql = "INSERT INTO snapshots (user_id, version, user_seq, position, sealed) \
         SELECT $1, $2, $3, $4, $5 FROM user_keys WHERE user_id = $1 AND state = 'live' \
         ON CONFLICT (user_id) DO UPDATE SET version = excluded.version, user_seq = excluded.user_seq, \
             position = excluded.position, sealed = excluded.sealed \
         WHERE snapshots.user_seq < excluded.user_seq OR snapshots.version <> excluded.version";
    let mut tx = store.relaxed().await?;
    for new in batch {
        sqlx::query(sql)
            .bind(new.user.to_string())
            .bind(i64::from(VERSION))
            .bind(new.user_seq as i64)
            .bind(new.position as i64)
            .bind(new.sealed.as_slice())
            .execute(&mut *tx)
            .await?;
    }
    Ok(tx.commit().await?)
}
