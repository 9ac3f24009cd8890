//! Registration, login and the caller's own account, in Directus' shape (docs/api.md, Identity).

use actix_web::{
    HttpRequest,
    http::header::USER_AGENT,
    web::{Data, Json},
};
use genie_actors::{
    WriteError,
    accounts::{LoginProof, NewFamily},
    registration::Applicant,
};
use genie_events::{EmailAddress, InviteCode, Metadata, UserId, UserName, account::OneTimeCode};
use genie_log::sessions::{Refresh, Refreshed};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        body::Body,
        caller::{DirectusActingUser, UserCaller, account_of},
        error::{ApiError, DirectusError},
        input,
        read_your_writes::MinPosition,
        request,
        response::{DirectusData, NoContent, Written},
    },
    identity::{
        login_limiter::Guesser,
        refresh::{REFRESH_SECONDS, RefreshToken},
        token::ACCESS_SECONDS,
        two_factor::OtpSecret,
    },
};

pub mod passwords;
pub mod two_factor;

mod account_changes;
mod account_fields;

pub use account_changes::change_me;
pub use account_fields::{AccountFields, FieldsQuery};

/// In bytes.
const MIN_PASSWORD: usize = 8;
/// In bytes. More is no safer, and hashing it costs time.
const MAX_PASSWORD: usize = 1024;

#[derive(Deserialize, ToSchema)]
#[schema(as = Registration)]
pub struct RegistrationRequest {
    /// At most 254 bytes. Upper and lower case make no difference, nor do characters that nobody sees and the two
    /// spellings of an international domain.
    pub email: String,
    /// 8 to 1024 bytes.
    #[schema(value_type = String, format = Password)]
    #[serde(deserialize_with = "input::whole")]
    pub password: SecretString,
    /// At most 200 characters.
    #[serde(rename = "firstName")]
    #[schema(max_length = 200)]
    pub first_name: Option<String>,
    /// White space, hyphens, and upper and lower case make no difference.
    #[serde(rename = "inviteCode")]
    pub invite_code: String,
}

/// A registration that was read. It needed neither the store nor Directus.
pub struct CheckedRegistration {
    pub email: EmailAddress,
    pub password: SecretString,
    pub first_name: Option<UserName>,
    pub invite_code: InviteCode,
}

impl RegistrationRequest {
    pub fn checked(self) -> Result<CheckedRegistration, ApiError> {
        check_password(&self.password)?;
        Ok(CheckedRegistration {
            email: EmailAddress::read(&self.email)?,
            password: self.password,
            first_name: UserName::read(
                "firstName",
                self.first_name.as_deref().unwrap_or_default(),
            )?,
            invite_code: InviteCode::read(&self.invite_code)?,
        })
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = RegisteredUser)]
pub struct RegisteredUserAnswer {
    #[serde(rename = "userId")]
    #[schema(value_type = Uuid)]
    pub user: UserId,
}

/// `POST /api/register`
pub async fn register(
    app: Data<App>,
    request: HttpRequest,
    Body(body): Body<RegistrationRequest>,
) -> Result<Written<RegisteredUserAnswer>, ApiError> {
    let checked = body.checked()?;
    check_invite(&app, &request, &checked.invite_code).await?;
    let applicant = Applicant {
        email: checked.email,
        password_hash: app.passwords.hash(checked.password).await?,
        first_name: checked.first_name,
        invite_code: checked.invite_code,
    };
    let metadata = Metadata {
        request_id: Some(request::current_id()),
        ..Metadata::system()
    };
    let registered = app.write.registration.register(applicant, metadata).await?;
    let user = RegisteredUserAnswer {
        user: registered.user,
    };
    Ok(Written(user, registered.position))
}

/// All invites together, as the account that a guesser of codes tries.
const INVITES: &str = "invites";
/// Everything that is no e-mail address, as the account that a guesser of passwords tries.
const NO_ADDRESS: &str = "no address";

/// Refuses an invite that is not good before the password is hashed, which costs far more. Codes that are not good
/// are counted as guesses.
async fn check_invite(app: &App, request: &HttpRequest, code: &InviteCode) -> Result<(), ApiError> {
    let guesser = Guesser::new(request::client_address(request), INVITES);
    check_guesser(app, &guesser).map_err(|DirectusError(error)| error)?;
    let granted = app.write.invites.grant(code).await;
    if matches!(granted, Err(WriteError::Refused(_))) {
        app.login_limiter.count(&guesser, Instant::now());
    }
    granted?;
    Ok(())
}

