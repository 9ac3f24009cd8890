//! The jobs that wait, by queue and user. Pure bookkeeping: it reads the log's readable part, and so needs nobody's
//! key.
//!
//! Fairness: the users of a queue take turns. Within a user the lower priority number goes first, then the older job.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use genie_events::{JobId, Timestamp, UserId, job_operation};
use genie_log::{read::JobStep, unfinished::UnfinishedJob};
use serde_json::Value;

/// A job that may be handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobOffer {
    pub job: JobId,
    pub user: UserId,
    /// The number of the job's events that the board had seen when it handed the job out.
    sequence: u64,
}

#[derive(Debug, Clone)]
struct JobEntry {
    user: UserId,
    queue: &'static str,
    priority: i64,
    /// The number of the submission or retry among its owner's events: the older goes first.
    submitted: u64,
    not_before: Option<Timestamp>,
    /// The number of the job's events that the board has seen.
    sequence: u64,
    on_board: bool,
}

/// The board's memory: jobs that wait or run. Jobs that ended are dropped.
#[derive(Debug, Default)]
pub struct JobQueues {
    jobs: HashMap<JobId, JobEntry>,
    /// The same by their users.
    /// Invariant: a user has an entry exactly while `jobs` has one of the user's.
    of_user: HashMap<UserId, HashSet<JobId>>,
    queues: HashMap<&'static str, Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// The jobs of each user that may go, best first.
    /// Invariant: a user has an entry here, perhaps an empty one, exactly while in `turns`.
    ready: HashMap<UserId, BTreeSet<(i64, u64, JobId)>>,
    /// The number of jobs in `ready`.
    count: usize,
    /// The users in the order of their turns.
    turns: VecDeque<UserId>,
    /// Jobs whose time has not come.
    delayed: BTreeSet<(Timestamp, JobId)>,
}

impl JobQueues {
    /// Takes a job from the working table.
    pub fn load(&mut self, row: &UnfinishedJob) {
        let Some(queue) = job_operation::queue(&row.queue) else {
            return;
        };
        let known = JobEntry {
            user: row.user,
            queue,
            priority: row.priority,
            submitted: row.submitted,
            not_before: row.state.due,
            sequence: row.state.sequence,
            on_board: false,
        };
        self.enter(row.job, known);
        if !row.state.is_running {
            self.put(&row.job);
        }
    }

