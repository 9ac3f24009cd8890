//! The runtime of a command.

use tokio::runtime::{Builder, Runtime};

const THREADS: usize = 2;

pub fn start() -> Result<Runtime, String> {
    Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime can't be started: {error}"))
}

/// Runs `work` on its own runtime.
pub fn run<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    start()?.block_on(work)
}
