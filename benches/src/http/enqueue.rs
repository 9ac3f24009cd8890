//! Enqueues over HTTP: transactions in Postgres and CPU time of each, and their rate.

use std::time::Duration;

use futures_util::future::try_join_all;
use genie_log::testing::Kind;
use tokio::time::Instant;

use super::{
    server::{BenchServer, Connection, JSON, bearer, request},
    spent::Spent,
};
use crate::{
    setup::{Measured, name_on},
    table::{Bound, Row},
};

const PATH: &str = "/api/queue/media";
const BODY: &str = r#"{"operation":"resize_image","input_url":"https://example.com/a.jpg","params":{"width":1080}}"#;
/// Callers at once, each a user with a connection.
const CALLERS: usize = 64;
/// Measured enqueues of the only caller, and of each of many. A user may have 5,000 unfinished jobs.
const ALONE: usize = 2000;
const EACH: usize = 200;
/// Enqueues of each caller that warm up.
const FIRST: usize = 200;
/// All that follows an enqueue is done by then.
const SETTLED: Duration = Duration::from_millis(250);
/// Postgres' back ends publish their counts after a second.
const PUBLISHED: Duration = Duration::from_millis(2500);
/// Bounds for the CPU time of one enqueue in microseconds, from one caller and from many.
const MOST_ALONE: f64 = 600.0;
const MOST: f64 = 120.0;
/// What is measured: the callers, the jobs of each, and the most transactions a job.
const LOADS: [(usize, usize, f64); 2] = [(1, ALONE, 2.0), (CALLERS, EACH, 0.3)];

fn name_of(figure: &str, callers: usize) -> String {
    format!("enqueue_{figure}_{callers}")
}

/// The names of the figures on a store.
pub fn figures(kind: Kind) -> Vec<String> {
    let counted: &[&str] = match kind {
        Kind::Postgres => &["cpu", "transactions"],
        Kind::Sqlite => &["cpu"],
    };
    let of_load = |(callers, ..): (usize, usize, f64)| {
        counted.iter().map(move |figure| name_of(figure, callers))
    };
    LOADS.into_iter().flat_map(of_load).collect()
}

pub async fn measure(kind: Kind) -> Measured<Vec<Row>> {
    let genie = BenchServer::start(kind, false).await?;
    let admin = genie.log_in().await?;
    let users = genie.users(&admin, CALLERS).await?;
    let mut rows = Vec::new();
    for (callers, each, most) in LOADS {
        let users = &users[..callers];
        submit(&genie, users, FIRST).await?;
        let jobs = (callers * each) as f64;
        tokio::time::sleep(PUBLISHED).await;
        let before = Spent::so_far(&genie).await?;
        let began = Instant::now();
        submit(&genie, users, each).await?;
        let took = began.elapsed().as_secs_f64();
        tokio::time::sleep(SETTLED).await;
        let cpu = Spent::so_far(&genie).await?.less(&before);
        tokio::time::sleep(PUBLISHED).await;
        let transactions = Spent::so_far(&genie).await?.transactions - before.transactions;
        let each = |seconds: f64| seconds / jobs * 1e6;
        let (server, store) = (each(cpu.server_seconds), each(cpu.store_seconds));
        eprintln!(
            "{kind:?}: {:.0} enqueues/s from {callers} callers, {server:.0} µs of CPU each in the server and {store:.0} µs in Postgres",
            jobs / took
        );
        let name = |figure| name_on("http", kind, &name_of(figure, callers));
        let bound = if callers == 1 { MOST_ALONE } else { MOST };
        rows.push(Row::new(
            name("cpu"),
            server + store,
            "µs",
            Bound::AtMost(bound),
        ));
        if kind == Kind::Postgres {
            let a_job = transactions as f64 / jobs;
            rows.push(Row::new(
                name("transactions"),
                a_job,
                "a job",
                Bound::AtMost(most),
            ));
        }
    }
    Ok(rows)
}

/// Each user enqueues this many jobs, one after the other; the users at the same time.
pub async fn submit(genie: &BenchServer, users: &[String], each: usize) -> Measured<()> {
    let callers = users.iter().map(|token| {
        let asked = request("POST", PATH, &format!("{JSON}{}", bearer(token)), BODY);
        let address = genie.address.clone();
        tokio::spawn(async move {
            let mut connection = Connection::open(&address).await?;
            for _ in 0..each {
                let (status, body) = connection.ask(&asked).await?;
                if status != 200 {
                    let body = String::from_utf8_lossy(&body).into_owned();
                    return Err(format!("{PATH}: {status}: {body}").into());
                }
            }
            Measured::Ok(())
        })
    });
    try_join_all(callers).await?.into_iter().collect()
}
