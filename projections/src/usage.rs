//! `usage`: counts by counter and month. The counts of what exists now stand in the same table; the
//! projections of those things keep them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{
    Event, StreamKind, Timestamp, UserId, tier::Counter, timestamp::Month, usage::UsageEvent,
};
use genie_log::{
    Log, LogError,
    forgetting::UserRows,
    read_batcher::{BatchBounds, ReadBatcher, padded_size},
    store::Store,
    stored_ids::IdForm,
};
use sqlx::Row;
use uuid::Uuid;

use crate::{
    projection::{Projection, Seen, Tx, id_column},
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
            ids: IdForm::Binary,
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
                *changes.entry((seen.owner(), *month, *counter)).or_default() += change;
            }
            add(tx, changes).await
        }
        .boxed()
    }
}

/// Under this month stand the counts of what exists now.
pub(crate) const PRESENT: Month = Month(0);

/// UsageChanges by user, month and counter.
pub(crate) type UsageChanges = BTreeMap<(Uuid, Month, Counter), i64>;

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

/// The reads that may wait. Beyond that a caller is told that the store is busy.
const QUEUE: usize = 4096;
/// One batch is read at a time. While it is, the next gathers, and a larger one costs each reader less.
const AT_ONCE: usize = 1;

/// The row that says that the moment asked for is not before that of the counts.
const UNTIL: &str = "until";

/// Users' counts of a month, the present counts, and a row [`UNTIL`]. `$1` is the moment that is asked for, `$2`
/// and `$3` are the months, the rest are the users.
fn kept_sql(users: usize) -> String {
    format!(
        "SELECT hex(user_id) AS user_hex, month, counter, counted FROM usage \
             WHERE user_id IN ({}) AND month IN (0, $2, $3) \
         UNION ALL SELECT NULL, 0, '{UNTIL}', until FROM jobs_due WHERE one = 1 AND until <= $1",
        places(users)
    )
}

/// The same counts, and the scheduled jobs that came due since they were counted (or that are due again, when the
/// clock was set back).
fn counts_sql(users: usize) -> String {
    let users = places(users);
    format!(
        "SELECT hex(user_id) AS user_hex, month, counter, counted FROM usage WHERE user_id IN ({users}) AND month IN (0, $2, $3) \
         UNION ALL SELECT hex(user_id), 0, 'due', count(*) FROM jobs \
             WHERE user_id IN ({users}) AND status = 'queued' AND attempt = 0 \
             AND run_at > (SELECT until FROM jobs_due WHERE one = 1) AND run_at <= $1 GROUP BY user_id \
         UNION ALL SELECT hex(user_id), 0, 'not_due', count(*) FROM jobs \
             WHERE user_id IN ({users}) AND status = 'queued' AND attempt = 0 \
             AND run_at > $1 AND run_at <= (SELECT until FROM jobs_due WHERE one = 1) GROUP BY user_id"
    )
}

fn places(users: usize) -> String {
    let place = |n| IdForm::Binary.given(&format!("${n}"));
    let places: Vec<String> = (4..4 + users).map(place).collect();
    places.join(", ")
}

/// Whose counts are asked for, and of when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct CountsOf {
    user: UserId,
    month: Month,
    at: Timestamp,
}

type UsageCounts = HashMap<Counter, u64>;

/// Rows of users: month, counter and count.
type CountRows = HashMap<UserId, Vec<(i64, String, i64)>>;

/// Reads the counts of all who ask at the same time, as they are at the latest of their moments. One statement
/// reads the counts that are kept. Of users without a scheduled job they are whole: none can have come due.
async fn read_counts(
    store: Store,
    asked: Vec<CountsOf>,
) -> Result<HashMap<CountsOf, UsageCounts>, LogError> {
    let (kept, is_ahead) = rows_of(&store, &asked, kept_sql).await?;
    let mut found = counts_of(&kept, &asked);
    let may_be_due = |one: &CountsOf| {
        let scheduled = found
            .get(one)
            .and_then(|counts| counts.get(&Counter::ScheduledQueueSize));
        !is_ahead || scheduled.is_some_and(|count| *count > 0)
    };
    let due: Vec<CountsOf> = asked.into_iter().filter(may_be_due).collect();
    if !due.is_empty() {
        let (rows, _) = rows_of(&store, &due, counts_sql).await?;
        found.extend(counts_of(&rows, &due));
    }
    Ok(found)
}

