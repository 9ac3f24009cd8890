//! Authentication: the only place that checks tokens, service keys and the shared secret.

use std::{sync::Arc, time::Duration};

use actix_web::{HttpRequest, http::header::AUTHORIZATION, web::Data};
use genie_actors::{Caller, service_keys};
use genie_events::{ServiceKeyId, UserId, api_key::ApiScope};
use genie_log::load_users::Waking;
use genie_projections::accounts::AccountRow;
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;
use tokio::time::Instant;
use uuid::Uuid;

use super::{ActingUser, NOT_FOR_OWN_KEYS, NOT_FOR_USERS, UserCaller};
use crate::{
    app::App,
    http::{admission, directus, error::ApiError, request, route_rules},
    identity::{
        callers::KnownKey,
        impersonation,
        secret_limiter::{SecretKind, ShownSecret, StoppedSecret},
        signature::BadToken,
        token::AccessClaims,
    },
};

pub const SECRET_HEADER: &str = "X-RBAC-SYNC-SECRET";
/// A token's account may take this long to show in the read side, after a registration or a start.
pub const ACCOUNT_WAIT: Duration = Duration::from_secs(5);

pub enum TokenHolder {
    User(UserCaller),
    /// An administrator who acts for the user of this account.
    Impersonator(ActingUser),
    ServiceKey(Caller),
    /// A program with a key of the user's own.
    OwnKey(OwnKeyHolder),
}

/// The holder of a user's own key, whose scopes are not yet held against the route.
pub struct OwnKeyHolder {
    user: ActingUser,
    scopes: Vec<ApiScope>,
}

impl OwnKeyHolder {
    /// The user whom the key stands for, if one of its scopes opens the route of the request.
    pub fn on_route(self, request: &HttpRequest) -> Result<ActingUser, ApiError> {
        let rule = route_rules::of(request);
        let wanted = rule.and_then(|rule| rule.own_key).ok_or(NOT_FOR_OWN_KEYS)?;
        if self.scopes.contains(&wanted) || self.scopes.contains(&ApiScope::Api) {
            return Ok(self.user);
        }
        Err(ApiError::ScopeNeeded(wanted.as_str()))
    }
}

pub fn app(request: &HttpRequest) -> Result<Data<App>, ApiError> {
    request
        .app_data::<Data<App>>()
        .cloned()
        .ok_or_else(|| ApiError::Internal("the app is not wired".into()))
}

/// The one token of a request; `None` without any. Several tokens, in whatever way, are an error (RFC 6750, section
/// 2). A token in the address does not count, because addresses end up in logs (section 5.3).
pub fn token(request: &HttpRequest) -> Result<Option<&str>, ApiError> {
    let in_address = request
        .query_string()
        .split('&')
        .filter(|pair| pair.split('=').next() == Some("access_token"))
        .count();
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let first = headers.next();
    if usize::from(first.is_some()) + headers.count() + in_address > 1 {
        return Err(ApiError::TwoTokens);
    }
    let (scheme, token) = first
        .and_then(|value| value.to_str().ok()?.split_once(' '))
        .unwrap_or(("", ""));
    Ok(Some(token.trim()).filter(|_| scheme.eq_ignore_ascii_case("bearer")))
}

/// True when the token has the form of a service key.
pub fn is_service_key(token: &str) -> bool {
    token.starts_with(service_keys::PREFIX)
}

pub async fn token_holder(request: &HttpRequest) -> Result<TokenHolder, ApiError> {
    let app = app(request)?;
    let token = token(request)?.ok_or(ApiError::NoCaller)?;
    if is_service_key(token) {
        return key_holder(&app, request, token).await;
    }
    // Nearly every token is an access token, so impersonations are tried after genie's own.
    let access = match &app.directus {
        Some(_) => Err(BadToken::Invalid), // none is genie's own
        None => app.tokens.check(token),
    };
    let (account, login) = match access {
        Ok(claims) => (holder(&app, &claims).await?, Some(claims.sid)),
        Err(BadToken::Expired) => return Err(ApiError::Expired),
        Err(bad) => match (app.impersonations.check(token), &app.directus) {
            (Ok(claims), _) => {
                return impersonator(&app, request, &claims)
                    .await
                    .map(TokenHolder::Impersonator);
            }
            (Err(BadToken::Expired), _) => return Err(ApiError::Expired),
            (Err(_), None) => return Err(not_issued(&app, request, bad.into())),
            (Err(_), Some(directus)) => {
                let account = directus::authenticate(&app, directus, request, token).await?;
                (Arc::new(account), None)
            }
        },
    };
    user_of_account(&app, request, account, login).map(TokenHolder::User)
}

