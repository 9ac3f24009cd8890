//! Long pages are made a few at a time. Reading, opening and writing up to a mebibyte takes a core for
//! milliseconds. When hundreds are asked for at once, short answers would wait for all of them.

use std::{sync::LazyLock, thread};

use tokio::sync::{Semaphore, SemaphorePermit};

/// As many as there are cores, and one beside another that waits for the store.
static TURNS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Semaphore::new(cores.max(2))
});

/// Waits for a turn to make a long page. Hold it until the page is made.
pub async fn turn() -> SemaphorePermit<'static> {
    TURNS.acquire().await.expect("nobody closes it")
}
