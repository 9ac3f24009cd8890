//! One answer, from its turn at the model server to its end. A token is shown only after its journal row is committed; the
//! client leaving changes nothing; cancelling drops the connection, which is how Ollama is told.

use std::{future::pending, sync::Arc, time::Duration};

use genie_events::{
    Metadata, SessionId, TurnId, User, UserCommand, UserId,
    chat::{Answer, Chat, ChatCommand, ChatEvent, Failure, TurnMetrics, TurnOutcome},
};
use genie_log::{Epoch, LogError, Owner, UserKeys, Work, journal::Journal, leases::LeaseKind};
use tracing::{error, info, warn};

use crate::{
    WriteError,
    feed::{Ended, Stage},
    ollama::{Frame, Message, Stream},
    supervisor::{Run, Supervisor},
    turnstile::{Class, Pass},
    users::{Done, Plan},
};

/// The longest answer, in bytes of JSON, as its fact holds it; past it the model is told to stop.
const MAX_ANSWER_BYTES: usize = 512 * 1024;
/// Tokens that a model may write: one that loops would go on for as long as it is let.
const ANSWER_TOKENS: u32 = 4096;
/// How long an answer may take once it is its turn: a model that loops must not hold its slot for ever.
const ANSWER_DEADLINE: Duration = Duration::from_secs(900);
/// Bytes a token is taken to have, to fit a conversation into the model's context.
const BYTES_PER_TOKEN: usize = 4;
/// Pauses between tries to write an end while the store is away; the last one repeats.
const PAUSES_MS: [u64; 5] = [100, 250, 500, 1000, 3000];
const SYSTEM_PROMPT: &str = "You are Genie, a helpful assistant for content creators. Be brief and concrete.";

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
    Failure { code: "internal".into(), sentence: "The answer broke off through a fault of the server; ask again".into() }
}