/// The user of an access token, or of a ticket.
pub fn user_of_account(
    app: &App,
    request: &HttpRequest,
    account: Arc<AccountRow>,
    login: Option<Uuid>,
) -> Result<UserCaller, ApiError> {
    request::log_user(account.user);
    admission::count_user(app, request, account.user)?;
    let account = active(account)?;
    Ok(UserCaller {
        caller: Caller::user(account.user, account.admin, request::current_id()),
        account,
        login,
    })
}

/// The account of the holder of one of genie's own access tokens, whose login must last.
async fn holder(app: &App, claims: &AccessClaims) -> Result<Arc<AccountRow>, ApiError> {
    match app.callers.login(claims.id, claims.sid).await? {
        Some(account) => Ok(account),
        None => new_login(app, claims.id, claims.sid).await,
    }
}

/// The account of a user who registered so lately that the read side does not show it.
async fn new_login(app: &App, user: UserId, login: Uuid) -> Result<Arc<AccountRow>, ApiError> {
    if app.reads.accounts.get(user).await?.is_none() {
        account_of(app, user, ACCOUNT_WAIT).await?;
    }
    app.callers
        .login(user, login)
        .await?
        .ok_or(ApiError::NoCaller)
}

/// An administrator who acts for a user. The token alone proves nothing: the impersonation must last, its
/// administrator must still be one, and its user must not be one.
async fn impersonator(
    app: &App,
    request: &HttpRequest,
    claims: &impersonation::ImpersonationClaims,
) -> Result<ActingUser, ApiError> {
    let lasting = app
        .log
        .impersonations()
        .get(claims.session, app.log.clock().now())
        .await?;
    let lasting = lasting
        .filter(|one| (one.user, one.by) == (claims.user, claims.by))
        .ok_or(ApiError::NoCaller)?;
    let by = active(
        account_of(app, lasting.by, ACCOUNT_WAIT)
            .await?
            .ok_or(ApiError::NoCaller)?,
    )?;
    let account = active(
        account_of(app, lasting.user, ACCOUNT_WAIT)
            .await?
            .ok_or(ApiError::NoCaller)?,
    )?;
    request::log_user(by.user);
    // The administrator's rate applies, not the user's.
    admission::count_user(app, request, by.user)?;
    for one in [&by, &account] {
        directus::expect_unchanged(app, request, one).await?;
    }
    // The user's row may be some moments old, so only the log says that the user administers.
    let is_administrator = account.admin && administers(app, account.user).await?;
    if is_administrator || !administers(app, by.user).await? {
        return Err(ApiError::NoCaller);
    }
    Ok(ActingUser {
        caller: Caller::impersonator(by.user, account.user, request::current_id()),
        account,
    })
}

/// True when the user administers now. Other users' streams fence what an administrator does, not the administrator's
/// own. So the log is asked: the account's row may be some moments old.
async fn administers(app: &App, user: UserId) -> Result<bool, ApiError> {
    match app.log.users().wake(user).await? {
        Waking::Awake(awake) => Ok(awake
            .user
            .account()
            .active()
            .is_ok_and(|profile| profile.admin)),
        Waking::Forgotten => Ok(false),
    }
}

/// Refuses a user who no longer administers, whatever the account's row said.
pub async fn still_administers(app: &App, user: UserId) -> Result<(), ApiError> {
    if administers(app, user).await? {
        return Ok(());
    }
    Err(NOT_FOR_USERS)
}

/// The service key of a server; `None` for a key of a user's own.
pub async fn service_key(
    app: &App,
    request: &HttpRequest,
    key: &str,
) -> Result<Option<Caller>, ApiError> {
    match key_holder(app, request, key).await? {
        TokenHolder::ServiceKey(caller) => Ok(Some(caller)),
        _ => Ok(None),
    }
}

async fn key_holder(app: &App, request: &HttpRequest, key: &str) -> Result<TokenHolder, ApiError> {
    let shown = app.secret_limiter.shown(
        SecretKind::ServiceKey,
        request::client_address(request),
        key.as_bytes(),
    );
    may_be_right(app, &shown)?;
    let (id, known) = match app.callers.key(key).await? {
        Some(found) => found,
        None => {
            app.secret_limiter.was_wrong(shown, Instant::now());
            return Err(ApiError::NoCaller);
        }
    };
    app.secret_limiter.was_right(shown);
    request::log_key(&id.to_string());
    let now = app.log.clock().now();
    match &*known {
        KnownKey::Service(state) => {
            let key = state.opens(now).ok_or(ApiError::NoCaller)?;
            let scopes = key.scopes.clone();
            let caller = Caller::service_key(id, scopes, request::current_id());
            Ok(TokenHolder::ServiceKey(caller))
        }
        KnownKey::OfUser { user, grant } => {
            let grant = grant.as_ref().filter(|grant| grant.is_open(now));
            let scopes = grant.ok_or(ApiError::NoCaller)?.scopes.clone();
            let user = user_of_key(app, request, *user, id).await?;
            Ok(TokenHolder::OwnKey(OwnKeyHolder { user, scopes }))
        }
    }
}

