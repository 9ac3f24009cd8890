//! What a server and its store have spent: CPU time, and transactions in Postgres.

use std::fs;

use sqlx::{Connection as _, PgConnection};

use super::server::BenchServer;
use crate::setup::Measured;

/// The kernel counts CPU time in hundredths of a second.
const TICKS: f64 = 100.0;

/// What the server and its store have spent since they began.
pub struct Spent {
    pub server_seconds: f64,
    pub store_seconds: f64,
    /// Those that are published.
    pub transactions: i64,
}

impl Spent {
    pub async fn so_far(genie: &BenchServer) -> Measured<Self> {
        let mut store_seconds = 0.0;
        let mut transactions = 0;
        if let Some(url) = genie.store.database_url() {
            let mut inside = PgConnection::connect(&url).await?;
            let sql = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()";
            let back_ends: Vec<i32> = sqlx::query_scalar(sql).fetch_all(&mut inside).await?;
            store_seconds = back_ends.into_iter().map(cpu_seconds).sum();
            let sql = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
            transactions = sqlx::query_scalar(sql).fetch_one(&mut inside).await?;
            inside.close().await?;
        }
        Ok(Self {
            server_seconds: cpu_seconds(i32::try_from(genie.pid()?)?),
            store_seconds,
            transactions,
        })
    }

    pub fn less(&self, before: &Self) -> Self {
        Self {
            server_seconds: self.server_seconds - before.server_seconds,
            store_seconds: self.store_seconds - before.store_seconds,
            transactions: self.transactions - before.transactions,
        }
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
