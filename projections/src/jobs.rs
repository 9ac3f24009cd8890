//! `jobs`: every job, its state, and each queue's count of jobs by state.

use std::collections::BTreeMap;

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{
    Event, JobId, StreamKind, Timestamp, UserId, job::JobEvent, job_operation::QUEUES,
};
use genie_log::{
    Log, LogError, UserKeys,
    forgetting::UserRows,
    pages::{PageSql, Paged, paged},
    store::Store,
};
use serde_json::Value;
use sqlx::{
    Any, Row,
    any::{AnyArguments, AnyRow},
    query::Query,
};

use crate::projection::{Projection, Seen, Tx, open_option, read, user_id};

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
        }]
    }

    fn apply<'a>(
        &'a self,
        seen: Seen<'a>,
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let Event::Job(event) = seen.event else {
                return Ok(());
            };
            statement(seen, event).execute(&mut **tx).await.map(drop)
        }
        .boxed()
    }
}

fn statement<'a>(seen: Seen<'a>, event: &'a JobEvent) -> Query<'a, Any, AnyArguments<'a>> {
    let id = seen.fact.stream.id.to_string();
    let at = seen.at().0;
    let failed = |error: &str| {
        sqlx::query("UPDATE jobs SET status = 'failed', error_sealed = $2, finished_at = $3 WHERE job_id = $1")
            .bind(id.clone())
            .bind(seen.seal("jobs.error", error))
            .bind(at)
    };
    match event {
        JobEvent::Submitted { spec, .. } => sqlx::query(
            "INSERT INTO jobs (job_id, user_id, queue, operation, status, priority, attempt, max_attempts, \
                               created_at, run_at, position, name_sealed) \
             VALUES ($1, $2, $3, $4, 'queued', $5, 0, $6, $7, $8, $9, $10)",
        )
        .bind(id.clone())
        .bind(seen.user())
        .bind(&spec.queue)
        .bind(&spec.operation)
        .bind(spec.priority)
        .bind(i64::from(spec.max_attempts))
        .bind(at)
        .bind(spec.run_at.map(|at| at.0))
        .bind(seen.fact.position as i64)
        .bind(spec.name.as_ref().map(|name| seen.seal("jobs.name", name.as_str()))),
        JobEvent::Claimed { attempt, .. } => sqlx::query(
            "UPDATE jobs SET status = 'processing', attempt = $2, started_at = coalesce(started_at, $3) WHERE job_id = $1",
        )
        .bind(id.clone())
        .bind(i64::from(*attempt))
        .bind(at),
        JobEvent::Lapsed { retry_at: Some(retry_at), .. } => {
            sqlx::query("UPDATE jobs SET status = 'queued', run_at = $2 WHERE job_id = $1").bind(id.clone()).bind(retry_at.0)
        }
        JobEvent::Lapsed { retry_at: None, .. } => failed("The worker's lease ran out on the last attempt"),
        JobEvent::Failed { error, retry_at: Some(retry_at), .. } => {
            sqlx::query("UPDATE jobs SET status = 'queued', run_at = $2, error_sealed = $3 WHERE job_id = $1")
                .bind(id.clone())
                .bind(retry_at.0)
                .bind(seen.seal("jobs.error", error))
        }
        JobEvent::Failed { error, retry_at: None, .. } => failed(error),
        JobEvent::Completed { result, outputs, .. } => sqlx::query(
            "UPDATE jobs SET status = 'completed', error_sealed = NULL, result_sealed = $2, outputs_sealed = $3, \
                             finished_at = $4 WHERE job_id = $1",
        )
        .bind(id.clone())
        .bind(seen.seal("jobs.result", &result.to_string()))
        .bind(seen.seal("jobs.outputs", &outputs.to_string()))
        .bind(at),
        JobEvent::Retried { priority, .. } => sqlx::query(
            "UPDATE jobs SET status = 'queued', priority = $2, run_at = NULL, attempt = 0, finished_at = NULL WHERE job_id = $1",
        )
        .bind(id.clone())
        .bind(*priority),
        JobEvent::Cancelled => {
            sqlx::query("UPDATE jobs SET status = 'cancelled', finished_at = $2 WHERE job_id = $1").bind(id.clone()).bind(at)
        }
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

/// An absent field matches every job.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub status: Option<String>,
    pub queue: Option<String>,
    pub operation: Option<String>,
}

#[derive(Debug, Clone)]
pub struct JobReader {
    log: Log,
}

const COLUMNS: &str = "job_id, user_id, queue, operation, status, priority, attempt, max_attempts, error_sealed, result_sealed, \
                       outputs_sealed, name_sealed, created_at, run_at, started_at, finished_at, position";

