//! Jobs that are queued, one or many. Many are one command to their user's actor, and one append.

use std::sync::Arc;

use genie_events::{
    JobId, Now, Refusal, RefusalKind, Timestamp, User, UserCommand, UserId,
    job::{Job, JobSpec},
    user::{Recall, with_counts_together},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::JobBoard;
use crate::{WriteError, caller::CommandContext, users::Plan};

/// A job to be queued.
#[derive(Debug, Clone)]
pub struct NewSubmission {
    /// A fresh id, or the one that follows from the job's name.
    pub job: JobId,
    pub spec: JobSpec,
    /// Refuses a job that is new: it names a file that is not its user's.
    pub foreign: Option<Refusal>,
}

/// A job that is queued, by this request or an earlier one for the same.
#[derive(Debug)]
pub struct SubmittedJob {
    pub job: JobId,
    /// In the words of docs/api.md, Jobs.
    pub status: String,
    /// The position that reads must have reached to see it.
    pub position: u64,
}

/// The answer to each job of a batch, in order.
#[derive(Debug)]
pub struct SubmittedBatch {
    pub answers: Vec<BatchAnswer>,
    /// The position that reads must have reached to see them.
    pub position: u64,
}

/// What became of a job of a batch. An idempotency key keeps it, a refusal by its words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchAnswer {
    Queued(SubmitOutcome),
    Refused(BatchRefusal),
}

/// The outcome that the answer to a submission is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmitOutcome {
    pub job: JobId,
    /// In the words of docs/api.md, Jobs.
    pub status: String,
}

/// Why a job of a batch was not queued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRefusal {
    pub code: String,
    pub sentence: String,
    /// Of a refused quota: true when the limit is used up, false when it is zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_in_tier: Option<bool>,
}

impl From<Refusal> for BatchRefusal {
    fn from(refusal: Refusal) -> Self {
        let is_in_tier = match refusal.kind {
            RefusalKind::Quota { in_tier, .. } => Some(in_tier),
            _ => None,
        };
        Self {
            code: refusal.code.to_owned(),
            sentence: refusal.sentence,
            is_in_tier,
        }
    }
}

impl NewSubmission {
    /// Refuses a new job that names a file of somebody else. What a job named when it was first submitted may be gone
    /// by now.
    fn check_files(&self, state: &User) -> Result<(), Refusal> {
        match &self.foreign {
            Some(foreign) if matches!(state.job(&self.job), None | Some(Job::Absent)) => {
                Err(foreign.clone())
            }
            _ => Ok(()),
        }
    }

    /// The answer, from the state before.
    fn outcome(&self, state: &User, moment: Timestamp) -> SubmitOutcome {
        let status = match state.job(&self.job) {
            None | Some(Job::Absent) if self.spec.run_at.is_some_and(|at| at > moment) => "delayed",
            None => Job::Absent.status(moment),
            Some(before) => before.status(moment),
        };
        SubmitOutcome {
            job: self.job,
            status: status.to_owned(),
        }
    }

    fn command(&self) -> UserCommand {
        UserCommand::SubmitJob(self.job, self.spec.clone())
    }

    /// Only a named job may have been there before and have ended, which the log alone knows. The files that a job
    /// names may have gone since they were looked up.
    fn recalls(&self) -> impl Iterator<Item = Recall> {
        let is_named = self.spec.name.is_some();
        let job = is_named.then_some(Recall::Job(self.job));
        let files = self.spec.file_ids().into_iter();
        job.into_iter().chain(files.map(Recall::NamedFile))
    }
}

impl JobBoard {
    /// Queues a job. The same again is the same job, whatever became of it meanwhile.
    pub async fn submit(
        &self,
        user: UserId,
        job: NewSubmission,
        context: impl Into<CommandContext>,
    ) -> Result<SubmittedJob, WriteError> {
        let recalls = job.recalls().collect();
        let planner = move |state: &User, now: Now| {
            let moment = now.moment;
            let changes = state.decide(now, job.command())?;
            if !changes.is_empty() {
                job.check_files(state)?;
            }
            Ok(Plan {
                changes,
                outcome: json!(job.outcome(state, moment)),
                ..Plan::default()
            })
        };
        let users = &self.0.users;
        let done = users.plan_recalling(user, recalls, context, Arc::new(planner));
        let done = done.await?;
        let SubmitOutcome { job, status } = done.outcome("a queued job")?;
        Ok(SubmittedJob {
            job,
            status,
            position: done.position,
        })
    }

    /// Queues many jobs by one append. Each may be refused alone, unless the batch is `atomic`: then the first refusal
    /// is the answer, and nothing is queued.
    pub async fn submit_batch(
        &self,
        user: UserId,
        jobs: Vec<NewSubmission>,
        atomic: bool,
        context: CommandContext,
    ) -> Result<SubmittedBatch, WriteError> {
        let recalls = jobs.iter().flat_map(NewSubmission::recalls).collect();
        let caused_by = context.metadata.clone();
        let planner = move |state: &User, now: Now| {
            let checks: Vec<_> = jobs.iter().map(|job| job.check_files(state)).collect();
            let good = jobs.iter().zip(&checks).filter(|(_, check)| check.is_ok());
            let commands = good.map(|(job, _)| job.command()).collect();
            let mut decided = state.decide_in_turn(&now, &caused_by, commands).into_iter();
            let mut changes = Vec::new();
            let mut answers = Vec::with_capacity(jobs.len());
            for (n, (job, check)) in jobs.iter().zip(checks).enumerate() {
                let decision = check.and_then(|()| {
                    let decision = decided.next();
                    decision.expect("there is a decision on each command")
                });
                answers.push(match decision {
                    Ok(made) => {
                        changes.extend(made);
                        BatchAnswer::Queued(job.outcome(state, now.moment))
                    }
                    Err(refusal) if atomic => return Err(of_job(n, refusal)),
                    Err(refusal) => BatchAnswer::Refused(refusal.into()),
                });
            }
            Ok(Plan {
                changes: with_counts_together(changes),
                outcome: json!(answers),
                ..Plan::default()
            })
        };
        let users = &self.0.users;
        let done = users.plan_recalling(user, recalls, context, Arc::new(planner));
        let done = done.await?;
        Ok(SubmittedBatch {
            answers: done.outcome("a batch of jobs")?,
            position: done.position,
        })
    }
}

/// The same refusal, with the place of the job in its sentence.
fn of_job(n: usize, refusal: Refusal) -> Refusal {
    Refusal {
        sentence: format!("`jobs[{n}]`: {}", refusal.sentence),
        ..refusal
    }
}
