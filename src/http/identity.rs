//! Registration, login and one's own account, on Directus' own wire (contract, section 2).

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{HeaderName, HeaderValue, USER_AGENT},
    web::{Data, Query},
};
use genie_actors::{
    WriteError,
    accounts::{LoginProof, NewFamily, change_login::LoginChange},
    registration::Applicant,
};
use genie_events::{Metadata, UserId, account::OneTimeCode, email};
use genie_log::sessions::{Refresh as Rotation, Refreshed};
use genie_projections::accounts::AccountRow;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::{
    app::App,
    http::{
        body::Body,
        caller::{DirectusActingUser, DirectusUser, UserCaller, account_of},
        error::{ApiError, DirectusError},
        read_your_writes, request, response,
    },
    identity::{
        login_limiter::Guesser,
        refresh::{REFRESH_SECONDS, RefreshToken},
        token::ACCESS_SECONDS,
        two_factor::OtpSecret,
    },
};

/// One-time codes, on Directus' own routes.
pub mod two_factor;

/// The shortest password.
const MIN_PASSWORD: usize = 8;
/// The longest: more is no safer, and hashing it costs.
const MAX_PASSWORD: usize = 1024;

#[derive(Deserialize)]
pub struct Registration {
    pub email: String,
    pub password: SecretString,
    #[serde(rename = "firstName")]
    pub first_name: Option<String>,
    #[serde(rename = "inviteCode")]
    pub invite_code: String,
}

/// `POST /api/register`
pub async fn register(
    app: Data<App>,
    Body(body): Body<Registration>,
) -> Result<HttpResponse, ApiError> {
    check_registration(&body)?;
    let applicant = Applicant {
        email: body.email,
        password_hash: app.passwords.hash(body.password).await?,
        first_name: body.first_name,
        invite_code: body.invite_code,
    };
    let metadata = Metadata {
        request_id: Some(request::current_id()),
        ..Metadata::system()
    };
    let registered = app.write.registration.register(applicant, metadata).await?;
    Ok(response::written(
        json!({"userId": registered.user}),
        registered.position,
    ))
}

/// What can be said of a registration without asking anybody.
pub fn check_registration(body: &Registration) -> Result<(), ApiError> {
    check_password(&body.password)?;
    match &body.first_name {
        Some(name) if name.chars().count() > 200 => Err(ApiError::field(
            "`firstName` must be at most 200 characters",
        )),
        _ => Ok(()),
    }
}

/// A password that somebody wants to have from now on.
pub fn check_password(password: &SecretString) -> Result<(), ApiError> {
    match password.expose_secret().len() {
        MIN_PASSWORD..=MAX_PASSWORD => Ok(()),
        _ => Err(ApiError::field(format!(
            "`password` must have {MIN_PASSWORD} to {MAX_PASSWORD} bytes"
        ))),
    }
}

#[derive(Deserialize)]
pub struct Login {
    email: String,
    password: SecretString,
    otp: Option<SecretString>,
    mode: Option<String>,
}

/// `POST /auth/login`. Right or wrong, known or not, it takes the same time.
pub async fn log_in(
    app: Data<App>,
    request: HttpRequest,
    body: Result<Body<Login>, ApiError>,
) -> Result<HttpResponse, DirectusError> {
    let Body(body) = body.map_err(DirectusError)?;
    check_mode(body.mode.as_deref())?;
    let began = Instant::now();
    let account = email::normalise(&body.email).unwrap_or_else(|| body.email.clone());
    let guesser = Guesser::new(
        request::client_address(&request),
        app.log.hashes().email(&account).0,
    );
    check_guesser(&app, &guesser)?;
    let agent = request
        .headers()
        .get(USER_AGENT)
        .and_then(|agent| agent.to_str().ok())
        .map(str::to_owned);
    let answered = prove_and_open(&app, body, agent).await;
    if matches!(answered, Err(DirectusError(ApiError::NoCaller))) {
        app.login_limiter.count(&guesser, Instant::now());
    }
    tokio::time::sleep_until(began + app.config.login_stall).await;
    answered
}

/// Whoever was wrong too often has to wait.
pub fn check_guesser(app: &App, guesser: &Guesser) -> Result<(), DirectusError> {
    match app.login_limiter.wait(guesser, Instant::now()) {
        Some(retry_after) => Err(DirectusError(ApiError::TooManyWrong { retry_after })),
        None => Ok(()),
    }
}

