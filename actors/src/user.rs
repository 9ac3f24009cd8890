//! One user's actor. It runs one command at a time, holds nothing that the log does not, and may vanish at any
//! moment. It waits for the log only, never for a model, a worker or a password hash.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use actix::{
    Actor, ActorContext, ActorFutureExt, AtomicResponse, Context, Handler, Message, WrapFuture,
};
use genie_events::{
    BlobId, Change, Event, Limits, Now, Refusal, StreamId, User, UserId,
    chat::Chat,
    file::{File, REMOVED_AT as FILE_REMOVED},
    tier::Tier,
    user::{
        Recall,
        reveal::{RevealDenial, RevealableCredential},
    },
};
use genie_log::{
    Append, AppendError, AppendRequest, Group, Log, NewFact, Owner, Remember, UserKeys, Work,
    clock,
    idempotency::Remembered,
    load_users::{Awake, SNAPSHOT_EVERY, Waking},
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{sync::oneshot, time::Instant};
use tracing::{Instrument, Span, error};

use crate::{WriteError, caller::CommandContext, jobs};

/// The newest events of a session among which its last turn is found. Renaming in between is rare.
const OF_LAST_TURN: usize = 16;
/// The longest pause before deciding again after another writer came first; chance decides how much of it.
const STALE_PAUSE: Duration = Duration::from_millis(15);

/// An append to make if the state is still the one that it was decided on.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub changes: Vec<Change>,
    /// Working rows that go with the facts. Without facts they are left out.
    pub work: Vec<Work>,
    /// A remark on the state, for the caller.
    pub note: PlanNote,
    /// The answer is made from it, also when the same request comes again. Never a secret.
    pub outcome: Value,
}

impl From<Vec<Change>> for Plan {
    fn from(changes: Vec<Change>) -> Self {
        Self {
            changes,
            ..Self::default()
        }
    }
}

/// A remark on the state that was decided on.
#[derive(Debug, Default)]
pub(crate) enum PlanNote {
    #[default]
    Nothing,
    /// The credential that may be shown, or why not.
    Reveal(Result<RevealableCredential, RevealDenial>),
    /// What became of each of several commands.
    Each(Vec<Result<(), Refusal>>),
    /// The same for claims, and the user's tier.
    Claims {
        answers: Vec<Result<(), Refusal>>,
        tier: Tier,
    },
}

/// Decides on the state. It is called again when the state turns out stale, so it must not use itself up.
pub(crate) type Planner = Arc<dyn Fn(&User, Now) -> Result<Plan, Refusal> + Send + Sync>;

/// The outcome of a command.
#[derive(Debug)]
pub struct Receipt {
    /// The position that reads must have reached to see it.
    pub position: u64,
    /// The facts; empty when everything was so already.
    pub changes: Vec<Change>,
    /// The planner's remark. A repeated request has none.
    pub(crate) note: PlanNote,
    /// The answer is made from it.
    pub(crate) outcome: Value,
}

impl Receipt {
    /// Reads the outcome that the planner left for the answer.
    pub(crate) fn outcome<T: DeserializeOwned>(&self, what: &str) -> Result<T, WriteError> {
        serde_json::from_value(self.outcome.clone())
            .map_err(|error| WriteError::Internal(format!("{what} has no outcome: {error}")))
    }
}

/// A command on its way to a user's actor.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct CommandMessage {
    pub planner: Planner,
    /// Things that the planner must see even when the state leaves them out.
    pub recalls: Vec<Recall>,
    pub context: CommandContext,
    pub deadline: Instant,
    pub reply: oneshot::Sender<Result<Receipt, WriteError>>,
    /// The request's span, in which the command runs.
    pub span: Span,
    /// How far the actor is with the command.
    pub phase: Arc<CommandPhase>,
    /// The command's place among the user's waiting commands. It is given back when dropped.
    pub place: WaitingPlace,
}

/// How far an actor is with a command. Until it decides, nothing of the command can have happened, and the caller may
/// call it off.
#[derive(Debug, Default)]
pub(crate) struct CommandPhase(AtomicU8);

const WAITING: u8 = 0;
const DECIDING: u8 = 1;
const CALLED_OFF: u8 = 2;

impl CommandPhase {
    /// The actor is about to decide. False when the command was called off.
    fn begin(&self) -> bool {
        let begun = self
            .0
            .compare_exchange(WAITING, DECIDING, Ordering::SeqCst, Ordering::SeqCst);
        begun != Err(CALLED_OFF)
    }

