//! What was put on record a moment ago. The same thing asked for again and again, by the same caller, is one fact a minute: a log
//! must not fill with what is refused, or with who reads it.

use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

/// How long what is on record stands for the same again, on this node.
const STANDS: Duration = Duration::from_secs(60);
/// The most that is remembered; past it each is put on record.
const MAX_REMEMBERED: usize = 10_000;

/// What was put on record lately. Clones share it.
#[derive(Debug)]
pub(crate) struct Lately<K>(Arc<Mutex<HashMap<K, Instant>>>);

impl<K> Clone for Lately<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Hash + Eq> Lately<K> {
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// Whether it is on record and still stands.
    pub fn stands(&self, key: &K, now: Instant) -> bool {
        self.lock().get(key).is_some_and(|at| stands_at(*at, now))
    }

    /// It is on record now. What stands already is not renewed, so that what goes on for hours is on record each minute.
    pub fn remember(&self, key: K, now: Instant) {
        let mut noted = self.lock();
        if noted.len() >= MAX_REMEMBERED {
            noted.retain(|_, at| stands_at(*at, now));
        }
        if noted.len() < MAX_REMEMBERED && !noted.get(&key).is_some_and(|at| stands_at(*at, now)) {
            noted.insert(key, now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Instant>> {
        self.0.lock()
    }
}

fn stands_at(noted: Instant, now: Instant) -> bool {
    now.duration_since(noted) < STANDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stands_for_a_minute_and_is_bounded() {
        let (lately, begin) = (Lately::new(), Instant::now());
        assert!(!lately.stands(&1, begin));
        lately.remember(1, begin);
        let half = begin + STANDS / 2;
        lately.remember(1, half);
        assert!(lately.stands(&1, half) && !lately.stands(&2, half));
        let over = begin + STANDS;
        assert!(!lately.stands(&1, over), "it was not renewed");
        (0..MAX_REMEMBERED as i32 + 10).for_each(|n| lately.remember(n, over));
        assert!(lately.stands(&0, over) && !lately.stands(&(MAX_REMEMBERED as i32 + 5), over));
    }
}
