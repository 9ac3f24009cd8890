//! Measures a command for a user with a long past who is not in memory.

use std::time::Duration;

use genie_events::{StreamId, StreamKind, credential::CredentialEvent};
use genie_log::testing::bulk::BulkLoader;
use tokio::time::Instant;

use crate::{
    setup::{Creator, EVENT_BYTES, Ground, Measured, Node, purpose},
    statistics::{millis, percentile},
    table::{Bound, Row},
};

/// Users with a long past.
const USERS: usize = 4;
/// Events of each user.
const EVENTS: u64 = 10_000;
/// The most users that are loaded.
const WAKES: usize = 200;
const LONGEST: Duration = Duration::from_secs(12);

/// The 99th percentile.
pub async fn measure(ground: &Ground) -> Measured<Vec<Row>> {
    let node = ground.node().await?;
    let creators = ground.creators(&node, USERS).await?;
    for creator in &creators {
        give_a_past(&node, *creator, EVENTS).await?;
    }
    // An uncounted round, after which genie has prepared what it prepares for a long past.
    for creator in &creators {
        wake(&node, *creator).await?;
    }
    let mut times = Vec::new();
    let began = Instant::now();
    for creator in creators.iter().cycle().take(WAKES) {
        if began.elapsed() > LONGEST {
            break;
        }
        times.push(wake(&node, *creator).await?);
    }
    eprintln!(
        "{} wakes, p50 {:.2} ms",
        times.len(),
        millis(percentile(&times, 50))
    );
    Ok(vec![Row::new(
        ground.name("wake_10k_events_p99_ms"),
        millis(percentile(&times, 99)),
        "ms",
        Bound::AtMost(10.0),
    )])
}

/// Sends a command to a user who has no actor.
async fn wake(node: &Node, creator: Creator) -> Measured<Duration> {
    node.users.passivate(Duration::ZERO, 0);
    let began = Instant::now();
    creator.ask(node).await?;
    Ok(began.elapsed())
}

/// Appends events of a creator until there are this many.
pub async fn give_a_past(node: &Node, creator: Creator, events: u64) -> Measured<()> {
    let stream = StreamId::new(StreamKind::Credential, creator.credential);
    let mut past = BulkLoader::of(&node.log, creator.id).await?;
    let mut sequence = 1; // making the creator stored the credential
    while past.seq() < events {
        sequence += 1;
        let event = CredentialEvent::Revealed {
            version: 1,
            purpose: Some(purpose()),
        };
        past.add(stream, sequence, event, EVENT_BYTES).await?;
    }
    Ok(past.flush().await?)
}