    fn is_called_off(&self) -> bool {
        self.0.load(Ordering::SeqCst) == CALLED_OFF
    }

    /// True if the command will never be carried out.
    pub fn call_off(&self) -> bool {
        let called =
            self.0
                .compare_exchange(WAITING, CALLED_OFF, Ordering::SeqCst, Ordering::SeqCst);
        called.is_ok()
    }

    /// False while an actor that died has done nothing of the command.
    pub fn has_begun(&self) -> bool {
        self.0.load(Ordering::SeqCst) == DECIDING
    }
}

/// A user's waiting commands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WaitingCommands {
    pub commands: usize,
    pub bytes: usize,
}

/// A place in which one of a user's commands waits.
pub(crate) struct WaitingPlace {
    taken: Arc<Mutex<WaitingCommands>>,
    bytes: usize,
}

impl WaitingPlace {
    /// Takes a place for a command of this size, unless more than `most` would wait.
    pub fn take(
        taken: &Arc<Mutex<WaitingCommands>>,
        most: WaitingCommands,
        bytes: usize,
    ) -> Option<Self> {
        let mut waiting = taken.lock();
        let with_it = WaitingCommands {
            commands: waiting.commands + 1,
            bytes: waiting.bytes.saturating_add(bytes),
        };
        if with_it.commands > most.commands || with_it.bytes > most.bytes {
            return None;
        }
        *waiting = with_it;
        Some(Self {
            taken: Arc::clone(taken),
            bytes,
        })
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        let mut waiting = self.taken.lock();
        waiting.commands -= 1;
        waiting.bytes -= self.bytes;
    }
}

/// Stops the actor when everything asked so far is done.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Passivate;

pub struct UserActor {
    id: UserId,
    log: Log,
    append: Append,
    limits: Limits,
    /// `None` until it is needed, and after anything that makes it doubtful.
    state: Option<LoadedUser>,
}

struct LoadedUser {
    user: User,
    /// The position of the user's latest event.
    position: u64,
    /// The number of events that the latest snapshot covers.
    snapshot_seq: u64,
    keys: Option<Arc<UserKeys>>,
}

impl UserActor {
    pub fn new(id: UserId, append: Append, limits: Limits) -> Self {
        Self {
            id,
            log: append.log().clone(),
            append,
            limits,
            state: None,
        }
    }
}

impl Actor for UserActor {
    type Context = Context<Self>;
}

impl Handler<Passivate> for UserActor {
    type Result = ();

    fn handle(&mut self, _: Passivate, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<CommandMessage> for UserActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, message: CommandMessage, _: &mut Self::Context) -> Self::Result {
        let mut run = CommandRun {
            log: self.log.clone(),
            append: self.append.clone(),
            limits: self.limits.clone(),
            id: self.id,
            state: self.state.take(),
        };
        let span = message.span.clone();
        let answered = async move {
            let answer = run.run(&message).await;
            drop(message.place);
            let _ = message.reply.send(answer); // the caller may have gone; the append stays
            run.keep_snapshot().await;
            run.state
        };
        AtomicResponse::new(Box::pin(
            answered
                .instrument(span)
                .into_actor(self)
                .map(|state, actor, _| actor.state = state),
        ))
    }
}

/// One command at work on the state.
struct CommandRun {
    log: Log,
    append: Append,
    limits: Limits,
    id: UserId,
    state: Option<LoadedUser>,
}

impl CommandRun {
    async fn run(&mut self, message: &CommandMessage) -> Result<Receipt, WriteError> {
        while Instant::now() < message.deadline && !message.phase.is_called_off() {
            if let Some(receipt) = self.try_once(message).await? {
                return Ok(receipt);
            }
        }
        Err(WriteError::Busy)
    }

