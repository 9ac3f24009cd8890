//! The caller, the reason and the request: fields of every stored event, never strings chosen at
//! each call.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{EventId, ServiceKeyId, UserId};

/// The most characters of an agent's name.
const MAX_AGENT: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallerKind {
    /// A user with a token.
    User,
    /// An administrator who acts for a user.
    Impersonator,
    /// A server or worker with the shared secret.
    SharedSecret,
    /// A server or worker with a service key.
    ServiceKey,
    /// genie itself: the supervisor, the job board, a start.
    System,
}

impl CallerKind {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Impersonator => "impersonator",
            Self::SharedSecret => "shared_secret",
            Self::ServiceKey => "service_key",
            Self::System => "system",
        }
    }
}

/// Stored beside each event and readable without a key. Invariant: nothing in it is personal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    pub caller: CallerKind,
    /// The id of the calling user. In an impersonation it is the administrator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<UserId>,
    /// The user for whom an administrator acted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<UserId>,
    /// The caller's service key, or the key with which a program acted for the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<ServiceKeyId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The program that acted for the user, as it names itself; see [`Metadata::agent_name`]. A name that genie does
    /// not know may be personal, so the log has a keyed hash of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The event that led to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<EventId>,
    /// The event's own non-personal fields; [`crate::Event::clear`] lists them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clear: BTreeMap<String, serde_json::Value>,
}

impl Metadata {
    /// Metadata of a command by genie itself.
    pub fn system() -> Self {
        Self {
            caller: CallerKind::System,
            by: None,
            on_behalf_of: None,
            key: None,
            request_id: None,
            agent: None,
            cause: None,
            clear: BTreeMap::new(),
        }
    }

    /// Metadata of a command by genie itself that follows from an event.
    pub fn caused_by(event: EventId) -> Self {
        Self {
            cause: Some(event),
            ..Self::system()
        }
    }

    /// Metadata of a user's command.
    pub fn user(by: UserId, request_id: &str) -> Self {
        Self {
            caller: CallerKind::User,
            by: Some(by),
            request_id: Some(request_id.to_owned()),
            ..Self::system()
        }
    }

    /// Metadata of an administrator's command for a user.
    pub fn impersonator(by: UserId, user: UserId, request_id: &str) -> Self {
        Self {
            caller: CallerKind::Impersonator,
            on_behalf_of: Some(user),
            ..Self::user(by, request_id)
        }
    }

    /// Metadata of a command by a program with a user's own key.
    pub fn user_by_key(by: UserId, key: ServiceKeyId, request_id: &str) -> Self {
        Self {
            key: Some(key),
            ..Self::user(by, request_id)
        }
    }

    /// The name of a program as a word: small letters, digits, `.`, `_` and `-`, at most 64. `None` if nothing is left.
    pub fn agent_name(said: &str) -> Option<String> {
        let may_stand = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_');
        let mut name = String::new();
        for c in said.trim().chars() {
            if name.len() == MAX_AGENT {
                break;
            }
            if may_stand(c) {
                name.push(c.to_ascii_lowercase());
            } else if !name.ends_with('-') {
                name.push('-');
            }
        }
        let name = name.trim_matches('-');
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// Metadata of a command by the holder of a service key.
    pub fn service_key(key: ServiceKeyId, request_id: &str) -> Self {
        Self {
            caller: CallerKind::ServiceKey,
            key: Some(key),
            request_id: Some(request_id.to_owned()),
            ..Self::system()
        }
    }

    /// Metadata of a command by a holder of the shared secret.
    pub fn shared_secret(request_id: &str) -> Self {
        Self {
            caller: CallerKind::SharedSecret,
            request_id: Some(request_id.to_owned()),
            ..Self::system()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_s_name_is_a_short_word() {
        let name = |said: &str| Metadata::agent_name(said);
        assert_eq!(name("claude-code"), Some("claude-code".into()));
        assert_eq!(name(" My  Agent (beta) \n"), Some("my-agent-beta".into()));
        assert_eq!(name(&"a".repeat(70)), Some("a".repeat(64)));
        for nothing in ["", "  ", "\u{1f600}", "---"] {
            assert_eq!(name(nothing), None, "{nothing:?}");
        }
    }
}
