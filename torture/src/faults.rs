//! Breaks one random thing after another. Each fault comes once before any comes again, like cards of a deck.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use genie_events::{Event, Metadata, StreamId, StreamKind, User, account::AccountEvent};
use genie_log::{Append, AppendError, AppendRequest, FactBody, Group, NewFact};
use rand::{RngExt, rngs::StdRng, seq::SliceRandom};
use serde_json::json;
use tokio::{process::Command, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Arena, ClientAnswer, ClientRequest},
    ledger::CommandKind,
    postgres_wire::WireRequest,
    relay::{CutAt, TcpRelay},
    scratch_database::ScratchDatabase,
    simulated_users::{InviteDesk, SimulatedUser},
    verdict::Mistake,
    worker_faults,
    worker_line::WorkerLine,
};

/// Pause between two faults, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 150..1200;
/// How long a single server is given to come up.
const COMES_UP: Duration = Duration::from_secs(10);
/// How long a server is frozen, or its way to Postgres stalled, in milliseconds.
const HANGS_MS: std::ops::Range<u64> = 500..4000;
/// How long somebody idles in a transaction, in milliseconds.
const IDLES_MS: std::ops::Range<u64> = 1000..5000;
/// How long a cut waits for the request that it is meant for.
pub const MOMENT: Duration = Duration::from_secs(4);
/// How long `--restart-postgres` may take.
const RESTART: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillServer,
    FreezeServer,
    KillWorker,
    CutWorkerOff,
    KillWaitingWorkers,
    RestartPostgres,
    EndBackEnds,
    CutAfterAppendSent,
    CutAfterAppendDone,
    CutAfterCommitDone,
    CutWhileWaitingForTheLock,
    CutEverything,
    Stall,
    IdleInTransaction,
    SuspendOnAnotherNode,
}

impl Fault {
    pub const ALL: [Self; 15] = [
        Self::KillServer,
        Self::FreezeServer,
        Self::KillWorker,
        Self::CutWorkerOff,
        Self::KillWaitingWorkers,
        Self::RestartPostgres,
        Self::EndBackEnds,
        Self::CutAfterAppendSent,
        Self::CutAfterAppendDone,
        Self::CutAfterCommitDone,
        Self::CutWhileWaitingForTheLock,
        Self::CutEverything,
        Self::Stall,
        Self::IdleInTransaction,
        Self::SuspendOnAnotherNode,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::KillServer => "kill -9 of a server",
            Self::FreezeServer => "a server frozen for a while",
            Self::KillWorker => "a worker killed in the middle of a job",
            Self::CutWorkerOff => "a worker cut off for longer than a lease",
            Self::KillWaitingWorkers => "five waiting workers killed before 100 jobs",
            Self::RestartPostgres => "Postgres restarted",
            Self::EndBackEnds => "back ends of Postgres ended",
            Self::CutAfterAppendSent => "cut after an append was sent",
            Self::CutAfterAppendDone => "cut after an append was committed",
            Self::CutAfterCommitDone => "cut after COMMIT of a working table",
            Self::CutWhileWaitingForTheLock => "cut while waiting for the append's lock",
            Self::CutEverything => "all connections of a server cut",
            Self::Stall => "the way to Postgres stalled",
            Self::IdleInTransaction => "a session idle in a transaction",
            Self::SuspendOnAnotherNode => "a user suspended on another node",
        }
    }

    /// True when the fault hits one server only.
    fn hits_one(self) -> bool {
        matches!(
            self,
            Self::KillServer
                | Self::FreezeServer
                | Self::Stall
                | Self::CutEverything
                | Self::CutAfterAppendSent
                | Self::CutAfterAppendDone
                | Self::CutAfterCommitDone
        )
    }

    fn needs_postgres(self) -> bool {
        !matches!(
            self,
            Self::KillServer
                | Self::FreezeServer
                | Self::KillWorker
                | Self::CutWorkerOff
                | Self::KillWaitingWorkers
        )
    }
}

pub struct Siege {
    pub database: ScratchDatabase,
    /// One for each server.
    pub relays: Arc<Vec<TcpRelay>>,
    /// A log on the same database with the same keys, as another server has it.
    pub append: Append,
}

pub struct Faults {
    pub arena: Arc<Arena>,
    pub invites: Arc<InviteDesk>,
    /// One for each worker.
    pub lines: Vec<Arc<WorkerLine>>,
    pub siege: Option<Siege>,
    pub restart: Option<String>,
    pub chance: StdRng,
    /// Prints each fault as it happens.
    pub tell: Box<dyn Fn(&str) + Send>,
    pub happened: BTreeMap<Fault, u64>,
}