    /// Decides once. `None` means that the state was stale: it was dropped, and the next try loads it again.
    async fn try_once(&mut self, message: &CommandMessage) -> Result<Option<Receipt>, WriteError> {
        let is_warm = self.state.is_some();
        let mut state = match self.state.take() {
            Some(state) => state,
            None => self.load().await?,
        };
        self.recall(&mut state, &message.recalls).await?;
        // Looked up after the state was read, so that an earlier run of this request that is in the state is found
        // here.
        if let Some(remembered) = self.remembered(message).await? {
            self.put_back(state, message);
            return answer_again(remembered).map(Some);
        }
        if !message.phase.begin() {
            self.put_back(state, message);
            return Err(WriteError::Busy);
        }
        let now = Now {
            moment: self.log.clock().now(),
            limits: self.limits.clone(),
        };
        let metadata = &message.context.metadata;
        let decided = (message.planner)(&state.user, now.clone()).and_then(|plan| {
            state.user.check_day(&now, metadata, &plan.changes)?;
            Ok(plan)
        });
        match decided {
            Ok(plan) if !plan.changes.is_empty() => self.write(state, plan, message).await,
            // A "no" is only as good as the state it was decided on, and no append will fence it.
            _ if is_warm && self.is_stale(&state).await? => Ok(None),
            decided => self.change_nothing(state, decided, message).await,
        }
    }

    async fn remembered(&self, message: &CommandMessage) -> Result<Option<Remembered>, WriteError> {
        match &message.context.key {
            Some(key) => Ok(self.log.outcomes().get(self.id, key).await?),
            None => Ok(None),
        }
    }

    async fn is_stale(&self, state: &LoadedUser) -> Result<bool, WriteError> {
        Ok(self.log.reader().user_seq(self.id).await? != state.user.seq())
    }

    async fn change_nothing(
        &mut self,
        state: LoadedUser,
        decided: Result<Plan, Refusal>,
        message: &CommandMessage,
    ) -> Result<Option<Receipt>, WriteError> {
        if let Ok(plan) = &decided
            && let Some(remember) = self.remember(plan, message)
            && state.user.seq() > 0
            && !self.log.outcomes().keep(remember, state.user.seq()).await?
        {
            return Ok(None);
        }
        let position = state.position;
        self.put_back(state, message);
        let plan = decided?;
        Ok(Some(Receipt {
            position,
            changes: vec![],
            note: plan.note,
            outcome: plan.outcome,
        }))
    }

