//! `genie torture`: drives servers of its own with many clients, breaks whatever can be broken, and holds what was acknowledged
//! against what is in the log. It never touches anybody's data: on Postgres it makes a database of its own, else a folder.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use clap::Args;
use genie_log::{Clock, Log, MasterKeys, clock::random_bytes, keys::hex, store::Target, torture::Tormented};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::{JoinHandle, JoinSet},
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
use feed::{Notes, Wanted};
use ledger::{Kind, Ledger};
use nodes::{Launch, Node};
use people::{Door, Life, Person};
use proxy::Proxy;
use report::Report;
use settle::Rest;
use subscriber::Subscriber;

/// Servers on one Postgres, fighting for the same users.
const SERVERS: usize = 2;
/// The most clients.
const MAX_CLIENTS: u16 = 2000;
/// Users registered at once, before anything is broken: each costs a password hash or two.
const AT_ONCE: usize = 4;
/// How long the servers may take to come up first.
const FIRST_START: Duration = Duration::from_secs(60);
/// Tokens older than this are renewed before the read side is looked at.
const TOKEN: Duration = Duration::from_secs(600);
/// How long clients may take to get a definite answer to what they asked last.
const LAST_ANSWERS: Duration = Duration::from_secs(120);
/// How long subscribers may take to reach the end of the log, once it is known.
const LAST_EVENTS: Duration = Duration::from_secs(30);

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
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("the runtime can't be started: {error}"))?;
    let report = runtime.block_on(torture(config, &options))?;
    let told = if options.json { format!("{}\n", report.json()) } else { report.table() };
    let _ = std::io::stdout().write_all(told.as_bytes()); // whoever reads may have gone; the exit code tells as well
    match report.passed() {
        true => Ok(()),
        false if report.complete => Err("something was lost; see above".into()),
        false => Err("the run was ended early".into()),
    }
}

async fn torture(config: &Config, options: &Options) -> Result<Report, String> {
    let id = hex(&random_bytes::<6>());
    let seed = options.seed.unwrap_or_else(|| u64::from_be_bytes(random_bytes()));
    let url = options.postgres.clone().or_else(|| match config.target() {
        Target::Postgres(url) => Some(url),
        Target::Sqlite(_) => None,
    });
    let site = Site::make(config, &id, url.as_deref()).await?;
    let outcome = site.run(options, &id, seed).await;
    site.leave(outcome).await
}

/// What belongs to a run, and is gone after it.
struct Site {
    folder: PathBuf,
    ground: Option<Ground>,
    masters: String,
    secret: String,
    invite: String,
    has_model: bool,
    /// Settings that come from the configuration.
    model: Vec<(String, String)>,
}

/// A database of one's own, and the servers' ways there.
struct Ground {
    tormented: Tormented,
    proxies: Arc<Vec<Proxy>>,
}