impl Faults {
    /// The faults that can't happen here, with the reason.
    pub fn skipped(&self) -> Vec<(Fault, &'static str)> {
        let why = |fault: Fault| match (&self.siege, fault) {
            (None, fault) if fault.needs_postgres() => {
                Some("the embedded store has no connections to break")
            }
            (Some(_), Fault::RestartPostgres) if self.restart.is_none() => {
                Some("no --restart-postgres COMMAND was given")
            }
            _ => None,
        };
        Fault::ALL
            .into_iter()
            .filter_map(|fault| Some((fault, why(fault)?)))
            .collect()
    }

    /// Breaks one thing after another until told to stop. The last fault is mended before this returns.
    pub async fn run(&mut self, stop: CancellationToken) {
        let skipped: Vec<Fault> = self.skipped().into_iter().map(|(fault, _)| fault).collect();
        let mut deck = Vec::new();
        while !stop.is_cancelled() {
            if deck.is_empty() {
                deck = Fault::ALL
                    .into_iter()
                    .filter(|fault| !skipped.contains(fault))
                    .collect();
                deck.shuffle(&mut self.chance);
            }
            self.recover().await;
            let pause = Duration::from_millis(self.chance.random_range(PAUSE_MS));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            if let Some(fault) = deck.pop() {
                self.inject(fault).await;
            }
        }
    }

