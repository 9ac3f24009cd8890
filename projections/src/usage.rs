//! `usage`: counts by counter and month. Counts of what exists now come from the other tables.

use std::collections::HashMap;

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{
    Event, StreamKind, Timestamp, UserId, tier::Counter, timestamp::Month, usage::UsageEvent,
};
use genie_log::{Log, LogError, forgetting::UserRows, store::Store};
use sqlx::Row;

use crate::projection::{Projection, Seen, Tx, read};

pub(crate) struct Projector;

impl Projection for Projector {
    fn name(&self) -> &'static str {
        "usage"
    }

    fn wants(&self, kind: StreamKind) -> bool {
        kind == StreamKind::Usage
    }

    fn rows(&self) -> &'static [UserRows] {
        &[UserRows {
            table: "usage",
            user: "user_id",
            key: "user_id, counter, month",
        }]
    }

    fn apply<'a>(
        &'a self,
        seen: Seen<'a>,
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let Event::Usage(event) = seen.event else { return Ok(()) };
            let (counter, month, change) = match event {
                UsageEvent::Counted { counter, amount, month } => (counter, month, *amount as i64),
                UsageEvent::GivenBack { counter, amount, month } => (counter, month, -(*amount as i64)),
            };
            sqlx::query(
                "INSERT INTO usage (user_id, counter, month, counted) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (user_id, counter, month) DO UPDATE SET counted = usage.counted + excluded.counted",
            )
            .bind(seen.user())
            .bind(counter.as_str())
            .bind(i64::from(month.0))
            .bind(change)
            .execute(&mut **tx)
            .await
            .map(drop)
        }
        .boxed()
    }
}

#[derive(Debug, Clone)]
pub struct UsageReader {
    log: Log,
}

impl UsageReader {
    pub(crate) fn new(log: Log) -> Self {
        Self { log }
    }

    /// A user's counts in a month, and the counts of what exists at `now`.
    pub async fn of(
        &self,
        user: UserId,
        month: Month,
        now: Timestamp,
    ) -> Result<HashMap<Counter, u64>, LogError> {
        read(&self.log, async move |store: Store| {
            let user = user.to_string();
            let mut counts = HashMap::new();
            let sql = "SELECT counter, counted FROM usage WHERE user_id = $1 AND month = $2";
            for row in sqlx::query(sql).bind(&user).bind(i64::from(month.0)).fetch_all(store.reads()).await? {
                if let Some(counter) = Counter::parse(&row.try_get::<String, _>("counter")?) {
                    counts.insert(counter, row.try_get::<i64, _>("counted")?.max(0) as u64);
                }
            }
            let sql = "SELECT count(*) AS n FROM credentials WHERE user_id = $1 AND kind = 'profile'";
            let connected = sqlx::query(sql).bind(&user).fetch_one(store.reads()).await?;
            counts.insert(Counter::PlatformsConnected, connected.try_get::<i64, _>("n")? as u64);
            // A job that waits for its next attempt has a `run_at`, too; its attempt is not 0.
            let sql = "SELECT count(*) AS n FROM jobs WHERE user_id = $1 AND status = 'queued' AND attempt = 0 AND run_at > $2";
            let scheduled = sqlx::query(sql).bind(&user).bind(now.0).fetch_one(store.reads()).await?;
            counts.insert(Counter::ScheduledQueueSize, scheduled.try_get::<i64, _>("n")? as u64);
            Ok(counts)
        })
        .await
    }
}
