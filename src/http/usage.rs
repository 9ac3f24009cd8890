//! Usage (contract, section 8): what was counted, and what is left.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use genie_events::tier::{Counter, Tier};
use serde_json::{Map, Value, json};

use crate::{
    app::App,
    http::{answer, caller::ActingUser, consistency, error::ApiError},
};

/// `GET /api/usage`: `-1` is unlimited, `0` is not part of the tier.
pub async fn show(app: Data<App>, request: HttpRequest, user: ActingUser) -> Result<HttpResponse, ApiError> {
    let id = user.account.user;
    for projection in ["usage", "credentials", "jobs"] {
        consistency::wait(&app, &request, projection, Some(id)).await?;
    }
    let tier = Tier::parse(&user.account.tier).unwrap_or_default();
    let now = app.log.clock().now();
    let counts = app.reads.usage.of(id, now.month(), now).await?;
    let (mut limits, mut usage, mut remaining) = (Map::new(), Map::new(), Map::new());
    for counter in Counter::ALL {
        let used = counts.get(&counter).copied().unwrap_or(0);
        let limit = counter.limit(tier);
        let unlimited = || Value::from(-1);
        limits.insert(counter.to_string(), limit.map_or_else(unlimited, Value::from));
        usage.insert(counter.to_string(), used.into());
        remaining.insert(counter.to_string(), limit.map_or_else(unlimited, |limit| limit.saturating_sub(used).into()));
    }
    Ok(answer::ok(json!({"tier": tier.as_str(), "limits": limits, "usage": usage, "remaining": remaining})))
}
