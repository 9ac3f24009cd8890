//! The jobs of one queue that may start now, and the order in which they do.
//!
//! Fairness is deficit round robin: the users of a queue take turns, and in a turn so many jobs of a user start as the
//! user's tier has. A user who waits for the first time, or has had a turn, goes to the end of the line. What a user
//! does not use of a turn is lost. A claim passes over the users who have nothing for it; they keep their turn.
//!
//! Within a user the lower priority number goes first, then the older job. But each [`STARTS_BY_AGE`]th start of a user
//! is that of the user's oldest job, whatever its priority. So a job before which `n` older jobs of its user wait is
//! among the user's next `STARTS_BY_AGE * (n + 1)` starts.
//!
//! A change takes a time that grows with the logarithm of the number of jobs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use genie_events::{JobId, UserId};

use crate::jobs::operation_set::{OperationNumber, OperationSet};

/// One of so many starts of a user goes by age alone.
pub const STARTS_BY_AGE: u32 = 8;
/// A place is counted over no more users than this. With more it is an estimate.
const COUNTED_USERS: usize = 2000;

/// A job that may start, with what decides its order among its user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadyJob {
    pub job: JobId,
    pub operation: OperationNumber,
    pub priority: i64,
    /// The number of the submission or retry among its owner's events: the older job has the lower.
    pub submitted: u64,
}

/// The jobs of one queue that may start now.
#[derive(Debug, Default)]
pub struct QueueLine {
    users: HashMap<UserId, UserTurns>,
    /// For each operation the users who wait with a job of it, in the order of their turns.
    /// Invariant: a user is here, with the present turn, for each operation in `ready`, unless the user is on hold.
    turns: BTreeMap<OperationNumber, BTreeSet<(u64, UserId)>>,
    next_turn: u64,
    /// The number of all jobs.
    count: usize,
}

/// A user's jobs in a queue.
/// Invariant: there is at least one.
#[derive(Debug)]
struct UserTurns {
    /// The number of the present turn.
    turn: u64,
    /// The jobs that may still start in this turn; at least one.
    left: u32,
    /// The jobs of one turn.
    weight: u32,
    /// The jobs that have started since the user has waited here.
    starts: u32,
    on_hold: bool,
    count: usize,
    ready: BTreeMap<OperationNumber, ReadyOfOperation>,
}

/// A user's jobs with one operation, in both orders.
#[derive(Debug, Default)]
struct ReadyOfOperation {
    by_priority: BTreeSet<(i64, u64, JobId)>,
    /// With their priorities.
    by_age: BTreeMap<(u64, JobId), i64>,
}

impl QueueLine {
    /// The number of jobs, with those of users on hold.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Adds a job. `weight` and `on_hold` count for a user who has no job here yet.
    pub fn put(&mut self, user: UserId, job: ReadyJob, weight: u32, on_hold: bool) {
        let next_turn = &mut self.next_turn;
        let theirs = self.users.entry(user).or_insert_with(|| {
            *next_turn += 1;
            UserTurns {
                turn: *next_turn,
                left: weight,
                weight,
                starts: 0,
                on_hold,
                count: 0,
                ready: BTreeMap::new(),
            }
        });
        let of_operation = theirs.ready.entry(job.operation).or_default();
        if of_operation.insert(&job) {
            theirs.count += 1;
            self.count += 1;
        }
        if !theirs.on_hold {
            let turns = self.turns.entry(job.operation).or_default();
            turns.insert((theirs.turn, user));
        }
    }

    pub fn remove(&mut self, user: UserId, job: &ReadyJob) {
        let Some(theirs) = self.users.get_mut(&user) else {
            return;
        };
        let Some(of_operation) = theirs.ready.get_mut(&job.operation) else {
            return;
        };
        if !of_operation.remove(job) {
            return;
        }
        theirs.count -= 1;
        self.count -= 1;
        if of_operation.by_age.is_empty() {
            theirs.ready.remove(&job.operation);
            if let Some(turns) = self.turns.get_mut(&job.operation) {
                turns.remove(&(theirs.turn, user));
            }
        }
        if theirs.count == 0 {
            self.users.remove(&user);
        }
    }

    /// Takes the next job with one of these operations.
    pub fn take(&mut self, operations: OperationSet) -> Option<(UserId, JobId)> {
        let firsts = operations
            .iter()
            .filter_map(|operation| self.turns.get(&operation)?.first());
        let (_, user) = *firsts.min()?;
        let theirs = self.users.get_mut(&user)?;
        let job = theirs.next(operations)?;
        theirs.starts = theirs.starts.wrapping_add(1);
        theirs.left -= 1;
        let is_over = theirs.left == 0;
        self.remove(user, &job);
        if is_over {
            self.go_to_the_end(user);
        }
        Some((user, job.job))
    }

    fn go_to_the_end(&mut self, user: UserId) {
        self.leave_turns(user);
        let Some(theirs) = self.users.get_mut(&user) else {
            return;
        };
        self.next_turn += 1;
        theirs.turn = self.next_turn;
        theirs.left = theirs.weight;
        self.enter_turns(user);
    }

    /// Passes over the user until [`Self::resume`].
    pub fn hold(&mut self, user: UserId) {
        self.leave_turns(user);
        if let Some(theirs) = self.users.get_mut(&user) {
            theirs.on_hold = true;
        }
    }

