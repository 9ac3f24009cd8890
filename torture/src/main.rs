//! `genie-torture` starts genie servers of its own, drives them with many clients, and breaks whatever can be broken. At the
//! end it compares what was acknowledged with what is in the log.
//!
//! Invariant: it never touches existing data. On Postgres it makes a database of its own, else a folder. It reads neither
//! `DATABASE_URL` nor `.env`: a Postgres has to be named by `--postgres`.

mod run;
mod site;

mod servers;
mod simulated_users;
mod subscriber;
mod worker;
mod worker_line;

mod chat;
mod client;
mod position;
mod stream;

mod faults;
mod postgres_wire;
mod relay;
mod scratch_database;
mod worker_faults;

mod ledger;
mod settle;

mod check;
mod feed_notes;
mod read_side;
mod replay;

mod clocks;
mod report;
mod verdict;

use std::{io::Write, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use genie_log::clock::random_bytes;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use report::Report;
use run::TortureRun;
use servers::ServerProcess;
use site::RunSite;

const MAX_CLIENTS: u16 = 2000;
/// How long the servers may take to start at the beginning.
const FIRST_START: Duration = Duration::from_secs(60);

#[derive(Parser, Debug)]
#[command(
    version,
    about = "Proves, with this Postgres and this model server, that genie loses nothing when things break"
)]
struct Options {
    /// For how many seconds things are broken
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=7 * 24 * 3600))]
    seconds: u64,
    /// How many users work at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_CLIENTS)))]
    clients: u16,
    /// Makes the same random choices as an earlier run; timing still differs
    #[arg(long)]
    seed: Option<u64>,
    /// The Postgres to make a database in, as a role that may create one; without it the embedded store is tested
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// A shell command that restarts this Postgres on the same address
    #[arg(long, value_name = "COMMAND", requires = "postgres")]
    restart_postgres: Option<String>,
    /// The server's program [default: `genie` beside this program]
    #[arg(long, value_name = "PATH")]
    genie: Option<PathBuf>,
    /// The model server; chats and captions are left out when it does not answer
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:11434")]
    ollama: String,
    /// The model for chats and captions [default: those of genie]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

impl Options {
    fn genie(&self) -> Result<PathBuf, String> {
        let genie = match &self.genie {
            Some(genie) => std::path::absolute(genie), // servers are started in other folders
            None => std::env::current_exe().map(|own| own.with_file_name("genie")),
        };
        let genie =
            genie.map_err(|error| format!("the genie program can't be located: {error}"))?;
        if genie.is_file() {
            return Ok(genie);
        }
        Err(format!(
            "{} does not exist: build it by `cargo build --bin genie`, or name another by --genie",
            genie.display()
        ))
    }

    fn model_settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = vec![("OLLAMA_URL", self.ollama.clone())];
        if let Some(model) = &self.model {
            settings.push(("OLLAMA_MODEL", model.clone()));
            settings.push(("CAPTION_MODEL", model.clone()));
        }
        settings
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    // reqwest asks for a provider to be chosen; nothing has chosen one before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run_and_print(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("genie-torture: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// An error when anything was lost.
fn run_and_print(options: &Options) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| format!("the runtime can't be started: {error}"))?;
    let report = runtime.block_on(torture(options))?;
    let text = if options.json {
        format!("{}\n", report.json())
    } else {
        report.table()
    };
    let _ = std::io::stdout().write_all(text.as_bytes()); // the reader may be gone; the exit code says it too
    if report.passed() {
        Ok(())
    } else if report.complete {
        Err(format!("the run failed: {}", report.failures().join("; ")))
    } else {
        Err("the run was ended early".into())
    }
}

async fn torture(options: &Options) -> Result<Report, String> {
    let id = hex::encode(random_bytes::<6>());
    let early = until_told_to_stop()?;
    let site = RunSite::make(options, &id).await?;
    let run = with_servers(&site, options, &id, &early).await;
    site.leave(run, early.is_cancelled()).await
}

/// Starts the servers, and stops them whatever becomes of the run.
async fn with_servers(
    site: &RunSite,
    options: &Options,
    id: &str,
    early: &CancellationToken,
) -> Result<Report, String> {
    let stop = CancellationToken::new();
    let nodes: Vec<Arc<ServerProcess>> = (0..site.servers()).map(|_| Arc::default()).collect();
    let mut keeping = JoinSet::new();
    for (number, node) in nodes.iter().enumerate() {
        keeping.spawn(Arc::clone(node).keep(site.launch(number)?, stop.clone()));
    }
    let run = async {
        unless_told(early, all_up(site, &nodes)).await?;
        let append = site.open_log().await?;
        let report = match TortureRun::prepare(site, options, &append, nodes, id, early).await {
            Ok(run) => run.torment().await,
            Err(sentence) => Err(sentence),
        };
        append.log().store().close().await;
        report
    };
    let report = run.await;
    stop.cancel();
    while keeping.join_next().await.is_some() {}
    report
}

/// Does a part of the preparation, unless Ctrl-C or SIGTERM comes first.
async fn unless_told<T>(
    early: &CancellationToken,
    part: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    tokio::select! {
        done = part => done,
        () = early.cancelled() => Err("stopped before anything was broken".into()),
    }
}

async fn all_up(site: &RunSite, nodes: &[Arc<ServerProcess>]) -> Result<(), String> {
    let started = Instant::now();
    while !nodes.iter().all(|node| node.base().is_some()) {
        if started.elapsed() > FIRST_START {
            let log = site.server_folder(0).join("server.log");
            return Err(format!(
                "the servers do not start; {} may say why",
                log.display()
            ));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Cancelled by Ctrl-C or SIGTERM.
fn until_told_to_stop() -> Result<CancellationToken, String> {
    let listen =
        |kind| signal(kind).map_err(|error| format!("signals can't be listened to: {error}"));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let told = CancellationToken::new();
    let tell = told.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tell.cancel();
    });
    Ok(told)
}
