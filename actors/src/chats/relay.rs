//! Relays an answer from the model to its readers. Invariant: a token is shown only after its journal row is
//! committed.

use std::{future::pending, sync::Arc};

use futures_util::future::BoxFuture;
use genie_events::{TurnId, chat::Failure};
use genie_log::{
    UserKeys,
    turn_journal::{Journal, JournalOutcome},
};
use tracing::{error, warn};

use super::{
    conversation::fitting,
    turn::{AttemptResult, TurnAttempt, TurnTask},
};
use crate::{
    ollama::{FrameCall, ModelFrame, ModelStream},
    supervisor::{
        Supervisor,
        failure::{journal_unwritable, took_too_long},
        retry::bounded_pauses,
    },
};

/// The longest answer, in bytes of JSON as in its fact. Past it the connection to the model is closed.
pub(super) const MAX_ANSWER_BYTES: usize = 512 * 1024;

pub(super) struct Relay<'a> {
    supervisor: &'a Supervisor,
    task: &'a TurnTask,
    keys: Arc<UserKeys>,
    /// The text that is committed and shown.
    shown: String,
    /// The text that has arrived since the last commit began.
    arrived: String,
    /// The tools that the model asks for.
    calls: Vec<FrameCall>,
    /// The bytes that the answer may still grow by.
    room: usize,
    /// The commit under way, which is only ever polled to its end.
    committing: Option<BoxFuture<'static, Result<CommittedPiece, Failure>>>,
    end: Option<AttemptResult>,
}

impl<'a> Relay<'a> {
    pub fn new(supervisor: &'a Supervisor, task: &'a TurnTask, keys: Arc<UserKeys>) -> Self {
        Self {
            supervisor,
            task,
            keys,
            shown: String::new(),
            arrived: String::new(),
            calls: Vec::new(),
            room: MAX_ANSWER_BYTES,
            committing: None,
            end: None,
        }
    }

    /// Reads the model as fast as it writes, and commits and shows what has come since the last commit.
    pub async fn run(mut self, stream: &mut ModelStream) -> TurnAttempt {
        let deadline = tokio::time::sleep(self.supervisor.0.settings.answer_time);
        tokio::pin!(deadline);
        loop {
            self.commit_arrived();
            tokio::select! {
                biased;
                () = self.task.run.over(), if self.end.is_none() => {
                    self.end = Some(AttemptResult::Stopped);
                }
                piece = committed(&mut self.committing) => {
                    self.committing = None;
                    match piece {
                        Ok(CommittedPiece::Text(piece)) => self.show(&piece),
                        Ok(CommittedPiece::LeaseLost) => self.lose(),
                        Err(failure) => self.fail_now(failure),
                    }
                }
                () = &mut deadline, if self.end.is_none() => {
                    self.end = Some(AttemptResult::Failed(took_too_long()));
                }
                frame = stream.next(), if self.end.is_none() => self.take(frame),
            }
            let is_drained = self.committing.is_none() && self.arrived.is_empty();
            if is_drained && let Some(end) = self.end.take() {
                return TurnAttempt {
                    text: self.shown,
                    calls: self.calls,
                    end,
                };
            }
        }
    }

    fn commit_arrived(&mut self) {
        if self.committing.is_some() || self.arrived.is_empty() {
            return;
        }
        let piece = std::mem::take(&mut self.arrived);
        let upto = (self.shown.len() + piece.len()) as u64;
        let commit = commit(
            self.supervisor.0.journal.clone(),
            self.task.turn,
            Arc::clone(&self.keys),
            upto,
            piece,
        );
        self.committing = Some(Box::pin(commit));
    }

    fn show(&mut self, piece: &str) {
        self.supervisor.0.feeds.show(self.task.turn, piece);
        self.shown.push_str(piece);
    }

    /// Ends with the text that is shown. Text that has arrived since is lost.
    fn fail_now(&mut self, failure: Failure) {
        self.arrived.clear();
        self.end = Some(AttemptResult::Failed(failure));
    }

    /// Ends without an answer: another node has the turn.
    fn lose(&mut self) {
        self.arrived.clear();
        self.task.run.lost.cancel();
        self.end = Some(AttemptResult::Stopped);
    }

    fn take(&mut self, frame: Result<ModelFrame, Failure>) {
        let (text, calls, end) = match frame {
            Ok(ModelFrame::Text(text)) => (text, vec![], None),
            Ok(ModelFrame::Done {
                text,
                calls,
                metrics,
            }) => (text, calls, Some(AttemptResult::Completed(metrics))),
            Err(failure) => (String::new(), vec![], Some(AttemptResult::Failed(failure))),
        };
        let fitting = fitting(&text, &mut self.room);
        self.arrived.push_str(fitting);
        self.end = if fitting.len() < text.len() || !self.have_room(&calls) {
            Some(AttemptResult::Failed(too_long()))
        } else {
            self.calls = calls;
            end
        };
    }

    /// True when these calls fit into the answer beside its text.
    fn have_room(&mut self, calls: &[FrameCall]) -> bool {
        let bytes = |call: &FrameCall| {
            let arguments = serde_json::to_string(&call.arguments);
            call.name.len() + arguments.map_or(0, |arguments| arguments.len())
        };
        let bytes: usize = calls.iter().map(bytes).sum();
        let room = self.room.checked_sub(bytes);
        self.room = room.unwrap_or(0);
        room.is_some()
    }
}

enum CommittedPiece {
    /// The text may be shown.
    Text(String),
    /// Another node has the turn.
    LeaseLost,
}

/// Resolves when the commit under way has ended, and never without one.
async fn committed(
    committing: &mut Option<BoxFuture<'static, Result<CommittedPiece, Failure>>>,
) -> Result<CommittedPiece, Failure> {
    match committing {
        Some(commit) => commit.await,
        None => pending().await,
    }
}

/// Commits a piece and returns it to be shown. It is tried a bounded number of times: the turn holds a place at the
/// model server meanwhile.
async fn commit(
    journal: Journal,
    turn: TurnId,
    keys: Arc<UserKeys>,
    upto: u64,
    piece: String,
) -> Result<CommittedPiece, Failure> {
    for pause in bounded_pauses() {
        match journal.write(turn, &keys, upto, &piece).await {
            Ok(JournalOutcome::Committed) => return Ok(CommittedPiece::Text(piece)),
            Ok(JournalOutcome::LeaseLost) => {
                warn!(turn.id = %turn, "turn: this server has lost its lease; it ends here without an answer");
                return Ok(CommittedPiece::LeaseLost);
            }
            Err(error) => {
                warn!(%error, turn.id = %turn, "turn: writing its journal failed; trying again")
            }
        }
        tokio::time::sleep(pause).await;
    }
    error!(turn.id = %turn, "turn: its journal can't be written; it ends with the text that was shown");
    Err(journal_unwritable())
}

fn too_long() -> Failure {
    Failure {
        code: "answer_too_long".into(),
        sentence: format!(
            "The answer was stopped at {MAX_ANSWER_BYTES} bytes; the text so far is kept"
        ),
    }
}
