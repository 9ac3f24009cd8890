//! Who asks. Commands want a `Caller`, so that a handler which forgets to authenticate does not compile.

use genie_events::{Metadata, ServiceKeyId, UserId, service_key::Scope};
use genie_log::RequestKey;

/// An authenticated caller and the request it comes with.
#[derive(Debug, Clone)]
pub struct Caller {
    who: CallerIdentity,
    request_id: String,
}

#[derive(Debug, Clone)]
enum CallerIdentity {
    User {
        id: UserId,
        admin: bool,
    },
    Impersonator {
        by: UserId,
        user: UserId,
    },
    SharedSecret,
    ServiceKey {
        id: ServiceKeyId,
        scopes: Vec<Scope>,
    },
}

impl Caller {
    /// A user whose token was checked.
    pub fn user(id: UserId, admin: bool, request_id: impl Into<String>) -> Self {
        Self {
            who: CallerIdentity::User { id, admin },
            request_id: request_id.into(),
        }
    }

    /// An administrator who acts for a user, and may do what the user may.
    pub fn impersonator(by: UserId, user: UserId, request_id: impl Into<String>) -> Self {
        Self {
            who: CallerIdentity::Impersonator { by, user },
            request_id: request_id.into(),
        }
    }

    /// A holder of the shared secret.
    pub fn shared_secret(request_id: impl Into<String>) -> Self {
        Self {
            who: CallerIdentity::SharedSecret,
            request_id: request_id.into(),
        }
    }

    /// A holder of a service key that was checked.
    pub fn service_key(
        id: ServiceKeyId,
        scopes: Vec<Scope>,
        request_id: impl Into<String>,
    ) -> Self {
        Self {
            who: CallerIdentity::ServiceKey { id, scopes },
            request_id: request_id.into(),
        }
    }

    /// The user who is asked for, when it is one.
    pub fn user_id(&self) -> Option<UserId> {
        match self.who {
            CallerIdentity::User { id, .. } | CallerIdentity::Impersonator { user: id, .. } => {
                Some(id)
            }
            CallerIdentity::SharedSecret | CallerIdentity::ServiceKey { .. } => None,
        }
    }

    /// Whether it administers.
    pub fn is_admin(&self) -> bool {
        matches!(self.who, CallerIdentity::User { admin: true, .. })
    }

    /// Whether it may do what the scope is for. The shared secret opens all that a key could.
    pub fn has_scope(&self, scope: Scope) -> bool {
        match &self.who {
            CallerIdentity::SharedSecret => true,
            CallerIdentity::ServiceKey { scopes, .. } => scopes.contains(&scope),
            CallerIdentity::User { .. } | CallerIdentity::Impersonator { .. } => false,
        }
    }

    /// Whether it is an administrator who acts for somebody else.
    pub fn is_impersonator(&self) -> bool {
        matches!(self.who, CallerIdentity::Impersonator { .. })
    }

    /// Whether it came with a service key.
    pub fn is_service_key(&self) -> bool {
        matches!(self.who, CallerIdentity::ServiceKey { .. })
    }

    /// The request.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// As the keys of requests that may be sent again are scoped to it.
    pub fn scope(&self) -> String {
        match &self.who {
            CallerIdentity::User { id, .. } => id.to_string(),
            CallerIdentity::Impersonator { by, user } => format!("{by} for {user}"),
            CallerIdentity::SharedSecret => "shared secret".to_owned(),
            CallerIdentity::ServiceKey { id, .. } => format!("service key {id}"),
        }
    }

    /// As facts remember it.
    pub fn metadata(&self) -> Metadata {
        match &self.who {
            CallerIdentity::User { id, .. } => Metadata::user(*id, &self.request_id),
            CallerIdentity::Impersonator { by, user } => {
                Metadata::impersonator(*by, *user, &self.request_id)
            }
            CallerIdentity::SharedSecret => Metadata::shared_secret(&self.request_id),
            CallerIdentity::ServiceKey { id, .. } => {
                Metadata::service_key(id.clone(), &self.request_id)
            }
        }
    }
}

/// How a command is asked: by whom, and under which key if it may be sent again.
#[derive(Debug, Clone)]
pub struct CommandContext {
    /// By whom, as facts remember it.
    pub metadata: Metadata,
    /// The request, when it may be sent again.
    pub key: Option<RequestKey>,
}

impl From<Metadata> for CommandContext {
    fn from(metadata: Metadata) -> Self {
        Self {
            metadata,
            key: None,
        }
    }
}
