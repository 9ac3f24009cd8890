//! Credentials (docs/api.md, Credentials). Invariant: bodies that carry secrets are never logged and never part of an
//! error.

use actix_web::web::{Data, Path};
use genie_actors::credentials::{CredentialDetails, StoreTarget};
use genie_events::{CredentialId, PlatformName, UserId, UserName, credential::CredentialKind};
use genie_log::pages::Paged;
use genie_projections::credentials::CredentialRow;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        body::Body,
        caller::{SecretCaller, UserCaller},
        error::ApiError,
        idempotency::IdempotencyKey,
        input::Query,
        read_your_writes::MinPosition,
        response::{Answer, ListPage, PageQuery, Written},
        words::{self, Time},
    },
};

pub mod download;
pub mod history;
pub mod reveal;
mod secret;
pub mod session;

use secret::SecretFields;

#[derive(Deserialize, ToSchema)]
pub struct NewProfile {
    /// 1 to 64 characters, none of them control characters. Stored in lower case and in Unicode's form NFC, without
    /// characters that nobody sees.
    #[schema(min_length = 1, max_length = 64)]
    platform: String,
    #[schema(value_type = words::Secret)]
    credentials: SecretFields,
    /// At most 200 characters, none of them control characters.
    #[schema(max_length = 200)]
    platform_username: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = StoredCredential)]
pub struct StoredCredentialAnswer {
    #[schema(value_type = Uuid)]
    id: CredentialId,
    /// True when it replaced a credential of the same platform and name.
    updated: bool,
}

/// `POST /api/credentials/create-profile`
pub async fn create_profile(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    user: UserCaller,
    Body(body): Body<NewProfile>,
) -> Result<Written<StoredCredentialAnswer>, ApiError> {
    let asking = idempotency_key.asking(&app, &user.caller)?;
    let platform = PlatformName::read(&body.platform)?;
    let platform_username = user_name("platform_username", body.platform_username.as_deref())?;
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
    let credential = StoredCredentialAnswer {
        id: stored.id,
        updated: stored.updated,
    };
    Ok(Written(credential, stored.position))
}

/// The name in a field that may be absent.
fn user_name(field: &'static str, given: Option<&str>) -> Result<Option<UserName>, ApiError> {
    Ok(UserName::read(field, given.unwrap_or_default())?)
}

#[derive(Deserialize, ToSchema)]
pub struct ChangedProfile {
    /// The credential's id. `creatorProfileId` is another name for it; send one of them.
    #[serde(alias = "creatorProfileId")]
    #[schema(format = Uuid)]
    id: String,
    #[schema(value_type = words::Secret)]
    credentials: SecretFields,
    /// The new name on the platform. Without it the name stays.
    #[schema(max_length = 200)]
    platform_username: Option<String>,
}

/// `POST /api/credentials/update-profile-creds`
pub async fn update_profile(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    user: UserCaller,
    Body(body): Body<ChangedProfile>,
) -> Result<Written<StoredCredentialAnswer>, ApiError> {
    let asking = idempotency_key.asking(&app, &user.caller)?;
    let id = credential_id(&body.id)?;
    let target = StoreTarget::Existing {
        id,
        platform_username: user_name("platform_username", body.platform_username.as_deref())?,
    };
    let secret = body.credentials.plaintext()?;
    let stored = app
        .write
        .credentials
        .store(user.account.user, asking, target, secret)
        .await?;
    let credential = StoredCredentialAnswer {
        id: stored.id,
        updated: true,
    };
    Ok(Written(credential, stored.position))
}

#[derive(Deserialize, ToSchema)]
pub struct ReplacedProfile {
    #[serde(rename = "creatorProfileId")]
    #[schema(format = Uuid)]
    id: String,
    #[schema(value_type = words::Secret)]
    credentials: SecretFields,
}

#[derive(Serialize, ToSchema)]
pub struct ReplacedCredential {
    #[serde(rename = "creatorProfileId")]
    #[schema(value_type = Uuid)]
    profile: CredentialId,
    /// The same as `creatorProfileId`.
    #[schema(value_type = Uuid)]
    id: CredentialId,
}

