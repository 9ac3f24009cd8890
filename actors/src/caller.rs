//! Callers. Commands take a `Caller`, so that a handler that forgets to authenticate does not compile.

use genie_events::{Metadata, ServiceKeyId, UserId, service_key::Scope};
use genie_log::RequestKey;

/// An authenticated caller, and the id of the request.
#[derive(Debug, Clone)]
pub struct Caller {
    who: CallerIdentity,
    request_id: String,
    /// The program that acts for the user, in the form of [`Metadata::agent_name`].
    agent: Option<String>,
}

#[derive(Debug, Clone)]
enum CallerIdentity {
    User {
        id: UserId,
        admin: bool,
    },
    /// A program with a key of the user's own.
    OwnKey {
        user: UserId,
        key: ServiceKeyId,
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
        Self::new(CallerIdentity::User { id, admin }, request_id)
    }

    /// A program with a user's own key that was checked. It never administers.
    pub fn own_key(user: UserId, key: ServiceKeyId, request_id: impl Into<String>) -> Self {
        Self::new(CallerIdentity::OwnKey { user, key }, request_id)
    }

    fn new(who: CallerIdentity, request_id: impl Into<String>) -> Self {
        Self {
            who,
            request_id: request_id.into(),
            agent: None,
        }
    }

    /// The same caller, with the name that its program gave itself.
    pub fn with_agent(self, said: Option<&str>) -> Self {
        let agent = said.and_then(Metadata::agent_name);
        Self { agent, ..self }
    }

    /// An administrator who acts for a user, and may do what the user may.
    pub fn impersonator(by: UserId, user: UserId, request_id: impl Into<String>) -> Self {
        Self::new(CallerIdentity::Impersonator { by, user }, request_id)
    }

    pub fn shared_secret(request_id: impl Into<String>) -> Self {
        Self::new(CallerIdentity::SharedSecret, request_id)
    }

    /// A service key that was checked.
    pub fn service_key(
        id: ServiceKeyId,
        scopes: Vec<Scope>,
        request_id: impl Into<String>,
    ) -> Self {
        Self::new(CallerIdentity::ServiceKey { id, scopes }, request_id)
    }

    /// The user that is acted for, if any.
    pub fn user_id(&self) -> Option<UserId> {
        match self.who {
            CallerIdentity::User { id, .. }
            | CallerIdentity::OwnKey { user: id, .. }
            | CallerIdentity::Impersonator { user: id, .. } => Some(id),
            CallerIdentity::SharedSecret | CallerIdentity::ServiceKey { .. } => None,
        }
    }

    pub fn is_admin(&self) -> bool {
        matches!(self.who, CallerIdentity::User { admin: true, .. })
    }

    /// True when the caller may do what the scope is for. The shared secret opens all that a key could.
    pub fn has_scope(&self, scope: Scope) -> bool {
        match &self.who {
            CallerIdentity::SharedSecret => true,
            CallerIdentity::ServiceKey { scopes, .. } => scopes.contains(&scope),
            CallerIdentity::User { .. }
            | CallerIdentity::OwnKey { .. }
            | CallerIdentity::Impersonator { .. } => false,
        }
    }

    /// True when the request shows a token that the user's identity provider made for the user.
    pub fn shows_user_token(&self) -> bool {
        matches!(self.who, CallerIdentity::User { .. })
    }

    pub fn is_service_key(&self) -> bool {
        matches!(self.who, CallerIdentity::ServiceKey { .. })
    }

    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The scope of this caller's idempotency keys.
    pub fn scope(&self) -> String {
        match &self.who {
            CallerIdentity::User { id, .. } => id.to_string(),
            CallerIdentity::OwnKey { user, key } => format!("{user} by key {key}"),
            CallerIdentity::Impersonator { by, user } => format!("{by} for {user}"),
            CallerIdentity::SharedSecret => "shared secret".to_owned(),
            CallerIdentity::ServiceKey { id, .. } => format!("service key {id}"),
        }
    }

    /// The metadata of the facts that this caller causes.
    pub fn metadata(&self) -> Metadata {
        let metadata = match &self.who {
            CallerIdentity::User { id, .. } => Metadata::user(*id, &self.request_id),
            CallerIdentity::OwnKey { user, key } => {
                Metadata::user_by_key(*user, *key, &self.request_id)
            }
            CallerIdentity::Impersonator { by, user } => {
                Metadata::impersonator(*by, *user, &self.request_id)
            }
            CallerIdentity::SharedSecret => Metadata::shared_secret(&self.request_id),
            CallerIdentity::ServiceKey { id, .. } => Metadata::service_key(*id, &self.request_id),
        };
        Metadata {
            agent: self.agent.clone(),
            ..metadata
        }
    }
}

/// The context of a command: its caller, and the key if it may be sent again.
#[derive(Debug, Clone)]
pub struct CommandContext {
    /// The caller, as facts remember it.
    pub metadata: Metadata,
    /// Present when the request may be sent again.
    pub key: Option<RequestKey>,
    /// The size of what the command carries. Small commands need not say.
    pub bytes: usize,
}

impl From<Metadata> for CommandContext {
    fn from(metadata: Metadata) -> Self {
        Self {
            metadata,
            key: None,
            bytes: 0,
        }
    }
}
