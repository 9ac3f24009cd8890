//! `job`: a piece of work, from its submission to its end. A worker holds it by a lease; only the present lease may end it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{aggregate, domain_event, refusal::Refusal, timestamp::Timestamp, usage::Unit};

/// What a job is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// Never submitted.
    #[default]
    Absent,
    /// Waits for a worker.
    Waiting {
        /// What is to be done.
        spec: JobSpec,
        /// How many attempts were made.
        attempts: u32,
        /// Not to be handed out before.
        not_before: Option<Timestamp>,
        /// What was counted for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        counted: Option<Unit>,
    },
    /// A worker holds it.
    Running {
        /// What is being done.
        spec: JobSpec,
        /// Which attempt this is, from 1.
        attempt: u32,
        /// Hash of the lease that may end it.
        lease: String,
        /// What was counted for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        counted: Option<Unit>,
    },
    /// Ended.
    Finished {
        /// What was to be done.
        spec: JobSpec,
        /// How it ended.
        ending: Ending,
        /// Hash of the lease that ended it, when one did.
        lease: Option<String>,
    },
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Done.
    Completed,
    /// Failed for good; kept for a retry.
    Failed,
    /// Called off.
    Cancelled,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// What to do.
    pub operation: String,
    /// Where it waits; follows from the operation.
    pub queue: String,
    /// How to do it; personal.
    #[serde(default)]
    pub params: Value,
    /// An uploaded file to work on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_file_id: Option<String>,
    /// An address to fetch from; personal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_url: Option<String>,
    /// The credential that the work is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creator_profile_id: Option<String>,
    /// Lower runs sooner.
    pub priority: i64,
    /// Not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Timestamp>,
    /// After this many it has failed.
    pub max_attempts: u32,
}

/// What may be asked of a job. Leases come as hashes.
#[derive(Debug, Clone, PartialEq)]
pub enum JobCommand {
    /// Queue it.
    Submit {
        /// What is to be done.
        spec: JobSpec,
        /// What is counted for it, in the same append.
        counted: Option<Unit>,
    },
    /// Take it under a new lease.
    Claim {
        /// Who takes it.
        worker: String,
        /// Hash of the new lease.
        lease: String,
        /// Now.
        now: Timestamp,
    },
    /// It is done.
    Complete {
        /// Hash of the lease held.
        lease: String,
        /// What came of it; personal.
        result: Value,
        /// Files that came of it; personal.
        outputs: Value,
    },
    /// It went wrong.
    Fail {
        /// Hash of the lease held.
        lease: String,
        /// What went wrong; personal.
        error: String,
        /// Whether another attempt makes sense.
        retryable: bool,
        /// When the next attempt may start.
        retry_at: Timestamp,
    },
    /// Its lease ran out.
    Lapse {
        /// Hash of the lease that ran out.
        lease: String,
        /// When the next attempt may start.
        retry_at: Timestamp,
    },
    /// Call it off.
    Cancel,
    /// Queue it again after it failed or was called off.
    Retry {
        /// What is counted for it, in the same append.
        counted: Option<Unit>,
    },
}

/// What happened to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum JobEvent {
    /// Queued.
    Submitted {
        /// What is to be done.
        #[serde(flatten)]
        spec: JobSpec,
        /// What was counted for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        counted: Option<Unit>,
    },
    /// A worker took it.
    Claimed {
        /// Which attempt this is, from 1.
        attempt: u32,
        /// Who took it.
        worker: String,
        /// Hash of its lease.
        lease: String,
    },
    /// The lease ran out.
    Lapsed {
        /// Which attempt that was.
        attempt: u32,
        /// When the next may start; absent when that was the last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at: Option<Timestamp>,
    },
    /// Done.
    Completed {
        /// Which attempt that was.
        attempt: u32,
        /// What came of it; personal.
        #[serde(default)]
        result: Value,
        /// Files that came of it; personal.
        #[serde(default)]
        outputs: Value,
    },
    /// An attempt failed.
    Failed {
        /// Which attempt that was.
        attempt: u32,
        /// What went wrong; personal.
        error: String,
        /// When the next may start; absent when it failed for good.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at: Option<Timestamp>,
    },
    /// Queued again by its owner.
    Retried {
        /// Where it waits; so that whoever did not keep the job knows.
        queue: String,
        /// Its new priority.
        priority: i64,
        /// What was counted for it, once more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        counted: Option<Unit>,
    },
    /// Called off.
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
                priority,
                counted,
            } => {
                json!({"queue": queue, "priority": priority, "counted": counted})
            }
            Self::Cancelled => json!({}),
        }
    }
}

/// The priority of a job that its owner queued again (contract, section 5).
const RETRY_PRIORITY: i64 = 5;

/// How long until attempt `attempts + 1` may start: 2 s · 2^(n-1), capped at 10 minutes, then spread over
/// the upper half by `chance` in 0..1, so that jobs which failed together do not come back together.
pub fn backoff_millis(attempts: u32, chance: f64) -> i64 {
    let full = 2000_i64
        .saturating_mul(1 << attempts.saturating_sub(1).min(20))
        .min(600_000);
    let half = full / 2;
    half + (half as f64 * chance.clamp(0.0, 1.0)) as i64
}

