//! Who is calling: extractors that make a `Caller`. A handler which forgets one has nobody to ask the write side for.

use std::{future::Future, pin::Pin, time::Duration};

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header::AUTHORIZATION, web::Data};
use genie_actors::Caller;
use genie_events::UserId;
use genie_projections::accounts::AccountRow;
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;

use crate::{
    app::App,
    http::{admission, error::ApiError, request},
    identity::token::BadToken,
};

pub const SECRET_HEADER: &str = "X-RBAC-SYNC-SECRET";
/// How long a token's account may take to show up in the read side, after a registration or a start.
const ACCOUNT_WAIT: Duration = Duration::from_secs(5);

/// A user with a good token.
pub struct UserCaller {
    pub caller: Caller,
    pub account: AccountRow,
}

/// A holder of the shared secret.
pub struct SecretCaller(pub Caller);

/// A user or a holder of the shared secret.
pub enum AnyCaller {
    User(Box<UserCaller>),
    Secret,
}

/// A holder of the shared secret, or an administrator.
pub struct Operator;

fn app(request: &HttpRequest) -> Result<Data<App>, ApiError> {
    request.app_data::<Data<App>>().cloned().ok_or_else(|| ApiError::Internal("the app is not wired".into()))
}

async fn user(request: &HttpRequest) -> Result<UserCaller, ApiError> {
    let app = app(request)?;
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or("");
    let (scheme, token) = header.split_once(' ').unwrap_or(("", ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(ApiError::NoCaller);
    }
    let claims = app.tokens.check(token.trim()).map_err(|bad| match bad {
        BadToken::Expired => ApiError::Expired,
        BadToken::Invalid => ApiError::NoCaller,
    })?;
    let account = account_of(&app, claims.id, ACCOUNT_WAIT).await?.ok_or(ApiError::NoCaller)?;
    admission::count_user(&app, request, account.user)?;
    match account.status.as_str() {
        "active" => Ok(UserCaller { caller: Caller::user(account.user, account.admin, request::current_id()), account }),
        _ => Err(ApiError::NoCaller),
    }
}

/// The account of somebody of whom the log knows: when the read side has not got there yet, it is waited for.
pub async fn account_of(app: &App, user: UserId, wait: Duration) -> Result<Option<AccountRow>, ApiError> {
    if let Some(account) = app.known_accounts.get(user).await? {
        return Ok(Some(account));
    }
    app.reads.wait_for("accounts", app.log.head(), wait).await?;
    Ok(app.reads.accounts.get(user).await?)
}

/// `None` when the header is absent.
fn secret(request: &HttpRequest) -> Option<Result<SecretCaller, ApiError>> {
    let given = request.headers().get(SECRET_HEADER)?;
    let check = || {
        let app = app(request)?;
        let Some(wanted) = &app.config.shared_secret else { return Err(ApiError::SecretNotConfigured) };
        match bool::from(given.as_bytes().ct_eq(wanted.expose_secret().as_bytes())) {
            true => Ok(SecretCaller(Caller::shared_secret(request::current_id()))),
            false => Err(ApiError::NoCaller),
        }
    };
    Some(check())
}

type Extracting<T, E> = Pin<Box<dyn Future<Output = Result<T, E>>>>;

impl FromRequest for UserCaller {
    type Error = ApiError;
    type Future = Extracting<Self, ApiError>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { user(&request).await })
    }
}

impl FromRequest for SecretCaller {
    type Error = ApiError;
    type Future = std::future::Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let unset = app(request).is_ok_and(|app| app.config.shared_secret.is_none());
        let otherwise = if unset { ApiError::SecretNotConfigured } else { ApiError::NoCaller };
        std::future::ready(secret(request).unwrap_or(Err(otherwise)))
    }
}

impl FromRequest for AnyCaller {
    type Error = ApiError;
    type Future = Extracting<Self, ApiError>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            match secret(&request) {
                Some(checked) => checked.map(|_| Self::Secret),
                None => Ok(Self::User(Box::new(user(&request).await?))),
            }
        })
    }
}

impl FromRequest for Operator {
    type Error = ApiError;
    type Future = Extracting<Self, ApiError>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let any = AnyCaller::from_request(request, payload);
        Box::pin(async move {
            match any.await? {
                AnyCaller::Secret => Ok(Self),
                AnyCaller::User(user) if user.caller.is_admin() => Ok(Self),
                AnyCaller::User(_) => {
                    Err(ApiError::Forbidden("Only an administrator or a holder of the shared secret may do this"))
                }
            }
        })
    }
}

/// An administrator.
pub struct AdminCaller(pub Caller);

impl FromRequest for AdminCaller {
    type Error = ApiError;
    type Future = Extracting<Self, ApiError>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let user = user(&request).await?;
            match user.caller.is_admin() {
                true => Ok(Self(user.caller)),
                false => Err(ApiError::Forbidden("Only an administrator may do this")),
            }
        })
    }
}

/// A user on a route of Directus' own contract: an expired token has a code of its own there.
pub struct DirectusUser(pub UserCaller);

impl FromRequest for DirectusUser {
    type Error = crate::http::error::DirectusError;
    type Future = Extracting<Self, Self::Error>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { Ok(Self(user(&request).await?)) })
    }
}
