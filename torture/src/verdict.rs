//! The six counters that must be zero, each with examples.

use serde_json::{Value, json};

/// The most examples kept of each kind.
const EXAMPLES: usize = 10;

/// A mistake that must never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    Missing,
    Twice,
    NeverSent,
    Skipped,
    Order,
    Lapsed,
}

impl Mistake {
    pub const ALL: [Self; 6] = [
        Self::Missing,
        Self::Twice,
        Self::NeverSent,
        Self::Skipped,
        Self::Order,
        Self::Lapsed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "acknowledged but missing",
            Self::Twice => "applied twice",
            Self::NeverSent => "visible but never sent",
            Self::Skipped => "skipped by a subscriber's cursor",
            Self::Order => "order differs between stream, feed and projection",
            Self::Lapsed => "job finished under a lapsed lease",
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct RunVerdict {
    counts: [u64; 6],
    examples: [Vec<String>; 6],
}

impl RunVerdict {
    /// Counts a finding, and keeps its sentence while there is room.
    pub fn add(&mut self, count: Mistake, sentence: impl Into<String>) {
        self.counts[count as usize] += 1;
        let examples = &mut self.examples[count as usize];
        if examples.len() < EXAMPLES {
            examples.push(sentence.into());
        }
    }

    pub fn join(&mut self, other: RunVerdict) {
        for (n, examples) in other.examples.into_iter().enumerate() {
            self.counts[n] += other.counts[n];
            let room = EXAMPLES.saturating_sub(self.examples[n].len());
            self.examples[n].extend(examples.into_iter().take(room));
        }
    }

    pub fn count(&self, count: Mistake) -> u64 {
        self.counts[count as usize]
    }

    pub fn examples(&self, count: Mistake) -> &[String] {
        &self.examples[count as usize]
    }

    #[cfg(test)]
    pub fn is_clean(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    pub fn json(&self) -> Value {
        Mistake::ALL
            .map(|count| json!({"name": count.as_str(), "count": self.count(count), "examples": self.examples(count)}))
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_is_counted_and_some_are_kept() {
        let mut verdict = RunVerdict::default();
        assert!(verdict.is_clean());
        (0..8).for_each(|n| verdict.add(Mistake::Twice, n.to_string()));
        let mut other = RunVerdict::default();
        (8..16).for_each(|n| other.add(Mistake::Twice, n.to_string()));
        verdict.join(other);
        assert_eq!(
            (
                verdict.count(Mistake::Twice),
                verdict.examples(Mistake::Twice).len()
            ),
            (16, EXAMPLES)
        );
        assert!(!verdict.is_clean() && verdict.count(Mistake::Missing) == 0);
    }
}
