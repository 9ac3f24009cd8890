//! Who asked, why and from where: fields of every stored event, never strings chosen at each call.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{EventId, ServiceKeyId, UserId};

/// What kind of caller asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallerKind {
    /// A user, with a token.
    User,
    /// An administrator who acts for a user.
    Impersonator,
    /// A server or worker, with the shared secret.
    SharedSecret,
    /// A server or worker, with a key of its own.
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

/// Stored beside each event, readable without a key: nothing personal may stand here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Who asked.
    pub caller: CallerKind,
    /// The asking user, when it was one: of an impersonation, the administrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<UserId>,
    /// The user whom an administrator acted for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<UserId>,
    /// The service key, when one was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<ServiceKeyId>,
    /// The HTTP request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The event that led to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<EventId>,
    /// The event's own non-personal fields, by the written list of [`crate::Event::clear`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clear: BTreeMap<String, serde_json::Value>,
}

impl Metadata {
    /// genie itself asked.
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

    /// genie itself asked, because of that event.
    pub fn caused_by(event: EventId) -> Self {
        Self {
            cause: Some(event),
            ..Self::system()
        }
    }

    /// A user asked.
    pub fn user(by: UserId, request_id: &str) -> Self {
        Self {
            caller: CallerKind::User,
            by: Some(by),
            request_id: Some(request_id.to_owned()),
            ..Self::system()
        }
    }

    /// An administrator asked on behalf of a user.
    pub fn impersonator(by: UserId, user: UserId, request_id: &str) -> Self {
        Self {
            caller: CallerKind::Impersonator,
            on_behalf_of: Some(user),
            ..Self::user(by, request_id)
        }
    }

    /// A holder of a service key asked.
    pub fn service_key(key: ServiceKeyId, request_id: &str) -> Self {
        Self {
            caller: CallerKind::ServiceKey,
            key: Some(key),
            request_id: Some(request_id.to_owned()),
            ..Self::system()
        }
    }

    /// A holder of the shared secret asked.
    pub fn shared_secret(request_id: &str) -> Self {
        Self {
            caller: CallerKind::SharedSecret,
            request_id: Some(request_id.to_owned()),
            ..Self::system()
        }
    }
}
