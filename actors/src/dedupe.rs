//! Facts that were recorded a moment ago. The same request of the same caller, repeated again and again, is one fact
//! a minute: the log must not fill with refusals, or with records of its readers.

use std::{hash::Hash, sync::Arc, time::Duration};

use moka::sync::Cache;

/// A recorded fact stands this long for the same request again, on this node.
const LASTS: Duration = Duration::from_secs(60);
/// The most keys in memory. A fact whose key does not fit is recorded each time.
const MAX_REMEMBERED: u64 = 10_000;

/// Keys of recorded facts. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Dedupe<K>(Cache<Arc<K>, ()>)
where
    K: Hash + Eq + Send + Sync + 'static;

impl<K: Hash + Eq + Send + Sync + 'static> Dedupe<K> {
    pub fn new() -> Self {
        let cache = Cache::builder()
            .max_capacity(MAX_REMEMBERED)
            .time_to_live(LASTS)
            .build();
        Self(cache)
    }

    /// True while a fact with this key stands.
    pub fn stands(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// Remembers a fact that is recorded now. A key that stands is not renewed, so that requests that go on for hours
    /// are recorded each minute.
    pub fn remember(&self, key: K) {
        self.0.entry(Arc::new(key)).or_insert(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remembered_fact_stands_and_memory_is_bounded() {
        let dedupe = Dedupe::new();
        assert!(!dedupe.stands(&1));
        dedupe.remember(1);
        dedupe.clone().remember(1);
        assert!(dedupe.stands(&1) && !dedupe.stands(&2));
        (0..2 * MAX_REMEMBERED).for_each(|n| dedupe.remember(n));
        dedupe.0.run_pending_tasks();
        assert!(dedupe.0.entry_count() <= MAX_REMEMBERED);
    }
}
