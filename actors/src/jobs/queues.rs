//! The jobs that wait, by queue and user. Pure bookkeeping: it reads the log's readable part, and so needs nobody's
//! key. The order in which jobs start is in `line`, and the workers that are known in `workers`.

use std::collections::{BTreeSet, HashMap, HashSet};

use genie_events::{JobId, Timestamp, UserId, job_operation::QUEUES, tier::Tier};
use genie_log::{read::JobStep, unfinished::UnfinishedJob};
use serde_json::Value;

use super::operation_set::{ClaimScope, OperationNumber, OperationSet};

mod line;
mod times;
mod workers;
use line::{QueueLine, ReadyJob};
use times::QueueTimes;
use workers::KnownWorkers;

pub use times::{JobTimes, TimeSpread};

/// The first pause after which an owner that could not be asked is tried again. It doubles each time.
const FIRST_PAUSE_MS: i64 = 250;
/// A suspended owner is asked again after this time, in case a claim was refused just before the owner came back.
const SUSPENDED_PAUSE_MS: i64 = 600_000;

/// A job that may be handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobOffer {
    pub job: JobId,
    pub user: UserId,
    /// The number of the job's events that the board had seen when it handed the job out.
    sequence: u64,
}

/// An event's meaning for those that wait for jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobNews {
    /// A job with this operation may go now.
    Ready(OperationNumber),
    /// A job may go later.
    Later,
}

/// The reason why a job waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobWait {
    /// The owner is suspended, or about to be forgotten.
    UserSuspended,
    Until(Timestamp),
    /// No worker is known that does such jobs.
    NoWorker,
    /// It is not its turn. 1 is the next in its queue.
    Turn {
        place: usize,
    },
}

#[derive(Debug, Clone)]
struct JobEntry {
    user: UserId,
    operation: OperationNumber,
    priority: i64,
    /// The number of the submission or retry among its owner's events: the older goes first.
    submitted: u64,
    /// The number of the job's events that the board has seen.
    sequence: u64,
    place: JobPlace,
    /// When the job came to wait for a worker, or its attempt began, if this board saw it.
    since: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JobPlace {
    /// The job waits for a worker.
    Ready,
    /// The job waits for its time.
    Delayed(Timestamp),
    /// The job is being given to a worker that does these operations.
    Offered(OperationSet),
    /// A worker that does these operations has the job.
    Running(OperationSet),
}

/// A user with jobs on the board.
#[derive(Debug)]
struct JobOwner {
    jobs: HashSet<JobId>,
    /// The jobs of one turn.
    weight: u32,
    hold: Option<OwnerHold>,
    /// True once the log or the owner's actor has told whether the owner may act.
    is_known: bool,
    /// How often in a row the owner could not be asked.
    failures: u32,
}

/// How a user stood when it was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerStanding {
    pub user: UserId,
    /// False while the user is suspended, or about to be forgotten.
    pub may_act: bool,
    pub tier: Tier,
}

/// No job of an owner is handed out for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OwnerHold {
    reason: HoldReason,
    until: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HoldReason {
    /// The owner may not act. The log tells when that changes.
    Suspended,
    /// The owner could not be asked.
    PassedOver,
}

/// The board's memory: jobs that wait or run. Jobs that ended are dropped.
#[derive(Debug)]
pub struct JobQueues {
    jobs: HashMap<JobId, JobEntry>,
    /// Invariant: a user has an entry exactly while `jobs` has one of the user's.
    owners: HashMap<UserId, JobOwner>,
    /// In the order of [`QUEUES`].
    lines: [QueueLine; QUEUES.len()],
    /// Jobs whose time has not come.
    delayed: BTreeSet<(Timestamp, JobId)>,
    /// Owners on hold, and until when.
    holds: BTreeSet<(Timestamp, UserId)>,
    workers: KnownWorkers,
    times: QueueTimes,
}

