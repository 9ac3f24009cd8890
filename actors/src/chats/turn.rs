//! One turn, from its place in the queue to its end. A client that leaves changes nothing. Cancelling drops the
//! connection to Ollama, which has no other way to cancel.

use std::sync::Arc;

use genie_events::{
    Metadata, SessionId, StreamId, StreamKind, TurnId, User, UserCommand, UserId,
    chat::{ChatCommand, Failure, ToolCall, TurnAnswer, TurnMetrics, TurnOutcome},
};
use genie_log::leases::LeaseRow;
use genie_log::turn_journal::JournalRow;
use genie_log::{Epoch, LogError, UserKeys, Work, leases::LeaseKind};
use tracing::{Instrument, Span, error, info, warn};

use super::{
    conversation::{ConversationBuilder, fitting, tokens_of},
    given::{GivenTurn, call_id},
    history::read_conversation,
    relay::{MAX_ANSWER_BYTES, Relay},
};
use crate::{
    WriteError,
    model_queue::{QueueClass, QueuePass},
    ollama::{AnswerLimits, FrameCall, ModelMessage, ModelPrompt},
    supervisor::{
        ModelSettings, RunHandle, Supervisor,
        failure::{died, history_unreadable, interrupted},
        retry::{bounded_pauses, pauses},
    },
    turn_feed::{TurnEnd, TurnStage},
    users::Plan,
};

#[derive(Debug, Clone)]
pub(crate) struct TurnTask {
    pub turn: TurnId,
    pub user: UserId,
    pub session: SessionId,
    pub metadata: Metadata,
    pub run: RunHandle,
    /// Present when a program gave the messages.
    pub given: Option<Arc<GivenTurn>>,
    /// The model that answers.
    pub model: String,
    /// Set when the turn belonged to another node: the only epoch in which it may be ended.
    pub epoch: Option<Epoch>,
}

/// An attempt at an answer: the text that was committed and shown, and how it ended.
pub(super) struct TurnAttempt {
    pub text: String,
    /// The program's own tools that the model asks for.
    pub calls: Vec<FrameCall>,
    pub end: AttemptResult,
}

pub(super) enum AttemptResult {
    Completed(TurnMetrics),
    Stopped,
    Failed(Failure),
}

impl TurnAttempt {
    fn without_text(end: AttemptResult) -> Self {
        Self {
            text: String::new(),
            calls: Vec::new(),
            end,
        }
    }

    fn into_answer(self, turn: TurnId, model: String) -> TurnAnswer {
        let call = |(n, call): (usize, FrameCall)| ToolCall {
            id: call_id(turn, n + 1),
            name: call.name,
            arguments: call.arguments,
        };
        let (outcome, failure, metrics) = match self.end {
            AttemptResult::Completed(metrics) => (TurnOutcome::Completed, None, metrics),
            AttemptResult::Stopped => (TurnOutcome::Stopped, None, TurnMetrics::default()),
            AttemptResult::Failed(failure) => {
                (TurnOutcome::Failed, Some(failure), TurnMetrics::default())
            }
        };
        TurnAnswer {
            content: self.text,
            outcome,
            failure,
            model,
            metrics,
            tool_calls: self.calls.into_iter().enumerate().map(call).collect(),
        }
    }
}

/// Starts a turn on this node, unless it runs already.
pub(crate) fn start(
    supervisor: &Supervisor,
    turn: TurnId,
    user: UserId,
    session: SessionId,
    metadata: Metadata,
) {
    let given = supervisor.0.given_turns.get(turn);
    let cancel = given.as_ref().map(|given| given.stop.clone());
    let cancel = cancel.unwrap_or_default();
    let Some(run) = supervisor.begin_run_until(turn.to_string(), user, cancel) else {
        return;
    };
    let chat_model = &supervisor.0.settings.chat_model;
    let model = given.as_ref().map_or(chat_model, |given| &given.model);
    let task = TurnTask {
        turn,
        user,
        session,
        metadata,
        run,
        model: model.clone(),
        given,
        epoch: None,
    };
    let supervisor = supervisor.clone();
    let work = async move {
        let running = tokio::spawn(run_turn(supervisor.clone(), task.clone()).in_current_span());
        if let Err(stopped) = running.await {
            error!(turn.id = %turn, error = %stopped, "turn: its task panicked; it ends as failed");
            end_dead_turn(&supervisor, &task, died()).await;
        }
        supervisor.end_run(&turn.to_string());
        supervisor.0.given_turns.remove(turn);
    };
    tokio::spawn(work.instrument(Span::current()));
}

