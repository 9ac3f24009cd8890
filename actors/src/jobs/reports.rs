//! What workers report of the jobs that they hold: that they go on, or how an attempt ended.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use genie_events::{
    JobId, Metadata, Now, Refusal, User, UserCommand, UserId,
    job::{Job, JobCommand, JobSpec, backoff_millis},
    user::Recall,
};
use genie_log::{
    LogError, Work, clock,
    keys::sha256_hex,
    leases::{Lease, LeaseKind, LeaseRow, MESSAGE, Renewal},
};
use serde_json::Value;

use super::JobBoard;
use crate::{
    WriteError,
    caller::CommandContext,
    users::{Plan, PlanNote, Receipt},
};

/// The end of an attempt, in its worker's words.
#[derive(Debug, Clone)]
pub enum AttemptEnd {
    Completed {
        result: Value,
        /// Files that the worker made.
        outputs: Value,
    },
    Failed {
        error: String,
        /// A word for programs.
        code: Option<String>,
        /// False when another attempt makes no sense.
        retryable: bool,
    },
    /// The worker gives the job back, and the attempt does not count.
    Released,
}

/// The end of one attempt among several that are reported together.
#[derive(Debug, Clone)]
pub struct ReportedEnd {
    pub job: JobId,
    /// In the clear.
    pub lease: String,
    pub end: AttemptEnd,
}

/// The heartbeat of one job among several that are reported together.
#[derive(Debug, Clone)]
pub struct ReportedBeat {
    pub job: JobId,
    /// In the clear.
    pub lease: String,
    /// In percent.
    pub progress: Option<i64>,
    /// What the worker says of its work.
    pub message: Option<String>,
}

/// A job that a worker holds.
#[derive(Debug)]
pub struct HeldJob {
    pub owner: UserId,
    pub spec: JobSpec,
}

/// What became of each of several reports, and the position that reads must have reached to see it.
type Answers = (Vec<Result<(), Refusal>>, u64);

impl JobBoard {
    /// A worker's heartbeat: `None` when its lease is not the present one.
    pub async fn heartbeat(
        &self,
        job: &JobId,
        lease: &str,
        progress: Option<i64>,
        message: Option<String>,
    ) -> Result<Option<Lease>, WriteError> {
        let beat = ReportedBeat {
            job: *job,
            lease: lease.to_owned(),
            progress,
            message,
        };
        Ok(self.heartbeats(&[beat]).await?.pop().flatten())
    }

    /// Heartbeats of many jobs, by one statement. Answers each lease in its place: `None` for one that is not the
    /// present one.
    pub async fn heartbeats(
        &self,
        beats: &[ReportedBeat],
    ) -> Result<Vec<Option<Lease>>, WriteError> {
        let messages = self.sealed_messages(beats).await?;
        let renewal = |(beat, message): (&ReportedBeat, Option<Vec<u8>>)| Renewal {
            id: beat.job.to_string(),
            holder: sha256_hex(beat.lease.as_bytes()),
            progress: beat.progress,
            message,
        };
        let renewals: Vec<Renewal> = beats.iter().zip(messages).map(renewal).collect();
        let asked: Vec<(String, String)> = renewals
            .iter()
            .map(|renewal| (renewal.id.clone(), renewal.holder.clone()))
            .collect();
        let until = self.lease_end();
        let leases = self.0.log.leases();
        let renewed = leases.renew(LeaseKind::Job, renewals, until).await;
        if renewed.is_err() {
            self.0.renewals_fail.store(true, Ordering::SeqCst);
        }
        let renewed: HashMap<(String, String), Lease> = renewed?
            .into_iter()
            .map(|lease| ((lease.id.clone(), lease.holder.clone()), lease))
            .collect();
        Ok(asked.iter().map(|key| renewed.get(key).cloned()).collect())
    }