impl JobQueues {
    /// A board that begins to look for workers at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self {
            jobs: HashMap::new(),
            owners: HashMap::new(),
            lines: Default::default(),
            delayed: BTreeSet::new(),
            holds: BTreeSet::new(),
            workers: KnownWorkers::new(now),
            times: QueueTimes::new(now),
        }
    }

    /// Takes a job from the working table.
    pub fn load(&mut self, row: &UnfinishedJob) {
        let Some(operation) = OperationNumber::parse(&row.operation) else {
            return;
        };
        let place = match (row.state.is_running, row.state.due) {
            (true, _) => JobPlace::Running(OperationSet::only(operation)),
            (false, Some(due)) => JobPlace::Delayed(due),
            (false, None) => JobPlace::Ready,
        };
        let entry = JobEntry {
            user: row.user,
            operation,
            priority: row.priority,
            submitted: row.submitted,
            sequence: row.state.sequence,
            place,
            since: None,
        };
        self.enter(row.job, entry);
    }

    /// Takes note of a job's event.
    pub fn see(&mut self, step: &JobStep, now: Timestamp) -> Option<JobNews> {
        let known = self.jobs.get(&step.job);
        if known.is_some_and(|known| known.sequence >= step.sequence) {
            return None; // seen before
        }
        match step.event_type.as_str() {
            "job.submitted" | "job.retried" => {
                let operation = step.clear.get("operation").and_then(Value::as_str);
                let operation = operation.and_then(OperationNumber::parse)?;
                self.forget(&step.job, now);
                let entry = JobEntry {
                    user: step.user,
                    operation,
                    priority: number(step, "priority").unwrap_or(10),
                    submitted: step.owner_seq,
                    sequence: step.sequence,
                    place: waiting_until(moment(step, "run_at")),
                    since: Some(now),
                };
                self.enter(step.job, entry);
                self.news_of(&step.job)
            }
            "job.claimed" => {
                let known = self.jobs.get(&step.job)?;
                let does = match known.place {
                    JobPlace::Offered(operations) => operations,
                    _ => OperationSet::only(known.operation),
                };
                if let Some(since) = known.since {
                    self.times.waited(line_of(known.operation), since, now);
                }
                self.change(step, now, |known| known.place = JobPlace::Running(does))
            }
            "job.lapsed" | "job.failed" => {
                if step.event_type == "job.failed" {
                    self.note_run(&step.job, now);
                }
                match moment(step, "retry_at") {
                    Some(at) => self.change(step, now, |known| known.place = JobPlace::Delayed(at)),
                    None => self.forget(&step.job, now), // a retry's event has all that the board needs
                }
            }
            "job.released" => self.change(step, now, |known| known.place = JobPlace::Ready),
            "job.rescheduled" => self.change(step, now, |known| {
                known.priority = number(step, "priority").unwrap_or(known.priority);
                known.place = waiting_until(moment(step, "run_at"));
            }),
            "job.completed" => {
                self.note_run(&step.job, now);
                self.forget(&step.job, now)
            }
            "job.cancelled" => self.forget(&step.job, now),
            _ => None,
        }
    }

    /// Notes how long the attempt ran that ends now.
    fn note_run(&mut self, job: &JobId, now: Timestamp) {
        if let Some(known) = self.jobs.get(job)
            && let (JobPlace::Running(_), Some(since)) = (known.place, known.since)
        {
            self.times.ran(line_of(known.operation), since, now);
        }
    }

    /// Takes the job out of its place, changes it, and puts it where it belongs now.
    fn change(
        &mut self,
        step: &JobStep,
        now: Timestamp,
        change: impl FnOnce(&mut JobEntry),
    ) -> Option<JobNews> {
        let mut entry = self.jobs.get(&step.job)?.clone();
        self.leave_place(&step.job, now);
        entry.sequence = step.sequence;
        entry.since = Some(now);
        change(&mut entry);
        self.jobs.insert(step.job, entry);
        self.take_place(&step.job);
        self.news_of(&step.job)
    }

    fn news_of(&self, job: &JobId) -> Option<JobNews> {
        let known = self.jobs.get(job)?;
        match known.place {
            JobPlace::Ready => Some(JobNews::Ready(known.operation)),
            JobPlace::Delayed(_) => Some(JobNews::Later),
            JobPlace::Offered(_) | JobPlace::Running(_) => None,
        }
    }

    fn enter(&mut self, job: JobId, entry: JobEntry) {
        let owner = self.owners.entry(entry.user).or_insert_with(|| JobOwner {
            jobs: HashSet::new(),
            weight: Tier::default().jobs_in_a_turn(),
            hold: None,
            is_known: false,
            failures: 0,
        });
        owner.jobs.insert(job);
        self.jobs.insert(job, entry);
        self.take_place(&job);
    }

    /// Drops a job, which is no news.
    fn forget(&mut self, job: &JobId, now: Timestamp) -> Option<JobNews> {
        self.leave_place(job, now);
        let known = self.jobs.remove(job)?;
        let owner = self.owners.get_mut(&known.user)?;
        owner.jobs.remove(job);
        if owner.jobs.is_empty() {
            self.lift_hold(known.user);
            self.owners.remove(&known.user);
        }
        None
    }

    fn take_place(&mut self, job: &JobId) {
        let Some(known) = self.jobs.get(job) else {
            return;
        };
        match known.place {
            JobPlace::Ready => {
                let (weight, on_hold) = match self.owners.get(&known.user) {
                    Some(owner) => (owner.weight, owner.hold.is_some()),
                    None => (1, false),
                };
                let line = &mut self.lines[line_of(known.operation)];
                line.put(known.user, known.ready(*job), weight, on_hold);
            }
            JobPlace::Delayed(at) => _ = self.delayed.insert((at, *job)),
            JobPlace::Offered(_) => {}
            JobPlace::Running(does) => self.workers.begin(does),
        }
    }

    fn leave_place(&mut self, job: &JobId, now: Timestamp) {
        let Some(known) = self.jobs.get(job) else {
            return;
        };
        match known.place {
            JobPlace::Ready => {
                let line = &mut self.lines[line_of(known.operation)];
                line.remove(known.user, &known.ready(*job));
            }
            JobPlace::Delayed(at) => _ = self.delayed.remove(&(at, *job)),
            JobPlace::Offered(_) => {}
            JobPlace::Running(does) => self.workers.end(does, now),
        }
    }

    fn set_place(&mut self, job: &JobId, place: JobPlace, now: Timestamp) {
        self.leave_place(job, now);
        if let Some(known) = self.jobs.get_mut(job) {
            known.place = place;
            known.since = Some(now);
        }
        self.take_place(job);
    }

    /// Drops all jobs of a user who was forgotten.
    pub fn drop_user(&mut self, user: UserId, now: Timestamp) {
        let theirs = self.owners.get(&user).map(|owner| owner.jobs.clone());
        for job in theirs.unwrap_or_default() {
            self.forget(&job, now);
        }
    }

    /// Takes the next job that the claim asks for off the board.
    pub fn take(&mut self, scope: &ClaimScope) -> Option<JobOffer> {
        let does = scope.operations();
        for (queue, operations) in scope.queues() {
            let Some(line) = QUEUES.iter().position(|name| *name == queue) else {
                continue;
            };
            let Some((user, job)) = self.lines[line].take(operations) else {
                continue;
            };
            let known = self.jobs.get_mut(&job)?;
            known.place = JobPlace::Offered(does);
            return Some(JobOffer {
                user,
                sequence: known.sequence,
                job,
            });
        }
        None
    }

    /// Puts back a job that could not be handed out, unless more became known of it meanwhile.
    pub fn put_back(&mut self, offer: &JobOffer) {
        self.put_offered(offer, JobPlace::Ready);
    }

    /// The same, of a job that can't be handed out before `at`.
    pub fn put_off(&mut self, offer: &JobOffer, at: Timestamp) {
        self.put_offered(offer, JobPlace::Delayed(at));
    }

    fn put_offered(&mut self, offer: &JobOffer, place: JobPlace) {
        let Some(known) = self.jobs.get_mut(&offer.job) else {
            return;
        };
        let is_as_offered =
            known.sequence == offer.sequence && matches!(known.place, JobPlace::Offered(_));
        if is_as_offered {
            known.place = place;
            self.take_place(&offer.job);
        }
    }

    /// The users with jobs here.
    pub fn owners(&self) -> Vec<UserId> {
        self.owners.keys().copied().collect()
    }

    /// Takes over how a user stands, unless more became known meanwhile. A tier that changed meanwhile is set right by
    /// the user's next claim.
    pub fn learn(&mut self, standing: &OwnerStanding, now: Timestamp) {
        let owner = self.owners.get(&standing.user);
        if owner.is_none_or(|owner| owner.is_known) {
            return;
        }
        self.set_tier(standing.user, standing.tier);
        if !standing.may_act {
            self.suspend(standing.user, now);
        }
    }

    /// Notes that it is known from here on whether the owner may act.
    pub fn knows(&mut self, user: UserId) {
        if let Some(owner) = self.owners.get_mut(&user) {
            owner.is_known = true;
        }
    }

    /// Notes that the owner was asked and answered, and with which tier.
    pub fn owner_answered(&mut self, user: UserId, tier: Tier) {
        if let Some(owner) = self.owners.get_mut(&user) {
            owner.failures = 0;
        }
        self.set_tier(user, tier);
        self.knows(user);
    }

    /// The tier decides the jobs of a turn, from the user's next turn on.
    pub fn set_tier(&mut self, user: UserId, tier: Tier) {
        let Some(owner) = self.owners.get_mut(&user) else {
            return;
        };
        let weight = tier.jobs_in_a_turn();
        if owner.weight != weight {
            owner.weight = weight;
            self.lines
                .iter_mut()
                .for_each(|line| line.set_weight(user, weight));
        }
    }

    /// Parks the jobs of a user who may not act, until [`Self::resume`].
    pub fn suspend(&mut self, user: UserId, now: Timestamp) {
        let hold = OwnerHold {
            reason: HoldReason::Suspended,
            until: now.plus_millis(SUSPENDED_PAUSE_MS),
        };
        self.hold(user, hold);
    }

    /// Passes over an owner who could not be asked: for longer each time, but never for longer than `longest`
    /// milliseconds.
    pub fn pass_over(&mut self, user: UserId, longest: i64, now: Timestamp) {
        let Some(owner) = self.owners.get_mut(&user) else {
            return;
        };
        if owner.hold.is_some() {
            return; // by another claim at the same time
        }
        let pause = FIRST_PAUSE_MS << owner.failures.min(16);
        owner.failures = owner.failures.saturating_add(1);
        let hold = OwnerHold {
            reason: HoldReason::PassedOver,
            until: now.plus_millis(pause.min(longest)),
        };
        self.hold(user, hold);
    }

    /// Hands out the jobs of an owner on hold again. Answers their operations.
    pub fn resume(&mut self, user: UserId) -> OperationSet {
        if !self.lift_hold(user) {
            return OperationSet::default();
        }
        let lines = self.lines.iter_mut();
        let operations = lines.map(|line| line.resume(user).iter().collect::<Vec<_>>());
        operations.flatten().collect()
    }

    fn hold(&mut self, user: UserId, hold: OwnerHold) {
        self.lift_hold(user);
        let Some(owner) = self.owners.get_mut(&user) else {
            return;
        };
        owner.hold = Some(hold);
        self.holds.insert((hold.until, user));
        self.lines.iter_mut().for_each(|line| line.hold(user));
    }

    /// True if the owner was on hold.
    fn lift_hold(&mut self, user: UserId) -> bool {
        let owner = self.owners.get_mut(&user);
        let Some(held) = owner.and_then(|owner| owner.hold.take()) else {
            return false;
        };
        self.holds.remove(&(held.until, user))
    }

    /// Does what is due by `now`. Answers the operations of which there is something new to hand out, once for each
    /// job that has come due.
    pub fn pass_time(&mut self, now: Timestamp) -> Vec<OperationNumber> {
        let mut news = Vec::new();
        while let Some(&(at, job)) = self.delayed.first()
            && at <= now
        {
            self.delayed.pop_first();
            self.set_place(&job, JobPlace::Ready, now);
            news.extend(self.jobs.get(&job).map(|known| known.operation));
        }
        while let Some(&(at, user)) = self.holds.first()
            && at <= now
        {
            news.extend(self.resume(user).iter());
            self.holds.remove(&(at, user));
        }
        news
    }

    /// The next moment at which something is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        let job = self.delayed.first().map(|(at, _)| *at);
        let owner = self.holds.first().map(|(at, _)| *at);
        job.into_iter().chain(owner).min()
    }

    /// The number of a queue's jobs that may go now.
    pub fn count(&self, queue: &str) -> usize {
        let line = QUEUES.iter().position(|name| *name == queue);
        line.map_or(0, |line| self.lines[line].count())
    }

    /// How long the jobs of each queue waited and ran, lately.
    pub fn times(&mut self, now: Timestamp) -> Vec<(&'static str, JobTimes)> {
        let of = |(line, queue): (usize, &'static str)| (queue, self.times.of(line, now));
        QUEUES.into_iter().enumerate().map(of).collect()
    }

    /// The operations of a claim with which jobs wait now.
    pub fn ready(&self, scope: &ClaimScope) -> OperationSet {
        let of_queue = |(queue, operations): (&str, OperationSet)| {
            let line = QUEUES.iter().position(|name| *name == queue);
            line.map_or_else(OperationSet::default, |line| {
                self.lines[line].ready(operations)
            })
        };
        let each = scope.queues().map(of_queue);
        each.flat_map(OperationSet::iter).collect()
    }

    /// Notes that a claim for these operations waits.
    pub fn claim_began(&mut self, scope: &ClaimScope) {
        self.workers.claim_began(scope.operations());
    }

    pub fn claim_ended(&mut self, scope: &ClaimScope, now: Timestamp) {
        self.workers.claim_ended(scope.operations(), now);
    }

    /// The reason why a job waits; `None` when the board knows nothing of it, or it does not wait.
    pub fn wait(&self, job: &JobId, now: Timestamp) -> Option<JobWait> {
        let known = self.jobs.get(job)?;
        let hold = self.owners.get(&known.user).and_then(|owner| owner.hold);
        let is_suspended = hold.is_some_and(|hold| hold.reason == HoldReason::Suspended);
        match known.place {
            JobPlace::Offered(_) | JobPlace::Running(_) => None,
            _ if is_suspended => Some(JobWait::UserSuspended),
            JobPlace::Delayed(at) => Some(JobWait::Until(at)),
            JobPlace::Ready if !self.workers.does(known.operation, now) => Some(JobWait::NoWorker),
            JobPlace::Ready => {
                let line = &self.lines[line_of(known.operation)];
                let place = line.place(known.user, &known.ready(*job));
                place.map(|place| JobWait::Turn { place })
            }
        }
    }
}

impl JobEntry {
    fn ready(&self, job: JobId) -> ReadyJob {
        ReadyJob {
            job,
            operation: self.operation,
            priority: self.priority,
            submitted: self.submitted,
        }
    }
}

fn line_of(operation: OperationNumber) -> usize {
    let queue = operation.queue();
    QUEUES.iter().position(|name| *name == queue).unwrap_or(0)
}

fn waiting_until(at: Option<Timestamp>) -> JobPlace {
    at.map_or(JobPlace::Ready, JobPlace::Delayed)
}

fn number(step: &JobStep, key: &str) -> Option<i64> {
    step.clear.get(key).and_then(Value::as_i64)
}

fn moment(step: &JobStep, key: &str) -> Option<Timestamp> {
    number(step, key).map(Timestamp)
}

#[cfg(test)]
mod tests;
