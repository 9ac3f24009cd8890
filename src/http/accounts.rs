//! Accounts (contract, section 2): a user's logins, and what other systems and administrators say of an account.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path},
};
use genie_events::{UserId, account::AccountSync, tier::Tier};
use genie_log::sessions::Session;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    app::App,
    http::{
        body::Body,
        caller::{AdminCaller, SecretCaller, UserCaller},
        error::ApiError,
        idempotency, response, roles,
    },
    roles::administers,
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
    fn wanted(self) -> Result<AccountSync, ApiError> {
        let tier = match self.tier.as_deref() {
            None => None,
            Some(word) => Some(Tier::parse(word).ok_or_else(|| {
                ApiError::field("`tier` must be one of: starter, creator, pro, studio")
            })?),
        };
        let active = match self.status.as_deref() {
            None => None,
            Some("active") => Some(true),
            Some(word) if INACTIVE.contains(&word) => Some(false),
            Some(_) => {
                return Err(ApiError::field(format!(
                    "`status` must be active or one of: {}",
                    INACTIVE.join(", ")
                )));
            }
        };
        // As with invites, a role alone says whether it administers: who is no administrator any more must not stay one.
        let admin = self
            .admin_access
            .or_else(|| self.role.as_deref().map(administers));
        Ok(AccountSync {
            role: self.role,
            admin,
            tier,
            active,
        })
    }
}

/// `POST /api/rbac-sync`
pub async fn sync(
    app: Data<App>,
    request: HttpRequest,
    SecretCaller(caller): SecretCaller,
    Body(body): Body<RbacSync>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &caller)?;
    let user = body.user;
    let wanted = body.wanted()?;
    if let Some(role) = &wanted.role {
        roles::check(&app, role).await?;
    }
    let (changed, position) = app.write.accounts.sync(user, wanted, asking).await?;
    Ok(response::written(
        json!({"userId": user, "changed": changed}),
        position,
    ))
}

/// `POST /api/admin/users/{id}/password-reset`. The token is shown once: only its hash is kept.
pub async fn offer_reset(
    app: Data<App>,
    AdminCaller(caller): AdminCaller,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let user: UserId = path.parse().map_err(|_| ApiError::NotFound("user"))?;
    let offered = app
        .write
        .accounts
        .offer_reset(user, caller.metadata())
        .await?;
    let shown = json!({
        "userId": user, "token": offered.token.expose_secret(), "expires_at": offered.link.expires_at.rfc3339(),
    });
    Ok(response::written(shown, offered.position))
}

/// `GET /api/me/sessions`
pub async fn sessions(app: Data<App>, user: UserCaller) -> Result<HttpResponse, ApiError> {
    let sessions = app
        .log
        .sessions_of(user.account.user, app.log.clock().now())
        .await?;
    Ok(response::list(
        sessions
            .iter()
            .map(|session| shown(session, user.login))
            .collect(),
        None,
    ))
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
pub async fn end_sessions(
    app: Data<App>,
    request: HttpRequest,
    user: UserCaller,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &user.caller)?;
    let done = app
        .write
        .accounts
        .end_sessions(user.account.user, asking)
        .await?;
    Ok(response::written(json!({}), done.position))
}

/// `DELETE /api/me/sessions/{id}`
pub async fn end_session(
    app: Data<App>,
    request: HttpRequest,
    user: UserCaller,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &user.caller)?;
    let login: Uuid = id.parse().map_err(|_| ApiError::NotFound("session"))?;
    let done = app
        .write
        .accounts
        .end_session(user.account.user, login, asking)
        .await?;
    Ok(response::written(json!({}), done.position))
}
