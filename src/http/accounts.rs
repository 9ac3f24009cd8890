//! Accounts (contract, section 2): what other systems and administrators say of them.

use actix_web::{HttpResponse, web::Data};
use genie_events::{UserId, account::Wanted, tier::Tier};
use serde::Deserialize;
use serde_json::json;

use crate::{
    app::App,
    http::{answer, body::Body, caller::SecretCaller, error::ApiError},
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
