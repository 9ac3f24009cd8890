//! Credentials (contract, section 4). Bodies that carry secrets are never logged and never in an error.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path, Query},
};
use genie_actors::credentials::{CredentialDetails, StoreTarget};
use genie_events::{CredentialId, Timestamp, credential::CredentialKind};
use genie_projections::credentials::CredentialRow;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::App,
    http::{
        body::Body,
        caller::{SecretCaller, UserCaller},
        error::ApiError,
        idempotency, read_your_writes,
        response::{self, PageQuery},
    },
};

/// Logins to download with.
pub mod download;
/// What happened to credentials.
pub mod history;
/// What servers and workers are shown.
pub mod reveal;
/// Secrets on their way in and out.
mod secret;
/// Browsers' sessions.
pub mod session;

use secret::SecretFields;

#[derive(Deserialize)]
pub struct NewProfile {
    platform: String,
    credentials: SecretFields,
    platform_username: Option<String>,
}

/// `POST /api/credentials/create-profile`
pub async fn create_profile(
    app: Data<App>,
    request: HttpRequest,
    user: UserCaller,
    Body(body): Body<NewProfile>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &user.caller)?;
    let platform = checked_platform(&body.platform)?;
    let platform_username = checked_username("platform_username", body.platform_username)?;
    let target = StoreTarget::For(CredentialDetails {
        kind: CredentialKind::Profile,
        platform,
        platform_username,
        expires_at: None,
    });
    let secret = body.credentials.plaintext()?;
    let stored = app
        .write
        .credentials
        .store(user.account.user, asking, target, secret)
        .await?;
    Ok(response::written(
        json!({"id": stored.id, "updated": stored.updated}),
        stored.position,
    ))
}

/// However it is written, a platform is one platform.
fn checked_platform(platform: &str) -> Result<String, ApiError> {
    let platform = platform.trim().to_lowercase();
    match (1..=64).contains(&platform.chars().count()) && !platform.chars().any(char::is_control) {
        true => Ok(platform),
        false => Err(ApiError::field("`platform` must have 1 to 64 characters")),
    }
}

fn checked_username(field: &str, username: Option<String>) -> Result<Option<String>, ApiError> {
    match username {
        Some(name) if name.chars().count() > 200 || name.chars().any(char::is_control) => {
            Err(ApiError::field(format!(
                "`{field}` must have at most 200 characters, none of them control characters"
            )))
        }
        name => Ok(name.filter(|name| !name.is_empty())),
    }
}

#[derive(Deserialize)]
pub struct ChangedProfile {
    #[serde(alias = "creatorProfileId")]
    id: String,
    credentials: SecretFields,
    platform_username: Option<String>,
}

/// `POST /api/credentials/update-profile-creds`
pub async fn update_profile(
    app: Data<App>,
    request: HttpRequest,
    user: UserCaller,
    Body(body): Body<ChangedProfile>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &user.caller)?;
    let id = credential_id(&body.id)?;
    let target = StoreTarget::Existing {
        id,
        platform_username: checked_username("platform_username", body.platform_username)?,
    };
    let secret = body.credentials.plaintext()?;
    let stored = app
        .write
        .credentials
        .store(user.account.user, asking, target, secret)
        .await?;
    Ok(response::written(
        json!({"id": stored.id, "updated": true}),
        stored.position,
    ))
}

#[derive(Deserialize)]
pub struct ServerStore {
    #[serde(rename = "creatorProfileId")]
    id: String,
    credentials: SecretFields,
}

/// `POST /api/credentials/store`
pub async fn store(
    app: Data<App>,
    request: HttpRequest,
    SecretCaller(caller): SecretCaller,
    Body(body): Body<ServerStore>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &caller)?;
    let (id, secret) = (credential_id(&body.id)?, body.credentials.plaintext()?);
    let stored = app
        .write
        .credentials
        .store_for_owner(&caller, asking, id, secret)
        .await?;
    Ok(response::written(
        json!({"creatorProfileId": stored.id, "id": stored.id}),
        stored.position,
    ))
}

/// `GET /api/credentials`
pub async fn list(
    app: Data<App>,
    request: HttpRequest,
    user: UserCaller,
    page: Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let (id, limit) = (user.account.user, page.limit()?);
    read_your_writes::wait(&app, &request, "credentials", Some(id)).await?;
    let rows = app
        .reads
        .credentials
        .list(id, page.after_pair()?, limit)
        .await?;
    let next = response::next_cursor(&rows, limit, |row| {
        format!("{}/{}", row.created_at.0, row.id)
    });
    Ok(response::list(rows.iter().map(shown).collect(), next))
}

/// `GET /api/credentials/{id}`
pub async fn show(
    app: Data<App>,
    request: HttpRequest,
    user: UserCaller,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let credential = credential_id(&id)?;
    read_your_writes::wait(&app, &request, "credentials", Some(user.account.user)).await?;
    let row = app
        .reads
        .credentials
        .get(user.account.user, credential)
        .await?;
    Ok(response::ok(shown(
        &row.ok_or(ApiError::NotFound("credential"))?,
    )))
}

/// `DELETE /api/credentials/{id}`
pub async fn remove(
    app: Data<App>,
    request: HttpRequest,
    user: UserCaller,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &user.caller)?;
    let credential = credential_id(&id)?;
    let done = app
        .write
        .credentials
        .remove(user.account.user, credential, asking)
        .await?;
    Ok(response::written(
        json!({"id": credential, "removed": true}),
        done.position,
    ))
}

fn credential_id(text: &str) -> Result<CredentialId, ApiError> {
    text.parse().map_err(|_| ApiError::NotFound("credential"))
}

/// As its owner sees it: everything but the secret.
pub fn shown(row: &CredentialRow) -> Value {
    json!({
        "id": row.id, "kind": row.kind, "platform": row.platform, "platform_username": row.platform_username,
        "created_at": row.created_at.rfc3339(), "updated_at": row.updated_at.rfc3339(),
        "expires_at": row.expires_at.map(Timestamp::rfc3339),
        "last_revealed_at": row.last_revealed_at.map(Timestamp::rfc3339), "last_revealed_by": row.last_revealed_by,
    })
}