    /// The message of each heartbeat, sealed under the key of its job's owner. A job that does not run has no owner
    /// here, and a forgotten owner no key: their messages are left out.
    async fn sealed_messages(
        &self,
        beats: &[ReportedBeat],
    ) -> Result<Vec<Option<Vec<u8>>>, WriteError> {
        let speaking = beats.iter().filter(|beat| beat.message.is_some());
        let jobs: Vec<JobId> = speaking.map(|beat| beat.job).collect();
        let mut keys = HashMap::with_capacity(jobs.len());
        if !jobs.is_empty() {
            for (job, owner) in self.owners_of_running(&jobs).await? {
                match self.0.log.keys().live(owner).await {
                    Ok(of_owner) => _ = keys.insert(job, of_owner),
                    Err(LogError::Forgotten { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let sealed = |beat: &ReportedBeat| {
            let text = beat.message.as_deref()?;
            Some(keys.get(&beat.job)?.seal_text(MESSAGE, text))
        };
        Ok(beats.iter().map(sealed).collect())
    }

    /// The work of a running job, for the worker that holds it by this lease.
    pub async fn held(&self, job: JobId, lease: &str) -> Result<Option<HeldJob>, WriteError> {
        let leases = self.0.log.leases();
        let found = leases.get(LeaseKind::Job, &job.to_string()).await?;
        let hash = sha256_hex(lease.as_bytes());
        match found.filter(|found| found.holder == hash && !found.cancelled) {
            Some(lease) => Ok(Some(HeldJob {
                owner: lease.user,
                spec: self.spec(lease.user, job).await?,
            })),
            None => Ok(None),
        }
    }

    /// The owners of the jobs among these that run, in any order.
    pub async fn owners_of_running(
        &self,
        jobs: &[JobId],
    ) -> Result<Vec<(JobId, UserId)>, WriteError> {
        let ids = jobs.iter().map(JobId::to_string).collect();
        let leases = self.0.log.leases().of(LeaseKind::Job, ids).await?;
        let owner = |lease: &Lease| Some((lease.id.parse().ok()?, lease.user));
        Ok(leases.iter().filter_map(owner).collect())
    }

    /// Ends a worker's attempt. Only the present lease may.
    pub async fn end_attempt(
        &self,
        owner: UserId,
        job: JobId,
        lease: &str,
        end: AttemptEnd,
        context: impl Into<CommandContext>,
    ) -> Result<Receipt, WriteError> {
        let hash = sha256_hex(lease.as_bytes());
        let spread = clock::chance();
        let board = self.clone();
        let command = move |state: &User| board.ending(state, job, &hash, end.clone(), spread);
        self.end(owner, job, context, vec![], command).await
    }

    /// Ends attempts of one owner's jobs, by one append. Each may be refused alone.
    pub async fn end_attempts(
        &self,
        owner: UserId,
        ends: Vec<ReportedEnd>,
        metadata: Metadata,
    ) -> Result<Answers, WriteError> {
        let mut answers: Vec<Option<Result<(), Refusal>>> = vec![None; ends.len()];
        let mut position = 0;
        let mut left: Vec<(usize, ReportedEnd)> = ends.into_iter().enumerate().collect();
        while !left.is_empty() {
            // A second report of a job is decided on what the first left in the log.
            let mut jobs = HashSet::new();
            let (now, later) = left.into_iter().partition(|(_, end)| jobs.insert(end.job));
            let (places, ends): (Vec<usize>, Vec<ReportedEnd>) = Vec::into_iter(now).unzip();
            let (answered, at) = self.end_together(owner, ends, metadata.clone()).await?;
            for (place, answer) in places.into_iter().zip(answered) {
                answers[place] = Some(answer);
            }
            position = position.max(at);
            left = later;
        }
        let unanswered = || WriteError::Internal("a report has no answer".into());
        let answers = answers
            .into_iter()
            .map(|answer| answer.ok_or_else(unanswered))
            .collect::<Result<_, _>>()?;
        Ok((answers, position))
    }

    async fn end_together(
        &self,
        owner: UserId,
        ends: Vec<ReportedEnd>,
        metadata: Metadata,
    ) -> Result<Answers, WriteError> {
        let recalls = ends.iter().map(|end| Recall::Job(end.job)).collect();
        let spread = clock::chance();
        let board = self.clone();
        let caused_by = metadata.clone();
        let ends: Vec<(JobId, String, AttemptEnd)> = ends
            .into_iter()
            .map(|end| (end.job, sha256_hex(end.lease.as_bytes()), end.end))
            .collect();
        let planner = move |state: &User, now: Now| {
            let command = |(job, lease, end): &(JobId, String, AttemptEnd)| {
                UserCommand::Job(*job, board.ending(state, *job, lease, end.clone(), spread))
            };
            let commands = ends.iter().map(command).collect();
            let decided = state.decide_in_turn(&now, &caused_by, commands);
            let mut plan = Plan::default();
            let mut answers = Vec::with_capacity(ends.len());
            for ((job, ..), decided) in ends.iter().zip(decided) {
                answers.push(decided.map(|changes| {
                    if !changes.is_empty() {
                        plan.work.push(drop_lease(*job));
                    }
                    plan.changes.extend(changes);
                }));
            }
            plan.note = PlanNote::Each(answers);
            Ok(plan)
        };
        let users = &self.0.users;
        let done = users.plan_recalling(owner, recalls, metadata, Arc::new(planner));
        let done = done.await?;
        match done.note {
            PlanNote::Each(answers) => Ok((answers, done.position)),
            _ => Err(WriteError::Internal("reports left no answers".into())),
        }
    }

    fn ending(
        &self,
        state: &User,
        job: JobId,
        lease: &str,
        end: AttemptEnd,
        spread: f64,
    ) -> JobCommand {
        let lease = lease.to_owned();
        match end {
            AttemptEnd::Completed { result, outputs } => JobCommand::Complete {
                lease,
                result,
                outputs,
            },
            AttemptEnd::Failed {
                error,
                code,
                retryable,
            } => {
                let attempts = state.job(&job).map_or(1, Job::attempts);
                let pause = backoff_millis(attempts, spread);
                JobCommand::Fail {
                    lease,
                    error,
                    code,
                    retryable,
                    retry_at: self.0.log.clock().now().plus_millis(pause),
                }
            }
            AttemptEnd::Released => JobCommand::Release { lease },
        }
    }

    /// Ends an attempt by this command, under these conditions.
    pub(super) async fn end(
        &self,
        owner: UserId,
        job: JobId,
        context: impl Into<CommandContext>,
        conditions: Vec<Work>,
        command: impl Fn(&User) -> JobCommand + Send + Sync + 'static,
    ) -> Result<Receipt, WriteError> {
        let planner = move |state: &User, now| {
            let changes = state.decide(now, UserCommand::Job(job, command(state)))?;
            let mut work = conditions.clone();
            work.push(drop_lease(job));
            Ok(Plan {
                changes,
                work,
                ..Plan::default()
            })
        };
        self.0
            .users
            .plan(owner, Some(job), context, Arc::new(planner))
            .await
    }
}

fn drop_lease(job: JobId) -> Work {
    Work::Lease(LeaseRow::Drop {
        kind: LeaseKind::Job,
        id: job.to_string(),
    })
}
