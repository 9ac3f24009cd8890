//! `usage`: counts by counter and month. The counts of what exists now stand in the same table; the
//! projections of those things keep them.

use std::collections::{BTreeMap, HashMap};

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{
    Event, StreamKind, Timestamp, UserId, tier::Counter, timestamp::Month, usage::UsageEvent,
};
use genie_log::{Log, LogError, forgetting::UserRows, store::Store};
use sqlx::Row;

use crate::{
    projection::{Projection, Seen, Tx, read},
    rows::Upsert,
};

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
            key: "user_id, month, counter",
        }]
    }

    fn apply<'a>(
        &'a self,
        facts: &'a [Seen<'a>],
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let mut changes = UsageChanges::new();
            for seen in facts {
                let Event::Usage(event) = seen.event else {
                    continue;
                };
                let (counter, month, change) = match event {
                    UsageEvent::Counted {
                        counter,
                        amount,
                        month,
                    } => (counter, month, *amount as i64),
                    UsageEvent::GivenBack {
                        counter,
                        amount,
                        month,
                    } => (counter, month, -(*amount as i64)),
                };
                *changes.entry((seen.user(), *month, *counter)).or_default() += change;
            }
            add(tx, changes).await
        }
        .boxed()
    }
}

/// Under this month stand the counts of what exists now.
pub(crate) const PRESENT: Month = Month(0);

/// UsageChanges by user, month and counter.
pub(crate) type UsageChanges = BTreeMap<(String, Month, Counter), i64>;

const ADD: Upsert = Upsert {
    table: "usage",
    columns: &["user_id", "month", "counter", "counted"],
    on_conflict: "(user_id, month, counter) DO UPDATE SET counted = usage.counted + excluded.counted",
};

/// Adds the changes to the counts.
pub(crate) async fn add(tx: &mut Tx, changes: UsageChanges) -> Result<(), sqlx::Error> {
    let changes = changes.into_iter().filter(|(_, change)| *change != 0);
    let rows = changes.map(|((user, month, counter), change)| {
        vec![
            user.into(),
            i64::from(month.0).into(),
            counter.as_str().into(),
            change.into(),
        ]
    });
    ADD.write(tx, rows.collect()).await
}

/// A user's counts of a month, the present counts, and the scheduled jobs that came due since they
/// were counted (or that are due again, when the clock was set back).
const OF: &str = "SELECT counter, counted FROM usage WHERE user_id = $1 AND month = $2 \
     UNION ALL SELECT counter, counted FROM usage WHERE user_id = $1 AND month = 0 \
     UNION ALL SELECT 'due', count(*) FROM jobs WHERE user_id = $1 AND status = 'queued' AND attempt = 0 \
         AND run_at > (SELECT until FROM jobs_due WHERE one = 1) AND run_at <= $3 \
     UNION ALL SELECT 'not_due', count(*) FROM jobs WHERE user_id = $1 AND status = 'queued' AND attempt = 0 \
         AND run_at > $3 AND run_at <= (SELECT until FROM jobs_due WHERE one = 1)";

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
            let query = sqlx::query(OF)
                .bind(user.to_string())
                .bind(i64::from(month.0))
                .bind(now.0);
            let mut counts: HashMap<Counter, i64> = HashMap::new();
            for row in query.fetch_all(store.reads()).await? {
                let counted: i64 = row.try_get("counted")?;
                let counter: String = row.try_get("counter")?;
                let (counter, change) = match counter.as_str() {
                    "due" => (Some(Counter::ScheduledQueueSize), -counted),
                    "not_due" => (Some(Counter::ScheduledQueueSize), counted),
                    name => (Counter::parse(name), counted),
                };
                if let Some(counter) = counter {
                    *counts.entry(counter).or_default() += change;
                }
            }
            let shown = |(counter, count): (Counter, i64)| (counter, count.max(0) as u64);
            Ok(counts.into_iter().map(shown).collect())
        })
        .await
    }
}

#[cfg(test)]
pub(crate) fn statements() -> Vec<String> {
    vec![ADD.sql(4), OF.into()]
}
