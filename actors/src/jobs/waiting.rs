//! Which jobs wait, by queue and user. Pure bookkeeping: fed from the log's readable part, nobody's key is needed.
//!
//! Fairness: the users of a queue take turns, and within a user the lower priority number goes first, then the older job.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use genie_events::{JobId, Moment, UserId, operation};
use genie_log::StoredRow;
use serde_json::Value;

/// A job that may be handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub job: JobId,
    pub user: UserId,
}

#[derive(Debug, Clone)]
struct Known {
    user: UserId,
    queue: &'static str,
    priority: i64,
    /// Position of its submission: the older goes first.
    submitted: u64,
    not_before: Option<Moment>,
    /// How many of its events were seen.
    sequence: u64,
    on_board: bool,
}

/// The board's memory.
#[derive(Debug, Default)]
pub struct Waiting {
    jobs: HashMap<JobId, Known>,
    queues: HashMap<&'static str, Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Of each user the jobs that may go, best first.
    ready: HashMap<UserId, BTreeSet<(i64, u64, JobId)>>,
    /// Whose turn is next.
    turns: VecDeque<UserId>,
    /// Jobs whose time has not come.
    delayed: BTreeMap<(Moment, u64), JobId>,
}

impl Waiting {
    /// Takes note of a job's event; whether there is something new to hand out.
    pub fn see(&mut self, row: &StoredRow, id: &str, clear: &BTreeMap<String, Value>) -> bool {
        let (Ok(job), Some(user)) = (id.parse::<JobId>(), row.user()) else { return false };
        if self.jobs.get(&job).is_some_and(|known| known.sequence >= row.sequence) {
            return false; // seen before
        }
        let moment = |key: &str| clear.get(key).and_then(Value::as_i64).map(Moment);
        let priority = clear.get("priority").and_then(Value::as_i64);
        match row.event_type.as_str() {
            "job.submitted" => {
                let queue = clear.get("queue").and_then(Value::as_str).and_then(operation::queue);
                let Some(queue) = queue else { return false };
                let known = Known {
                    user,
                    queue,
                    priority: priority.unwrap_or(10),
                    submitted: row.position,
                    not_before: moment("run_at"),
                    sequence: row.sequence,
                    on_board: false,
                };
                self.jobs.insert(job.clone(), known);
                self.put(&job)
            }
            "job.claimed" => {
                self.remember(&job, row.sequence, |_| {});
                self.remove(&job);
                false
            }
            "job.retried" => {
                self.remember(&job, row.sequence, |known| {
                    known.priority = priority.unwrap_or(known.priority);
                    known.not_before = None;
                });
                self.put(&job)
            }
            "job.lapsed" | "job.failed" => match moment("retry_at") {
                Some(at) => {
                    self.remember(&job, row.sequence, |known| known.not_before = Some(at));
                    self.put(&job)
                }
                // Failed for good; remembered, for its owner may queue it again.
                None => {
                    self.remember(&job, row.sequence, |_| {});
                    self.remove(&job);
                    false
                }
            },
            "job.completed" => {
                self.forget(&job);
                false
            }
            "job.cancelled" => {
                self.remember(&job, row.sequence, |_| {});
                self.remove(&job);
                false
            }
            _ => false,
        }
    }

    fn remember(&mut self, job: &JobId, sequence: u64, change: impl FnOnce(&mut Known)) {
        if let Some(known) = self.jobs.get_mut(job) {
            known.sequence = sequence;
            change(known);
        }
    }

    fn put(&mut self, job: &JobId) -> bool {
        let Some(known) = self.jobs.get_mut(job) else { return false };
        if known.on_board {
            return false;
        }
        known.on_board = true;
        let queue = self.queues.entry(known.queue).or_default();
        match known.not_before {
            Some(at) => {
                queue.delayed.insert((at, known.submitted), job.clone());
            }
            None => queue.make_ready(known, job),
        }
        true
    }

    fn remove(&mut self, job: &JobId) {
        let Some(known) = self.jobs.get_mut(job) else { return };
        known.on_board = false;
        if let Some(queue) = self.queues.get_mut(known.queue) {
            if let Some(ready) = queue.ready.get_mut(&known.user) {
                ready.remove(&(known.priority, known.submitted, job.clone()));
            }
            if let Some(at) = known.not_before {
                queue.delayed.remove(&(at, known.submitted));
            }
        }
    }

    /// It is of no more interest.
    pub fn forget(&mut self, job: &JobId) {
        self.remove(job);
        self.jobs.remove(job);
    }

    /// A candidate that could not be handed out goes back.
    pub fn put_back(&mut self, candidate: Candidate) {
        self.put(&candidate.job);
    }