    /// Takes the user back, at the end of the line. Answers the operations of the user's jobs.
    pub fn resume(&mut self, user: UserId) -> OperationSet {
        let Some(theirs) = self.users.get_mut(&user) else {
            return OperationSet::default();
        };
        theirs.on_hold = false;
        let operations = theirs.ready.keys().copied().collect();
        self.go_to_the_end(user);
        operations
    }

    /// The jobs of a turn, from the user's next turn on.
    pub fn set_weight(&mut self, user: UserId, weight: u32) {
        if let Some(theirs) = self.users.get_mut(&user) {
            theirs.weight = weight;
        }
    }

    /// The operations of these with which somebody waits.
    pub fn ready(&self, operations: OperationSet) -> OperationSet {
        let waits = |operation: &OperationNumber| {
            self.turns
                .get(operation)
                .is_some_and(|turns| !turns.is_empty())
        };
        operations.iter().filter(waits).collect()
    }

    /// The place of a job in the order in which all jobs here would start if nothing changed: 1 for the next. Counted
    /// while at most [`COUNTED_USERS`] users wait, else estimated. It is an estimate, too, when the user's jobs have
    /// several priorities.
    pub fn place(&self, user: UserId, job: &ReadyJob) -> Option<usize> {
        let theirs = self.users.get(&user)?;
        let rank = theirs.rank(job);
        let (turn, pass) = (theirs.turn, theirs.pass(rank));
        let others = self
            .users
            .iter()
            .take(COUNTED_USERS)
            .filter(|(other, _)| **other != user);
        let (mut counted, mut ahead) = (1, 0);
        for (_, other) in others {
            counted += 1;
            ahead += other.starts_before(turn, pass);
        }
        if self.users.len() > COUNTED_USERS {
            ahead = ahead.saturating_mul(self.users.len()) / counted;
        }
        Some(1 + rank + ahead)
    }

    fn leave_turns(&mut self, user: UserId) {
        let Some(theirs) = self.users.get(&user) else {
            return;
        };
        for operation in theirs.ready.keys() {
            if let Some(turns) = self.turns.get_mut(operation) {
                turns.remove(&(theirs.turn, user));
            }
        }
    }

    fn enter_turns(&mut self, user: UserId) {
        let Some(theirs) = self.users.get(&user) else {
            return;
        };
        if theirs.on_hold {
            return;
        }
        for operation in theirs.ready.keys() {
            let turns = self.turns.entry(*operation).or_default();
            turns.insert((theirs.turn, user));
        }
    }
}

impl UserTurns {
    /// The user's next job with one of these operations.
    fn next(&self, operations: OperationSet) -> Option<ReadyJob> {
        let may_go = self
            .ready
            .iter()
            .filter(|(operation, _)| operations.contains(**operation));
        if self.starts % STARTS_BY_AGE == STARTS_BY_AGE - 1 {
            let oldest = may_go.filter_map(|(operation, ready)| {
                let ((submitted, job), priority) = ready.by_age.first_key_value()?;
                Some((*submitted, *job, *priority, *operation))
            });
            let (submitted, job, priority, operation) = oldest.min()?;
            return Some(ReadyJob {
                job,
                operation,
                priority,
                submitted,
            });
        }
        let best = may_go.filter_map(|(operation, ready)| {
            let (priority, submitted, job) = ready.by_priority.first()?;
            Some((*priority, *submitted, *job, *operation))
        });
        let (priority, submitted, job, operation) = best.min()?;
        Some(ReadyJob {
            job,
            operation,
            priority,
            submitted,
        })
    }

    /// The number of the user's jobs that start before this one: by its priority, or by its age if that is sooner.
    fn rank(&self, job: &ReadyJob) -> usize {
        let of_each = self.ready.values();
        let better = of_each.map(|ready| {
            let before = ..(job.priority, job.submitted, job.job);
            ready.by_priority.range(before).count()
        });
        let better: usize = better.sum();
        let of_each = self.ready.values();
        let older = of_each.map(|ready| ready.by_age.range(..(job.submitted, job.job)).count());
        let older: usize = older.sum();
        let every = STARTS_BY_AGE as usize;
        let first_by_age = every - 1 - self.starts as usize % every;
        better.min(first_by_age + every * older)
    }

    /// The number of turns before the one in which the user's job of this rank starts.
    fn pass(&self, rank: usize) -> usize {
        let left = self.left as usize;
        match rank.checked_sub(left) {
            None => 0,
            Some(more) => 1 + more / self.weight as usize,
        }
    }

    /// The number of the user's jobs that start before the turn of another user, `pass` turns after its next, which is
    /// `turn`.
    fn starts_before(&self, turn: u64, pass: usize) -> usize {
        if self.on_hold {
            return 0;
        }
        let passes = pass + usize::from(self.turn < turn);
        let jobs = match passes.checked_sub(1) {
            None => 0,
            Some(more) => self.left as usize + more * self.weight as usize,
        };
        jobs.min(self.count)
    }
}

impl ReadyOfOperation {
    fn insert(&mut self, job: &ReadyJob) -> bool {
        self.by_age.insert((job.submitted, job.job), job.priority);
        self.by_priority
            .insert((job.priority, job.submitted, job.job))
    }

    fn remove(&mut self, job: &ReadyJob) -> bool {
        self.by_age.remove(&(job.submitted, job.job));
        self.by_priority
            .remove(&(job.priority, job.submitted, job.job))
    }
}

#[cfg(test)]
mod tests;
