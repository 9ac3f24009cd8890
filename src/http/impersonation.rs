//! Impersonation (docs/api.md, Identity): an administrator acts for a user, for a quarter of an hour, and both are on record in all
//! that is done.

use std::sync::Arc;

use actix_web::web::{Data, Path};
use genie_actors::users::Plan;
use genie_events::{
    Now, Refusal, User, UserCommand, UserId,
    account::{LifecycleCommand, ProfileCommand},
};
use genie_log::impersonations::Impersonation;
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
    /// The impersonation, to end it by.
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

/// `POST /api/admin/users/{id}/impersonate`. That it begins is a fact of the user before there is a token.
pub async fn begin(
    app: Data<App>,
    AdminCaller(caller): AdminCaller,
    id: Path<String>,
) -> Result<Written<BegunImpersonation>, ApiError> {
    let user: UserId = id.parse().map_err(|_| ApiError::NotFound("user"))?;
    let by = caller.user_id().ok_or(ApiError::NoCaller)?;
    let session = app.log.clock().new_uuid();
    let now = app.log.clock().now();
    let start = UserCommand::account(ProfileCommand::StartImpersonation {
        by,
        impersonation: session,
    });
    let done = app.write.users.ask(user, caller.metadata(), start).await?;
    let begun = Impersonation {
        session,
        user,
        by,
        expires_at: now.plus_seconds(SECONDS),
    };
    app.log.impersonations().open(begun, now).await?;
    let token = app
        .impersonations
        .sign(&begun)
        .ok_or_else(|| ApiError::Internal("a token could not be signed".into()))?;
    let impersonation = BegunImpersonation {
        session,
        user,
        access_token: token,
        expires: SECONDS * 1000,
        expires_at: begun.expires_at.into(),
    };
    Ok(Written(impersonation, done.position))
}

/// `DELETE /api/admin/impersonations/{session}`: its token is good for nothing from then on. That it ended is a fact before it
/// does, so that whoever was not answered can ask again.
pub async fn end(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    AdminCaller(caller): AdminCaller,
    session: Path<String>,
) -> Result<Written<EndedImpersonation>, ApiError> {
    const NOT_THERE: ApiError = ApiError::NotFound("impersonation");
    let asking = idempotency_key.asking(&app, &caller)?;
    let session: Uuid = session.parse().map_err(|_| NOT_THERE)?;
    let lasting = app
        .log
        .impersonations()
        .get(session, app.log.clock().now())
        .await?;
    let user = match (lasting, &asking.key) {
        (Some(lasting), _) => lasting.user,
        // It is over: only the same request once more is answered again.
        (None, Some(key)) => app.log.outcomes().owner_of(key).await?.ok_or(NOT_THERE)?,
        (None, None) => return Err(NOT_THERE),
    };
    let end = move |state: &User, now: Now| {
        let lasting = lasting.ok_or_else(|| Refusal::not_found("impersonation"))?;
        let end = LifecycleCommand::EndImpersonation {
            by: lasting.by,
            impersonation: session,
        };
        state.decide(now, UserCommand::account(end)).map(Plan::from)
    };
    let done = app
        .write
        .users
        .plan(user, None, asking, Arc::new(end))
        .await?;
    app.log.impersonations().end(session).await?;
    let impersonation = EndedImpersonation {
        session,
        ended: true,
    };
    Ok(Written(impersonation, done.position))
}
