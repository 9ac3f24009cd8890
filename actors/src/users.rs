//! Finds, starts, replaces and passivates users' actors. actix' own `Supervisor` does not survive a panic. So a dead
//! actor is noticed here by its closed mailbox, and a new one is started from the log.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::{Actor, Addr, ArbiterHandle};
use genie_events::{
    Change, JobId, Limits, Metadata, StreamKind, User, UserCommand, UserId, user::Recall,
};
use genie_log::{Append, Log};
use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;
use tokio::{sync::oneshot, time::Instant};
use tracing::{Instrument, Span};

use crate::{
    WriteError,
    caller::CommandContext,
    user::{CommandMessage, CommandPhase, Passivate, UserActor, WaitingCommands, WaitingPlace},
};

pub use crate::user::Receipt;
pub(crate) use crate::user::{Plan, PlanNote, Planner};

/// Commands that may wait for one user; one more is refused as busy. Enough for two hundred of a user's own clients
/// at once. Waiting commands are small: a kilobyte as a rule. For those that carry much, such as cookies or a long
/// message, their bytes count, too.
const MAILBOX: WaitingCommands = WaitingCommands {
    commands: 256,
    bytes: 8 << 20,
};
/// How often a command is sent again when its actor died before it took it.
const SENDS: u32 = 3;
/// The longest time of a command, those before it included, until its user decides. Then its caller is told to come
/// again. Reads of a store that hangs fail before, so that the caller learns of that.
const DEADLINE: Duration = Duration::from_secs(18);
/// The longest wait for the append of a command that its user has decided.
const LONGEST: Duration = Duration::from_secs(40);
/// An actor that is unused for this long is passivated.
const IDLE: Duration = Duration::from_secs(300);
/// The most actors alive. Past it those longest unused are passivated.
const MAX_LIVE: usize = 50_000;
/// How often idle actors are looked for.
const SWEEP: Duration = Duration::from_secs(15);

/// All users' actors of this node.
#[derive(Clone)]
pub struct Users(Arc<Inner>);

struct Inner {
    log: Log,
    append: Append,
    limits: Limits,
    live: Mutex<HashMap<UserId, Live>>,
    /// The threads that actors live on.
    arbiters: Vec<ArbiterHandle>,
    next: AtomicUsize,
}

struct Live {
    actor: Addr<UserActor>,
    waiting: Arc<Mutex<WaitingCommands>>,
    written: Arc<LastWrites>,
    used: Instant,
}

/// The positions of a user's latest writes on this node.
#[derive(Default)]
struct LastWrites {
    /// So that the user's own reads wait for it.
    any: AtomicU64,
    /// The latest one that may have changed the account.
    account: AtomicU64,
}

impl LastWrites {
    fn note(&self, receipt: &Receipt) {
        self.any.fetch_max(receipt.position, Ordering::Relaxed);
        let is_of_account = |change: &Change| change.stream.kind == StreamKind::Account;
        // Without a change it was so already, perhaps since a moment ago.
        if receipt.changes.is_empty() || receipt.changes.iter().any(is_of_account) {
            self.account.fetch_max(receipt.position, Ordering::SeqCst);
        }
    }
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Users({} live)", self.live_count())
    }
}

impl Users {
    /// `arbiters` must not be empty.
    pub fn new(append: Append, limits: Limits, arbiters: Vec<ArbiterHandle>) -> Self {
        Self(Arc::new(Inner {
            log: append.log().clone(),
            append,
            limits,
            live: Mutex::default(),
            arbiters,
            next: AtomicUsize::new(0),
        }))
    }

    /// The limits that commands are decided by.
    pub(crate) fn limits(&self) -> Limits {
        self.0.limits.clone()
    }

