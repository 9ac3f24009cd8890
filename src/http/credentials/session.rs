//! What a user's browser is logged in with, as its extension captures it.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use genie_actors::credentials::{CredentialDetails, MAX_COOKIE_BYTES, Plaintext, StoreTarget};
use genie_events::{
    Timestamp,
    cookies::{SessionCookie, checked_session},
    credential::CredentialKind,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::checked_platform;
use crate::{
    app::App,
    http::{body::Body, caller::UserCaller, error::ApiError, idempotency, response},
};

/// The longest name of a browser, in characters.
const MAX_USER_AGENT: usize = 1000;

#[derive(Debug, Deserialize)]
pub struct NewSession {
    platform: String,
    cookies: Vec<SessionCookie>,
    user_agent: Option<String>,
}

/// What is sealed of it, and shown again.
#[derive(Serialize)]
struct Sealed<'a> {
    cookies: &'a [SessionCookie],
    user_agent: Option<&'a str>,
    captured_at: String,
}

/// `POST /api/credentials/platform-session`
pub async fn store(
    app: Data<App>,
    request: HttpRequest,
    user: UserCaller,
    Body(body): Body<NewSession>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &user.caller)?;
    let platform = checked_platform(&body.platform)?;
    let user_agent = body.user_agent.as_deref();
    if user_agent.is_some_and(|name| {
        name.chars().count() > MAX_USER_AGENT || name.chars().any(char::is_control)
    }) {
        let sentence = format!(
            "`user_agent` must have at most {MAX_USER_AGENT} characters, none of them control characters"
        );
        return Err(ApiError::field(sentence));
    }
    let now = app.log.clock().now();
    let expires_at = checked_session(&body.cookies, now)?;
    let sealed = Sealed {
        cookies: &body.cookies,
        user_agent,
        captured_at: now.rfc3339(),
    };
    let secret = Plaintext::of("cookies", &sealed, MAX_COOKIE_BYTES)?;
    let target = StoreTarget::For(CredentialDetails {
        kind: CredentialKind::Session,
        platform,
        platform_username: None,
        expires_at,
    });
    let stored = app
        .write
        .credentials
        .store(user.account.user, asking, target, secret)
        .await?;
    let expires_at = stored.expires_at.map(Timestamp::rfc3339);
    Ok(response::written(
        json!({"id": stored.id, "updated": stored.updated, "expires_at": expires_at}),
        stored.position,
    ))
}
