//! How long the jobs of each queue waited for a worker, and how long their attempts ran, lately. Only jobs that this
//! server has seen come count, so a server that has just started knows little.

use genie_events::{Timestamp, job_operation::QUEUES};
use hdrhistogram::Histogram;

/// The times of so many seconds are told together; those of the time before as well.
const WINDOW_SECONDS: i64 = 300;
/// In milliseconds: a day. What took longer counts as this.
const LONGEST: u64 = 86_400_000;
/// The figures have two digits that count. One queue's take some 40 KB.
const DIGITS: u8 = 2;

/// How a number of times was spread, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeSpread {
    pub count: u64,
    pub p50: u64,
    pub p99: u64,
}

/// The times of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobTimes {
    /// From the moment at which the job might go to its claim.
    pub wait: TimeSpread,
    /// From the claim to the end of the attempt, as its worker told it.
    pub run: TimeSpread,
}

#[derive(Debug)]
pub struct QueueTimes {
    since: Timestamp,
    present: [TimeCounts; QUEUES.len()],
    before: [TimeCounts; QUEUES.len()],
}

#[derive(Debug)]
struct TimeCounts {
    wait: Histogram<u32>,
    run: Histogram<u32>,
}

impl QueueTimes {
    pub fn new(now: Timestamp) -> Self {
        Self {
            since: now,
            present: std::array::from_fn(|_| TimeCounts::new()),
            before: std::array::from_fn(|_| TimeCounts::new()),
        }
    }

    /// A job of the queue with this number was claimed.
    pub fn waited(&mut self, queue: usize, since: Timestamp, now: Timestamp) {
        self.move_on(now);
        self.present[queue]
            .wait
            .saturating_record(millis(since, now));
    }

    /// An attempt at such a job ended.
    pub fn ran(&mut self, queue: usize, since: Timestamp, now: Timestamp) {
        self.move_on(now);
        self.present[queue]
            .run
            .saturating_record(millis(since, now));
    }

    pub fn of(&mut self, queue: usize, now: Timestamp) -> JobTimes {
        self.move_on(now);
        let (present, before) = (&self.present[queue], &self.before[queue]);
        JobTimes {
            wait: spread(&present.wait, &before.wait),
            run: spread(&present.run, &before.run),
        }
    }

    fn move_on(&mut self, now: Timestamp) {
        let passed = now.0.saturating_sub(self.since.0) / 1_000_000 / WINDOW_SECONDS;
        if passed < 1 {
            return;
        }
        std::mem::swap(&mut self.present, &mut self.before);
        self.present.iter_mut().for_each(TimeCounts::clear);
        if passed > 1 {
            self.before.iter_mut().for_each(TimeCounts::clear);
        }
        self.since = self.since.plus_seconds(passed * WINDOW_SECONDS);
    }
}

impl TimeCounts {
    fn new() -> Self {
        let counts = || {
            Histogram::new_with_bounds(1, LONGEST, DIGITS)
                .expect("the bounds are in order, and two digits are allowed")
        };
        Self {
            wait: counts(),
            run: counts(),
        }
    }

    fn clear(&mut self) {
        self.wait.reset();
        self.run.reset();
    }
}

fn millis(since: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.0.saturating_sub(since.0) / 1000).unwrap_or(0)
}

fn spread(present: &Histogram<u32>, before: &Histogram<u32>) -> TimeSpread {
    let mut both = present.clone();
    both.add(before).expect("both have the same bounds");
    TimeSpread {
        count: both.len(),
        p50: both.value_at_quantile(0.5),
        p99: both.value_at_quantile(0.99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_000_000_000);

    fn after(millis: i64) -> Timestamp {
        START.plus_millis(millis)
    }

    #[test]
    fn times_are_told_for_the_last_minutes() {
        let mut times = QueueTimes::new(START);
        for wait in 1..=100 {
            times.waited(0, START, after(wait));
        }
        times.ran(0, START, after(60_000));
        let told = times.of(0, after(60_000));
        assert_eq!(
            told.wait,
            TimeSpread {
                count: 100,
                p50: 50,
                p99: 99
            }
        );
        assert_eq!(told.run.count, 1);
        assert!(told.run.p99.abs_diff(60_000) < 600, "{told:?}");
        assert_eq!(times.of(1, after(60_000)).wait.count, 0, "of another queue");
        // Still told in the next window, and then no more.
        times.waited(0, after(300_000), after(300_001));
        assert_eq!(times.of(0, after(599_000)).wait.count, 101);
        assert_eq!(times.of(0, after(600_000)).wait.count, 1);
        assert_eq!(times.of(0, after(1_200_000)).wait.count, 0);
    }

    #[test]
    fn a_clock_that_was_set_back_and_an_endless_job_break_nothing() {
        let mut times = QueueTimes::new(START);
        times.waited(0, after(5000), START);
        times.ran(0, START, after(400 * 86_400_000));
        let told = times.of(0, after(400 * 86_400_000));
        assert_eq!((told.wait.count, told.run.count), (0, 1));
        assert!(told.run.p99 >= LONGEST);
    }
}
