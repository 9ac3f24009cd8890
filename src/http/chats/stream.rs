//! One reader's stream of a turn. The stream keeps its own place in the text, counted in bytes. Event ids are
//! `<turn>:<place>`, so that any place can be found again in the kept answer. After a text of `n` bytes, `n + 1` is
//! its closing event and `n + 2` the end.

use std::time::Duration;

use actix_web::{
    FromRequest, HttpRequest,
    web::{Bytes, Data},
};
use futures_util::Stream;
use genie_actors::turn_feed::{TurnProgress, TurnStage};
use genie_events::{
    TurnId, UserId,
    chat::{Failure, ToolCall, TurnMetrics, TurnOutcome},
};
use genie_log::{LogError, turn_journal::JournalText};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tracing::warn;

use super::event::TurnStreamEvent;
use crate::{
    app::App,
    http::{
        caller::ActingUser,
        error::ApiError,
        long_pages, sse,
        stream_ticket::{StreamReader, TurnStreams},
    },
    streams::OpenStream,
};

/// The pauses between looks at a turn that runs on another node: the first one, the one after new text, and the longest
/// when nothing comes.
const FIRST_LOOK: Duration = Duration::from_millis(200);
const NEXT_LOOK: Duration = Duration::from_secs(1);
const LONGEST_LOOK: Duration = Duration::from_secs(2);
/// A reader of a turn that runs elsewhere is sent away after this time, the longest time of an answer. It comes back with
/// its place.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// How often the stream checks that its caller is still good.
const RECHECK: Duration = Duration::from_secs(10);
/// The end of a stream waits this long for the read side, so that a reader who goes on there finds both messages.
const READ_SIDE: Duration = Duration::from_secs(2);

pub enum Source {
    /// The turn runs here.
    Live(watch::Receiver<TurnProgress>),
    /// The turn runs elsewhere, or has ended: the journal and the read side know it.
    Stored,
}

pub struct TurnStream {
    app: Data<App>,
    request: HttpRequest,
    /// The reader, if one that may have come by a ticket.
    reader: Option<StreamReader<TurnStreams>>,
    turn: TurnId,
    user: UserId,
    source: Source,
    /// The reader wants the events after this place.
    after: u64,
    /// The interrupted turn that this one goes on with. The first event names it.
    continues: Option<TurnId>,
    stage_told: Option<TurnStage>,
    _open: OpenStream,
    opened: Instant,
    /// When the caller was last found good.
    checked: Instant,
    /// When something was last sent.
    sent: Instant,
    /// The next pause of a reader of the store.
    look: Duration,
    /// The turn's question is before this position: once the read side is there and does not know the turn, its session
    /// was removed.
    asked_before: u64,
}

/// The news for the reader.
pub struct View {
    stage: TurnStage,
    /// The text from the reader's place on.
    pub fresh: String,
    /// The place after the fresh text.
    upto: u64,
    pub ended: Option<End>,
}

pub struct End {
    outcome: &'static str,
    pub failure: Option<Failure>,
    pub model: String,
    pub metrics: TurnMetrics,
    /// The calls of a program's own tools.
    pub tool_calls: Vec<ToolCall>,
    /// The length of the whole text.
    length: u64,
    position: u64,
}

impl View {
    fn new(stage: TurnStage, text: &str, after: u64, ended: Option<End>) -> Self {
        Self {
            stage,
            fresh: from(text, after),
            upto: text.len() as u64,
            ended,
        }
    }

    /// Of a turn that runs elsewhere, by the pieces of its journal that end after the reader's place.
    fn of_pieces(pieces: &JournalText, after: u64) -> Self {
        Self {
            stage: TurnStage::Running,
            fresh: from(&pieces.text, after.saturating_sub(pieces.begin)),
            upto: pieces.begin + pieces.text.len() as u64,
            ended: None,
        }
    }

    /// A failure before any text is the answer's status.
    pub fn or_early_failure(self, turn: TurnId) -> Result<Self, ApiError> {
        let ended = self.ended.as_ref().filter(|_| self.fresh.is_empty());
        ended.map_or(Ok(()), |end| end.check(turn))?;
        Ok(self)
    }
}

impl End {
    /// True when the user stopped the turn.
    pub fn is_stopped(&self) -> bool {
        self.outcome == TurnOutcome::Stopped.as_str()
    }

    /// Fails when the turn failed.
    pub fn check(&self, turn: TurnId) -> Result<(), ApiError> {
        match &self.failure {
            None => Ok(()),
            Some(failure) => Err(ApiError::Model {
                failure: failure.clone(),
                turn: Some(turn),
                position: self.position,
            }),
        }
    }
}

