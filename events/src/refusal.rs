//! Refusals of rules. A rule names a kind, and only the HTTP layer knows statuses.

use crate::tier::Counter;

/// The kind of a refusal. Each domain error names its kind, and src/http/error.rs maps kinds to
/// statuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusalKind {
    /// Not understood: the named field is missing or wrong.
    Invalid(&'static str),
    /// The caller may know of the thing but not do this.
    Forbidden,
    /// The thing does not exist, or the caller may not know of it.
    NotFound,
    /// The present state does not allow the command.
    Conflict,
    /// The idempotency key was used for another request.
    KeyReused,
    /// The user's bound for the day is used up.
    TooMany {
        /// When the same command may succeed.
        retry_seconds: u64,
    },
    /// The user's files have no room left.
    FilesFull,
    Quota {
        counter: Counter,
        /// True when the limit is used up; false when it is zero.
        in_tier: bool,
    },
}

/// A refusal: its kind, a stable code for programs and a sentence for people. It changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Refusal {
    pub kind: RefusalKind,
    /// Stable: clients may branch on it.
    pub code: &'static str,
    /// Says what was wrong and what to do. Never holds a secret.
    pub sentence: String,
    /// The running turn, if it stands in the way.
    pub turn: Option<crate::ids::TurnId>,
}

impl Refusal {
    fn new(kind: RefusalKind, code: &'static str, sentence: impl Into<String>) -> Self {
        Self {
            kind,
            code,
            sentence: sentence.into(),
            turn: None,
        }
    }

    pub fn invalid(field: &'static str, sentence: impl Into<String>) -> Self {
        Self::new(RefusalKind::Invalid(field), "invalid_field", sentence)
    }

    pub fn forbidden(code: &'static str, sentence: impl Into<String>) -> Self {
        Self::new(RefusalKind::Forbidden, code, sentence)
    }

    pub fn not_found(what: &str) -> Self {
        Self::new(
            RefusalKind::NotFound,
            "not_found",
            format!("There is no such {what}, or it is not yours"),
        )
    }

    /// The thing no longer exists, for a reason that the caller may know.
    pub fn gone(code: &'static str, sentence: impl Into<String>) -> Self {
        Self::new(RefusalKind::NotFound, code, sentence)
    }

    pub fn conflict(code: &'static str, sentence: impl Into<String>) -> Self {
        Self::new(RefusalKind::Conflict, code, sentence)
    }

    pub fn key_reused(sentence: impl Into<String>) -> Self {
        Self::new(RefusalKind::KeyReused, "idempotency_key_reused", sentence)
    }

    pub fn too_many_facts(most: u64, retry_seconds: u64) -> Self {
        Self::new(
            RefusalKind::TooMany { retry_seconds },
            "too_many_facts",
            format!(
                "You made {most} changes today, the most in a day; the next day begins at 00:00 UTC"
            ),
        )
    }

    pub fn files_full(kept: u64, most: u64) -> Self {
        let sentence = format!(
            "Your files have {kept} of {most} bytes, and this one does not fit; delete some first"
        );
        Self::new(RefusalKind::FilesFull, "tier_limit_reached", sentence)
    }

    pub fn quota(counter: Counter, in_tier: bool, tier: &str) -> Self {
        let sentence = if !in_tier {
            format!("{counter} is not part of the `{tier}` tier; upgrade to use it")
        } else if counter.is_present_count() {
            format!(
                "The `{tier}` tier's limit for {counter} is reached; upgrade, or make room first"
            )
        } else {
            format!(
                "The `{tier}` tier's limit for {counter} is used up; upgrade, or wait for the next month"
            )
        };
        Self::new(
            RefusalKind::Quota { counter, in_tier },
            "tier_limit_reached",
            sentence,
        )
    }
}
