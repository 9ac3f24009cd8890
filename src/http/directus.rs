//! Identity by a Directus (docs/api.md, Identity): Directus' own routes, which are forwarded, and
//! registration.
//!
//! A forwarded request has a JSON body within the limit and, on the routes of a user, the user's
//! token: no cookie and no other header. A success is answered with Directus' body. An error is
//! made anew from its code, because Directus' own sentences can repeat a password.

use std::net::IpAddr;

use actix_web::{
    HttpRequest, HttpResponse, Responder,
    http::StatusCode,
    web::{self, Data},
};
use genie_events::{EmailAddress, Metadata, typed_text};
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::time::Instant;
use tracing::warn;
use zeroize::Zeroizing;

use crate::{
    app::App,
    http::{
        body::{Body, JsonObject},
        caller::{DirectusActingUser, DirectusUser, UserCaller, token},
        error::{ApiError, DirectusError},
        identity::{
            self, FieldsQuery, Login, RefreshRequest, RegisteredUserAnswer, RegistrationRequest,
            check_guesser, check_mode, login_guesser,
        },
        read_your_writes::MinPosition,
        request,
        response::Written,
    },
    identity::{
        directus::{
            Directus, DirectusApplicant, DirectusReply, DirectusTrouble, NoPair, NotRegistered,
            RefreshBody, UpstreamRequest, bearer, refresh_token,
        },
        login_limiter::Guesser,
    },
};

mod sync_account;

pub use sync_account::{authenticate, expect_unchanged, meet_unseen};

fn directus(app: &App) -> Result<&Directus, ApiError> {
    app.directus.as_ref().ok_or(ApiError::NoRoute)
}

/// The client's address as genie knows it. The client's own word would let clients choose their
/// limits in Directus.
fn address(request: &HttpRequest) -> Option<IpAddr> {
    Some(request::client_address(request))
}

/// Directus' answer in the form that clients may see.
fn passed_on(reply: Result<DirectusReply, DirectusTrouble>) -> Result<HttpResponse, DirectusError> {
    let reply = reply.map_err(ApiError::Directus)?;
    if !reply.is_ok() {
        return Err(refused(reply.status, &reply.code()));
    }
    match reply.status {
        204 => Ok(HttpResponse::NoContent().finish()),
        _ => Ok(json(&reply.body)),
    }
}

fn json(body: &[u8]) -> HttpResponse {
    // Tokens and personal data: no cache may keep them.
    HttpResponse::Ok()
        .content_type("application/json")
        .insert_header(("Cache-Control", "no-store"))
        .body(body.to_vec())
}

/// A refusal of Directus in genie's own words.
fn refused(status: u16, code: &str) -> DirectusError {
    let (code, sentence) = match code {
        "INVALID_CREDENTIALS" | "USER_SUSPENDED" => {
            ("INVALID_CREDENTIALS", "Invalid user credentials.")
        }
        "TOKEN_EXPIRED" => ("TOKEN_EXPIRED", "Token expired."),
        "INVALID_TOKEN" => ("INVALID_TOKEN", "Invalid token."),
        "INVALID_OTP" => ("INVALID_OTP", "Invalid user OTP."),
        "INVALID_PAYLOAD" => (
            "INVALID_PAYLOAD",
            "Directus does not understand this body; check its fields.",
        ),
        "FAILED_VALIDATION" => (
            "FAILED_VALIDATION",
            "Directus does not take a value of this body.",
        ),
        "RECORD_NOT_UNIQUE" => (
            "RECORD_NOT_UNIQUE",
            "Another user has this value, such as the e-mail address.",
        ),
        "INVALID_QUERY" => ("INVALID_QUERY", "Directus does not understand this query."),
        "FORBIDDEN" => ("FORBIDDEN", "You don't have permission to access this."),
        // Codes of other releases: the code is answered, but not the text, which may repeat a
        // value.
        "" => ("FORBIDDEN", "Directus refuses this."),
        other => (other, "Directus refuses this."),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
    DirectusError(ApiError::DirectusRefused {
        status,
        code: code.to_owned(),
        sentence,
    })
}

/// The body of a login at Directus.
#[derive(Serialize)]
struct LoginBody<'a> {
    email: &'a str,
    password: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    otp: Option<&'a str>,
    mode: &'static str,
}

impl<'a> LoginBody<'a> {
    fn new(email: &'a str, password: &'a SecretString, otp: Option<&'a Zeroizing<String>>) -> Self {
        Self {
            email,
            password: password.expose_secret(),
            otp: otp.map(|otp| otp.as_str()),
            mode: "json",
        }
    }
}

/// A one-time code as Directus takes it.
fn code_of(otp: Option<&SecretString>) -> Option<Zeroizing<String>> {
    otp.map(|otp| Zeroizing::new(typed_text::code(otp.expose_secret())))
}