    /// Takes note of a job's event. Answers the queue that has something new to hand out.
    pub fn see(&mut self, step: &JobStep) -> Option<&'static str> {
        if self
            .jobs
            .get(&step.job)
            .is_some_and(|known| known.sequence >= step.sequence)
        {
            return None; // seen before
        }
        let moment = |key: &str| step.clear.get(key).and_then(Value::as_i64).map(Timestamp);
        match step.event_type.as_str() {
            "job.submitted" | "job.retried" => {
                let queue = step
                    .clear
                    .get("queue")
                    .and_then(Value::as_str)
                    .and_then(job_operation::queue)?;
                self.forget(&step.job);
                let known = JobEntry {
                    user: step.user,
                    queue,
                    priority: step
                        .clear
                        .get("priority")
                        .and_then(Value::as_i64)
                        .unwrap_or(10),
                    submitted: step.owner_seq,
                    not_before: moment("run_at"),
                    sequence: step.sequence,
                    on_board: false,
                };
                self.enter(step.job, known);
                self.put(&step.job)
            }
            "job.claimed" => {
                self.remove(&step.job);
                self.remember(&step.job, step.sequence, |_| {});
                None
            }
            "job.lapsed" | "job.failed" => match moment("retry_at") {
                Some(at) => {
                    self.remove(&step.job);
                    self.remember(&step.job, step.sequence, |known| {
                        known.not_before = Some(at)
                    });
                    self.put(&step.job)
                }
                None => {
                    self.forget(&step.job); // failed for good; a retry's event has all that the board needs
                    None
                }
            },
            "job.completed" | "job.cancelled" => {
                self.forget(&step.job);
                None
            }
            _ => None,
        }
    }

    fn remember(&mut self, job: &JobId, sequence: u64, change: impl FnOnce(&mut JobEntry)) {
        if let Some(known) = self.jobs.get_mut(job) {
            known.sequence = sequence;
            change(known);
        }
    }

    fn put(&mut self, job: &JobId) -> Option<&'static str> {
        let known = self.jobs.get_mut(job)?;
        if known.on_board {
            return None;
        }
        known.on_board = true;
        let queue = self.queues.entry(known.queue).or_default();
        match known.not_before {
            Some(at) => _ = queue.delayed.insert((at, *job)),
            None => queue.make_ready(known, job),
        }
        Some(known.queue)
    }

    fn remove(&mut self, job: &JobId) {
        let Some(known) = self.jobs.get_mut(job) else {
            return;
        };
        known.on_board = false;
        if let Some(queue) = self.queues.get_mut(known.queue) {
            if let Some(ready) = queue.ready.get_mut(&known.user)
                && ready.remove(&(known.priority, known.submitted, *job))
            {
                queue.count -= 1;
            }
            if let Some(at) = known.not_before {
                queue.delayed.remove(&(at, *job));
            }
        }
    }

    fn enter(&mut self, job: JobId, entry: JobEntry) {
        self.of_user.entry(entry.user).or_default().insert(job);
        self.jobs.insert(job, entry);
    }

    fn forget(&mut self, job: &JobId) {
        self.remove(job);
        let Some(known) = self.jobs.remove(job) else {
            return;
        };
        if let Some(theirs) = self.of_user.get_mut(&known.user) {
            theirs.remove(job);
            if theirs.is_empty() {
                self.of_user.remove(&known.user);
            }
        }
    }

    /// Drops all jobs of a user who was forgotten.
    pub fn drop_user(&mut self, user: UserId) {
        let theirs = self.of_user.get(&user).cloned().unwrap_or_default();
        theirs.iter().for_each(|job| self.forget(job));
    }

    /// Puts back a job that could not be handed out, unless more became known of it meanwhile.
    pub fn put_back(&mut self, candidate: &JobOffer) {
        if self
            .jobs
            .get(&candidate.job)
            .is_some_and(|known| known.sequence == candidate.sequence)
        {
            self.put(&candidate.job);
        }
    }

    /// Takes the next job of these queues off the board.
    pub fn take(&mut self, queues: &[&'static str], now: Timestamp) -> Option<JobOffer> {
        for name in queues {
            let Some(queue) = self.queues.get_mut(name) else {
                continue;
            };
            while let Some(&(at, job)) = queue.delayed.first()
                && at <= now
            {
                queue.delayed.pop_first();
                if let Some(known) = self.jobs.get(&job) {
                    queue.make_ready(known, &job);
                }
            }
            if let Some((user, job)) = queue.next() {
                let Some(known) = self.jobs.get_mut(&job) else {
                    continue;
                };
                known.on_board = false;
                return Some(JobOffer {
                    user,
                    sequence: known.sequence,
                    job,
                });
            }
        }
        None
    }

    /// The time when the next delayed job of these queues is due.
    pub fn next_due(&self, queues: &[&'static str]) -> Option<Timestamp> {
        queues
            .iter()
            .filter_map(|name| self.queues.get(name)?.delayed.first())
            .map(|(at, _)| *at)
            .min()
    }

    /// The queues with a delayed job that is due.
    pub fn due(&self, now: Timestamp) -> impl Iterator<Item = &'static str> {
        let is_due = move |queue: &Queue| queue.delayed.first().is_some_and(|(at, _)| *at <= now);
        self.queues
            .iter()
            .filter(move |(_, queue)| is_due(queue))
            .map(|(name, _)| *name)
    }

    /// The number of a queue's jobs that may go now.
    pub fn count(&self, queue: &str) -> usize {
        self.queues.get(queue).map_or(0, |queue| queue.count)
    }
}

impl Queue {
    fn make_ready(&mut self, known: &JobEntry, job: &JobId) {
        let turns = &mut self.turns;
        let ready = self.ready.entry(known.user).or_insert_with(|| {
            turns.push_back(known.user);
            BTreeSet::new()
        });
        if ready.insert((known.priority, known.submitted, *job)) {
            self.count += 1;
        }
    }

