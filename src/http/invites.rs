//! Invites (contract, section 2): made by administrators, each opens the door once.

use actix_web::{HttpResponse, web::Data};
use clap::Args;
use genie_events::{Metadata, Moment, invite::Grant, tier::Tier};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    app::App,
    http::{answer, body::Body, caller::AdminCaller, error::ApiError, request},
};

/// The most invites of one request.
const MAX_COUNT: usize = 100;

/// Invites as they are asked for: in a body, or on the command line.
#[derive(Default, Serialize, Deserialize, Args)]
pub struct NewInvites {
    /// How many
    #[arg(long)]
    count: Option<usize>,
    /// Until when they may be used, as an RFC 3339 time; for ever without it
    #[arg(long)]
    expires_at: Option<String>,
    /// The tier of who uses one: starter, creator, pro or studio
    #[arg(long)]
    tier: Option<String>,
    /// The role of who uses one; `administrator` makes an administrator
    #[arg(long)]
    role: Option<String>,
}

impl NewInvites {
    /// How many, and what their users become.
    pub fn read(self) -> Result<(usize, Grant), ApiError> {
        let count = self.count.unwrap_or(1);
        if !(1..=MAX_COUNT).contains(&count) {
            return Err(ApiError::field(format!("`count` must be 1 to {MAX_COUNT}")));
        }
        let tier = match &self.tier {
            None => Tier::default(),
            Some(word) => {
                Tier::parse(word).ok_or_else(|| ApiError::field("`tier` must be one of: starter, creator, pro, studio"))?
            }
        };
        let expires_at = match &self.expires_at {
            None => None,
            Some(text) => {
                Some(Moment::parse_rfc3339(text).ok_or_else(|| ApiError::field("`expires_at` must be an RFC 3339 time"))?)
            }
        };
        let role = self.role.unwrap_or_else(|| "creator".to_owned());
        if role.is_empty() || role.len() > 64 || role.chars().any(char::is_control) {
            return Err(ApiError::field("`role` must have 1 to 64 bytes, none of them control characters"));
        }
        Ok((count, Grant { tier, admin: role == "administrator", role, expires_at }))
    }
}

/// `POST /api/admin/invites`. The codes are shown once: only their hashes are kept.
pub async fn create(
    app: Data<App>,
    AdminCaller(caller): AdminCaller,
    Body(body): Body<NewInvites>,
) -> Result<HttpResponse, ApiError> {
    make(&app, body, caller.metadata()).await
}

/// `POST /invites` on the socket: who reaches it is the operator at the machine.
pub async fn create_as_operator(app: Data<App>, Body(body): Body<NewInvites>) -> Result<HttpResponse, ApiError> {
    make(&app, body, Metadata { request_id: Some(request::current_id()), ..Metadata::system() }).await
}

async fn make(app: &App, body: NewInvites, metadata: Metadata) -> Result<HttpResponse, ApiError> {
    let (count, grant) = body.read()?;
    let created_at = app.log.clock().now().rfc3339();
    let made = app.write.register.make_invites(count, grant.clone(), metadata).await?;
    let shown = made.codes.iter().map(|code| {
        json!({
            "code": code, "tier": grant.tier.as_str(), "role": grant.role, "expires_at": grant.expires_at.map(Moment::rfc3339),
            "used_by": null, "used_at": null, "created_at": created_at,
        })
    });
    Ok(answer::written(json!({"data": shown.collect::<Vec<_>>()}), made.position))
}