/// Checks a new password.
pub fn check_password(password: &SecretString) -> Result<(), ApiError> {
    match password.expose_secret().len() {
        MIN_PASSWORD..=MAX_PASSWORD => Ok(()),
        _ => Err(ApiError::field(format!(
            "`password` must have {MIN_PASSWORD} to {MAX_PASSWORD} bytes"
        ))),
    }
}

#[derive(Deserialize, ToSchema)]
pub struct Login {
    pub email: String,
    #[schema(value_type = String, format = Password)]
    #[serde(deserialize_with = "input::whole")]
    pub password: SecretString,
    /// The one-time code, for an account that asks for it. Spaces and hyphens in it make no difference.
    #[schema(value_type = Option<String>)]
    #[serde(default, deserialize_with = "input::whole")]
    pub otp: Option<SecretString>,
    /// `json` or absent: both tokens are in the answer. genie sets no cookies, so `cookie` and `session` are 400.
    pub mode: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Tokens)]
pub struct IssuedTokens {
    /// A JWT, good for 15 minutes.
    access_token: String,
    /// Good once, for 7 days. For 10 seconds more it gives the newest token of its login.
    refresh_token: String,
    /// The lifetime of the access token, in milliseconds.
    expires: i64,
}

/// The other ways to log in, as Directus lists them.
#[derive(Serialize, ToSchema)]
pub struct LoginProviders {
    data: [String; 0],
    /// True when the login with e-mail and password is off.
    #[serde(rename = "disableDefault")]
    disable_default: bool,
}

/// `GET /auth`. There is no other way than e-mail and password.
pub async fn providers() -> Json<LoginProviders> {
    Json(LoginProviders {
        data: [],
        disable_default: false,
    })
}

/// `POST /auth/login`. The time it takes tells neither whether the address is known nor whether the password is
/// right.
pub async fn log_in(
    app: Data<App>,
    request: HttpRequest,
    body: Result<Body<Login>, ApiError>,
) -> Result<DirectusData<IssuedTokens>, DirectusError> {
    let Body(body) = body.map_err(DirectusError)?;
    check_mode(body.mode.as_deref())?;
    let began = Instant::now();
    let address = EmailAddress::read(&body.email).ok();
    let guesser = login_guesser(&app, &request, address.as_ref());
    check_guesser(&app, &guesser)?;
    let agent = request
        .headers()
        .get(USER_AGENT)
        .and_then(|agent| agent.to_str().ok())
        .map(str::to_owned);
    let answered = prove_and_open(&app, address, body, agent).await;
    if matches!(answered, Err(DirectusError(ApiError::NoCaller))) {
        app.login_limiter.count(&guesser, Instant::now());
    }
    tokio::time::sleep_until(began + app.config.login_stall).await;
    answered
}

/// A caller who tries to log in with this address. All text that is no address counts as one.
pub fn login_guesser(app: &App, request: &HttpRequest, address: Option<&EmailAddress>) -> Guesser {
    let account = address.map(|address| app.log.hashes().email(address).to_string());
    Guesser::new(
        request::client_address(request),
        account.unwrap_or_else(|| NO_ADDRESS.to_owned()),
    )
}

/// A caller who was wrong too often has to wait.
pub fn check_guesser(app: &App, guesser: &Guesser) -> Result<(), DirectusError> {
    match app.login_limiter.wait(guesser, Instant::now()) {
        Some(retry_after) => Err(DirectusError(ApiError::TooManyWrong { retry_after })),
        None => Ok(()),
    }
}

async fn prove_and_open(
    app: &App,
    address: Option<EmailAddress>,
    login: Login,
    agent: Option<String>,
) -> Result<DirectusData<IssuedTokens>, DirectusError> {
    let user = match &address {
        Some(address) => app.write.emails.holder(address).await?,
        None => None,
    };
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

/// Tries a one-time code. The try is counted first, so that many at once are no more than many in a row. It is given
/// back unless the code was wrong.
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

/// The version of the hash that the password matches. An unknown user takes as long.
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

/// A one-time code that is right now. The account knows whether it was used before.
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
) -> Result<DirectusData<IssuedTokens>, DirectusError> {
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
            // A suspended or forgotten user looks like a wrong password.
            WriteError::Refused(_) => DirectusError(ApiError::NoCaller),
            error => error.into(),
        })?;
    // Wait, so that the token has the present role. When the read side is slow, it has the one of a moment ago.
    let _ = app
        .reads
        .wait_for("accounts", done.position, app.config.read_wait)
        .await;
    Ok(DirectusData {
        data: tokens(app, user, &token).await?,
        position: Some(done.position),
    })
}

