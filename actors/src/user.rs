//! One user's actor. It takes one command at a time, holds nothing that the log does not, and may vanish at any moment.
//! It never waits for a model, a worker or a password hash: only for the log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::{
    Actor, ActorContext, ActorFutureExt, AtomicResponse, Context, Handler, Message, WrapFuture,
};
use genie_events::{
    Change, JobId, Limits, Now, Refusal, User, UserId,
    job::Job,
    user::reveal::{RevealDenial, RevealableCredential},
};
use genie_log::{
    Append, AppendError, AppendRequest, Group, Log, NewFact, Owner, Remember, UserKeys, Work,
    clock,
    idempotency::Remembered,
    load_users::{Awake, SNAPSHOT_EVERY, Waking},
};
use serde_json::Value;
use tokio::{sync::oneshot, time::Instant};
use tracing::error;

use crate::{WriteError, caller::Asking};

/// Pause before deciding again after somebody else wrote for this user; spread by chance.
const STALE_PAUSE: Duration = Duration::from_millis(15);

/// What is to be appended if the state is still what it was decided on.
#[derive(Debug, Default)]
pub struct Plan {
    /// The facts.
    pub changes: Vec<Change>,
    /// Working rows that go with them; left out when there are no facts.
    pub work: Vec<Work>,
    /// What the asker wants to know of the state.
    pub note: Note,
    /// What the answer is made from, also when the same request comes again; never a secret.
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

/// What an asker may be told of the state that was decided on.
#[derive(Debug, Default)]
pub enum Note {
    /// Nothing.
    #[default]
    Nothing,
    /// What may be shown of a credential, or why not.
    Reveal(Result<RevealableCredential, RevealDenial>),
    /// The job as it was.
    Job(Box<Job>),
}

/// Decides on the state; called again when the state turns out stale, so it must not use itself up.
pub type Planner = Arc<dyn Fn(&User, Now) -> Result<Plan, Refusal> + Send + Sync>;

/// What came of a command.
#[derive(Debug)]
pub struct Done {
    /// The position that reads must have reached to see it.
    pub position: u64,
    /// What happened; empty when it was so already.
    pub changes: Vec<Change>,
    /// What the planner noted; nothing when the same request came before.
    pub note: Note,
    /// What the answer is made from.
    pub outcome: Value,
}

/// A command on its way to a user's actor.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Ask {
    pub planner: Planner,
    /// A job that the planner must see even when it has finished.
    pub job: Option<JobId>,
    pub asking: Asking,
    pub deadline: Instant,
    pub reply: oneshot::Sender<Result<Done, WriteError>>,
    /// Set when the actor takes the command: before that, a dead actor has done nothing of it.
    pub begun: Arc<AtomicBool>,
    /// Its place among the user's waiting commands; given back when it goes.
    pub place: WaitingPlace,
}

/// One of the places that a user's commands may wait in.
pub struct WaitingPlace(Arc<AtomicUsize>);

impl WaitingPlace {
    /// Takes a place, if fewer than `most` are taken.
    pub fn take(taken: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let one_more = |n| (n < most).then_some(n + 1);
        taken
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more)
            .ok()?;
        Some(Self(Arc::clone(taken)))
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Stop when everything asked so far is done.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Passivate;

pub struct UserActor {
    id: UserId,
    log: Log,
    append: Append,
    limits: Limits,
    /// `None` until it is needed, and after anything that makes it doubtful.
    state: Option<State>,
}

struct State {
    user: User,
    /// The position of the user's latest event.
    position: u64,
    /// How many events the latest snapshot covers.
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

impl Handler<Ask> for UserActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, ask: Ask, _: &mut Self::Context) -> Self::Result {
        ask.begun.store(true, Ordering::SeqCst);
        let mut turn = Turn {
            log: self.log.clone(),
            append: self.append.clone(),
            limits: self.limits.clone(),
            id: self.id,
            state: self.state.take(),
        };
        let answered = async move {
            let answer = turn.take(&ask).await;
            drop(ask.place);
            let _ = ask.reply.send(answer); // the asker may have gone; what was appended stays
            turn.keep_snapshot().await;
            turn.state
        };
        AtomicResponse::new(Box::pin(
            answered
                .into_actor(self)
                .map(|state, actor, _| actor.state = state),
        ))
    }
}

/// One command's turn with the state.
struct Turn {
    log: Log,
    append: Append,
    limits: Limits,
    id: UserId,
    state: Option<State>,
}

