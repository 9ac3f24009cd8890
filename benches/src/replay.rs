//! Measures how fast one core replays stored rows (digest, decryption, upcast, fold), as when a user is loaded without a
//! snapshot.

use std::{collections::BTreeMap, sync::Arc};

use genie_events::UserId;
use genie_log::{StoredRow, keys::UserKeys, load_users, read::PAGE};
use tokio::time::Instant;

use crate::{
    commands,
    setup::{Ground, Measured, Node},
    statistics::median,
    table::{Bound, Row},
};

/// Users. Each has a handful of facts and those of one turn of commands.
const USERS: usize = 1000;
/// Turns of the measurement.
const ROUNDS: usize = 11;

/// Events per second.
pub async fn measure(ground: &Ground) -> Measured<Vec<Row>> {
    let node = ground.node().await?;
    let creators = ground.creators(&node, USERS).await?;
    commands::rate(&node, &creators).await?;
    let lives = all_lives(&node).await?;
    let events: usize = lives.iter().map(|life| life.rows.len()).sum();
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for life in &lives {
            let mut awake = load_users::asleep(life.user);
            awake.replay(&life.rows, &life.keys)?;
            if awake.user.seq() != life.rows.len() as u64 {
                return Err(format!("user {} was not folded to the end", life.user).into());
            }
        }
        rates.push(events as f64 / began.elapsed().as_secs_f64());
    }
    Ok(vec![Row::new(
        ground.name("replay_events_per_s_core"),
        median(&rates),
        "events/s",
        Bound::AtLeast(200_000.0),
    )])
}

/// A user's rows in order, with the keys that open them.
struct Life {
    user: UserId,
    keys: Arc<UserKeys>,
    rows: Vec<StoredRow>,
}

async fn all_lives(node: &Node) -> Measured<Vec<Life>> {
    let mut rows = BTreeMap::<UserId, Vec<StoredRow>>::new();
    let mut read = 0;
    loop {
        let page = node.log.reader().rows(read, PAGE).await?;
        let Some(last) = page.last() else { break };
        read = last.position;
        for row in page {
            if let Some(user) = row.user() {
                rows.entry(user).or_default().push(row);
            }
        }
    }
    let mut lives = Vec::with_capacity(rows.len());
    for (user, rows) in rows {
        lives.push(Life {
            user,
            keys: node.log.keys().live(user).await?,
            rows,
        });
    }
    Ok(lives)
}
