//! Appends and their outcomes. A conflict is a value, not an exception.

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
    impersonations::ImpersonationRow,
    keys::{UserKeys, WrappedKey},
    leases::LeaseRow,
    reservations::ReservationRow,
    secrets::SecretRow,
    sessions::SessionRow,
    stored_row::StoredRow,
    turn_journal::JournalRow,
    unfinished::UnfinishedRow,
};

/// The most bytes of one event's JSON; a larger one is refused.
pub const MAX_EVENT_BYTES: usize = 1 << 20;
/// The most events of one append: a full batch of jobs, and what is counted for it.
pub const MAX_EVENTS: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Owner {
    User(UserId),
    /// A stream of the system. Each is an owner of its own, so that two registrations never get in
    /// each other's way.
    System(StreamId),
}

impl Owner {
    /// The id as stored in `user_id`.
    pub fn id(&self) -> Uuid {
        match self {
            Self::User(user) => user.0,
            Self::System(stream) => {
                let hash = Sha256::new()
                    .chain_update("genie system owner/")
                    .chain_update(stream.kind.as_str())
                    .chain_update("/")
                    .chain_update(stream.id)
                    .finalize();
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
    pub metadata: Metadata,
    /// The outcome to keep, when the request may be sent again.
    pub remember: Option<Remember>,
}

/// Facts of one owner, with the fence: the number of events that the owner had when the facts were
/// decided.
#[derive(Debug)]
pub struct Group {
    pub owner: Owner,
    /// The owner's number of events before these facts.
    pub after: u64,
    /// In the order in which they happened.
    pub facts: Vec<NewFact>,
    /// The owner's keys, when they are at hand or made in this very append; otherwise they are
    /// looked up.
    pub keys: Option<std::sync::Arc<UserKeys>>,
}

#[derive(Debug)]
pub struct NewFact {
    pub stream: StreamId,
    /// The event's number in its stream, from 1.
    pub sequence: u64,
    pub event: Event,
}

/// A working row that is written, changed or deleted in the transaction of the facts. What each does, on either store, stands in
/// the file of its table.
#[derive(Debug, Clone)]
pub enum Work {
    NewKey(WrappedKey),
    Secret(SecretRow),
    Session(SessionRow),
    Impersonation(ImpersonationRow),
    Blob(BlobRow),
    Lease(LeaseRow),
    /// The outcome of a request that may be sent again. No other request may have used its key.
    Remember(OutcomeRow),
    Reservation(ReservationRow),
    /// A condition: the append happens only in this epoch, as what the elected node writes.
    OnlyInEpoch(Epoch),
    /// A condition: this user still has so many events. So a decision can rest on a user who is not
    /// written for.
    OnlyAt {
        user: UserId,
        seq: u64,
    },
    Journal(JournalRow),
    Forgetting(ForgettingRow),
    /// Follows from the facts of jobs; nobody else makes it.
    Unfinished(UnfinishedRow),
}

impl Work {
    fn is_condition(&self) -> bool {
        matches!(
            self,
            Self::Lease(LeaseRow::OnlyIfLapsed { .. })
                | Self::OnlyInEpoch(_)
                | Self::OnlyAt { .. }
                // It may follow any event, but not the fact of an earlier forgetting.
                | Self::Forgetting(ForgettingRow::Forget { .. })
        )
    }

    /// True when the work deletes a sealed secret that was stored before.
    pub(crate) fn deletes_a_secret(&self) -> bool {
        matches!(
            self,
            Self::Secret(SecretRow::Put { version: 2.., .. } | SecretRow::Delete { .. })
        )
    }

    /// The bytes that it adds to the batch, counted only where they may be many.
    fn bytes(&self) -> usize {
        match self {
            Self::Secret(SecretRow::Put { sealed, .. }) => sealed.len(),
            _ => 0,
        }
    }

    /// As the Postgres function takes it: flat JSON with the kind `t`. `None` for a row that goes as a
    /// record.
    fn json(&self) -> Option<Value> {
        Some(match self {
            Self::NewKey(key) => key.json(),
            Self::Secret(row) => row.json(),
            Self::Session(row) => row.json(),
            Self::Impersonation(row) => row.json(),
            Self::Blob(row) => row.json(),
            Self::Lease(row) => row.json(),
            Self::Remember(outcome) => outcome.json(),
            Self::Reservation(row) => row.json(),
            Self::OnlyInEpoch(epoch) => json!({"t": "only_in_epoch", "epoch": epoch.number()}),
            Self::OnlyAt { user, seq } => json!({"t": "only_at", "user_id": user, "seq": seq}),
            Self::Journal(row) => row.json(),
            Self::Forgetting(row) => row.json(),
            Self::Unfinished(_) => return None,
        })
    }

    /// Writes it on SQLite, where conditions were looked at before.
    pub(crate) async fn write(&self, tx: &mut SqliteTx<'_>) -> Result<(), sqlx::Error> {
        match self {
            Self::NewKey(key) => key.write(tx).await,
            Self::Secret(row) => row.write(tx).await,
            Self::Session(row) => row.write(tx).await,
            Self::Impersonation(row) => row.write(tx).await,
            Self::Blob(row) => row.write(tx).await,
            Self::Lease(row) => row.write(tx).await,
            Self::Remember(outcome) => outcome.write(tx).await,
            Self::Reservation(row) => row.write(tx).await,
            Self::OnlyInEpoch(_) | Self::OnlyAt { .. } => Ok(()),
            Self::Journal(row) => row.write(tx).await,
            Self::Forgetting(row) => row.write(tx).await,
            Self::Unfinished(row) => row.write(tx).await,
        }
    }
}

/// The positions of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub first: u64,
    pub last: u64,
}

/// Why nothing was appended (or, for `Unknown`, why the outcome is not known).
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// Somebody wrote for this owner meanwhile: reload and decide again.
    #[error("the state is stale")]
    Stale,
    /// A stream of that id belongs to another owner.
    #[error("a stream of this id belongs to somebody else")]
    StreamTaken,
    /// The user was forgotten or never existed.
    #[error("the user's key is not live")]
    KeyNotLive,
    /// The request's key was used before: look up its outcome.
    #[error("the idempotency key was used before")]
    KeyUsed,
    /// The append needs a lapsed lease, and the lease is held.
    #[error("the lease is held")]
    LeaseHeld,
    /// Another node was elected; this node wrote nothing.
    #[error("another node was elected")]
    Deposed,
    #[error("too many appends are waiting")]
    Overloaded,
    /// The store is away. The facts may or may not be written: reload before deciding again.
    #[error("the store is away: {0}")]
    Unknown(String),
    /// An event is larger than [`MAX_EVENT_BYTES`], or there are more than [`MAX_EVENTS`].
    #[error("the append is too large: {0}")]
    TooLarge(String),
    /// A number that a store cannot hold. A fault of genie.
    #[error(
        "event {sequence} of {stream} cannot be stored: its number is larger than a store can hold"
    )]
    Unstorable {
        stream: StreamId,
        /// The event's number in the stream.
        sequence: u64,
    },
    /// The store refuses these rows. A fault of genie.
    #[error("the store refuses the rows: {0}")]
    Broken(String),
    #[error(transparent)]
    Keys(LogError),
}

