//! Service keys (docs/api.md, Service keys): administrators make and revoke them, and keys of users, too. Each is shown
//! once.

use actix_web::web::{Data, Path};
use genie_actors::Caller;
use genie_events::{
    ServiceKeyId, Timestamp, UserId,
    api_key::ApiScope,
    service_key::{Scope, ServiceKeyGrant},
};
use genie_log::{KeyKind, pages::Paged};
use genie_projections::service_keys::ServiceKeyRow;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        api_keys,
        body::Body,
        caller::AdminCaller,
        error::ApiError,
        idempotency::IdempotencyKey,
        input::Query,
        read_your_writes::MinPosition,
        response::{ListPage, PageQuery, Written},
        words::{self, Time},
    },
};

#[derive(Deserialize, ToSchema)]
#[schema(as = NewServiceKey)]
pub struct ServiceKeyRequest {
    /// A name for the list, 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// Of a service key; or, with `user_id`, of a user's own key: `api`, `chat`, `mcp`.
    #[schema(value_type = Vec<words::KeyScope>, min_items = 1)]
    scopes: Vec<String>,
    /// Makes a key of this user's own, for a program that acts for the user.
    #[schema(value_type = Option<Uuid>)]
    user_id: Option<UserId>,
    /// A time in the future, RFC 3339 with any offset. Without it the key does not expire.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ServiceKey)]
pub struct ServiceKeyAnswer {
    /// Facts and revocations name the key by this id.
    id: String,
    /// The user whose own key it is; null for a service key.
    #[schema(required, value_type = Option<Uuid>)]
    user_id: Option<UserId>,
    /// Null in the list for a user's own key: only the user sees that name.
    #[schema(required)]
    name: Option<String>,
    #[schema(value_type = Vec<words::KeyScope>)]
    scopes: Vec<String>,
    #[schema(required)]
    expires_at: Option<Time>,
    created_at: Time,
    /// The administrator who made the key, or the user.
    #[schema(required, format = Uuid)]
    created_by: Option<String>,
    /// Null until the key is revoked. A revoked key of a user's own leaves the list.
    #[schema(required)]
    revoked_at: Option<Time>,
}

impl From<&ServiceKeyRow> for ServiceKeyAnswer {
    fn from(row: &ServiceKeyRow) -> Self {
        Self {
            id: row.id.clone(),
            user_id: row.user,
            name: row.name.clone(),
            scopes: row.scopes.clone(),
            expires_at: row.expires_at.map(Time::from),
            created_at: row.created_at.into(),
            created_by: row.created_by.clone(),
            revoked_at: row.revoked_at.map(Time::from),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct MadeServiceKey {
    /// Send it as `Authorization: Bearer gk_...`. It is shown only this once.
    key: String,
    #[serde(flatten)]
    about: ServiceKeyAnswer,
}

#[derive(Serialize, ToSchema)]
pub struct RevokedServiceKey {
    id: String,
    revoked: bool,
}

impl RevokedServiceKey {
    pub fn of(id: &ServiceKeyId) -> Self {
        Self {
            id: id.to_string(),
            revoked: true,
        }
    }
}

impl ServiceKeyRequest {
    fn read(self, now: Timestamp) -> Result<ServiceKeyGrant, ApiError> {
        let scopes: Option<Vec<Scope>> =
            self.scopes.iter().map(|word| Scope::parse(word)).collect();
        let Some(scopes) = scopes else {
            let all = Scope::ALL.map(Scope::as_str).join(", ");
            return Err(ApiError::field(format!(
                "`scopes` must be a list of: {all}"
            )));
        };
        let expires_at = end(self.expires_at)?;
        Ok(ServiceKeyGrant::new(&self.name, scopes, expires_at, now)?)
    }
}

/// The end of a key, from a body.
pub fn end(expires_at: Option<String>) -> Result<Option<Timestamp>, ApiError> {
    let moment = |text: String| {
        Timestamp::parse_rfc3339(&text)
            .ok_or_else(|| ApiError::field("`expires_at` must be an RFC 3339 time"))
    };
    expires_at.map(moment).transpose()
}

/// `POST /api/admin/service-keys`. The key is shown this once: only its hash is kept.
pub async fn create(
    app: Data<App>,
    AdminCaller(caller): AdminCaller,
    Body(body): Body<ServiceKeyRequest>,
) -> Result<Written<MadeServiceKey>, ApiError> {
    if let Some(user) = body.user_id {
        return create_for_user(&app, &caller, user, body).await;
    }
    let now = app.log.clock().now();
    let wanted = body.read(now)?;
    let made = app
        .write
        .service_keys
        .make(wanted.clone(), caller.metadata())
        .await?;
    let about = ServiceKeyAnswer {
        id: made.id.to_string(),
        user_id: None,
        name: Some(wanted.name),
        scopes: wanted.scopes.iter().map(Scope::to_string).collect(),
        expires_at: wanted.expires_at.map(Time::from),
        created_at: now.into(),
        created_by: caller.user_id().map(|user| user.to_string()),
        revoked_at: None,
    };
    let key = made.key.expose_secret().to_owned();
    Ok(Written(MadeServiceKey { key, about }, made.position))
}

async fn create_for_user(
    app: &App,
    caller: &Caller,
    user: UserId,
    body: ServiceKeyRequest,
) -> Result<Written<MadeServiceKey>, ApiError> {
    let now = app.log.clock().now();
    let wanted = api_keys::grant(&body.name, &body.scopes, body.expires_at, now)?;
    let made = app
        .write
        .api_keys
        .make(user, wanted.clone(), caller.metadata())
        .await?;
    let about = ServiceKeyAnswer {
        id: made.id.to_string(),
        user_id: Some(user),
        name: Some(wanted.key_name),
        scopes: wanted.scopes.iter().map(ApiScope::to_string).collect(),
        expires_at: wanted.expires_at.map(Time::from),
        created_at: now.into(),
        created_by: caller.user_id().map(|user| user.to_string()),
        revoked_at: None,
    };
    let key = made.key.expose_secret().to_owned();
    Ok(Written(MadeServiceKey { key, about }, made.position))
}

/// `GET /api/admin/service-keys`
pub async fn list(
    app: Data<App>,
    min_position: MinPosition,
    _: AdminCaller,
    Query(page): Query<PageQuery>,
) -> Result<ListPage<ServiceKeyAnswer>, ApiError> {
    let limit = page.limit()?;
    min_position.wait_for_all(&app, "service_keys").await?;
    let rows = app
        .reads
        .service_keys
        .list(page.after_pair()?, limit + 1)
        .await?;
    ListPage::of(
        &Paged::cut(rows, limit as usize),
        |row| format!("{}/{}", row.created_at.0, row.id),
        ServiceKeyAnswer::from,
    )
}

/// `DELETE /api/admin/service-keys/{id}`
pub async fn revoke(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    AdminCaller(caller): AdminCaller,
    id: Path<String>,
) -> Result<Written<RevokedServiceKey>, ApiError> {
    let asking = idempotency_key.asking(&app, &caller)?;
    let id: ServiceKeyId = id.parse().map_err(|_| ApiError::NotFound("service key"))?;
    let position = match app.log.lookups().key_kind(id).await? {
        Some(KeyKind::OfUser(user)) => app.write.api_keys.revoke(user, id, asking).await?,
        _ => app.write.service_keys.revoke(&id, asking).await?,
    };
    app.callers.drop_key(&id);
    Ok(Written(RevokedServiceKey::of(&id), position))
}
