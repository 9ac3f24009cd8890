//! The counts of jobs: by queue and state, and each user's scheduled jobs. A counter moves in the
//! transaction that moves its job, so nobody has to count the jobs.
//!
//! Whether a queued job is delayed depends on the time. The counts stand at a moment, which
//! `jobs_due` holds: a queued job counts as delayed while its `run_at` lies after that moment. A
//! reader adds the jobs between that moment and its own, which an index finds; so its counts are
//! exact whatever the moment is. The leader moves the moment up to now every few seconds, while
//! there are such jobs. So each delayed job is passed once, and a reader finds few.
//!
//! Invariant: `job_counts` agrees with `jobs`, and `usage` (scheduled jobs) with `jobs`, at the
//! moment of `jobs_due`.

use std::collections::BTreeMap;

use genie_events::{Timestamp, UserId, tier::Counter};
use genie_log::store::Store;
use sqlx::Row;
use uuid::Uuid;

use crate::{
    projection::{Tx, id_column},
    rows::Upsert,
    usage::{self, PRESENT},
};

/// One transaction passes about this many jobs, and all those that are due at the same moment.
const PASSED_AT_ONCE: i64 = 1000;

/// The counts, and the jobs between their moment and `$1`: those that came due since, or are not
/// due yet when the clock was set back.
pub(super) const STATS: &str = "SELECT queue, status, n FROM job_counts WHERE queue > '' \
     UNION ALL SELECT queue, 'due', count(*) FROM jobs WHERE status = 'queued' \
         AND run_at > (SELECT until FROM jobs_due WHERE one = 1) AND run_at <= $1 GROUP BY queue \
     UNION ALL SELECT queue, 'not_due', count(*) FROM jobs WHERE status = 'queued' \
         AND run_at > $1 AND run_at <= (SELECT until FROM jobs_due WHERE one = 1) GROUP BY queue";

const IS_DUE: &str = "SELECT 1 WHERE EXISTS (SELECT 1 FROM jobs WHERE status = 'queued' \
         AND run_at > (SELECT until FROM jobs_due WHERE one = 1) AND run_at <= $1) \
     OR EXISTS (SELECT 1 FROM jobs WHERE status = 'queued' \
         AND run_at > $1 AND run_at <= (SELECT until FROM jobs_due WHERE one = 1))";

const UNTIL: &str = "SELECT until FROM jobs_due WHERE one = 1";

/// The moment at which a pass over many due jobs stops.
const STOP: &str = "SELECT run_at FROM jobs WHERE status = 'queued' AND run_at > $1 AND run_at <= $2 \
                               ORDER BY run_at LIMIT 1 OFFSET $3";

const PASSED: &str = "SELECT hex(user_id) AS user_hex, queue, count(*) AS n, \
                                 sum(CASE WHEN attempt = 0 THEN 1 ELSE 0 END) AS scheduled \
                                 FROM jobs WHERE status = 'queued' AND run_at > $1 AND run_at <= $2 \
                                 GROUP BY user_id, queue";

const ERASE: &str = "DELETE FROM jobs WHERE job_id IN (SELECT job_id FROM jobs WHERE user_id = unhex($1, '-') LIMIT $2) \
                     RETURNING queue, status, attempt, run_at";

const ADD: Upsert = Upsert {
    table: "job_counts",
    columns: &["queue", "status", "n"],
    on_conflict: "(queue, status) DO UPDATE SET n = job_counts.n + excluded.n",
};

/// The moment at which the counts stand.
async fn until(tx: &mut Tx) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(UNTIL).fetch_one(&mut **tx).await
}

/// The changes of counts that go in one transaction.
#[derive(Default)]
pub(super) struct CountChanges {
    jobs: Vec<(Counted, i64)>,
}

/// The part of a job that decides where it is counted.
pub(super) struct Counted {
    /// `None` when the counts of the owner need no change.
    pub user: Option<Uuid>,
    pub queue: String,
    pub status: String,
    pub attempt: i64,
    pub run_at: Option<i64>,
}

impl Counted {
    fn may_be_delayed(&self) -> bool {
        self.status == "queued" && self.run_at.is_some()
    }
}

impl CountChanges {
    /// Adds `change` to the counts that a job belongs to.
    pub fn add(&mut self, job: Counted, change: i64) {
        self.jobs.push((job, change));
    }

