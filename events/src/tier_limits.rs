//! The limits of tiers, as data: read from `tiers.toml` and passed to the rules with the time
//! (docs/api.md, Usage and tiers).

use std::sync::Arc;

use crate::{
    refusal::Refusal,
    tier::{Counter, Tier},
    timestamp::Timestamp,
};

const BUILT_IN: &str = include_str!("../tiers.toml");

/// The limit of each counter in each tier, and the bound on everybody's facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    counters: Arc<[[Option<u64>; Counter::ALL.len()]; Tier::ALL.len()]>,
    facts_per_day: u64,
    file_bytes: u64,
}

/// A program that changes something each second all day long stays below it. A person makes a few
/// hundred changes. At a kilobyte a fact, a user adds at most about 100 MB a day to the log.
const FACTS_PER_DAY: u64 = 100_000;

/// The most bytes of one user's files together.
const FILE_BYTES: u64 = 20 << 30;

/// Everything besides the state that a rule decides on.
#[derive(Debug, Clone)]
pub struct Now {
    pub moment: Timestamp,
    pub limits: Limits,
}

impl Limits {
    /// The limits of the built-in file.
    pub fn built_in() -> Self {
        Self::read(BUILT_IN).expect("a test reads the file that is built in")
    }

    /// Reads the text of a `tiers.toml`. Reports all mistakes at once, one sentence each: a tier or
    /// counter that is unknown, missing or named twice, and a limit that is no whole number from
    /// -1.
    pub fn read(text: &str) -> Result<Self, Vec<String>> {
        // Keeps the parser's sentence and place, without the line itself.
        let not_toml = |error: toml::de::Error| {
            let at = error.span().map_or(1, |span| {
                text.get(..span.start)
                    .unwrap_or_default()
                    .lines()
                    .count()
                    .max(1)
            });
            vec![format!(
                "it is not TOML, near line {at}: {}",
                error.message()
            )]
        };
        let file: toml::Table = toml::from_str(text).map_err(not_toml)?;
        let mut wrong = Vec::new();
        let mut given = [const { None }; Tier::ALL.len()];
        for (name, table) in &file {
            match Tier::parse(name) {
                None => wrong.push(format!(
                    "`{name}` is no tier; they are starter, creator, pro and studio"
                )),
                Some(tier) if given[tier as usize].is_some() => {
                    wrong.push(format!("the tier {} is there twice", tier.as_str()))
                }
                Some(tier) => given[tier as usize] = Some(table),
            }
        }
        let mut limits = [[Some(0); Counter::ALL.len()]; Tier::ALL.len()];
        for tier in Tier::ALL {
            match given[tier as usize].map(toml::Value::as_table) {
                None => wrong.push(format!("the tier {} is missing", tier.as_str())),
                Some(None) => {
                    wrong.push(format!("`{}` must be a table of counters", tier.as_str()))
                }
                Some(Some(table)) => read_tier(tier, table, &mut limits[tier as usize], &mut wrong),
            }
        }
        if wrong.is_empty() {
            Ok(Self {
                counters: Arc::new(limits),
                facts_per_day: FACTS_PER_DAY,
                file_bytes: FILE_BYTES,
            })
        } else {
            Err(wrong)
        }
    }

    /// The same limits with another bound on a user's facts of a day.
    pub fn with_facts_per_day(self, facts_per_day: u64) -> Self {
        Self {
            facts_per_day,
            ..self
        }
    }

    /// The most facts that a user's own commands may add in a day.
    pub fn facts_per_day(&self) -> u64 {
        self.facts_per_day
    }

    /// The same limits with another bound on the bytes of a user's files.
    pub fn with_file_bytes(self, file_bytes: u64) -> Self {
        Self { file_bytes, ..self }
    }

    /// The most bytes of one user's files together.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The limit of a tier. `None` is unlimited, and `Some(0)` means that the tier never has it.
    pub fn of(&self, tier: Tier, counter: Counter) -> Option<u64> {
        self.counters[tier as usize][counter as usize]
    }

    /// The same limit, ready for checks.
    pub fn allowance(&self, tier: Tier, counter: Counter) -> Allowance {
        Allowance {
            tier,
            counter,
            limit: self.of(tier, counter),
        }
    }
}

