//! genie-benches measures genie beside alternatives. Where possible a figure is a ratio of two sides that took turns in one run,
//! because machines are shared. Absolute figures are printed to standard error for orientation.

mod bare;
mod bare_postgres;
mod bare_sqlite;
mod cold_start;
mod commands;
mod credentials;
mod forget;
mod http;
mod lag;
mod load_user;
mod memory;
mod replay;
mod setup;
mod single_user;
mod statistics;
mod stock_cqrs_es;
mod table;

use actix::ArbiterHandle;
use clap::{Parser, Subcommand};
use genie_log::testing::Kind;

use crate::{
    setup::{Ground, Measured},
    table::Row,
};

/// The server's allocator, used for both sides of every comparison.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads of users' actors, as many as the server has.
const ACTOR_THREADS: usize = 2;

/// Measures genie beside alternatives. Needs `GENIE_TEST_POSTGRES`; scripts/bench starts a Postgres.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The log and the users' actors, on Postgres and on SQLite
    Log {
        /// Print a JSON list only
        #[arg(long)]
        json: bool,
        /// Measure only figures whose names contain this
        #[arg(long, value_name = "NAME")]
        only: Option<String>,
    },
    /// The server over HTTP; needs the program `genie` beside this one
    Http {
        /// Print a JSON list only
        #[arg(long)]
        json: bool,
    },
    /// Secrets and their keys, through the vault and the users' actors, on Postgres and on SQLite
    Credentials {
        /// Print a JSON list only
        #[arg(long)]
        json: bool,
    },
    /// Internal: the process whose memory is measured
    #[command(hide = true, name = memory::CHILD)]
    IdleUsers,
    /// Internal: a bare server that answers every request with these bytes
    #[command(hide = true, name = http::bare::CHILD)]
    BareHttp { body: String },
}

fn main() -> Measured<()> {
    let arguments = Arguments::parse();
    if let What::BareHttp { body } = arguments.what {
        return http::bare::serve(body);
    }
    // Wired like `genie serve`: one runtime for all I/O, and separate threads for the actors.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("genie-io")
        .build()?;
    let io = runtime.handle().clone();
    actix::System::with_tokio_rt(move || runtime).block_on(async move {
        let arbiters = (0..ACTOR_THREADS)
            .map(|_| actix::Arbiter::new().handle())
            .collect();
        io.spawn(async move {
            match arguments.what {
                What::Log { json, only } => {
                    log(arbiters, only.as_deref().unwrap_or_default(), json).await
                }
                What::Http { json } => http(json).await,
                What::Credentials { json } => credentials(&arbiters, json).await,
                What::BareHttp { .. } => Ok(()), // it was served before
                What::IdleUsers => memory::idle_users(arbiters).await,
            }
        })
        .await?
    })
}

async fn log(arbiters: Vec<ArbiterHandle>, only: &str, as_json: bool) -> Measured<()> {
    let mut all = Vec::new();
    for kind in [Kind::Postgres, Kind::Sqlite] {
        let rows = on_store(kind, &arbiters, only).await?;
        if !as_json && !rows.is_empty() {
            println!("{kind:?}\n{}", table::text(&rows));
        }
        all.extend(rows);
    }
    if all.is_empty() {
        return Err(format!("no figure's name contains `{only}`").into());
    }
    if as_json {
        println!("{}", table::json(&all));
    }
    Ok(())
}

async fn http(as_json: bool) -> Measured<()> {
    let mut rows = Vec::new();
    for kind in [Kind::Postgres, Kind::Sqlite] {
        rows.extend(http::measure(kind).await?);
    }
    println!(
        "{}",
        if as_json {
            table::json(&rows)
        } else {
            table::text(&rows)
        }
    );
    Ok(())
}

async fn credentials(arbiters: &[ArbiterHandle], as_json: bool) -> Measured<()> {
    let mut rows = credentials::seal_and_open();
    for kind in [Kind::Postgres, Kind::Sqlite] {
        let ground = Ground::new(kind, arbiters).await;
        ground.check_durability().await?;
        rows.extend(credentials::measure(&ground).await?);
        // Each has its own store, so that none inherits the other's tables.
        rows.push(forget::measure(&Ground::new(kind, arbiters).await).await?);
    }
    println!(
        "{}",
        if as_json {
            table::json(&rows)
        } else {
            table::text(&rows)
        }
    );
    Ok(())
}

/// One measurement. Some give two figures.
#[derive(Debug, Clone, Copy)]
enum Measurement {
    Commands,
    Lone,
    Lag,
    Replay,
    Memory,
    Wake,
    Cold,
}

impl Measurement {
    const ALL: [Self; 7] = [
        Self::Commands,
        Self::Lone,
        Self::Lag,
        Self::Replay,
        Self::Memory,
        Self::Wake,
        Self::Cold,
    ];

    fn figures(self) -> &'static [&'static str] {
        match self {
            Self::Commands => &["commands_vs_stock", "commands_vs_bare_batched_insert"],
            Self::Lone => &["lone_user_latency"],
            Self::Lag => &["feed_lag_p99_ms", "feed_lag_other_node_p99_ms"],
            Self::Replay => &["replay_events_per_s_core"],
            Self::Memory => &["idle_user_bytes"],
            Self::Wake => &["wake_10k_events_p99_ms"],
            Self::Cold => &["cold_start_p99_ratio"],
        }
    }

    async fn measure(self, ground: &Ground) -> Measured<Vec<Row>> {
        match self {
            Self::Commands => commands::measure(ground).await,
            Self::Lone => single_user::measure(ground).await,
            Self::Lag => lag::measure(ground).await,
            Self::Replay => replay::measure(ground).await,
            Self::Memory => memory::measure(ground).await,
            Self::Wake => load_user::measure(ground).await,
            Self::Cold => cold_start::measure(ground).await,
        }
    }
}

/// Each measurement has its own store, so that none inherits another's tables.
async fn on_store(kind: Kind, arbiters: &[ArbiterHandle], only: &str) -> Measured<Vec<Row>> {
    let mut rows = Vec::new();
    for measurement in Measurement::ALL {
        if !measurement
            .figures()
            .iter()
            .any(|figure| setup::name_on("log", kind, figure).contains(only))
        {
            continue;
        }
        let began = tokio::time::Instant::now();
        let ground = Ground::new(kind, arbiters).await;
        ground.check_durability().await?;
        rows.extend(measurement.measure(&ground).await?);
        eprintln!(
            "{kind:?}, {measurement:?}: {:.0} s",
            began.elapsed().as_secs_f64()
        );
    }
    Ok(rows)
}
