//! Who asks. Commands want a `Caller`, so that a handler which forgets to authenticate does not compile.

use genie_events::{Metadata, UserId};
use genie_log::RequestKey;

/// An authenticated caller and the request it comes with.
#[derive(Debug, Clone)]
pub struct Caller {
    who: Who,
    request_id: String,
}

#[derive(Debug, Clone)]
enum Who {
    User { id: UserId, admin: bool },
    SharedSecret,
}

impl Caller {
    /// A user whose token was checked.
    pub fn user(id: UserId, admin: bool, request_id: impl Into<String>) -> Self {
        Self { who: Who::User { id, admin }, request_id: request_id.into() }
    }

    /// A holder of the shared secret.
    pub fn shared_secret(request_id: impl Into<String>) -> Self {
        Self { who: Who::SharedSecret, request_id: request_id.into() }
    }

    /// The user, when it is one.
    pub fn user_id(&self) -> Option<UserId> {
        match self.who {
            Who::User { id, .. } => Some(id),
            Who::SharedSecret => None,
        }
    }

    /// Whether it administers.
    pub fn is_admin(&self) -> bool {
        matches!(self.who, Who::User { admin: true, .. })
    }

    /// The request.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// As the keys of requests that may be sent again are scoped to it.
    pub fn scope(&self) -> String {
        match self.who {
            Who::User { id, .. } => id.to_string(),
            Who::SharedSecret => "shared secret".to_owned(),
        }
    }

    /// As facts remember it.
    pub fn metadata(&self) -> Metadata {
        match self.who {
            Who::User { id, .. } => Metadata::user(id, &self.request_id),
            Who::SharedSecret => Metadata::shared_secret(&self.request_id),
        }
    }
}

/// How a command is asked: by whom, and under which key if it may be sent again.
#[derive(Debug, Clone)]
pub struct Asking {
    /// By whom, as facts remember it.
    pub metadata: Metadata,
    /// The request, when it may be sent again.
    pub key: Option<RequestKey>,
}

impl From<Metadata> for Asking {
    fn from(metadata: Metadata) -> Self {
        Self { metadata, key: None }
    }
}
