//! `jobs`: every job and its state. `job_counts`: each queue's count of jobs by state.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{JobId, StreamKind, Timestamp, UserId, job_operation::QUEUES};
use genie_log::{
    Log, LogError, UserKeys,
    forgetting::UserRows,
    pages::{Paged, paged},
    store::Store,
    stored_ids::IdForm,
};
use serde_json::Value;
use sqlx::{Row, any::AnyRow};
use uuid::Uuid;

use crate::projection::{Projection, Seen, Tx, id_column, open_option, read};

mod counts;
mod filter;
mod pages;
mod write;

use pages::{JobPages, PageOfJobs};

pub(crate) struct Projector;

impl Projection for Projector {
    fn name(&self) -> &'static str {
        "jobs"
    }

    fn wants(&self, kind: StreamKind) -> bool {
        kind == StreamKind::Job
    }

    fn rows(&self) -> &'static [UserRows] {
        &[UserRows {
            table: "jobs",
            user: "user_id",
            key: "job_id",
            ids: IdForm::Binary,
        }]
    }

    fn apply<'a>(
        &'a self,
        facts: &'a [Seen<'a>],
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        write::apply(facts, tx).boxed()
    }

    fn erase<'a>(
        &'a self,
        user: UserId,
        most: i64,
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<u64, sqlx::Error>> {
        counts::erase(user, most, tx).boxed()
    }

    fn is_due<'a>(
        &'a self,
        now: Timestamp,
        store: &'a Store,
    ) -> BoxFuture<'a, Result<bool, sqlx::Error>> {
        counts::is_due(now, store).boxed()
    }

    fn pass_time<'a>(
        &'a self,
        now: Timestamp,
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        counts::pass_time(now, tx).boxed()
    }
}

#[derive(Debug, Clone)]
pub struct JobRow {
    pub id: JobId,
    /// The client's own id.
    pub name: Option<String>,
    pub user: UserId,
    pub queue: String,
    pub operation: String,
    /// `queued`, `delayed`, `processing`, `completed`, `failed` or `cancelled`.
    pub status: String,
    /// A lower number runs sooner.
    pub priority: i64,
    /// The number of the running attempt, or of the last one.
    pub attempt: i64,
    pub max_attempts: i64,
    /// The message of the last failure, until the job completes.
    pub error: Option<String>,
    /// The word for it.
    pub code: Option<String>,
    /// The worker's result; null until the job is completed.
    pub result: Value,
    /// The worker's list of files; null until the job is completed.
    pub outputs: Value,
    pub created_at: Timestamp,
    /// The job waits until then.
    pub run_at: Option<Timestamp>,
    /// When the job was first claimed.
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// The position of the submission.
    pub position: u64,
}

/// The number of jobs in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Queued, and a worker may claim them now.
    pub waiting: u64,
    /// Claimed by a worker.
    pub active: u64,
    pub completed: u64,
    /// Failed with no attempt left.
    pub failed: u64,
    /// Queued, and their time has not come.
    pub delayed: u64,
}

impl QueueStats {
    fn add(&mut self, status: &str, n: i64) {
        let (count, n) = match status {
            "queued" => (&mut self.waiting, n),
            "delayed" => (&mut self.delayed, n),
            "processing" => (&mut self.active, n),
            "completed" => (&mut self.completed, n),
            "failed" => (&mut self.failed, n),
            "due" => {
                self.add("delayed", -n);
                (&mut self.waiting, n)
            }
            "not_due" => {
                self.add("delayed", n);
                (&mut self.waiting, -n)
            }
            _ => return,
        };
        *count = count.saturating_add_signed(n);
    }
}

/// A filter of a user's jobs. An absent field matches every job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    pub status: Option<String>,
    pub queue: Option<String>,
    pub operation: Option<String>,
    /// The word for the last failure.
    pub code: Option<String>,
}

/// A page of a user's jobs.
#[derive(Debug, Clone)]
pub struct JobsPage {
    pub page: Paged<JobRow>,
    /// The position down to which the page looked, when there are jobs before it. A page may hold few
    /// jobs, or none, and have a next one.
    pub floor: Option<u64>,
}

/// A job that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedJob {
    pub id: JobId,
    pub user: UserId,
    pub finished_at: Timestamp,
}

/// The most jobs of one page of [`JobReader::ended_before`].
pub const ENDED_AT_ONCE: usize = 500;

