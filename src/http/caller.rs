//! Callers. A handler's parameter says which callers may use the route. The caller is made here or the request is
//! refused, so a handler without such a parameter has nobody to ask the write side for. `authenticate` reads tokens
//! and secrets.

use std::{future::Future, marker::PhantomData, pin::Pin, sync::Arc};

use actix_web::{FromRequest, HttpRequest, dev::Payload};
use genie_actors::Caller;
use genie_events::service_key::Scope;
use genie_projections::accounts::AccountRow;
use uuid::Uuid;

use crate::http::error::{ApiError, DirectusError};

mod authenticate;
use authenticate::TokenHolder;
pub use authenticate::{
    ACCOUNT_WAIT, SECRET_HEADER, account_of, app, not_issued, still_administers, token,
    user_of_account,
};
mod look;
pub use look::{administers_another_s, look_at_another_s, short_reason, stated_reason};

/// A user in person: for everything that an administrator may not do in a user's name.
pub struct UserCaller {
    pub caller: Caller,
    pub account: Arc<AccountRow>,
    /// The login of the token.
    pub login: Option<Uuid>,
}

/// A user, an administrator who acts for them, or a program with a key of the user's own. `account` is the user's;
/// `caller` names both.
pub struct ActingUser {
    pub caller: Caller,
    pub account: Arc<AccountRow>,
}

/// An administrator in person.
pub struct AdminCaller(pub Caller);

pub struct SecretCaller(pub Caller);

/// As [`ActingUser`]; or a server or worker as [`ServerCaller`].
pub enum AnyCaller<W = NoScope> {
    User(Box<ActingUser>),
    Server(ServerCaller<W>),
}

/// A server or worker: a holder of the shared secret, or of a service key with one of the wanted scopes.
pub struct ServerCaller<W> {
    pub caller: Caller,
    scopes: PhantomData<W>,
}

/// An administrator in person, a holder of the shared secret, or of a service key with one of the wanted scopes.
pub struct Operator<W = NoScope> {
    pub caller: Caller,
    scopes: PhantomData<W>,
}

/// Any caller who is proven.
pub struct Somebody;

/// A user in person on a route of Directus' own API, where an expired token has a code of its own.
pub struct DirectusUser(pub UserCaller);

/// An administrator in person on a route of Directus' own API.
pub struct DirectusAdmin(pub Caller);

/// The same as `DirectusUser`, or an administrator who acts for the user.
pub struct DirectusActingUser(pub ActingUser);

/// The scopes of service keys that open a route. The refusal of a key without any of them names the first.
pub trait Opens: 'static {
    const SCOPES: &'static [Scope];
}

