//! Invites (contract, section 2): made by administrators, each opens the door once.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path, Query},
};
use genie_events::{Metadata, Timestamp};
use genie_projections::invites::InviteRow;
use serde_json::{Value, json};

use crate::{
    app::App,
    http::{
        body::Body,
        caller::AdminCaller,
        error::ApiError,
        idempotency, read_your_writes, request,
        response::{self, PageQuery},
        roles,
    },
    socket::requests::InviteRequest,
};

/// `POST /api/admin/invites`
pub async fn create(
    app: Data<App>,
    AdminCaller(caller): AdminCaller,
    Body(body): Body<InviteRequest>,
) -> Result<HttpResponse, ApiError> {
    make(&app, body, caller.metadata()).await
}

/// `POST /invites` on the socket: who reaches it is the operator at the machine.
pub async fn create_as_operator(
    app: Data<App>,
    Body(body): Body<InviteRequest>,
) -> Result<HttpResponse, ApiError> {
    make(
        &app,
        body,
        Metadata {
            request_id: Some(request::current_id()),
            ..Metadata::system()
        },
    )
    .await
}

async fn make(
    app: &App,
    body: InviteRequest,
    metadata: Metadata,
) -> Result<HttpResponse, ApiError> {
    let (count, grant) = body.read().map_err(ApiError::field)?;
    roles::check(app, &grant.role).await?;
    let created_at = app.log.clock().now();
    let made = app
        .write
        .invites
        .make(count, grant.clone(), metadata)
        .await?;
    let row = |code: &String| InviteRow {
        code: Some(code.clone()),
        tier: grant.tier.as_str().to_owned(),
        role: grant.role.clone(),
        expires_at: grant.expires_at,
        created_at,
        ..InviteRow::default()
    };
    let shown: Vec<Value> = made
        .codes
        .iter()
        .map(|code| shown(&row(code), created_at))
        .collect();
    Ok(response::written(json!({"data": shown}), made.position))
}

/// `GET /api/admin/invites`
pub async fn list(
    app: Data<App>,
    request: HttpRequest,
    _: AdminCaller,
    page: Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let limit = page.limit()?;
    read_your_writes::wait_for_all(&app, &request, "invites").await?;
    let rows = app.reads.invites.list(page.after_pair()?, limit).await?;
    let next = response::next_cursor(&rows, limit, |row| {
        format!("{}/{}", row.created_at.0, row.id)
    });
    let now = app.log.clock().now();
    Ok(response::list(
        rows.iter().map(|row| shown(row, now)).collect(),
        next,
    ))
}

/// `DELETE /api/admin/invites/{code}`
pub async fn revoke(
    app: Data<App>,
    request: HttpRequest,
    AdminCaller(caller): AdminCaller,
    code: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &caller)?;
    let position = app.write.invites.revoke(&code, asking).await?;
    Ok(response::written(
        json!({"code": *code, "revoked": true}),
        position,
    ))
}

fn shown(row: &InviteRow, now: Timestamp) -> Value {
    let time = |at: Option<Timestamp>| at.map(Timestamp::rfc3339);
    // Who used it may have been forgotten since.
    let status = match (row.used_at, row.expires_at) {
        (Some(_), _) => "used",
        (None, Some(at)) if at <= now => "expired",
        (None, _) => "open",
    };
    json!({
        "code": row.code, "status": status, "tier": row.tier, "role": row.role, "expires_at": time(row.expires_at),
        "used_by": row.used_by, "used_at": time(row.used_at), "created_at": row.created_at.rfc3339(),
    })
}
