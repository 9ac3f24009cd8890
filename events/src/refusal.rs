//! Why something was refused. Rules name a kind; only the rim knows statuses.

use crate::tier::Counter;

/// What kind of refusal it is (house rule: each domain error names its kind, one page maps it to HTTP).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusalKind {
    /// Not understood; the named field is missing or wrong.
    Invalid(&'static str),
    /// Understood, and the caller may know of it, but not allowed.
    Forbidden,
    /// Not there, or not the caller's to know.
    NotFound,
    /// Against the present state.
    Conflict,
    /// The key of a request that may be sent again was used for another request.
    KeyReused,
    /// The tier does not allow it.
    Quota {
        /// Which limit.
        counter: Counter,
        /// Whether the tier never has it (limit 0) or it is used up.
        in_tier: bool,
    },
}

/// A refusal: its kind, a stable code for programs and a sentence for people. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Refusal {
    /// The kind.
    pub kind: RefusalKind,
    /// Stable: clients may branch on it.
    pub code: &'static str,
    /// What was wrong and what to do. Never holds a secret.
    pub sentence: String,
    /// The running turn, where that is what stands in the way.
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

    /// The named field is missing or wrong.
    pub fn invalid(field: &'static str, sentence: impl Into<String>) -> Self {
        Self::new(RefusalKind::Invalid(field), "invalid_field", sentence)
    }

    /// Not allowed.
    pub fn forbidden(code: &'static str, sentence: impl Into<String>) -> Self {
        Self::new(RefusalKind::Forbidden, code, sentence)
    }

    /// Not there, or not the caller's.
    pub fn not_found(what: &str) -> Self {
        Self::new(
            RefusalKind::NotFound,
            "not_found",
            format!("There is no such {what}, or it is not yours"),
        )
    }

    /// Not there any more, for a reason that the caller may know.
    pub fn gone(code: &'static str, sentence: impl Into<String>) -> Self {
        Self::new(RefusalKind::NotFound, code, sentence)
    }

    /// Against the present state.
    pub fn conflict(code: &'static str, sentence: impl Into<String>) -> Self {
        Self::new(RefusalKind::Conflict, code, sentence)
    }

    /// An idempotency key was used for another request.
    pub fn key_reused(sentence: impl Into<String>) -> Self {
        Self::new(RefusalKind::KeyReused, "idempotency_key_reused", sentence)
    }

    /// The tier does not allow it.
    pub fn quota(counter: Counter, in_tier: bool, tier: &str) -> Self {
        let sentence = match in_tier {
            true if counter.is_present_count() => {
                format!(
                    "The `{tier}` tier's limit for {counter} is reached; upgrade, or make room first"
                )
            }
            true => format!(
                "The `{tier}` tier's limit for {counter} is used up; upgrade, or wait for the next month"
            ),
            false => format!("{counter} is not part of the `{tier}` tier; upgrade to use it"),
        };
        Self::new(
            RefusalKind::Quota { counter, in_tier },
            "tier_limit_reached",
            sentence,
        )
    }
}