async fn tokens(
    app: &App,
    user: UserId,
    refresh_token: &RefreshToken,
) -> Result<IssuedTokens, DirectusError> {
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
    Ok(IssuedTokens {
        access_token: access,
        refresh_token: refresh_token.text.expose_secret().to_owned(),
        expires: ACCESS_SECONDS * 1000,
    })
}

#[derive(Deserialize, ToSchema)]
#[schema(as = RefreshToken)]
pub struct RefreshRequest {
    #[schema(value_type = String)]
    #[serde(deserialize_with = "input::whole")]
    pub refresh_token: SecretString,
    /// `json` or absent.
    pub mode: Option<String>,
}

/// `POST /auth/refresh`. Several tabs with one token all get the newest of its login. A token that was replaced long ago
/// ends its login: either a thief sent it, or the owner did and a thief has its successor.
pub async fn refresh(
    app: Data<App>,
    body: Result<Body<RefreshRequest>, ApiError>,
) -> Result<DirectusData<IssuedTokens>, DirectusError> {
    let Body(body) = body.map_err(DirectusError)?;
    check_mode(body.mode.as_deref())?;
    let Some(old) = app.refresh_tokens.read(&body.refresh_token) else {
        return Err(DirectusError(ApiError::NoCaller));
    };
    let successor = app.refresh_tokens.successor(&old);
    let now = app.log.clock().now();
    let rotation = Refresh {
        family: old.family.to_string(),
        old_hash: old.hash(),
        new_hash: successor.hash(),
        now,
        expires_at: now.plus_seconds(REFRESH_SECONDS),
    };
    match app.write.accounts.refresh_session(rotation).await? {
        Refreshed::Good(user) => Ok(DirectusData {
            data: tokens(&app, user, &successor).await?,
            position: None,
        }),
        Refreshed::InGrace { user, newest } => {
            let newest = app.refresh_tokens.newest(&old, &newest);
            let newest = newest.ok_or(DirectusError(ApiError::NoCaller))?;
            Ok(DirectusData {
                data: tokens(&app, user, &newest).await?,
                position: None,
            })
        }
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
    body: Result<Body<RefreshRequest>, ApiError>,
) -> Result<NoContent, DirectusError> {
    let Body(body) = body.map_err(DirectusError)?;
    check_mode(body.mode.as_deref())?;
    let position = match app.refresh_tokens.read(&body.refresh_token) {
        Some(token) => {
            let request_id = request::current_id();
            app.write
                .accounts
                .log_out(token.family, &request_id)
                .await?
        }
        None => None,
    };
    Ok(NoContent { position })
}

/// Only `json`: genie sets no cookies, whatever its identity.
pub fn check_mode(mode: Option<&str>) -> Result<(), DirectusError> {
    match mode {
        None | Some("json") => Ok(()),
        Some(_) => Err(DirectusError(ApiError::field(
            "`mode` must be `json` or absent: genie sets no cookies, and both tokens are in the answer",
        ))),
    }
}

/// Checks the password of a user who has a token already, because a token may have been stolen. Wrong passwords count
/// as at a login.
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
    fields: FieldsQuery,
    min_position: MinPosition,
    DirectusActingUser(user): DirectusActingUser,
) -> Result<DirectusData<AccountFields>, DirectusError> {
    let id = user.account.user;
    // The caller's account follows the log. A position is asked of the read side, whose row has the
    // address, too.
    let account = match min_position.asked()? {
        None => user.account,
        Some(_) => {
            min_position
                .wait(&app, "accounts", Some(id))
                .await
                .map_err(DirectusError)?;
            let account = app.reads.accounts.get(id).await?;
            account.ok_or(DirectusError(ApiError::NoCaller))?.into()
        }
    };
    Ok(DirectusData {
        data: AccountFields::asked_for(&account, &fields)?,
        position: None,
    })
}
