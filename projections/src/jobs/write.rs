//! Folds facts into the rows of `jobs`, and into the counts.

use std::collections::{BTreeMap, BTreeSet};

use genie_events::{
    Event, Timestamp,
    job::{JobEvent, JobSpec, LEASE_LAPSED},
};
use sqlx::{Row, any::AnyRow};
use uuid::Uuid;

use super::counts::{CountChanges, Counted};
use crate::{
    projection::{Seen, Tx, begun_before, id_column},
    rows::{ByKey, Cell, Upsert},
};

pub(super) async fn apply(facts: &[Seen<'_>], tx: &mut Tx) -> Result<(), sqlx::Error> {
    let begins = |event: &Event| matches!(event, Event::Job(JobEvent::Submitted { .. }));
    let mut jobs = BTreeMap::new();
    for row in BY_ID.run(tx, &begun_before(facts, begins)).await? {
        jobs.insert(id_column(&row, "job_hex")?, JobColumns::read(&row)?);
    }
    let mut changes = CountChanges::default();
    for job in jobs.values() {
        changes.add(job.counted(), -1);
    }
    let mut removed = BTreeSet::new();
    for seen in facts {
        match seen.event {
            Event::Job(JobEvent::Removed) => {
                jobs.remove(&seen.fact.stream.id);
                removed.insert(seen.fact.stream.id);
            }
            Event::Job(event) => fold(&mut jobs, seen, event),
            _ => {}
        }
    }
    if !removed.is_empty() {
        DELETE.run(tx, &removed).await?;
    }
    for job in jobs.values() {
        changes.add(job.counted(), 1);
    }
    let rows = jobs.into_iter().map(|(id, job)| job.cells(id));
    UPSERT.write(tx, rows.collect()).await?;
    changes.write(tx).await
}

/// The columns of a job's row. The sealed ones are only written, never read back: without a value
/// the row keeps what it has.
struct JobColumns {
    user: Uuid,
    queue: String,
    operation: String,
    status: String,
    priority: i64,
    attempt: i64,
    max_attempts: i64,
    created_at: i64,
    run_at: Option<i64>,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    position: i64,
    code: Option<String>,
    name_sealed: Option<Vec<u8>>,
    error_sealed: Option<Vec<u8>>,
    result_sealed: Option<Vec<u8>>,
    outputs_sealed: Option<Vec<u8>>,
}

const BY_ID: ByKey = ByKey::binary(
    "SELECT hex(job_id) AS job_hex, hex(user_id) AS user_hex, queue, operation, status, priority, attempt, max_attempts, created_at, run_at, \
            started_at, finished_at, position, code FROM jobs WHERE job_id IN ({})",
);

const DELETE: ByKey = ByKey::binary("DELETE FROM jobs WHERE job_id IN ({})");

const UPSERT: Upsert = Upsert {
    table: "jobs",
    columns: &[
        "job_id",
        "user_id",
        "queue",
        "operation",
        "status",
        "priority",
        "attempt",
        "max_attempts",
        "created_at",
        "run_at",
        "started_at",
        "finished_at",
        "position",
        "code",
        "name_sealed",
        "error_sealed",
        "result_sealed",
        "outputs_sealed",
    ],
    // A completed job shows no error of an earlier attempt.
    on_conflict: "(job_id) DO UPDATE SET status = excluded.status, priority = excluded.priority, \
                  attempt = excluded.attempt, run_at = excluded.run_at, started_at = excluded.started_at, \
                  finished_at = excluded.finished_at, code = excluded.code, \
                  error_sealed = CASE WHEN excluded.status <> 'completed' \
                                      THEN coalesce(excluded.error_sealed, jobs.error_sealed) END, \
                  result_sealed = coalesce(excluded.result_sealed, jobs.result_sealed), \
                  outputs_sealed = coalesce(excluded.outputs_sealed, jobs.outputs_sealed)",
};

impl JobColumns {
    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            user: id_column(row, "user_hex")?,
            queue: row.try_get("queue")?,
            operation: row.try_get("operation")?,
            status: row.try_get("status")?,
            priority: row.try_get("priority")?,
            attempt: row.try_get("attempt")?,
            max_attempts: row.try_get("max_attempts")?,
            created_at: row.try_get("created_at")?,
            run_at: row.try_get("run_at")?,
            started_at: row.try_get("started_at")?,
            finished_at: row.try_get("finished_at")?,
            position: row.try_get("position")?,
            code: row.try_get("code")?,
            name_sealed: None,
            error_sealed: None,
            result_sealed: None,
            outputs_sealed: None,
        })
    }

    fn new(seen: &Seen<'_>, spec: &JobSpec) -> Self {
        Self {
            user: seen.owner(),
            queue: spec.queue.clone(),
            operation: spec.operation.clone(),
            status: "queued".into(),
            priority: spec.priority,
            attempt: 0,
            max_attempts: i64::from(spec.max_attempts),
            created_at: seen.at().0,
            run_at: spec.run_at.map(|at| at.0),
            started_at: None,
            finished_at: None,
            position: seen.fact.position as i64,
            code: None,
            name_sealed: spec
                .name
                .as_ref()
                .map(|name| seen.seal("jobs.name", name.as_str())),
            error_sealed: None,
            result_sealed: None,
            outputs_sealed: None,
        }
    }

    fn counted(&self) -> Counted {
        Counted {
            user: Some(self.user),
            queue: self.queue.clone(),
            status: self.status.clone(),
            attempt: self.attempt,
            run_at: self.run_at,
        }
    }

    fn cells(self, id: Uuid) -> Vec<Cell> {
        vec![
            id.into(),
            self.user.into(),
            self.queue.into(),
            self.operation.into(),
            self.status.into(),
            self.priority.into(),
            self.attempt.into(),
            self.max_attempts.into(),
            self.created_at.into(),
            self.run_at.into(),
            self.started_at.into(),
            self.finished_at.into(),
            self.position.into(),
            self.code.into(),
            self.name_sealed.into(),
            self.error_sealed.into(),
            self.result_sealed.into(),
            self.outputs_sealed.into(),
        ]
    }

    fn change(&mut self, seen: &Seen<'_>, event: &JobEvent) {
        let at = seen.at().0;
        match event {
            JobEvent::Submitted { .. } | JobEvent::Removed => {}
            JobEvent::Claimed { attempt, .. } => {
                self.status = "processing".into();
                self.attempt = i64::from(*attempt);
                self.started_at = self.started_at.or(Some(at));
            }
            JobEvent::Lapsed { retry_at, .. } => {
                let error = match retry_at {
                    Some(_) => "The worker's lease ran out",
                    None => "The worker's lease ran out on the last attempt",
                };
                self.fail(seen, *retry_at, error, Some(LEASE_LAPSED));
            }
            JobEvent::Failed {
                error,
                code,
                retry_at,
                ..
            } => self.fail(seen, *retry_at, error, code.as_deref()),
            JobEvent::Released { attempt } => {
                self.status = "queued".into();
                self.attempt = i64::from(attempt.saturating_sub(1));
            }
            JobEvent::Rescheduled { priority, run_at } => {
                self.priority = *priority;
                self.run_at = run_at.map(|at| at.0);
            }
            JobEvent::Completed {
                result, outputs, ..
            } => {
                self.end("completed", at);
                self.error_sealed = None;
                self.code = None;
                self.result_sealed = Some(seen.seal("jobs.result", &result.to_string()));
                self.outputs_sealed = Some(seen.seal("jobs.outputs", &outputs.to_string()));
            }
            JobEvent::Retried { priority, .. } => {
                self.status = "queued".into();
                self.priority = *priority;
                self.attempt = 0;
                self.run_at = None;
                self.finished_at = None;
            }
            JobEvent::Cancelled => self.end("cancelled", at),
        }
    }

    /// An attempt failed. Without a time for the next one the job has failed for good.
    fn fail(
        &mut self,
        seen: &Seen<'_>,
        retry_at: Option<Timestamp>,
        error: &str,
        code: Option<&str>,
    ) {
        match retry_at {
            Some(retry_at) => {
                self.status = "queued".into();
                self.run_at = Some(retry_at.0);
            }
            None => self.end("failed", seen.at().0),
        }
        self.error_sealed = Some(seen.seal("jobs.error", error));
        self.code = code.map(str::to_owned);
    }

    fn end(&mut self, status: &str, at: i64) {
        self.status = status.into();
        self.finished_at = Some(at);
    }
}

fn fold(jobs: &mut BTreeMap<Uuid, JobColumns>, seen: &Seen<'_>, event: &JobEvent) {
    if let JobEvent::Submitted { spec, .. } = event {
        jobs.insert(seen.fact.stream.id, JobColumns::new(seen, spec));
    } else if let Some(job) = jobs.get_mut(&seen.fact.stream.id) {
        job.change(seen, event);
    }
}

#[cfg(test)]
pub(crate) fn statements() -> Vec<String> {
    vec![BY_ID.sql(4), UPSERT.sql(4), DELETE.sql(4)]
}
