//! Accounts (docs/api.md, Identity): a user's logins, and changes that other systems and administrators make.

use actix_web::web::{Data, Path};
use genie_events::{UserId, account::AccountSync, tier::Tier};
use genie_log::sessions::Session;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    app::App,
    http::{
        body::Body,
        caller::{AdminCaller, SecretCaller, UserCaller},
        error::ApiError,
        idempotency::IdempotencyKey,
        response::{ListPage, NoFields, Written},
        roles,
        words::Time,
    },
    roles::administers,
};

/// Directus' words for a user who exists and may not act.
const INACTIVE: [&str; 5] = ["suspended", "draft", "invited", "unverified", "archived"];

#[derive(Deserialize, ToSchema)]
pub struct RoleSyncRequest {
    #[serde(rename = "userId")]
    #[schema(value_type = Uuid)]
    user: UserId,
    /// `creator`, `administrator`, or one of the roles in `GENIE_ROLES`; with a Directus, one of its roles. Without
    /// `admin_access`, `administrator` administers and every other role does not.
    #[schema(min_length = 1, max_length = 64)]
    role: Option<String>,
    /// `starter`, `creator`, `pro` or `studio`. `freemium` and `elite` are older names of the first and the last.
    tier: Option<String>,
    /// Only `active` users may act. The other words are `suspended`, `draft`, `invited`, `unverified` and `archived`.
    status: Option<String>,
    /// True for an administrator.
    admin_access: Option<bool>,
}

#[derive(Serialize, ToSchema)]
pub struct SyncedAccount {
    #[serde(rename = "userId")]
    #[schema(value_type = Uuid)]
    user: UserId,
    /// False when everything was so before.
    changed: bool,
}

#[derive(Serialize, ToSchema)]
pub struct PasswordReset {
    #[serde(rename = "userId")]
    #[schema(value_type = Uuid)]
    user: UserId,
    /// For `POST /auth/password/reset`.
    token: String,
    /// An hour from now.
    expires_at: Time,
}

/// A login as its user sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub struct LoginSession {
    #[schema(format = Uuid)]
    id: String,
    /// True for the login of this request's token.
    current: bool,
    /// The client's name for itself when it logged in.
    #[schema(required)]
    user_agent: Option<String>,
    created_at: Time,
    /// When its tokens were last refreshed.
    last_used_at: Time,
    /// When the login ends, unless it is refreshed before.
    expires_at: Time,
}

impl LoginSession {
    /// `login` is the login of the token that the request shows.
    pub fn new(session: &Session, login: Option<Uuid>) -> Self {
        Self {
            id: session.family.clone(),
            current: login.is_some_and(|login| login.to_string() == session.family),
            user_agent: session.agent.clone(),
            created_at: session.created_at.into(),
            last_used_at: session.used_at.into(),
            expires_at: session.expires_at.into(),
        }
    }
}

impl RoleSyncRequest {
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
                    "`status` must be one of: active, {}",
                    INACTIVE.join(", ")
                )));
            }
        };
        // As with invites, the role alone says whether it administers: a former administrator must not stay one.
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
    idempotency_key: IdempotencyKey,
    SecretCaller(caller): SecretCaller,
    Body(body): Body<RoleSyncRequest>,
) -> Result<Written<SyncedAccount>, ApiError> {
    let asking = idempotency_key.asking(&app, &caller)?;
    let user = body.user;
    let role = match &body.role {
        Some(role) => Some(roles::check(&app, role).await?),
        None => None,
    };
    let wanted = RoleSyncRequest { role, ..body }.wanted()?;
    let (changed, position) = app.write.accounts.sync(user, wanted, asking).await?;
    Ok(Written(SyncedAccount { user, changed }, position))
}

/// `POST /api/admin/users/{id}/password-reset`. The token is shown once: only its hash is kept.
pub async fn offer_reset(
    app: Data<App>,
    AdminCaller(caller): AdminCaller,
    path: Path<String>,
) -> Result<Written<PasswordReset>, ApiError> {
    let user: UserId = path.parse().map_err(|_| ApiError::NotFound("user"))?;
    let offered = app
        .write
        .accounts
        .offer_reset(user, caller.metadata())
        .await?;
    let reset = PasswordReset {
        user,
        token: offered.token.expose_secret().to_owned(),
        expires_at: offered.link.expires_at.into(),
    };
    Ok(Written(reset, offered.position))
}

/// `GET /api/me/sessions`
pub async fn sessions(
    app: Data<App>,
    user: UserCaller,
) -> Result<ListPage<LoginSession>, ApiError> {
    let sessions = app
        .log
        .sessions()
        .of_user(user.account.user, app.log.clock().now())
        .await?;
    let sessions = sessions.iter();
    let shown = sessions.map(|session| LoginSession::new(session, user.login));
    ListPage::whole(shown)
}

/// `DELETE /api/me/sessions`: ends all logins, this one too.
pub async fn end_sessions(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    user: UserCaller,
) -> Result<Written<NoFields>, ApiError> {
    let asking = idempotency_key.asking(&app, &user.caller)?;
    let done = app
        .write
        .accounts
        .end_sessions(user.account.user, asking)
        .await?;
    Ok(Written(NoFields {}, done.position))
}

/// `DELETE /api/me/sessions/{id}`
pub async fn end_session(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    user: UserCaller,
    id: Path<String>,
) -> Result<Written<NoFields>, ApiError> {
    let asking = idempotency_key.asking(&app, &user.caller)?;
    let login: Uuid = id.parse().map_err(|_| ApiError::NotFound("session"))?;
    let done = app
        .write
        .accounts
        .end_session(user.account.user, login, asking)
        .await?;
    Ok(Written(NoFields {}, done.position))
}