/// The rows of a statement, and whether it has the row [`UNTIL`].
async fn rows_of(
    store: &Store,
    asked: &[CountsOf],
    statement: fn(usize) -> String,
) -> Result<(CountRows, bool), LogError> {
    let users: BTreeSet<UserId> = asked.iter().map(|one| one.user).collect();
    let months = asked.iter().map(|one| one.month.0);
    let (first, last) = (months.clone().min(), months.max());
    let size = padded_size(users.len());
    let sql = statement(size);
    let query = sqlx::query(&sql)
        .bind(asked.iter().map(|one| one.at.0).max())
        .bind(first.map(i64::from))
        .bind(last.map(i64::from));
    let places = users.iter().map(|user| Some(user.to_string()));
    let padded = places.chain(std::iter::repeat(None)).take(size);
    let query = padded.fold(query, |query, user| query.bind(user));
    let mut counted = CountRows::new();
    let mut is_ahead = false;
    for row in query.fetch_all(store.reads()).await? {
        let counter: String = row.try_get("counter")?;
        if counter == UNTIL {
            is_ahead = true;
            continue;
        }
        let user = UserId(id_column(&row, "user_hex")?);
        let count = (row.try_get("month")?, counter, row.try_get("counted")?);
        counted.entry(user).or_default().push(count);
    }
    Ok((counted, is_ahead))
}

fn counts_of(counted: &CountRows, asked: &[CountsOf]) -> HashMap<CountsOf, UsageCounts> {
    let counts = |one: &CountsOf| {
        let rows = counted.get(&one.user)?;
        let of_month = |month| month == 0 || month == i64::from(one.month.0);
        let rows = rows.iter().filter(|(month, ..)| of_month(*month));
        Some((
            *one,
            summed(rows.map(|(_, name, count)| (name.as_str(), *count))),
        ))
    };
    asked.iter().filter_map(counts).collect()
}

fn summed<'a>(rows: impl Iterator<Item = (&'a str, i64)>) -> UsageCounts {
    let mut counts: HashMap<Counter, i64> = HashMap::new();
    for (counter, count) in rows {
        let (counter, change) = match counter {
            "due" => (Some(Counter::ScheduledQueueSize), -count),
            "not_due" => (Some(Counter::ScheduledQueueSize), count),
            name => (Counter::parse(name), count),
        };
        if let Some(counter) = counter {
            *counts.entry(counter).or_default() += change;
        }
    }
    let shown = |(counter, count): (Counter, i64)| (counter, count.max(0) as u64);
    counts.into_iter().map(shown).collect()
}

#[derive(Debug, Clone)]
pub struct UsageReader(ReadBatcher<CountsOf, UsageCounts>);

impl UsageReader {
    /// Call it on the runtime that owns the store's connections.
    pub(crate) fn start(log: &Log) -> Self {
        let bounds = BatchBounds {
            waiting: QUEUE,
            at_once: AT_ONCE,
            overload: "too many counts are read at once",
        };
        Self(ReadBatcher::start(log.store().clone(), bounds, read_counts))
    }

    /// A user's counts in a month, and the counts of what exists at `at` or some moments later.
    pub async fn of(
        &self,
        user: UserId,
        month: Month,
        at: Timestamp,
    ) -> Result<UsageCounts, LogError> {
        self.0.read(CountsOf { user, month, at }).await
    }
}

#[cfg(test)]
pub(crate) fn statements() -> Vec<String> {
    vec![ADD.sql(4), kept_sql(8), counts_sql(8)]
}
