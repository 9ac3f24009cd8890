//! The job board follows the log and knows which jobs wait. It hands them out fairly and turns time into commands.
//! Invariant: a claim counts only once the append of the job's owner has accepted it.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use genie_events::{
    Event, JobId, JobName, Metadata, Now, StreamId, StreamKind, Timestamp, User, UserCommand,
    UserId,
    job::{JobCommand, JobEvent, JobSpec},
    job_operation::QUEUES,
    tier::Tier,
    user::Recall,
};
use genie_log::leases::LeaseRow;
use genie_log::{Log, LogError, StoredRow, Work, leases::LeaseKind, read::JobStep, unfinished};
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{error, warn};

use crate::{
    WriteError,
    caller::CommandContext,
    users::{Plan, Receipt, Users},
};

/// Jobs on their way to a worker.
mod claims;
mod expired_leases;
mod news;
/// The operations that a claim asks for.
pub mod operation_set;
/// The jobs that wait, and the order in which they start.
pub mod queues;
/// The time in which workers could renew their leases.
mod renewal_watch;
/// What workers report of the jobs that they hold.
mod reports;
pub(crate) mod stream;
/// Jobs that are queued, one or many.
mod submissions;

pub use claims::{HandedJobs, JobClaim};
pub use reports::{AttemptEnd, HeldJob, ReportedBeat, ReportedEnd};
pub use submissions::{
    BatchAnswer, BatchRefusal, NewSubmission, SubmitOutcome, SubmittedBatch, SubmittedJob,
};

use news::BoardNews;
use operation_set::{ClaimScope, OperationSet};
use queues::{JobNews, JobOffer, JobQueues, JobTimes, JobWait, OwnerStanding};

/// The pause after the log could not be read.
const AWAY: Duration = Duration::from_millis(500);
/// The board looks at the time at least so often, and at most.
const LOOK: Duration = Duration::from_millis(500);
const SHORTEST_LOOK: Duration = Duration::from_millis(1);
/// The longest pause, in milliseconds, after which an owner is asked again who could not be asked.
const OWNER_PAUSE_MS: i64 = 60_000;
/// The same while the store is away: then nobody can be asked, and all of them soon can be again.
const AWAY_PAUSE_MS: i64 = 1000;
/// A job that could not be read is left out for this long, in milliseconds, so that its owner's other jobs go on.
const UNREADABLE_PAUSE_MS: i64 = 600_000;

#[derive(Clone)]
pub struct JobBoard(Arc<Inner>);

