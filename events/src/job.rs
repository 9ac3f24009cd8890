//! `job`: a piece of work, from its submission to its end. A worker holds it by a lease, and only
//! the present lease may end it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    aggregate, domain_event, ids::JobName, job_operation, refusal::Refusal, timestamp::Timestamp,
    usage::Unit,
};

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
    },
    Finished {
        outline: JobOutline,
        ending: Ending,
        /// The hash of the lease that ended the job, if one did.
        lease: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Completed,
    /// The job failed for good. It is kept for a retry.
    Failed,
    Cancelled,
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
}

/// The part of the work that decisions need. A user's state holds one for each job that has not
/// ended, so it is small, whatever the job was submitted with. The job's first fact has all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOutline {
    pub operation: String,
    pub queue: String,
    /// The job fails after this many attempts.
    pub max_attempts: u32,
    /// The hash of the whole work: half of its SHA-256, in hexadecimal.
    pub hash: String,
}

impl JobOutline {
    pub fn of(spec: &JobSpec) -> Self {
        Self {
            operation: spec.operation.clone(),
            queue: spec.queue.clone(),
            max_attempts: spec.max_attempts,
            hash: spec.hash(),
        }
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

    /// Tells a repeated submission from another one. The order of names in `params` does not matter.
    fn hash(&self) -> String {
        let mut sorted = self.clone();
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
        /// True when another attempt makes sense.
        retryable: bool,
        /// The earliest time of the next attempt.
        retry_at: Timestamp,
    },
    /// Records that the lease ran out.
    Lapse {
        /// The hash of the lease that ran out.
        lease: String,
        /// The earliest time of the next attempt.
        retry_at: Timestamp,
    },
    Cancel,
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
        /// The earliest time of the next attempt; absent if the job failed for good.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at: Option<Timestamp>,
    },
    /// The owner queued the job again.
    Retried {
        /// The queue, for a job board that did not keep the job.
        queue: String,
        /// The operation, for the same. Early facts have none.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        operation: String,
        priority: i64,
        /// The quota unit that was counted once more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        counted: Option<Unit>,
    },
    Cancelled,
}

domain_event!(JobEvent,
    Self::Submitted { .. } => "job.submitted",
    Self::Claimed { .. } => "job.claimed",
    Self::Lapsed { .. } => "job.lapsed",
    Self::Completed { .. } => "job.completed",
    Self::Failed { .. } => "job.failed",
    Self::Retried { .. } => "job.retried",
    Self::Cancelled => "job.cancelled",
);
aggregate!(Job, "job", JobCommand, JobEvent);