/// Ends a turn that began on a node that died. The leader of an epoch does it.
pub(crate) fn end_orphan(
    supervisor: &Supervisor,
    epoch: Epoch,
    turn: TurnId,
    user: UserId,
    session: SessionId,
    model: String,
) {
    let Some(run) = supervisor.begin_run(turn.to_string(), user) else {
        return;
    };
    let supervisor = supervisor.clone();
    let task = TurnTask {
        turn,
        user,
        session,
        metadata: Metadata::system(),
        run,
        given: None,
        model,
        epoch: Some(epoch),
    };
    tokio::spawn(async move {
        end_dead_turn(&supervisor, &task, interrupted()).await;
        supervisor.end_run(&turn.to_string());
    });
}

/// Runs a turn, and writes its end, whatever it is.
async fn run_turn(supervisor: Supervisor, task: TurnTask) {
    let attempt = match attempt(&supervisor, &task).await {
        Ok(attempt) => attempt,
        Err(LogError::Forgotten { .. }) => return supervisor.0.feeds.close(task.turn),
        Err(_) if task.run.cancel.is_cancelled() => {
            TurnAttempt::without_text(AttemptResult::Stopped)
        }
        Err(error) => {
            error!(%error, turn.id = %task.turn, "turn: its chat can't be read; it ends as failed");
            TurnAttempt::without_text(AttemptResult::Failed(history_unreadable()))
        }
    };
    if task.run.lost.is_cancelled() {
        // Another node has the turn and writes its end. Readers find it in the store.
        return supervisor.0.feeds.close(task.turn);
    }
    let answer = attempt.into_answer(task.turn, task.model.clone());
    info!(turn.id = %task.turn, outcome = answer.outcome.as_str(), answer.bytes = answer.content.len(), "turn: ended");
    end_turn(&supervisor, &task, answer).await;
}

/// Reads the chat, waits for the model and relays its answer. The chat is read first: a place at the model server is
/// never held for the store.
async fn attempt(supervisor: &Supervisor, task: &TurnTask) -> Result<TurnAttempt, LogError> {
    let inner = &supervisor.0;
    let stopped = || TurnAttempt::without_text(AttemptResult::Stopped);
    let (keys, asked) = read_with_retry(task, || read_prompt(supervisor, task)).await?;
    let Some(asked) = asked else {
        return Ok(stopped()); // its session was removed, which ended the turn
    };
    let Some(pass) = wait_for_pass(supervisor, task).await else {
        return Ok(stopped());
    };
    let limits = asked.limits(&inner.settings, &task.model);
    let prompt = asked.prompt();
    let opening = async {
        let must_load = supervisor.must_load(pass.server(), &task.model).await;
        let stage = if must_load {
            TurnStage::Loading
        } else {
            TurnStage::Running
        };
        inner.feeds.stage(task.turn, stage);
        supervisor
            .open_answer(pass, &task.model, &prompt, limits)
            .await
    };
    let opened = tokio::select! {
        biased;
        () = task.run.over() => return Ok(stopped()),
        opened = opening => opened,
    };
    let estimated = asked.estimated();
    drop(asked);
    let attempt = match opened {
        Ok(mut answer) => {
            let relay = Relay::new(supervisor, task, keys);
            relay.run(&mut answer.stream).await
        }
        Err(failure) => TurnAttempt::without_text(AttemptResult::Failed(failure)),
    };
    if let AttemptResult::Completed(TurnMetrics {
        prompt_tokens: Some(counted),
        ..
    }) = attempt.end
        && let Some(estimated) = estimated
    {
        inner.token_scale.learn(estimated, counted);
    }
    Ok(attempt)
}

/// What the model is asked in a turn.
enum TurnPrompt {
    /// The newest messages of the session.
    Conversation(Vec<ModelMessage>),
    Given(Arc<GivenTurn>),
}

impl TurnPrompt {
    fn prompt(&self) -> ModelPrompt<'_> {
        match self {
            Self::Conversation(messages) => ModelPrompt::of(messages),
            Self::Given(given) => given.prompt(),
        }
    }

    fn limits(&self, settings: &ModelSettings, model: &str) -> AnswerLimits {
        match self {
            Self::Conversation(_) => settings.answer_limits(model),
            Self::Given(given) => given.limits,
        }
    }

    /// The estimate that the model's own count corrects. Given messages correct none: tools and pictures count
    /// otherwise, and so may another model.
    fn estimated(&self) -> Option<usize> {
        match self {
            Self::Conversation(messages) => Some(tokens_of(messages)),
            Self::Given(_) => None,
        }
    }
}

/// The user's keys, and what the model is asked; without it when the session was removed.
async fn read_prompt(
    supervisor: &Supervisor,
    task: &TurnTask,
) -> Result<(Arc<UserKeys>, Option<TurnPrompt>), LogError> {
    let inner = &supervisor.0;
    let keys = inner.log.keys().live(task.user).await?;
    if let Some(given) = &task.given {
        return Ok((keys, Some(TurnPrompt::Given(Arc::clone(given)))));
    }
    let system = supervisor.system_prompt(task.user).await?;
    let tokens = inner.settings.context_tokens(&task.model);
    let budget = inner.token_scale.estimated(tokens);
    let stream = StreamId::new(StreamKind::Chat, task.session);
    let builder = ConversationBuilder::new(task.turn, system, budget);
    let conversation = read_conversation(&inner.log, task.user, &stream, builder).await?;
    Ok((keys, conversation.map(TurnPrompt::Conversation)))
}

