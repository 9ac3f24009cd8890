//! The models that are loaded, as far as their answers tell. A model server unloads a model that was not asked for some
//! minutes, or for which another one makes room.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::canonical_model;

/// A model that answered within this time is loaded. Model servers keep it for 5 minutes unless they are told otherwise.
const KEPT: Duration = Duration::from_secs(240);

/// The model that each server answered by last, and when.
#[derive(Debug, Default)]
pub(crate) struct LoadedModels(Mutex<HashMap<usize, (String, Instant)>>);

impl LoadedModels {
    /// Takes note that this server answers by this model now.
    pub fn note(&self, server: usize, model: &str, now: Instant) {
        self.0.lock().insert(server, (canonical_model(model), now));
    }

    /// True when the model answered on this server a moment ago, so that nobody has to ask the server.
    pub fn has(&self, server: usize, model: &str, now: Instant) -> bool {
        let models = self.0.lock();
        let last = models.get(&server);
        last.is_some_and(|(last, at)| *last == canonical_model(model) && now - *at < KEPT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_loaded_for_minutes_after_its_answer_until_another_answers() {
        let models = LoadedModels::default();
        let now = Instant::now();
        assert!(!models.has(0, "m", now));
        models.note(0, "M:latest", now);
        assert!(models.has(0, "m", now));
        assert!(!models.has(1, "m", now), "on another server");
        let later = now + KEPT;
        assert!(!models.has(0, "m", later));
        models.note(0, "m", later);
        assert!(models.has(0, "m", later));
        models.note(0, "other:7b", later);
        assert!(
            !models.has(0, "m", later),
            "another may have taken its room"
        );
    }
}
