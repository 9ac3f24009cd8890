//! Registration, login and the caller's own account, in Directus' shape (docs/api.md, Identity).

use std::{
    borrow::Cow,
    convert::Infallible,
    future::{Ready, ready},
};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::header::USER_AGENT,
    web::{Data, Query},
};
use genie_actors::{
    WriteError,
    accounts::{LoginProof, NewFamily, change_login::LoginChange},
    registration::Applicant,
};
use genie_events::{Metadata, UserId, account::OneTimeCode, email};
use genie_log::sessions::{Refresh, Refreshed};
use genie_projections::accounts::AccountRow;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::Instant;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use crate::{
    app::App,
    http::{
        body::Body,
        caller::{DirectusActingUser, DirectusUser, UserCaller, account_of},
        error::{ApiError, DirectusError},
        input,
        read_your_writes::MinPosition,
        request,
        response::{DirectusData, NoContent, Written},
        words::{self, Time},
    },
    identity::{
        login_limiter::Guesser,
        refresh::{REFRESH_SECONDS, RefreshToken},
        token::ACCESS_SECONDS,
        two_factor::OtpSecret,
    },
};

pub mod two_factor;

/// In bytes.
const MIN_PASSWORD: usize = 8;
/// In bytes. More is no safer, and hashing it costs time.
const MAX_PASSWORD: usize = 1024;

#[derive(Deserialize, ToSchema)]
#[schema(as = Registration)]
pub struct RegistrationRequest {
    /// At most 254 bytes. Upper and lower case make no difference.
    pub email: String,
    /// 8 to 1024 bytes.
    #[schema(value_type = String, format = Password)]
    #[serde(deserialize_with = "input::whole")]
    pub password: SecretString,
    /// At most 200 characters.
    #[serde(rename = "firstName")]
    #[schema(max_length = 200)]
    pub first_name: Option<String>,
    #[serde(rename = "inviteCode")]
    pub invite_code: String,
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
    check_registration(&body)?;
    check_invite(&app, &request, &body.invite_code).await?;
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
    let user = RegisteredUserAnswer {
        user: registered.user,
    };
    Ok(Written(user, registered.position))
}

/// All invites together, as the account that a guesser of codes tries.
const INVITES: &str = "invites";

/// Refuses an invite that is not good before the password is hashed, which costs far more. Codes that are not good
/// are counted as guesses.
async fn check_invite(app: &App, request: &HttpRequest, code: &str) -> Result<(), ApiError> {
    let guesser = Guesser::new(request::client_address(request), INVITES);
    check_guesser(app, &guesser).map_err(|DirectusError(error)| error)?;
    let granted = app.write.invites.grant(code).await;
    if matches!(granted, Err(WriteError::Refused(_))) {
        app.login_limiter.count(&guesser, Instant::now());
    }
    granted?;
    Ok(())
}

/// Checks that need neither the store nor Directus.
pub fn check_registration(body: &RegistrationRequest) -> Result<(), ApiError> {
    check_password(&body.password)?;
    match &body.first_name {
        Some(name) if name.chars().count() > 200 => Err(ApiError::field(
            "`firstName` must be at most 200 characters",
        )),
        _ => Ok(()),
    }
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
    /// The one-time code, for an account that asks for it.
    #[schema(value_type = Option<String>)]
    #[serde(default, deserialize_with = "input::whole")]
    pub otp: Option<SecretString>,
    /// `json` or absent: both tokens are in the body.
    pub mode: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Tokens)]