impl JobEvent {
    /// The fields that are not personal and are stored readable.
    pub(crate) fn clear(&self) -> Value {
        match self {
            Self::Submitted { spec, counted } => json!({
                "operation": spec.operation, "queue": spec.queue, "priority": spec.priority,
                "run_at": spec.run_at, "max_attempts": spec.max_attempts, "counted": counted,
            }),
            Self::Claimed { attempt, .. } | Self::Completed { attempt, .. } => {
                json!({"attempt": attempt})
            }
            Self::Lapsed { attempt, retry_at }
            | Self::Failed {
                attempt, retry_at, ..
            } => {
                json!({"attempt": attempt, "retry_at": retry_at})
            }
            Self::Retried {
                queue,
                operation,
                priority,
                counted,
            } => {
                json!({
                    "operation": operation, "queue": queue, "priority": priority, "counted": counted,
                })
            }
            Self::Cancelled => json!({}),
        }
    }
}

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
            | Self::Finished { outline, .. } => Some(outline),
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
            Self::Finished {
                ending: Ending::Completed,
                ..
            } => "completed",
            Self::Finished {
                ending: Ending::Failed,
                ..
            } => "failed",
            Self::Finished {
                ending: Ending::Cancelled,
                ..
            } => "cancelled",
        }
    }

    /// The number of the running attempt, or of the last one.
    pub fn attempts(&self) -> u32 {
        match self {
            Self::Waiting { attempts, .. } => *attempts,
            Self::Running { attempt, .. } => *attempt,
            Self::Absent | Self::Finished { .. } => 0,
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
            } => self.complete(&lease, result, outputs),
            JobCommand::Fail {
                lease,
                error,
                retryable,
                retry_at,
            } => {
                let attempt = self.held_by(&lease)?;
                let retry_at = (retryable && self.may_try_again(attempt)).then_some(retry_at);
                Ok(vec![JobEvent::Failed {
                    attempt,
                    error,
                    retry_at,
                }])
            }
            JobCommand::Lapse { lease, retry_at } => {
                let attempt = self.held_by(&lease)?;
                let retry_at = self.may_try_again(attempt).then_some(retry_at);
                Ok(vec![JobEvent::Lapsed { attempt, retry_at }])
            }
            JobCommand::Cancel => self.cancel(),
            JobCommand::Retry { counted } => self.retry(counted),
        }
    }

    fn submit(&self, spec: JobSpec, counted: Option<Unit>) -> Result<Vec<JobEvent>, Refusal> {
        match self.outline() {
            None => Ok(vec![JobEvent::Submitted { spec, counted }]),
            Some(before) if *before == JobOutline::of(&spec) => Ok(vec![]),
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
            _ => Err(Refusal::conflict(
                "not_waiting",
                "This job is not waiting for a worker",
            )),
        }
    }

    fn complete(
        &self,
        lease: &str,
        result: Value,
        outputs: Value,
    ) -> Result<Vec<JobEvent>, Refusal> {
        match self {
            Self::Finished {
                ending: Ending::Completed,
                lease: Some(held),
                ..
            } if held == lease => Ok(vec![]),
            _ => Ok(vec![JobEvent::Completed {
                attempt: self.held_by(lease)?,
                result,
                outputs,
            }]),
        }
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
            Self::Absent => Err(Refusal::not_found("job")),
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
                counted,
            }]),
            Self::Absent => Err(Refusal::not_found("job")),
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

    pub fn evolve(&mut self, event: JobEvent) {
        *self = match std::mem::take(self) {
            Self::Absent => Self::first(event),
            Self::Waiting {
                outline,
                attempts,
                counted,
                ..
            } => Self::next(outline, attempts, None, counted, event),
            Self::Running {
                outline,
                attempt,
                lease,
                counted,
            } => Self::next(outline, attempt, Some(lease), counted, event),
            Self::Finished { outline, lease, .. } => Self::next(outline, 0, lease, None, event),
        };
    }

    fn first(event: JobEvent) -> Self {
        match event {
            JobEvent::Submitted { spec, counted } => Self::Waiting {
                not_before: spec.run_at,
                outline: JobOutline::of(&spec),
                attempts: 0,
                counted,
            },
            _ => Self::Absent,
        }
    }

    /// The state after an event of a job that had this outline, attempt, lease and unit.
    fn next(
        outline: JobOutline,
        attempts: u32,
        held: Option<String>,
        unit: Option<Unit>,
        event: JobEvent,
    ) -> Self {
        match event {
            JobEvent::Submitted { counted, .. } => Self::Waiting {
                outline,
                attempts,
                not_before: None,
                counted,
            },
            JobEvent::Claimed { attempt, lease, .. } => Self::Running {
                outline,
                attempt,
                lease,
                counted: unit,
            },
            JobEvent::Lapsed {
                retry_at: Some(at), ..
            }
            | JobEvent::Failed {
                retry_at: Some(at), ..
            } => Self::Waiting {
                outline,
                attempts,
                not_before: Some(at),
                counted: unit,
            },
            JobEvent::Lapsed { retry_at: None, .. } | JobEvent::Failed { retry_at: None, .. } => {
                Self::Finished {
                    outline,
                    ending: Ending::Failed,
                    lease: held,
                }
            }
            JobEvent::Completed { .. } => Self::Finished {
                outline,
                ending: Ending::Completed,
                lease: held,
            },
            // The outline stays as it was submitted, so that submitting the same again is still the
            // same.
            JobEvent::Retried { counted, .. } => Self::Waiting {
                outline,
                attempts: 0,
                not_before: None,
                counted,
            },
            JobEvent::Cancelled => Self::Finished {
                outline,
                ending: Ending::Cancelled,
                lease: None,
            },
        }
    }
}

/// The id belongs to another job of the user.
pub fn job_exists() -> Refusal {
    Refusal::conflict(
        "job_exists",
        "There is another job with this `jobId`; leave it out, or send a fresh one",
    )
}

#[cfg(test)]
mod tests;
