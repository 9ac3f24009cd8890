//! `genie torture`: drives servers of its own with many clients, breaks whatever can be broken, and holds what was acknowledged
//! against what is in the log. It never touches anybody's data: on Postgres it makes a database of its own, else a folder.

use std::{
    io::Write,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use clap::Args;
use genie_log::{Log, clock::random_bytes, store::Target};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// One question in a chat.
mod chat;
/// The log held against the ledger.
mod check;
/// How one command is told to the servers.
mod client;
/// How long it takes until something works again.
mod clocks;
/// What is broken.
mod faults;
/// What a subscriber has seen.
mod feed;
/// What was asked, and what was said.
mod ledger;
/// The servers.
mod nodes;
/// Simulated users.
mod people;
/// A relay that misbehaves.
mod proxy;
/// What the read side shows.
mod read_side;
/// What the read side must show.
mod replay;
/// What a run came to.
mod report;
/// The end of a run.
mod settle;
/// What belongs to a run.
mod site;
/// Server-sent events, read.
mod stream;
/// Readers of the feed.
mod subscriber;
/// The six counters.
mod verdict;
/// What is said to Postgres.
mod wire;
/// Simulated workers.
mod worker;

use client::Arena;
use faults::{Faults, Siege};
use ledger::Ledger;
use nodes::Node;
use people::{Door, Life, Person};
use report::Report;
use settle::{Rest, Settled};
use site::Site;
use worker::work;

/// The most clients.
const MAX_CLIENTS: u16 = 2000;
/// The most workers.
const MAX_WORKERS: usize = 32;
/// How long the servers may take to come up first.
const FIRST_START: Duration = Duration::from_secs(60);
/// Tokens older than this are renewed before the read side is looked at.
const TOKEN: Duration = Duration::from_secs(600);
/// How long clients may take to get a definite answer to what they asked last.
const LAST_ANSWERS: Duration = Duration::from_secs(120);

/// How long the servers may take to answer once nothing is broken any more.
const ROLL_CALL: Duration = Duration::from_secs(60);

/// What the command line asks for.
#[derive(Args, Debug)]
pub struct Options {
    /// For how long things are broken
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=7 * 24 * 3600))]
    seconds: u64,
    /// How many users at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_CLIENTS)))]
    clients: u16,
    /// Makes the same choices as an earlier run (what comes of them is up to time)
    #[arg(long)]
    seed: Option<u64>,
    /// The Postgres to make a database of its own in; DATABASE_URL if it is not given, the embedded store if neither is
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// A shell command that restarts this Postgres, on the same address
    #[arg(long, value_name = "COMMAND")]
    restart_postgres: Option<String>,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs it; an error when anything was lost.
pub fn run(config: &Config, options: Options) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| format!("the runtime can't be started: {error}"))?;
    let report = runtime.block_on(torture(config, &options))?;
    let told = if options.json {
        format!("{}\n", report.json())
    } else {
        report.table()
    };
    let _ = std::io::stdout().write_all(told.as_bytes()); // whoever reads may have gone; the exit code tells as well
    match report.passed() {
        true => Ok(()),
        false if report.complete => Err(format!(
            "it did not pass ({}); see above",
            report.failures().join("; ")
        )),
        false => Err("the run was ended early".into()),
    }
}

async fn torture(config: &Config, options: &Options) -> Result<Report, String> {
    let id = hex::encode(random_bytes::<6>());
    let seed = options
        .seed
        .unwrap_or_else(|| u64::from_be_bytes(random_bytes()));
    let url = options.postgres.clone().or_else(|| match config.target() {
        Target::Postgres(url) => Some(url),
        Target::Sqlite(_) => None,
    });
    let early = until_told_to_stop()?;
    let site = Site::make(config, &id, url.as_deref()).await?;
    let run = with_servers(&site, options, &id, seed, &early).await;
    site.leave(run, early.is_cancelled()).await
}

