//! Enqueues over HTTP: transactions in Postgres and CPU time of each, and their rate.

use std::{fs, time::Duration};

use futures_util::future::try_join_all;
use genie_log::testing::Kind;
use sqlx::{Connection as _, PgConnection};
use tokio::time::Instant;

use super::server::{BenchServer, Connection, JSON, bearer, request};
use crate::{
    setup::{Measured, name_on},
    table::{Bound, Row},
};

const PATH: &str = "/api/queue/media";
const BODY: &str = r#"{"operation":"resize_image","input_url":"https://example.com/a.jpg","params":{"width":1080}}"#;
/// Callers at once, each a user with a connection.
const CALLERS: usize = 64;
/// Enqueues of each caller. A user may have 5,000 unfinished jobs.
const EACH: usize = 200;
/// Postgres' back ends publish their counts after a second.
const PUBLISHED: Duration = Duration::from_millis(2500);
/// The kernel counts CPU time in hundredths of a second.
const TICKS: f64 = 100.0;

pub async fn measure(kind: Kind) -> Measured<Vec<Row>> {
    let genie = BenchServer::start(kind, false).await?;
    let admin = genie.log_in().await?;
    let users = genie.users(&admin, CALLERS).await?;
    let mut rows = Vec::new();
    for callers in [1, CALLERS] {
        let users = &users[..callers];
        submit(&genie, users, EACH).await?; // warms up
        let jobs = (callers * EACH) as f64;
        let before = Spent::so_far(&genie).await?;
        let began = Instant::now();
        submit(&genie, users, EACH).await?;
        let took = began.elapsed().as_secs_f64();
        let after = Spent::so_far(&genie).await?;
        let cpu = (after.cpu_seconds - before.cpu_seconds) / jobs * 1e6;
        eprintln!(
            "{kind:?}: {:.0} enqueues/s from {callers} callers, {cpu:.0} µs of CPU each, genie and store together",
            jobs / took
        );
        if kind == Kind::Sqlite {
            continue;
        }
        let most = if callers == 1 { 2.0 } else { 0.3 };
        rows.push(Row::new(
            name_on("http", kind, &format!("enqueue_transactions_{callers}")),
            (after.transactions - before.transactions) as f64 / jobs,
            "a job",
            Bound::AtMost(most),
        ));
        if callers == CALLERS {
            rows.push(Row::new(
                name_on("http", kind, "enqueue_cpu"),
                cpu,
                "µs",
                Bound::AtMost(120.0),
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

/// What the server and its store have spent since they began.
struct Spent {
    cpu_seconds: f64,
    transactions: i64,
}

impl Spent {
    /// Waits until all of it is published.
    async fn so_far(genie: &BenchServer) -> Measured<Self> {
        tokio::time::sleep(PUBLISHED).await;
        let mut processes = vec![i32::try_from(genie.pid()?)?];
        let mut transactions = 0;
        if let Some(url) = genie.store.database_url() {
            let mut inside = PgConnection::connect(&url).await?;
            let sql = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()";
            let back_ends: Vec<i32> = sqlx::query_scalar(sql).fetch_all(&mut inside).await?;
            processes.extend(back_ends);
            let sql = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
            transactions = sqlx::query_scalar(sql).fetch_one(&mut inside).await?;
            inside.close().await?;
        }
        let cpu_seconds = processes.into_iter().map(cpu_seconds).sum();
        Ok(Self {
            cpu_seconds,
            transactions,
        })
    }
}

/// User and system time of a process; 0 when it has ended.
fn cpu_seconds(process: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name in parentheses may hold spaces.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        / TICKS
}