    /// Passivates idle actors for ever. Spawn it.
    pub async fn sweep(self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.passivate(IDLE, MAX_LIVE);
        }
    }

    /// Passivates actors unused for `idle`, and the longest unused above `max`. Commands that they already have are
    /// still answered.
    pub fn passivate(&self, idle: Duration, max: usize) {
        let mut live = self.lock();
        let now = Instant::now();
        let mut by_use: Vec<(Instant, UserId)> =
            live.iter().map(|(id, entry)| (entry.used, *id)).collect();
        by_use.sort_unstable();
        let too_many = by_use.len().saturating_sub(max);
        for (n, (used, id)) in by_use.into_iter().enumerate() {
            let unused = now.duration_since(used) >= idle;
            if (unused || n < too_many)
                && let Some(entry) = live.remove(&id)
            {
                // Behind everything asked so far: the mailbox is in order, and the map no longer gives this address
                // out.
                entry.actor.do_send(Passivate);
            }
        }
    }

    pub fn live_count(&self) -> usize {
        self.lock().len()
    }

    /// The position of the latest write for a user on this node, known for as long as the actor lives.
    pub fn last_written(&self, user: UserId) -> Option<u64> {
        self.lock()
            .get(&user)
            .map(|entry| entry.written.any.load(Ordering::Relaxed))
            .filter(|position| *position > 0)
    }

    /// The same, of the latest write that may have changed the account.
    pub fn account_written(&self, user: UserId) -> Option<u64> {
        self.lock()
            .get(&user)
            .map(|entry| entry.written.account.load(Ordering::SeqCst))
            .filter(|position| *position > 0)
    }

    /// Asks a user something. A change that is answered with `Ok` is durable.
    pub async fn ask(
        &self,
        user: UserId,
        context: impl Into<CommandContext>,
        command: UserCommand,
    ) -> Result<Receipt, WriteError> {
        let recall = command.recall();
        let planner = move |state: &User, now| state.decide(now, command.clone()).map(Plan::from);
        let recalls = recall.into_iter().collect();
        self.plan_recalling(user, recalls, context, Arc::new(planner))
            .await
    }

    /// Asks a user about the present state. Nothing changes.
    pub(crate) async fn look(
        &self,
        user: UserId,
        look: impl Fn(&User) -> Value + Send + Sync + 'static,
    ) -> Result<Value, WriteError> {
        let planner = move |state: &User, _| {
            Ok(Plan {
                outcome: look(state),
                ..Plan::default()
            })
        };
        let system = Metadata::system();
        let seen = self.plan(user, None, system, Arc::new(planner)).await?;
        Ok(seen.outcome)
    }

    /// The same with a given planner. `job` names a job that the planner must see even when it has finished.
    pub(crate) async fn plan(
        &self,
        user: UserId,
        job: Option<JobId>,
        context: impl Into<CommandContext>,
        planner: Planner,
    ) -> Result<Receipt, WriteError> {
        let recalls = job.map(Recall::Job).into_iter().collect();
        self.plan_recalling(user, recalls, context, planner).await
    }

    /// The same; the planner sees what `recalls` name even when the state leaves it out.
    pub(crate) async fn plan_recalling(
        &self,
        user: UserId,
        recalls: Vec<Recall>,
        context: impl Into<CommandContext>,
        planner: Planner,
    ) -> Result<Receipt, WriteError> {
        self.plan_within(DEADLINE, user, recalls, context, planner)
            .await
    }

    /// The same. A user that does not come to deciding in time is busy, and then nothing happens later either.
    pub(crate) async fn plan_within(
        &self,
        patience: Duration,
        user: UserId,
        recalls: Vec<Recall>,
        context: impl Into<CommandContext>,
        planner: Planner,
    ) -> Result<Receipt, WriteError> {
        let context = context.into();
        let deadline = Instant::now() + patience;
        for _ in 0..SENDS {
            let (reply, mut answer) = oneshot::channel();
            let phase = Arc::new(CommandPhase::default());
            let written = self.send(user, context.bytes, |place| CommandMessage {
                span: Span::current(),
                planner: Arc::clone(&planner),
                recalls: recalls.clone(),
                context: context.clone(),
                deadline,
                reply,
                phase: Arc::clone(&phase),
                place,
            })?;
            let answer = match tokio::time::timeout_at(deadline, &mut answer).await {
                Ok(answer) => answer,
                Err(_) if phase.call_off() => return Err(WriteError::Busy),
                // It decides, or has: the append tells.
                Err(_) => tokio::time::timeout(LONGEST, answer)
                    .await
                    .map_err(|_| WriteError::Away("the user's actor does not answer".into()))?,
            };
            match answer {
                Ok(answer) => {
                    let done = answer?;
                    // Also when it was so already: perhaps by an earlier try whose answer got lost.
                    written.note(&done);
                    return Ok(done);
                }
                // The actor died in the middle. Nobody can say whether it appended anything.
                Err(_) if phase.has_begun() => break,
                Err(_) => {}
            }
        }
        Err(WriteError::Away("the user's actor died".into()))
    }

    /// Runs work that a request began to its end, even when the request goes away meanwhile. The work keeps the
    /// request's span.
    pub(crate) async fn run_to_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, WriteError>> + Send + 'static,
    ) -> Result<T, WriteError> {
        let task = self.0.log.store().io().spawn(work.in_current_span());
        task.await
            .map_err(|stopped| WriteError::Internal(stopped.to_string()))?
    }

    /// Sends into the user's mailbox, under the lock, so that no actor is passivated between finding and sending.
    /// Answers the place to note the write's position in.
    fn send(
        &self,
        user: UserId,
        bytes: usize,
        ask: impl FnOnce(WaitingPlace) -> CommandMessage,
    ) -> Result<Arc<LastWrites>, WriteError> {
        let mut live = self.lock();
        let entry = live.entry(user).or_insert_with(|| self.start(user));
        if !entry.actor.connected() {
            let written = Arc::clone(&entry.written);
            *entry = Live {
                written,
                ..self.start(user)
            }; // the actor died; the log has everything that it knew
        }
        entry.used = Instant::now();
        let place = WaitingPlace::take(&entry.waiting, MAILBOX, bytes).ok_or(WriteError::Busy)?;
        // Past the mailbox's own limit, which is small until an actor has started. The places are the limit.
        entry.actor.do_send(ask(place));
        Ok(Arc::clone(&entry.written))
    }

    /// Drops the keys and actors of users whom any node has forgotten, for ever. Spawn it on the runtime that owns
    /// the store's connections.
    pub async fn follow_forgotten(self) {
        let mut follower = self.0.log.reader().follow(self.0.log.reader().head());
        while let Some(rows) = follower.next_or_end("user actors").await {
            rows.iter()
                .filter(|row| row.is_forgotten())
                .for_each(|row| self.drop_user(UserId(row.owner)));
        }
    }

    /// Drops at once what this node holds of a forgotten user. The store refuses later commands for that user.
    pub(crate) fn drop_user(&self, user: UserId) {
        self.0.log.keys().drop_of(user);
        if let Some(entry) = self.lock().remove(&user) {
            entry.actor.do_send(Passivate);
        }
    }

    fn start(&self, user: UserId) -> Live {
        let append = self.0.append.clone();
        let limits = self.0.limits.clone();
        let n = self.0.next.fetch_add(1, Ordering::Relaxed) % self.0.arbiters.len();
        let actor = UserActor::start_in_arbiter(&self.0.arbiters[n], move |_| {
            UserActor::new(user, append, limits)
        });
        Live {
            actor,
            waiting: Arc::default(),
            written: Arc::default(),
            used: Instant::now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserId, Live>> {
        self.0.live.lock()
    }
}

#[cfg(test)]
pub(crate) mod tests;
