//! Finds, starts, replaces and passivates users' actors. actix' own `Supervisor` does not survive a panic, so a dead actor is
//! noticed here by its closed mailbox, and a new one is started from the log.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::{Actor, Addr, ArbiterHandle};
use genie_events::{JobId, Metadata, User, UserCommand, UserId};
use genie_log::Log;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    WriteError,
    user::{Ask, Passivate, UserActor, WaitingPlace},
};

pub use crate::user::{Done, Note, Plan, Planner};

/// Commands that may wait for one user; one more is refused as busy.
const MAILBOX: usize = 64;
/// How often a command is sent again when its actor died before it took it.
const SENDS: u32 = 3;
/// How long a command may take before its caller is told to come again.
const DEADLINE: Duration = Duration::from_secs(10);
/// An actor unused for so long is passivated.
const IDLE: Duration = Duration::from_secs(300);
/// The most actors alive; past it those longest unused are passivated.
const MAX_LIVE: usize = 50_000;
/// How often the idle are looked for.
const SWEEP: Duration = Duration::from_secs(15);
/// Of how many users the latest written position is remembered, so that their own reads wait for it.
const REMEMBERED: u64 = 100_000;

/// All users' actors of this node.
#[derive(Clone)]
pub struct Users(Arc<Inner>);

struct Inner {
    log: Log,
    live: Mutex<HashMap<UserId, Live>>,
    /// The threads that actors live on.
    arbiters: Vec<ArbiterHandle>,
    next: AtomicUsize,
    written: moka::sync::Cache<UserId, u64>,
}

struct Live {
    actor: Addr<UserActor>,
    waiting: Arc<AtomicUsize>,
    used: Instant,
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Users({} live)", self.live_count())
    }
}

impl Users {
    /// `arbiters` must not be empty.
    pub fn new(log: Log, arbiters: Vec<ArbiterHandle>) -> Self {
        let written = moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_live(Duration::from_secs(60)).build();
        Self(Arc::new(Inner { log, live: Mutex::default(), arbiters, next: AtomicUsize::new(0), written }))
    }

