//! The caller, the reason and the request: fields of every stored event, never strings chosen at
//! each call.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{EventId, ServiceKeyId, UserId};

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
    /// The caller's service key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<ServiceKeyId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
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