macro_rules! scopes {
    ($( $(#[$doc:meta])* $name:ident = [$($scope:ident),*]; )+) => {
        $(
            $(#[$doc])*
            pub struct $name;
            impl Opens for $name {
                const SCOPES: &'static [Scope] = &[$(Scope::$scope),*];
            }
        )+
    };
}
scopes! {
    /// No service key opens it.
    NoScope = [];
    ReadsEvents = [EventsRead, EventsReadPersonal];
    WorksOnJobs = [JobsWork];
    ReadsAudit = [AuditRead];
    /// A key with `jobs:work` alone also has to show that it holds a job of the credential's owner.
    RevealsCredentials = [CredentialsReveal, JobsWork];
}

/// Lets a service key pass that has one of the wanted scopes.
fn with_scope<W: Opens>(key: Caller) -> Result<Caller, ApiError> {
    if W::SCOPES.iter().any(|scope| key.has_scope(*scope)) {
        return Ok(key);
    }
    Err(W::SCOPES
        .first()
        .map_or(NOT_FOR_KEYS, |scope| ApiError::ScopeNeeded(scope.as_str())))
}

const NOT_FOR_KEYS: ApiError = ApiError::Forbidden("No service key may do this");
const NOT_FOR_OWN_KEYS: ApiError =
    ApiError::Forbidden("Only the user in person may do this, logged in, not a program with a key");
const NOT_FOR_IMPERSONATORS: ApiError = ApiError::Forbidden(
    "Only the user in person may do this, not an administrator who acts for the user",
);
const ONLY_BY_SECRET: ApiError = ApiError::Forbidden("Only the shared secret opens this");
const ONLY_FOR_SERVERS: ApiError = ApiError::Forbidden(
    "Only servers and workers may do this: with the shared secret, or with a service key",
);
const NOT_FOR_USERS: ApiError = ApiError::Forbidden("Only an administrator may do this");

/// A caller that is made from a request.
trait Admitted: Sized + 'static {
    async fn admit(request: &HttpRequest) -> Result<Self, ApiError>;
}

impl Admitted for UserCaller {
    async fn admit(request: &HttpRequest) -> Result<Self, ApiError> {
        match authenticate::token_holder(request).await? {
            TokenHolder::User(user) => Ok(user),
            TokenHolder::Impersonator(_) => Err(NOT_FOR_IMPERSONATORS),
            TokenHolder::ServiceKey(_) => Err(NOT_FOR_KEYS),
            TokenHolder::OwnKey(_) => Err(NOT_FOR_OWN_KEYS),
        }
    }
}

impl Admitted for ActingUser {
    async fn admit(request: &HttpRequest) -> Result<Self, ApiError> {
        match authenticate::token_holder(request).await? {
            TokenHolder::User(user) => Ok(Self {
                caller: user.caller,
                account: user.account,
            }),
            TokenHolder::Impersonator(acting) => Ok(acting),
            TokenHolder::ServiceKey(_) => Err(NOT_FOR_KEYS),
            TokenHolder::OwnKey(key) => key.on_route(request),
        }
    }
}

impl Admitted for AdminCaller {
    async fn admit(request: &HttpRequest) -> Result<Self, ApiError> {
        match UserCaller::admit(request).await? {
            user if user.caller.is_admin() => {
                authenticate::still_administers(&*authenticate::app(request)?, user.account.user)
                    .await?;
                Ok(Self(user.caller))
            }
            _ => Err(NOT_FOR_USERS),
        }
    }
}

impl Admitted for SecretCaller {
    async fn admit(request: &HttpRequest) -> Result<Self, ApiError> {
        match authenticate::secret_holder(request)? {
            Some(holder) => Ok(Self(holder)),
            None if authenticate::app(request)?.config.shared_secret.is_none() => {
                Err(ApiError::SecretNotConfigured)
            }
            None => Err(authenticate::no_secret(request, ONLY_BY_SECRET).await),
        }
    }
}

impl<W: Opens> Admitted for AnyCaller<W> {
    async fn admit(request: &HttpRequest) -> Result<Self, ApiError> {
        let server = |caller| {
            Self::Server(ServerCaller {
                caller,
                scopes: PhantomData,
            })
        };
        if let Some(holder) = authenticate::secret_holder(request)? {
            return Ok(server(holder));
        }
        Ok(match authenticate::token_holder(request).await? {
            TokenHolder::User(user) => Self::User(Box::new(ActingUser {
                caller: user.caller,
                account: user.account,
            })),
            TokenHolder::Impersonator(acting) => Self::User(Box::new(acting)),
            TokenHolder::ServiceKey(key) => server(with_scope::<W>(key)?),
            TokenHolder::OwnKey(key) => Self::User(Box::new(key.on_route(request)?)),
        })
    }
}

impl<W: Opens> Admitted for ServerCaller<W> {
    async fn admit(request: &HttpRequest) -> Result<Self, ApiError> {
        let caller = match (
            authenticate::secret_holder(request)?,
            authenticate::token(request)?,
        ) {
            (Some(holder), _) => holder,
            (None, Some(key)) if authenticate::is_service_key(key) => {
                let app = authenticate::app(request)?;
                let key = authenticate::service_key(&app, request, key).await?;
                with_scope::<W>(key.ok_or(ONLY_FOR_SERVERS)?)?
            }
            (None, _) => return Err(authenticate::no_secret(request, ONLY_FOR_SERVERS).await),
        };
        Ok(Self {
            caller,
            scopes: PhantomData,
        })
    }
}

impl<W: Opens> Admitted for Operator<W> {
    async fn admit(request: &HttpRequest) -> Result<Self, ApiError> {
        let caller = match authenticate::secret_holder(request)? {
            Some(holder) => holder,
            None => match authenticate::token_holder(request).await? {
                TokenHolder::ServiceKey(key) => with_scope::<W>(key)?,
                TokenHolder::User(user) if user.caller.is_admin() => user.caller,
                TokenHolder::User(_) | TokenHolder::OwnKey(_) => return Err(NOT_FOR_USERS),
                TokenHolder::Impersonator(_) => return Err(NOT_FOR_IMPERSONATORS),
            },
        };
        Ok(Self {
            caller,
            scopes: PhantomData,
        })
    }
}

impl Admitted for Somebody {
    async fn admit(request: &HttpRequest) -> Result<Self, ApiError> {
        if authenticate::secret_holder(request)?.is_none() {
            authenticate::token_holder(request).await?;
        }
        Ok(Self)
    }
}

impl Admitted for DirectusUser {
    async fn admit(request: &HttpRequest) -> Result<Self, ApiError> {
        UserCaller::admit(request).await.map(Self)
    }
}

impl Admitted for DirectusAdmin {
    async fn admit(request: &HttpRequest) -> Result<Self, ApiError> {
        let AdminCaller(caller) = AdminCaller::admit(request).await?;
        Ok(Self(caller))
    }
}

impl Admitted for DirectusActingUser {
    async fn admit(request: &HttpRequest) -> Result<Self, ApiError> {
        ActingUser::admit(request).await.map(Self)
    }
}

macro_rules! from_request {
    ($( [$($generics:tt)*] $caller:ty => $error:ty; )+) => {
        $( impl<$($generics)*> FromRequest for $caller {
            type Error = $error;
            type Future = Pin<Box<dyn Future<Output = Result<Self, Self::Error>>>>;

            fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
                let request = request.clone();
                Box::pin(async move { Self::admit(&request).await.map_err(Into::into) })
            }
        } )+
    };
}
from_request! {
    [] UserCaller => ApiError;
    [] ActingUser => ApiError;
    [] AdminCaller => ApiError;
    [] SecretCaller => ApiError;
    [W: Opens] AnyCaller<W> => ApiError;
    [W: Opens] ServerCaller<W> => ApiError;
    [W: Opens] Operator<W> => ApiError;
    [] Somebody => ApiError;
    [] DirectusUser => DirectusError;
    [] DirectusAdmin => DirectusError;
    [] DirectusActingUser => DirectusError;
}
