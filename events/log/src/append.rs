//! What is to be appended, and what became of it. Conflict is data, not an exception.

use genie_events::{Event, Metadata, StreamId, UserId};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    LogError, Remember,
    append_sqlite::SqliteTx,
    blobs::BlobRow,
    election::Epoch,
    forgetting::ForgettingRow,
    idempotency::OutcomeRow,
    keys::{UserKeys, WrappedKey},
    leases::LeaseRow,
    secrets::SecretRow,
    sessions::SessionRow,
    stored_row::StoredRow,
    turn_journal::JournalRow,
};

/// The most bytes of one event's JSON; past it the append is refused.
pub const MAX_EVENT_BYTES: usize = 1 << 20;
/// The most events of one append.
pub const MAX_EVENTS: usize = 1000;

/// Whose events they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A user's.
    User(UserId),
    /// The system's. Each of its streams is an owner of its own, so that two registrations never get in each other's way.
    System(StreamId),
}

impl Owner {
    /// As stored in `user_id`.
    pub fn id(&self) -> Uuid {
        match self {
            Self::User(user) => user.0,
            Self::System(stream) => {
                let hash = Sha256::digest(format!("genie system owner/{stream}").as_bytes());
                let mut bytes = [0; 16];
                bytes.copy_from_slice(&hash[..16]);
                Uuid::new_v8(bytes)
            }
        }
    }
}

/// One append: everything in it is written together or not at all.
#[derive(Debug)]
pub struct AppendRequest {
    /// The facts, by owner.
    pub groups: Vec<Group>,
    /// Working rows that are written in the same transaction.
    pub work: Vec<Work>,
    /// Who asked.
    pub metadata: Metadata,
    /// What is kept of the request, when it may be sent again.
    pub remember: Option<Remember>,
}

/// Facts of one owner, and the fence: how many events the owner had when they were decided.
#[derive(Debug)]
pub struct Group {
    /// Whose.
    pub owner: Owner,
    /// The owner's count of events before these.
    pub after: u64,
    /// What happened, in order.
    pub facts: Vec<NewFact>,
    /// The owner's keys, when they are at hand or made in this very append; else they are looked up.
    pub keys: Option<std::sync::Arc<UserKeys>>,
}

/// One fact to be appended.
#[derive(Debug)]
pub struct NewFact {
    /// To which stream.
    pub stream: StreamId,
    /// As which of its events, from 1.
    pub sequence: u64,
    /// What.
    pub event: Event,
}

/// A working row that is written, changed or deleted in the transaction of the facts. What each does, on either store, stands in
/// the file of its table.
#[derive(Debug, Clone)]
pub enum Work {
    /// A new user's wrapped data key.
    NewKey(WrappedKey),
    Secret(SecretRow),
    Session(SessionRow),
    Blob(BlobRow),
    Lease(LeaseRow),
    /// The outcome of a request that may be sent again. A condition too: no other request may have used its key.
    Remember(OutcomeRow),
    /// A condition: the append happens only in this epoch, as what the elected node writes.
    OnlyInEpoch(Epoch),
    Journal(JournalRow),
    Forgetting(ForgettingRow),
}

impl Work {
    /// Whether it is a condition of the append.
    pub(crate) fn is_condition(&self) -> bool {
        matches!(
            self,
            Self::Remember(_) | Self::Lease(LeaseRow::OnlyIfLapsed { .. }) | Self::OnlyInEpoch(_)
        )
    }

    /// Whether a sealed secret goes that was there before.
    pub(crate) fn deletes_a_secret(&self) -> bool {
        matches!(
            self,
            Self::Secret(SecretRow::Put { version: 2.., .. } | SecretRow::Delete { .. })
        )
    }

    /// How many bytes it brings, where they are many.
    fn bytes(&self) -> usize {
        match self {
            Self::Secret(SecretRow::Put { sealed, .. }) => sealed.len(),
            _ => 0,
        }
    }

    /// As the Postgres function takes it: flat JSON with the kind `t`.
    fn json(&self) -> Value {
        match self {
            Self::NewKey(key) => key.json(),
            Self::Secret(row) => row.json(),
            Self::Session(row) => row.json(),
            Self::Blob(row) => row.json(),
            Self::Lease(row) => row.json(),
            Self::Remember(outcome) => outcome.json(),
            Self::OnlyInEpoch(epoch) => json!({"t": "only_in_epoch", "epoch": epoch.number()}),
            Self::Journal(row) => row.json(),
            Self::Forgetting(row) => row.json(),
        }
    }

