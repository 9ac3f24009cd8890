//! The workers that a server knows of, by operation. Workers do not register: a server sees those that claim from it,
//! and in the log the jobs that workers of any server hold. So of a worker of another server that has never held a job
//! with an operation it knows nothing; but such a worker takes a job as soon as the job may go.

use genie_events::Timestamp;

use crate::jobs::operation_set::{OperationNumber, OperationSet};

/// A worker counts as gone when it has neither claimed nor held a job for this long, in seconds (docs/api.md, Jobs).
/// A claim waits for 30 s at most.
const GONE_AFTER: i64 = 60;

#[derive(Debug)]
pub struct KnownWorkers {
    of_operation: Vec<OperationWorkers>,
}

#[derive(Debug, Clone, Copy)]
struct OperationWorkers {
    /// Claims for such jobs that wait here.
    claims: u32,
    /// Jobs held by workers that do such jobs.
    held: u32,
    /// The last moment at which a worker did such jobs, or the server started.
    seen: Timestamp,
}

impl KnownWorkers {
    /// A server that starts at `now` waits for its workers to come back before it misses them.
    pub fn new(now: Timestamp) -> Self {
        let nobody = OperationWorkers {
            claims: 0,
            held: 0,
            seen: now,
        };
        let of_operation = OperationNumber::all().map(|_| nobody).collect();
        Self { of_operation }
    }

    pub fn claim_began(&mut self, operations: OperationSet) {
        self.each(operations, |workers| workers.claims += 1);
    }

    pub fn claim_ended(&mut self, operations: OperationSet, now: Timestamp) {
        self.each(operations, |workers| {
            workers.claims = workers.claims.saturating_sub(1);
            workers.seen = now;
        });
    }

    /// A worker that does these operations has a job.
    pub fn begin(&mut self, operations: OperationSet) {
        self.each(operations, |workers| workers.held += 1);
    }

    pub fn end(&mut self, operations: OperationSet, now: Timestamp) {
        self.each(operations, |workers| {
            workers.held = workers.held.saturating_sub(1);
            workers.seen = now;
        });
    }

    /// True when a worker is known that does such jobs.
    pub fn does(&self, operation: OperationNumber, now: Timestamp) -> bool {
        let workers = &self.of_operation[operation.index()];
        workers.claims > 0 || workers.held > 0 || workers.seen.plus_seconds(GONE_AFTER) > now
    }

    fn each(&mut self, operations: OperationSet, change: impl Fn(&mut OperationWorkers)) {
        for operation in operations.iter() {
            change(&mut self.of_operation[operation.index()]);
        }
    }
}
