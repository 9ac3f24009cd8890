//! Limits tries by key: a burst in a row, then one per interval. The caller chooses what counts:
//! only failures ([`Limiter::wait`] before, [`Limiter::count`] after), or every try
//! ([`Limiter::take`]).
//!
//! A count is stored as the moment at which it will be empty again. Each try moves that moment
//! later. There is room while it lies less than a burst ahead. Each server counts for itself, and
//! its counts are lost when it stops.
//!
//! `rate_limiter.rs` counts requests instead: their answers report what is left, and a flood of
//! keys must not push counts out.

use std::{hash::Hash, time::Duration};

use moka::{Expiry, ops::compute::Op, sync::Cache};
use tokio::time::Instant;

/// The most counts. Beyond that the least used are dropped.
const MOST_COUNTS: u64 = 100_000;

#[derive(Clone)]
pub struct Limiter<K> {
    burst: u32,
    every: Duration,
    empty_at: Cache<K, Instant>,
}

/// Drops a count when it is empty, and not before, even when nobody asks for it.
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
    /// Allows `burst` tries in a row, then one per `every`.
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

    /// The time until there is room for another try; `None` when there is.
    pub fn wait(&self, key: &K, now: Instant) -> Option<Duration> {
        self.wait_at(self.empty_at.get(key)?, now)
    }

    fn wait_at(&self, empty_at: Instant, now: Instant) -> Option<Duration> {
        let ahead = empty_at.saturating_duration_since(now);
        ahead
            .checked_sub(self.every * (self.burst - 1))
            .filter(|left| !left.is_zero())
    }

    /// Counts a try, whether there is room or not.
    pub fn count(&self, key: K, now: Instant) {
        self.empty_at.entry(key).and_upsert_with(|entry| {
            entry.map_or(now, |entry| entry.into_value()).max(now) + self.every
        });
    }

    /// Counts a try if there is room, or returns the time until there is.
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

    /// Takes back a counted try that was no failure.
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
    fn a_burst_has_room_and_then_one_try_per_interval() {
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
        assert_eq!(
            limiter.take("bob", now),
            Ok(()),
            "each key has its own count"
        );
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
            brief.empty_at.run_pending_tasks(); // an empty count takes no room
        }
    }
}