/// The id of the last event after a text.
pub fn last_id(text: &str) -> u64 {
    text.len() as u64 + 2
}

impl TurnStream {
    pub fn new(
        app: Data<App>,
        request: HttpRequest,
        turn: TurnId,
        user: UserId,
        source: Source,
        after: u64,
        open: OpenStream,
    ) -> Self {
        let now = Instant::now();
        Self {
            app,
            request,
            reader: None,
            turn,
            user,
            source,
            after,
            continues: None,
            stage_told: None,
            _open: open,
            opened: now,
            checked: now,
            sent: now,
            look: FIRST_LOOK,
            asked_before: 0,
        }
    }

    pub fn turn(&self) -> TurnId {
        self.turn
    }

    /// The news since the last call: more text or the end, and nothing after [`sse::HEARTBEAT`] without either. `None`
    /// when the stream has to end before its turn.
    pub async fn news(&mut self) -> Result<Option<View>, LogError> {
        while self.may_go_on().await {
            let view = self.view().await?;
            if !view.fresh.is_empty() {
                self.look = NEXT_LOOK;
                self.after = view.upto;
            }
            let is_quiet = view.fresh.is_empty() && view.ended.is_none();
            if !is_quiet || self.sent.elapsed() >= sse::HEARTBEAT {
                self.sent = Instant::now();
                return Ok(Some(view));
            }
            self.wait().await;
        }
        Ok(None)
    }

    /// The stream of a turn that goes on with another.
    pub fn continuing(self, continues: Option<TurnId>) -> Self {
        Self { continues, ..self }
    }

    /// The stream for a reader who may have come by a ticket.
    pub fn read_by(self, reader: StreamReader<TurnStreams>) -> Self {
        Self {
            reader: Some(reader),
            ..self
        }
    }

