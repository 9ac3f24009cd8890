//! Onboarding (contract, section 3): the state, and its steps.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use genie_events::{UserCommand, account::Onboarding};
use serde::Deserialize;
use serde_json::json;

use crate::{
    app::App,
    http::{answer, body::Body, caller::ActingUser, consistency, error::ApiError, idempotency},
};

/// `GET /api/onboarding/state`
pub async fn show_state(app: Data<App>, request: HttpRequest, user: ActingUser) -> Result<HttpResponse, ApiError> {
    let id = user.account.user;
    consistency::wait(&app, &request, "accounts", Some(id)).await?;
    let account = app.reads.accounts.get(id).await?.ok_or(ApiError::NotFound("user"))?;
    Ok(answer::ok(json!({"state": account.onboarding, "userId": id})))
}

#[derive(Deserialize)]
pub struct Step {
    state: String,
}

/// `PATCH /api/onboarding/state`
pub async fn advance(
    app: Data<App>,
    request: HttpRequest,
    user: ActingUser,
    Body(body): Body<Step>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &user.caller)?;
    let to = Onboarding::parse(&body.state)
        .ok_or_else(|| ApiError::field("`state` must be one of: EXTENSION_INSTALL, DATA_COLLECTION, PROCESSING, COMPLETE"))?;
    let command = UserCommand::AdvanceOnboarding { to, privileged: user.caller.is_admin() };
    let done = app.write.users.ask(user.account.user, asking, command).await?;
    Ok(answer::written(json!({"state": to.as_str(), "userId": user.account.user}), done.position))
}
