//! Tells the job board at a start how the users with unfinished jobs stand: who may not act, and who has which tier.
//! Without it the board would learn it of each user by the first claim.

use std::time::Duration;

use genie_actors::jobs::{JobBoard, queues::OwnerStanding};
use genie_events::tier::Tier;
use genie_log::{Log, LogError};
use genie_projections::{ReadSide, accounts::AccountStanding};
use tracing::warn;

/// The users that are looked up at once.
const PAGE: usize = 1000;
/// The pause after the read side was behind, or could not be read.
const AWAY: Duration = Duration::from_millis(500);
/// The longest wait for the read side at once.
const READ_SIDE: Duration = Duration::from_secs(30);

/// Runs once, to its end. Spawn it.
pub async fn tell(board: JobBoard, log: Log, reads: ReadSide) {
    board.started().await;
    // The board follows the log from before this head, so it sees what the accounts do not have yet.
    let head = log.reader().head();
    while reads.wait_for("accounts", head, READ_SIDE).await.is_err() {
        log.clock().pause(AWAY).await;
    }
    while let Err(error) = tell_all(&board, &reads).await {
        warn!(%error, "job board: reading how users stand failed; trying again");
        log.clock().pause(AWAY).await;
    }
}

async fn tell_all(board: &JobBoard, reads: &ReadSide) -> Result<(), LogError> {
    for owners in board.owners().chunks(PAGE) {
        let standings = reads.accounts.standings(owners.to_vec()).await?;
        let standings: Vec<OwnerStanding> = standings.iter().map(standing).collect();
        board.learn(&standings);
    }
    Ok(())
}

fn standing(account: &AccountStanding) -> OwnerStanding {
    OwnerStanding {
        user: account.user,
        may_act: account.status == "active",
        tier: Tier::parse(&account.tier).unwrap_or_default(),
    }
}
