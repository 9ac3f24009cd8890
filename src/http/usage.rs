//! Usage (contract, section 8): what was counted, what is left, and what clients count themselves.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use genie_actors::Caller;
use genie_events::{
    UserId,
    tier::{Counter, Tier},
};
use genie_projections::accounts::AccountRow;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    app::App,
    http::{
        body::Body,
        caller::{ActingUser, AnyCaller},
        error::ApiError,
        idempotency, read_your_writes, response,
    },
};

/// The most that is counted at once.
const MAX_AMOUNT: i64 = 10_000;

/// `GET /api/usage`: `-1` is unlimited, `0` is not part of the tier.
pub async fn show(
    app: Data<App>,
    request: HttpRequest,
    user: ActingUser,
) -> Result<HttpResponse, ApiError> {
    let id = user.account.user;
    for projection in ["accounts", "usage", "credentials", "jobs"] {
        read_your_writes::wait(&app, &request, projection, Some(id)).await?;
    }
    // Read again: the caller's own account may have been read before the position that is asked for.
    let account = app
        .reads
        .accounts
        .get(id)
        .await?
        .ok_or(ApiError::NoCaller)?;
    Ok(response::ok(of(&app, &account).await?))
}

/// What an account may, did and may still do this month.
pub async fn of(app: &App, account: &AccountRow) -> Result<Value, ApiError> {
    let tier = Tier::parse(&account.tier).unwrap_or_default();
    let now = app.log.clock().now();
    let counts = app.reads.usage.of(account.user, now.month(), now).await?;
    let (mut limits, mut usage, mut remaining) = (Map::new(), Map::new(), Map::new());
    for counter in Counter::ALL {
        let used = counts.get(&counter).copied().unwrap_or(0);
        let limit = app.limits.of(tier, counter);
        let unlimited = || Value::from(-1);
        limits.insert(
            counter.to_string(),
            limit.map_or_else(unlimited, Value::from),
        );
        usage.insert(counter.to_string(), used.into());
        remaining.insert(
            counter.to_string(),
            limit.map_or_else(unlimited, |limit| limit.saturating_sub(used).into()),
        );
    }
    Ok(json!({"tier": tier.as_str(), "limits": limits, "usage": usage, "remaining": remaining}))
}

#[derive(Deserialize)]
pub struct Increment {
    operation: String,
    amount: Option<i64>,
    #[serde(rename = "userId")]
    user: Option<String>,
}

/// `POST /api/usage/increment`: what genie counts itself is answered and left as it is, so that clients of the original do not
/// count it twice.
pub async fn increment(
    app: Data<App>,
    request: HttpRequest,
    who: AnyCaller,
    Body(body): Body<Increment>,
) -> Result<HttpResponse, ApiError> {
    let counter = Counter::parse(&body.operation).ok_or_else(|| {
        ApiError::field(format!(
            "`operation` must be one of: {}",
            Counter::ALL.map(Counter::as_str).join(", ")
        ))
    })?;
    let amount = match body.amount.unwrap_or(1) {
        amount @ 1..=MAX_AMOUNT => amount.unsigned_abs(),
        _ => {
            return Err(ApiError::field(format!(
                "`amount` must be 1 to {MAX_AMOUNT}"
            )));
        }
    };
    let (caller, user) = whose(who, body.user.as_deref())?;
    let asking = idempotency::asking(&app, &request, &caller)?;
    let (count, position) = app.write.usage.count(user, counter, amount, asking).await?;
    Ok(response::written(json!(count), position))
}

/// A user counts for themselves, a server for the user it names.
fn whose(who: AnyCaller, named: Option<&str>) -> Result<(Caller, UserId), ApiError> {
    let named = named
        .map(|id| id.parse::<UserId>().map_err(|_| ApiError::NotFound("user")))
        .transpose()?;
    match (who, named) {
        (AnyCaller::User(user), Some(other)) if other != user.account.user => Err(
            ApiError::Forbidden("You can only count for yourself; leave `userId` out"),
        ),
        (AnyCaller::User(user), _) => Ok((user.caller, user.account.user)),
        (AnyCaller::Server(server), Some(user)) => Ok((server.caller, user)),
        (AnyCaller::Server(_), None) => Err(ApiError::field(
            "`userId` is missing: say for whom this is counted",
        )),
    }
}
