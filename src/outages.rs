//! Logs answers with status 503: the first of each code at once, later ones once a minute with
//! their number.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tracing::warn;

const MINUTE: Duration = Duration::from_secs(60);

/// By code: the answers that are not logged yet. A code leaves the map after a minute without an
/// answer.
#[derive(Debug, Clone, Default)]
pub struct Outages(Arc<Mutex<HashMap<String, u64>>>);

impl Outages {
    /// Counts an answer, and logs it when it is the first within a minute. Call it inside a
    /// runtime.
    pub fn count(&self, code: &str, reason: Option<&str>) {
        if let Some(unlogged) = self.0.lock().get_mut(code) {
            *unlogged += 1;
            return;
        }
        self.0.lock().insert(code.to_owned(), 0);
        warn!(
            code,
            reason,
            count = 1,
            "requests: answered with status 503; the next such line comes in a minute"
        );
        tokio::spawn(self.clone().log_each_minute(code.to_owned()));
    }

    /// Ends after a minute without such an answer.
    async fn log_each_minute(self, code: String) {
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

    /// Takes the answers of the last minute. Forgets the code when there were none.
    fn take(&self, code: &str) -> Option<u64> {
        let mut all = self.0.lock();
        let count = std::mem::take(all.get_mut(code)?);
        if count == 0 {
            all.remove(code);
            return None;
        }
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_first_answer_of_a_minute_is_logged_at_once() {
        let outages = Outages::default();
        for code in ["busy", "busy", "busy", "store_away"] {
            outages.count(code, None);
        }
        assert_eq!(outages.take("busy"), Some(2), "the first was logged");
        assert_eq!(outages.take("busy"), None, "a quiet minute ends it");
        assert_eq!(outages.take("store_away"), None);
        outages.count("busy", None);
        assert_eq!(outages.take("busy"), None, "logged at once again");
    }
}