fn read_tier(tier: Tier, table: &toml::Table, limits: &mut [Option<u64>], wrong: &mut Vec<String>) {
    let tier = tier.as_str();
    for name in table.keys().filter(|name| Counter::parse(name).is_none()) {
        wrong.push(format!(
            "`{tier}.{name}` is no counter; they are {}",
            Counter::ALL.map(Counter::as_str).join(", ")
        ));
    }
    for counter in Counter::ALL {
        match table.get(counter.as_str()).map(toml::Value::as_integer) {
            Some(Some(limit @ -1..)) => limits[counter as usize] = u64::try_from(limit).ok(),
            Some(_) => wrong.push(format!("`{tier}.{counter}` must be a whole number: a limit, 0 for none, or -1 for unlimited")),
            None => wrong.push(format!("`{tier}.{counter}` is missing")),
        }
    }
}

/// A counter's limit for one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    pub tier: Tier,
    pub counter: Counter,
    /// `None` is unlimited.
    pub limit: Option<u64>,
}

impl Allowance {
    /// Checks that the tier allows this count, the requested amount included.
    pub fn check(self, count: u64) -> Result<(), Refusal> {
        match self.limit {
            Some(limit) if count > limit => {
                Err(Refusal::quota(self.counter, limit > 0, self.tier.as_str()))
            }
            _ => Ok(()),
        }
    }

    /// True when no more is allowed.
    pub fn is_reached(self, count: u64) -> bool {
        self.limit.is_some_and(|limit| count >= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_limits_are_the_documented_ones() {
        let limits = Limits::built_in();
        for (counter, of_tiers) in [
            (Counter::PostsAiAssisted, [3, 30, 200, -1]),
            (Counter::PostsPublished, [5, 90, -1, -1]),
            (Counter::ScheduledQueueSize, [3, -1, -1, -1]),
            (Counter::PlatformsConnected, [1, 3, 6, 9]),
            (Counter::TaxonomyAiCalls, [5, 75, 500, -1]),
            (Counter::WatermarkOps, [-1, -1, -1, -1]),
            (Counter::AiClipOps, [0, 10, 150, -1]),
            (Counter::ThumbnailOps, [0, -1, -1, -1]),
            (Counter::TeamSeats, [1, 1, 3, 5]),
        ] {
            assert_eq!(
                Tier::ALL.map(|tier| limits.of(tier, counter)),
                of_tiers.map(|limit: i64| u64::try_from(limit).ok())
            );
        }
    }

    #[test]
    fn a_file_may_use_the_old_names_and_must_be_whole() {
        let old = BUILT_IN
            .replace("[starter]", "[freemium]")
            .replace("[studio]", "[elite]");
        assert_eq!(Limits::read(&old), Ok(Limits::built_in()));
        let wrong =
            BUILT_IN
                .replace("[pro]", "[gold]")
                .replacen("team_seats = 1", "team_chairs = 1", 1);
        let wrong =
            Limits::read(&wrong.replacen("ai_clip_ops = 0", "ai_clip_ops = -2", 1)).unwrap_err();
        let named = [
            "`gold` is no tier",
            "`starter.team_chairs` is no counter",
            "`starter.ai_clip_ops` must be",
        ];
        let missing = ["`starter.team_seats` is missing", "the tier pro is missing"];
        assert_eq!(wrong.len(), 5, "{wrong:?}");
        for words in named.into_iter().chain(missing) {
            assert!(
                wrong.iter().any(|sentence| sentence.contains(words)),
                "{words}: {wrong:?}"
            );
        }
        let twice = format!("{BUILT_IN}\n[freemium]\nteam_seats = 1\n");
        assert!(
            Limits::read(&twice)
                .unwrap_err()
                .contains(&"the tier starter is there twice".to_owned())
        );
        assert!(Limits::read("starter = 3").unwrap_err()[0].contains("must be a table"));
        assert!(Limits::read("[starter").unwrap_err()[0].contains("not TOML, near line 1"));
    }

    #[test]
    fn the_limit_itself_is_allowed_and_one_more_is_not() {
        let allowance = Limits::built_in().allowance(Tier::Creator, Counter::AiClipOps);
        assert_eq!(
            (
                allowance.check(10),
                allowance.is_reached(9),
                allowance.is_reached(10)
            ),
            (Ok(()), false, true)
        );
        assert!(allowance.check(11).is_err());
        let without_end = Limits::built_in().allowance(Tier::Studio, Counter::AiClipOps);
        assert_eq!(
            (
                without_end.check(u64::MAX),
                without_end.is_reached(u64::MAX)
            ),
            (Ok(()), false)
        );
    }
}