impl Site {
    async fn make(config: &Config, id: &str, url: Option<&str>) -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("genie_torture_{id}"));
        let shown = folder.display();
        DirBuilder::new().mode(0o700).create(&folder).map_err(|error| format!("{shown} can't be made: {error}"))?;
        let ground = match url {
            None => None,
            Some(url) => {
                let made = Tormented::create(url, &format!("genie_torture_{id}")).await;
                let tormented = made.map_err(|error| format!("a database of its own can't be made: {error}"))?;
                let mut proxies = Vec::with_capacity(SERVERS);
                for _ in 0..SERVERS {
                    let proxy = Proxy::start(tormented.address()).await;
                    proxies.push(proxy.map_err(|error| format!("no port can be listened on: {error}"))?);
                }
                Some(Ground { tormented, proxies: Arc::new(proxies) })
            }
        };
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let masters = MasterKeys::generate().to_string();
        keep_master_key(&folder, &masters).map_err(|error| format!("{shown}: the master key can't be written: {error}"))?;
        Ok(Self {
            folder,
            ground,
            masters,
            secret: hex(&random_bytes::<16>()),
            invite: hex(&random_bytes::<16>()),
            has_model: answers(&config.ollama_url).await,
            model: vec![
                setting("OLLAMA_URL", &config.ollama_url),
                setting("OLLAMA_MODEL", &config.ollama_model),
                setting("CAPTION_MODEL", &config.caption_model),
                setting("OLLAMA_CONCURRENCY", &config.ollama_concurrency.to_string()),
            ],
        })
    }

    fn servers(&self) -> usize {
        self.ground.as_ref().map_or(1, |ground| ground.proxies.len())
    }

    fn launch(&self, number: usize) -> Result<Launch, String> {
        let folder = self.folder.join(format!("server-{}", number + 1));
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|error| format!("{} can't be made: {error}", folder.display()))?;
        let program = std::env::current_exe().map_err(|error| format!("this program can't find itself: {error}"))?;
        let mut environment = self.model.clone();
        let data_dir = folder.display().to_string();
        let lease = worker::LEASE_MS.to_string();
        for (name, value) in [
            ("HOST", "127.0.0.1"),
            ("SERVER_PORT", "0"),
            ("GENIE_DATA_DIR", &data_dir),
            ("GENIE_MASTER_KEYS", &self.masters),
            ("GENIE_FIRST_INVITE", &self.invite),
            ("RBAC_SYNC_WEBHOOK_SECRET", &self.secret),
            ("GENIE_JOB_LEASE_MS", &lease),
            ("ONBOARDING_GATE", "off"),
            ("GENIE_LOG", "warn"),
        ] {
            environment.push((name.to_owned(), value.to_owned()));
        }
        if let Some(ground) = &self.ground {
            environment.push(("DATABASE_URL".to_owned(), ground.tormented.url_through(ground.proxies[number].port)));
        }
        Ok(Launch { program, folder, environment })
    }

    async fn open_log(&self, data_dir: &Path) -> Result<Log, String> {
        let masters = MasterKeys::parse(&self.masters).map_err(|error| format!("the run's own master key: {error}"))?;
        let (target, read_only) = match &self.ground {
            Some(ground) => (Target::Postgres(ground.tormented.url()), false),
            None => (Target::Sqlite(data_dir.join("genie.db")), true),
        };
        let settings = genie_log::Settings { target, masters, clock: Clock::system(), read_only };
        Log::open(settings).await.map(|opened| opened.log).map_err(|error| error.to_string())
    }
}

/// For a look into what is kept after a run that failed.
fn keep_master_key(folder: &Path, masters: &str) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join("master.key"));
    file?.write_all(masters.as_bytes())
}

/// Whether a model server answers there.
async fn answers(url: &str) -> bool {
    let get = reqwest::Client::new().get(format!("{}/api/version", url.trim_end_matches('/')));
    get.timeout(Duration::from_secs(3)).send().await.is_ok_and(|response| response.status().is_success())
}

impl Site {
    async fn run(&self, options: &Options, id: &str, seed: u64) -> Result<Report, String> {
        let stop = CancellationToken::new();
        let nodes: Vec<Arc<Node>> = (0..self.servers()).map(|_| Arc::default()).collect();
        let mut keeping = JoinSet::new();
        for (number, node) in nodes.iter().enumerate() {
            keeping.spawn(Arc::clone(node).keep(self.launch(number)?, stop.clone()));
        }
        let run = self.drive(options, id, seed, nodes).await;
        stop.cancel();
        while keeping.join_next().await.is_some() {}
        run
    }

    async fn drive(&self, options: &Options, id: &str, seed: u64, nodes: Vec<Arc<Node>>) -> Result<Report, String> {
        let started = Instant::now();
        while !nodes.iter().all(|node| node.base().is_some()) {
            if started.elapsed() > FIRST_START {
                let logs = self.folder.join("server-1").join("server.log");
                return Err(format!("the servers do not come up; {} may say why", logs.display()));
            }
            sleep(Duration::from_millis(20)).await;
        }
        let log = self.open_log(&self.folder.join("server-1")).await?;
        let report = self.torment(options, id, seed, nodes, &log).await;
        log.store().close().await;
        report
    }

