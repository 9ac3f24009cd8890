//! Impersonation (docs/api.md, Impersonation): an administrator acts for a user for 15 minutes. Every fact names
//! both.

use actix_web::web::{Data, Path};
use genie_events::UserId;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    app::App,
    http::{
        caller::AdminCaller, error::ApiError, idempotency::IdempotencyKey, response::Written,
        words::Time,
    },
    identity::impersonation::SECONDS,
};

#[derive(Serialize, ToSchema)]
pub struct BegunImpersonation {
    /// The id of the impersonation. `DELETE` takes it.
    session: Uuid,
    #[serde(rename = "userId")]
    #[schema(value_type = Uuid)]
    user: UserId,
    access_token: String,
    /// In milliseconds.
    expires: i64,
    expires_at: Time,
}

#[derive(Serialize, ToSchema)]
pub struct EndedImpersonation {
    session: Uuid,
    ended: bool,
}

/// `POST /api/admin/users/{id}/impersonate`. The beginning is a fact of the user before there is a token.
pub async fn begin(
    app: Data<App>,
    AdminCaller(caller): AdminCaller,
    id: Path<String>,
) -> Result<Written<BegunImpersonation>, ApiError> {
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
    let impersonation = BegunImpersonation {
        session: begun.session,
        user,
        access_token: token,
        expires: SECONDS * 1000,
        expires_at: begun.expires_at.into(),
    };
    Ok(Written(impersonation, position))
}

/// `DELETE /api/admin/impersonations/{session}`: its token stops working at once. The end is a fact before it takes
/// effect, so that a client without an answer can ask again.
pub async fn end(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    AdminCaller(caller): AdminCaller,
    session: Path<String>,
) -> Result<Written<EndedImpersonation>, ApiError> {
    let asking = idempotency_key.asking(&app, &caller)?;
    let session: Uuid = session
        .parse()
        .map_err(|_| ApiError::NotFound("impersonation"))?;
    let position = app.write.impersonations.end(session, asking).await?;
    let impersonation = EndedImpersonation {
        session,
        ended: true,
    };
    Ok(Written(impersonation, position))
}
