//! A start with everybody waiting: how long the first commands take when all users wake together, beside their second ones.

use futures_util::future::try_join_all;
use tokio::time::{Duration, Instant};

use crate::{
    setup::{Creator, Ground, Measured, Node},
    statistics::{median, millis, percentile},
    table::{Bound, Row},
};

/// Users who wake together.
const USERS: usize = 1000;
/// Starts.
const ROUNDS: usize = 5;

/// The ratio of the 99th percentiles.
pub async fn measure(ground: &Ground) -> Measured<Vec<Row>> {
    let creators = ground.creators(&ground.node().await?, USERS).await?;
    let (mut ratios, mut colds, mut warms) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let node = ground.node().await?; // nobody lives yet, no key is known
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

/// One command of each.
async fn all_at_once(node: &Node, creators: &[Creator]) -> Measured<Vec<Duration>> {
    let clients = creators.iter().map(|creator| {
        let (node, creator) = (node.clone(), *creator);
        tokio::spawn(async move {
            let began = Instant::now();
            creator.ask(&node).await?;
            Measured::Ok(began.elapsed())
        })
    });
    try_join_all(clients).await?.into_iter().collect()
}