pub struct IssuedTokens {
    /// A JWT, good for 15 minutes.
    access_token: String,
    /// Good once, for 7 days. For 10 seconds it gives the same successor again.
    refresh_token: String,
    /// The lifetime of the access token, in milliseconds.
    expires: i64,
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

/// A caller who was wrong too often has to wait.
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
) -> Result<DirectusData<IssuedTokens>, DirectusError> {
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

/// `POST /auth/refresh`. Several tabs with one token all get the same successor. A token that was replaced long ago
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

/// Only `json`: genie sets no cookies.
pub fn check_mode(mode: Option<&str>) -> Result<(), DirectusError> {
    match mode {
        None | Some("json") => Ok(()),
        Some(_) => Err(DirectusError(ApiError::field("`mode` must be `json`"))),
    }
}

#[derive(Deserialize, ToSchema)]
pub struct NewPassword {
    #[schema(value_type = String)]
    #[serde(deserialize_with = "input::whole")]
    token: SecretString,
    /// 8 to 1024 bytes.
    #[schema(value_type = String, format = Password)]
    #[serde(deserialize_with = "input::whole")]
    password: SecretString,
}

/// `POST /auth/password/reset`
pub async fn reset_password(
    app: Data<App>,
    body: Result<Body<NewPassword>, ApiError>,
) -> Result<NoContent, DirectusError> {
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
    Ok(NoContent {
        position: Some(done.position),
    })
}

#[derive(Deserialize, ToSchema)]
pub struct AccountChanges {
    email: Option<String>,
    /// 8 to 1024 bytes.
    #[schema(value_type = Option<String>, format = Password)]
    #[serde(default, deserialize_with = "input::whole")]
    password: Option<SecretString>,
    #[schema(value_type = String, format = Password)]
    #[serde(default, deserialize_with = "input::whole")]
    old_password: Option<SecretString>,
}

impl AccountChanges {
    fn check(&self) -> Result<(), ApiError> {
        if self.email.is_none() && self.password.is_none() {
            return Err(ApiError::field(
                "`email` or `password` must be given; nothing else can be changed here",
            ));
        }
        if self
            .email
            .as_deref()
            .is_some_and(|email| email::normalise(email).is_none())
        {
            return Err(ApiError::field("`email` must be an e-mail address"));
        }
        self.password.as_ref().map_or(Ok(()), check_password)
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Account)]
pub struct AccountAnswer {
    #[schema(value_type = Uuid)]
    id: UserId,
    email: Option<String>,
    first_name: Option<String>,
    last_name: Option<String>,
    role: String,
    /// Always `active`: other users cannot ask.
    status: String,
    #[schema(value_type = words::Tier)]
    tier: String,
    #[schema(value_type = words::OnboardingState)]
    onboarding: String,
    /// Asterisks when a login asks for a one-time code.
    tfa_secret: Option<&'static str>,
    created_at: Time,
}

impl From<&AccountRow> for AccountAnswer {
    fn from(account: &AccountRow) -> Self {
        Self {
            id: account.user,
            email: account.email.clone(),
            first_name: account.first_name.clone(),
            last_name: None,
            role: account.role.clone(),
            status: account.status.clone(),
            tier: account.tier.clone(),
            onboarding: account.onboarding.clone(),
            // Directus shows that there is a secret, and never the secret.
            tfa_secret: account.two_factor.then_some("**********"),
            created_at: account.created_at.into(),
        }
    }
}

/// The fields of an [`Account`] that were asked for.
#[derive(Serialize)]
#[serde(transparent)]
pub struct AccountFields(Map<String, Value>);

/// `PATCH /users/me`
pub async fn change_me(
    app: Data<App>,
    request: HttpRequest,
    DirectusUser(caller): DirectusUser,
    body: Result<Body<AccountChanges>, ApiError>,
) -> Result<DirectusData<AccountFields>, DirectusError> {
    let Body(changes) = body.map_err(DirectusError)?;
    changes.check().map_err(DirectusError)?;
    let AccountChanges {
        email,
        password,
        old_password,
    } = changes;
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
    // The change stands, however slow the read side is.
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
    Ok(DirectusData {
        data: AccountFields::asked_for(&account, &FieldsQuery::of(&request))?,
        position: Some(position),
    })
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

/// The query of `GET /users/me`. A client of Directus may repeat `fields` or call it `fields[]`.
pub struct FieldsQuery(String);

impl FieldsQuery {
    pub fn of(request: &HttpRequest) -> Self {
        Self(request.query_string().to_owned())
    }
}

impl FromRequest for FieldsQuery {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self::of(request)))
    }
}

/// The schema of `Account`, with every field optional.
impl PartialSchema for AccountFields {
    fn schema() -> RefOr<Schema> {
        let mut schema = AccountAnswer::schema();
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            object.required.clear();
        }
        schema
    }
}

impl ToSchema for AccountFields {
    fn name() -> Cow<'static, str> {
        AccountAnswer::name()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        AccountAnswer::schemas(schemas);
    }
}

impl AccountFields {
    /// Unknown field names are ignored, as Directus does.
    fn asked_for(account: &AccountRow, fields: &FieldsQuery) -> Result<Self, DirectusError> {
        let query = Query::<Vec<(String, String)>>::from_query(&fields.0).map_err(|_| {
            DirectusError(ApiError::field(
                "The query cannot be read: a field has the wrong form",
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
        let all = serde_json::to_value(AccountAnswer::from(account))
            .expect("a struct with names for fields is JSON");
        let Value::Object(mut fields) = all else {
            unreachable!("a struct is a JSON object")
        };
        fields.retain(|field, _| is_wanted(field));
        Ok(Self(fields))
    }
}
