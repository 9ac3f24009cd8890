//! A start while everybody waits. Compares the first commands, when all users are loaded together, with their second ones.

use futures_util::future::try_join_all;
use tokio::time::{Duration, Instant};

use crate::{
    setup::{Creator, Ground, Measured, Node},
    statistics::{median, millis, percentile},
    table::{Bound, Row},
};

/// Users who are loaded together.
const USERS: usize = 1000;
/// Starts of the server.
const ROUNDS: usize = 5;

/// The ratio of the 99th percentiles.
pub async fn measure(ground: &Ground) -> Measured<Vec<Row>> {
    let creators = ground.creators(&ground.node().await?, USERS).await?;
    let mut ratios = Vec::new();
    let mut colds = Vec::new();
    let mut warms = Vec::new();
    for _ in 0..ROUNDS {
        let node = ground.node().await?; // no actor lives yet, and no key is cached
        let cold = percentile(&all_at_once(&node, &creators).await?, 99);
        let warm = percentile(&all_at_once(&node, &creators).await?, 99);
        node.users.passivate(Duration::ZERO, 0);
        ratios.push(cold.as_secs_f64() / warm.as_secs_f64());
        colds.push(millis(cold));
        warms.push(millis(warm));
    }
    eprintln!(
        "cold p99 {:.1} ms, warm p99 {:.1} ms",
        median(&colds),
        median(&warms)
    );
    Ok(vec![Row::new(
        ground.name("cold_start_p99_ratio"),
        median(&ratios),
        "x",
        Bound::AtMost(5.0),
    )])
}

/// Sends one command for each user, all at once. Returns the times.
async fn all_at_once(node: &Node, creators: &[Creator]) -> Measured<Vec<Duration>> {
    let clients = creators.iter().map(|creator| {
        let node = node.clone();
        let creator = *creator;
        tokio::spawn(async move {
            let began = Instant::now();
            creator.ask(&node).await?;
            Measured::Ok(began.elapsed())
        })
    });
    try_join_all(clients).await?.into_iter().collect()
}
