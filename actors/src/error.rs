//! Failures of commands.

use genie_events::Refusal;
use genie_log::{AppendError, LogError};

#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// A rule said no. Nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too much waits. Nothing was changed.
    #[error("too busy; try again shortly")]
    Busy,
    /// The line before the model server is full. Nothing was changed.
    #[error("too many answers are waiting for the model; try again in {} s", .retry_after.as_secs().max(1))]
    TooMany {
        /// When another try may succeed.
        retry_after: std::time::Duration,
    },
    /// The store is away. Either all of the command took effect or none; nobody can say which.
    #[error("the store is away: {0}")]
    Away(String),
    /// Only the leader may do this, and another node was elected. Nothing was changed.
    #[error("another node was elected")]
    Deposed,
    #[error("the user is forgotten")]
    Forgotten,
    /// The command holds more than one append may.
    #[error("{0}")]
    TooLarge(String),
    /// A stored secret cannot be opened. The fact of it is durable.
    #[error("{0}")]
    Damaged(String),
    /// A fault of the server.
    #[error("{0}")]
    Internal(String),
}

impl From<LogError> for WriteError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Away(reason) => Self::Away(reason),
            LogError::Deposed => Self::Deposed,
            LogError::Forgotten { .. } => Self::Forgotten,
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<AppendError> for WriteError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Stale
            | AppendError::KeyUsed
            | AppendError::LeaseHeld
            | AppendError::Overloaded => Self::Busy,
            AppendError::StreamTaken => Self::Refused(genie_events::job::job_exists()),
            AppendError::Deposed => Self::Deposed,
            AppendError::KeyNotLive => Self::Forgotten,
            AppendError::Unknown(reason) => Self::Away(reason),
            AppendError::TooLarge(sentence) => Self::TooLarge(sentence),
            AppendError::Broken(reason) => Self::Internal(reason),
            error @ AppendError::Unstorable { .. } => Self::Internal(error.to_string()),
            AppendError::Keys(error) => error.into(),
        }
    }
}