async fn prove_and_open(
    app: &App,
    login: Login,
    agent: Option<String>,
) -> Result<HttpResponse, DirectusError> {
    let user = app.write.emails.holder(&login.email).await?;
    let password = right_password(app, user, login.password).await?;
    let (Some(user), Some(password)) = (user, password) else {
        return Err(DirectusError(ApiError::NoCaller));
    };
    let Some(otp) = &login.otp else {
        return open_session(
            app,
            user,
            LoginProof {
                password,
                code: None,
            },
            agent,
        )
        .await;
    };
    trying_a_code(app, user, async {
        let code = right_code(app, user, otp).await?;
        open_session(app, user, LoginProof { password, code }, agent).await
    })
    .await
}

/// A try of a one-time code: counted first, so that many at once are no more than many in a row, and given back unless it was wrong.
async fn trying_a_code<T>(
    app: &App,
    user: UserId,
    trying: impl Future<Output = Result<T, DirectusError>>,
) -> Result<T, DirectusError> {
    let guesser = Guesser::of_codes(user.to_string());
    check_guesser(app, &guesser)?;
    app.login_limiter.count(&guesser, Instant::now());
    let tried = trying.await;
    if !matches!(
        tried,
        Err(DirectusError(
            ApiError::InvalidOtp | ApiError::Invalid { .. }
        ))
    ) {
        app.login_limiter.give_back(&guesser);
    }
    tried
}

/// The version of the hash that a password is right for. It takes as long when there is nobody.
async fn right_password(
    app: &App,
    user: Option<UserId>,
    password: SecretString,
) -> Result<Option<u32>, DirectusError> {
    let held = match user {
        Some(user) => app.write.accounts.password_hash(user).await?,
        None => None,
    };
    let (version, hash) = held.unzip();
    let hash = hash.and_then(|hash| String::from_utf8(hash.to_vec()).ok());
    let is_right = app.passwords.check(password, hash).await?;
    Ok(version.filter(|_| is_right))
}

/// A one-time code that is right now. Whether it was used before, the account knows.
async fn right_code(
    app: &App,
    user: UserId,
    otp: &SecretString,
) -> Result<Option<OneTimeCode>, DirectusError> {
    let Some((version, secret)) = app.write.accounts.two_factor_secret(user).await? else {
        return Ok(None);
    };
    let step = OtpSecret::from_bytes(secret.to_vec())
        .and_then(|held| held.step_of(otp, app.log.clock().now()));
    Ok(step.map(|step| OneTimeCode { version, step }))
}

async fn open_session(
    app: &App,
    user: UserId,
    proof: LoginProof,
    agent: Option<String>,
) -> Result<HttpResponse, DirectusError> {
    let token = app.refresh_tokens.first(app.log.clock().new_uuid());
    let family = NewFamily {
        family: token.family,
        token_hash: token.hash(),
        agent,
        seconds: REFRESH_SECONDS,
    };
    let metadata = Metadata::user(user, &request::current_id());
    let done = app
        .write
        .accounts
        .sign_in(user, proof, family, metadata)
        .await
        .map_err(|error| match error {
            WriteError::Refused(refusal) if refusal.code == "invalid_otp" => {
                DirectusError(ApiError::InvalidOtp)
            }
            // Who is suspended or forgotten looks like a wrong password.
            WriteError::Refused(_) => DirectusError(ApiError::NoCaller),
            error => error.into(),
        })?;
    // The token says what they are now; when the read side is slow, what they were a moment ago.
    let _ = app
        .reads
        .wait_for("accounts", done.position, app.config.read_wait)
        .await;
    Ok(with_position(
        tokens(app, user, &token).await?,
        done.position,
    ))
}

fn with_position(mut response: HttpResponse, position: u64) -> HttpResponse {
    if let Ok(position) = HeaderValue::from_str(&response::opaque(position)) {
        response
            .headers_mut()
            .insert(HeaderName::from_static("genie-position"), position);
    }
    response
}

