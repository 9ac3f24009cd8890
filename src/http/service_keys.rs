//! Service keys (docs/api.md, Service keys): administrators make and revoke them. Each is shown once.

use actix_web::web::{Data, Path};
use genie_events::{
    ServiceKeyId, Timestamp,
    service_key::{Scope, ServiceKeyGrant},
};
use genie_log::pages::Paged;
use genie_projections::service_keys::ServiceKeyRow;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
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
    #[schema(value_type = Vec<words::Scope>, min_items = 1)]
    scopes: Vec<String>,
    /// A time in the future, RFC 3339 with any offset. Without it the key does not expire.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ServiceKey)]
pub struct ServiceKeyAnswer {
    /// Facts and revocations name the key by this id.
    id: String,
    name: String,
    #[schema(value_type = Vec<words::Scope>)]
    scopes: Vec<String>,
    #[schema(required)]
    expires_at: Option<Time>,
    created_at: Time,
    /// The administrator who made the key.
    #[schema(required, format = Uuid)]
    created_by: Option<String>,
    /// Null until the key is revoked.
    #[schema(required)]
    revoked_at: Option<Time>,
}

impl From<&ServiceKeyRow> for ServiceKeyAnswer {
    fn from(row: &ServiceKeyRow) -> Self {
        Self {
            id: row.id.clone(),
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
        let moment = |text: String| {
            Timestamp::parse_rfc3339(&text)
                .ok_or_else(|| ApiError::field("`expires_at` must be an RFC 3339 time"))
        };
        let expires_at = self.expires_at.map(moment).transpose()?;
        Ok(ServiceKeyGrant::new(&self.name, scopes, expires_at, now)?)
    }
}

/// `POST /api/admin/service-keys`. The key is shown this once: only its hash is kept.
pub async fn create(
    app: Data<App>,
    AdminCaller(caller): AdminCaller,
    Body(body): Body<ServiceKeyRequest>,
) -> Result<Written<MadeServiceKey>, ApiError> {
    let now = app.log.clock().now();
    let wanted = body.read(now)?;
    let made = app
        .write
        .service_keys
        .make(wanted.clone(), caller.metadata())
        .await?;
    let about = ServiceKeyAnswer {
        id: made.id.to_string(),
        name: wanted.name,
        scopes: wanted.scopes.iter().map(Scope::to_string).collect(),
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
    let position = app.write.service_keys.revoke(&id, asking).await?;
    app.callers.drop_service_key(&id);
    let key = RevokedServiceKey {
        id: id.to_string(),
        revoked: true,
    };
    Ok(Written(key, position))
}
