//! genie-benches measures genie beside alternatives. Where possible a figure is a ratio of two sides that took turns in one run,
//! because machines are shared. Absolute figures are printed to standard error for orientation.

mod bare;
mod bare_postgres;
mod bare_sqlite;
mod chat;
mod cold_start;
mod commands;
mod credentials;
mod fairness;
mod forget;
mod http;
mod jobs;
mod lag;
mod load_user;
mod marks;
mod memory;
mod replay;
mod setup;
mod single_user;
mod statistics;
mod stock_cqrs_es;
mod table;

use std::path::PathBuf;

use actix::ArbiterHandle;
use clap::{Args, Parser, Subcommand};
use genie_log::testing::Kind;

use crate::{
    http::HttpMeasurement,
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
    Log(Selection),
    /// The server over HTTP; needs the program `genie` beside this one
    Http(Selection),
    /// Answers of a model through the server, beside reading the model directly; needs the program `genie` beside this one
    Chat(Selection),
    /// The queue beside BullMQ; needs node, redis-server, and the program `genie` beside this one
    Jobs(Selection),
    /// Secrets and their keys, through the vault and the users' actors, on Postgres and on SQLite
    Credentials(Selection),
    /// Invisible marks: how many survive what pictures and films go through; needs ffmpeg
    Marks(MarkSelection),
    /// Internal: the process whose memory is measured
    #[command(hide = true, name = memory::CHILD)]
    IdleUsers,
    /// Internal: a bare server that answers every request with these bytes
    #[command(hide = true, name = http::bare::CHILD)]
    BareHttp { body: String },
    /// Internal: a model server whose answers are scripted
    #[command(hide = true, name = chat::model::CHILD)]
    ScriptedModel,
}

#[derive(Args)]
struct MarkSelection {
    #[command(flatten)]
    wanted: Selection,
    /// A folder of photographs that are marked, too
    #[arg(long, value_name = "FOLDER")]
    photographs: Option<PathBuf>,
}

#[derive(Args)]
struct Selection {
    /// Print a JSON list only
    #[arg(long)]
    json: bool,
    /// Measure only figures whose names contain this
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
}

impl Selection {
    /// True when one of these figures is asked for.
    fn wants(&self, figures: &[String]) -> bool {
        figures.iter().any(|figure| figure.contains(&self.only))
    }

    fn print(&self, rows: &[Row]) -> Measured<()> {
        if rows.is_empty() {
            return Err(format!("no figure's name contains `{}`", self.only).into());
        }
        let printed = if self.json {
            table::json(rows)
        } else {
            table::text(rows)
        };
        println!("{printed}");
        Ok(())
    }
}

fn main() -> Measured<()> {
    // These need none of the server's threads.
    let what = match Arguments::parse().what {
        What::BareHttp { body } => return http::bare::serve(body),
        What::ScriptedModel => return chat::model::serve(),
        What::Marks(marks) => {
            let rows = marks::measure(&marks.wanted, marks.photographs.as_deref())?;
            return marks.wanted.print(&rows);
        }
        what => what,
    };
    // Wired like `genie serve`: one runtime for all I/O, and separate threads for the actors.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("genie-io")
        .build()?;
    let io = runtime.handle().clone();
    actix::System::with_tokio_rt(move || runtime).block_on(async move {
        let arbiters: Vec<ArbiterHandle> = (0..ACTOR_THREADS)
            .map(|_| actix::Arbiter::new().handle())
            .collect();
        io.spawn(async move {
            match what {
                What::Log(wanted) => log(&arbiters, &wanted).await,
                What::Http(wanted) => http(&wanted).await,
                What::Jobs(wanted) => queue(&wanted).await,
                What::Credentials(wanted) => credentials(&arbiters, &wanted).await,
                What::Chat(wanted) => chat(&wanted).await,
                What::Marks(_) | What::BareHttp { .. } | What::ScriptedModel => Ok(()), // done before
                What::IdleUsers => memory::idle_users(arbiters).await,
            }
        })
        .await?
    })
}