const ENDED_BEFORE: &str = "SELECT hex(job_id) AS job_hex, hex(user_id) AS user_hex, finished_at FROM jobs \
     WHERE finished_at < $1 AND (finished_at, job_id) > ($2, unhex($3, '-')) ORDER BY finished_at, job_id LIMIT $4";

#[derive(Debug, Clone)]
pub struct JobReader {
    log: Log,
    pages: JobPages,
}

const COLUMNS: &str = "hex(job_id) AS job_hex, hex(user_id) AS user_hex, queue, operation, status, priority, attempt, max_attempts, error_sealed, result_sealed, \
                       outputs_sealed, name_sealed, created_at, run_at, started_at, finished_at, position, code";

/// The size of what a job's worker wrote.
const BYTES: &str = "coalesce(octet_length(error_sealed), 0) + coalesce(octet_length(result_sealed), 0) \
                     + coalesce(octet_length(outputs_sealed), 0)";

impl JobReader {
    /// Call it on the runtime that owns the store's connections.
    pub(crate) fn start(log: Log) -> Self {
        Self {
            pages: pages::start(&log),
            log,
        }
    }

    pub async fn owner(&self, job: &JobId) -> Result<Option<UserId>, LogError> {
        let id = job.to_string();
        let row = read(&self.log, async move |store: Store| {
            Ok(sqlx::query(
                "SELECT hex(user_id) AS user_hex FROM jobs WHERE job_id = unhex($1, '-')",
            )
            .bind(id)
            .fetch_optional(store.reads())
            .await?)
        });
        row.await?
            .map(|row| Ok(UserId(id_column(&row, "user_hex")?)))
            .transpose()
    }

    /// A job as it stands at `now`.
    pub async fn get(&self, job: &JobId, now: Timestamp) -> Result<Option<JobRow>, LogError> {
        let id = job.to_string();
        let row = read(&self.log, async move |store: Store| {
            let sql = format!("SELECT {COLUMNS} FROM jobs WHERE job_id = unhex($1, '-')");
            Ok(sqlx::query(&sql)
                .bind(id)
                .fetch_optional(store.reads())
                .await?)
        });
        let Some(row) = row.await? else {
            return Ok(None);
        };
        let keys = self
            .log
            .keys()
            .live(UserId(id_column(&row, "user_hex")?))
            .await?;
        read_row(&row, &keys, now).map(Some)
    }

    /// The jobs that ended before a time, in the order of their ends: a page after one of them.
    pub async fn ended_before(
        &self,
        before: Timestamp,
        after: Option<(Timestamp, JobId)>,
    ) -> Result<Vec<EndedJob>, LogError> {
        let first = (Timestamp(i64::MIN), JobId(Uuid::nil()));
        let (since, job) = after.unwrap_or(first);
        let rows = read(&self.log, async move |store: Store| {
            let query = sqlx::query(ENDED_BEFORE)
                .bind(before.0)
                .bind(since.0)
                .bind(job.to_string())
                .bind(ENDED_AT_ONCE as i64);
            Ok(query.fetch_all(store.reads()).await?)
        });
        let ended = |row: &AnyRow| {
            Ok(EndedJob {
                id: JobId(id_column(row, "job_hex")?),
                user: UserId(id_column(row, "user_hex")?),
                finished_at: Timestamp(row.try_get("finished_at")?),
            })
        };
        rows.await?.iter().map(ended).collect()
    }

    /// A user's jobs, newest first, at most `limit`, older than the position `before`.
    pub async fn list(
        &self,
        user: UserId,
        filter: JobFilter,
        before: Option<u64>,
        limit: i64,
        now: Timestamp,
    ) -> Result<JobsPage, LogError> {
        let before = before.map_or(i64::MAX, |before| before as i64);
        let (rows, floor) = if filter == JobFilter::default() {
            let page = PageOfJobs {
                user,
                before,
                limit,
            };
            (self.pages.read(page).await?, None)
        } else {
            let (rows, floor) = self.filtered(user, filter, before, limit, now).await?;
            (Some(Arc::new(rows)), floor)
        };
        let keys = self.log.keys().live(user).await?;
        let page = match rows {
            Some(found) => Paged {
                rows: found
                    .rows
                    .iter()
                    .map(|row| read_row(row, &keys, now))
                    .collect::<Result<_, _>>()?,
                has_more: found.has_more,
            },
            None => Paged::empty(),
        };
        Ok(JobsPage {
            page,
            floor: floor.map(|floor| floor as u64),
        })
    }