impl Turn {
    async fn take(&mut self, ask: &Ask) -> Result<Done, WriteError> {
        loop {
            if Instant::now() >= ask.deadline {
                return Err(WriteError::Busy);
            }
            let (mut state, is_fresh) = match self.state.take() {
                Some(state) => (state, false),
                None => (self.load().await?, true),
            };
            if let Some(job) = &ask.job {
                self.recall(&mut state, job).await?;
            }
            // Asked for after the state was read: what this request did before is in the state only if it is found here.
            if let Some(key) = &ask.asking.key
                && let Some(remembered) = self.log.outcomes().get(self.id, key).await?
            {
                if let Some(job) = &ask.job {
                    state.user.drop_recalled(job);
                }
                self.state = Some(state);
                return answer_again(remembered);
            }
            let now = Now {
                moment: self.log.clock().now(),
                limits: self.limits.clone(),
            };
            let planned = (ask.planner)(&state.user, now);
            let plan = match planned {
                Ok(plan) if !plan.changes.is_empty() => plan,
                // A "no" is only as good as the state it was said on, and no append will fence it.
                _ if !is_fresh && self.log.user_seq(self.id).await? != state.user.seq() => continue,
                nothing_to_do => {
                    if let (Ok(plan), Some(request)) = (&nothing_to_do, &ask.asking.key)
                        && state.user.seq() > 0
                    {
                        let remember = Remember {
                            request: request.clone(),
                            user: self.id,
                            outcome: plan.outcome.clone(),
                        };
                        if !self.log.outcomes().keep(remember, state.user.seq()).await? {
                            continue;
                        }
                    }
                    if let Some(job) = &ask.job {
                        state.user.drop_recalled(job);
                    }
                    let position = state.position;
                    self.state = Some(state);
                    return nothing_to_do
                        .map(|plan| Done {
                            position,
                            changes: vec![],
                            note: plan.note,
                            outcome: plan.outcome,
                        })
                        .map_err(WriteError::Refused);
                }
            };
            let (facts, numbered) = number(&state.user, &plan.changes);
            let group = Group {
                keys: state.keys.clone(),
                ..Group::of_user(self.id, state.user.seq(), facts)
            };
            let remember = ask.asking.key.clone().map(|request| Remember {
                request,
                user: self.id,
                outcome: plan.outcome.clone(),
            });
            let request = AppendRequest {
                groups: vec![group],
                work: plan.work,
                metadata: ask.asking.metadata.clone(),
                remember,
            };
            match self.append.append(request).await {
                Ok(at) => {
                    for (change, sequence) in plan.changes.iter().zip(numbered) {
                        state
                            .user
                            .evolve(&change.stream, sequence, change.event.clone());
                    }
                    self.state = Some(State {
                        position: at.last,
                        ..state
                    });
                    return Ok(Done {
                        position: at.last,
                        changes: plan.changes,
                        note: plan.note,
                        outcome: plan.outcome,
                    });
                }
                // The state is doubtful and was dropped: it is loaded again before deciding again.
                Err(AppendError::Stale | AppendError::KeyUsed) => {
                    tokio::time::sleep(STALE_PAUSE.mul_f64(clock::chance())).await
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn load(&self) -> Result<State, WriteError> {
        match self.log.wake(self.id).await {
            Ok(Waking::Awake(awake)) => {
                let Awake {
                    user,
                    position,
                    snapshot_seq,
                    keys,
                } = *awake;
                Ok(State {
                    user,
                    position,
                    snapshot_seq,
                    keys,
                })
            }
            Ok(Waking::Forgotten) => Err(WriteError::Forgotten),
            Err(error) => {
                error!(user.id = %self.id, %error, "the state of user `{}` can't be read", self.id);
                Err(error.into())
            }
        }
    }

    /// After an answer, so that nobody waits for it.
    async fn keep_snapshot(&mut self) {
        if let Some(state) = &mut self.state
            && state.user.seq() >= state.snapshot_seq + SNAPSHOT_EVERY
        {
            self.log.keep_snapshot(&state.user, state.position).await;
            state.snapshot_seq = state.user.seq(); // one that is not kept is made up for by the next
        }
    }

    /// Hands in a finished job from its stream.
    async fn recall(&self, state: &mut State, job: &JobId) -> Result<(), WriteError> {
        if state.user.job(job).is_none()
            && let Some((found, sequence)) = self
                .log
                .stream::<Job>(&Owner::User(self.id), job.as_str())
                .await?
        {
            state.user.recall_job(job.clone(), found, sequence);
        }
        Ok(())
    }
}

/// The same request once more: what came of it the first time.
pub(crate) fn answer_again(remembered: Remembered) -> Result<Done, WriteError> {
    match remembered {
        Remembered::Same { outcome, position } => Ok(Done {
            position,
            changes: vec![],
            note: Note::Nothing,
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
                stream: change.stream.clone(),
                sequence: *sequence,
                event: change.event.clone(),
            },
            *sequence,
        )
    });
    facts.collect::<Vec<_>>().into_iter().unzip()
}