    /// Passivates idle actors for ever; to be spawned.
    pub async fn sweep(self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.passivate(IDLE, MAX_LIVE);
        }
    }

    /// Passivates those unused for `idle`, and the longest unused above `max`. What was asked of them before is still answered.
    pub fn passivate(&self, idle: Duration, max: usize) {
        let mut live = self.lock();
        let now = Instant::now();
        let mut by_use: Vec<(Instant, UserId)> = live.iter().map(|(id, entry)| (entry.used, *id)).collect();
        by_use.sort_unstable();
        let too_many = by_use.len().saturating_sub(max);
        for (n, (used, id)) in by_use.into_iter().enumerate() {
            let unused = now.duration_since(used) >= idle;
            if (unused || n < too_many)
                && let Some(entry) = live.remove(&id)
            {
                // Behind everything asked so far: the mailbox is in order, and the map no longer gives this address out.
                entry.actor.do_send(Passivate);
            }
        }
    }

    /// How many actors are alive.
    pub fn live_count(&self) -> usize {
        self.lock().len()
    }

    /// The latest position written for a user on this node lately.
    pub fn last_written(&self, user: UserId) -> Option<u64> {
        self.0.written.get(&user)
    }

    /// Asks a user something. What is answered with `Ok` is durable.
    pub async fn ask(&self, user: UserId, metadata: Metadata, command: UserCommand) -> Result<Done, WriteError> {
        let job = command.job().cloned();
        let planner = move |state: &User, now| state.decide(now, command.clone()).map(Plan::from);
        self.plan(user, job, metadata, Arc::new(planner)).await
    }

    /// The same with a planner of one's own. `job` names a job that it must see even when it has finished.
    pub async fn plan(&self, user: UserId, job: Option<JobId>, metadata: Metadata, planner: Planner) -> Result<Done, WriteError> {
        let deadline = Instant::now() + DEADLINE;
        for _ in 0..SENDS {
            let (reply, answer) = oneshot::channel();
            let begun = Arc::new(AtomicBool::new(false));
            self.send(user, |place| Ask {
                planner: Arc::clone(&planner),
                job: job.clone(),
                metadata: metadata.clone(),
                deadline,
                reply,
                begun: Arc::clone(&begun),
                place,
            })?;
            match answer.await {
                Ok(answer) => {
                    let done = answer?;
                    // Also when it was so already: perhaps by an earlier try whose answer got lost.
                    self.0.written.insert(user, done.position);
                    return Ok(done);
                }
                // The actor died in the middle: what it appended can't be said.
                Err(_) if begun.load(Ordering::SeqCst) => break,
                Err(_) => {}
            }
        }
        Err(WriteError::Away("the user's actor died".into()))
    }

    /// Into the user's mailbox, under the lock, so that no actor is passivated between finding and sending.
    fn send(&self, user: UserId, ask: impl FnOnce(WaitingPlace) -> Ask) -> Result<(), WriteError> {
        let mut live = self.lock();
        let entry = live.entry(user).or_insert_with(|| self.start(user));
        if !entry.actor.connected() {
            *entry = self.start(user); // it died; the log has everything that it knew
        }
        entry.used = Instant::now();
        let place = WaitingPlace::take(&entry.waiting, MAILBOX).ok_or(WriteError::Busy)?;
        // Past the mailbox's own limit, which is small until an actor has started: the places are the limit.
        entry.actor.do_send(ask(place));
        Ok(())
    }

    fn start(&self, user: UserId) -> Live {
        let log = self.0.log.clone();
        let n = self.0.next.fetch_add(1, Ordering::Relaxed) % self.0.arbiters.len();
        let actor = UserActor::start_in_arbiter(&self.0.arbiters[n], move |_| UserActor::new(user, log));
        Live { actor, waiting: Arc::default(), used: Instant::now() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<UserId, Live>> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use genie_events::{
        CaptionId, Change, Event, RefusalKind, SessionId, TurnId,
        account::AccountEvent,
        caption::{Brief, Length, Platform},
        chat::{Answer, ChatCommand, TurnMetrics, TurnOutcome},
        job::{JobCommand, JobSpec},
        tier::Counter,
    };
    use genie_log::{
        Append, Group, NewFact,
        testing::{TestStore, both_stores},
    };
    use serde_json::Value;

    use super::*;

    /// A thread that actors live on, as a node has them.
    fn arbiter() -> ArbiterHandle {
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            actix::System::new().block_on(async move {
                let arbiter = actix::Arbiter::new();
                tell.send(arbiter.handle()).unwrap();
                std::future::pending::<()>().await;
            });
        });
        told.recv().unwrap()
    }

    fn node(log: &Log) -> Users {
        Users::new(log.clone(), vec![arbiter()])
    }

    fn caption(log: &Log) -> UserCommand {
        let brief =
            Brief { platform: Platform::X, tone: "t".into(), topic: "t".into(), length: Length::Short, platform_username: None };
        UserCommand::RequestCaption(CaptionId(log.clock().new_uuid()), brief)
    }

    async fn count(log: &Log, user: UserId) -> usize {
        let mut facts = 0;
        log.user_facts(user, |_| facts += 1).await.unwrap();
        facts
    }

    both_stores!(what_one_node_writes_a_warm_actor_of_another_obeys, async |store: TestStore| {
        let opened = store.open().await;
        let ada = store.register(&opened.log, "ada").await;
        let (one, two) = (node(&opened.log), node(&opened.log));
        one.ask(ada, Metadata::system(), UserCommand::SignIn).await.unwrap();
        two.ask(ada, Metadata::system(), UserCommand::SignIn).await.unwrap(); // warm on both
        let change = Change::new(ada, Event::Account(AccountEvent::Suspended));
        let fact = NewFact { stream: change.stream, sequence: 4, event: change.event };
        let group = Group::of_user(ada, 3, vec![fact]);
        opened.log.append(Append { groups: vec![group], work: vec![], metadata: Metadata::system() }).await.unwrap();
        for users in [one, two] {
            let refused = users.ask(ada, Metadata::system(), UserCommand::SignIn).await.unwrap_err();
            assert!(matches!(refused, WriteError::Refused(refusal) if refusal.code == "suspended"));
        }
    });

    both_stores!(a_no_is_only_said_on_the_present_state, async |store: TestStore| {
        let opened = store.open().await;
        let ada = store.register(&opened.log, "ada").await;
        let (one, two) = (node(&opened.log), node(&opened.log));
        let ask = async |users: &Users, command| users.ask(ada, Metadata::system(), command).await;
        ask(&one, UserCommand::SignIn).await.unwrap(); // warm, and soon behind
        let job = JobId::new(opened.log.clock().new_uuid());
        let spec: JobSpec = serde_json::from_value(serde_json::json!({
            "operation": "thumbnail", "queue": "media-jobs", "priority": 10, "max_attempts": 3,
        }))
        .unwrap();
        let claim = JobCommand::Claim { worker: "w".into(), lease: "l".into(), now: opened.log.clock().now() };
        ask(&two, UserCommand::SubmitJob(job.clone(), spec)).await.unwrap();
        ask(&two, UserCommand::Job(job.clone(), claim)).await.unwrap();
        let done = JobCommand::Complete { lease: "l".into(), result: Value::Null, outputs: Value::Null };
        assert_eq!(ask(&one, UserCommand::Job(job, done)).await.unwrap().changes.len(), 1, "not a stale lease");

        let (session, turn) = (SessionId("s".into()), TurnId(opened.log.clock().new_uuid()));
        let begin =
            |turn| UserCommand::Chat(session.clone(), ChatCommand::Ask { turn, session: "s".into(), message: "m".into() });
        ask(&one, begin(turn)).await.unwrap();
        let answer = Answer {
            content: "a".into(),
            outcome: TurnOutcome::Completed,
            failure: None,
            model: "m".into(),
            metrics: TurnMetrics::default(),
        };
        let end = UserCommand::Chat(session.clone(), ChatCommand::Answer { turn, answer });
        assert_eq!(ask(&two, end).await.unwrap().changes.len(), 1, "not an unknown turn");
        ask(&one, begin(TurnId(opened.log.clock().new_uuid()))).await.unwrap(); // and not a turn that still runs
    });

    both_stores!(two_nodes_together_never_pass_a_limit, async |store: TestStore| {
        let opened = store.open().await;
        let other = store.open().await;
        let ada = store.register_with(&opened.log, "ada", genie_events::tier::Tier::Starter).await;
        let nodes = [node(&opened.log), node(&other.log)];
        let asked = (0..30).map(|n| {
            let (users, log) = (nodes[n % 2].clone(), opened.log.clone());
            tokio::spawn(async move { users.ask(ada, Metadata::system(), caption(&log)).await })
        });
        let mut good = 0;
        for answer in asked.collect::<Vec<_>>() {
            match answer.await.unwrap() {
                Ok(_) => good += 1,
                Err(WriteError::Refused(refusal)) => {
                    assert_eq!(refusal.kind, RefusalKind::Quota { counter: Counter::PostsAiAssisted, in_tier: true });
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(good, 3);
        assert_eq!(count(&opened.log, ada).await, 1 + 3 * 2);
    });

    both_stores!(passivation_loses_nothing, async |store: TestStore| {
        let opened = store.open().await;
        let ada = store.register(&opened.log, "ada").await;
        let users = node(&opened.log);
        let asked = (0..50).map(|_| {
            let users = users.clone();
            tokio::spawn(async move {
                let answer = users.ask(ada, Metadata::system(), UserCommand::SignIn).await;
                users.passivate(Duration::ZERO, 0);
                answer
            })
        });
        for answer in asked.collect::<Vec<_>>() {
            answer.await.unwrap().unwrap();
        }
        assert_eq!(count(&opened.log, ada).await, 1 + 50);
        users.passivate(Duration::ZERO, 0);
        assert_eq!(users.live_count(), 0);
    });

    both_stores!(an_actor_that_died_is_replaced, async |store: TestStore| {
        let opened = store.open().await;
        let ada = store.register(&opened.log, "ada").await;
        let users = node(&opened.log);
        let died = users.plan(ada, None, Metadata::system(), Arc::new(|_, _| panic!("on purpose"))).await;
        assert!(matches!(died, Err(WriteError::Away(_))), "{died:?}");
        users.ask(ada, Metadata::system(), UserCommand::SignIn).await.unwrap();
        assert_eq!(count(&opened.log, ada).await, 2);
    });

    both_stores!(a_full_mailbox_is_busy_and_nothing_more, async |store: TestStore| {
        let opened = store.open().await;
        let ada = store.register(&opened.log, "ada").await;
        let users = node(&opened.log);
        let asked = (0..400).map(|_| {
            let users = users.clone();
            tokio::spawn(async move { users.ask(ada, Metadata::system(), UserCommand::SignIn).await })
        });
        let (mut good, mut busy) = (0, 0);
        for answer in asked.collect::<Vec<_>>() {
            match answer.await.unwrap() {
                Ok(_) => good += 1,
                Err(WriteError::Busy) => busy += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(good + busy, 400);
        assert_eq!(count(&opened.log, ada).await, 1 + good);
    });
}
