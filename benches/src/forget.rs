//! Measures forgetting a user with a very long past. The append of the fact must not depend on the
//! length of the past.

use genie_actors::forgetting::Forgetter;
use genie_events::{Metadata, account::ForgottenBy};
use genie_log::load_users::Waking;
use genie_log::testing::appender;
use tokio::time::Instant;

use crate::{
    load_user::give_a_past,
    setup::{Creator, Ground, Measured, Node, name_on},
    statistics::millis,
    table::{Bound, Row},
};

/// The name of the figure.
pub const FORGET: &str = "forget_1m_events_ms";
/// Events of the user.
const EVENTS: u64 = 1_000_000;

/// The time from the call to the durable fact, by which the user is forgotten. Erasing the rest
/// happens later and is not measured.
pub async fn measure(ground: &Ground) -> Measured<Row> {
    let node = ground.node().await?;
    let creator = ground.creators(&node, 1).await?[0];
    give_a_past(&node, creator, EVENTS).await?;
    keep_snapshot(&node, creator).await?;
    let began = Instant::now();
    Forgetter::new(appender(&node.log), Some(node.users.clone()))
        .now(creator.id, ForgottenBy::Operator, Metadata::system())
        .await?;
    let took = began.elapsed();
    let name = name_on("credentials", ground.store.kind, FORGET);
    Ok(Row::new(name, millis(took), "ms", Bound::AtMost(50.0)))
}

/// Keeps a snapshot, because every user who was active lately has one.
async fn keep_snapshot(node: &Node, creator: Creator) -> Measured<()> {
    loop {
        let Waking::Awake(awake) = node.log.users().wake(creator.id).await? else {
            return Err("the user was forgotten before".into());
        };
        if awake.snapshot_seq == awake.user.seq() {
            return Ok(());
        }
        node.log
            .users()
            .keep_snapshot(&awake.user, awake.position)
            .await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await; // a separate task writes the snapshot
    }
}