/// An error while sealing, before anything is sent.
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
    /// The owners that are streams of the system: they need no live key.
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

    /// True when it has to be judged before it is written.
    pub fn has_condition(&self) -> bool {
        self.work.iter().any(Work::is_condition)
    }

    /// True when this append makes the owner's key.
    pub fn makes_key_of(&self, owner: Uuid) -> bool {
        self.work
            .iter()
            .any(|work| matches!(work, Work::NewKey(key) if key.owner == owner))
    }

    pub fn owners(&self) -> impl Iterator<Item = Uuid> {
        self.rows.iter().map(|row| row.owner)
    }

    /// The users on whose number of events it rests, beside its owners.
    pub fn conditions(&self) -> impl Iterator<Item = (Uuid, u64)> {
        self.work.iter().filter_map(|work| match work {
            Work::OnlyAt { user, seq } => Some((user.0, *seq)),
            _ => None,
        })
    }

    /// Its owners, and the users on whose number of events it rests. No two requests of a batch share one.
    pub fn concerned(&self) -> impl Iterator<Item = Uuid> {
        self.owners().chain(self.conditions().map(|(user, _)| user))
    }
}

/// The store's answer to one request.
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
    /// `None` for a row that goes as a record.
    pub fn new(request: i32, work: &Work) -> Option<Self> {
        Some(Self {
            r: request,
            fields: work.json()?,
        })
    }
}