    async fn torment(&self, options: &Options, id: &str, seed: u64, nodes: Vec<Arc<Node>>, log: &Log) -> Result<Report, String> {
        let started = Instant::now();
        let tell = move |line: &str| eprintln!("{:>9.3} s  {line}", started.elapsed().as_secs_f64());
        let mut chance = StdRng::seed_from_u64(seed);
        let mut fresh = || StdRng::seed_from_u64(chance.random());
        let arena = Arc::new(Arena::new(nodes, self.secret.clone(), Ledger::new(&format!("t{id}")))?);
        let early = until_told_to_stop()?;

        let admin = Person::register(&arena, &mut fresh(), &self.invite).await;
        let admin = admin.ok_or("the first user can't be registered; the servers' logs may say why")?;
        arena.keyed.store(honours_keys(&arena, &mut fresh(), &admin).await, Ordering::Relaxed);
        let door = Arc::new(Door::new(admin, fresh().random()));
        let people = self.gather(&arena, &door, options.clients, &mut fresh).await?;
        tell(&format!("{} users are registered; clients start, and things begin to break", people.len()));

        let (last, until) = watch::channel(None);
        let subscribers = subscribe(&arena, &until, &mut fresh);
        let workers = usize::from(options.clients).div_ceil(4).clamp(2, 32);
        let mut working = JoinSet::new();
        for number in 0..workers {
            working.spawn(worker::work(Arc::clone(&arena), format!("worker-{number}"), fresh()));
        }
        let mut living = JoinSet::new();
        for person in people {
            let life = Life::new(Arc::clone(&arena), Arc::clone(&door), person, fresh(), self.has_model);
            living.spawn(life.live());
        }

        let siege = self.ground.as_ref().map(|ground| Siege {
            tormented: ground.tormented.clone(),
            proxies: Arc::clone(&ground.proxies),
            log: log.clone(),
        });
        let mut faults = Faults {
            arena: Arc::clone(&arena),
            door: Arc::clone(&door),
            siege,
            restart: options.restart_postgres.clone(),
            chance: fresh(),
            tell: Box::new(tell),
            happened: Default::default(),
        };
        let enough = CancellationToken::new();
        let ((), complete) = tokio::join!(faults.run(enough.clone()), async {
            let complete = tokio::select! {
                () = sleep(Duration::from_secs(options.seconds)) => true,
                () = early.cancelled() => false,
            };
            enough.cancel();
            complete
        });
        tell("nothing is broken any more; clients wait for their last answers");
        arena.stop.cancel();
        let mut people = Vec::new();
        let answered = tokio::time::timeout(LAST_ANSWERS, async {
            while let Some(person) = living.join_next().await {
                people.extend(person.ok());
            }
            while working.join_next().await.is_some() {}
        });
        if answered.await.is_err() {
            tell("some clients had no answer to the last that they asked; it counts as unknown");
            (living.shutdown().await, working.shutdown().await);
        }
        let since = Instant::now();
        if started.elapsed() > TOKEN {
            for person in &mut people {
                person.log_in(&arena, &mut fresh()).await;
            }
        }
        tell("everything comes to rest; the log is held against the ledger");
        let ledger = std::mem::replace(&mut *arena.ledger(), Ledger::new("over"));
        let held = arena.take_held();
        let rest = Rest { arena: Arc::clone(&arena), log, people, subscribers, last, chance: fresh() };
        let mut settled = rest.settle(&ledger, &held, since).await;
        settled.verdict.join(arena.take_seen());
        let recovery = arena.recovery();
        Ok(Report {
            store: if self.ground.is_some() { "Postgres" } else { "the embedded store" },
            servers: self.servers(),
            clients: usize::from(options.clients),
            seconds: options.seconds,
            seed,
            has_model: self.has_model,
            keyed: arena.keyed.load(Ordering::Relaxed),
            complete,
            skipped: faults.skipped(),
            faults: faults.happened,
            commands: ledger.tally(),
            requests: arena.requests.load(Ordering::Relaxed),
            lost: arena.lost.load(Ordering::Relaxed),
            starts: arena.nodes.iter().map(|node| node.starts.load(Ordering::Relaxed)).sum(),
            fell: arena.nodes.iter().map(|node| node.fell.load(Ordering::Relaxed)).sum(),
            internal: arena.internal(),
            facts: settled.head,
            feeds_resumed: settled.feeds_resumed,
            verdict: settled.verdict,
            good_again: recovery.median_and_longest(),
            unanswered: recovery.unanswered(),
            settled: settled.took,
            kept: vec![],
        })
    }