/// `POST /auth/login`. It sends no `Authorization`: with an expired one Directus would refuse the
/// right password. Guessing is stopped here: Directus would suspend the user after 25 wrong
/// passwords from anybody.
pub async fn log_in(
    app: Data<App>,
    request: HttpRequest,
    body: Result<Body<Login>, ApiError>,
) -> Result<HttpResponse, DirectusError> {
    let Body(login) = body?;
    check_mode(login.mode.as_deref())?;
    let known = EmailAddress::read(&login.email).ok();
    let guesser = login_guesser(&app, &request, known.as_ref());
    check_guesser(&app, &guesser)?;
    let email = spelling_of_directus(&app, &login.email, known).await?;
    let otp = code_of(login.otp.as_ref());
    let body = LoginBody::new(&email, &login.password, otp.as_ref());
    let asking = UpstreamRequest::new(Method::POST, "/auth/login")
        .of(address(&request))
        .json(&body);
    let reply = directus(&app)?.ask(asking).await;
    if reply
        .as_ref()
        .is_ok_and(|reply| is_wrong_guess(request.path(), &reply.code()))
    {
        app.login_limiter.count(&guesser, Instant::now());
    }
    passed_on(reply)
}

/// An address as Directus compares it, which is by its letters. A login in plain letters is passed on as it is. For any
/// other the account tells the spelling that Directus has.
async fn spelling_of_directus(
    app: &App,
    typed: &str,
    address: Option<EmailAddress>,
) -> Result<String, DirectusError> {
    let Some(address) = address else {
        return Ok(typed.to_owned());
    };
    if typed.eq_ignore_ascii_case(address.normal()) && !address.has_international_domain() {
        return Ok(typed.to_owned());
    }
    let account = match app.write.emails.holder(&address).await? {
        Some(holder) => app.reads.accounts.get(holder).await?,
        None => None,
    };
    let spelling = account.and_then(|account| account.email);
    Ok(spelling.unwrap_or_else(|| address.written().to_owned()))
}

/// `POST /auth/refresh`: one request to Directus for all who send the same token.
pub async fn refresh(
    app: Data<App>,
    request: HttpRequest,
    body: Result<Body<RefreshRequest>, ApiError>,
) -> Result<HttpResponse, DirectusError> {
    let Body(body) = body?;
    check_mode(body.mode.as_deref())?;
    match directus(&app)?
        .refresh(body.refresh_token, address(&request))
        .await
    {
        Ok(pair) => Ok(json(&pair)),
        Err(NoPair::Refused { status, code }) => Err(refused(status, &code)),
        Err(NoPair::Trouble(trouble)) => Err(ApiError::Directus(trouble).into()),
        Err(NoPair::Store(error)) => Err(error.into()),
    }
}

/// `POST /auth/logout`
pub async fn log_out(
    app: Data<App>,
    request: HttpRequest,
    body: Result<Body<RefreshRequest>, ApiError>,
) -> Result<HttpResponse, DirectusError> {
    let Body(body) = body?;
    check_mode(body.mode.as_deref())?;
    let asking = UpstreamRequest::new(Method::POST, "/auth/logout")
        .of(address(&request))
        .json(&RefreshBody::of(&body.refresh_token));
    passed_on(directus(&app)?.ask(asking).await)
}

/// `POST /auth/password/request`, `POST /auth/password/reset`
pub async fn pass_password_on(
    app: Data<App>,
    request: HttpRequest,
    body: Result<JsonObject, ApiError>,
) -> Result<HttpResponse, DirectusError> {
    let JsonObject(body) = body?;
    passed_on(
        directus(&app)?
            .ask(
                UpstreamRequest::new(Method::POST, request.path())
                    .of(address(&request))
                    .body(body),
            )
            .await,
    )
}