    /// A single server is given time to come up: a server that is always down does nothing that could get lost. Of several
    /// servers, one may be broken while others are not back yet.
    async fn recover(&self) {
        let deadline = Instant::now() + COMES_UP;
        while self.siege.is_none()
            && self.arena.nodes.iter().any(|node| node.base().is_none())
            && Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn inject(&mut self, fault: Fault) {
        let node = self.chance.random_range(0..self.arena.nodes.len());
        let happened = match fault {
            Fault::KillServer => {
                self.arena.nodes[node].kill() && takes_hold(&self.arena, Some(node))
            }
            Fault::FreezeServer => self.freeze(node).await,
            Fault::KillWorker => worker_faults::kill(&self.lines, &mut self.chance).await,
            Fault::CutWorkerOff => worker_faults::cut_off(&self.lines, &mut self.chance).await,
            Fault::KillWaitingWorkers => {
                let (arena, invites) = (&self.arena, &self.invites);
                worker_faults::kill_waiting(arena, invites, &mut self.chance).await
            }
            Fault::RestartPostgres => self.restart().await,
            _ => match &self.siege {
                None => false,
                Some(_) if fault == Fault::SuspendOnAnotherNode => self.suspend(node).await,
                Some(siege) => besiege(&self.arena, siege, fault, node, &mut self.chance).await,
            },
        };
        if !happened {
            return (self.tell)(&format!("{} (its moment did not come)", fault.as_str()));
        }
        *self.happened.entry(fault).or_default() += 1;
        let which = if fault.hits_one() {
            format!(" (server {})", node + 1)
        } else {
            String::new()
        };
        (self.tell)(&format!("{}{which}", fault.as_str()));
    }

    async fn freeze(&mut self, node: usize) -> bool {
        let frozen = self.arena.nodes[node].freeze(true) && takes_hold(&self.arena, Some(node));
        tokio::time::sleep(Duration::from_millis(self.chance.random_range(HANGS_MS))).await;
        self.arena.nodes[node].freeze(false);
        frozen
    }

    async fn restart(&self) -> bool {
        let (Some(command), Some(siege)) = (&self.restart, &self.siege) else {
            return false;
        };
        let run = Command::new("sh")
            .args(["-c", command])
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        let mut run = std::pin::pin!(tokio::time::timeout(RESTART, run));
        let goes_away = async {
            while siege.database.ping().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let ended = tokio::select! {
            ended = &mut run => Some(ended),
            () = goes_away => None,
        };
        let began = Instant::now();
        self.arena.recovery().fault(began, None);
        let ended = match ended {
            Some(ended) => ended, // it was away for too short a time to be seen
            None => run.await,
        };
        let done = matches!(ended, Ok(Ok(output)) if output.status.success());
        if !done {
            self.arena.recovery().withdraw(began);
            (self.tell)("--restart-postgres failed");
        }
        let deadline = Instant::now() + RESTART;
        while siege.database.ping().await.is_err() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        done
    }

    /// A user is in memory on every server, and is suspended by a fact of another node. Their next command must be refused
    /// everywhere.
    async fn suspend(&mut self, node: usize) -> bool {
        let arena = Arc::clone(&self.arena);
        let chance = &mut self.chance;
        let Some(invite) = self.invites.invite(&arena).await else {
            return false;
        };
        let Some(victim) = SimulatedUser::register(&arena, chance, &invite).await else {
            return false;
        };
        let submit = || {
            ClientRequest::post(
                CommandKind::SubmitJob,
                "/api/queue/media",
                victim.by(),
                json!({"operation": "thumbnail", "input_url": "http://a/b"}),
            )
        };
        for warmed in 0..arena.nodes.len() {
            if !matches!(
                arena.tell_to(Some(warmed), chance, submit()).await,
                ClientAnswer::Yes { .. }
            ) {
                return false;
            }
        }
        let Some(siege) = &self.siege else {
            return false;
        };
        if append_suspension(&siege.append, &victim).await.is_err() {
            return false;
        }
        takes_hold(&arena, None);
        if let ClientAnswer::Yes { position, .. } =
            arena.tell_to(Some(node), chance, submit()).await
        {
            let sentence = format!(
                "user {} was suspended, and was let act at position {position}",
                victim.id
            );
            arena.accuse(Mistake::NeverSent, sentence);
        }
        true
    }
}

/// Suspends a user as another node would: by one fact, fenced by the user's number of facts.
async fn append_suspension(append: &Append, victim: &SimulatedUser) -> Result<(), AppendError> {
    loop {
        let mut user = User::new(victim.id);
        let reader = append.log().reader();
        let read = reader.user_facts(victim.id, |fact| {
            if let FactBody::Open(event, _) = fact.body {
                user.evolve(&fact.stream, fact.sequence, event);
            }
        });
        read.await
            .map_err(|error| AppendError::Unknown(error.to_string()))?;
        let stream = StreamId::new(StreamKind::Account, victim.id);
        let sequence = user.sequence(&stream) + 1;
        let fact = NewFact {
            stream,
            sequence,
            event: Event::Account(AccountEvent::Suspended),
        };
        let groups = vec![Group::of_user(victim.id, user.seq(), vec![fact])];
        match append
            .append(AppendRequest {
                groups,
                work: vec![],
                metadata: Metadata::system(),
                remember: None,
            })
            .await
        {
            Err(AppendError::Stale) => {} // a job of theirs went on meanwhile
            done => return done.map(drop),
        }
    }
}

/// Waits from now on for a good answer, of one server or of any. Always true.
fn takes_hold(arena: &Arena, node: Option<usize>) -> bool {
    arena.recovery().fault(Instant::now(), node);
    true
}

async fn besiege(
    arena: &Arena,
    siege: &Siege,
    fault: Fault,
    node: usize,
    chance: &mut StdRng,
) -> bool {
    let relay = &siege.relays[node];
    let happened = match fault {
        Fault::EndBackEnds => siege
            .database
            .end_back_ends(chance.random_range(1..8))
            .await
            .is_ok_and(|ended| ended > 0),
        Fault::CutAfterAppendSent => {
            relay
                .cut_next(WireRequest::Append, CutAt::Sent, MOMENT)
                .await
        }
        Fault::CutAfterAppendDone => {
            relay
                .cut_next(WireRequest::Append, CutAt::Done, MOMENT)
                .await
        }
        Fault::CutAfterCommitDone => {
            relay
                .cut_next(WireRequest::Commit, CutAt::Done, MOMENT)
                .await
        }
        Fault::CutEverything => relay.cut_all() > 0,
        // These last for a while.
        Fault::Stall => {
            relay.stall(true);
            takes_hold(arena, Some(node));
            tokio::time::sleep(Duration::from_millis(chance.random_range(HANGS_MS))).await;
            relay.stall(false);
            return true;
        }
        Fault::IdleInTransaction => {
            let Ok(held) = siege.database.hold_snapshot().await else {
                return false;
            };
            takes_hold(arena, None);
            tokio::time::sleep(Duration::from_millis(chance.random_range(IDLES_MS))).await;
            held.release().await;
            return true;
        }
        Fault::CutWhileWaitingForTheLock => return cut_while_waiting(arena, siege, chance).await,
        _ => false,
    };
    happened && takes_hold(arena, fault.hits_one().then_some(node))
}

/// Holds the append's lock until a back end waits for it, cuts that one's connection, and lets the lock go a while later: the
/// statement may then still commit, long after its client was told nothing.
async fn cut_while_waiting(arena: &Arena, siege: &Siege, chance: &mut StdRng) -> bool {
    let Ok(held) = siege.database.hold_append_lock().await else {
        return false;
    };
    let deadline = Instant::now() + MOMENT;
    let mut cut = 0;
    while cut == 0 && Instant::now() < deadline {
        let waiting = siege
            .database
            .waiting_for_the_append_lock()
            .await
            .unwrap_or_default();
        cut = waiting
            .iter()
            .filter(|port| siege.relays.iter().any(|relay| relay.cut(**port)))
            .count();
        if cut == 0 && !waiting.is_empty() {
            // Postgres sees other ports than the relays call from: something stands between. Then everything is cut.
            cut = siege.relays.iter().map(TcpRelay::cut_all).sum();
        }
    }
    if cut > 0 {
        takes_hold(arena, None);
        tokio::time::sleep(Duration::from_millis(chance.random_range(0..1500))).await;
    }
    held.release().await;
    cut > 0
}