/// The size of what a job's worker wrote.
const BYTES: &str = "coalesce(octet_length(error_sealed), 0) + coalesce(octet_length(result_sealed), 0) \
                     + coalesce(octet_length(outputs_sealed), 0)";

impl JobReader {
    pub(crate) fn new(log: Log) -> Self {
        Self { log }
    }

    pub async fn owner(&self, job: &JobId) -> Result<Option<UserId>, LogError> {
        let id = job.to_string();
        let row = read(&self.log, async move |store: Store| {
            Ok(sqlx::query("SELECT user_id FROM jobs WHERE job_id = $1")
                .bind(id)
                .fetch_optional(store.reads())
                .await?)
        });
        row.await?
            .map(|row| user_id(&row.try_get::<String, _>("user_id")?))
            .transpose()
    }

    /// A job as it stands at `now`.
    pub async fn get(&self, job: &JobId, now: Timestamp) -> Result<Option<JobRow>, LogError> {
        let id = job.to_string();
        let row = read(&self.log, async move |store: Store| {
            let sql = format!("SELECT {COLUMNS} FROM jobs WHERE job_id = $1");
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
            .live(user_id(&row.try_get::<String, _>("user_id")?)?)
            .await?;
        read_row(&row, &keys, now).map(Some)
    }

    /// A user's jobs, newest first, older than the position `before`: a page of at most `limit`.
    pub async fn list(
        &self,
        user: UserId,
        filter: JobFilter,
        before: Option<u64>,
        limit: i64,
        now: Timestamp,
    ) -> Result<Paged<JobRow>, LogError> {
        let rows = read(&self.log, async move |store: Store| {
            let sql = PageSql {
                table: "jobs",
                columns: COLUMNS,
                key: "job_id",
                bytes: BYTES,
                condition: "user_id = $1 AND position < $2 \
                     AND ($3 = '' OR CASE WHEN status = 'queued' AND run_at > $6 THEN 'delayed' ELSE status END = $3) \
                     AND ($4 = '' OR queue = $4) AND ($5 = '' OR operation = $5)",
                order: &["position"],
                descending: true,
                limit: "$7",
            }
            .text(&store);
            let query = sqlx::query(&sql)
                .bind(user.to_string())
                .bind(before.map_or(i64::MAX, |before| before as i64))
                .bind(filter.status.unwrap_or_default())
                .bind(filter.queue.unwrap_or_default())
                .bind(filter.operation.unwrap_or_default())
                .bind(now.0)
                .bind(limit);
            Ok(paged(query.fetch_all(store.reads()).await?)?)
        });
        let rows = rows.await?;
        let keys = self.log.keys().live(user).await?;
        rows.try_map(|row| read_row(&row, &keys, now))
    }

    /// Each queue's count of jobs by state at `now`.
    pub async fn stats(
        &self,
        now: Timestamp,
    ) -> Result<BTreeMap<&'static str, QueueStats>, LogError> {
        let rows = read(&self.log, async move |store: Store| {
            let sql = "SELECT queue, status, CASE WHEN run_at > $1 THEN 1 ELSE 0 END AS later, count(*) AS n \
                       FROM jobs GROUP BY queue, status, CASE WHEN run_at > $1 THEN 1 ELSE 0 END";
            Ok(sqlx::query(sql)
                .bind(now.0)
                .fetch_all(store.reads())
                .await?)
        });
        let mut stats: BTreeMap<&'static str, QueueStats> = QUEUES
            .into_iter()
            .map(|queue| (queue, QueueStats::default()))
            .collect();
        for row in rows.await? {
            let queue: String = row.try_get("queue")?;
            let status: String = row.try_get("status")?;
            let n = row.try_get::<i64, _>("n")? as u64;
            let later = row
                .try_get::<i64, _>("later")
                .or_else(|_| row.try_get::<i32, _>("later").map(i64::from))?
                != 0;
            let Some(stats) =
                genie_events::job_operation::queue(&queue).and_then(|queue| stats.get_mut(queue))
            else {
                continue;
            };
            match status.as_str() {
                "queued" if later => stats.delayed += n,
                "queued" => stats.waiting += n,
                "processing" => stats.active += n,
                "completed" => stats.completed += n,
                "failed" => stats.failed += n,
                _ => {}
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
        id: row
            .try_get::<String, _>("job_id")?
            .parse()
            .map_err(|_| LogError::Statement("a read table holds an invalid job id".into()))?,
        name: text("jobs.name", "name_sealed")?,
        user: user_id(&row.try_get::<String, _>("user_id")?)?,
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
