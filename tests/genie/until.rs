//! Waiting: for what tells nobody that it has happened, and for a moment to break something off. No test waits elsewhere.

use std::time::{Duration, Instant};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Looks again and again until there is something to see.
pub async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(LIMIT, what, look).await
}

/// The same for what takes longer than anything else, or may not take as long.
pub async fn until_within<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(started.elapsed() < limit, "never: {what}");
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// The moment at which something is killed is what is tested: so long after it began.
pub async fn moment_after(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}