    /// The rows that match a filter, and the position down to which they were looked for.
    async fn filtered(
        &self,
        user: UserId,
        filter: JobFilter,
        before: i64,
        limit: i64,
        now: Timestamp,
    ) -> Result<(Paged<AnyRow>, Option<i64>), LogError> {
        let parts = filter.parts();
        if parts.is_empty() {
            return Ok((Paged::empty(), None));
        }
        read(&self.log, async move |store: Store| {
            let mut floor = None;
            if filter.goes_by_time() {
                let sql = filter.floor_sql(&parts);
                let query = sqlx::query_scalar(&sql).bind(user.to_string()).bind(before);
                let query = filter.words().fold(query, |query, word| query.bind(word));
                floor = query.fetch_optional(store.reads()).await?;
            }
            let sql = filter.sql(&store, &parts);
            let query = sqlx::query(&sql)
                .bind(user.to_string())
                .bind(before)
                .bind(floor.unwrap_or(0))
                .bind(limit);
            let mut query = filter.words().fold(query, |query, word| query.bind(word));
            if filter.goes_by_time() {
                query = query.bind(now.0);
            }
            Ok((paged(query.fetch_all(store.reads()).await?)?, floor))
        })
        .await
    }

    /// Each queue's count of jobs by state at `now`.
    pub async fn stats(
        &self,
        now: Timestamp,
    ) -> Result<BTreeMap<&'static str, QueueStats>, LogError> {
        let rows = read(&self.log, async move |store: Store| {
            let query = sqlx::query(counts::STATS).bind(now.0);
            Ok(query.fetch_all(store.reads()).await?)
        });
        let mut stats: BTreeMap<&'static str, QueueStats> = QUEUES
            .into_iter()
            .map(|queue| (queue, QueueStats::default()))
            .collect();
        for row in rows.await? {
            let queue: String = row.try_get("queue")?;
            let status: String = row.try_get("status")?;
            let n: i64 = row.try_get("n")?;
            let queue = genie_events::job_operation::queue(&queue);
            if let Some(stats) = queue.and_then(|queue| stats.get_mut(queue)) {
                stats.add(&status, n);
            }
        }
        Ok(stats)
    }
}

fn read_row(row: &AnyRow, keys: &UserKeys, now: Timestamp) -> Result<JobRow, LogError> {
    let moment = |column: &str| {
        row.try_get::<Option<i64>, _>(column)
            .map(|at| at.map(Timestamp))
    };
    let text = |column: &str, sealed: &str| -> Result<Option<String>, LogError> {
        open_option(keys, column, row.try_get::<Option<Vec<u8>>, _>(sealed)?)
    };
    let json = |text: Option<String>| {
        text.and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or(Value::Null)
    };
    let status: String = row.try_get("status")?;
    let run_at = moment("run_at")?;
    let delayed = status == "queued" && run_at.is_some_and(|at| at > now);
    Ok(JobRow {
        id: JobId(id_column(row, "job_hex")?),
        name: text("jobs.name", "name_sealed")?,
        user: UserId(id_column(row, "user_hex")?),
        queue: row.try_get("queue")?,
        operation: row.try_get("operation")?,
        status: if delayed { "delayed".into() } else { status },
        priority: row.try_get("priority")?,
        attempt: row.try_get("attempt")?,
        max_attempts: row.try_get("max_attempts")?,
        error: text("jobs.error", "error_sealed")?,
        code: row.try_get("code")?,
        result: json(text("jobs.result", "result_sealed")?),
        outputs: json(text("jobs.outputs", "outputs_sealed")?),
        created_at: Timestamp(row.try_get("created_at")?),
        run_at,
        started_at: moment("started_at")?,
        finished_at: moment("finished_at")?,
        position: row.try_get::<i64, _>("position")? as u64,
    })
}

#[cfg(test)]
pub(crate) fn statements(store: &Store) -> Vec<String> {
    let mut all = [counts::statements(), write::statements()].concat();
    all.push(ENDED_BEFORE.into());
    all.push(filter::all_sql(store));
    if store.is_postgres() {
        all.push(pages::together_sql(store, 8));
    }
    all.extend(filter::statements(store));
    all
}
