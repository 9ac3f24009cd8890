//! Invites (contract, section 2): made by administrators, each opens the door once.

use actix_web::{HttpResponse, web::Data};
use genie_events::{Moment, invite::Grant, tier::Tier};
use serde::Deserialize;
use serde_json::json;

use crate::{
    app::App,
    http::{answer, body::Body, caller::AdminCaller, error::ApiError},
};

/// The most invites of one request.
const MAX_COUNT: usize = 100;

#[derive(Deserialize)]
pub struct NewInvites {
    count: Option<usize>,
    expires_at: Option<String>,
    tier: Option<String>,
    role: Option<String>,
}

/// `POST /api/admin/invites`. The codes are shown once: only their hashes are kept.
pub async fn create(
    app: Data<App>,
    AdminCaller(caller): AdminCaller,
    Body(body): Body<NewInvites>,
) -> Result<HttpResponse, ApiError> {
    let count = body.count.unwrap_or(1);
    if !(1..=MAX_COUNT).contains(&count) {
        return Err(ApiError::field(format!("`count` must be 1 to {MAX_COUNT}")));
    }
    let tier = match &body.tier {
        None => Tier::default(),
        Some(word) => Tier::parse(word).ok_or_else(|| ApiError::field("`tier` must be one of: starter, creator, pro, studio"))?,
    };
    let expires_at = match &body.expires_at {
        None => None,
        Some(text) => Some(Moment::parse_rfc3339(text).ok_or_else(|| ApiError::field("`expires_at` must be an RFC 3339 time"))?),
    };
    let role = body.role.unwrap_or_else(|| "creator".to_owned());
    if role.is_empty() || role.len() > 64 || role.chars().any(char::is_control) {
        return Err(ApiError::field("`role` must have 1 to 64 bytes, none of them control characters"));
    }
    let grant = Grant { tier, role: role.clone(), admin: role == "administrator", expires_at };
    let created_at = app.log.clock().now().rfc3339();
    let made = app.write.register.make_invites(count, grant, caller.metadata()).await?;
    let shown = made.codes.iter().map(|code| {
        json!({
            "code": code, "tier": tier.as_str(), "role": role, "expires_at": expires_at.map(Moment::rfc3339),
            "used_by": null, "used_at": null, "created_at": created_at,
        })
    });
    Ok(answer::written(json!({"data": shown.collect::<Vec<_>>()}), made.position))
}
