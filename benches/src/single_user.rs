//! Compares a single user's wait for a command with one bare row that is made durable.

use tokio::time::Instant;

use crate::{
    bare::Bare,
    commands,
    setup::{Ground, Measured},
    statistics::{median, millis, percentile},
    table::{Bound, Row},
};

/// Turns of both sides.
const ROUNDS: usize = 15;
/// Commands, and inserts, in one turn.
const EACH: usize = 60;

/// The ratio of the medians.
pub async fn measure(ground: &Ground) -> Measured<Vec<Row>> {
    let node = ground.node().await?;
    let creators = ground.creators(&node, 20).await?;
    commands::rate(&node, &creators).await?; // makes rows to copy and warms everything up
    let bare = Bare::beside(ground, &node.log).await?;
    let mut ratios = Vec::new();
    let mut all_ours = Vec::new();
    let mut all_bare = Vec::new();
    for _ in 0..ROUNDS {
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        for _ in 0..EACH {
            let began = Instant::now();
            creators[0].ask(&node).await?;
            ours.push(began.elapsed());
        }
        for _ in 0..EACH {
            theirs.push(bare.single().await?);
        }
        ratios.push(percentile(&ours, 50).as_secs_f64() / percentile(&theirs, 50).as_secs_f64());
        all_ours.extend(ours);
        all_bare.extend(theirs);
    }
    let p50 = |times| millis(percentile(times, 50));
    eprintln!(
        "a lone command {:.3} ms, a bare row {:.3} ms",
        p50(&all_ours),
        p50(&all_bare)
    );
    Ok(vec![Row::new(
        ground.name("lone_user_latency"),
        median(&ratios),
        "x",
        Bound::AtMost(1.3),
    )])
}
