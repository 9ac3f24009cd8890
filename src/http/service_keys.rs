//! Service keys (contract, section 1): made and revoked by administrators, shown once.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path, Query},
};
use genie_events::{
    ServiceKeyId, Timestamp,
    service_key::{Scope, ServiceKeyGrant},
};
use genie_projections::service_keys::ServiceKeyRow;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::App,
    http::{
        body::Body,
        caller::AdminCaller,
        error::ApiError,
        idempotency, read_your_writes,
        response::{self, PageQuery},
    },
};

#[derive(Deserialize)]
pub struct NewServiceKey {
    name: String,
    scopes: Vec<String>,
    expires_at: Option<String>,
}

impl NewServiceKey {
    fn read(self, now: Timestamp) -> Result<ServiceKeyGrant, ApiError> {
        let scopes: Option<Vec<Scope>> =
            self.scopes.iter().map(|word| Scope::parse(word)).collect();
        let Some(scopes) = scopes else {
            let all = Scope::ALL.map(Scope::as_str).join(", ");
            return Err(ApiError::field(format!("`scopes` must be of: {all}")));
        };
        let moment = |text: String| {
            Timestamp::parse_rfc3339(&text)
                .ok_or_else(|| ApiError::field("`expires_at` must be an RFC 3339 time"))
        };
        let expires_at = self.expires_at.map(moment).transpose()?;
        Ok(ServiceKeyGrant::new(self.name, scopes, expires_at, now)?)
    }
}

/// `POST /api/admin/service-keys`. The key is shown this once: only its hash is kept.
pub async fn create(
    app: Data<App>,
    AdminCaller(caller): AdminCaller,
    Body(body): Body<NewServiceKey>,
) -> Result<HttpResponse, ApiError> {
    let now = app.log.clock().now();
    let wanted = body.read(now)?;
    let made = app
        .write
        .service_keys
        .make(wanted.clone(), caller.metadata())
        .await?;
    let fields = json!({
        "id": made.id, "key": made.key.expose_secret(), "name": wanted.name, "scopes": wanted.scopes,
        "expires_at": wanted.expires_at.map(Timestamp::rfc3339), "created_at": now.rfc3339(),
        "created_by": caller.user_id(), "revoked_at": null,
    });
    Ok(response::written(fields, made.position))
}

/// `GET /api/admin/service-keys`
pub async fn list(
    app: Data<App>,
    request: HttpRequest,
    _: AdminCaller,
    page: Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let limit = page.limit()?;
    read_your_writes::wait_for_all(&app, &request, "service_keys").await?;
    let rows = app
        .reads
        .service_keys
        .list(page.after_pair()?, limit)
        .await?;
    let next = response::next_cursor(&rows, limit, |row| {
        format!("{}/{}", row.created_at.0, row.id)
    });
    Ok(response::list(rows.iter().map(shown).collect(), next))
}

/// `DELETE /api/admin/service-keys/{id}`
pub async fn revoke(
    app: Data<App>,
    request: HttpRequest,
    AdminCaller(caller): AdminCaller,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &caller)?;
    let is_id = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    let id = is_id
        .then(|| ServiceKeyId(id.into_inner()))
        .ok_or(ApiError::NotFound("service key"))?;
    let position = app.write.service_keys.revoke(&id, asking).await?;
    Ok(response::written(
        json!({"id": id, "revoked": true}),
        position,
    ))
}

fn shown(row: &ServiceKeyRow) -> Value {
    let time = |at: Option<Timestamp>| at.map(Timestamp::rfc3339);
    json!({
        "id": row.id, "name": row.name, "scopes": row.scopes, "expires_at": time(row.expires_at),
        "created_at": row.created_at.rfc3339(), "created_by": row.created_by, "revoked_at": time(row.revoked_at),
    })
}
