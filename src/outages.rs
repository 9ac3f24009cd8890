//! Answers with status 503 as the log tells them: each code at once, then once a minute with the number of answers since.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::warn;

const MINUTE: Duration = Duration::from_secs(60);

/// By code: the answers that the log has not told yet. A code stands here for as long as its minute lasts.
#[derive(Debug, Clone, Default)]
pub struct Outages(Arc<Mutex<HashMap<String, u64>>>);

impl Outages {
    /// Counts an answer, and logs it when it is the first within a minute. To be called inside a runtime.
    pub fn count(&self, code: &str, reason: Option<&str>) {
        if let Some(untold) = self.untold().get_mut(code) {
            *untold += 1;
            return;
        }
        self.untold().insert(code.to_owned(), 0);
        warn!(
            code,
            reason,
            count = 1,
            "requests: answered with status 503; the next such line comes in a minute"
        );
        tokio::spawn(self.clone().tell_each_minute(code.to_owned()));
    }

    /// Ends after a minute without such an answer.
    async fn tell_each_minute(self, code: String) {
        loop {
            tokio::time::sleep(MINUTE).await;
            let Some(count) = self.take(&code) else {
                return;
            };
            warn!(
                code,
                count, "requests: answered with status 503 during the last minute"
            );
        }
    }

    /// The answers of the last minute; the code is forgotten when there were none.
    fn take(&self, code: &str) -> Option<u64> {
        let mut all = self.untold();
        let count = std::mem::take(all.get_mut(code)?);
        if count == 0 {
            all.remove(code);
            return None;
        }
        Some(count)
    }

    fn untold(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner) // a count is whole at any time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_first_answer_of_a_minute_is_told_at_once() {
        let outages = Outages::default();
        for code in ["busy", "busy", "busy", "store_away"] {
            outages.count(code, None);
        }
        assert_eq!(outages.take("busy"), Some(2), "the first was told");
        assert_eq!(outages.take("busy"), None, "a quiet minute ends it");
        assert_eq!(outages.take("store_away"), None);
        outages.count("busy", None);
        assert_eq!(outages.take("busy"), None, "told at once again");
    }
}
