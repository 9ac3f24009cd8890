//! `job`: a piece of work, from its submission to its end. A worker holds it by a lease, and only
//! the present lease may end it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    aggregate, domain_event,
    ids::{BlobId, JobName},
    job_operation,
    mark_number::MarkNumber,
    refusal::Refusal,
    timestamp::Timestamp,
    usage::Unit,
};

/// The state after an event.
mod evolve;
#[cfg(test)]
mod tests;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    #[default]
    Absent,
    /// The job waits for a worker.
    Waiting {
        outline: JobOutline,
        /// The number of attempts so far.
        attempts: u32,
        /// The earliest time at which a worker may get the job.
        not_before: Option<Timestamp>,
        /// The quota unit that was counted for the job.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        counted: Option<Unit>,
        /// The attempt before, if its worker ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ended: Option<EndedAttempt>,
    },
    /// A worker holds the job.
    Running {
        outline: JobOutline,
        /// The number of this attempt, from 1.
        attempt: u32,
        /// The hash of the lease that may end the job.
        lease: String,
        /// The quota unit that was counted for the job.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        counted: Option<Unit>,
        /// The attempt before, if its worker ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ended: Option<EndedAttempt>,
    },
    Finished {
        outline: JobOutline,
        ending: Ending,
        /// The hash of the lease under which a worker ended the job, if one did.
        lease: Option<String>,
    },
    /// The job had ended, and is no longer kept. Its name stays taken.
    Removed { outline: JobOutline, ending: Ending },
}

/// An attempt that its worker ended. The worker may have missed the answer, and report the same again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedAttempt {
    /// The hash of the attempt's lease.
    lease: String,
    report: EndReport,
}

/// A worker's word on the end of its attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EndReport {
    Completed,
    Failed,
    Released,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Completed,
    /// The job failed for good. It is kept for a retry.
    Failed,
    Cancelled,
}

impl Ending {
    fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The work to be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The client's own id of the job; personal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<JobName>,
    /// The operation, such as `resize_image`.
    pub operation: String,
    /// The queue, which follows from the operation.
    pub queue: String,
    /// The operation's parameters; personal.
    #[serde(default)]
    pub params: Value,
    /// An uploaded file to work on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_file_id: Option<String>,
    /// The address to fetch from; personal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_url: Option<String>,
    /// The credential that the work needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creator_profile_id: Option<String>,
    /// A job with a lower number runs sooner.
    pub priority: i64,
    /// The earliest time at which a worker may get the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Timestamp>,
    /// The job fails after this many attempts.
    pub max_attempts: u32,
    /// The number that an invisible mark gets: drawn before any worker sees the job, so that no marked file has a
    /// number without a fact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<MarkNumber>,
}

/// The part of the work that decisions need. A user's state holds one for each job that has not
/// ended, so it is small, whatever the job was submitted with. The job's first fact has all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOutline {
    pub operation: String,
    pub queue: String,
    /// The present one: the submitted one, or a later one.
    pub priority: i64,
    /// The job fails after this many attempts.
    pub max_attempts: u32,
    /// The hash of the whole work as it was submitted: half of its SHA-256, in hexadecimal.
    pub hash: String,
    /// The files that the job names, which stay until it ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<BlobId>,
}

impl JobOutline {
    pub fn of(spec: &JobSpec) -> Self {
        Self {
            operation: spec.operation.clone(),
            queue: spec.queue.clone(),
            priority: spec.priority,
            max_attempts: spec.max_attempts,
            hash: spec.hash(),
            files: spec.file_ids(),
        }
    }

    fn with_priority(self, priority: i64) -> Self {
        Self { priority, ..self }
    }
}

impl JobSpec {
    /// The files that the job names, each with its field.
    pub fn named_files(&self) -> Vec<(&'static str, &str)> {
        let input = self.input_file_id.as_deref();
        let mut files: Vec<_> = input.map(|id| ("input_file_id", id)).into_iter().collect();
        for &field in job_operation::file_params(&self.operation) {
            match &self.params[field] {
                Value::String(id) => files.push((field, id)),
                Value::Array(ids) => {
                    files.extend(ids.iter().filter_map(Value::as_str).map(|id| (field, id)));
                }
                _ => {}
            }
        }
        files
    }