pub(crate) fn interrupted() -> Failure {
    Failure { code: "interrupted".into(), sentence: "The server went down during the answer; ask again".into() }
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
        Err(_) if task.run.cancel.is_cancelled() => Attempt { text: String::new(), end: End::Stopped },
        Err(error) => {
            error!(%error, turn.id = %task.turn, "turn `{}` can't be run", task.turn);
            Attempt { text: String::new(), end: End::Failed(died()) }
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
    end_turn(&supervisor, &task, Answer { content: attempt.text, outcome, failure, model, metrics }).await;
}

async fn turn_attempt(supervisor: &Supervisor, task: &TurnTask) -> Result<Attempt, LogError> {
    let inner = &supervisor.0;
    let (log, user, session) = (inner.log.clone(), task.user, task.session.clone());
    let keys = read_surely(task, || {
        let log = log.clone();
        async move { log.live_keys(user).await }
    });
    let keys = keys.await?;
    let stopped = Attempt { text: String::new(), end: End::Stopped };
    let Some(_pass) = wait_for_pass(supervisor, task).await else { return Ok(stopped) };
    inner.feeds.stage(task.turn, Stage::Running);
    let history = read_surely(task, || {
        let (log, session) = (log.clone(), session.clone());
        async move { log.stream_events::<Chat>(&Owner::User(user), &session.0).await }
    });
    let history = history.await?;
    let conversation = conversation(&history, task.turn, inner.settings.context_tokens * BYTES_PER_TOKEN);
    let opened = tokio::select! {
        biased;
        () = task.run.over() => return Ok(stopped),
        opened = inner.ollama.chat(&inner.settings.chat_model, &conversation, ANSWER_TOKENS) => opened,
    };
    Ok(match opened {
        Ok(stream) => relay(supervisor, task, &keys, stream).await,
        Err(failure) => Attempt { text: String::new(), end: End::Failed(failure) },
    })
}

/// Reads, however long the store is away, unless there is no point in going on.
async fn read_surely<T, R>(task: &TurnTask, read: impl Fn() -> R) -> Result<T, LogError>
where
    R: Future<Output = Result<T, LogError>>,
{
    for pause in pauses() {
        match read().await {
            Err(LogError::Away(reason)) => warn!(reason, turn.id = %task.turn, "what a turn needs can't be read; trying on"),
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
async fn relay(supervisor: &Supervisor, task: &TurnTask, keys: &Arc<UserKeys>, mut stream: Stream) -> Attempt {
    let (mut shown, mut arrived, mut end) = (String::new(), String::new(), None);
    let mut room = MAX_ANSWER_BYTES;
    let deadline = tokio::time::sleep(ANSWER_DEADLINE);
    tokio::pin!(deadline);
    let mut committing: Option<tokio::task::JoinHandle<String>> = None;
    loop {
        if committing.is_none() && !arrived.is_empty() {
            let piece = std::mem::take(&mut arrived);
            let upto = (shown.len() + piece.len()) as u64;
            let (journal, keys, turn, user) = (supervisor.0.journal.clone(), Arc::clone(keys), task.turn, task.user);
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
async fn commit(journal: Journal, turn: TurnId, user: UserId, keys: Arc<UserKeys>, upto: u64, piece: String) -> String {
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
    Failure { code: "ollama_timeout".into(), sentence: "The answer took too long and was stopped; what came is kept".into() }
}

fn too_long() -> Failure {
    let sentence = format!("The answer was stopped at {MAX_ANSWER_BYTES} bytes; what came is kept");
    Failure { code: "answer_too_long".into(), sentence }
}

/// The part of a text that fits into so many bytes of JSON, which are taken off.
pub(crate) fn fitting<'a>(text: &'a str, room: &mut usize) -> &'a str {
    for (at, character) in text.char_indices() {
        let bytes = match character {
            '"' | '\\' | '\n' | '\r' | '\t' => 2,
            control if control.is_control() => 6,
            other => other.len_utf8(),
        };
        match room.checked_sub(bytes) {
            Some(left) => *room = left,
            None => {
                *room = 0;
                return &text[..at];
            }
        }
    }
    text
}

fn pauses() -> impl Iterator<Item = Duration> {
    let last = PAUSES_MS[PAUSES_MS.len() - 1];
    PAUSES_MS.into_iter().chain(std::iter::repeat(last)).map(Duration::from_millis)
}

/// The conversation up to this turn's question: the system prompt, then the newest messages that fit.
fn conversation(history: &[ChatEvent], turn: TurnId, budget: usize) -> Vec<Message> {
    let mut messages = Vec::new();
    for event in history {
        match event {
            ChatEvent::Asked { turn: asked, message, .. } => {
                messages.push(Message { role: "user", content: message.clone() });
                if *asked == turn {
                    break;
                }
            }
            ChatEvent::Answered { answer, .. } if !answer.content.is_empty() => {
                messages.push(Message { role: "assistant", content: answer.content.clone() });
            }
            ChatEvent::Answered { .. } => {}
        }
    }
    let mut left = budget.saturating_sub(SYSTEM_PROMPT.len());
    let mut fitting: Vec<Message> = Vec::new();
    for (n, message) in messages.into_iter().rev().enumerate() {
        // The question itself always goes, however long: the model server says so when it can't take it.
        if n > 0 && message.content.len() > left {
            break;
        }
        left = left.saturating_sub(message.content.len());
        fitting.push(message);
    }
    fitting.push(Message { role: "system", content: SYSTEM_PROMPT.into() });
    fitting.reverse();
    fitting
}

/// Ends a turn whose task is gone, with what was shown of it.
pub(crate) async fn end_dead_turn(supervisor: &Supervisor, task: &TurnTask, failure: Failure) {
    let mut content = String::new();
    for pause in pauses() {
        match supervisor.0.log.journalled(task.turn, task.user).await {
            Ok(shown) => content = shown,
            Err(LogError::Away(_)) => {
                tokio::time::sleep(pause).await;
                continue;
            }
            Err(error) => error!(%error, turn.id = %task.turn, "what turn `{}` had said can't be read", task.turn),
        }
        break;
    }
    content.truncate(fitting(&content, &mut MAX_ANSWER_BYTES.clone()).len());
    let outcome = if failure.code == "interrupted" { TurnOutcome::Interrupted } else { TurnOutcome::Failed };
    let model = supervisor.0.settings.chat_model.clone();
    let answer = Answer { content, outcome, failure: Some(failure), model, metrics: TurnMetrics::default() };
    end_turn(supervisor, task, answer).await;
}

/// Writes a turn's end, however long the store is away, and tells the readers.
async fn end_turn(supervisor: &Supervisor, task: &TurnTask, answer: Answer) {
    let (id, session, turn, office) = (task.turn.to_string(), task.session.clone(), task.turn, task.office);
    let kept = answer.clone();
    let plan = move |state: &User, now| {
        let command = ChatCommand::Answer { turn, answer: kept.clone() };
        let changes = state.decide(now, UserCommand::Chat(session.clone(), command))?;
        let mut work =
            vec![Work::DropLease { kind: LeaseKind::Turn, id: id.clone() }, Work::PruneJournal { turn_id: id.clone() }];
        work.extend(office.map(Work::OnlyInEpoch));
        Ok(Plan { changes, work, ..Plan::default() })
    };
    match keep_asking(supervisor, task.user, &task.metadata, plan).await {
        // It had an end already, which is not this one: the store knows it.
        Ok(done) if done.changes.is_empty() => {
            supervisor.0.feeds.close(turn);
            drop_own_lease(supervisor, LeaseKind::Turn, &turn.to_string()).await;
        }
        Ok(done) => supervisor.0.feeds.end(turn, Ended { answer, position: done.position }),
        Err(WriteError::Forgotten) => supervisor.0.feeds.close(turn),
        Err(error) => {
            error!(%error, turn.id = %turn, "the end of turn `{turn}` can't be written");
            supervisor.0.feeds.close(turn);
        }
    }
}

/// A lease of this node whose work has ended; one that can't be dropped now lapses.
pub(crate) async fn drop_own_lease(supervisor: &Supervisor, kind: LeaseKind, id: &str) {
    if let Err(error) = supervisor.0.log.drop_lease(kind, id, &supervisor.0.node).await {
        warn!(%error, "a lease that says nothing any more can't be dropped");
    }
}

/// Asks until the store takes it, or a rule or a forgotten user says no.
pub(crate) async fn keep_asking(
    supervisor: &Supervisor,
    user: UserId,
    metadata: &Metadata,
    plan: impl Fn(&User, genie_events::Now) -> Result<Plan, genie_events::Refusal> + Clone + Send + Sync + 'static,
) -> Result<Done, WriteError> {
    for pause in pauses() {
        match supervisor.0.users.plan(user, None, metadata.clone(), Arc::new(plan.clone())).await {
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn turn(n: u128) -> TurnId {
        TurnId(Uuid::from_u128(n))
    }
    fn asked(n: u128, message: &str) -> ChatEvent {
        ChatEvent::Asked { turn: turn(n), session: "s".into(), message: message.into() }
    }
    fn answered(n: u128, content: &str) -> ChatEvent {
        let answer = Answer {
            content: content.into(),
            outcome: TurnOutcome::Completed,
            failure: None,
            model: "m".into(),
            metrics: TurnMetrics::default(),
        };
        ChatEvent::Answered { turn: turn(n), answer }
    }

    #[test]
    fn what_fits_is_counted_as_json_counts_it() {
        for text in ["plain", "line\nfeed \"quoted\" \\", "\u{1}\u{7f}", "你好 😀"] {
            let mut room = 1000;
            assert_eq!(fitting(text, &mut room), text);
            let json = serde_json::to_string(text).unwrap().len() - 2;
            assert!(1000 - room >= json, "{text:?}: {} < {json}", 1000 - room);
        }
        let mut room = 3;
        assert_eq!((fitting("你好", &mut room), room), ("你", 0));
        let mut room = 3;
        assert_eq!((fitting("\n\n", &mut room), room), ("\n", 0));
    }

    #[test]
    fn the_newest_messages_that_fit_are_given_after_the_system_prompt() {
        let history =
            [asked(1, "one"), answered(1, "ONE"), asked(2, "two"), answered(2, ""), asked(3, "three"), asked(4, "later")];
        let roles = |budget| -> Vec<(&'static str, String)> {
            conversation(&history, turn(3), budget).into_iter().skip(1).map(|message| (message.role, message.content)).collect()
        };
        let all = [("user", "one"), ("assistant", "ONE"), ("user", "two"), ("user", "three")];
        assert_eq!(roles(100_000), all.map(|(role, text)| (role, text.to_owned())));
        assert_eq!(roles(SYSTEM_PROMPT.len() + 8), [("user", "two".to_owned()), ("user", "three".to_owned())]);
        assert_eq!(roles(0), [("user", "three".to_owned())], "the question always goes");
        assert_eq!(conversation(&history, turn(3), 0)[0].role, "system");
    }
}