    async fn write(
        &mut self,
        mut state: LoadedUser,
        plan: Plan,
        message: &CommandMessage,
    ) -> Result<Option<Receipt>, WriteError> {
        let remember = self.remember(&plan, message);
        let (facts, numbered) = number(&state.user, &plan.changes);
        let group = Group {
            keys: state.keys.clone(),
            ..Group::of_user(self.id, state.user.seq(), facts)
        };
        let request = AppendRequest {
            groups: vec![group],
            work: plan.work,
            metadata: message.context.metadata.clone(),
            remember,
        };
        let (at, recorded_at) = match self.append.append_timed(request).await {
            Ok(written) => written,
            Err(AppendError::Stale | AppendError::KeyUsed) => {
                tokio::time::sleep(STALE_PAUSE.mul_f64(clock::chance())).await;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        for (change, sequence) in plan.changes.iter().zip(numbered) {
            state.user.evolve_counted(
                &change.stream,
                sequence,
                change.event.clone(),
                &message.context.metadata,
                recorded_at,
            );
        }
        state.position = at.last;
        self.put_back(state, message);
        Ok(Some(Receipt {
            position: at.last,
            changes: plan.changes,
            note: plan.note,
            outcome: plan.outcome,
        }))
    }

    /// The record of a request that may be sent again.
    fn remember(&self, plan: &Plan, message: &CommandMessage) -> Option<Remember> {
        let request = message.context.key.clone()?;
        Some(Remember {
            request,
            user: self.id,
            outcome: plan.outcome.clone(),
        })
    }

    /// Keeps the state after a command, without what was recalled for it.
    fn put_back(&mut self, mut state: LoadedUser, message: &CommandMessage) {
        for recall in &message.recalls {
            state.user.drop_recalled(recall);
        }
        self.state = Some(state);
    }

    async fn load(&self) -> Result<LoadedUser, WriteError> {
        match self.log.users().wake(self.id).await {
            Ok(Waking::Awake(awake)) => {
                let Awake {
                    user,
                    position,
                    snapshot_seq,
                    keys,
                } = *awake;
                Ok(LoadedUser {
                    user,
                    position,
                    snapshot_seq,
                    keys,
                })
            }
            Ok(Waking::Forgotten) => Err(WriteError::Forgotten),
            Err(error) => {
                error!(user.id = %self.id, %error, "user: loading the state failed; the command is refused");
                Err(error.into())
            }
        }
    }

    /// Runs after the answer, so that nobody waits for it.
    async fn keep_snapshot(&mut self) {
        if let Some(state) = &mut self.state
            && state.user.seq() >= state.snapshot_seq + SNAPSHOT_EVERY
        {
            self.log
                .users()
                .keep_snapshot(&state.user, state.position)
                .await;
            state.snapshot_seq = state.user.seq(); // a snapshot that is not kept is made up for by the next
        }
    }

    /// Reads which of the files that new jobs name are gone: one question for all.
    async fn recall_named_files(
        &self,
        state: &mut LoadedUser,
        recalls: &[Recall],
    ) -> Result<(), WriteError> {
        let named = recalls.iter().filter_map(|recall| match recall {
            Recall::NamedFile(id) => Some((recall.stream(), *id)),
            _ => None,
        });
        let named: Vec<(StreamId, BlobId)> = named.collect();
        if named.is_empty() {
            return Ok(());
        }
        let streams: Vec<StreamId> = named.iter().map(|(stream, _)| *stream).collect();
        let removed = self.log.reader().having(&streams, FILE_REMOVED).await?;
        for (stream, id) in named {
            if removed.contains(&stream) {
                state.user.recall_removed_file(id);
            }
        }
        Ok(())
    }

    /// Reads from the log what the state leaves out, and adds it to the state.
    async fn recall(&self, state: &mut LoadedUser, recalls: &[Recall]) -> Result<(), WriteError> {
        self.recall_named_files(state, recalls).await?;
        let is_left_out =
            |recall: &&Recall| !matches!(recall, Recall::NamedFile(_)) && !state.user.holds(recall);
        let mut left_out: Vec<&Recall> = recalls.iter().filter(is_left_out).collect();
        let reader = self.log.reader();
        if left_out.len() > 1 {
            // Most of them are new, and one question tells.
            let streams: Vec<_> = left_out.iter().map(|recall| recall.stream()).collect();
            let begun = reader.begun(&streams).await?;
            left_out.retain(|recall| begun.contains(&recall.stream()));
        }
        for recall in left_out {
            if let Recall::Job(job) = recall {
                if let Some((found, sequence)) = jobs::stream::load(&reader, self.id, *job).await? {
                    state.user.recall_job(*job, found, sequence);
                }
                continue;
            }
            if let Recall::File(id) = recall {
                let owner = Owner::User(self.id);
                if let Some((file, sequence)) = reader.stream::<File>(&owner, *id).await? {
                    state.user.recall_file(*id, file, sequence);
                }
                continue;
            }
            if let Recall::LastTurn(session) = recall {
                let stream = recall.stream();
                let newest = reader
                    .newest_events(self.id, &stream, None, OF_LAST_TURN)
                    .await?;
                if let Some((sequence, _)) = newest.first() {
                    let sequence = *sequence;
                    let oldest_first = newest.into_iter().rev();
                    let events = oldest_first.filter_map(|(_, event)| match event {
                        Event::Chat(event) => Some(event),
                        _ => None,
                    });
                    let chat = Chat::of_newest(events);
                    state.user.recall_chat(*session, chat, sequence);
                }
                continue;
            }
            if let Some((sequence, newest)) = reader.end_of(self.id, recall.stream()).await? {
                state.user.recall_stream(recall, sequence, &newest);
            }
        }
        Ok(())
    }
}

/// The outcome of the first request, for the same request again.
pub(crate) fn answer_again(remembered: Remembered) -> Result<Receipt, WriteError> {
    match remembered {
        Remembered::Same { outcome, position } => Ok(Receipt {
            position,
            changes: vec![],
            note: PlanNote::Nothing,
            outcome,
        }),
        Remembered::Other => Err(Refusal::key_reused(
            "This Idempotency-Key was used for another request; make a new key for a new request",
        )
        .into()),
    }
}

/// Gives each change its number in its stream.
fn number(user: &User, changes: &[Change]) -> (Vec<NewFact>, Vec<u64>) {
    let mut last: std::collections::HashMap<&genie_events::StreamId, u64> =
        std::collections::HashMap::new();
    let facts = changes.iter().map(|change| {
        let sequence = last
            .entry(&change.stream)
            .or_insert_with(|| user.sequence(&change.stream));
        *sequence += 1;
        (
            NewFact {
                stream: change.stream,
                sequence: *sequence,
                event: change.event.clone(),
            },
            *sequence,
        )
    });
    facts.collect::<Vec<_>>().into_iter().unzip()
}