const KINDS: [Kind; 2] = [Kind::Postgres, Kind::Sqlite];

async fn log(arbiters: &[ArbiterHandle], wanted: &Selection) -> Measured<()> {
    let mut rows = Vec::new();
    for kind in KINDS {
        for measurement in Measurement::ALL {
            let named = |figure: &&str| setup::name_on("log", kind, figure);
            let figures: Vec<String> = measurement.figures().iter().map(named).collect();
            if wanted.wants(&figures) {
                let began = tokio::time::Instant::now();
                rows.extend(measurement.measure(&ground(kind, arbiters).await?).await?);
                let took = began.elapsed().as_secs_f64();
                eprintln!("{kind:?}, {measurement:?}: {took:.0} s");
            }
        }
    }
    wanted.print(&rows)
}

async fn http(wanted: &Selection) -> Measured<()> {
    let mut rows = Vec::new();
    for kind in KINDS {
        for measurement in HttpMeasurement::ALL {
            if wanted.wants(&measurement.figures(kind)) {
                rows.extend(measurement.measure(kind).await?);
            }
        }
    }
    wanted.print(&rows)
}

async fn chat(wanted: &Selection) -> Measured<()> {
    let mut rows = Vec::new();
    for kind in KINDS {
        if wanted.wants(&chat::figures(kind)) {
            rows.extend(chat::measure(kind, |figures| wanted.wants(figures)).await?);
        }
    }
    wanted.print(&rows)
}

async fn queue(wanted: &Selection) -> Measured<()> {
    let kinds = KINDS.map(|kind| (kind, jobs::figures(kind)));
    let is_wanted = |(kind, figures): &(Kind, Vec<String>)| wanted.wants(figures).then_some(*kind);
    let kinds: Vec<Kind> = kinds.iter().filter_map(is_wanted).collect();
    if kinds.is_empty() {
        return wanted.print(&[]);
    }
    wanted.print(&jobs::measure(&kinds).await?)
}

async fn credentials(arbiters: &[ArbiterHandle], wanted: &Selection) -> Measured<()> {
    let mut rows = Vec::new();
    if wanted.wants(&[credentials::SEAL.to_owned()]) {
        rows.extend(credentials::seal_and_open());
    }
    for kind in KINDS {
        let wants = |figure| wanted.wants(&[setup::name_on("credentials", kind, figure)]);
        if wants(credentials::REVEAL) {
            rows.push(credentials::reveal(&ground(kind, arbiters).await?).await?);
        }
        if wants(credentials::ROTATE) {
            rows.push(credentials::rotate(&ground(kind, arbiters).await?).await?);
        }
        if wants(forget::FORGET) {
            rows.push(forget::measure(&ground(kind, arbiters).await?).await?);
        }
    }
    wanted.print(&rows)
}

/// A fresh store. Each measurement has its own, so that none inherits another's tables.
async fn ground(kind: Kind, arbiters: &[ArbiterHandle]) -> Measured<Ground> {
    let ground = Ground::new(kind, arbiters).await;
    ground.check_durability().await?;
    Ok(ground)
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
    Fairness,
}

impl Measurement {
    const ALL: [Self; 8] = [
        Self::Commands,
        Self::Lone,
        Self::Lag,
        Self::Replay,
        Self::Memory,
        Self::Wake,
        Self::Cold,
        Self::Fairness,
    ];

    fn figures(self) -> &'static [&'static str] {
        match self {
            Self::Commands => &[
                "commands_vs_stock",
                "commands_vs_bare_batched_insert",
                "commands_trend",
            ],
            Self::Lone => &["lone_user_latency"],
            Self::Lag => &["feed_lag_p99_ms", "feed_lag_other_node_p99_ms"],
            Self::Replay => &["replay_events_per_s_core"],
            Self::Memory => &["idle_user_bytes"],
            Self::Wake => &["wake_10k_events_p99_ms"],
            Self::Cold => &["cold_start_p99_ratio"],
            Self::Fairness => &["turns_cost"],
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
            Self::Fairness => fairness::measure(ground).await,
        }
    }
}
