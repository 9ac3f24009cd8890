//! A working table: the jobs that have not ended. The job board starts from it alone.
//!
//! Invariant: the rows follow from the facts of jobs and are written in the same append, whoever
//! appends them. So no command can leave a row out or behind.

use genie_events::{Event, JobId, StreamKind, Timestamp, UserId, job::JobEvent};
use sqlx::{Row, any::AnyRow};
use uuid::Uuid;

use crate::{
    Log, LogError, NewFact, Owner, Work, append_sqlite::SqliteTx, row_chunks::row_chunks,
    store::Store,
};

/// The most rows of one page.
pub const PAGE: usize = 1000;

/// A job that has not ended, by the fields that need no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedJob {
    pub job: JobId,
    pub user: UserId,
    pub queue: String,
    pub operation: String,
    pub priority: i64,
    /// The number of the submission or retry among its owner's events: the older job has the lower.
    pub submitted: u64,
    pub state: UnfinishedState,
}

/// The changing part of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnfinishedState {
    /// The number of the job's events.
    pub sequence: u64,
    /// The job waits until then.
    pub due: Option<Timestamp>,
    /// A worker holds the job.
    pub is_running: bool,
}

/// A change of the table by an append: one for each job that the append concerns.
#[derive(Debug, Clone)]
pub enum UnfinishedRow {
    Put(UnfinishedJob),
    Change {
        job: JobId,
        user: UserId,
        state: UnfinishedState,
        /// A new priority, if it changes.
        priority: Option<i64>,
    },
    End {
        job: JobId,
        user: UserId,
    },
}

impl UnfinishedRow {
    /// The change that follows from a fact; `None` for a fact of something else.
    fn of(user: UserId, owner_seq: u64, fact: &NewFact) -> Option<Self> {
        let Event::Job(event) = &fact.event else {
            return None;
        };
        let job = JobId(fact.stream.id);
        let state = |due, is_running| UnfinishedState {
            sequence: fact.sequence,
            due,
            is_running,
        };
        let put = |queue: &str, operation: &str, priority, due| {
            Self::Put(UnfinishedJob {
                job,
                user,
                queue: queue.to_owned(),
                operation: operation.to_owned(),
                priority,
                submitted: owner_seq,
                state: state(due, false),
            })
        };
        let change = |state| Self::Change {
            job,
            user,
            state,
            priority: None,
        };
        Some(match event {
            JobEvent::Submitted { spec, .. } => {
                put(&spec.queue, &spec.operation, spec.priority, spec.run_at)
            }
            JobEvent::Retried {
                queue,
                operation,
                priority,
                ..
            } => put(queue, operation, *priority, None),
            JobEvent::Claimed { .. } => change(state(None, true)),
            JobEvent::Released { .. } => change(state(None, false)),
            JobEvent::Rescheduled { priority, run_at } => Self::Change {
                job,
                user,
                state: state(*run_at, false),
                priority: Some(*priority),
            },
            JobEvent::Lapsed {
                retry_at: Some(at), ..
            }
            | JobEvent::Failed {
                retry_at: Some(at), ..
            } => change(state(Some(*at), false)),
            JobEvent::Lapsed { retry_at: None, .. }
            | JobEvent::Failed { retry_at: None, .. }
            | JobEvent::Completed { .. }
            | JobEvent::Cancelled => Self::End { job, user },
            JobEvent::Removed => return None, // it had ended
        })
    }

    pub(crate) fn job(&self) -> JobId {
        match self {
            Self::Put(row) => row.job,
            Self::Change { job, .. } | Self::End { job, .. } => *job,
        }
    }

    pub(crate) fn user(&self) -> UserId {
        match self {
            Self::Put(row) => row.user,
            Self::Change { user, .. } | Self::End { user, .. } => *user,
        }
    }

    /// Both changes as one.
    fn then(self, next: Self) -> Self {
        match (self, next) {
            (
                Self::Put(row),
                Self::Change {
                    state, priority, ..
                },
            ) => Self::Put(UnfinishedJob {
                state,
                priority: priority.unwrap_or(row.priority),
                ..row
            }),
            (
                Self::Change {
                    priority: before, ..
                },
                Self::Change {
                    job,
                    user,
                    state,
                    priority,
                },
            ) => Self::Change {
                job,
                user,
                state,
                priority: priority.or(before),
            },
            (_, next) => next,
        }
    }

