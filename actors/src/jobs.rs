//! The job board follows the log and knows which jobs wait. It hands them out fairly and turns time into commands.
//! Invariant: a claim counts only once the append of the job's owner has accepted it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::select_all;

use genie_events::{
    BlobId, Event, JobId, JobName, Metadata, Now, Refusal, StreamId, StreamKind, Timestamp, User,
    UserCommand, UserId,
    job::{Job, JobCommand, JobEvent, JobSpec, backoff_millis},
    job_operation::QUEUES,
};
use genie_log::leases::LeaseRow;
use genie_log::{
    Log, LogError, StoredRow, Work, clock,
    keys::sha256_hex,
    leases::{Lease, LeaseKind},
    read::JobStep,
    unfinished,
};
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use tokio::{sync::Notify, time::Instant};
use tracing::{error, warn};

use crate::{
    WriteError,
    caller::CommandContext,
    users::{Plan, PlanNote, Receipt, Users},
};

mod expired_leases;
mod queues;
pub(crate) mod stream;
use queues::{JobOffer, JobQueues};

/// A claim hands out no further job once the `params` of its jobs have so many bytes.
const CLAIM_BYTES: usize = 1 << 20;
/// The pause after the log could not be read.
const AWAY: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub struct JobBoard(Arc<Inner>);

struct Inner {
    log: Log,
    users: Users,
    queues: Mutex<JobQueues>,
    state: Mutex<BoardState>,
    /// For each queue the claims that wait for a job of it.
    changed: BTreeMap<&'static str, Notify>,
    lease: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoardState {
    /// The unfinished jobs are being read.
    Starting,
    /// The board follows the log and hands out jobs.
    Ready,
    /// The unfinished jobs or the log can't be read.
    Away,
}

impl BoardState {
    /// The word of `/readyz`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Away => "away",
        }
    }
}

impl std::fmt::Debug for JobBoard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JobBoard")
    }
}

/// A job handed to a worker.
#[derive(Debug)]
pub struct JobClaim {
    pub job: JobId,
    pub user: UserId,
    /// The work, but for its `params`.
    pub spec: JobSpec,
    /// As JSON: parsed, they may take sixteen times the room.
    pub params: Box<RawValue>,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// The lease in the clear, which the worker keeps to itself.
    pub lease: String,
    pub lease_expires_at: Timestamp,
    /// The position of the fact.
    pub position: u64,
}

/// A job that a worker holds.
#[derive(Debug)]
pub struct HeldJob {
    pub owner: UserId,
    pub spec: JobSpec,
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

/// A job that its owner cancelled or queued again.
#[derive(Debug)]
pub struct ChangedJob {
    pub job: JobId,
    /// The position that reads must have reached to see it.
    pub position: u64,
}

impl ChangedJob {
    fn of(done: &Receipt) -> Result<Self, WriteError> {
        Ok(Self {
            job: done.outcome("a changed job")?,
            position: done.position,
        })
    }
}

/// The outcome that the answer to a submission is made from.
#[derive(Serialize, Deserialize)]
struct SubmitOutcome {
    job: JobId,
    status: String,
}

#[derive(Debug, Clone)]
pub enum AttemptEnd {
    Completed {
        result: Value,
        /// Files that the worker made.
        outputs: Value,
    },
    Failed {
        error: String,
        /// False when another attempt makes no sense.
        retryable: bool,
    },
}

impl JobBoard {
    /// Leases last for `lease` unless they are renewed.
    pub fn new(log: Log, users: Users, lease: Duration) -> Self {
        Self(Arc::new(Inner {
            log,
            users,
            queues: Mutex::default(),
            state: Mutex::new(BoardState::Starting),
            changed: QUEUES.map(|queue| (queue, Notify::new())).into(),
            lease,
        }))
    }

    /// Follows the log for ever. Spawn it on the runtime that owns the store's connections.
    pub async fn follow(self) {
        let mut follower = loop {
            match self.start().await {
                Ok(follower) => break follower,
                Err(error) => {
                    self.is(BoardState::Away);
                    warn!(%error, "job board: start failed; trying again");
                    tokio::time::sleep(AWAY).await;
                }
            }
        };
        self.is(BoardState::Ready);
        while let Some(rows) = follower.next_or_end("job board").await {
            self.see(&rows);
        }
        self.is(BoardState::Away);
    }

    fn is(&self, state: BoardState) {
        *self.0.state.lock() = state;
    }