async fn tokens(
    app: &App,
    user: UserId,
    refresh_token: &RefreshToken,
) -> Result<HttpResponse, DirectusError> {
    let account = account_of(app, user, app.config.read_wait)
        .await
        .map_err(DirectusError)?;
    let account = account.ok_or(DirectusError(ApiError::NoCaller))?;
    if account.status != "active" {
        return Err(DirectusError(ApiError::NoCaller));
    }
    let now = app.log.clock().now();
    let access = app.tokens.access(
        user,
        &account.role,
        account.admin,
        refresh_token.family,
        now,
    );
    let access = access
        .ok_or_else(|| DirectusError(ApiError::Internal("a token could not be signed".into())))?;
    Ok(HttpResponse::Ok().json(json!({"data": {
        "access_token": access,
        "refresh_token": refresh_token.text.expose_secret(),
        "expires": ACCESS_SECONDS * 1000,
    }})))
}

#[derive(Deserialize)]
pub struct Refresh {
    refresh_token: SecretString,
    mode: Option<String>,
}

/// `POST /auth/refresh`. Tabs that come with one token at once all get the same successor. A token that was replaced long ago
/// ends its login: a thief has it, or its owner does and a thief has its successor.
pub async fn refresh(
    app: Data<App>,
    body: Result<Body<Refresh>, ApiError>,
) -> Result<HttpResponse, DirectusError> {
    let Body(body) = body.map_err(DirectusError)?;
    check_mode(body.mode.as_deref())?;
    let Some(old) = app.refresh_tokens.read(&body.refresh_token) else {
        return Err(DirectusError(ApiError::NoCaller));
    };
    let successor = app.refresh_tokens.successor(&old);
    let now = app.log.clock().now();
    let rotation = Rotation {
        family: old.family.to_string(),
        old_hash: old.hash(),
        new_hash: successor.hash(),
        now,
        expires_at: now.plus_seconds(REFRESH_SECONDS),
    };
    match app.write.accounts.refresh_session(rotation).await? {
        Refreshed::Good(user) => tokens(&app, user, &successor).await,
        Refreshed::Over => Err(DirectusError(ApiError::NoCaller)),
        Refreshed::Reused(user) => {
            let metadata = Metadata {
                request_id: Some(request::current_id()),
                ..Metadata::system()
            };
            app.write
                .accounts
                .end_reused(user, old.family.to_string(), metadata)
                .await?;
            Err(DirectusError(ApiError::NoCaller))
        }
    }
}

/// `POST /auth/logout`. Any token of a login ends it.
pub async fn log_out(
    app: Data<App>,
    body: Result<Body<Refresh>, ApiError>,
) -> Result<HttpResponse, DirectusError> {
    let Body(body) = body.map_err(DirectusError)?;
    check_mode(body.mode.as_deref())?;
    if let Some(token) = app.refresh_tokens.read(&body.refresh_token) {
        app.write.accounts.log_out(token.family).await?;
    }
    Ok(HttpResponse::NoContent().finish())
}

fn check_mode(mode: Option<&str>) -> Result<(), DirectusError> {
    match mode {
        None | Some("json") => Ok(()),
        Some(_) => Err(DirectusError(ApiError::field("`mode` must be `json`"))),
    }
}

#[derive(Deserialize)]
pub struct NewPassword {
    token: SecretString,
    password: SecretString,
}

/// `POST /auth/password/reset`
pub async fn reset_password(
    app: Data<App>,
    body: Result<Body<NewPassword>, ApiError>,
) -> Result<HttpResponse, DirectusError> {
    let Body(body) = body.map_err(DirectusError)?;
    check_password(&body.password).map_err(DirectusError)?;
    let user = app
        .write
        .accounts
        .check_reset(&body.token, Metadata::system())
        .await?;
    let hash = app.passwords.hash(body.password).await?;
    let metadata = Metadata::user(user, &request::current_id());
    let done = app
        .write
        .accounts
        .reset_password(&body.token, hash, metadata)
        .await?;
    Ok(with_position(
        HttpResponse::NoContent().finish(),
        done.position,
    ))
}

#[derive(Deserialize)]
pub struct Changes {
    email: Option<String>,
    password: Option<SecretString>,
    old_password: Option<SecretString>,
}

