//! Appends and their outcomes. A conflict is a value, not an exception.

use genie_events::{BlobId, Event, Metadata, StreamId, Timestamp, UserId};
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    LogError, Remember,
    election::Epoch,
    idempotency,
    keys::{UserKeys, WrappedKey},
    leases::LeaseKind,
    sessions::{MAX_SESSIONS, NewSession},
    stored_row::StoredRow,
};

/// The most bytes of one event's JSON; a larger one is refused.
pub const MAX_EVENT_BYTES: usize = 1 << 20;
pub const MAX_EVENTS: usize = 1000;

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
pub struct Append {
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

/// A working row that is written, changed or deleted in the transaction of the facts.
#[derive(Debug, Clone)]
pub enum Work {
    NewKey(WrappedKey),
    /// Stores a sealed secret and deletes its older versions.
    PutSecret {
        user: UserId,
        secret_id: String,
        version: u32,
        sealed: Vec<u8>,
    },
    /// Deletes all versions of a secret.
    DeleteSecret {
        secret_id: String,
    },
    /// Opens a session. When the user has too many, the longest unused one ends.
    OpenSession(NewSession),
    EndSession {
        family: String,
    },
    /// Ends all sessions of a user, except one.
    EndSessions {
        user: UserId,
        /// The session that stays, if any.
        but: Option<String>,
    },
    /// An uploaded file, whose bytes the blob store already has; see [`crate::blobs::NewBlob`].
    PutBlob {
        id: BlobId,
        user: UserId,
        name: Vec<u8>,
        size: u64,
        media_type: String,
        created_at: Timestamp,
    },
    /// A running job, turn or caption. The holder is empty while nobody runs it.
    PutLease {
        kind: LeaseKind,
        id: String,
        user: UserId,
        stream_id: String,
        holder: String,
        expires_at: Timestamp,
    },
    DropLease {
        kind: LeaseKind,
        id: String,
    },
    /// Cancels a lease; its holder learns it at the next heartbeat.
    CancelLease {
        kind: LeaseKind,
        id: String,
    },
    /// A condition: the append happens only if this lease has lapsed in that very transaction.
    OnlyIfLapsed {
        kind: LeaseKind,
        id: String,
        /// The holder that the lease must have.
        holder: String,
        now: Timestamp,
    },
    /// Keeps the outcome of a request that may be sent again. A condition, too: no other request
    /// may have used its key.
    Remember(idempotency::Outcome),
    /// A condition: the append happens only in this epoch. For writes of the leader.
    OnlyInEpoch(Epoch),
    /// Deletes a turn's journal; the log has the answer now.
    PruneJournal {
        turn_id: String,
    },
    /// Wipes a user's wrapped key and demands that the rest be erased. Goes with the fact that the
    /// user was forgotten.
    Forget {
        user: UserId,
        at: Timestamp,
    },
    /// Notes when a user is to be forgotten. Goes with the fact that the user asked for it.
    AwaitForget {
        user: UserId,
        due: Timestamp,
    },
    /// Withdraws [`Work::AwaitForget`]. Goes with the fact that the user stays.
    Stay {
        user: UserId,
    },
}

impl Work {
    pub(crate) fn is_condition(&self) -> bool {
        matches!(
            self,
            Self::Remember(_) | Self::OnlyIfLapsed { .. } | Self::OnlyInEpoch(_)
        )
    }

    /// Whether it deletes a sealed secret that was stored before.
    pub(crate) fn deletes_a_secret(&self) -> bool {
        matches!(
            self,
            Self::PutSecret { version: 2.., .. } | Self::DeleteSecret { .. }
        )
    }