/// `GET /auth`
pub async fn providers(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, DirectusError> {
    let asking = UpstreamRequest::new(Method::GET, "/auth").of(address(&request));
    passed_on(directus(&app)?.ask(asking).await)
}

/// `GET /users/me`, with Directus' own query parameters.
pub async fn show_me(
    app: Data<App>,
    request: HttpRequest,
    min_position: MinPosition,
    DirectusActingUser(user): DirectusActingUser,
) -> Result<HttpResponse, DirectusError> {
    if !user.caller.shows_user_token() {
        // Directus does not know the tokens of impersonations, and no keys.
        let user = DirectusActingUser(user);
        let fields = FieldsQuery::of(&request);
        let shown = identity::show_me(app, fields, min_position, user).await?;
        return Ok(shown.respond_to(&request));
    }
    let asking = UpstreamRequest::new(Method::GET, "/users/me")
        .authorized(bearer(own_token(&request)?))
        .of(address(&request));
    let query = web::Query::<Vec<(String, String)>>::from_query(request.query_string());
    let query = query.map_err(|_| ApiError::field("The query cannot be read"))?;
    let asking = query.0.into_iter().fold(asking, |asking, (name, value)| {
        asking.parameter(&name, value)
    });
    passed_on(directus(&app)?.ask(asking).await)
}

/// The token of a caller whom the extractor let pass.
fn own_token(request: &HttpRequest) -> Result<&str, ApiError> {
    token(request)?.ok_or(ApiError::NoCaller)
}

/// `PATCH /users/me`, `POST /users/me/tfa/*`: changes by the user. The token may be stolen, so
/// wrong passwords and codes count as at a login.
pub async fn change_me(
    app: Data<App>,
    request: HttpRequest,
    DirectusUser(user): DirectusUser,
    body: Result<JsonObject, ApiError>,
) -> Result<HttpResponse, DirectusError> {
    let JsonObject(body) = body?;
    let token = own_token(&request)?;
    let guesser = Guesser::new(
        request::client_address(&request),
        user.account.user.to_string(),
    );
    check_guesser(&app, &guesser)?;
    let asking = UpstreamRequest::new(
        request.method().as_str().parse().unwrap_or(Method::POST),
        request.path(),
    );
    let asking = asking
        .authorized(bearer(token))
        .of(address(&request))
        .body(body);
    let reply = directus(&app)?.ask(asking).await;
    if reply
        .as_ref()
        .is_ok_and(|reply| is_wrong_guess(request.path(), &reply.code()))
    {
        app.login_limiter.count(&guesser, Instant::now());
    }
    directus(&app)?.forget(user.account.user, token).await;
    passed_on(reply)
}

/// Checks the password of a user who has a token already, by a login in Directus that is ended at
/// once.
pub async fn prove_again(
    app: &App,
    directus: &Directus,
    request: &HttpRequest,
    user: &UserCaller,
    password: SecretString,
    otp: Option<SecretString>,
) -> Result<(), DirectusError> {
    let guesser = Guesser::new(
        request::client_address(request),
        user.account.user.to_string(),
    );
    check_guesser(app, &guesser)?;
    let email = user.account.email.as_deref().ok_or_else(|| {
        ApiError::field("This user has no e-mail address to log in to Directus with")
    })?;
    let otp = code_of(otp.as_ref());
    let body = LoginBody::new(email, &password, otp.as_ref());
    let asking = UpstreamRequest::new(Method::POST, "/auth/login")
        .of(address(request))
        .json(&body);
    let reply = directus.ask(asking).await.map_err(ApiError::Directus)?;
    if !reply.is_ok() {
        let code = reply.code();
        if is_wrong_guess("", &code) {
            app.login_limiter.count(&guesser, Instant::now());
        }
        return Err(match code.as_str() {
            "INVALID_CREDENTIALS" => ApiError::NoCaller.into(),
            _ => refused(reply.status, &code),
        });
    }
    let token = refresh_token(&reply.body).ok_or(ApiError::Directus(DirectusTrouble::Failed(
        "a login without its tokens",
    )))?;
    let ending = UpstreamRequest::new(Method::POST, "/auth/logout")
        .of(address(request))
        .json(&RefreshBody::of(&token));
    if directus.ask(ending).await.is_err() {
        warn!(user.id = %user.account.user, "Directus: ending a login that only proved a password failed; it expires by itself");
    }
    Ok(())
}

/// For a wrong code, when a second factor is to be turned on, Directus says only that it does not
/// understand the request.
fn is_wrong_guess(path: &str, code: &str) -> bool {
    match code {
        "INVALID_CREDENTIALS" | "INVALID_OTP" => true,
        "INVALID_PAYLOAD" => path.contains("/tfa/"),
        _ => false,
    }
}

/// `POST /api/register`
pub async fn register(
    app: Data<App>,
    request: HttpRequest,
    Body(body): Body<RegistrationRequest>,
) -> Result<Written<RegisteredUserAnswer>, ApiError> {
    let checked = body.checked()?;
    let applicant = DirectusApplicant {
        email: checked.email,
        password: checked.password,
        first_name: checked.first_name,
        invite_code: checked.invite_code,
    };
    let metadata = Metadata {
        request_id: Some(request::current_id()),
        ..Metadata::system()
    };
    let registered = directus(&app)?
        .registrations()
        .register(applicant, metadata, address(&request))
        .await;
    let registered = registered.map_err(|not| match not {
        NotRegistered::Write(error) => error.into(),
        NotRegistered::Trouble(trouble) => ApiError::Directus(trouble),
        NotRegistered::NotTaken => ApiError::field(not.to_string()),
        NotRegistered::NoAdminToken => ApiError::NotConfigured {
            code: "directus_admin_token_missing",
            sentence: not.to_string(),
        },
        NotRegistered::NoRole => ApiError::NotConfigured {
            code: "directus_role_missing",
            sentence: not.to_string(),
        },
        NotRegistered::Unknown => ApiError::RegistrationUnknown(not.to_string()),
    })?;
    let user = RegisteredUserAnswer {
        user: registered.user,
    };
    Ok(Written(user, registered.position))
}
