//! How fast one core opens stored rows (digest, decryption, upcast) and folds them into users.

use std::collections::HashMap;

use genie_events::{User, UserId};
use genie_log::{Body, StoredRow, read::PAGE};
use tokio::time::Instant;

use crate::{
    commands,
    ground::{Ground, Measured, Node},
    numbers::median,
    table::{Bound, Row},
};

/// Users; each has a handful of facts and those of one turn of commands.
const USERS: usize = 1000;
/// Turns.
const ROUNDS: usize = 5;

/// Events per second.
pub async fn measure(ground: &Ground) -> Measured<Vec<Row>> {
    let node = ground.node().await?;
    let creators = ground.creators(&node, USERS).await?;
    commands::rate(&node, &creators).await?;
    let rows = all_rows(&node).await?;
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let (mut users, began) = (HashMap::<UserId, User>::with_capacity(USERS), Instant::now());
        for row in &rows {
            // With its key at hand this waits for nothing, and stays on the thread that it is on.
            let fact = node.log.open_row(row).await?;
            if let (Some(user), Body::Open(event, _)) = (fact.user, fact.body) {
                users.entry(user).or_insert_with(|| User::new(user)).evolve(&fact.stream, fact.sequence, event);
            }
        }
        rates.push(rows.len() as f64 / began.elapsed().as_secs_f64());
        if users.len() != USERS {
            return Err(format!("{} users were folded, where {USERS} are stored", users.len()).into());
        }
    }
    Ok(vec![Row::new(ground.name("replay_events_per_s_core"), median(&rates), "events/s", Bound::AtLeast(200_000.0))])
}

async fn all_rows(node: &Node) -> Measured<Vec<StoredRow>> {
    let mut all: Vec<StoredRow> = Vec::new();
    loop {
        let page = node.log.rows(all.len() as u64, PAGE).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}
