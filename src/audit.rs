//! `genie audit`: prints a user's facts, and verifies the log. It only reads, and may run beside the server.

use genie_log::Log;

use crate::{
    cli::{output::say, runtime},
    config::Config,
    store::read_log,
};

/// Proofs, as the command line and HTTP show them.
pub mod proof;
/// A user's facts in order.
pub mod show;
/// The whole log against its digests, its tree and its signed heads.
pub mod verify;

/// Opens the log to be read, on a runtime of its own, and does something with it.
pub fn with_log(
    config: &Config,
    work: impl AsyncFnOnce(Log) -> Result<(), String>,
) -> Result<(), String> {
    runtime::run(async { work(read_log(config).await?).await })
}

/// Prints the key that this log's signed heads are verified with.
pub async fn print_key(log: Log) -> Result<(), String> {
    let key = log.head_key().await.map_err(|error| error.to_string())?;
    say(&key.public().to_string());
    Ok(())
}