    /// The ids among [`Self::named_files`]. What is no id names no file.
    pub fn file_ids(&self) -> Vec<BlobId> {
        let named = self.named_files();
        named.iter().filter_map(|(_, id)| id.parse().ok()).collect()
    }

    /// The refusal of a job that names a file in this field which is not its user's.
    pub fn foreign_file(field: &str) -> Refusal {
        // The other fields are in `params`.
        let place = if field == "input_file_id" {
            ""
        } else {
            "params."
        };
        let sentence = format!("`{place}{field}` names no file of yours; check the id");
        Refusal::gone("not_found", sentence)
    }

    /// Tells a repeated submission from another one. The order of names in `params` does not matter, and a mark's
    /// number is drawn for each.
    fn hash(&self) -> String {
        let mut sorted = self.clone();
        sorted.mark = None;
        sorted.params.sort_all_objects();
        let json = serde_json::to_vec(&sorted)
            .expect("a spec holds only text, numbers and maps with text keys");
        hex::encode(&Sha256::digest(json)[..16])
    }
}

/// The commands of a job. Leases come as hashes.
#[derive(Debug, Clone, PartialEq)]
pub enum JobCommand {
    Submit {
        spec: JobSpec,
        /// The quota unit that the same append counts.
        counted: Option<Unit>,
    },
    /// Gives the job to a worker under a new lease.
    Claim {
        worker: String,
        /// The hash of the new lease.
        lease: String,
        now: Timestamp,
    },
    Complete {
        /// The hash of the worker's lease.
        lease: String,
        /// Personal.
        result: Value,
        /// Files that the work made; personal.
        outputs: Value,
    },
    Fail {
        /// The hash of the worker's lease.
        lease: String,
        /// Personal.
        error: String,
        /// A word for programs.
        code: Option<String>,
        /// True when another attempt makes sense.
        retryable: bool,
        /// The earliest time of the next attempt.
        retry_at: Timestamp,
    },
    /// Gives the job back. The attempt does not count.
    Release {
        /// The hash of the worker's lease.
        lease: String,
    },
    /// Records that the lease ran out.
    Lapse {
        /// The hash of the lease that ran out.
        lease: String,
        /// The earliest time of the next attempt.
        retry_at: Timestamp,
    },
    Cancel,
    /// Removes a job that has ended.
    Remove,
    /// Changes the priority or the time of a job that waits. What is absent stays.
    Reschedule {
        priority: Option<i64>,
        /// The earliest time at which a worker may get the job.
        run_at: Option<Timestamp>,
        now: Timestamp,
    },
    /// Queues the job again after it failed or was cancelled.
    Retry {
        /// The quota unit that the same append counts.
        counted: Option<Unit>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum JobEvent {
    Submitted {
        #[serde(flatten)]
        spec: JobSpec,
        /// The quota unit that was counted for the job.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        counted: Option<Unit>,
    },
    Claimed {
        /// The number of this attempt, from 1.
        attempt: u32,
        worker: String,
        /// The hash of the lease.
        lease: String,
    },
    Lapsed {
        /// The number of the attempt that ended.
        attempt: u32,
        /// The earliest time of the next attempt; absent after the last one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at: Option<Timestamp>,
    },
    Completed {
        /// The number of the attempt that ended.
        attempt: u32,
        /// Personal.
        #[serde(default)]
        result: Value,
        /// Files that the work made; personal.
        #[serde(default)]
        outputs: Value,
    },
    Failed {
        /// The number of the attempt that ended.
        attempt: u32,
        /// Personal.
        error: String,
        /// The worker's word for the failure.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
        /// The earliest time of the next attempt; absent if the job failed for good.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at: Option<Timestamp>,
    },
    /// The worker gave the job back.
    Released {
        /// The number of the attempt that does not count.
        attempt: u32,
    },
    /// The priority or the time of a job that waits has changed.
    Rescheduled {
        /// The present one.
        priority: i64,
        /// The earliest time at which a worker may get the job now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run_at: Option<Timestamp>,
    },
    /// The owner queued the job again.
    Retried {
        /// The queue, for a job board that did not keep the job.
        queue: String,
        /// The operation, for the same. Early facts have none.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        operation: String,
        priority: i64,
        /// The files that the job names, for a state that left the job out.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        files: Vec<BlobId>,
        /// The quota unit that was counted once more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        counted: Option<Unit>,
    },
    Cancelled,
    /// The job had ended, and had been kept for as long as the operator said.
    Removed,
}

domain_event!(JobEvent,
    Self::Submitted { .. } => "job.submitted",
    Self::Claimed { .. } => "job.claimed",
    Self::Lapsed { .. } => "job.lapsed",
    Self::Completed { .. } => "job.completed",
    Self::Failed { .. } => "job.failed",
    Self::Released { .. } => "job.released",
    Self::Rescheduled { .. } => "job.rescheduled",
    Self::Retried { .. } => "job.retried",
    Self::Cancelled => "job.cancelled",
    Self::Removed => "job.removed",
);
aggregate!(Job, "job", JobCommand, JobEvent);

impl JobEvent {
    /// True when no attempt follows.
    pub fn ends_job(&self) -> bool {
        matches!(
            self,
            Self::Completed { .. }
                | Self::Cancelled
                | Self::Failed { retry_at: None, .. }
                | Self::Lapsed { retry_at: None, .. }
        )
    }

    /// The fields that are not personal and are stored readable.
    pub(crate) fn clear(&self) -> Value {
        match self {
            Self::Submitted { spec, counted } => json!({
                "operation": spec.operation, "queue": spec.queue, "priority": spec.priority,
                "run_at": spec.run_at, "max_attempts": spec.max_attempts, "counted": counted,
            }),
            Self::Claimed { attempt, .. }
            | Self::Completed { attempt, .. }
            | Self::Released { attempt } => {
                json!({"attempt": attempt})
            }
            Self::Lapsed { attempt, retry_at } => {
                json!({"attempt": attempt, "retry_at": retry_at})
            }
            Self::Failed {
                attempt,
                code,
                retry_at,
                ..
            } => {
                json!({"attempt": attempt, "code": code, "retry_at": retry_at})
            }
            Self::Rescheduled { priority, run_at } => {
                json!({"priority": priority, "run_at": run_at})
            }
            Self::Retried {
                queue,
                operation,
                priority,
                counted,
                ..
            } => {
                json!({
                    "operation": operation, "queue": queue, "priority": priority, "counted": counted,
                })
            }
            Self::Cancelled | Self::Removed => json!({}),
        }
    }
}

/// The code of a failure that no worker told: its lease ran out.
pub const LEASE_LAPSED: &str = "lease_lapsed";

/// The priority of a job that its owner queued again (docs/api.md, Jobs).
const RETRY_PRIORITY: i64 = 5;

/// The pause before attempt `attempts + 1`: 2 s · 2^(n-1), at most 10 minutes, then spread over the
/// upper half by `chance` in 0..1. The spread keeps jobs that failed together from coming back
/// together.
pub fn backoff_millis(attempts: u32, chance: f64) -> i64 {
    let full = 2000_i64
        .saturating_mul(1 << attempts.saturating_sub(1).min(20))
        .min(600_000);
    let half = full / 2;
    half + (half as f64 * chance.clamp(0.0, 1.0)) as i64
}

impl Job {
    /// The outline of the work, once the job was submitted.
    pub fn outline(&self) -> Option<&JobOutline> {
        match self {
            Self::Absent => None,
            Self::Waiting { outline, .. }
            | Self::Running { outline, .. }
            | Self::Finished { outline, .. }
            | Self::Removed { outline, .. } => Some(outline),
        }
    }

    /// The status at `now`, in the words of docs/api.md. A job that is only being submitted counts
    /// as queued.
    pub fn status(&self, now: Timestamp) -> &'static str {
        match self {
            Self::Waiting {
                not_before: Some(at),
                ..
            } if *at > now => "delayed",
            Self::Absent | Self::Waiting { .. } => "queued",
            Self::Running { .. } => "processing",
            Self::Finished { ending, .. } | Self::Removed { ending, .. } => ending.as_str(),
        }
    }

    /// True when the job was submitted and no attempt follows.
    pub fn has_ended(&self) -> bool {
        matches!(self, Self::Finished { .. } | Self::Removed { .. })
    }

    fn is_removed(&self) -> bool {
        matches!(self, Self::Removed { .. })
    }

    /// True while the job waits for the time that its owner chose.
    pub fn is_scheduled(&self, now: Timestamp) -> bool {
        matches!(self, Self::Waiting { attempts: 0, not_before: Some(at), .. } if *at > now)
    }

    /// The number of the running attempt, or of the last one.
    pub fn attempts(&self) -> u32 {
        match self {
            Self::Waiting { attempts, .. } => *attempts,
            Self::Running { attempt, .. } => *attempt,
            Self::Absent | Self::Finished { .. } | Self::Removed { .. } => 0,
        }
    }

    pub fn decide(&self, command: JobCommand) -> Result<Vec<JobEvent>, Refusal> {
        match command {
            JobCommand::Submit { spec, counted } => self.submit(spec, counted),
            JobCommand::Claim { worker, lease, now } => self.claim(worker, lease, now),
            JobCommand::Complete {
                lease,
                result,
                outputs,
            } => self.end_once(&lease, EndReport::Completed, |attempt| {
                JobEvent::Completed {
                    attempt,
                    result,
                    outputs,
                }
            }),
            JobCommand::Fail {
                lease,
                error,
                code,
                retryable,
                retry_at,
            } => self.end_once(&lease, EndReport::Failed, |attempt| {
                let retry_at = (retryable && self.may_try_again(attempt)).then_some(retry_at);
                JobEvent::Failed {
                    attempt,
                    error,
                    code,
                    retry_at,
                }
            }),
            JobCommand::Release { lease } => {
                self.end_once(&lease, EndReport::Released, |attempt| JobEvent::Released {
                    attempt,
                })
            }
            JobCommand::Lapse { lease, retry_at } => {
                let attempt = self.held_by(&lease)?;
                let retry_at = self.may_try_again(attempt).then_some(retry_at);
                Ok(vec![JobEvent::Lapsed { attempt, retry_at }])
            }
            JobCommand::Cancel => self.cancel(),
            JobCommand::Remove => self.remove(),
            JobCommand::Reschedule {
                priority,
                run_at,
                now,
            } => self.reschedule(priority, run_at, now),
            JobCommand::Retry { counted } => self.retry(counted),
        }
    }

    fn submit(&self, spec: JobSpec, counted: Option<Unit>) -> Result<Vec<JobEvent>, Refusal> {
        match self.outline() {
            None => Ok(vec![JobEvent::Submitted { spec, counted }]),
            Some(before) if before.hash == spec.hash() && !self.is_removed() => Ok(vec![]),
            Some(_) => Err(job_exists()),
        }
    }

    fn claim(
        &self,
        worker: String,
        lease: String,
        now: Timestamp,
    ) -> Result<Vec<JobEvent>, Refusal> {
        match self {
            Self::Waiting {
                attempts,
                not_before,
                ..
            } if not_before.is_none_or(|at| at <= now) => Ok(vec![JobEvent::Claimed {
                attempt: attempts + 1,
                worker,
                lease,
            }]),
            Self::Running { lease: held, .. } if *held == lease => Ok(vec![]),
            _ => Err(not_waiting()),
        }
    }

    /// The end of the attempt that has this lease; nothing when its worker reports the same end again.
    fn end_once(
        &self,
        lease: &str,
        report: EndReport,
        event: impl FnOnce(u32) -> JobEvent,
    ) -> Result<Vec<JobEvent>, Refusal> {
        match self.held_by(lease) {
            Ok(attempt) => Ok(vec![event(attempt)]),
            Err(_) if self.last_report(lease) == Some(report) => Ok(vec![]),
            Err(refusal) => Err(refusal),
        }
    }

    /// The report that ended the latest attempt, if that attempt had this lease.
    fn last_report(&self, lease: &str) -> Option<EndReport> {
        match self {
            Self::Waiting { ended, .. } | Self::Running { ended, .. } => ended
                .as_ref()
                .filter(|ended| ended.lease == lease)
                .map(|ended| ended.report),
            Self::Finished {
                ending,
                lease: Some(held),
                ..
            } if held == lease => match ending {
                Ending::Completed => Some(EndReport::Completed),
                Ending::Failed => Some(EndReport::Failed),
                Ending::Cancelled => None,
            },
            Self::Absent | Self::Finished { .. } | Self::Removed { .. } => None,
        }
    }

    fn reschedule(
        &self,
        priority: Option<i64>,
        run_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Vec<JobEvent>, Refusal> {
        let Self::Waiting {
            outline,
            not_before,
            ..
        } = self
        else {
            return Err(match self {
                Self::Absent | Self::Removed { .. } => Refusal::not_found("job"),
                _ => not_waiting(),
            });
        };
        let priority = priority.unwrap_or(outline.priority);
        let may_run = |at: Option<Timestamp>| at.is_none_or(|at| at <= now);
        let is_so =
            |at: &Timestamp| Some(*at) == *not_before || may_run(Some(*at)) && may_run(*not_before);
        let new_time = run_at.filter(|at| !is_so(at));
        if priority == outline.priority && new_time.is_none() {
            return Ok(vec![]);
        }
        Ok(vec![JobEvent::Rescheduled {
            priority,
            run_at: new_time.or(*not_before),
        }])
    }

    fn cancel(&self) -> Result<Vec<JobEvent>, Refusal> {
        match self {
            Self::Waiting { .. } | Self::Running { .. } => Ok(vec![JobEvent::Cancelled]),
            Self::Finished {
                ending: Ending::Cancelled,
                ..
            } => Ok(vec![]),
            Self::Finished { .. } => Err(Refusal::conflict(
                "already_finished",
                "This job has ended already",
            )),
            Self::Absent | Self::Removed { .. } => Err(Refusal::not_found("job")),
        }
    }

    fn remove(&self) -> Result<Vec<JobEvent>, Refusal> {
        match self {
            Self::Finished { .. } => Ok(vec![JobEvent::Removed]),
            Self::Removed { .. } => Ok(vec![]),
            Self::Absent => Err(Refusal::not_found("job")),
            Self::Waiting { .. } | Self::Running { .. } => Err(Refusal::conflict(
                "not_finished",
                "Only a job that has ended can be removed",
            )),
        }
    }

    fn retry(&self, counted: Option<Unit>) -> Result<Vec<JobEvent>, Refusal> {
        match self {
            Self::Finished {
                ending: Ending::Failed | Ending::Cancelled,
                outline,
                ..
            } => Ok(vec![JobEvent::Retried {
                queue: outline.queue.clone(),
                operation: outline.operation.clone(),
                priority: RETRY_PRIORITY,
                files: outline.files.clone(),
                counted,
            }]),
            Self::Absent | Self::Removed { .. } => Err(Refusal::not_found("job")),
            _ => Err(Refusal::conflict(
                "not_failed",
                "Only a failed or cancelled job can be retried",
            )),
        }
    }

    fn held_by(&self, lease: &str) -> Result<u32, Refusal> {
        match self {
            Self::Running {
                attempt,
                lease: held,
                ..
            } if held == lease => Ok(*attempt),
            Self::Absent => Err(Refusal::not_found("job")),
            _ => Err(Refusal::conflict(
                "stale_lease",
                "This lease is not the job's present one; claim the job again",
            )),
        }
    }

    fn may_try_again(&self, attempt: u32) -> bool {
        self.outline()
            .is_some_and(|outline| attempt < outline.max_attempts)
    }

    /// The quota unit that the event gives back, because the work came to nothing and the user did
    /// not cancel it while a worker had it. Takes the state before the event.
    pub fn gives_back(&self, event: &JobEvent) -> Option<Unit> {
        match (self, event) {
            (Self::Waiting { counted, .. }, JobEvent::Cancelled)
            | (
                Self::Running { counted, .. },
                JobEvent::Failed { retry_at: None, .. } | JobEvent::Lapsed { retry_at: None, .. },
            ) => *counted,
            _ => None,
        }
    }
}

fn not_waiting() -> Refusal {
    Refusal::conflict("not_waiting", "This job is not waiting for a worker")
}

/// The id belongs to another job of the user.
pub fn job_exists() -> Refusal {
    Refusal::conflict(
        "job_exists",
        "There is another job with this `jobId`; leave it out, or send a fresh one",
    )
}
