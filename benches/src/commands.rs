//! Commands per second through users' actors, compared with the stock stack and with bare inserts.

use futures_util::future::try_join_all;
use genie_log::{store::Target, testing::Kind};
use tokio::time::Instant;

use crate::{
    bare::Bare,
    setup::{Creator, Ground, Measured, Node},
    statistics::median,
    stock_cqrs_es::Stock,
    table::{Bound, Row},
};

/// Users. The client of each sends its next command as soon as the last one is acknowledged.
const USERS: usize = 1000;
/// Commands of each user in each round, on both sides. The stock stack reads a whole stream for
/// each command, so the streams must be equally short.
const COMMANDS: usize = 25;
/// Batches of bare inserts in each round.
const BATCHES: usize = 150;
/// Rounds in which the compared sides take turns.
const ROUNDS: usize = 10;
/// The users that there are after the last round. Each round brings as many new ones.
const GROWN: usize = 100_000;
/// New users of a round who ask for nothing more.
const IDLE: usize = GROWN / ROUNDS - USERS;
/// The first and the last rounds, between which the trend is.
const ENDS: usize = 3;
/// Pool sizes that are tried for the stock stack.
const STOCK_POOLS: [u32; 3] = [16, 32, 64];

/// The figures of both comparisons, over rounds in which the number of users grows.
pub async fn measure(ground: &Ground) -> Measured<Vec<Row>> {
    let node = ground.node().await?;
    let warm = ground.creators(&node, USERS).await?;
    rate(&node, &warm).await?; // warms up pools and prepared statements
    let bare = Bare::beside(ground, &node.log).await?;
    bare.batched_rate(10, 2).await?;
    let stock = stock_at_its_best(ground).await?;
    let mut to_bare = Vec::new();
    let mut to_stock = Vec::new();
    for round in 1..=ROUNDS {
        ground.register(&node.log, IDLE).await;
        let creators = ground.creators(&node, USERS).await?;
        let ours = rate(&node, &creators).await?;
        let one = bare.batched_rate(BATCHES, 1).await?;
        let mut said = format!("round {round}: {ours:.0} commands/s; bare {one:.0} rows/s");
        let mut best = one;
        if ground.store.kind == Kind::Postgres {
            let two = bare.batched_rate(BATCHES, 2).await?;
            said += &format!(", on 2 connections {two:.0}");
            best = one.max(two);
        }
        to_bare.push(ours / best);
        said += &format!(" ({:.2} x)", ours / best);
        if let Some(stock) = &stock {
            stock.grow(IDLE).await?;
            let stock = stock.rate(USERS, COMMANDS).await?;
            said += &format!("; stock {stock:.0} commands/s ({:.1} x)", ours / stock);
            to_stock.push(ours / stock);
        }
        eprintln!("{said}");
    }
    let mut rows = Vec::new();
    if stock.is_some() {
        rows.push(Row::new(
            ground.name("commands_vs_stock"),
            median(&to_stock),
            "x",
            Bound::AtLeast(12.0),
        ));
    }
    rows.push(Row::new(
        ground.name("commands_vs_bare_batched_insert"),
        median(&to_bare),
        "x",
        Bound::AtLeast(0.6),
    ));
    rows.push(Row::new(
        ground.name("commands_trend"),
        trend(&to_bare),
        "x",
        Bound::AtLeast(0.9),
    ));
    Ok(rows)
}

/// The last rounds against the first ones: 1 when growth costs nothing.
fn trend(ratios: &[f64]) -> f64 {
    median(&ratios[ratios.len() - ENDS..]) / median(&ratios[..ENDS])
}

/// Commands per second.
pub async fn rate(node: &Node, creators: &[Creator]) -> Measured<f64> {
    let began = Instant::now();
    let clients = creators.iter().map(|creator| {
        let node = node.clone();
        let creator = *creator;
        tokio::spawn(async move {
            for _ in 0..COMMANDS {
                creator.ask(&node).await?;
            }
            Measured::Ok(())
        })
    });
    try_join_all(clients)
        .await?
        .into_iter()
        .collect::<Measured<()>>()?;
    Ok((creators.len() * COMMANDS) as f64 / began.elapsed().as_secs_f64())
}

/// Returns the stock stack with its fastest pool size. It does not support SQLite.
async fn stock_at_its_best(ground: &Ground) -> Measured<Option<Stock>> {
    let Target::Postgres(url) = &ground.store.target else {
        return Ok(None);
    };
    Stock::prepare(url).await?;
    let mut best: Option<(f64, Stock)> = None;
    for connections in STOCK_POOLS {
        let stock = Stock::open(url, connections).await?;
        let rate = stock.rate(USERS, 3).await?;
        eprintln!("stock with {connections} connections: {rate:.0} commands/s");
        if best.as_ref().is_none_or(|(best, _)| rate > *best) {
            best = Some((rate, stock));
        }
    }
    Ok(best.map(|(_, stock)| stock))
}