    pub fn state(&self) -> BoardState {
        *self.0.state.lock()
    }

    /// The number of jobs that wait for a worker now.
    pub fn all_waiting(&self) -> usize {
        let board = self.lock();
        QUEUES.into_iter().map(|queue| board.count(queue)).sum()
    }

    /// Reads the working table page by page. It holds at least what the log held at `head`. Rows beyond the head come
    /// again from the log, and their sequence shows it.
    async fn start(&self) -> Result<genie_log::follow::Follower, LogError> {
        let head = self.0.log.reader().head();
        let unfinished = self.0.log.unfinished();
        let mut board = JobQueues::default();
        let mut after = None;
        loop {
            let page = unfinished.page(after).await?;
            page.iter().for_each(|row| board.load(row));
            match page.last() {
                Some(last) if page.len() == unfinished::PAGE => after = Some((last.user, last.job)),
                _ => break,
            }
        }
        *self.lock() = board;
        self.0.changed.values().for_each(Notify::notify_waiters);
        Ok(self.0.log.reader().follow(head))
    }

    fn see(&self, rows: &[Arc<StoredRow>]) {
        let mut steps = Vec::new();
        for row in rows.iter().filter(|row| row.kind == StreamKind::Job.code()) {
            match JobStep::of(row) {
                Ok(step) => steps.extend(step),
                Err(error) => error!(%error, "job board: skipped a damaged row"),
            }
        }
        self.take_note(&steps);
        // After the users' jobs: nothing of a forgotten user comes later.
        for row in rows.iter().filter(|row| row.is_forgotten()) {
            self.lock().drop_user(UserId(row.owner));
        }
    }

    fn take_note(&self, steps: &[JobStep]) {
        let mut board = self.lock();
        let news: BTreeSet<&str> = steps.iter().filter_map(|step| board.see(step)).collect();
        drop(board);
        news.into_iter().for_each(|queue| self.wake(queue));
    }

    /// Wakes the claims that wait for a job of this queue.
    fn wake(&self, queue: &str) {
        if let Some(changed) = self.0.changed.get(queue) {
            changed.notify_waiters();
        }
    }

    /// Ends when one of these queues has something new, from now on.
    fn news_of(&self, queues: &[&'static str]) -> impl Future<Output = ()> + Send {
        let waiting: Vec<_> = queues
            .iter()
            .filter_map(|queue| self.0.changed.get(queue))
            .map(|changed| Box::pin(changed.notified()))
            .collect();
        async move {
            if waiting.is_empty() {
                return std::future::pending().await;
            }
            select_all(waiting).await;
        }
    }

    /// The number of a queue's jobs that wait for a worker now.
    pub fn waiting(&self, queue: &str) -> usize {
        self.lock().count(queue)
    }

    /// Hands out up to `max` jobs of these queues. Waits up to `wait` for the first.
    pub async fn claim(
        &self,
        queues: Vec<&'static str>,
        worker: String,
        max: usize,
        wait: Duration,
        metadata: Metadata,
    ) -> Result<Vec<JobClaim>, WriteError> {
        let deadline = Instant::now() + wait;
        loop {
            let changed = self.news_of(&queues);
            let board = self.clone();
            let queues_now = queues.clone();
            let worker_now = worker.clone();
            let metadata_now = metadata.clone();
            // On a task of its own: a job taken off the board must end up somewhere even when the worker goes away.
            let handing = async move {
                board
                    .hand_out(&queues_now, &worker_now, max, metadata_now)
                    .await
            };
            let claimed = self.0.users.run_to_end(handing).await?;
            if !claimed.is_empty() {
                return Ok(claimed);
            }
            let now = self.0.log.clock().now();
            let due = self
                .lock()
                .next_due(&queues)
                .map(|at| Duration::from_micros(at.0.saturating_sub(now.0).max(0) as u64));
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(vec![]);
            }
            let pause = left.min(due.unwrap_or(left)).max(Duration::from_millis(5));
            let _ = tokio::time::timeout(pause, changed).await; // in time or not: look again
        }
    }