    /// Writes a change or an end on SQLite; [`put`] writes many jobs at once.
    pub(crate) async fn write(&self, tx: &mut SqliteTx<'_>) -> Result<(), sqlx::Error> {
        let query = match self {
            Self::Put(row) => return put(tx, &[row]).await,
            Self::Change {
                job,
                user,
                state,
                priority,
            } => sqlx::query(
                "UPDATE unfinished SET sequence = $3, due = $4, running = $5, priority = coalesce($6, priority) \
                 WHERE user_id = $1 AND job_id = $2",
            )
            .bind(user.0)
            .bind(job.0)
            .bind(state.sequence as i64)
            .bind(state.due.map(|due| due.0))
            .bind(i64::from(state.is_running))
            .bind(priority),
            Self::End { job, user } => {
                sqlx::query("DELETE FROM unfinished WHERE user_id = $1 AND job_id = $2")
                    .bind(user.0)
                    .bind(job.0)
            }
        };
        query.execute(&mut **tx).await.map(drop)
    }
}

/// Puts jobs on SQLite, many with one statement.
pub(crate) async fn put(tx: &mut SqliteTx<'_>, jobs: &[&UnfinishedJob]) -> Result<(), sqlx::Error> {
    for jobs in row_chunks(jobs) {
        let values = vec!["(?, ?, ?, ?, ?, ?, ?, ?, ?)"; jobs.len()].join(", ");
        let sql = format!(
            "INSERT INTO unfinished (user_id, job_id, queue, operation, priority, submitted, sequence, due, running) VALUES {values} \
             ON CONFLICT (user_id, job_id) DO UPDATE SET priority = excluded.priority, \
                 submitted = excluded.submitted, sequence = excluded.sequence, due = excluded.due, \
                 running = excluded.running"
        );
        let query = jobs.iter().fold(sqlx::query(&sql), |query, row| {
            query
                .bind(row.user.0)
                .bind(row.job.0)
                .bind(&row.queue)
                .bind(&row.operation)
                .bind(row.priority)
                .bind(row.submitted as i64)
                .bind(row.state.sequence as i64)
                .bind(row.state.due.map(|due| due.0))
                .bind(i64::from(row.state.is_running))
        });
        query.execute(&mut **tx).await?;
    }
    Ok(())
}

/// Adds the change that follows from a fact to an append's work. A job has one change in an append.
pub(crate) fn take_note(work: &mut Vec<Work>, owner: &Owner, owner_seq: u64, fact: &NewFact) {
    let Owner::User(user) = owner else {
        return;
    };
    if fact.stream.kind != StreamKind::Job {
        return;
    }
    let Some(next) = UnfinishedRow::of(*user, owner_seq, fact) else {
        return;
    };
    let of_this_job = work
        .iter()
        .position(|work| matches!(work, Work::Unfinished(before) if before.job() == next.job()));
    let next = match of_this_job.map(|at| work.swap_remove(at)) {
        Some(Work::Unfinished(before)) => before.then(next),
        _ => next,
    };
    work.push(Work::Unfinished(next));
}

fn read(row: &AnyRow) -> Result<UnfinishedJob, sqlx::Error> {
    let invalid = |error| sqlx::Error::Decode(Box::new(error));
    let job: String = row.try_get("job_hex")?;
    let user: String = row.try_get("user_hex")?;
    Ok(UnfinishedJob {
        job: job.parse().map_err(invalid)?,
        user: user.parse().map_err(invalid)?,
        queue: row.try_get("queue")?,
        operation: row.try_get("operation")?,
        priority: row.try_get("priority")?,
        submitted: row.try_get::<i64, _>("submitted")? as u64,
        state: UnfinishedState {
            sequence: row.try_get::<i64, _>("sequence")? as u64,
            due: row.try_get::<Option<i64>, _>("due")?.map(Timestamp),
            is_running: row.try_get::<i64, _>("running")? != 0,
        },
    })
}

/// The jobs that have not ended. See [`Log::unfinished`].
#[derive(Debug, Clone)]
pub struct Unfinished(Log);

impl Log {
    /// The jobs that have not ended.
    pub fn unfinished(&self) -> Unfinished {
        Unfinished(self.clone())
    }
}

impl Unfinished {
    /// The jobs after one of them, at most [`PAGE`], in no order that means anything.
    pub async fn page(
        &self,
        after: Option<(UserId, JobId)>,
    ) -> Result<Vec<UnfinishedJob>, LogError> {
        // No id is nil.
        let (user, job) = after.unwrap_or((UserId(Uuid::nil()), JobId(Uuid::nil())));
        let read_page = async move |store: Store| {
            let sql = "SELECT hex(user_id) AS user_hex, hex(job_id) AS job_hex, queue, operation, priority, submitted, \
                              sequence, due, running FROM unfinished \
                       WHERE (user_id, job_id) > (unhex($1, '-'), unhex($2, '-')) ORDER BY user_id, job_id LIMIT $3";
            let query = sqlx::query(sql)
                .bind(user.to_string())
                .bind(job.to_string())
                .bind(PAGE as i64);
            let rows = query.fetch_all(store.reads()).await?;
            Ok(rows.iter().map(read).collect::<Result<Vec<_>, _>>()?)
        };
        self.0.store().run(read_page).await
    }
}