/// Starts the servers, and ends them whatever becomes of the run.
async fn with_servers(
    site: &Site,
    options: &Options,
    id: &str,
    seed: u64,
    early: &CancellationToken,
) -> Result<Report, String> {
    let stop = CancellationToken::new();
    let nodes: Vec<Arc<Node>> = (0..site.servers()).map(|_| Arc::default()).collect();
    let mut keeping = JoinSet::new();
    for (number, node) in nodes.iter().enumerate() {
        keeping.spawn(Arc::clone(node).keep(site.launch(number)?, stop.clone()));
    }
    let run = async {
        unless_told(early, all_up(site, &nodes)).await?;
        let log = site.open_log().await?;
        let report = match Run::prepare(site, options, &log, nodes, id, seed, early).await {
            Ok(run) => run.torment().await,
            Err(sentence) => Err(sentence),
        };
        log.store().close().await;
        report
    };
    let report = run.await;
    stop.cancel();
    while keeping.join_next().await.is_some() {}
    report
}

/// Does a part of the start, unless Ctrl-C or SIGTERM comes first.
async fn unless_told<T>(
    early: &CancellationToken,
    part: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    tokio::select! {
        done = part => done,
        () = early.cancelled() => Err("told to stop before anything was broken".into()),
    }
}

async fn all_up(site: &Site, nodes: &[Arc<Node>]) -> Result<(), String> {
    let started = Instant::now();
    while !nodes.iter().all(|node| node.base().is_some()) {
        if started.elapsed() > FIRST_START {
            let log = site.server_folder(0).join("server.log");
            return Err(format!(
                "the servers do not come up; {} may say why",
                log.display()
            ));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// One run over servers that are up.
struct Run<'a> {
    site: &'a Site,
    options: &'a Options,
    log: &'a Log,
    arena: Arc<Arena>,
    door: Arc<Door>,
    early: &'a CancellationToken,
    started: Instant,
    seed: u64,
    chance: StdRng,
}

impl<'a> Run<'a> {
    async fn prepare(
        site: &'a Site,
        options: &'a Options,
        log: &'a Log,
        nodes: Vec<Arc<Node>>,
        id: &str,
        seed: u64,
        early: &'a CancellationToken,
    ) -> Result<Self, String> {
        let started = Instant::now();
        let mut chance = StdRng::seed_from_u64(seed);
        let arena = Arc::new(Arena::new(
            nodes,
            site.secret.clone(),
            Ledger::new(&format!("t{id}")),
        )?);
        let admin = async {
            let admin = Person::register(&arena, &mut chance, &site.invite).await;
            admin.ok_or("the first user can't be registered; the servers' logs may say why".into())
        };
        let admin = unless_told(early, admin).await?;
        let door = Arc::new(Door::new(admin, chance.random()));
        Ok(Self {
            site,
            options,
            log,
            arena,
            door,
            early,
            started,
            seed,
            chance,
        })
    }

    /// Chance for one more task; the same for the same seed.
    fn chance(&mut self) -> StdRng {
        StdRng::seed_from_u64(self.chance.random())
    }

    async fn torment(mut self) -> Result<Report, String> {
        let started = self.started;
        let tell =
            move |line: &str| eprintln!("{:>9.3} s  {line}", started.elapsed().as_secs_f64());
        let gathering = people::gather(
            &self.arena,
            &self.door,
            self.options.clients,
            &mut self.chance,
        );
        let people = unless_told(self.early, gathering).await?;
        tell(&format!(
            "{} users are registered; clients start, and things begin to break",
            people.len()
        ));

        let (last, until) = watch::channel(None);
        let subscribers = subscriber::start(&self.arena, &until, &mut self.chance);
        let mut clients = self.start_clients(people);
        let siege = self.site.ground.as_ref().map(|ground| Siege {
            tormented: ground.tormented.clone(),
            proxies: Arc::clone(&ground.proxies),
            log: self.log.clone(),
        });
        let mut faults = Faults {
            arena: Arc::clone(&self.arena),
            door: Arc::clone(&self.door),
            siege,
            restart: self.options.restart_postgres.clone(),
            chance: self.chance(),
            tell: Box::new(tell),
            happened: Default::default(),
        };
        let enough = CancellationToken::new();
        let ((), complete) = tokio::join!(faults.run(enough.clone()), async {
            let complete = tokio::select! {
                () = sleep(Duration::from_secs(self.options.seconds)) => true,
                () = self.early.cancelled() => false,
            };
            enough.cancel();
            complete
        });

        tell("nothing is broken any more; clients wait for their last answers");
        self.arena.stop.cancel();
        let (mut lives, mut broken) = (Vec::new(), Vec::new());
        let answered = tokio::time::timeout(LAST_ANSWERS, async {
            while let Some(client) = clients.join_next().await {
                match client {
                    Ok(life) => lives.extend(life),
                    Err(error) => broken.push(format!("a client's task ended by itself: {error}")),
                }
            }
        });
        if answered.await.is_err() {
            tell("some clients had no answer to the last that they asked; it counts as unknown");
            broken.push(format!(
                "{} clients had no answer in time to the last that they asked",
                clients.len()
            ));
            clients.shutdown().await;
        }
        let mut looking: JoinSet<Person> = lives.into_iter().map(Life::look_back).collect();
        let mut people = Vec::new();
        while let Some(looked) = looking.join_next().await {
            match looked {
                Ok(person) => people.push(person),
                Err(error) => broken.push(format!("a client's last look ended by itself: {error}")),
            }
        }
        let since = Instant::now();
        if started.elapsed() > TOKEN {
            for person in &mut people {
                person.log_in(&self.arena, &mut self.chance).await;
            }
        }
        if let Some(person) = people.first() {
            self.arena.call_the_roll(person.by(), ROLL_CALL).await;
        }
        tell("everything comes to rest; the log is held against the ledger");
        let books = self.arena.close_books();
        let chance = self.chance();
        let rest = Rest {
            arena: Arc::clone(&self.arena),
            log: self.log,
            people,
            subscribers,
            last,
            chance,
        };
        let mut settled = rest.settle(&books, since).await;
        settled.verdict.join(self.arena.take_seen());
        settled.broken.splice(..0, broken);
        Ok(self.report(faults, &books.ledger, settled, complete))
    }

    /// Users and workers; users come back when they stop.
    fn start_clients(&mut self, people: Vec<Person>) -> JoinSet<Option<Life>> {
        let mut clients = JoinSet::new();
        for number in 0..people.len().div_ceil(4).clamp(2, MAX_WORKERS) {
            let (arena, chance) = (Arc::clone(&self.arena), self.chance());
            clients.spawn(async move {
                work(arena, format!("worker-{number}"), chance).await;
                None
            });
        }
        for person in people {
            let (arena, door, chance) = (
                Arc::clone(&self.arena),
                Arc::clone(&self.door),
                self.chance(),
            );
            let life = Life::new(arena, door, person, chance, self.site.has_model);
            clients.spawn(async move { Some(life.live().await) });
        }
        clients
    }

    fn report(self, faults: Faults, ledger: &Ledger, settled: Settled, complete: bool) -> Report {
        let arena = self.arena;
        let recovery = arena.recovery();
        Report {
            store: if self.site.ground.is_some() {
                "Postgres"
            } else {
                "the embedded store"
            },
            servers: self.site.servers(),
            clients: usize::from(self.options.clients),
            seconds: self.options.seconds,
            seed: self.seed,
            has_model: self.site.has_model,
            complete,
            skipped: faults.skipped(),
            faults: faults.happened,
            commands: ledger.tally(),
            requests: arena.requests.load(Ordering::Relaxed),
            lost: arena.lost.load(Ordering::Relaxed),
            starts: arena
                .nodes
                .iter()
                .map(|node| node.starts.load(Ordering::Relaxed))
                .sum(),
            fell: arena
                .nodes
                .iter()
                .map(|node| node.fell.load(Ordering::Relaxed))
                .sum(),
            internal: arena.internal(),
            facts: settled.head,
            feeds_resumed: settled.feeds_resumed,
            compared: settled.compared,
            broken: settled.broken,
            verdict: settled.verdict,
            good_again: recovery.median_and_longest(),
            unanswered: recovery.unanswered(),
            settled: settled.took,
            kept: vec![],
        }
    }
}

/// Cancelled by Ctrl-C or SIGTERM.
fn until_told_to_stop() -> Result<CancellationToken, String> {
    let listen =
        |kind| signal(kind).map_err(|error| format!("signals can't be listened to: {error}"));
    let (mut interrupt, mut terminate) = (
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
    );
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
