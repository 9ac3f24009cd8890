//! One answer, from its turn at the model server to its end. A token is shown only after its journal row is committed; the
//! client leaving changes nothing; cancelling drops the connection, which is how Ollama is told.

use std::{future::pending, sync::Arc, time::Duration};

use genie_events::{
    Metadata, SessionId, TurnId, User, UserCommand, UserId,
    chat::{Answer, Chat, ChatCommand, Failure, TurnMetrics, TurnOutcome},
};
use genie_log::leases::LeaseRow;
use genie_log::turn_journal::JournalRow;
use genie_log::{Epoch, LogError, Owner, UserKeys, Work, leases::LeaseKind, turn_journal::Journal};
use tracing::{error, info, warn};

use crate::{
    WriteError,
    model_queue::{Class, Pass},
    ollama::{Frame, Stream},
    supervisor::{Run, Supervisor},
    turn_feed::{Ended, Stage},
    users::{Done, Plan},
};

/// What the model is given, and what of its answer is kept.
mod conversation;

pub(crate) use conversation::fitting;
use conversation::{BYTES_PER_TOKEN, conversation};

/// The longest answer, in bytes of JSON, as its fact holds it; past it the model is told to stop.
const MAX_ANSWER_BYTES: usize = 512 * 1024;
/// Tokens that a model may write: one that loops would go on for as long as it is let.
const ANSWER_TOKENS: u32 = 4096;
/// How long an answer may take once it is its turn: a model that loops must not hold its slot for ever.
const ANSWER_DEADLINE: Duration = Duration::from_secs(900);
/// Pauses between tries to write an end while the store is away; the last one repeats.
const PAUSES_MS: [u64; 5] = [100, 250, 500, 1000, 3000];
#[derive(Debug, Clone)]
pub(crate) struct TurnTask {
    pub turn: TurnId,
    pub user: UserId,
    pub session: SessionId,
    pub metadata: Metadata,
    pub run: Run,
    /// The epoch in which alone it may be ended, when it was another node's.
    pub office: Option<Epoch>,
}

pub(crate) fn died() -> Failure {
    Failure {
        code: "internal".into(),
        sentence: "The answer broke off through a fault of the server; ask again".into(),
    }
}

pub(crate) fn interrupted() -> Failure {
    Failure {
        code: "interrupted".into(),
        sentence: "The server went down during the answer; ask again".into(),
    }
}

/// How an attempt ended, and the text that was committed and shown.
struct Attempt {
    text: String,
    end: End,
}

enum End {
    Completed(TurnMetrics),
    Stopped,
    Failed(Failure),
}

/// Runs a turn to its end, which is written whatever it is.
pub(crate) async fn run_turn(supervisor: Supervisor, task: TurnTask) {
    let attempt = match turn_attempt(&supervisor, &task).await {
        Ok(attempt) => attempt,
        Err(LogError::Forgotten { .. }) => return supervisor.0.feeds.close(task.turn),
        Err(_) if task.run.cancel.is_cancelled() => Attempt {
            text: String::new(),
            end: End::Stopped,
        },
        Err(error) => {
            error!(%error, turn.id = %task.turn, "turn `{}` can't be run", task.turn);
            Attempt {
                text: String::new(),
                end: End::Failed(died()),
            }
        }
    };
    if task.run.lost.is_cancelled() {
        // Another node has it: what becomes of it is that node's to say, and readers find it in the store.
        return supervisor.0.feeds.close(task.turn);
    }
    let (outcome, failure, metrics) = match attempt.end {
        End::Completed(metrics) => (TurnOutcome::Completed, None, metrics),
        End::Stopped => (TurnOutcome::Stopped, None, TurnMetrics::default()),
        End::Failed(failure) => (TurnOutcome::Failed, Some(failure), TurnMetrics::default()),
    };
    let model = supervisor.0.settings.chat_model.clone();
    info!(turn.id = %task.turn, outcome = outcome.as_str(), answer.bytes = attempt.text.len(), "turn `{}` ended", task.turn);
    end_turn(
        &supervisor,
        &task,
        Answer {
            content: attempt.text,
            outcome,
            failure,
            model,
            metrics,
        },
    )
    .await;
}

