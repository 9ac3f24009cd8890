//! Errors of the store, and the distinction between a store that is away and a fault of genie.

use genie_events::StreamId;

use crate::{encryption::CantOpen, health::Trouble};

/// A stored row that cannot be trusted or read. Its stream fails loudly, others go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the event of {stream} at position {position} is damaged: {reason}")]
pub struct Damaged {
    pub position: u64,
    /// `kind/id`, as stored.
    pub stream: String,
    pub reason: String,
}

/// Reading the log or a working table failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The store does not answer, is read-only, or full. A later attempt may succeed.
    #[error("the store is away: {0}")]
    Away(String),
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// A position is missing. The append leaves no holes, so somebody removed rows.
    #[error(
        "position {missing} is missing from the log; rows were removed or the store was restored badly"
    )]
    Hole { missing: u64 },
    /// An owner's event is missing. The append leaves no holes, so somebody removed rows.
    #[error(
        "event {missing} of {owner} is missing from the log; rows were removed or the store was restored badly"
    )]
    EventsMissing {
        owner: String,
        /// The number of the first missing event among the owner's.
        missing: u64,
    },
    /// The row of a user's key is missing. Even forgetting leaves the row, so the store is
    /// incomplete.
    #[error("the key of {owner} is absent; the store is incomplete")]
    KeyAbsent { owner: String },
    /// The user was forgotten: nobody can read the user's facts any more.
    #[error("user {owner} was forgotten")]
    Forgotten { owner: String },
    /// The master key that wraps a data key is not in the ring.
    #[error(
        "master key `{wanted}` is wanted and not in the ring; add it to GENIE_MASTER_KEYS or its file"
    )]
    MasterKeyMissing { wanted: String },
    /// The ring lacks keys, which was found before anything is served: each missing master key with
    /// the number of data keys that it wraps.
    #[error("{0}, and not in the ring; add what is missing to GENIE_MASTER_KEYS or its file")]
    MasterKeysMissing(String),
    /// The same, found at an event.
    #[error(
        "the event of {stream} at position {position} is sealed under master key `{wanted}`, which is not in the ring; add it to GENIE_MASTER_KEYS or its file"
    )]
    Locked {
        position: u64,
        /// `kind/id`, as stored.
        stream: String,
        wanted: String,
    },
    /// The master key of that id does not open the data key.
    #[error(
        "the key of {owner} cannot be opened with master key `{master}`: it is not the key it was sealed with"
    )]
    MasterKeyWrong { owner: String, master: String },
    /// A secret was changed, moved or sealed under another key.
    #[error("version {version} of the secret `{secret_id}` is damaged: {reason}")]
    SecretDamaged {
        secret_id: String,
        version: u32,
        reason: CantOpen,
    },
    /// The engine behind DATABASE_URL lacks what the log stands on.
    #[error("{0}")]
    UnfitStore(String),
    /// Another node was elected: this node's write as leader was not done.
    #[error("another node was elected")]
    Deposed,
    /// The tree over the log does not fit the log, or itself.
    #[error("the tree over the log cannot be trusted: {0}; `genie audit verify` says more")]
    Tree(String),
    /// An import has not finished.
    #[error(
        "an import into this store was begun and not finished; run `genie log import` again to continue it"
    )]
    ImportUnfinished,
    /// A statement failed that should not fail: a fault of genie.
    #[error("the store refused a statement: {0}")]
    Statement(String),
}

impl LogError {
    pub fn damaged(position: u64, stream: &StreamId, reason: impl ToString) -> Self {
        Self::Damaged(Damaged {
            position,
            stream: stream.to_string(),
            reason: reason.to_string(),
        })
    }
}

impl From<sqlx::Error> for LogError {
    fn from(error: sqlx::Error) -> Self {
        match Trouble::of(&error) {
            Some(_) => Self::Away(error.to_string()),
            None => Self::Statement(error.to_string()),
        }
    }
}
