//! What the leader deletes: old outcomes of requests with an `Idempotency-Key`, old signed heads but
//! for one an hour, and pieces of answers whose turn is over. Each step is short, so that appends never wait for it long. A step that is
//! repeated deletes the rest.

use std::time::Duration;

use genie_log::{Election, Epoch, Log, LogError, retention::ROWS_AT_ONCE};
use tracing::{info, warn};

/// How often the leader looks for old rows.
const TICK: Duration = Duration::from_secs(5 * 60);
/// Pause between two full steps: others write meanwhile.
const BETWEEN_STEPS: Duration = Duration::from_millis(50);

/// Deletes old rows whenever this node leads. Runs for ever; spawn it.
pub async fn run(log: Log, mut election: Election, keep_outcomes: Duration) {
    let keep_seconds = i64::try_from(keep_outcomes.as_secs()).unwrap_or(i64::MAX);
    loop {
        let epoch = election.elected().await;
        match tidy(&log, epoch, keep_seconds).await {
            Ok(0) => {}
            Ok(count) => info!(count, "housekeeping: deleted old outcomes of requests"),
            Err(LogError::Deposed) => info!("housekeeping: another server leads and continues"),
            Err(error) => {
                warn!(%error, "housekeeping: deleting old rows failed; trying again later")
            }
        }
        log.clock().pause(TICK).await;
    }
}

/// Answers the number of outcomes that it deleted.
async fn tidy(log: &Log, epoch: Epoch, keep_seconds: i64) -> Result<u64, LogError> {
    let retention = log.retention();
    let now = log.clock().now();
    let mut count = 0;
    loop {
        let deleted = retention
            .delete_outcomes(epoch, now.plus_seconds(-keep_seconds))
            .await?;
        count += deleted;
        if deleted < ROWS_AT_ONCE {
            break;
        }
        tokio::time::sleep(BETWEEN_STEPS).await;
    }
    retention.delete_stray_pieces(epoch).await?;
    while retention.thin_heads(epoch, now).await? == ROWS_AT_ONCE {
        tokio::time::sleep(BETWEEN_STEPS).await;
    }
    Ok(count)
}