/// `PATCH /users/me`
pub async fn change_me(
    app: Data<App>,
    request: HttpRequest,
    DirectusUser(caller): DirectusUser,
    body: Result<Body<Changes>, ApiError>,
) -> Result<HttpResponse, DirectusError> {
    let Body(Changes {
        email,
        password,
        old_password,
    }) = body.map_err(DirectusError)?;
    if email.is_none() && password.is_none() {
        return Err(DirectusError(ApiError::field(
            "`email` or `password` must be given; nothing else can be changed here",
        )));
    }
    if email
        .as_deref()
        .is_some_and(|email| email::normalise(email).is_none())
    {
        return Err(DirectusError(ApiError::field(
            "`email` must be an e-mail address",
        )));
    }
    if let Some(password) = &password {
        check_password(password).map_err(DirectusError)?;
    }
    let old =
        old_password.ok_or_else(|| DirectusError(ApiError::field("`old_password` is missing")))?;
    let from = prove_again(&app, &request, &caller, old).await?;
    let password_hash = match password {
        Some(password) => Some(app.passwords.hash(password).await?),
        None => None,
    };
    let revision = LoginChange {
        from,
        password_hash,
        email,
        keep: caller.login.map(|login| login.to_string()),
    };
    let id = caller.account.user;
    let position = app
        .write
        .accounts
        .change_login(id, &revision, caller.caller.metadata())
        .await
        .map_err(|error| match error {
            WriteError::Refused(refusal) if refusal.code == "wrong_password" => {
                DirectusError(ApiError::NoCaller)
            }
            error => error.into(),
        })?;
    // It is changed, however slow the read side is.
    let _ = app
        .reads
        .wait_for("accounts", position, app.config.read_wait)
        .await;
    let account = app
        .reads
        .accounts
        .get(id)
        .await?
        .ok_or(DirectusError(ApiError::NoCaller))?;
    Ok(with_position(shown(&account, &request)?, position))
}

/// Checks the password of somebody who has a token already: a token alone may have been stolen. Wrong ones count as at a login.
pub async fn prove_again(
    app: &App,
    request: &HttpRequest,
    caller: &UserCaller,
    password: SecretString,
) -> Result<u32, DirectusError> {
    let user = caller.account.user;
    let guesser = Guesser::new(request::client_address(request), user.to_string());
    check_guesser(app, &guesser)?;
    let right = right_password(app, Some(user), password).await?;
    right.ok_or_else(|| {
        app.login_limiter.count(&guesser, Instant::now());
        DirectusError(ApiError::NoCaller)
    })
}

/// `GET /users/me`
pub async fn show_me(
    app: Data<App>,
    request: HttpRequest,
    DirectusActingUser(user): DirectusActingUser,
) -> Result<HttpResponse, DirectusError> {
    let id = user.account.user;
    read_your_writes::wait(&app, &request, "accounts", Some(id))
        .await
        .map_err(DirectusError)?;
    let account = app
        .reads
        .accounts
        .get(id)
        .await?
        .ok_or(DirectusError(ApiError::NoCaller))?;
    shown(&account, &request)
}

/// An account with the fields that were asked for; those that it has not are left out, as Directus does.
fn shown(account: &AccountRow, request: &HttpRequest) -> Result<HttpResponse, DirectusError> {
    let all = json!({
        "id": account.user, "email": account.email, "first_name": account.first_name, "last_name": null,
        "role": account.role, "status": account.status, "tier": account.tier, "onboarding": account.onboarding,
        // Directus shows that there is a secret, and never the secret.
        "tfa_secret": account.two_factor.then_some("**********"),
        "created_at": account.created_at.rfc3339(),
    });
    let query =
        Query::<Vec<(String, String)>>::from_query(request.query_string()).map_err(|_| {
            DirectusError(ApiError::field(
                "The query can't be read: a field has the wrong form",
            ))
        })?;
    let asked = query
        .iter()
        .filter(|(name, _)| name == "fields" || name == "fields[]");
    let wanted: Vec<&str> = asked
        .flat_map(|(_, fields)| fields.split(','))
        .map(str::trim)
        .collect();
    let is_wanted =
        |field: &str| wanted.is_empty() || wanted.contains(&"*") || wanted.contains(&field);
    let fields: Map<String, Value> = match all {
        Value::Object(all) => all
            .into_iter()
            .filter(|(field, _)| is_wanted(field))
            .collect(),
        _ => Map::new(),
    };
    Ok(HttpResponse::Ok().json(json!({"data": fields})))
}
