//! Compares what a subscriber has seen with the log. It must have seen everything it asked for, once, in order and unchanged. An
//! event takes eight bytes, so that a run may last for hours.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::verdict::{Mistake, RunVerdict};

#[derive(Debug, Clone, Copy)]
pub struct Expected {
    pub hash: u64,
    pub is_job: bool,
    pub slice: u16,
}

/// A hash of everything that a feed shows of an event. Never 0.
pub fn event_hash(
    position: u64,
    event_id: &str,
    event_type: &str,
    subject: &str,
    sequence: u64,
) -> u64 {
    let mut hasher = DefaultHasher::new();
    (position, event_id, event_type, subject, sequence).hash(&mut hasher);
    hasher.finish() | 1
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedFilter {
    Everything,
    Jobs,
    /// Slices 0 to 511.
    HalfTheSlices,
}

impl FeedFilter {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Jobs => "jobs",
            Self::HalfTheSlices => "half the slices",
        }
    }

    /// As a query of `/api/events`.
    pub fn query(self) -> &'static str {
        match self {
            Self::Everything => "",
            Self::Jobs => "types=job.*",
            Self::HalfTheSlices => "slices=0-511",
        }
    }

    fn wants(self, event: &Expected) -> bool {
        match self {
            Self::Everything => true,
            Self::Jobs => event.is_job,
            Self::HalfTheSlices => event.slice < 512,
        }
    }
}

#[derive(Debug)]
pub struct FeedNotes {
    pub name: String,
    wanted: FeedFilter,
    /// By position, from 1; 0 is not seen.
    seen: Vec<u64>,
    /// The cursor that it would resume from.
    pub cursor: u64,
    pub resumed: u64,
    went_back: RunVerdict,
}

impl FeedNotes {
    pub fn new(name: impl Into<String>, wanted: FeedFilter) -> Self {
        Self {
            name: name.into(),
            wanted,
            seen: Vec::new(),
            cursor: 0,
            resumed: 0,
            went_back: RunVerdict::default(),
        }
    }

    pub fn saw(&mut self, position: u64, hash: u64) {
        if position <= self.cursor {
            let sentence = format!(
                "{}: position {position} was shown after the cursor had reached {}",
                self.name, self.cursor
            );
            self.went_back.add(Mistake::Order, sentence);
        }
        let at = position as usize;
        if self.seen.len() < at {
            self.seen.resize(at, 0);
        }
        if at > 0 {
            self.seen[at - 1] = hash;
        }
        self.cursor = self.cursor.max(position);
    }

    /// The cursor moved on without an event.
    pub fn passed(&mut self, position: u64) {
        self.cursor = self.cursor.max(position);
    }

    /// Compares the notes with the whole log. The subscriber had the time to read everything up to position `until`.
    pub fn check(self, log: &[Expected], until: u64) -> RunVerdict {
        let mut verdict = self.went_back;
        // It may have missed later events, unless its cursor went past them.
        let until = until.max(self.cursor) as usize;
        for (n, event) in log.iter().enumerate() {
            let position = n + 1;
            let wanted = self.wanted.wants(event);
            match self.seen.get(n).copied().unwrap_or(0) {
                0 if wanted && position <= until => verdict.add(
                    Mistake::Skipped,
                    format!("{}: position {position} was never shown", self.name),
                ),
                0 => {}
                _ if !wanted => {
                    verdict.add(
                        Mistake::NeverSent,
                        format!("{}: position {position} was shown unasked", self.name),
                    );
                }
                hash if hash != event.hash => {
                    verdict.add(
                        Mistake::Order,
                        format!(
                            "{}: position {position} was shown with another event",
                            self.name
                        ),
                    );
                }
                _ => {}
            }
        }
        for position in log.len() + 1..=self.seen.len() {
            if self.seen[position - 1] != 0 {
                verdict.add(
                    Mistake::NeverSent,
                    format!(
                        "{}: position {position} was shown and is not in the log",
                        self.name
                    ),
                );
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Vec<Expected> {
        (1..=6)
            .map(|n| Expected {
                hash: n * 10,
                is_job: n % 2 == 0,
                slice: if n < 4 { 1 } else { 900 },
            })
            .collect()
    }

    fn notes(wanted: FeedFilter, seen: &[u64]) -> FeedNotes {
        let mut notes = FeedNotes::new("a subscriber", wanted);
        seen.iter()
            .for_each(|position| notes.saw(*position, position * 10));
        notes
    }

    #[test]
    fn notes_of_every_wanted_event_are_clean() {
        for (wanted, seen) in [
            (FeedFilter::Everything, &[1, 2, 3, 4, 5, 6][..]),
            (FeedFilter::Jobs, &[2, 4, 6]),
            (FeedFilter::HalfTheSlices, &[1, 2, 3]),
        ] {
            let mut notes = notes(wanted, seen);
            notes.passed(6);
            assert!(notes.check(&log(), 6).is_clean(), "{wanted:?}");
        }
    }

    #[test]
    fn events_after_the_last_position_may_be_missed() {
        let seen = || notes(FeedFilter::Everything, &[1, 2, 3, 4]);
        assert!(seen().check(&log(), 4).is_clean());
        assert_eq!(seen().check(&log(), 5).count(Mistake::Skipped), 1);
        let mut passed = seen();
        passed.passed(6);
        assert_eq!(
            passed.check(&log(), 4).count(Mistake::Skipped),
            2,
            "its cursor went past them"
        );
    }

    #[test]
    fn each_counter_can_rise() {
        assert_eq!(
            notes(FeedFilter::Everything, &[1, 2, 4, 5, 6])
                .check(&log(), 6)
                .count(Mistake::Skipped),
            1,
            "one was left out"
        );
        assert_eq!(
            notes(FeedFilter::Everything, &[1, 2, 3, 4, 5])
                .check(&log(), 6)
                .count(Mistake::Skipped),
            1,
            "the last is missing"
        );
        assert_eq!(
            notes(FeedFilter::Everything, &[1, 2, 3, 3, 4, 5, 6])
                .check(&log(), 6)
                .count(Mistake::Order),
            1,
            "one came twice"
        );
        assert_eq!(
            notes(FeedFilter::Everything, &[1, 3, 2, 4, 5, 6])
                .check(&log(), 6)
                .count(Mistake::Order),
            1,
            "two changed places"
        );
        assert_eq!(
            notes(FeedFilter::Jobs, &[1, 2, 4, 6])
                .check(&log(), 6)
                .count(Mistake::NeverSent),
            1,
            "one was not asked for"
        );
        assert_eq!(
            notes(FeedFilter::Everything, &[1, 2, 3, 4, 5, 6, 7])
                .check(&log(), 6)
                .count(Mistake::NeverSent),
            1,
            "beyond the log"
        );
        let mut other = notes(FeedFilter::Everything, &[1, 2, 3, 4, 5]);
        other.saw(6, 61);
        assert_eq!(
            other.check(&log(), 6).count(Mistake::Order),
            1,
            "another event in its place"
        );
    }
}