impl Job {
    /// What is to be done, if anything ever was.
    pub fn spec(&self) -> Option<&JobSpec> {
        match self {
            Self::Absent => None,
            Self::Waiting { spec, .. }
            | Self::Running { spec, .. }
            | Self::Finished { spec, .. } => Some(spec),
        }
    }

    /// Its status at `now`, in the contract's words; a job that is only being submitted counts as queued.
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

    /// Which attempt is running or was the last made.
    pub fn attempts(&self) -> u32 {
        match self {
            Self::Waiting { attempts, .. } => *attempts,
            Self::Running { attempt, .. } => *attempt,
            Self::Absent | Self::Finished { .. } => 0,
        }
    }

    /// What happens when this is asked.
    pub fn decide(&self, command: JobCommand) -> Result<Vec<JobEvent>, Refusal> {
        match command {
            JobCommand::Submit { spec, counted } => match self.spec() {
                None => Ok(vec![JobEvent::Submitted { spec, counted }]),
                Some(before) if *before == spec => Ok(vec![]),
                Some(_) => Err(job_exists()),
            },
            JobCommand::Claim { worker, lease, now } => match self {
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
            },
            JobCommand::Complete {
                lease,
                result,
                outputs,
            } => match self {
                Self::Finished {
                    ending: Ending::Completed,
                    lease: Some(held),
                    ..
                } if *held == lease => Ok(vec![]),
                _ => Ok(vec![JobEvent::Completed {
                    attempt: self.held_by(&lease)?,
                    result,
                    outputs,
                }]),
            },
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
            JobCommand::Cancel => match self {
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
            },
            JobCommand::Retry { counted } => match self {
                Self::Finished {
                    ending: Ending::Failed | Ending::Cancelled,
                    spec,
                    ..
                } => Ok(vec![JobEvent::Retried {
                    queue: spec.queue.clone(),
                    priority: RETRY_PRIORITY,
                    counted,
                }]),
                Self::Absent => Err(Refusal::not_found("job")),
                _ => Err(Refusal::conflict(
                    "not_failed",
                    "Only a failed or cancelled job can be retried",
                )),
            },
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
                "This lease is not the job's present one; claim it again",
            )),
        }
    }

    fn may_try_again(&self, attempt: u32) -> bool {
        self.spec().is_some_and(|spec| attempt < spec.max_attempts)
    }

    /// What goes back when this happens to it: the work came to nothing, and the user did not call it off under the worker's
    /// hands. Asked of the job as it was before.
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

    /// Folds what happened.
    pub fn evolve(&mut self, event: JobEvent) {
        let (spec, attempts, held, unit) = match std::mem::take(self) {
            Self::Absent => match event {
                JobEvent::Submitted { spec, counted } => {
                    let not_before = spec.run_at;
                    *self = Self::Waiting {
                        spec,
                        attempts: 0,
                        not_before,
                        counted,
                    };
                    return;
                }
                _ => return,
            },
            Self::Waiting {
                spec,
                attempts,
                counted,
                ..
            } => (spec, attempts, None, counted),
            Self::Running {
                spec,
                attempt,
                lease,
                counted,
            } => (spec, attempt, Some(lease), counted),
            Self::Finished { spec, lease, .. } => (spec, 0, lease, None),
        };
        let waiting_or_failed = |spec, retry_at: Option<Timestamp>, lease| match retry_at {
            Some(at) => Self::Waiting {
                spec,
                attempts,
                not_before: Some(at),
                counted: unit,
            },
            None => Self::Finished {
                spec,
                ending: Ending::Failed,
                lease,
            },
        };
        *self = match event {
            JobEvent::Submitted { counted, .. } => Self::Waiting {
                spec,
                attempts,
                not_before: None,
                counted,
            },
            JobEvent::Claimed { attempt, lease, .. } => Self::Running {
                spec,
                attempt,
                lease,
                counted: unit,
            },
            JobEvent::Lapsed { retry_at, .. } | JobEvent::Failed { retry_at, .. } => {
                waiting_or_failed(spec, retry_at, held)
            }
            JobEvent::Completed { .. } => Self::Finished {
                spec,
                ending: Ending::Completed,
                lease: held,
            },
            // The spec stays as it was submitted, so that submitting the same again is still the same.
            JobEvent::Retried { counted, .. } => Self::Waiting {
                spec,
                attempts: 0,
                not_before: None,
                counted,
            },
            JobEvent::Cancelled => Self::Finished {
                spec,
                ending: Ending::Cancelled,
                lease: None,
            },
        };
    }
}

/// The id belongs to another job, of this user or of somebody else.
pub fn job_exists() -> Refusal {
    Refusal::conflict(
        "job_exists",
        "There is another job with this `jobId`; leave it out, or send a fresh one",
    )
}

#[cfg(test)]
mod tests;
