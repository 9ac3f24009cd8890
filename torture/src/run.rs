//! One run: users register, things break for a while, and everything is compared when nothing moves
//! any more.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use genie_log::{Append, clock::random_bytes};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Options,
    client::Arena,
    faults::{Faults, Siege},
    ledger::Ledger,
    report::Report,
    servers::ServerProcess,
    settle::{Rest, Settled},
    simulated_users::{self, InviteDesk, SimulatedUser, UserAtWork},
    site::RunSite,
    subscriber, unless_told,
    worker::work,
    worker_line::WorkerLine,
};

const MAX_WORKERS: usize = 32;
/// Tokens older than this are renewed before the read side is compared.
const TOKEN_AGE: Duration = Duration::from_secs(600);
/// How long clients may take to get a definite answer to their last request.
const LAST_ANSWERS: Duration = Duration::from_secs(120);
/// How long the servers may take to answer once nothing is broken any more.
const ROLL_CALL: Duration = Duration::from_secs(60);

/// One run over servers that are up.
pub struct TortureRun<'a> {
    site: &'a RunSite,
    options: &'a Options,
    append: &'a Append,
    arena: Arc<Arena>,
    invites: Arc<InviteDesk>,
    early: &'a CancellationToken,
    started: Instant,
    seed: u64,
    chance: StdRng,
    /// Tasks of the run itself that failed.
    broken: Vec<String>,
}

impl<'a> TortureRun<'a> {
    pub async fn prepare(
        site: &'a RunSite,
        options: &'a Options,
        append: &'a Append,
        nodes: Vec<Arc<ServerProcess>>,
        id: &str,
        early: &'a CancellationToken,
    ) -> Result<Self, String> {
        let started = Instant::now();
        let seed = options
            .seed
            .unwrap_or_else(|| u64::from_be_bytes(random_bytes()));
        let mut chance = StdRng::seed_from_u64(seed);
        let ledger = Ledger::new(&format!("t{id}"));
        let arena = Arc::new(Arena::new(nodes, site.secret.clone(), ledger)?);
        let admin = async {
            let admin = SimulatedUser::register(&arena, &mut chance, &site.invite).await;
            admin.ok_or("the first user can't be registered; the servers' logs may say why".into())
        };
        let admin = unless_told(early, admin).await?;
        let invites = Arc::new(InviteDesk::new(admin, chance.random()));
        Ok(Self {
            site,
            options,
            append,
            arena,
            invites,
            early,
            started,
            seed,
            chance,
            broken: vec![],
        })
    }

    /// Random numbers for another task, the same for the same seed.
    fn chance(&mut self) -> StdRng {
        StdRng::seed_from_u64(self.chance.random())
    }

    fn tell(&self, line: &str) {
        tell(self.started, line);
    }

    pub async fn torment(mut self) -> Result<Report, String> {
        let gathering = simulated_users::gather(
            &self.arena,
            &self.invites,
            self.options.clients,
            &mut self.chance,
        );
        let users = unless_told(self.early, gathering).await?;
        self.tell(&format!(
            "{} users are registered; clients start, and faults begin",
            users.len()
        ));

        let (last, until) = watch::channel(None);
        let subscribers = subscriber::start(&self.arena, &until, &mut self.chance);
        let lines = self.lines_of_workers(users.len()).await?;
        let clients = self.start_clients(users, &lines);
        let (faults, complete) = self.break_things(lines).await;

        self.tell("faults end; clients wait for their last answers");
        self.arena.stop.cancel();
        let users_at_work = self.last_answers(clients).await;
        let mut users = self.last_looks(users_at_work).await;
        let since = Instant::now();
        if self.started.elapsed() > TOKEN_AGE {
            for user in &mut users {
                user.log_in(&self.arena, &mut self.chance).await;
            }
        }
        if let Some(user) = users.first() {
            self.arena.call_the_roll(user.by(), ROLL_CALL).await;
        }

        self.tell("everything comes to rest; the log is compared with the ledger");
        let books = self.arena.close_books();
        let rest = Rest {
            arena: Arc::clone(&self.arena),
            log: self.append.log(),
            users,
            subscribers,
            last,
            chance: self.chance(),
        };
        let mut settled = rest.settle(&books, since).await;
        settled.verdict.join(self.arena.take_seen());
        Ok(self.report(faults, &books.ledger, settled, complete))
    }