async fn turn_attempt(supervisor: &Supervisor, task: &TurnTask) -> Result<Attempt, LogError> {
    let inner = &supervisor.0;
    let (log, user, session) = (inner.log.clone(), task.user, task.session.clone());
    let keys = read_surely(task, || {
        let log = log.clone();
        async move { log.live_keys(user).await }
    });
    let keys = keys.await?;
    let stopped = Attempt {
        text: String::new(),
        end: End::Stopped,
    };
    let Some(_pass) = wait_for_pass(supervisor, task).await else {
        return Ok(stopped);
    };
    inner.feeds.stage(task.turn, Stage::Running);
    let history = read_surely(task, || {
        let (log, session) = (log.clone(), session.clone());
        async move {
            log.stream_events::<Chat>(&Owner::User(user), &session.0)
                .await
        }
    });
    let history = history.await?;
    let conversation = conversation(
        &history,
        task.turn,
        inner.settings.context_tokens * BYTES_PER_TOKEN,
    );
    let opened = tokio::select! {
        biased;
        () = task.run.over() => return Ok(stopped),
        opened = inner.ollama.chat(&inner.settings.chat_model, &conversation, ANSWER_TOKENS) => opened,
    };
    Ok(match opened {
        Ok(stream) => relay(supervisor, task, &keys, stream).await,
        Err(failure) => Attempt {
            text: String::new(),
            end: End::Failed(failure),
        },
    })
}