    /// Writes it on SQLite, where conditions were looked at before.
    pub(crate) async fn write(&self, tx: &mut SqliteTx<'_>) -> Result<(), sqlx::Error> {
        match self {
            Self::NewKey(key) => key.write(tx).await,
            Self::Secret(row) => row.write(tx).await,
            Self::Session(row) => row.write(tx).await,
            Self::Blob(row) => row.write(tx).await,
            Self::Lease(row) => row.write(tx).await,
            Self::Remember(outcome) => outcome.write(tx).await,
            Self::OnlyInEpoch(_) => Ok(()),
            Self::Journal(row) => row.write(tx).await,
            Self::Forgetting(row) => row.write(tx).await,
        }
    }
}

/// Where an append ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The position of its first event.
    pub first: u64,
    /// The position of its last event.
    pub last: u64,
}

/// Why nothing was appended (or, for `Unknown`, why that can't be said).
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// Somebody wrote for this owner meanwhile: reload and decide again.
    #[error("the state is stale")]
    Stale,
    /// A stream of that id belongs to somebody else.
    #[error("a stream of this id belongs to somebody else")]
    StreamTaken,
    /// The user was forgotten or never was.
    #[error("the user's key is not live")]
    KeyNotLive,
    /// The request's key was used before: look up what came of it.
    #[error("the idempotency key was used before")]
    KeyUsed,
    /// The lease that had to have lapsed is held.
    #[error("the lease is held")]
    LeaseHeld,
    /// Another node was elected; this one wrote nothing.
    #[error("another node was elected")]
    Deposed,
    /// The writer's queue is full.
    #[error("too many appends are waiting")]
    Overloaded,
    /// The store is away. Whether the facts were written can't be said: reload before deciding again.
    #[error("the store is away: {0}")]
    Unknown(String),
    /// An event is larger than [`MAX_EVENT_BYTES`], or there are more than [`MAX_EVENTS`].
    #[error("the append is too large: {0}")]
    TooLarge(String),
    /// A stream's name or number that no store can hold. Ours.
    #[error("event {sequence} of {stream} can't be stored: {reason}")]
    Unstorable {
        /// Which stream.
        stream: String,
        /// Which of its events.
        sequence: u64,
        /// Why not.
        reason: &'static str,
    },
    /// The store refuses these rows. Ours.
    #[error("the store refuses the rows: {0}")]
    Broken(String),
    /// A key could not be read.
    #[error(transparent)]
    Keys(LogError),
}

/// While sealing, before anything is sent.
impl From<LogError> for AppendError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::KeyAbsent { .. } | LogError::Forgotten { .. } => Self::KeyNotLive,
            LogError::Away(reason) => Self::Unknown(reason),
            error => Self::Keys(error),
        }
    }
}

/// A sealed append on its way to the store.
#[derive(Debug)]
pub(crate) struct Request {
    pub rows: Vec<StoredRow>,
    pub work: Vec<Work>,
    /// The rows' owners that are the system's: no key of theirs has to be live.
    pub system_owners: Vec<Uuid>,
}

impl Request {
    pub fn bytes(&self) -> usize {
        let rows: usize = self
            .rows
            .iter()
            .map(|row| row.payload.len() + row.metadata.len() + 256)
            .sum();
        rows + self.work.iter().map(Work::bytes).sum::<usize>()
    }

    /// Whether the owner's key is made in this very append.
    pub fn makes_key_of(&self, owner: Uuid) -> bool {
        self.work
            .iter()
            .any(|work| matches!(work, Work::NewKey(key) if key.owner == owner))
    }

    pub fn owners(&self) -> impl Iterator<Item = Uuid> {
        self.rows.iter().map(|row| row.owner)
    }
}

/// What the store said of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Written, now or by an earlier try of the same rows.
    Written(Appended),
    KeyNotLive,
    Stale,
    Taken,
    KeyUsed,
    LeaseHeld,
    Deposed,
}

impl From<Verdict> for Result<Appended, AppendError> {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Written(at) => Ok(at),
            Verdict::KeyNotLive => Err(AppendError::KeyNotLive),
            Verdict::Stale => Err(AppendError::Stale),
            Verdict::Taken => Err(AppendError::StreamTaken),
            Verdict::KeyUsed => Err(AppendError::KeyUsed),
            Verdict::LeaseHeld => Err(AppendError::LeaseHeld),
            Verdict::Deposed => Err(AppendError::Deposed),
        }
    }
}

/// Working rows as the Postgres function takes them: each with the number `r` of its request.
#[derive(Serialize)]
pub(crate) struct WorkJson {
    r: i32,
    #[serde(flatten)]
    fields: Value,
}

impl WorkJson {
    pub fn new(request: i32, work: &Work) -> Self {
        Self {
            r: request,
            fields: work.json(),
        }
    }
}