    /// The events, to the end. A reader that goes away changes nothing for the turn.
    pub fn events(mut self) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
        async_stream::stream! {
            yield Ok(sse::retry());
            while self.may_go_on().await {
                let view = match self.view().await {
                    Ok(view) => view,
                    Err(error) => {
                        // The client comes back with its place; nothing is lost.
                        warn!(%error, turn.id = %self.turn, "chat stream: broke off; the client resumes it");
                        return;
                    }
                };
                if let Some(event) = self.stage_event(&view) {
                    yield Ok(event);
                }
                if !view.fresh.is_empty() {
                    self.look = NEXT_LOOK;
                    self.after = view.upto;
                    // By itself: what stands in a `yield` is held until the client takes it.
                    let event = self.event(self.after, &TurnStreamEvent::chunk(self.turn, view.fresh));
                    yield Ok(event);
                }
                if let Some(end) = view.ended {
                    let _ = self.app.reads.wait_for("chats", end.position, READ_SIDE).await; // the end is told either way
                    for event in self.end_events(&end) {
                        yield Ok(event);
                    }
                    return;
                }
                self.wait().await;
                if self.sent.elapsed() >= sse::HEARTBEAT {
                    self.sent = Instant::now();
                    yield Ok(sse::comment());
                }
            }
        }
    }

    /// False when the caller is no longer good, and when a turn that runs elsewhere has had time enough.
    async fn may_go_on(&mut self) -> bool {
        if matches!(self.source, Source::Stored) && self.opened.elapsed() >= LONGEST {
            return false;
        }
        if self.checked.elapsed() < RECHECK {
            return true;
        }
        self.checked = Instant::now();
        match &self.reader {
            Some(reader) => reader.check_again(&self.request).await.is_ok(),
            None => ActingUser::extract(&self.request).await.is_ok(),
        }
    }

    async fn view(&mut self) -> Result<View, LogError> {
        if let Source::Live(progress) = &mut self.source {
            let progress = progress.borrow_and_update();
            let ended = progress.ended.as_ref().map(|ended| End {
                outcome: ended.answer.outcome.as_str(),
                failure: ended.answer.failure.clone(),
                model: ended.answer.model.clone(),
                metrics: ended.answer.metrics.clone(),
                tool_calls: ended.answer.tool_calls.clone(),
                length: progress.text.len() as u64,
                position: ended.position,
            });
            return Ok(View::new(progress.stage, &progress.text, self.after, ended));
        }
        let (app, turn, user, after) = (self.app.clone(), self.turn, self.user, self.after);
        let is_known = app.reads.have_announced(&["chats"], self.asked_before);
        // An answer may have half a mebibyte.
        let view = long_pages::make(async move { stored_view(&app, turn, user, after).await });
        Ok(match view.await? {
            Some(view) => view,
            None if is_known => self.removed_view(),
            None => View::new(TurnStage::Running, "", 0, None),
        })
    }

    /// Of a turn that ended with its session.
    fn removed_view(&self) -> View {
        let end = End {
            outcome: TurnOutcome::Stopped.as_str(),
            failure: None,
            model: self.app.config.ollama_model.clone(),
            metrics: TurnMetrics::default(),
            tool_calls: vec![],
            length: self.after,
            position: 0,
        };
        View::new(TurnStage::Running, "", 0, Some(end))
    }

    /// Waits until there may be more to tell, or a heartbeat is due.
    async fn wait(&mut self) {
        match &mut self.source {
            Source::Live(progress) => {
                let longest = sse::HEARTBEAT.min(RECHECK);
                if let Ok(Err(_)) = timeout(longest, progress.changed()).await {
                    // The feed closed without an end: the store knows how the turn ended.
                    self.source = Source::Stored;
                    self.asked_before = self.app.log.reader().head();
                }
            }
            Source::Stored => {
                tokio::time::sleep(self.look).await;
                self.look = (self.look * 2).min(LONGEST_LOOK);
            }
        }
    }

    fn stage_event(&mut self, view: &View) -> Option<Bytes> {
        let continues = self.continues.take();
        let is_news = self.stage_told != Some(view.stage) && view.ended.is_none();
        if !is_news && continues.is_none() {
            return None;
        }
        self.stage_told = Some(view.stage);
        let stage = match view.stage {
            TurnStage::Accepted => TurnStreamEvent::stage("Reading your message", "thinking"),
            TurnStage::Queued { place, eta_ms } => TurnStreamEvent::queued(place, eta_ms),
            TurnStage::Loading => TurnStreamEvent::stage("Loading the model", "thinking"),
            TurnStage::Running => TurnStreamEvent::stage("Writing", "focused"),
        };
        Some(self.event(self.after, &stage.continuing(continues)))
    }

    fn end_events(&self, end: &End) -> Vec<Bytes> {
        let failed = end.failure.is_some();
        let mut events = Vec::with_capacity(3);
        if self.after <= end.length {
            let mood = if failed { "error" } else { "idle" };
            let label = if failed {
                "Something went wrong"
            } else {
                "Done"
            };
            events.push(self.event(end.length, &TurnStreamEvent::stage(label, mood)));
            let closing = match &end.failure {
                Some(failure) => TurnStreamEvent::failure(self.turn, failure),
                None => TurnStreamEvent::text_end(self.turn),
            };
            events.push(self.event(end.length + 1, &closing));
        }
        let model = Some(end.model.clone());
        let last = TurnStreamEvent::end(self.turn, failed, end.outcome, model, &end.metrics);
        events.push(self.event(end.length + 2, &last));
        events
    }

    fn event(&self, place: u64, event: &TurnStreamEvent) -> Bytes {
        let id = format!("{}:{place}", self.turn);
        let shown = self.reader.as_ref().map(|reader| reader.event_id(&id));
        sse::event(&shown.unwrap_or(id), event)
    }
}

/// Of a turn that runs elsewhere or has ended; `None` when the read side does not know it.
async fn stored_view(
    app: &App,
    turn: TurnId,
    user: UserId,
    after: u64,
) -> Result<Option<View>, LogError> {
    let answer = app.reads.chats.answer(user, turn).await?;
    let Some(answer) = answer else {
        if !app.reads.chats.has_turn(user, turn).await? {
            return Ok(None);
        }
        let pieces = app.log.journals().text_after(turn, user, after).await?;
        return Ok(Some(View::of_pieces(&pieces, after)));
    };
    let detail = answer.detail.unwrap_or_default();
    let outcome = ["completed", "stopped", "interrupted"]
        .into_iter()
        .find(|word| Some(*word) == answer.outcome.as_deref());
    let end = End {
        outcome: outcome.unwrap_or("failed"),
        failure: detail.failure,
        model: detail.model,
        metrics: detail.metrics,
        tool_calls: answer.tool_calls,
        length: answer.content.len() as u64,
        position: answer.position,
    };
    let running = TurnStage::Running;
    Ok(Some(View::new(running, &answer.content, after, Some(end))))
}

/// The text from a place on. A place inside a character begins with that character.
fn from(text: &str, place: u64) -> String {
    let mut at = usize::try_from(place).unwrap_or(usize::MAX).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    text[at..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_place_can_be_asked_for() {
        assert_eq!(from("a你b", 0), "a你b");
        assert_eq!(from("a你b", 1), "你b");
        assert_eq!(from("a你b", 2), "你b", "inside a character");
        assert_eq!(from("a你b", 99), "");
        assert_eq!(last_id("a你b"), 7);
    }
}