    /// A line for each worker.
    async fn lines_of_workers(&self, users: usize) -> Result<Vec<Arc<WorkerLine>>, String> {
        let mut lines = Vec::new();
        for _ in 0..users.div_ceil(4).clamp(2, MAX_WORKERS) {
            let line = WorkerLine::start(self.arena.nodes.clone()).await;
            let line = line.map_err(|error| format!("no port can be listened on: {error}"))?;
            lines.push(Arc::new(line));
        }
        Ok(lines)
    }

    /// Workers and users. Only users return something when they stop.
    fn start_clients(
        &mut self,
        users: Vec<SimulatedUser>,
        lines: &[Arc<WorkerLine>],
    ) -> JoinSet<Option<UserAtWork>> {
        let mut clients = JoinSet::new();
        for (number, line) in lines.iter().enumerate() {
            let arena = Arc::clone(&self.arena);
            let line = Arc::clone(line);
            let chance = self.chance();
            clients.spawn(async move {
                work(arena, line, format!("worker-{number}"), chance).await;
                None
            });
        }
        for user in users {
            let at_work = UserAtWork::new(
                Arc::clone(&self.arena),
                Arc::clone(&self.invites),
                user,
                self.chance(),
                self.site.has_model,
            );
            clients.spawn(async move { Some(at_work.live().await) });
        }
        clients
    }

    /// Injects faults until the time is over. Returns whether it was not ended early.
    async fn break_things(&mut self, lines: Vec<Arc<WorkerLine>>) -> (Faults, bool) {
        let siege = self.site.ground.as_ref().map(|ground| Siege {
            database: ground.database.clone(),
            relays: Arc::clone(&ground.relays),
            append: self.append.clone(),
        });
        let started = self.started;
        let mut faults = Faults {
            arena: Arc::clone(&self.arena),
            invites: Arc::clone(&self.invites),
            lines,
            siege,
            restart: self.options.restart_postgres.clone(),
            chance: self.chance(),
            tell: Box::new(move |line| tell(started, line)),
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
        (faults, complete)
    }

    /// Waits until every client has a definite answer to its last request.
    async fn last_answers(&mut self, mut clients: JoinSet<Option<UserAtWork>>) -> Vec<UserAtWork> {
        let deadline = Instant::now() + LAST_ANSWERS;
        let mut users = Vec::new();
        while let Ok(Some(client)) = tokio::time::timeout_at(deadline, clients.join_next()).await {
            match client {
                Ok(user) => users.extend(user),
                Err(error) => self.broken.push(format!("a client's task failed: {error}")),
            }
        }
        if !clients.is_empty() {
            self.tell("some clients have no answer to their last request; it counts as unknown");
            self.broken.push(format!(
                "{} clients had no answer in time to their last request",
                clients.len()
            ));
            clients.shutdown().await;
        }
        users
    }

    async fn last_looks(&mut self, users: Vec<UserAtWork>) -> Vec<SimulatedUser> {
        let mut looking: JoinSet<SimulatedUser> =
            users.into_iter().map(UserAtWork::look_back).collect();
        let mut looked = Vec::new();
        while let Some(user) = looking.join_next().await {
            match user {
                Ok(user) => looked.push(user),
                Err(error) => self
                    .broken
                    .push(format!("a client's last look failed: {error}")),
            }
        }
        looked
    }

    fn report(self, faults: Faults, ledger: &Ledger, settled: Settled, complete: bool) -> Report {
        let arena = self.arena;
        let recovery = arena.recovery();
        let mut broken = self.broken;
        broken.extend(settled.broken);
        let sum =
            |count: fn(&ServerProcess) -> u64| arena.nodes.iter().map(|node| count(node)).sum();
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
            turns_left: arena.turns_left.load(Ordering::Relaxed),
            turns_cut: arena.turns_cut.load(Ordering::Relaxed),
            starts: sum(|node| node.starts.load(Ordering::Relaxed)),
            fell: sum(|node| node.fell.load(Ordering::Relaxed)),
            internal: arena.internal(),
            facts: settled.head,
            feeds_resumed: settled.feeds_resumed,
            compared: settled.compared,
            broken,
            verdict: settled.verdict,
            good_again: recovery.median_and_longest(),
            unanswered: recovery.unanswered(),
            settled: settled.took,
            kept: vec![],
        }
    }
}

fn tell(started: Instant, line: &str) {
    eprintln!("{:>9.3} s  {line}", started.elapsed().as_secs_f64());
}