/// Reads, retrying a bounded number of times while the store is away, unless the turn was stopped meanwhile.
async fn read_with_retry<T, R>(task: &TurnTask, read: impl Fn() -> R) -> Result<T, LogError>
where
    R: Future<Output = Result<T, LogError>>,
{
    let mut reason = String::new();
    for pause in bounded_pauses() {
        match read().await {
            Err(LogError::Away(away)) => {
                warn!(reason = away, turn.id = %task.turn, "turn: the store does not answer; trying again");
                reason = away;
            }
            settled => return settled,
        }
        tokio::select! {
            () = task.run.over() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    Err(LogError::Away(reason))
}

/// Waits in the line and tells the readers the place; `None` when the turn was stopped meanwhile.
async fn wait_for_pass(supervisor: &Supervisor, task: &TurnTask) -> Option<QueuePass> {
    let tell = |stage| supervisor.0.feeds.stage(task.turn, stage);
    let id = task.turn.to_string();
    let waiting = async {
        let lining_up = supervisor.line_up(&id, QueueClass::Chat, task.user, &task.model);
        lining_up.await.wait(tell).await
    };
    tokio::select! {
        biased;
        () = task.run.over() => None,
        pass = waiting => pass,
    }
}

/// Ends a turn whose task died, with the text that was shown.
async fn end_dead_turn(supervisor: &Supervisor, task: &TurnTask, failure: Failure) {
    let mut content = read_shown(supervisor, task).await;
    content.truncate(fitting(&content, &mut MAX_ANSWER_BYTES.clone()).len());
    let outcome = if failure.code == "interrupted" {
        TurnOutcome::Interrupted
    } else {
        TurnOutcome::Failed
    };
    let answer = TurnAnswer {
        content,
        outcome,
        failure: Some(failure),
        model: task.model.clone(),
        metrics: TurnMetrics::default(),
        tool_calls: vec![],
    };
    end_turn(supervisor, task, answer).await;
}

async fn read_shown(supervisor: &Supervisor, task: &TurnTask) -> String {
    for pause in pauses() {
        match supervisor.0.log.journals().text(task.turn, task.user).await {
            Ok(shown) => return shown,
            Err(LogError::Away(_)) => tokio::time::sleep(pause).await,
            Err(error) => {
                error!(%error, turn.id = %task.turn, "turn: its journal can't be read; it ends without text");
                return String::new();
            }
        }
    }
    unreachable!("the pauses never end")
}

/// Writes a turn's end, retrying while the store is away, and tells the readers.
async fn end_turn(supervisor: &Supervisor, task: &TurnTask, answer: TurnAnswer) {
    let turn = task.turn;
    let plan = ending(task, answer.clone());
    let feeds = &supervisor.0.feeds;
    match supervisor
        .plan_until_settled(task.user, &task.metadata, plan)
        .await
    {
        // The turn had another end already, which the store knows.
        Ok(receipt) if receipt.changes.is_empty() => {
            feeds.close(turn);
            supervisor
                .drop_own_lease(LeaseKind::Turn, &turn.to_string())
                .await;
        }
        Ok(receipt) => feeds.end(
            turn,
            TurnEnd {
                answer,
                position: receipt.position,
            },
        ),
        Err(WriteError::Forgotten) => feeds.close(turn),
        Err(error) => {
            warn!(%error, turn.id = %turn, "turn: its end was not written; it ends when its lease expires");
            feeds.close(turn);
        }
    }
}

/// The plan that writes a turn's answer and deletes its lease and journal.
fn ending(
    task: &TurnTask,
    answer: TurnAnswer,
) -> impl Fn(&User, genie_events::Now) -> Result<Plan, genie_events::Refusal> + Clone + use<> {
    let TurnTask {
        turn,
        session,
        epoch,
        ..
    } = task.clone();
    move |state, now| {
        let command = ChatCommand::Answer {
            turn,
            answer: answer.clone(),
        };
        let changes = state.decide(now, UserCommand::Chat(session, command))?;
        let mut work = Vec::from(leftovers(turn));
        work.extend(epoch.map(Work::OnlyInEpoch));
        Ok(Plan {
            changes,
            work,
            ..Plan::default()
        })
    }
}

/// What has to go when a turn ends: its lease and its journal.
pub(super) fn leftovers(turn: TurnId) -> [Work; 2] {
    let id = turn.to_string();
    [
        Work::Lease(LeaseRow::Drop {
            kind: LeaseKind::Turn,
            id: id.clone(),
        }),
        Work::Journal(JournalRow::Prune { turn_id: id }),
    ]
}
