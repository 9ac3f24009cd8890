//! Usage (docs/api.md, Usage and tiers): counts, what is left of the limits, and the counts that clients report.

use actix_web::web::Data;
use genie_actors::Caller;
use genie_events::{
    UserId,
    tier::{Counter, Tier},
};
use genie_projections::accounts::AccountRow;
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        body::Body,
        caller::{ActingUser, AnyCaller},
        error::ApiError,
        idempotency::IdempotencyKey,
        read_your_writes::MinPosition,
        response::{Answer, Written},
        words,
    },
};

const UNLIMITED: i64 = -1;
/// The largest amount of one request.
const MAX_AMOUNT: i64 = 10_000;

/// The projections that counts are read from.
pub const READ_FROM: [&str; 4] = ["accounts", "usage", "credentials", "jobs"];

/// `GET /api/usage`: `-1` is unlimited, `0` is not part of the tier.
pub async fn show(
    app: Data<App>,
    min_position: MinPosition,
    user: ActingUser,
) -> Result<Answer<UsageAnswer>, ApiError> {
    let id = user.account.user;
    min_position
        .wait_for_each(&app, &READ_FROM, Some(id))
        .await?;
    // Looked up again: the caller's own may have been found before the position that was waited for.
    let reached = min_position.asked()?.unwrap_or(0);
    let account = app.callers.account_at(id, reached).await?;
    let account = account.ok_or(ApiError::NoCaller)?;
    Ok(Answer(of(&app, &account).await?))
}

pub async fn of(app: &App, account: &AccountRow) -> Result<UsageAnswer, ApiError> {
    let tier = Tier::parse(&account.tier).unwrap_or_default();
    let now = app.log.clock().now();
    let counts = app.reads.usage.of(account.user, now.month(), now).await?;
    let used = Counter::ALL.map(|counter| counts.get(&counter).copied().unwrap_or(0));
    let limits = Counter::ALL.map(|counter| app.limits.of(tier, counter));
    let left = |n: usize| limits[n].map(|limit| limit.saturating_sub(used[n]));
    let bound = |bound: Option<u64>| bound.map_or(UNLIMITED, as_number);
    Ok(UsageAnswer {
        tier: tier.as_str(),
        limits: PerCounter(limits.map(bound)),
        usage: PerCounter(used.map(as_number)),
        remaining: PerCounter(std::array::from_fn(|n| bound(left(n)))),
    })
}

#[derive(Deserialize, ToSchema)]
pub struct Increment {
    /// The counter. Only `taxonomy_ai_calls` is counted here.
    #[schema(value_type = words::CounterName)]
    operation: String,
    /// 1 by default.
    #[schema(minimum = 1, maximum = 10_000)]
    amount: Option<i64>,
    /// The user to count for. A user may name only themselves.
    #[serde(rename = "userId")]
    #[schema(format = Uuid)]
    user: Option<String>,
}

/// The count after this request.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Incremented {
    new_value: u64,
    /// True when no more is allowed.
    limit_reached: bool,
    /// `false` for counters that genie counts itself.
    counted: bool,
}

/// An account's limits, what it used and what is left, this month (UTC) or at present. As a limit, -1 is unlimited,
/// and 0 is not part of the tier.
#[derive(Serialize, ToSchema)]
#[schema(as = Usage)]
pub struct UsageAnswer {
    #[schema(value_type = words::Tier)]
    tier: &'static str,
    #[schema(value_type = words::Limits)]
    limits: PerCounter,
    #[schema(value_type = words::Counts)]
    usage: PerCounter,
    #[schema(value_type = words::Limits)]
    remaining: PerCounter,
}

/// A number for each counter, in the order of [`Counter::ALL`].
struct PerCounter([i64; Counter::ALL.len()]);

impl Serialize for PerCounter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let names = Counter::ALL.iter().map(|counter| counter.as_str());
        serializer.collect_map(names.zip(&self.0))
    }
}

/// `POST /api/usage/increment`. Counters that genie counts itself are answered unchanged, so that clients of the
/// original do not count twice.
pub async fn increment(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    who: AnyCaller,
    Body(body): Body<Increment>,
) -> Result<Written<Incremented>, ApiError> {
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
    let asking = idempotency_key.asking(&app, &caller)?;
    let (count, position) = app.write.usage.count(user, counter, amount, asking).await?;
    let count = Incremented {
        new_value: count.new_value,
        limit_reached: count.limit_reached,
        counted: count.counted,
    };
    Ok(Written(count, position))
}

fn as_number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
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
            "`userId` is missing: name the user to count for",
        )),
    }
}
