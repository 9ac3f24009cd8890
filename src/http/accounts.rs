//! Accounts (contract, section 2): a user's logins, and what other systems and administrators say of an account.

use actix_web::{
    HttpResponse,
    web::{Data, Path},
};
use genie_events::{UserId, account::Wanted, tier::Tier};
use genie_log::sessions::Session;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    app::App,
    http::{
        answer,
        body::Body,
        caller::{AdminCaller, SecretCaller, UserCaller},
        error::ApiError,
    },
};

/// The words of Directus for a user who is there and may not act.
const INACTIVE: [&str; 5] = ["suspended", "draft", "invited", "unverified", "archived"];

#[derive(Deserialize)]
pub struct RbacSync {
    #[serde(rename = "userId")]
    user: UserId,
    role: Option<String>,
    tier: Option<String>,
    status: Option<String>,
    admin_access: Option<bool>,
}

impl RbacSync {
    fn wanted(self) -> Result<Wanted, ApiError> {
        let tier = match self.tier.as_deref() {
            None => None,
            Some(word) => {
                Some(Tier::parse(word).ok_or_else(|| ApiError::field("`tier` must be one of: starter, creator, pro, studio"))?)
            }
        };
        let active = match self.status.as_deref() {
            None => None,
            Some("active") => Some(true),
            Some(word) if INACTIVE.contains(&word) => Some(false),
            Some(_) => return Err(ApiError::field(format!("`status` must be active or one of: {}", INACTIVE.join(", ")))),
        };
        if self.role.as_ref().is_some_and(|role| role.is_empty() || role.len() > 64 || role.chars().any(char::is_control)) {
            return Err(ApiError::field("`role` must have 1 to 64 bytes, none of them control characters"));
        }
        // As with invites, a role alone says whether it administers: who is no administrator any more must not stay one.
        let admin = self.admin_access.or_else(|| self.role.as_ref().map(|role| role == "administrator"));
        Ok(Wanted { role: self.role, admin, tier, active })
    }
}

/// `POST /api/rbac-sync`
pub async fn sync(
    app: Data<App>,
    SecretCaller(caller): SecretCaller,
    Body(body): Body<RbacSync>,
) -> Result<HttpResponse, ApiError> {
    let user = body.user;
    let done = app.write.accounts.sync(user, body.wanted()?, caller.metadata()).await?;
    Ok(answer::written(json!({"userId": user, "changed": !done.changes.is_empty()}), done.position))
}

/// `POST /api/admin/users/{id}/password-reset`. The token is shown once: only its hash is kept.
pub async fn offer_reset(app: Data<App>, AdminCaller(caller): AdminCaller, path: Path<String>) -> Result<HttpResponse, ApiError> {
    let user: UserId = path.parse().map_err(|_| ApiError::NotFound("user"))?;
    let offered = app.write.accounts.offer_reset(user, caller.metadata()).await?;
    let shown = json!({
        "userId": user, "token": offered.token.expose_secret(), "expires_at": offered.link.expires_at.rfc3339(),
    });
    Ok(answer::written(shown, offered.position))
}

/// `GET /api/me/sessions`
pub async fn sessions(app: Data<App>, user: UserCaller) -> Result<HttpResponse, ApiError> {
    let sessions = app.log.sessions_of(user.account.user, app.log.clock().now()).await?;
    Ok(answer::list(sessions.iter().map(|session| shown(session, user.login)).collect(), None))
}

/// A login as its user sees it, by a token of that or another login.
pub fn shown(session: &Session, login: Option<Uuid>) -> Value {
    json!({
        "id": session.family, "current": login.is_some_and(|login| login.to_string() == session.family),
        "user_agent": session.agent, "created_at": session.created_at.rfc3339(),
        "last_used_at": session.used_at.rfc3339(), "expires_at": session.expires_at.rfc3339(),
    })
}

/// `DELETE /api/me/sessions`: logged out everywhere, here as well.
pub async fn end_sessions(app: Data<App>, user: UserCaller) -> Result<HttpResponse, ApiError> {
    let done = app.write.accounts.end_sessions(user.account.user, user.caller.metadata()).await?;
    Ok(answer::written(json!({}), done.position))
}

/// `DELETE /api/me/sessions/{id}`
pub async fn end_session(app: Data<App>, user: UserCaller, id: Path<String>) -> Result<HttpResponse, ApiError> {
    let login: Uuid = id.parse().map_err(|_| ApiError::NotFound("session"))?;
    match app.log.end_session(&login.to_string(), Some(user.account.user)).await? {
        true => Ok(answer::ok(json!({}))),
        false => Err(ApiError::NotFound("session")),
    }
}