struct Inner {
    log: Log,
    users: Users,
    queues: Mutex<JobQueues>,
    state: watch::Sender<BoardState>,
    news: BoardNews,
    lease: Duration,
    /// A heartbeat failed since the leader last looked.
    renewals_fail: AtomicBool,
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

/// A job that was cancelled, queued again or rescheduled.
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

impl JobBoard {
    /// Leases last for `lease` unless they are renewed.
    pub fn new(log: Log, users: Users, lease: Duration) -> Self {
        Self(Arc::new(Inner {
            queues: Mutex::new(JobQueues::new(log.clock().now())),
            log,
            users,
            state: watch::Sender::new(BoardState::Starting),
            news: BoardNews::new(),
            lease,
            renewals_fail: AtomicBool::new(false),
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
        self.0.state.send_replace(state);
    }

    pub fn state(&self) -> BoardState {
        *self.0.state.borrow()
    }

    /// Ends when the board has read the unfinished jobs.
    pub async fn started(&self) {
        let mut states = self.0.state.subscribe();
        let is_ready = states.wait_for(|state| *state == BoardState::Ready);
        let _ = is_ready.await; // the sender lives as long as this board
    }

    /// The users with jobs on the board.
    pub fn owners(&self) -> Vec<UserId> {
        self.lock().owners()
    }

    /// Takes over how users stood a moment ago. What the log has said of a user since the start is newer.
    pub fn learn(&self, standings: &[OwnerStanding]) {
        let now = self.0.log.clock().now();
        let mut board = self.lock();
        standings
            .iter()
            .for_each(|standing| board.learn(standing, now));
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
        let mut board = JobQueues::new(self.0.log.clock().now());
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
        self.0.news.tell_all();
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
        let of_accounts = rows
            .iter()
            .filter(|row| row.kind == StreamKind::Account.code());
        of_accounts.for_each(|row| self.see_account(row));
        // After the users' jobs: nothing of a forgotten user comes later.
        let now = self.0.log.clock().now();
        for row in rows.iter().filter(|row| row.is_forgotten()) {
            self.lock().drop_user(UserId(row.owner), now);
        }
    }

    fn take_note(&self, steps: &[JobStep]) {
        let now = self.0.log.clock().now();
        let mut board = self.lock();
        let news: Vec<_> = steps
            .iter()
            .filter_map(|step| board.see(step, now))
            .collect();
        drop(board);
        steps
            .iter()
            .for_each(|step| self.0.news.tell_of_job(&step.job));
        for of_job in news {
            match of_job {
                JobNews::Ready(operation) => self.0.news.tell([operation]),
                JobNews::Later => self.0.news.tell_of_later(),
            }
        }
    }

    /// Parks the jobs of users who may not act, and takes them back.
    fn see_account(&self, row: &StoredRow) {
        let user = UserId(row.owner);
        let now = self.0.log.clock().now();
        match row.event_type.as_ref() {
            "account.suspended" | "account.forget_requested" => {
                let mut board = self.lock();
                board.knows(user);
                board.suspend(user, now);
            }
            "account.reactivated" | "account.forget_withdrawn" | "account.role_changed" => {
                let mut board = self.lock();
                board.knows(user);
                let back = board.resume(user);
                drop(board);
                self.0.news.tell(back.iter());
            }
            "account.tier_changed" => {
                let clear = row
                    .metadata()
                    .map(|metadata| metadata.clear)
                    .unwrap_or_default();
                let tier = clear.get("tier").and_then(Value::as_str);
                if let Some(tier) = tier.and_then(Tier::parse) {
                    self.lock().set_tier(user, tier);
                }
            }
            _ => {}
        }
    }

    /// Hands out what comes due, for ever. Spawn it.
    pub async fn keep_time(self) {
        loop {
            let pause = self.hand_on_due().clamp(SHORTEST_LOOK, LOOK);
            tokio::select! {
                () = self.0.log.clock().pause(pause) => {}
                () = self.0.news.sooner() => {}
            }
        }
    }

    /// Wakes claims for what is due. Answers the time until more is.
    fn hand_on_due(&self) -> Duration {
        let now = self.0.log.clock().now();
        let mut board = self.lock();
        let due = board.pass_time(now);
        let next = board.next_due();
        drop(board);
        self.0.news.tell(due);
        next.map_or(LOOK, |at| {
            Duration::from_micros(at.0.saturating_sub(now.0).max(0) as u64)
        })
    }

    /// Ends when the log says something new of this job, from now on.
    pub fn news_of_job(&self, job: JobId) -> impl Future<Output = ()> + Send + use<> {
        self.0.news.of_job(job)
    }

    /// How long the jobs of each queue waited and ran, lately.
    pub fn times(&self) -> Vec<(&'static str, JobTimes)> {
        let now = self.0.log.clock().now();
        self.lock().times(now)
    }

    /// The reason why a job waits, as far as this server's board knows.
    pub fn wait(&self, job: &JobId) -> Option<JobWait> {
        let now = self.0.log.clock().now();
        self.lock().wait(job, now)
    }

    /// The number of a queue's jobs that wait for a worker now.
    pub fn waiting(&self, queue: &str) -> usize {
        self.lock().count(queue)
    }

    /// Takes the next jobs off the board. When more jobs wait for such claims, the next claim is woken.
    fn next_offers(&self, scope: &ClaimScope, most: usize) -> Vec<JobOffer> {
        let now = self.0.log.clock().now();
        let mut board = self.lock();
        let due = board.pass_time(now);
        let offers: Vec<JobOffer> = (0..most).map_while(|_| board.take(scope)).collect();
        let more = if offers.is_empty() {
            OperationSet::default()
        } else {
            board.ready(scope)
        };
        drop(board);
        self.0.news.tell(due.into_iter().chain(more.iter()));
        offers
    }

    /// Decides what becomes of a job that was not handed out. Answers the error when the store is away.
    fn not_handed_out(&self, offer: &JobOffer, error: WriteError) -> Option<WriteError> {
        let now = self.0.log.clock().now();
        self.0.news.tell_of_later();
        let mut board = self.lock();
        match error {
            WriteError::Refused(refusal) if ["suspended", "leaving"].contains(&refusal.code) => {
                board.suspend(offer.user, now);
                board.put_back(offer);
                None
            }
            // The job no longer waits, or its owner is forgotten. The job is off the board, and comes back when the
            // log says that it waits again.
            WriteError::Refused(_) | WriteError::Forgotten => None,
            WriteError::Away(_) => {
                board.pass_over(offer.user, AWAY_PAUSE_MS, now);
                board.put_back(offer);
                Some(error)
            }
            WriteError::Internal(reason) => {
                board.pass_over(offer.user, OWNER_PAUSE_MS, now);
                board.put_off(offer, now.plus_millis(UNREADABLE_PAUSE_MS));
                drop(board);
                error!(reason, job.id = %offer.job, "job board: a job can't be handed out; others are");
                None
            }
            error => {
                board.pass_over(offer.user, OWNER_PAUSE_MS, now);
                board.put_back(offer);
                drop(board);
                warn!(%error, user.id = %offer.user, "job board: a job's owner could not be asked; others are");
                None
            }
        }
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

    /// Changes the priority or the time of a job that waits. What is absent stays.
    pub async fn reschedule(
        &self,
        owner: UserId,
        job: JobId,
        priority: Option<i64>,
        run_at: Option<Timestamp>,
        context: impl Into<CommandContext>,
    ) -> Result<ChangedJob, WriteError> {
        let planner = move |state: &User, now| {
            let command = UserCommand::RescheduleJob {
                job,
                priority,
                run_at,
            };
            Ok(Plan {
                changes: state.decide(now, command)?,
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

    /// Removes jobs of one owner that have ended, by one append. Answers the number of those that it removed.
    pub async fn remove(&self, owner: UserId, jobs: Vec<JobId>) -> Result<usize, WriteError> {
        let recalls = jobs.iter().copied().map(Recall::Job).collect();
        let metadata = Metadata::system();
        let by_system = metadata.clone();
        let planner = move |state: &User, now: Now| {
            let command = |job: &JobId| UserCommand::Job(*job, JobCommand::Remove);
            let commands = jobs.iter().map(command).collect();
            let decided = state.decide_in_turn(&now, &by_system, commands);
            // One that was queued again meanwhile stays.
            let changes = decided.into_iter().flatten().flatten().collect();
            Ok(Plan {
                changes,
                ..Plan::default()
            })
        };
        let users = &self.0.users;
        let removed = users.plan_recalling(owner, recalls, metadata, Arc::new(planner));
        Ok(removed.await?.changes.len())
    }

    /// A lease lasts for so long without a heartbeat.
    pub(crate) fn lease_time(&self) -> Duration {
        self.0.lease
    }

    fn lease_end(&self) -> Timestamp {
        self.0
            .log
            .store_clock()
            .now()
            .plus_millis(i64::try_from(self.0.lease.as_millis()).unwrap_or(i64::MAX))
    }

    fn lock(&self) -> MutexGuard<'_, JobQueues> {
        self.0.queues.lock()
    }
}

/// A claim while it is known to the board as that of a worker.
struct KnownClaim<'a> {
    board: &'a JobBoard,
    scope: &'a ClaimScope,
}

impl<'a> KnownClaim<'a> {
    fn begin(board: &'a JobBoard, scope: &'a ClaimScope) -> Self {
        board.lock().claim_began(scope);
        Self { board, scope }
    }
}

impl Drop for KnownClaim<'_> {
    fn drop(&mut self) {
        let now = self.board.0.log.clock().now();
        self.board.lock().claim_ended(self.scope, now);
    }
}

#[cfg(test)]
mod tests;