    /// Registers the users, a few at once.
    async fn gather(
        &self,
        arena: &Arc<Arena>,
        door: &Arc<Door>,
        count: u16,
        fresh: &mut impl FnMut() -> StdRng,
    ) -> Result<Vec<Person>, String> {
        let (mut joining, mut people) = (JoinSet::new(), Vec::new());
        for _ in 0..count {
            if joining.len() == AT_ONCE {
                people.extend(joining.join_next().await.and_then(Result::ok).flatten());
            }
            let (arena, door, mut chance) = (Arc::clone(arena), Arc::clone(door), fresh());
            joining.spawn(async move {
                let invite = door.invite(&arena).await?;
                Person::register(&arena, &mut chance, &invite).await
            });
        }
        people.extend(joining.join_all().await.into_iter().flatten());
        match people.len() == usize::from(count) {
            true => Ok(people),
            false => Err(format!("only {} of {count} users could be registered", people.len())),
        }
    }

    /// Tidies up after a run that lost nothing; else says what is left to be looked at.
    async fn leave(self, run: Result<Report, String>) -> Result<Report, String> {
        if run.as_ref().is_ok_and(Report::passed) {
            if let Some(ground) = &self.ground
                && let Err(error) = ground.tormented.drop_database().await
            {
                eprintln!("the database {} can't be dropped: {error}", ground.tormented.database());
            }
            if let Err(error) = fs::remove_dir_all(&self.folder) {
                eprintln!("{} can't be removed: {error}", self.folder.display());
            }
            return run;
        }
        let folder = format!("{} (the servers' logs, and the master key)", self.folder.display());
        let database = self.ground.as_ref().map(|ground| format!("the database {}", ground.tormented.database()));
        let kept: Vec<String> = std::iter::once(folder).chain(database).collect();
        match run {
            Ok(report) => Ok(Report { kept, ..report }),
            Err(sentence) => Err(format!("{sentence}; kept: {}", kept.join(", "))),
        }
    }
}

/// Four readers: of everything, live and in pages; of jobs, live; of half the slices, in pages.
fn subscribe(
    arena: &Arc<Arena>,
    until: &watch::Receiver<Option<u64>>,
    fresh: &mut impl FnMut() -> StdRng,
) -> Vec<JoinHandle<Notes>> {
    let readers = [(Wanted::Everything, true), (Wanted::Everything, false), (Wanted::Jobs, true), (Wanted::HalfTheSlices, false)];
    let subscriber = |(wanted, live): (Wanted, bool)| {
        let name = format!("{} feed of {}", if live { "live" } else { "paged" }, wanted.as_str());
        let notes = Notes::new(name, wanted);
        let (arena, last) = (Arc::clone(arena), until.clone());
        tokio::spawn(Subscriber { arena, notes, query: wanted.query(), live, chance: fresh(), last }.read(LAST_EVENTS))
    };
    readers.into_iter().map(subscriber).collect()
}

/// The same job without an id of its own, twice under one key: whether that is one job.
async fn honours_keys(arena: &Arena, chance: &mut StdRng, admin: &Person) -> bool {
    let mark = arena.ledger().begin(Kind::SubmitJob, false, 0);
    let text = arena.ledger().text(mark);
    let mut jobs = Vec::new();
    for _ in 0..2 {
        arena.ledger().sending(mark);
        let Some((_, base)) = arena.any_node(chance) else { return false };
        let request = arena.request(reqwest::Method::POST, &base, "/api/queue/media", admin.by());
        let request = request.header("Idempotency-Key", &text).header("X-Request-Id", &text);
        let Ok(response) = request.json(&json!({"operation": "thumbnail"})).send().await else { return false };
        let Ok(json) = response.json::<serde_json::Value>().await else { return false };
        jobs.push(json["jobId"].clone());
    }
    jobs[0].is_string() && jobs[0] == jobs[1]
}

/// Cancelled by Ctrl-C or SIGTERM.
fn until_told_to_stop() -> Result<CancellationToken, String> {
    let listen = |kind| signal(kind).map_err(|error| format!("signals can't be listened to: {error}"));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
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
