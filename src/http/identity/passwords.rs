//! Passwords that were forgotten: a request, the administrators' list of requests, and the new password by a link.

use actix_web::{HttpRequest, http::StatusCode, web::Data};
use genie_actors::WriteError;
use genie_events::{EmailAddress, Metadata, UserId};
use genie_log::pages::Paged;
use genie_projections::accounts::PasswordRequestRow;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::check_password;
use crate::{
    app::App,
    http::{
        body::Body,
        caller::{AdminCaller, short_reason, stated_reason},
        error::{ApiError, DirectusError},
        input::{self, Query},
        read_your_writes::MinPosition,
        request,
        response::{ListPage, NoContent, PageQuery},
        words::Time,
    },
};

#[derive(Deserialize, ToSchema)]
#[schema(as = PasswordRequest)]
pub struct ForgottenPassword {
    pub email: String,
    /// The page that the mail's link leads to, with the token as `?token=`. One of `PASSWORD_RESET_URL_ALLOW_LIST`.
    pub reset_url: Option<String>,
}

/// `POST /auth/password/request`. Neither the answer nor its time tells whether the address is known. So it has no
/// position, and a request too many for one account is the same 204.
pub async fn request(
    app: Data<App>,
    request: HttpRequest,
    body: Result<Body<ForgottenPassword>, ApiError>,
) -> Result<NoContent, DirectusError> {
    let Body(body) = body.map_err(DirectusError)?;
    let began = Instant::now();
    let page = match &body.reset_url {
        Some(asked) => Some(app.config.reset_pages.allowed(asked).ok_or_else(|| {
            ApiError::field(
                "`reset_url` must be an address in PASSWORD_RESET_URL_ALLOW_LIST; its operator can add one",
            )
        })?),
        None => None,
    };
    app.reset_limiter
        .take_address(request::client_address(&request), began)
        .map_err(|retry_after| ApiError::TooFast { retry_after })?;
    if let Ok(address) = EmailAddress::read(&body.email) {
        record(&app, address, page).await?;
    }
    tokio::time::sleep_until(began + app.config.login_stall).await;
    Ok(NoContent { position: None })
}

async fn record(
    app: &App,
    address: EmailAddress,
    page: Option<String>,
) -> Result<(), DirectusError> {
    let account = app.log.hashes().email(&address).to_string();
    if !app.reset_limiter.take_account(account, Instant::now()) {
        return Ok(());
    }
    let metadata = Metadata {
        request_id: Some(request::current_id()),
        ..Metadata::system()
    };
    app.write
        .accounts
        .request_reset(&address, page, metadata)
        .await?;
    Ok(())
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
pub async fn reset(
    app: Data<App>,
    body: Result<Body<NewPassword>, ApiError>,
) -> Result<NoContent, DirectusError> {
    let Body(body) = body.map_err(DirectusError)?;
    check_password(&body.password).map_err(DirectusError)?;
    let user = app
        .write
        .accounts
        .check_reset(&body.token, Metadata::system())
        .await
        .map_err(bad_link)?;
    let hash = app.passwords.hash(body.password).await?;
    let metadata = Metadata::user(user, &request::current_id());
    let done = app
        .write
        .accounts
        .reset_password(&body.token, hash, metadata)
        .await
        .map_err(bad_link)?;
    Ok(NoContent {
        position: Some(done.position),
    })
}

/// Directus' answer to a link that is wrong, used or over.
fn bad_link(error: WriteError) -> DirectusError {
    match error {
        WriteError::Refused(_) => DirectusError(ApiError::DirectusRefused {
            status: StatusCode::FORBIDDEN,
            code: "INVALID_TOKEN".to_owned(),
            sentence: "This link was used or has expired; ask for another",
        }),
        error => error.into(),
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PersonalQuery {
    /// `true` shows the e-mail addresses. That the caller read them is a fact (`access.personal_read`).
    personal: Option<bool>,
    /// With `personal=true`, of an administrator: why. It is kept on record.
    #[param(min_length = 1, max_length = 500)]
    #[serde(default, deserialize_with = "short_reason")]
    reason: Option<String>,
}

/// A request that nobody answered yet.
#[derive(Serialize, ToSchema)]
pub struct OpenPasswordRequest {
    #[serde(rename = "userId")]
    #[schema(value_type = Uuid)]
    user: UserId,
    /// Null without `personal=true`.
    #[schema(required)]
    email: Option<String>,
    requested_at: Time,
}

/// `GET /api/admin/password-requests`
pub async fn list_requests(
    app: Data<App>,
    min_position: MinPosition,
    AdminCaller(caller): AdminCaller,
    Query(page): Query<PageQuery>,
    Query(shown): Query<PersonalQuery>,
) -> Result<ListPage<OpenPasswordRequest>, ApiError> {
    let limit = page.limit()?;
    let after = page.after_pair()?.unwrap_or((0, String::new()));
    min_position.wait_for_all(&app, "accounts").await?;
    let is_personal = shown.personal.unwrap_or(false);
    if is_personal {
        let reason = stated_reason(&caller, shown.reason.as_deref())?;
        app.write
            .access
            .personal_read(&caller, None, reason)
            .await?;
    }
    let rows = app
        .reads
        .accounts
        .password_requests(after, limit + 1)
        .await?;
    ListPage::of(
        &Paged::cut(rows, limit as usize),
        |row| format!("{}/{}", row.requested_at.0, row.user),
        |row| shown_request(row, is_personal),
    )
}

fn shown_request(row: &PasswordRequestRow, is_personal: bool) -> OpenPasswordRequest {
    OpenPasswordRequest {
        user: row.user,
        email: row.email.clone().filter(|_| is_personal),
        requested_at: row.requested_at.into(),
    }
}
