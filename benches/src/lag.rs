//! Measures the time from the acknowledgement of a command until a follower has its row, on this and on another node, while
//! another session holds a writing transaction open.

use std::{collections::HashMap, time::Duration};

use futures_util::future::try_join_all;
use genie_log::{Log, store::Target, testing::Kind};
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use crate::{
    setup::{Creator, Ground, Measured, Node},
    statistics::{millis, percentile},
    table::{Bound, Row},
};

/// Users who write meanwhile, about 1,000 commands per second together.
const USERS: usize = 25;
/// The pause of each user between two commands.
const PAUSE: Duration = Duration::from_millis(20);
/// Commands of each user.
const COMMANDS: usize = 200;
/// Rows that a follower takes at once.
const PAGE: usize = 500;
/// The time limit of a follower to reach the end.
const LONGEST: Duration = Duration::from_secs(20);

type Times = HashMap<u64, Instant>;

/// The 99th percentile of each follower's lag.
pub async fn measure(ground: &Ground) -> Measured<Vec<Row>> {
    let node = ground.node().await?;
    let creators = ground.creators(&node, USERS).await?;
    let held = hold_a_transaction(ground).await?;
    let start = node.log.reader().head();
    let mut followers = vec![("feed_lag_p99_ms", node.log.clone())];
    // An embedded store has one process.
    if ground.store.kind == Kind::Postgres {
        followers.push(("feed_lag_other_node_p99_ms", ground.log().await?));
    }
    let followers: Vec<_> = followers
        .into_iter()
        .map(|(name, log)| {
            (
                name,
                tokio::spawn(seen(log, start, start + (USERS * COMMANDS) as u64)),
            )
        })
        .collect();
    let acknowledged = write(&node, &creators).await?;
    let mut rows = Vec::new();
    for (name, follower) in followers {
        let seen = tokio::time::timeout(LONGEST, follower).await???;
        let lags: Vec<Duration> = acknowledged
            .iter()
            .filter_map(|(position, at)| {
                seen.get(position)
                    .map(|seen| seen.saturating_duration_since(*at))
            })
            .collect();
        if lags.len() != acknowledged.len() {
            return Err(format!(
                "{} of {} rows were followed",
                lags.len(),
                acknowledged.len()
            )
            .into());
        }
        eprintln!(
            "{name}: p50 {:.2} ms of {} rows",
            millis(percentile(&lags, 50)),
            lags.len()
        );
        rows.push(Row::new(
            ground.name(name),
            millis(percentile(&lags, 99)),
            "ms",
            Bound::AtMost(10.0),
        ));
    }
    if let Some(held) = held {
        held.close().await?;
    }
    Ok(rows)
}

/// A session that has written and does not commit until it is closed.
async fn hold_a_transaction(ground: &Ground) -> Measured<Option<PgConnection>> {
    let Target::Postgres(url) = &ground.store.target else {
        return Ok(None);
    };
    let mut connection = PgConnection::connect(url).await?;
    for sql in [
        "CREATE TABLE held (n bigint)",
        "BEGIN",
        "INSERT INTO held VALUES (1)",
    ] {
        sqlx::query(sql).execute(&mut connection).await?;
    }
    Ok(Some(connection))
}

/// The time of acknowledgement of each position.
async fn write(node: &Node, creators: &[Creator]) -> Measured<Times> {
    let clients = creators.iter().map(|creator| {
        let node = node.clone();
        let creator = *creator;
        tokio::spawn(async move {
            let mut acknowledged = Vec::with_capacity(COMMANDS);
            for _ in 0..COMMANDS {
                acknowledged.push((creator.ask(&node).await?, Instant::now()));
                tokio::time::sleep(PAUSE).await;
            }
            Measured::Ok(acknowledged)
        })
    });
    let acknowledged = try_join_all(clients)
        .await?
        .into_iter()
        .collect::<Measured<Vec<_>>>()?;
    Ok(acknowledged.into_iter().flatten().collect())
}

/// The time at which the follower got each position after `start`, up to `end`.
async fn seen(log: Log, start: u64, end: u64) -> Measured<Times> {
    let mut follower = log.reader().follow(start);
    let mut seen = Times::new();
    while follower.position() < end {
        let rows = follower.next(PAGE).await?;
        let now = Instant::now();
        seen.extend(rows.iter().map(|row| (row.position, now)));
    }
    Ok(seen)
}
