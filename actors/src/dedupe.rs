//! Facts that were put on record a moment ago. The same request of the same caller, repeated again and again, is one fact a
//! minute: a log must not fill with refusals, or with notes of who reads it.

use std::{hash::Hash, sync::Arc, time::Duration};

use moka::sync::Cache;

/// How long a fact on record stands for the same request again, on this node.
const LASTS: Duration = Duration::from_secs(60);
/// The most that is remembered; what does not fit is put on record each time.
const MAX_REMEMBERED: u64 = 10_000;

/// Keys of facts that are on record. Clones share them.
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

    /// Whether a fact of this key still stands.
    pub fn stands(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// Remembers a fact that is on record now. A key that stands is not renewed, so that what goes on for hours is on record
    /// each minute.
    pub fn remember(&self, key: K) {
        self.0.entry(Arc::new(key)).or_insert(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_remembered_stands_and_is_bounded() {
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
