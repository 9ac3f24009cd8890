//! What is to be appended, and what became of it. Conflict is data, not an exception.

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
pub struct Append {
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

/// A working row written, changed or deleted in the transaction of the facts.
#[derive(Debug, Clone)]
pub enum Work {
    /// A new user's wrapped data key.
    NewKey(WrappedKey),
    /// A sealed secret; older versions of it are deleted.
    PutSecret {
        /// Whose.
        user: UserId,
        /// Which secret.
        secret_id: String,
        /// Its version.
        version: u32,
        /// The ciphertext.
        sealed: Vec<u8>,
    },
    /// All versions of a secret are deleted.
    DeleteSecret {
        /// Which secret.
        secret_id: String,
    },
    /// A login. Past the most that a user may have, the longest unused ends.
    OpenSession(NewSession),
    /// A login is over.
    EndSession {
        /// Which.
        family: String,
    },
    /// All logins of a user are over, but for one.
    EndSessions {
        /// Whose.
        user: UserId,
        /// That one, if there is one.
        but: Option<String>,
    },
    /// An uploaded file, whose bytes are in the blob store by now; see [`crate::blobs::NewBlob`].
    PutBlob {
        /// Which.
        id: BlobId,
        /// Whose.
        user: UserId,
        /// Its sealed name.
        name: Vec<u8>,
        /// How many bytes.
        size: u64,
        /// What it is.
        media_type: String,
        /// When it was uploaded.
        created_at: Timestamp,
    },
    /// A running job, turn or caption; the holder is empty when nobody runs it yet.
    PutLease {
        /// Of what.
        kind: LeaseKind,
        /// Which one.
        id: String,
        /// Whose.
        user: UserId,
        /// Its stream.
        stream_id: String,
        /// Who runs it.
        holder: String,
        /// Until when.
        expires_at: Timestamp,
    },
    /// It runs no longer.
    DropLease {
        /// Of what.
        kind: LeaseKind,
        /// Which one.
        id: String,
    },
    /// Its holder is to be told at the next heartbeat that it was called off.
    CancelLease {
        /// Of what.
        kind: LeaseKind,
        /// Which one.
        id: String,
    },
    /// A condition: the append happens only if this lease has lapsed in that very transaction.
    OnlyIfLapsed {
        /// Of what.
        kind: LeaseKind,
        /// Which one.
        id: String,
        /// Whose lease it must be.
        holder: String,
        /// Now.
        now: Timestamp,
    },
    /// What came of a request that may be sent again. A condition too: no other request may have used its key.
    Remember(idempotency::Outcome),
    /// A condition: the append happens only in this epoch, as what the elected node writes in office.
    OnlyInEpoch(Epoch),
    /// A turn's tokens; the answer is in the log now.
    PruneJournal {
        /// Which turn.
        turn_id: String,
    },
    /// With the fact that a user was forgotten: their wrapped key is wiped, and what is left of them is to be erased.
    Forget {
        /// Who.
        user: UserId,
        /// Now.
        at: Timestamp,
    },
    /// With the fact that a user asked to be forgotten: it is to be done.
    AwaitForget {
        /// Who.
        user: UserId,
        /// When.
        due: Timestamp,
    },
    /// With the fact that they are not to be forgotten after all.
    Stay {
        /// Who.
        user: UserId,
    },
}

impl Work {
    /// Whether it is a condition of the append.
    pub(crate) fn is_condition(&self) -> bool {
        matches!(
            self,
            Self::Remember(_) | Self::OnlyIfLapsed { .. } | Self::OnlyInEpoch(_)
        )
    }

    /// Whether a sealed secret goes that was there before.
    pub(crate) fn deletes_a_secret(&self) -> bool {
        matches!(
            self,
            Self::PutSecret { version: 2.., .. } | Self::DeleteSecret { .. }
        )
    }

    /// How many bytes it brings, where they are many.
    fn bytes(&self) -> usize {
        match self {
            Self::PutSecret { sealed, .. } => sealed.len(),
            _ => 0,
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
pub(crate) enum Outcome {
    /// Written, now or by an earlier try of the same rows.
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

/// Working rows as the Postgres function takes them: flat JSON with the request's number `r` and the kind `t`.
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