    pub async fn write(self, tx: &mut Tx) -> Result<(), sqlx::Error> {
        let mut moment = 0;
        if self.jobs.iter().any(|(job, _)| job.may_be_delayed()) {
            moment = until(tx).await?;
        }
        let mut counts = JobCountChanges::default();
        for (job, change) in self.jobs {
            let is_delayed = job.may_be_delayed() && job.run_at.is_some_and(|at| at > moment);
            let state = if is_delayed { "delayed" } else { &job.status };
            counts.change(&job.queue, state, change);
            // A job that waits for its next attempt is delayed, but nobody scheduled it.
            if let Some(user) = job.user.filter(|_| is_delayed && job.attempt == 0) {
                counts.schedule(user, change);
            }
        }
        counts.write(tx).await
    }
}

/// Changes of counters.
#[derive(Default)]
struct JobCountChanges {
    by_state: BTreeMap<(String, String), i64>,
    scheduled: usage::UsageChanges,
}

impl JobCountChanges {
    fn change(&mut self, queue: &str, state: &str, change: i64) {
        let key = (queue.to_owned(), state.to_owned());
        *self.by_state.entry(key).or_default() += change;
    }

    fn schedule(&mut self, user: Uuid, change: i64) {
        let key = (user, PRESENT, Counter::ScheduledQueueSize);
        *self.scheduled.entry(key).or_default() += change;
    }

    async fn write(self, tx: &mut Tx) -> Result<(), sqlx::Error> {
        let changed = self.by_state.into_iter().filter(|(_, change)| *change != 0);
        let cells = |((queue, status), change): ((String, String), i64)| {
            vec![queue.into(), status.into(), change.into()]
        };
        ADD.write(tx, changed.map(cells).collect()).await?;
        usage::add(tx, self.scheduled).await
    }
}

/// Deletes some of a forgotten user's jobs, and takes them out of the counts.
pub(super) async fn erase(user: UserId, most: i64, tx: &mut Tx) -> Result<u64, sqlx::Error> {
    let rows = sqlx::query(ERASE)
        .bind(user.to_string())
        .bind(most)
        .fetch_all(&mut **tx)
        .await?;
    let mut changes = CountChanges::default();
    for row in &rows {
        let erased = Counted {
            user: None, // The user's own counts go with the rest of `usage`.
            queue: row.try_get("queue")?,
            status: row.try_get("status")?,
            attempt: row.try_get("attempt")?,
            run_at: row.try_get("run_at")?,
        };
        changes.add(erased, -1);
    }
    changes.write(tx).await?;
    Ok(rows.len() as u64)
}

/// True when jobs lie between the moment of the counts and `now`.
pub(super) async fn is_due(now: Timestamp, store: &Store) -> Result<bool, sqlx::Error> {
    let found = sqlx::query(IS_DUE)
        .bind(now.0)
        .fetch_optional(store.reads())
        .await?;
    Ok(found.is_some())
}

/// Moves the counts to `now`, or part of the way.
pub(super) async fn pass_time(now: Timestamp, tx: &mut Tx) -> Result<(), sqlx::Error> {
    let from = until(tx).await?;
    let mut to = now.0;
    if to > from {
        to = stop(from, to, tx).await?.unwrap_or(to);
    }
    let rows = sqlx::query(PASSED)
        .bind(from.min(to))
        .bind(from.max(to))
        .fetch_all(&mut **tx)
        .await?;
    let direction = if to > from { 1 } else { -1 };
    let mut counts = JobCountChanges::default();
    for row in rows {
        let n = direction * row.try_get::<i64, _>("n")?;
        let queue: String = row.try_get("queue")?;
        counts.change(&queue, "delayed", -n);
        counts.change(&queue, "queued", n);
        let scheduled = direction * row.try_get::<i64, _>("scheduled")?;
        counts.schedule(id_column(&row, "user_hex")?, -scheduled);
    }
    counts.write(tx).await?;
    sqlx::query("UPDATE jobs_due SET until = $1 WHERE one = 1")
        .bind(to)
        .execute(&mut **tx)
        .await
        .map(drop)
}

async fn stop(from: i64, to: i64, tx: &mut Tx) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(STOP)
        .bind(from)
        .bind(to)
        .bind(PASSED_AT_ONCE - 1)
        .fetch_optional(&mut **tx)
        .await
}

#[cfg(test)]
pub(crate) fn statements() -> Vec<String> {
    let mut all = vec![ADD.sql(4)];
    all.extend([STATS, IS_DUE, UNTIL, STOP, PASSED, ERASE].map(String::from));
    all
}
