//! The only places where tests wait: for a state that nothing announces, and for the moment at
//! which to break something.

use std::time::{Duration, Instant};

/// Longer than any step takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Looks again and again until `look` returns something. `what` completes "waited in vain for".
pub async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(LIMIT, what, look).await
}

/// Like [`until`], for a step that takes longer than others or must not take as long.
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
        assert!(started.elapsed() < limit, "waited in vain for {what}");
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Waits this long, for tests that kill something at a given moment after its start.
pub async fn moment_after(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}
