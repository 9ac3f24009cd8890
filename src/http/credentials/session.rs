//! Browser sessions, as the extension captures them.

use actix_web::web::Data;
use genie_actors::credentials::{CredentialDetails, MAX_COOKIE_BYTES, Plaintext, StoreTarget};
use genie_events::{
    CredentialId, PlatformName,
    cookies::{SessionCookie, checked_session},
    credential::CredentialKind,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        body::Body,
        caller::UserCaller,
        error::ApiError,
        idempotency::IdempotencyKey,
        response::Written,
        words::{self, Time},
    },
};

/// In characters.
const MAX_USER_AGENT: usize = 1000;

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewSession)]
pub struct NewSessionCredential {
    #[schema(min_length = 1, max_length = 64)]
    platform: String,
    /// Together at most 512 KiB.
    #[schema(value_type = Vec<words::SessionCookieForm>, min_items = 1, max_items = 1000)]
    cookies: Vec<SessionCookie>,
    /// The browser's name for itself. Some platforms compare it.
    #[schema(max_length = 1000)]
    user_agent: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct StoredSession {
    #[schema(value_type = Uuid)]
    id: CredentialId,
    /// True when it replaced a session.
    updated: bool,
    #[schema(required)]
    expires_at: Option<Time>,
}

/// The sealed part. A reveal shows it again.
#[derive(Serialize)]
struct SealedSession<'a> {
    cookies: &'a [SessionCookie],
    user_agent: Option<&'a str>,
    captured_at: String,
}

/// `POST /api/credentials/platform-session`
pub async fn store(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    user: UserCaller,
    Body(body): Body<NewSessionCredential>,
) -> Result<Written<StoredSession>, ApiError> {
    let asking = idempotency_key.asking(&app, &user.caller)?;
    let platform = PlatformName::read(&body.platform)?;
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
    let sealed = SealedSession {
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
    let session = StoredSession {
        id: stored.id,
        updated: stored.updated,
        expires_at: stored.expires_at.map(Time::from),
    };
    Ok(Written(session, stored.position))
}
