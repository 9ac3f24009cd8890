//! How long it takes to forget a user with a very long past: the append of the fact must not depend on it.

use genie_actors::forget::Forget;
use genie_events::{Metadata, account::AtTheWishOf};
use tokio::time::Instant;

use crate::{
    ground::{Ground, Measured, name_on},
    numbers::millis,
    table::{Bound, Row},
    wake::give_a_past,
};

/// Events of the user.
const EVENTS: u64 = 1_000_000;

/// From the call to the durable fact: the user is forgotten then. What is left is erased later, and not measured.
pub async fn measure(ground: &Ground) -> Measured<Row> {
    let node = ground.node().await?;
    let creator = ground.creators(&node, 1).await?[0];
    give_a_past(&node, creator, EVENTS).await?;
    // As with every user who was active lately, there is a snapshot.
    creator.ask(&node).await?;
    creator.ask(&node).await?;
    let began = Instant::now();
    Forget::new(node.log.clone(), Some(node.users.clone())).now(creator.id, AtTheWishOf::Operator, Metadata::system()).await?;
    let took = began.elapsed();
    let name = name_on("credentials", ground.store.kind, "forget_1m_events_ms");
    Ok(Row::new(name, millis(took), "ms", Bound::AtMost(50.0)))
}
