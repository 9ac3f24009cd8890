//! `genie audit`: prints a user's facts, and verifies the log. It only reads, so it may run beside
//! the server.

use genie_log::Log;

use crate::{
    cli::{output::say, runtime},
    config::Config,
    store::read_log,
};

/// Proofs, in the form that the command line and HTTP share.
pub mod proof;
pub mod show;
pub mod verify;

/// Opens the log for reading, on its own runtime, and hands it to `work`.
pub fn with_log(
    config: &Config,
    work: impl AsyncFnOnce(Log) -> Result<(), String>,
) -> Result<(), String> {
    runtime::run(async { work(read_log(config).await?).await })
}

/// Prints the public key that verifies this log's signed heads.
pub async fn print_key(log: Log) -> Result<(), String> {
    let key = log
        .proofs()
        .head_key()
        .await
        .map_err(|error| error.to_string())?;
    say(&key.public().to_string());
    Ok(())
}
