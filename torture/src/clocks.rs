//! Measures how long it takes after a fault until something works again.

use std::time::Duration;

use tokio::time::Instant;

/// A fault without a good answer since.
#[derive(Debug)]
struct UnansweredFault {
    at: Instant,
    /// The server that was hit; `None` when all were.
    node: Option<usize>,
}

/// The time to the first good answer after each fault. The request was sent after the fault began; where the fault hit one
/// server, that server answered.
#[derive(Debug, Default)]
pub struct Recovery {
    waiting: Vec<UnansweredFault>,
    /// The beginning of each fault, and the time to the first good answer.
    took: Vec<(Instant, Duration)>,
}

impl Recovery {
    /// A fault takes hold now.
    pub fn fault(&mut self, at: Instant, node: Option<usize>) {
        self.waiting.push(UnansweredFault { at, node });
    }

    /// To be called when a fault did not happen after all.
    pub fn withdraw(&mut self, at: Instant) {
        self.waiting.retain(|fault| fault.at != at);
        self.took.retain(|(since, _)| *since != at);
    }

    /// A good answer came now to what was sent at `sent`.
    pub fn good_answer(&mut self, node: usize, sent: Instant, now: Instant) {
        let Self { waiting, took } = self;
        waiting.retain(|fault| {
            let is_after = sent >= fault.at && fault.node.is_none_or(|hit| hit == node);
            if is_after {
                took.push((fault.at, now.duration_since(fault.at)));
            }
            !is_after
        });
    }

    /// Half of the faults were over within the first, all within the second; `None` when there were none.
    pub fn median_and_longest(&self) -> Option<(Duration, Duration)> {
        let mut took: Vec<Duration> = self.took.iter().map(|(_, took)| *took).collect();
        took.sort_unstable();
        Some((*took.get(took.len().saturating_sub(1) / 2)?, *took.last()?))
    }

    /// Faults after which no good answer came.
    pub fn unanswered(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_of_the_hit_server_to_a_later_request_ends_a_fault() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut recovery = Recovery::default();
        assert_eq!(recovery.median_and_longest(), None);
        recovery.fault(at(10), Some(1));
        recovery.fault(at(20), None);
        recovery.good_answer(1, at(5), at(30));
        assert_eq!(recovery.unanswered(), 2, "it was sent before");
        recovery.good_answer(0, at(25), at(40));
        assert_eq!(recovery.unanswered(), 1, "another server answered");
        recovery.good_answer(1, at(25), at(60));
        assert_eq!(
            recovery.median_and_longest(),
            Some((Duration::from_millis(20), Duration::from_millis(50)))
        );
        recovery.fault(at(70), None);
        recovery.withdraw(at(70));
        recovery.withdraw(at(10));
        let twenty = Duration::from_millis(20);
        assert_eq!(
            (recovery.unanswered(), recovery.median_and_longest()),
            (0, Some((twenty, twenty))),
            "they did not happen"
        );
    }
}
