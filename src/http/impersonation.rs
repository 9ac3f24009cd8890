//! Impersonation (contract, section 2): an administrator acts for a user, for a quarter of an hour, and both are on record in all
//! that is done.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path},
};
use genie_events::UserId;
use serde_json::json;
use uuid::Uuid;

use crate::{
    app::App,
    http::{caller::AdminCaller, error::ApiError, idempotency, response},
    identity::impersonation::SECONDS,
};

/// `POST /api/admin/users/{id}/impersonate`. That it begins is a fact of the user before there is a token.
pub async fn begin(
    app: Data<App>,
    AdminCaller(caller): AdminCaller,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let user: UserId = id.parse().map_err(|_| ApiError::NotFound("user"))?;
    let by = caller.user_id().ok_or(ApiError::NoCaller)?;
    let (begun, position) = app
        .write
        .impersonations
        .begin(&caller, by, user, SECONDS)
        .await?;
    let token = app
        .impersonations
        .sign(&begun)
        .ok_or_else(|| ApiError::Internal("a token could not be signed".into()))?;
    let fields = json!({
        "session": begun.session, "userId": user, "access_token": token, "expires": SECONDS * 1000,
        "expires_at": begun.expires_at.rfc3339(),
    });
    Ok(response::written(fields, position))
}

/// `DELETE /api/admin/impersonations/{session}`: its token is good for nothing from then on. That it ended is a fact before it
/// does, so that whoever was not answered can ask again.
pub async fn end(
    app: Data<App>,
    request: HttpRequest,
    AdminCaller(caller): AdminCaller,
    session: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &caller)?;
    let session: Uuid = session
        .parse()
        .map_err(|_| ApiError::NotFound("impersonation"))?;
    let position = app.write.impersonations.end(session, asking).await?;
    Ok(response::written(
        json!({"session": session, "ended": true}),
        position,
    ))
}
