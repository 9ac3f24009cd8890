//! `jobs`: every job and its state. `job_counts`: each queue's count of jobs by state.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{JobId, StreamKind, Timestamp, UserId, job_operation::QUEUES};
use genie_log::{
    Log, LogError, UserKeys,
    forgetting::UserRows,
    pages::{PageSql, Paged, paged},
    store::Store,
    stored_ids::IdForm,
};
use serde_json::Value;
use sqlx::{
    Any, Row,
    any::{AnyArguments, AnyRow},
    query::Query,
};

use crate::projection::{Projection, Seen, Tx, id_column, open_option, read};

mod counts;
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
    /// The message of the last failure.
    pub error: Option<String>,
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

/// An absent field matches every job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    pub status: Option<String>,
    pub queue: Option<String>,
    pub operation: Option<String>,
}

/// A page looks at no more jobs than this. One whose filter passes over many jobs ends there.
const LOOKED_AT: i64 = 2000;

impl JobFilter {
    /// True when an index alone does not find the jobs that match.
    fn passes_over_rows(&self) -> bool {
        let waits = matches!(self.status.as_deref(), Some("queued" | "delayed"));
        waits || self.queue.is_some() || self.operation.is_some()
    }

    /// The statement of a page. `$1` is the user, `$2` the position before which to look, `$3` the
    /// position down to which to look, `$4` the number of jobs. The rest is what [`Self::bind`] binds.
    fn sql(&self, store: &Store) -> String {
        let status = self.status_sql();
        let mut condition =
            format!("user_id = unhex($1, '-') AND position < $2 AND position >= $3{status}");
        let more = [
            self.waits("queued", " AND (run_at IS NULL OR run_at <= $)"),
            self.waits("delayed", " AND run_at > $"),
            self.queue.as_ref().map(|_| " AND queue = $"),
            self.operation.as_ref().map(|_| " AND operation = $"),
        ];
        for (n, one) in (5..).zip(more.into_iter().flatten()) {
            condition += &one.replace('$', &format!("${n}"));
        }
        PageSql {
            table: "jobs",
            columns: COLUMNS,
            key: "job_id",
            bytes: BYTES,
            condition: &condition,
            order: &["position"],
            descending: true,
            limit: "$4",
        }
        .text(store)
    }

    fn waits(&self, status: &str, condition: &'static str) -> Option<&'static str> {
        (self.status.as_deref() == Some(status)).then_some(condition)
    }

    /// The position of the last job that a page looks at, when there are as many.
    fn floor_sql(&self) -> String {
        format!(
            "SELECT position FROM jobs WHERE user_id = unhex($1, '-') AND position < $2{} \
             ORDER BY position DESC LIMIT 1 OFFSET {}",
            self.status_sql(),
            LOOKED_AT - 1
        )
    }

    /// The statuses that jobs are stored with are few words, so they need no placeholder.
    fn status_sql(&self) -> &'static str {
        match self.status.as_deref() {
            None => "",
            Some("queued" | "delayed") => " AND status = 'queued'",
            Some("processing") => " AND status = 'processing'",
            Some("completed") => " AND status = 'completed'",
            Some("failed") => " AND status = 'failed'",
            Some("cancelled") => " AND status = 'cancelled'",
            Some(_) => " AND status = ''",
        }
    }

    fn bind<'q>(
        &self,
        mut query: Query<'q, Any, AnyArguments<'q>>,
        now: Timestamp,
    ) -> Query<'q, Any, AnyArguments<'q>> {
        if let Some("queued" | "delayed") = self.status.as_deref() {
            query = query.bind(now.0);
        }
        for word in [&self.queue, &self.operation].into_iter().flatten() {
            query = query.bind(word.clone());
        }
        query
    }
}

/// A page of a user's jobs.
#[derive(Debug, Clone)]
pub struct JobsPage {
    pub page: Paged<JobRow>,
    /// The position down to which the page looked, when there are jobs before it. A page may hold few
    /// jobs, or none, and have a next one.
    pub floor: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct JobReader {
    log: Log,
    pages: JobPages,
}

const COLUMNS: &str = "hex(job_id) AS job_hex, hex(user_id) AS user_hex, queue, operation, status, priority, attempt, max_attempts, error_sealed, result_sealed, \
                       outputs_sealed, name_sealed, created_at, run_at, started_at, finished_at, position";

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
        read(&self.log, async move |store: Store| {
            let mut floor = None;
            if filter.passes_over_rows() {
                let sql = filter.floor_sql();
                let query = sqlx::query_scalar(&sql).bind(user.to_string()).bind(before);
                floor = query.fetch_optional(store.reads()).await?;
            }
            let sql = filter.sql(&store);
            let query = sqlx::query(&sql)
                .bind(user.to_string())
                .bind(before)
                .bind(floor.unwrap_or(0))
                .bind(limit);
            let rows = filter.bind(query, now).fetch_all(store.reads()).await?;
            Ok((paged(rows)?, floor))
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
    all.push(JobFilter::default().sql(store));
    if store.is_postgres() {
        all.push(pages::together_sql(store, 8));
    }
    let statuses = [None, Some("queued"), Some("delayed"), Some("failed")];
    for status in statuses {
        let filter = JobFilter {
            status: status.map(str::to_owned),
            queue: Some("q".into()),
            operation: Some("o".into()),
        };
        all.extend([filter.sql(store), filter.floor_sql()]);
    }
    all
}
