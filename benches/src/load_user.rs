//! How long a command takes that wakes a user with a long past.

use std::time::Duration;

use genie_events::{Event, StreamId, StreamKind, credential::CredentialEvent};
use genie_log::{AppendRequest, Group, NewFact, testing::appender};
use tokio::time::Instant;

use crate::{
    setup::{Creator, Ground, Measured, Node, purpose},
    statistics::{millis, percentile},
    table::{Bound, Row},
};

/// Users with a long past.
const USERS: usize = 4;
/// Events of each, about.
const EVENTS: u64 = 10_000;
/// Events of one append.
const PART: u64 = 500;
/// Wakes, if there is time for them.
const WAKES: usize = 200;
/// The time there is.
const LONGEST: Duration = Duration::from_secs(12);

/// The 99th percentile.
pub async fn measure(ground: &Ground) -> Measured<Vec<Row>> {
    let node = ground.node().await?;
    let creators = ground.creators(&node, USERS).await?;
    for creator in &creators {
        give_a_past(&node, *creator, EVENTS).await?;
    }
    // Once, uncounted: whatever genie prepares when it has seen how long the past is.
    for creator in &creators {
        wake(&node, *creator).await?;
    }
    let (mut times, began) = (Vec::new(), Instant::now());
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

/// A command to a user whose actor is not there.
async fn wake(node: &Node, creator: Creator) -> Measured<Duration> {
    node.users.passivate(Duration::ZERO, 0);
    let began = Instant::now();
    creator.ask(node).await?;
    Ok(began.elapsed())
}

/// Appends so many events of a creator, about.
pub async fn give_a_past(node: &Node, creator: Creator, events: u64) -> Measured<()> {
    let stream = StreamId::new(StreamKind::Credential, creator.credential);
    // What making the creator wrote: registered, stored.
    let (mut count, mut sequence) = (2, 1);
    while count < events {
        let facts = (1..=PART).map(|n| {
            let event = Event::Credential(CredentialEvent::Revealed {
                version: 1,
                purpose: Some(purpose()),
            });
            NewFact {
                stream: stream.clone(),
                sequence: sequence + n,
                event,
            }
        });
        let group = Group::of_user(creator.id, count, facts.collect());
        appender(&node.log)
            .append(AppendRequest {
                groups: vec![group],
                work: vec![],
                metadata: genie_events::Metadata::system(),
                remember: None,
            })
            .await?;
        count += PART;
        sequence += PART;
    }
    Ok(())
}
