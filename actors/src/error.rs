//! What can come of a command other than success.

use genie_events::Refusal;
use genie_log::{AppendError, LogError};

/// A command did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// A rule said no; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too much waits; nothing was changed.
    #[error("too busy; try again shortly")]
    Busy,
    /// The line before the model server is full; nothing was changed.
    #[error("too many answers are waiting for the model; try again in {} s", .retry_after.as_secs().max(1))]
    TooMany {
        /// When it may be worth another try.
        retry_after: std::time::Duration,
    },
    /// The store is away. Either all of the command took effect or none; which, can't be said.
    #[error("the store is away: {0}")]
    Away(String),
    /// It was to be done in office, and another node was elected; nothing was changed.
    #[error("another node was elected")]
    Deposed,
    /// The user was forgotten.
    #[error("the user is forgotten")]
    Forgotten,
    /// What was sent is larger than the log takes.
    #[error("{0}")]
    TooLarge(String),
    /// A secret that is held can't be opened. That is on record.
    #[error("{0}")]
    Damaged(String),
    /// Ours.
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