/// The user of a user's own key, who must be able to act.
async fn user_of_key(
    app: &App,
    request: &HttpRequest,
    user: UserId,
    key: ServiceKeyId,
) -> Result<ActingUser, ApiError> {
    let account = account_of(app, user, ACCOUNT_WAIT).await?;
    let account = account.ok_or(ApiError::NoCaller)?;
    directus::expect_unchanged(app, request, &account).await?;
    let user = user_of_account(app, request, account, None)?;
    Ok(ActingUser {
        caller: Caller::own_key(user.account.user, key, request::current_id()),
        account: user.account,
    })
}

/// Counts a token that its issuer did not make. `refusal` is the answer to the first of them.
pub fn not_issued(app: &App, request: &HttpRequest, refusal: ApiError) -> ApiError {
    match app
        .secret_limiter
        .was_forged(request::client_address(request), Instant::now())
    {
        Ok(()) => refusal,
        Err(stop) => stop.into(),
    }
}

fn may_be_right(app: &App, shown: &ShownSecret) -> Result<(), ApiError> {
    Ok(app.secret_limiter.may_be_right(shown, Instant::now())?)
}

impl From<StoppedSecret> for ApiError {
    fn from(stop: StoppedSecret) -> Self {
        match stop {
            StoppedSecret::WasWrong => Self::NoCaller,
            StoppedSecret::TooMany { retry_after } => Self::TooManyWrong { retry_after },
        }
    }
}

impl From<BadToken> for ApiError {
    fn from(bad: BadToken) -> Self {
        match bad {
            BadToken::Expired => Self::Expired,
            BadToken::Forged => Self::Forged,
            BadToken::Invalid => Self::NoCaller,
        }
    }
}

fn active(account: Arc<AccountRow>) -> Result<Arc<AccountRow>, ApiError> {
    match account.status.as_str() {
        "active" => Ok(account),
        _ => Err(ApiError::NoCaller),
    }
}

/// The account of a user whom the log knows. Waits for the read side when it is behind.
pub async fn account_of(
    app: &App,
    user: UserId,
    wait: Duration,
) -> Result<Option<Arc<AccountRow>>, ApiError> {
    if let Some(account) = app.callers.account(user).await? {
        return Ok(Some(account));
    }
    if app.log.keys().has_dropped(user) {
        return Ok(None); // forgotten
    }
    app.reads
        .wait_for("accounts", app.log.reader().head(), wait)
        .await?;
    Ok(app.callers.account(user).await?)
}

/// The holder of the shared secret; `None` when the header is absent.
pub fn secret_holder(request: &HttpRequest) -> Result<Option<Caller>, ApiError> {
    let mut headers = request.headers().get_all(SECRET_HEADER);
    let Some(given) = headers.next() else {
        return Ok(None);
    };
    if headers.next().is_some() {
        return Err(ApiError::TwoTokens);
    }
    let app = app(request)?;
    let wanted = app
        .config
        .shared_secret
        .as_ref()
        .ok_or(ApiError::SecretNotConfigured)?;
    let shown = app.secret_limiter.shown(
        SecretKind::Secret,
        request::client_address(request),
        given.as_bytes(),
    );
    may_be_right(&app, &shown)?;
    if !bool::from(given.as_bytes().ct_eq(wanted.expose_secret().as_bytes())) {
        app.secret_limiter.was_wrong(shown, Instant::now());
        return Err(ApiError::NoCaller);
    }
    app.secret_limiter.was_right(shown);
    request::log_key("shared secret");
    let is_original = route_rules::of(request).is_some_and(|rule| rule.is_original);
    if app.config.secret_is_narrow && !is_original {
        return Err(ApiError::Forbidden(
            "The shared secret does not open this route here; use a service key",
        ));
    }
    Ok(Some(Caller::shared_secret(request::current_id())))
}

/// The refusal of a request without the secret on a route that wants it: `not_enough` if its token is good all the
/// same.
pub async fn no_secret(request: &HttpRequest, not_enough: ApiError) -> ApiError {
    match token(request) {
        Ok(Some(_)) => token_holder(request).await.err().unwrap_or(not_enough),
        Ok(None) => match app(request) {
            Ok(app) if app.config.shared_secret.is_none() => ApiError::SecretNotConfigured,
            Ok(_) => ApiError::NoCaller,
            Err(error) => error,
        },
        Err(two) => two,
    }
}
