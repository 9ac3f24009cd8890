//! Registration and login, on Directus' own wire (contract, section 2).

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web::Data};
use genie_actors::register::Applicant;
use genie_events::{Metadata, User, UserCommand, UserId};
use genie_log::{Work, keys::sha256_hex};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

use crate::{
    app::App,
    http::{
        answer,
        body::Body,
        caller::{DirectusActingUser, account_of},
        consistency,
        error::{ApiError, DirectusError},
        request,
    },
    identity::token::{ACCESS_SECONDS, REFRESH_SECONDS, new_refresh_token},
};

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
pub async fn register(app: Data<App>, Body(body): Body<Registration>) -> Result<HttpResponse, ApiError> {
    check_registration(&body)?;
    let applicant = Applicant {
        email: body.email,
        password_hash: app.passwords.hash(body.password).await?,
        first_name: body.first_name,
        invite_code: body.invite_code,
    };
    let metadata = Metadata { request_id: Some(request::current_id()), ..Metadata::system() };
    let registered = app.write.register.register(applicant, metadata).await?;
    Ok(answer::written(json!({"userId": registered.user}), registered.position))
}

/// What can be said of a registration without asking anybody.
pub fn check_registration(body: &Registration) -> Result<(), ApiError> {
    check_password(&body.password)?;
    match &body.first_name {
        Some(name) if name.chars().count() > 200 => Err(ApiError::field("`firstName` must be at most 200 characters")),
        _ => Ok(()),
    }
}

fn check_password(password: &SecretString) -> Result<(), ApiError> {
    use secrecy::ExposeSecret;
    match password.expose_secret().len() {
        MIN_PASSWORD..=MAX_PASSWORD => Ok(()),
        _ => Err(ApiError::field(format!("`password` must have {MIN_PASSWORD} to {MAX_PASSWORD} bytes"))),
    }
}

#[derive(Deserialize)]
pub struct Login {
    email: String,
    password: SecretString,
    mode: Option<String>,
}

/// `POST /auth/login`
pub async fn log_in(app: Data<App>, body: Result<Body<Login>, ApiError>) -> Result<HttpResponse, DirectusError> {
    let Body(body) = body.map_err(DirectusError)?;
    check_mode(body.mode.as_deref())?;
    let user = app.write.register.holder(&body.email).await?;
    let stored = match user {
        Some(user) => app.write.vault.password_hash(user).await?,
        None => None,
    };
    let stored = stored.and_then(|hash| String::from_utf8(hash.to_vec()).ok());
    let is_right = app.passwords.check(body.password, stored).await?;
    let Some(user) = user.filter(|_| is_right) else { return Err(DirectusError(ApiError::NoCaller)) };
    open_session(&app, user).await
}

async fn open_session(app: &App, user: UserId) -> Result<HttpResponse, DirectusError> {
    let refresh_token = new_refresh_token();
    let now = app.log.clock().now();
    let session = Work::OpenSession {
        user,
        token_hash: sha256_hex(refresh_token.as_bytes()),
        family: app.log.clock().new_uuid().to_string(),
        expires_at: now.plus_seconds(REFRESH_SECONDS),
    };
    let planner = move |state: &User, now| {
        let changes = state.decide(now, UserCommand::SignIn)?;
        Ok(genie_actors::users::Plan { changes, work: vec![session.clone()], ..Default::default() })
    };
    let metadata = Metadata::user(user, &request::current_id());
    let done = app.write.users.plan(user, None, metadata, Arc::new(planner)).await;
    let done = done.map_err(|error| match error {
        // A suspended or forgotten user looks like a wrong password.
        genie_actors::WriteError::Refused(_) | genie_actors::WriteError::Forgotten => DirectusError(ApiError::NoCaller),
        error => error.into(),
    })?;
    let mut response = tokens(app, user, refresh_token).await?;
    if let Ok(position) = actix_web::http::header::HeaderValue::from_str(&answer::opaque(done.position)) {
        response.headers_mut().insert(actix_web::http::header::HeaderName::from_static("genie-position"), position);
    }
    Ok(response)
}

async fn tokens(app: &App, user: UserId, refresh_token: String) -> Result<HttpResponse, DirectusError> {
    let account = account_of(app, user, app.config.read_wait).await.map_err(DirectusError)?;
    let account = account.ok_or(DirectusError(ApiError::NoCaller))?;
    if account.status != "active" {
        return Err(DirectusError(ApiError::NoCaller));
    }
    let access = app.tokens.access(user, &account.role, account.admin, app.log.clock().now());
    let access = access.ok_or_else(|| DirectusError(ApiError::Internal("a token could not be signed".into())))?;
    Ok(HttpResponse::Ok().json(json!({"data": {
        "access_token": access, "refresh_token": refresh_token, "expires": ACCESS_SECONDS * 1000,
    }})))
}

#[derive(Deserialize)]
pub struct Refresh {
    refresh_token: SecretString,
    mode: Option<String>,
}

/// `POST /auth/refresh`
pub async fn refresh(app: Data<App>, body: Result<Body<Refresh>, ApiError>) -> Result<HttpResponse, DirectusError> {
    let Body(body) = body.map_err(DirectusError)?;
    check_mode(body.mode.as_deref())?;
    let successor = new_refresh_token();
    let now = app.log.clock().now();
    let (old, new) = (hash(&body.refresh_token), sha256_hex(successor.as_bytes()));
    let user = app.log.rotate_session(&old, &new, now, now.plus_seconds(REFRESH_SECONDS)).await?;
    tokens(&app, user.ok_or(DirectusError(ApiError::NoCaller))?, successor).await
}

/// `POST /auth/logout`
pub async fn log_out(app: Data<App>, body: Result<Body<Refresh>, ApiError>) -> Result<HttpResponse, DirectusError> {
    let Body(body) = body.map_err(DirectusError)?;
    check_mode(body.mode.as_deref())?;
    app.log.end_session(&hash(&body.refresh_token)).await?;
    Ok(HttpResponse::NoContent().finish())
}

fn hash(token: &SecretString) -> String {
    use secrecy::ExposeSecret;
    sha256_hex(token.expose_secret().as_bytes())
}

fn check_mode(mode: Option<&str>) -> Result<(), DirectusError> {
    match mode {
        None | Some("json") => Ok(()),
        Some(_) => Err(DirectusError(ApiError::field("`mode` must be `json`"))),
    }
}

/// `GET /users/me`
pub async fn show_me(
    app: Data<App>,
    request: HttpRequest,
    DirectusActingUser(user): DirectusActingUser,
) -> Result<HttpResponse, DirectusError> {
    let id = user.account.user;
    consistency::wait(&app, &request, "accounts", Some(id)).await.map_err(DirectusError)?;
    let account = app.reads.accounts.get(id).await?.ok_or(DirectusError(ApiError::NoCaller))?;
    Ok(HttpResponse::Ok().json(json!({"data": {
        "id": account.user, "email": account.email, "first_name": account.first_name, "role": account.role,
        "status": account.status, "tier": account.tier, "created_at": account.created_at.rfc3339(),
    }})))
}