    fn next(&mut self) -> Option<(UserId, JobId)> {
        while let Some(user) = self.turns.pop_front() {
            let Some(ready) = self.ready.get_mut(&user) else {
                continue;
            };
            let first = ready.pop_first();
            if ready.is_empty() {
                self.ready.remove(&user);
            } else {
                self.turns.push_back(user);
            }
            if let Some((_, _, job)) = first {
                self.count -= 1;
                return Some((user, job));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    const QUEUE: &str = "media-jobs";

    struct Board(JobQueues, u64);

    fn job_id(n: u64) -> JobId {
        JobId(Uuid::from_u128(n.into()))
    }

    impl Board {
        fn see(
            &mut self,
            user: u128,
            job: u64,
            sequence: u64,
            event_type: &str,
            clear: Value,
        ) -> bool {
            self.1 += 1;
            let news = self.0.see(&JobStep {
                owner_seq: self.1,
                job: job_id(job),
                user: UserId(Uuid::from_u128(user)),
                sequence,
                event_type: event_type.into(),
                clear: serde_json::from_value(clear).unwrap(),
            });
            assert!(news.is_none_or(|queue| queue == QUEUE));
            news.is_some()
        }
        fn submit(&mut self, user: u128, job: u64, priority: i64) {
            assert!(self.see(
                user,
                job,
                1,
                "job.submitted",
                json!({"queue": QUEUE, "priority": priority})
            ));
        }
        fn take(&mut self) -> Option<JobId> {
            self.0
                .take(&[QUEUE], Timestamp(100))
                .map(|candidate| candidate.job)
        }
    }

    fn board() -> Board {
        Board(JobQueues::default(), 0)
    }

    #[test]
    fn users_take_turns_and_within_a_user_priority_goes_first() {
        let mut board = board();
        for job in 1..=3 {
            board.submit(1, job, 10);
        }
        board.submit(1, 4, 1);
        board.submit(2, 5, 10);
        let order: Vec<JobId> = std::iter::from_fn(|| board.take()).collect();
        assert_eq!(order, [4, 5, 1, 2, 3].map(job_id));
    }

    #[test]
    fn a_delayed_job_waits_for_its_time() {
        let mut board = board();
        board.see(
            1,
            1,
            1,
            "job.submitted",
            json!({"queue": QUEUE, "priority": 10, "run_at": 200}),
        );
        assert_eq!(board.take(), None);
        assert_eq!(board.0.next_due(&[QUEUE]), Some(Timestamp(200)));
        assert_eq!(
            board.0.take(&[QUEUE], Timestamp(200)).unwrap().job,
            job_id(1)
        );
    }

    #[test]
    fn a_claimed_job_is_gone_and_a_lapsed_one_comes_back() {
        let mut board = board();
        board.submit(1, 1, 10);
        board.see(1, 1, 2, "job.claimed", json!({"attempt": 1}));
        assert_eq!(board.take(), None);
        assert!(board.see(1, 1, 3, "job.lapsed", json!({"attempt": 1, "retry_at": 50})));
        assert!(
            !board.see(1, 1, 3, "job.lapsed", json!({"attempt": 1, "retry_at": 50})),
            "seen before"
        );
        assert_eq!(board.take(), Some(job_id(1)));
        board.see(1, 1, 4, "job.claimed", json!({"attempt": 2}));
        board.see(1, 1, 5, "job.failed", json!({"attempt": 2}));
        assert_eq!(board.take(), None);
        assert!(board.see(
            1,
            1,
            6,
            "job.retried",
            json!({"queue": QUEUE, "priority": 5})
        ));
        assert_eq!(board.take(), Some(job_id(1)));
    }

    #[test]
    fn nothing_waits_for_who_was_forgotten() {
        let mut board = board();
        board.submit(1, 1, 10);
        board.submit(2, 2, 10);
        board.see(
            1,
            3,
            1,
            "job.submitted",
            json!({"queue": QUEUE, "priority": 10, "run_at": 200}),
        );
        board.0.drop_user(UserId(Uuid::from_u128(1)));
        assert_eq!((board.take(), board.take()), (Some(job_id(2)), None));
        assert_eq!(
            board.0.take(&[QUEUE], Timestamp(300)),
            None,
            "nor when its time has come"
        );
        let left: Vec<&UserId> = board.0.of_user.keys().collect();
        assert_eq!(left, [&UserId(Uuid::from_u128(2))]);
    }

    #[test]
    fn a_job_that_could_not_be_handed_out_goes_back_once() {
        let mut board = board();
        board.submit(1, 1, 10);
        let candidate = board.0.take(&[QUEUE], Timestamp(100)).unwrap();
        board.0.put_back(&candidate);
        board.0.put_back(&candidate);
        assert_eq!(board.take(), Some(job_id(1)));
        assert_eq!(board.take(), None);
        board.see(1, 1, 2, "job.claimed", json!({"attempt": 1}));
        board.0.put_back(&candidate);
        assert_eq!(board.take(), None, "it was claimed meanwhile");
    }

    #[test]
    fn a_job_that_had_ended_and_is_queued_again_is_on_a_board_that_never_knew_it() {
        let mut board = board();
        assert!(board.see(
            1,
            1,
            3,
            "job.retried",
            json!({"queue": QUEUE, "priority": 5})
        ));
        assert_eq!(board.take(), Some(job_id(1)));
        board.see(1, 1, 4, "job.cancelled", json!({}));
        assert!(board.see(
            1,
            1,
            5,
            "job.retried",
            json!({"queue": QUEUE, "priority": 5})
        ));
        board.see(1, 1, 6, "job.cancelled", json!({}));
        assert_eq!(
            (board.take(), board.0.jobs.len(), board.0.of_user.len()),
            (None, 0, 0),
            "what has ended is forgotten"
        );
    }
}