    async fn hand_out(
        &self,
        queues: &[&'static str],
        worker: &str,
        max: usize,
        metadata: Metadata,
    ) -> Result<Vec<JobClaim>, WriteError> {
        let mut claimed: Vec<JobClaim> = Vec::new();
        let mut bytes = 0;
        while claimed.len() < max && bytes < CLAIM_BYTES {
            let now = self.0.log.clock().now();
            let Some(candidate) = self.lock().take(queues, now) else {
                break;
            };
            match self.claim_one(&candidate, worker, metadata.clone()).await {
                Ok(job) => {
                    bytes += job.params.get().len();
                    claimed.push(job);
                }
                // The job no longer waits, or its owner is forgotten. The job is off the board, and comes back when
                // the log says that it waits again.
                Err(WriteError::Refused(_) | WriteError::Forgotten) => {}
                Err(WriteError::Internal(reason)) => {
                    error!(reason, job.id = %candidate.job, "job board: a job can't be handed out; others are")
                }
                Err(error) => {
                    self.lock().put_back(&candidate);
                    return if claimed.is_empty() {
                        Err(error)
                    } else {
                        Ok(claimed)
                    };
                }
            }
        }
        Ok(claimed)
    }

    async fn claim_one(
        &self,
        candidate: &JobOffer,
        worker: &str,
        metadata: Metadata,
    ) -> Result<JobClaim, WriteError> {
        let user = candidate.user;
        let job = candidate.job;
        // Before the append: a job that is claimed and cannot be read would wait for its lease to lapse.
        let mut spec = self.spec(user, job).await?;
        let params = to_raw_value(&spec.params).expect("a JSON value can be written");
        spec.params = Value::Null;
        let lease = hex::encode(clock::random_bytes::<32>());
        let hash = sha256_hex(lease.as_bytes());
        let expires_at = self.lease_end();
        let planner = {
            let worker = worker.to_owned();
            move |state: &User, now: Now| {
                let claim = JobCommand::Claim {
                    worker: worker.clone(),
                    lease: hash.clone(),
                    now: now.moment,
                };
                let changes = state.decide(now, UserCommand::Job(job, claim))?;
                let work = Work::Lease(LeaseRow::Put {
                    kind: LeaseKind::Job,
                    id: job.to_string(),
                    user,
                    stream_id: job.to_string(),
                    holder: hash.clone(),
                    expires_at,
                });
                let note = PlanNote::Job(Box::new(state.job(&job).cloned().unwrap_or_default()));
                Ok(Plan {
                    changes,
                    work: vec![work],
                    note,
                    ..Plan::default()
                })
            }
        };
        let done = self
            .0
            .users
            .plan(user, Some(job), metadata, Arc::new(planner))
            .await?;
        let PlanNote::Job(before) = &done.note else {
            return Err(WriteError::Internal("a claimed job left no note".into()));
        };
        let attempt = before.attempts() + 1;
        Ok(JobClaim {
            job,
            user,
            spec,
            params,
            attempt,
            lease,
            lease_expires_at: expires_at,
            position: done.position,
        })
    }

    /// Queues a job. The same again is the same job, whatever became of it meanwhile. The id of a job
    /// without a name must be a fresh one. `foreign` refuses a job that is new: it names a file that is
    /// not its user's.
    pub async fn submit(
        &self,
        user: UserId,
        job: JobId,
        spec: JobSpec,
        foreign: Option<Refusal>,
        context: impl Into<CommandContext>,
    ) -> Result<SubmittedJob, WriteError> {
        // Only a named job may have been there before and have ended, which the log alone knows.
        let earlier = spec.name.is_some().then_some(job);
        let planner = move |state: &User, now: Now| {
            let moment = now.moment;
            let changes = state.decide(now, UserCommand::SubmitJob(job, spec.clone()))?;
            if let Some(foreign) = foreign.as_ref().filter(|_| !changes.is_empty()) {
                return Err(foreign.clone());
            }
            let status = match state.job(&job) {
                None | Some(Job::Absent) if spec.run_at.is_some_and(|at| at > moment) => "delayed",
                None => Job::Absent.status(moment),
                Some(before) => before.status(moment),
            };
            let outcome = json!(SubmitOutcome {
                job,
                status: status.to_owned()
            });
            Ok(Plan {
                changes,
                outcome,
                ..Plan::default()
            })
        };
        let done = self
            .0
            .users
            .plan(user, earlier, context, Arc::new(planner))
            .await?;
        let SubmitOutcome { job, status } = done.outcome("a queued job")?;
        Ok(SubmittedJob {
            job,
            status,
            position: done.position,
        })
    }

    /// The name that the owner gave the job.
    pub async fn name(&self, owner: UserId, job: JobId) -> Result<Option<JobName>, WriteError> {
        Ok(self.spec(owner, job).await?.name)
    }

    /// The work as it was submitted, from the job's first fact.
    async fn spec(&self, owner: UserId, job: JobId) -> Result<JobSpec, WriteError> {
        let stream = StreamId::new(StreamKind::Job, job);
        let reader = self.0.log.reader();
        let first = reader.newest_events(owner, &stream, Some(2), 1).await?;
        match first.into_iter().next() {
            Some((_, Event::Job(JobEvent::Submitted { spec, .. }))) => Ok(spec),
            _ => Err(WriteError::Internal(
                "a job does not begin with its submission".into(),
            )),
        }
    }

    /// A job of this user that has not ended and names the file. It costs what the user's unfinished jobs do: their
    /// first facts are read.
    pub async fn naming(&self, owner: UserId, file: BlobId) -> Result<Option<JobId>, WriteError> {
        for job in self.0.log.unfinished().of_user(owner).await? {
            let spec = self.spec(owner, job).await?;
            let named = spec.named_files();
            if named.iter().any(|(_, id)| id.parse() == Ok(file)) {
                return Ok(Some(job));
            }
        }
        Ok(None)
    }

    /// Queues a failed or cancelled job again.
    pub async fn retry(
        &self,
        owner: UserId,
        job: JobId,
        context: impl Into<CommandContext>,
    ) -> Result<ChangedJob, WriteError> {
        let planner = move |state: &User, now| {
            Ok(Plan {
                changes: state.decide(now, UserCommand::RetryJob(job))?,
                outcome: json!(job),
                ..Plan::default()
            })
        };
        let done = self
            .0
            .users
            .plan(owner, Some(job), context, Arc::new(planner))
            .await?;
        ChangedJob::of(&done)
    }

    /// A worker's heartbeat: `None` when its lease is not the present one.
    pub async fn heartbeat(
        &self,
        job: &JobId,
        lease: &str,
        progress: Option<i64>,
    ) -> Result<Option<Lease>, WriteError> {
        let hash = sha256_hex(lease.as_bytes());
        let until = self.lease_end();
        Ok(self
            .0
            .log
            .leases()
            .renew(LeaseKind::Job, &job.to_string(), &hash, until, progress)
            .await?)
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

    /// The owner of a running job.
    pub async fn owner_of_running(&self, job: &JobId) -> Result<Option<UserId>, WriteError> {
        Ok(self
            .0
            .log
            .leases()
            .get(LeaseKind::Job, &job.to_string())
            .await?
            .map(|lease| lease.user))
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
        let log = self.0.log.clone();
        let spread = clock::chance();
        let command = move |state: &User| match end.clone() {
            AttemptEnd::Completed { result, outputs } => JobCommand::Complete {
                lease: hash.clone(),
                result,
                outputs,
            },
            AttemptEnd::Failed { error, retryable } => {
                let attempts = state.job(&job).map_or(1, Job::attempts);
                let retry_at = log
                    .clock()
                    .now()
                    .plus_millis(backoff_millis(attempts, spread));
                JobCommand::Fail {
                    lease: hash.clone(),
                    error,
                    retryable,
                    retry_at,
                }
            }
        };
        self.end(owner, job, context, vec![], command).await
    }

    /// Cancels a job. Its lease is void at once, and its worker learns of it by the next heartbeat.
    pub async fn cancel(
        &self,
        owner: UserId,
        job: JobId,
        context: impl Into<CommandContext>,
    ) -> Result<ChangedJob, WriteError> {
        let planner = move |state: &User, now| {
            let changes = state.decide(now, UserCommand::Job(job, JobCommand::Cancel))?;
            let work = vec![Work::Lease(LeaseRow::Cancel {
                kind: LeaseKind::Job,
                id: job.to_string(),
            })];
            Ok(Plan {
                changes,
                work,
                outcome: json!(job),
                ..Plan::default()
            })
        };
        let done = self
            .0
            .users
            .plan(owner, Some(job), context, Arc::new(planner))
            .await?;
        ChangedJob::of(&done)
    }

    async fn end(
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
            work.push(Work::Lease(LeaseRow::Drop {
                kind: LeaseKind::Job,
                id: job.to_string(),
            }));
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

    fn lease_end(&self) -> Timestamp {
        self.0
            .log
            .clock()
            .now()
            .plus_millis(i64::try_from(self.0.lease.as_millis()).unwrap_or(i64::MAX))
    }

    fn lock(&self) -> MutexGuard<'_, JobQueues> {
        self.0.queues.lock()
    }
}

#[cfg(test)]
mod tests;