    /// The bytes that it adds to the batch, counted only where they may be many.
    fn bytes(&self) -> usize {
        match self {
            Self::PutSecret { sealed, .. } => sealed.len(),
            _ => 0,
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
    /// A stream's name or number that a store cannot hold. A fault of genie.
    #[error("event {sequence} of {stream} cannot be stored: {reason}")]
    Unstorable {
        stream: String,
        /// The event's number in the stream.
        sequence: u64,
        reason: &'static str,
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

    /// Whether this append makes the owner's key.
    pub fn makes_key_of(&self, owner: Uuid) -> bool {
        self.work
            .iter()
            .any(|work| matches!(work, Work::NewKey(key) if key.owner == owner))
    }

    pub fn owners(&self) -> impl Iterator<Item = Uuid> {
        self.rows.iter().map(|row| row.owner)
    }
}

/// The store's answer to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Written, now or by an earlier attempt with the same rows.
    Written(Appended),
    KeyNotLive,
    Stale,
    Taken,
    KeyUsed,
    LeaseHeld,
    Deposed,
}

impl From<Outcome> for Result<Appended, AppendError> {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Written(at) => Ok(at),
            Outcome::KeyNotLive => Err(AppendError::KeyNotLive),
            Outcome::Stale => Err(AppendError::Stale),
            Outcome::Taken => Err(AppendError::StreamTaken),
            Outcome::KeyUsed => Err(AppendError::KeyUsed),
            Outcome::LeaseHeld => Err(AppendError::LeaseHeld),
            Outcome::Deposed => Err(AppendError::Deposed),
        }
    }
}

/// A working row in the form that the Postgres function takes: flat JSON with the request's number
/// `r` and the kind `t`.
#[derive(Serialize)]
pub(crate) struct WorkJson {
    r: i32,
    #[serde(flatten)]
    fields: serde_json::Value,
}

impl WorkJson {
    pub fn new(request: i32, work: &Work) -> Self {
        use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
        use serde_json::json;
        let fields = match work {
            Work::NewKey(key) => json!({
                "t": "new_key", "user_id": key.owner, "key_id": key.key_id,
                "master_id": key.master_id, "wrapped": BASE64.encode(&key.sealed),
            }),
            Work::PutSecret {
                user,
                secret_id,
                version,
                sealed,
            } => json!({
                "t": "put_secret", "user_id": user, "secret_id": secret_id,
                "version": version, "sealed": BASE64.encode(sealed),
            }),
            Work::DeleteSecret { secret_id } => {
                json!({"t": "delete_secret", "secret_id": secret_id})
            }
            Work::OpenSession(session) => json!({
                "t": "open_session", "user_id": session.user, "family": session.family, "token_hash": session.token_hash,
                "agent": session.agent_sealed.as_ref().map(|sealed| BASE64.encode(sealed)),
                "now": session.now, "expires_at": session.expires_at, "most": MAX_SESSIONS,
            }),
            Work::EndSession { family } => json!({"t": "end_session", "family": family}),
            Work::EndSessions { user, but } => {
                json!({"t": "end_sessions", "user_id": user, "but": but})
            }
            Work::PutBlob {
                id,
                user,
                name,
                size,
                media_type,
                created_at,
            } => json!({
                "t": "put_blob", "id": id, "user_id": user, "name": BASE64.encode(name), "size": size,
                "media_type": media_type, "created_at": created_at,
            }),
            Work::PutLease {
                kind,
                id,
                user,
                stream_id,
                holder,
                expires_at,
            } => json!({
                "t": "put_lease", "kind": kind.as_str(), "id": id, "user_id": user, "stream_id": stream_id,
                "holder": holder, "expires_at": expires_at,
            }),
            Work::DropLease { kind, id } => {
                json!({"t": "drop_lease", "kind": kind.as_str(), "id": id})
            }
            Work::CancelLease { kind, id } => {
                json!({"t": "cancel_lease", "kind": kind.as_str(), "id": id})
            }
            Work::OnlyIfLapsed {
                kind,
                id,
                holder,
                now,
            } => json!({
                "t": "only_if_lapsed", "kind": kind.as_str(), "id": id, "holder": holder, "now": now,
            }),
            Work::Remember(outcome) => json!({
                "t": "remember", "user_id": outcome.user, "key_hash": outcome.key, "request_hash": outcome.request,
                "event_id": outcome.event_id, "sealed": BASE64.encode(&outcome.sealed),
            }),
            Work::OnlyInEpoch(epoch) => json!({"t": "only_in_epoch", "epoch": epoch.number()}),
            Work::PruneJournal { turn_id } => json!({"t": "prune_journal", "turn_id": turn_id}),
            Work::Forget { user, at } => json!({"t": "forget", "user_id": user, "at": at}),
            Work::AwaitForget { user, due } => {
                json!({"t": "await_forget", "user_id": user, "due": due})
            }
            Work::Stay { user } => json!({"t": "stay", "user_id": user}),
        };
        Self { r: request, fields }
    }
}
