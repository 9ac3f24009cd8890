//! What can go wrong with the store, and which of it means that it is away rather than that we are wrong.

use genie_events::StreamId;

use crate::{encryption::CantOpen, health::Trouble};

/// A stored row that can't be trusted or read: its stream fails loudly, others go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the event of {stream} at position {position} is damaged: {reason}")]
pub struct Damaged {
    /// Where it stands.
    pub position: u64,
    /// `kind/id`, as stored.
    pub stream: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Reading the log or a working table failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The store does not answer, is read-only, or full. Another try later may succeed.
    #[error("the store is away: {0}")]
    Away(String),
    /// A row can't be trusted.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// A position is missing: that can't happen, so somebody removed rows.
    #[error(
        "position {missing} is missing from the log; rows were removed or the store was restored badly"
    )]
    Hole {
        /// The first that is missing.
        missing: u64,
    },
    /// An owner's event is missing: that can't happen, so somebody removed rows.
    #[error(
        "event {missing} of {owner} is missing from the log; rows were removed or the store was restored badly"
    )]
    EventsMissing {
        /// Whose.
        owner: String,
        /// The first that is missing, among the owner's.
        missing: u64,
    },
    /// A user's key is not there at all: that can't happen, forgetting leaves a row.
    #[error("the key of {owner} is absent; the store is incomplete")]
    KeyAbsent {
        /// Whose.
        owner: String,
    },
    /// A user was forgotten: nothing of theirs can be read any more.
    #[error("user {owner} was forgotten")]
    Forgotten {
        /// Who.
        owner: String,
    },
    /// A key was sealed with a master key that is not in the ring.
    #[error(
        "master key `{wanted}` is wanted and not in the ring; add it to GENIE_MASTER_KEYS or its file"
    )]
    MasterKeyMissing {
        /// Its id.
        wanted: String,
    },
    /// The ring lacks what is needed, found before anything is served: each master key, and how many data keys it wraps.
    #[error("{0}, and not in the ring; add what is missing to GENIE_MASTER_KEYS or its file")]
    MasterKeysMissing(String),
    /// The same, found at an event.
    #[error(
        "the event of {stream} at position {position} is sealed under master key `{wanted}`, which is not in the ring; add it to GENIE_MASTER_KEYS or its file"
    )]
    Locked {
        /// Where the event stands.
        position: u64,
        /// `kind/id`, as stored.
        stream: String,
        /// The master key's id.
        wanted: String,
    },
    /// A key can't be opened with the master key of that id.
    #[error(
        "the key of {owner} can't be opened with master key `{master}`: it is not the key it was sealed with"
    )]
    MasterKeyWrong {
        /// Whose.
        owner: String,
        /// Which master key was tried.
        master: String,
    },
    /// A secret was changed, moved or sealed under another key.
    #[error("version {version} of the secret `{secret_id}` is damaged: {reason}")]
    SecretDamaged {
        /// Which.
        secret_id: String,
        /// Which version of it.
        version: u32,
        /// What is wrong with it.
        reason: CantOpen,
    },
    /// Another node was elected: what this one would have written in office was not written.
    #[error("another node was elected")]
    Deposed,
    /// The tree over the log does not fit the log, or itself.
    #[error("the tree over the log can't be trusted: {0}; `genie audit verify` tells more")]
    Tree(String),
    /// What is in the store is not whole yet.
    #[error(
        "an import into this store was begun and not finished; run `genie log import` again, it goes on"
    )]
    ImportUnfinished,
    /// Ours: a statement that should not fail did.
    #[error("the store refused a statement: {0}")]
    Statement(String),
}

impl LogError {
    /// A damaged event of a stream.
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