/// Reads, however long the store is away, unless there is no point in going on.
async fn read_surely<T, R>(task: &TurnTask, read: impl Fn() -> R) -> Result<T, LogError>
where
    R: Future<Output = Result<T, LogError>>,
{
    for pause in pauses() {
        match read().await {
            Err(LogError::Away(reason)) => {
                warn!(reason, turn.id = %task.turn, "what a turn needs can't be read; trying on")
            }
            read => return read,
        }
        tokio::select! {
            () = task.run.over() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    Err(LogError::Away("the turn was called off meanwhile".into()))
}

/// Waits in line, telling the readers where; `None` when it was stopped meanwhile.
async fn wait_for_pass(supervisor: &Supervisor, task: &TurnTask) -> Option<Pass> {
    let mut place = supervisor.line_up(&task.turn.to_string(), Class::Chat, task.user);
    loop {
        tokio::select! {
            biased;
            () = task.run.over() => return None,
            pass = &mut place.go => return pass.ok(),
            Ok(()) = place.stage.changed() => {
                let stage = *place.stage.borrow_and_update();
                supervisor.0.feeds.stage(task.turn, stage);
            }
        }
    }
}

/// Reads the model as fast as it writes, and commits and shows what has come since the last commit.
async fn relay(
    supervisor: &Supervisor,
    task: &TurnTask,
    keys: &Arc<UserKeys>,
    mut stream: Stream,
) -> Attempt {
    let (mut shown, mut arrived, mut end) = (String::new(), String::new(), None);
    let mut room = MAX_ANSWER_BYTES;
    let deadline = tokio::time::sleep(ANSWER_DEADLINE);
    tokio::pin!(deadline);
    let mut committing: Option<tokio::task::JoinHandle<String>> = None;
    loop {
        if committing.is_none() && !arrived.is_empty() {
            let piece = std::mem::take(&mut arrived);
            let upto = (shown.len() + piece.len()) as u64;
            let (journal, keys, turn, user) = (
                supervisor.0.journal.clone(),
                Arc::clone(keys),
                task.turn,
                task.user,
            );
            committing = Some(tokio::spawn(commit(journal, turn, user, keys, upto, piece)));
        }
        let committed = async {
            match committing.as_mut() {
                Some(commit) => commit.await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = task.run.over(), if end.is_none() => end = Some(End::Stopped),
            piece = committed => {
                committing = None;
                match piece {
                    Ok(piece) => {
                        supervisor.0.feeds.show(task.turn, &piece);
                        shown.push_str(&piece);
                    }
                    Err(_) => return Attempt { text: shown, end: End::Failed(died()) },
                }
            }
            () = &mut deadline, if end.is_none() => end = Some(End::Failed(took_too_long())),
            frame = stream.next(), if end.is_none() => {
                let (text, ended) = match frame {
                    Ok(Frame::Text(text)) => (text, None),
                    Ok(Frame::Done { text, metrics }) => (text, Some(End::Completed(metrics))),
                    Err(failure) => (String::new(), Some(End::Failed(failure))),
                };
                let fitting = fitting(&text, &mut room);
                arrived.push_str(fitting);
                end = if fitting.len() < text.len() { Some(End::Failed(too_long())) } else { ended };
            }
        }
        if committing.is_none()
            && arrived.is_empty()
            && let Some(end) = end.take()
        {
            return Attempt { text: shown, end };
        }
    }
}

/// Commits a piece, however long the store is away, and gives it back to be shown.
async fn commit(
    journal: Journal,
    turn: TurnId,
    user: UserId,
    keys: Arc<UserKeys>,
    upto: u64,
    piece: String,
) -> String {
    for pause in pauses() {
        match journal.write(turn, user, &keys, upto, &piece).await {
            Ok(()) => break,
            Err(error) => warn!(%error, turn.id = %turn, "the journal can't be written; trying on"),
        }
        tokio::time::sleep(pause).await;
    }
    piece
}

pub(crate) fn took_too_long() -> Failure {
    Failure {
        code: "ollama_timeout".into(),
        sentence: "The answer took too long and was stopped; what came is kept".into(),
    }
}

fn too_long() -> Failure {
    let sentence = format!("The answer was stopped at {MAX_ANSWER_BYTES} bytes; what came is kept");
    Failure {
        code: "answer_too_long".into(),
        sentence,
    }
}

fn pauses() -> impl Iterator<Item = Duration> {
    let last = PAUSES_MS[PAUSES_MS.len() - 1];
    PAUSES_MS
        .into_iter()
        .chain(std::iter::repeat(last))
        .map(Duration::from_millis)
}

/// Ends a turn whose task is gone, with what was shown of it.
pub(crate) async fn end_dead_turn(supervisor: &Supervisor, task: &TurnTask, failure: Failure) {
    let mut content = String::new();
    for pause in pauses() {
        match supervisor.0.log.journals().text(task.turn, task.user).await {
            Ok(shown) => content = shown,
            Err(LogError::Away(_)) => {
                tokio::time::sleep(pause).await;
                continue;
            }
            Err(error) => {
                error!(%error, turn.id = %task.turn, "what turn `{}` had said can't be read", task.turn)
            }
        }
        break;
    }
    content.truncate(fitting(&content, &mut MAX_ANSWER_BYTES.clone()).len());
    let outcome = if failure.code == "interrupted" {
        TurnOutcome::Interrupted
    } else {
        TurnOutcome::Failed
    };
    let model = supervisor.0.settings.chat_model.clone();
    let answer = Answer {
        content,
        outcome,
        failure: Some(failure),
        model,
        metrics: TurnMetrics::default(),
    };
    end_turn(supervisor, task, answer).await;
}

/// Writes a turn's end, however long the store is away, and tells the readers.
async fn end_turn(supervisor: &Supervisor, task: &TurnTask, answer: Answer) {
    let (id, session, turn, office) = (
        task.turn.to_string(),
        task.session.clone(),
        task.turn,
        task.office,
    );
    let kept = answer.clone();
    let plan = move |state: &User, now| {
        let command = ChatCommand::Answer {
            turn,
            answer: kept.clone(),
        };
        let changes = state.decide(now, UserCommand::Chat(session.clone(), command))?;
        let mut work = vec![
            Work::Lease(LeaseRow::Drop {
                kind: LeaseKind::Turn,
                id: id.clone(),
            }),
            Work::Journal(JournalRow::Prune {
                turn_id: id.clone(),
            }),
        ];
        work.extend(office.map(Work::OnlyInEpoch));
        Ok(Plan {
            changes,
            work,
            ..Plan::default()
        })
    };
    match keep_asking(supervisor, task.user, &task.metadata, plan).await {
        // It had an end already, which is not this one: the store knows it.
        Ok(done) if done.changes.is_empty() => {
            supervisor.0.feeds.close(turn);
            drop_own_lease(supervisor, LeaseKind::Turn, &turn.to_string()).await;
        }
        Ok(done) => supervisor.0.feeds.end(
            turn,
            Ended {
                answer,
                position: done.position,
            },
        ),
        Err(WriteError::Forgotten) => supervisor.0.feeds.close(turn),
        Err(error) => {
            error!(%error, turn.id = %turn, "the end of turn `{turn}` can't be written");
            supervisor.0.feeds.close(turn);
        }
    }
}

/// A lease of this node whose work has ended; one that can't be dropped now lapses.
pub(crate) async fn drop_own_lease(supervisor: &Supervisor, kind: LeaseKind, id: &str) {
    if let Err(error) = supervisor
        .0
        .log
        .leases()
        .remove(kind, id, &supervisor.0.node)
        .await
    {
        warn!(%error, "a lease that says nothing any more can't be dropped");
    }
}

/// Asks until the store takes it, or a rule or a forgotten user says no.
pub(crate) async fn keep_asking(
    supervisor: &Supervisor,
    user: UserId,
    metadata: &Metadata,
    plan: impl Fn(&User, genie_events::Now) -> Result<Plan, genie_events::Refusal>
    + Clone
    + Send
    + Sync
    + 'static,
) -> Result<Done, WriteError> {
    for pause in pauses() {
        match supervisor
            .0
            .users
            .plan(user, None, metadata.clone(), Arc::new(plan.clone()))
            .await
        {
            Err(WriteError::Away(_) | WriteError::Busy) => tokio::time::sleep(pause).await,
            settled => return settled,
        }
    }
    Err(WriteError::Busy) // the pauses never end
}

impl Run {
    /// Resolves when there is no point in going on: called off, or another node's.
    pub(crate) async fn over(&self) {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = self.lost.cancelled() => {}
        }
    }
}