    /// Takes the next job of these queues off the board.
    pub fn take(&mut self, queues: &[&'static str], now: Moment) -> Option<Candidate> {
        for name in queues {
            let Some(queue) = self.queues.get_mut(name) else { continue };
            while let Some((&(at, submitted), job)) = queue.delayed.first_key_value()
                && at <= now
            {
                let job = job.clone();
                queue.delayed.remove(&(at, submitted));
                if let Some(known) = self.jobs.get(&job) {
                    queue.make_ready(known, &job);
                }
            }
            if let Some((user, job)) = queue.next() {
                if let Some(known) = self.jobs.get_mut(&job) {
                    known.on_board = false;
                }
                return Some(Candidate { job, user });
            }
        }
        None
    }

    /// When the next delayed job of these queues is due.
    pub fn next_due(&self, queues: &[&'static str]) -> Option<Moment> {
        queues.iter().filter_map(|name| self.queues.get(name)?.delayed.first_key_value()).map(|(&(at, _), _)| at).min()
    }

    /// Whether any delayed job is due.
    pub fn any_due(&self, now: Moment) -> bool {
        self.queues.values().any(|queue| queue.delayed.first_key_value().is_some_and(|(&(at, _), _)| at <= now))
    }

    /// How many jobs of a queue may go now.
    pub fn count(&self, queue: &str) -> usize {
        self.queues.get(queue).map_or(0, |queue| queue.ready.values().map(BTreeSet::len).sum())
    }
}

impl Queue {
    fn make_ready(&mut self, known: &Known, job: &JobId) {
        let ready = self.ready.entry(known.user).or_default();
        if ready.is_empty() && !self.turns.contains(&known.user) {
            self.turns.push_back(known.user);
        }
        ready.insert((known.priority, known.submitted, job.clone()));
    }

    fn next(&mut self) -> Option<(UserId, JobId)> {
        while let Some(user) = self.turns.pop_front() {
            let Some(ready) = self.ready.get_mut(&user) else { continue };
            let first = ready.pop_first();
            match ready.is_empty() {
                true => {
                    self.ready.remove(&user);
                }
                false => self.turns.push_back(user),
            }
            if let Some((_, _, job)) = first {
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

    struct Board(Waiting, u64);

    impl Board {
        fn see(&mut self, user: u128, job: u64, sequence: u64, event_type: &str, clear: Value) -> bool {
            self.1 += 1;
            let row = StoredRow {
                position: self.1,
                kind: "job".into(),
                id: job.to_string(),
                sequence,
                event_type: event_type.into(),
                event_version: "1".into(),
                payload: String::new(),
                metadata: String::new(),
                event_id: Uuid::nil(),
                owner: Uuid::from_u128(user),
                owner_seq: 0,
                slice: 0,
                recorded_at: Moment(0),
                digest: vec![],
            };
            self.0.see(&row, &row.id, &serde_json::from_value(clear).unwrap())
        }
        fn submit(&mut self, user: u128, job: u64, priority: i64) {
            assert!(self.see(user, job, 1, "job.submitted", json!({"queue": QUEUE, "priority": priority})));
        }
        fn take(&mut self) -> Option<String> {
            self.0.take(&[QUEUE], Moment(100)).map(|candidate| candidate.job.to_string())
        }
    }

    fn board() -> Board {
        Board(Waiting::default(), 0)
    }

    #[test]
    fn users_take_turns_and_within_a_user_priority_goes_first() {
        let mut board = board();
        for job in 1..=3 {
            board.submit(1, job, 10);
        }
        board.submit(1, 4, 1);
        board.submit(2, 5, 10);
        let order: Vec<String> = std::iter::from_fn(|| board.take()).collect();
        assert_eq!(order, ["4", "5", "1", "2", "3"]);
    }

    #[test]
    fn a_delayed_job_waits_for_its_time() {
        let mut board = board();
        board.see(1, 1, 1, "job.submitted", json!({"queue": QUEUE, "priority": 10, "run_at": 200}));
        assert_eq!(board.take(), None);
        assert_eq!(board.0.next_due(&[QUEUE]), Some(Moment(200)));
        assert_eq!(board.0.take(&[QUEUE], Moment(200)).unwrap().job.to_string(), "1");
    }

    #[test]
    fn what_is_claimed_is_gone_and_what_lapses_comes_back() {
        let mut board = board();
        board.submit(1, 1, 10);
        board.see(1, 1, 2, "job.claimed", json!({"attempt": 1}));
        assert_eq!(board.take(), None);
        assert!(board.see(1, 1, 3, "job.lapsed", json!({"attempt": 1, "retry_at": 50})));
        assert!(!board.see(1, 1, 3, "job.lapsed", json!({"attempt": 1, "retry_at": 50})), "seen before");
        assert_eq!(board.take(), Some("1".into()));
        board.see(1, 1, 4, "job.claimed", json!({"attempt": 2}));
        board.see(1, 1, 5, "job.failed", json!({"attempt": 2}));
        assert_eq!(board.take(), None);
        assert!(board.see(1, 1, 6, "job.retried", json!({"priority": 5})));
        assert_eq!(board.take(), Some("1".into()));
    }

    #[test]
    fn what_could_not_be_handed_out_goes_back_once() {
        let mut board = board();
        board.submit(1, 1, 10);
        let candidate = board.0.take(&[QUEUE], Moment(100)).unwrap();
        board.0.put_back(candidate.clone());
        board.0.put_back(candidate);
        assert_eq!(board.take(), Some("1".into()));
        assert_eq!(board.take(), None);
    }
}
