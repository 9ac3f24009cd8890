//! Impersonation (contract, section 2): an administrator acts for a user, for a quarter of an hour, and both are on record in all
//! that is done.

use actix_web::{
    HttpResponse,
    web::{Data, Path},
};
use genie_events::{UserCommand, UserId, account::AccountCommand};
use genie_log::impersonations::Impersonation;
use serde_json::json;

use crate::{
    app::App,
    http::{answer, caller::AdminCaller, error::ApiError},
    identity::impersonation::SECONDS,
};

/// `POST /api/admin/users/{id}/impersonate`. That it begins is a fact of the user before there is a token.
pub async fn begin(app: Data<App>, AdminCaller(caller): AdminCaller, id: Path<String>) -> Result<HttpResponse, ApiError> {
    let user: UserId = id.parse().map_err(|_| ApiError::NotFound("user"))?;
    let by = caller.user_id().ok_or(ApiError::NoCaller)?;
    let (session, now) = (app.log.clock().new_uuid(), app.log.clock().now());
    let start = UserCommand::Account(AccountCommand::StartImpersonation { by, impersonation: session });
    let done = app.write.users.ask(user, caller.metadata(), start).await?;
    let begun = Impersonation { session, user, by, expires_at: now.plus_seconds(SECONDS) };
    app.log.open_impersonation(begun, now).await?;
    let token = app.impersonations.sign(&begun).ok_or_else(|| ApiError::Internal("a token could not be signed".into()))?;
    let fields = json!({
        "session": session, "userId": user, "access_token": token, "expires": SECONDS * 1000,
        "expires_at": begun.expires_at.rfc3339(),
    });
    Ok(answer::written(fields, done.position))
}

/// `DELETE /api/admin/impersonations/{session}`: its token is good for nothing from then on.
pub async fn end(app: Data<App>, _: AdminCaller, session: Path<String>) -> Result<HttpResponse, ApiError> {
    let session = session.parse().map_err(|_| ApiError::NotFound("impersonation"))?;
    match app.log.end_impersonation(session).await? {
        true => Ok(answer::ok(json!({"session": session, "ended": true}))),
        false => Err(ApiError::NotFound("impersonation")),
    }
}
