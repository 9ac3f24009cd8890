//! Limits how often something may be wrong, or be asked for, by key: so many in a row, then one in a while. The caller says what
//! counts: only failures ([`Limiter::wait`] before, [`Limiter::count`] after), or every try ([`Limiter::take`]).
//!
//! Each count is one moment, at which it would be empty again. One more puts it off. As long as it lies no more than a whole
//! burst ahead, there is room. Counts are of this server alone, and gone when it stops.
//!
//! Requests are counted in `rate_limiter.rs` instead: their answers tell what is left, and a flood of keys may not push counts out.

use std::{hash::Hash, time::Duration};

use moka::{Expiry, ops::compute::Op, sync::Cache};
use tokio::time::Instant;

/// Counts that are kept; past it the least used are forgotten.
const MOST_COUNTS: u64 = 100_000;

/// Counts by key.
#[derive(Clone)]
pub struct Limiter<K> {
    burst: u32,
    every: Duration,
    empty_at: Cache<K, Instant>,
}

/// A count is forgotten when it is empty, and not before, however long nobody asks for it.
struct WhenEmpty;

impl<K> Expiry<K, Instant> for WhenEmpty {
    fn expire_after_create(
        &self,
        _: &K,
        empty_at: &Instant,
        now: std::time::Instant,
    ) -> Option<Duration> {
        Some(empty_at.into_std().saturating_duration_since(now))
    }

    fn expire_after_update(
        &self,
        _: &K,
        empty_at: &Instant,
        now: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(empty_at.into_std().saturating_duration_since(now))
    }
}

impl<K: Hash + Eq + Send + Sync + 'static> Limiter<K> {
    /// Allows `burst` in a row, then one in `every`.
    pub fn new(burst: u32, every: Duration) -> Self {
        Self {
            burst,
            every,
            empty_at: Cache::builder()
                .max_capacity(MOST_COUNTS)
                .expire_after(WhenEmpty)
                .build(),
        }
    }

    /// How long until there is room for another; nothing when there is.
    pub fn wait(&self, key: &K, now: Instant) -> Option<Duration> {
        self.wait_at(self.empty_at.get(key)?, now)
    }

    fn wait_at(&self, empty_at: Instant, now: Instant) -> Option<Duration> {
        let ahead = empty_at.saturating_duration_since(now);
        ahead
            .checked_sub(self.every * (self.burst - 1))
            .filter(|left| !left.is_zero())
    }

    /// Counts one more, whether there is room or not.
    pub fn count(&self, key: K, now: Instant) {
        self.empty_at.entry(key).and_upsert_with(|entry| {
            entry.map_or(now, |entry| entry.into_value()).max(now) + self.every
        });
    }

    /// Counts one more if there is room; else says how long until there is.
    pub fn take(&self, key: K, now: Instant) -> Result<(), Duration> {
        let mut wait = None;
        self.empty_at.entry(key).and_compute_with(|entry| {
            let empty_at = entry.map_or(now, |entry| entry.into_value()).max(now);
            wait = self.wait_at(empty_at, now);
            match wait {
                Some(_) => Op::Nop,
                None => Op::Put(empty_at + self.every),
            }
        });
        wait.map_or(Ok(()), Err)
    }

    /// Takes one back that was counted and was right after all.
    pub fn give_back(&self, key: K) {
        if let Some(empty_at) = self.empty_at.get(&key) {
            let before = empty_at.checked_sub(self.every).unwrap_or(empty_at);
            self.empty_at.insert(key, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_has_room_and_then_one_in_a_while() {
        let every = Duration::from_secs(3);
        let limiter = Limiter::new(2, every);
        let now = Instant::now();
        assert_eq!(limiter.take("ada", now), Ok(()));
        assert_eq!(limiter.take("ada", now), Ok(()));
        assert_eq!(limiter.take("ada", now), Err(every));
        assert_eq!(
            limiter.take("ada", now),
            Err(every),
            "a refusal is not counted"
        );
        assert_eq!(limiter.wait(&"ada", now), Some(every));
        assert_eq!(limiter.take("bob", now), Ok(()), "each key by itself");
        assert_eq!(limiter.take("ada", now + every), Ok(()));
        limiter.give_back("ada");
        assert_eq!(limiter.wait(&"ada", now + every), None);
        limiter.count("ada", now + every);
        limiter.count("ada", now + every);
        assert_eq!(limiter.wait(&"ada", now + every), Some(every * 2));
    }

    #[test]
    fn a_count_is_kept_until_it_is_empty_and_no_longer() {
        let counts = Limiter::new(2, Duration::from_secs(3600));
        let now = Instant::now();
        (0..1000).for_each(|_| counts.count("many at once", now));
        assert_eq!(
            counts.wait(&"many at once", now),
            Some(Duration::from_secs(3600) * 999),
            "nothing is forgiven"
        );
        let brief = Limiter::new(2, Duration::from_nanos(1));
        brief.count("a moment ago", now);
        while brief.empty_at.entry_count() > 0 {
            brief.empty_at.run_pending_tasks(); // what is empty takes no room
        }
    }
}