/// `POST /api/credentials/store`
pub async fn store(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    SecretCaller(caller): SecretCaller,
    Body(body): Body<ReplacedProfile>,
) -> Result<Written<ReplacedCredential>, ApiError> {
    let asking = idempotency_key.asking(&app, &caller)?;
    let id = credential_id(&body.id)?;
    let secret = body.credentials.plaintext()?;
    let stored = app
        .write
        .credentials
        .store_for_owner(&caller, asking, id, secret)
        .await?;
    let credential = ReplacedCredential {
        profile: stored.id,
        id: stored.id,
    };
    Ok(Written(credential, stored.position))
}

/// A credential as its owner sees it: everything but the secret.
#[derive(Serialize, ToSchema)]
#[schema(as = Credential)]
pub struct CredentialAnswer {
    #[schema(format = Uuid)]
    pub id: String,
    #[schema(value_type = words::KindOfCredential)]
    kind: String,
    platform: String,
    #[schema(required)]
    platform_username: Option<String>,
    created_at: Time,
    updated_at: Time,
    /// When a session is over. Null when its cookies do not tell, and for other kinds.
    #[schema(required)]
    expires_at: Option<Time>,
    #[schema(required)]
    last_revealed_at: Option<Time>,
    /// The kind of caller: `shared_secret`, `service_key` or `user`.
    #[schema(required)]
    last_revealed_by: Option<String>,
}

impl From<&CredentialRow> for CredentialAnswer {
    fn from(row: &CredentialRow) -> Self {
        Self {
            id: row.id.clone(),
            kind: row.kind.clone(),
            platform: row.platform.clone(),
            platform_username: row.platform_username.clone(),
            created_at: row.created_at.into(),
            updated_at: row.updated_at.into(),
            expires_at: row.expires_at.map(Time::from),
            last_revealed_at: row.last_revealed_at.map(Time::from),
            last_revealed_by: row.last_revealed_by.clone(),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct RemovedCredential {
    #[schema(value_type = Uuid)]
    id: CredentialId,
    removed: bool,
}

/// `GET /api/credentials`
pub async fn list(
    app: Data<App>,
    min_position: MinPosition,
    user: UserCaller,
    Query(page): Query<PageQuery>,
) -> Result<ListPage<CredentialAnswer>, ApiError> {
    let id = user.account.user;
    page.limit()?;
    min_position.wait(&app, "credentials", Some(id)).await?;
    list_for(&app, id, page).await
}

/// A page of this user's credentials, without the secrets.
pub async fn list_for(
    app: &App,
    id: UserId,
    page: PageQuery,
) -> Result<ListPage<CredentialAnswer>, ApiError> {
    let limit = page.limit()?;
    let rows = app
        .reads
        .credentials
        .list(id, page.after_pair()?, limit + 1)
        .await?;
    ListPage::of(
        &Paged::cut(rows, limit as usize),
        |row| format!("{}/{}", row.created_at.0, row.id),
        CredentialAnswer::from,
    )
}

/// `GET /api/credentials/{id}`
pub async fn show(
    app: Data<App>,
    min_position: MinPosition,
    user: UserCaller,
    id: Path<String>,
) -> Result<Answer<CredentialAnswer>, ApiError> {
    let credential = credential_id(&id)?;
    min_position
        .wait(&app, "credentials", Some(user.account.user))
        .await?;
    let row = app
        .reads
        .credentials
        .get(user.account.user, credential)
        .await?;
    let row = row.ok_or(ApiError::NotFound("credential"))?;
    Ok(Answer(CredentialAnswer::from(&row)))
}

/// `DELETE /api/credentials/{id}`
pub async fn remove(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    user: UserCaller,
    id: Path<String>,
) -> Result<Written<RemovedCredential>, ApiError> {
    let asking = idempotency_key.asking(&app, &user.caller)?;
    let credential = credential_id(&id)?;
    let done = app
        .write
        .credentials
        .remove(user.account.user, credential, asking)
        .await?;
    let removed = RemovedCredential {
        id: credential,
        removed: true,
    };
    Ok(Written(removed, done.position))
}

fn credential_id(text: &str) -> Result<CredentialId, ApiError> {
    text.parse().map_err(|_| ApiError::NotFound("credential"))
}
