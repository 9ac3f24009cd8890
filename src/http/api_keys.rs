//! A user's own keys (docs/api.md, API keys), for programs that act for the user. The user makes and revokes them,
//! logged in; each is shown once.

use actix_web::{
    HttpRequest,
    web::{Data, Path},
};
use genie_events::{
    ServiceKeyId, Timestamp,
    api_key::{ApiKeyGrant, ApiScope},
};
use genie_projections::service_keys::ServiceKeyRow;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        body::Body,
        caller::UserCaller,
        error::ApiError,
        idempotency::IdempotencyKey,
        input,
        password_check::Password,
        read_your_writes::MinPosition,
        response::{ListPage, Written},
        service_keys::{RevokedServiceKey, end},
        words::{self, Time},
    },
};

#[derive(Deserialize, ToSchema)]
#[schema(as = NewApiKey)]
pub struct ApiKeyRequest {
    /// A name for the list, 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    #[schema(value_type = Vec<words::ApiScope>, min_items = 1)]
    scopes: Vec<String>,
    /// A time in the future, RFC 3339 with any offset. Without it the key does not expire.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    #[schema(value_type = String, format = Password)]
    #[serde(deserialize_with = "input::whole")]
    password: SecretString,
    /// With a Directus, when the user has a second factor there.
    #[schema(value_type = Option<String>)]
    #[serde(default, deserialize_with = "input::whole")]
    otp: Option<SecretString>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub struct ApiKeyAnswer {
    /// Facts name the key by this id.
    id: String,
    name: String,
    #[schema(value_type = Vec<words::ApiScope>)]
    scopes: Vec<String>,
    #[schema(required)]
    expires_at: Option<Time>,
    created_at: Time,
    /// The user, or the administrator who made the key for the user.
    #[schema(required, format = Uuid)]
    created_by: Option<String>,
}

impl From<&ServiceKeyRow> for ApiKeyAnswer {
    fn from(row: &ServiceKeyRow) -> Self {
        Self {
            id: row.id.clone(),
            name: row.name.clone().unwrap_or_default(),
            scopes: row.scopes.clone(),
            expires_at: row.expires_at.map(Time::from),
            created_at: row.created_at.into(),
            created_by: row.created_by.clone(),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct MadeApiKey {
    /// Send it as `Authorization: Bearer gk_...`. It is shown only this once.
    key: String,
    #[serde(flatten)]
    about: ApiKeyAnswer,
}

/// The grant of a new key, from the words of its maker.
pub fn grant(
    name: &str,
    scopes: &[String],
    expires_at: Option<String>,
    now: Timestamp,
) -> Result<ApiKeyGrant, ApiError> {
    let read: Option<Vec<ApiScope>> = scopes.iter().map(|word| ApiScope::parse(word)).collect();
    let Some(read) = read else {
        let all = ApiScope::ALL.map(ApiScope::as_str).join(", ");
        return Err(ApiError::field(format!(
            "`scopes` of a user's own key must be a list of: {all}"
        )));
    };
    Ok(ApiKeyGrant::new(name, read, end(expires_at)?, now)?)
}

/// `GET /api/me/keys`
pub async fn list(
    app: Data<App>,
    min_position: MinPosition,
    user: UserCaller,
) -> Result<ListPage<ApiKeyAnswer>, ApiError> {
    let id = user.account.user;
    min_position.wait(&app, "service_keys", Some(id)).await?;
    let rows = app.reads.service_keys.of_user(id).await?;
    ListPage::whole(rows.iter().map(ApiKeyAnswer::from))
}

/// `POST /api/me/keys`. A token may have been stolen, and a key lives longer, so the password is asked for.
pub async fn create(
    app: Data<App>,
    request: HttpRequest,
    user: UserCaller,
    Body(body): Body<ApiKeyRequest>,
) -> Result<Written<MadeApiKey>, ApiError> {
    let now = app.log.clock().now();
    let wanted = grant(&body.name, &body.scopes, body.expires_at, now)?;
    let proof = Password {
        password: body.password,
        otp: body.otp,
    };
    proof.prove(&app, &request, &user).await?;
    let id = user.account.user;
    let made = app
        .write
        .api_keys
        .make(id, wanted.clone(), user.caller.metadata())
        .await?;
    let about = ApiKeyAnswer {
        id: made.id.to_string(),
        name: wanted.key_name,
        scopes: wanted.scopes.iter().map(ApiScope::to_string).collect(),
        expires_at: wanted.expires_at.map(Time::from),
        created_at: now.into(),
        created_by: Some(id.to_string()),
    };
    let key = made.key.expose_secret().to_owned();
    Ok(Written(MadeApiKey { key, about }, made.position))
}

/// `DELETE /api/me/keys/{id}`
pub async fn revoke(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    user: UserCaller,
    id: Path<String>,
) -> Result<Written<RevokedServiceKey>, ApiError> {
    let asking = idempotency_key.asking(&app, &user.caller)?;
    let id: ServiceKeyId = id.parse().map_err(|_| ApiError::NotFound("key"))?;
    let owner = user.account.user;
    let position = app.write.api_keys.revoke(owner, id, asking).await?;
    app.callers.drop_key(&id);
    Ok(Written(RevokedServiceKey::of(&id), position))
}
