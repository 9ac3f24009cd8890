//! Chat (docs/api.md, Chat): ask a turn, read or resume its stream, stop it; list, search, rename and delete sessions;
//! list messages.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path},
};
use genie_actors::{
    WriteError,
    chats::StartedTurn,
    turn_feed::{TurnProgress, TurnStage},
};
use genie_events::{
    SessionId, TurnId, UserId,
    account::Onboarding,
    chat::{Failure, MAX_TITLE, ToolCall, TurnMetrics},
    typed_text,
};
use genie_log::pages::Paged;
use genie_projections::{
    accounts::AccountRow,
    chats::{ChatReader, ChatRow, MessageRow},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::{sync::watch, time::timeout};
use utoipa::{IntoParams, ToSchema};

use crate::{
    app::App,
    http::{
        body::{Body, PatchBody},
        caller::{ActingUser, UserCaller},
        error::ApiError,
        idempotency::IdempotencyKey,
        input::Query,
        long_pages,
        read_your_writes::MinPosition,
        request::in_span,
        response::{self, Answer, ListPage, PageQuery, RawAnswer, Written},
        sse,
        stream_ticket::{self, StreamReader, StreamTicketAnswer, TicketQuery, TurnStreams},
        words::{self, Time},
    },
    streams::OpenStream,
};

pub mod event;
pub mod stream;
use event::TurnStreamEvent;
use stream::{Source, TurnStream};

/// The stream opens after this time even when nothing came yet. Until then a failure is an HTTP status.
const OPENS_AFTER: Duration = Duration::from_millis(250);
pub const MAX_SESSION_NAME: usize = 200;
const MAX_MESSAGE: usize = 100_000;
/// How many titles a search looks through at once.
const SEARCHED_AT_ONCE: i64 = 500;

#[derive(Deserialize, ToSchema)]
pub struct Question {
    /// At most 100000 bytes, not blank.
    #[schema(min_length = 1, max_length = 100_000)]
    pub message: String,
    /// The name of one of the caller's sessions, at most 200 characters. The default is `genie-<userId>`.
    #[serde(rename = "sessionId")]
    #[schema(max_length = 200)]
    session: Option<String>,
}

impl Question {
    pub fn check_message(&self) -> Result<(), ApiError> {
        if self.message.trim().is_empty() || self.message.len() > MAX_MESSAGE {
            return Err(ApiError::field(format!(
                "`message` must have 1 to {MAX_MESSAGE} bytes and not be blank"
            )));
        }
        Ok(())
    }

    /// The name of the session in which this user asks.
    pub fn session_of(&self, user: UserId) -> Result<String, ApiError> {
        let given = self.session.as_deref().map(typed_text::cleaned);
        let session = given
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| format!("genie-{user}"));
        if session.chars().count() > MAX_SESSION_NAME || matches!(&*session, "." | "..") {
            return Err(ApiError::field(format!(
                "`sessionId` must have at most {MAX_SESSION_NAME} characters, and not be `.` or `..`"
            )));
        }
        Ok(session)
    }
}

#[derive(Serialize, ToSchema)]
pub struct ChatSession {
    /// The session's name, as `sessionId` gave it.
    id: String,
    /// The title that the user gave it, or the first 60 characters of its first question.
    title: String,
    #[schema(minimum = 0)]
    message_count: i64,
    /// The turn that is under way.
    #[schema(required, format = Uuid)]
    running_turn: Option<String>,
    created_at: Time,
    /// The time of the last question or answer.
    updated_at: Time,
}

impl From<&ChatRow> for ChatSession {
    fn from(row: &ChatRow) -> Self {
        Self {
            id: row.name.clone(),
            title: row.title.clone(),
            message_count: row.message_count,
            running_turn: row.running_turn.clone(),
            created_at: row.created_at.into(),
            updated_at: row.updated_at.into(),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct Message {
    #[schema(format = Uuid)]
    id: String,
    #[serde(rename = "turnId")]
    #[schema(format = Uuid)]
    turn: String,
    /// `user` or `assistant`.
    role: String,
    /// The text. The text of an answer ends where the turn ended.
    content: String,
    /// How the turn ended. Null for questions.
    #[schema(required, value_type = Option<words::Outcome>)]
    outcome: Option<String>,
    created_at: Time,
    /// Why the turn failed, for people. Present only when it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Why the turn failed, for programs. Present only when it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// The calls of a program's own tools with which the answer ended. Present only when there are some.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    tool_calls: Vec<MessageToolCall>,
}

#[derive(Serialize, ToSchema)]
struct MessageToolCall {
    #[schema(value_type = Object)]
    arguments: Map<String, Value>,
    id: String,
    name: String,
}

impl From<&ToolCall> for MessageToolCall {
    fn from(call: &ToolCall) -> Self {
        Self {
            arguments: call.arguments.clone(),
            id: call.id.clone(),
            name: call.name.clone(),
        }
    }
}

impl From<&MessageRow> for Message {
    fn from(row: &MessageRow) -> Self {
        let failure = row
            .detail
            .as_ref()
            .and_then(|detail| detail.failure.as_ref());
        Self {
            id: row.id.clone(),
            turn: row.turn.clone(),
            role: row.role.clone(),
            content: row.content.clone(),
            outcome: row.outcome.clone(),
            created_at: row.created_at.into(),
            error: failure.map(|failure| failure.sentence.clone()),
            code: failure.map(|failure| failure.code.clone()),
            tool_calls: row.tool_calls.iter().map(MessageToolCall::from).collect(),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct StoppedTurn {
    #[serde(rename = "turnId")]
    #[schema(value_type = Uuid)]
    turn: TurnId,
    stopped: bool,
}

/// The stream of a turn that this request began.
pub enum NewTurn {}

/// The stream of a turn, from a place on.
pub enum TurnEvents {}

/// `POST /api/genie/stream-chat`
pub async fn ask(
    app: Data<App>,
    request: HttpRequest,
    idempotency_key: IdempotencyKey,
    user: ActingUser,
    Body(body): Body<Question>,
) -> Result<RawAnswer<NewTurn>, ApiError> {
    // A client that repeats its request after a broken connection goes on with the turn that it has begun.
    if let Some((turn, after)) = last_event(&request)
        && let Some(source) = find(&app, user.account.user, turn).await?
    {
        let reader = StreamReader::in_person(user);
        return go_on(&app, request, reader, turn, after, source).await;
    }
    body.check_message()?;
    let id = user.account.user;
    let session = body.session_of(id)?;
    if let Some(next_step) = gate(&app, &user).await? {
        return Ok(RawAnswer::new(gated(&app, next_step)));
    }
    let context = idempotency_key.asking(&app, &user.caller)?;
    let open = app.streams.open(user.caller.user_id())?;
    let chats = &app.write.chats;
    let asked = chats.ask(id, session, body.message, context).await?;
    begun(&app, request, id, asked, open).await
}

/// `POST /api/genie/turns/{turn}/continue`: a new turn that goes on with an interrupted one.
pub async fn continue_turn(
    app: Data<App>,
    request: HttpRequest,
    min_position: MinPosition,
    idempotency_key: IdempotencyKey,
    user: ActingUser,
    turn: Path<String>,
) -> Result<RawAnswer<NewTurn>, ApiError> {
    let continues = turn_id(&turn)?;
    // As for a question: a repeated request goes on with the turn that it has begun.
    if let Some((turn, after)) = last_event(&request)
        && turn != continues
        && let Some(source) = find(&app, user.account.user, turn).await?
    {
        let reader = StreamReader::in_person(user);
        return go_on(&app, request, reader, turn, after, source).await;
    }
    let id = user.account.user;
    min_position.wait(&app, "chats", Some(id)).await?;
    let session = app.reads.chats.session_of(id, continues).await?;
    let session = session.ok_or(ApiError::NotFound("turn"))?;
    let context = idempotency_key.asking(&app, &user.caller)?;
    let open = app.streams.open(user.caller.user_id())?;
    let chats = &app.write.chats;
    let asked = chats.continue_turn(id, session, continues, context).await?;
    begun(&app, request, id, asked, open).await
}

/// The stream of a turn that this request, or an earlier one with its key, began.
async fn begun(
    app: &Data<App>,
    request: HttpRequest,
    user: UserId,
    asked: StartedTurn,
    open: OpenStream,
) -> Result<RawAnswer<NewTurn>, ApiError> {
    let (turn, position) = (asked.turn, asked.position);
    let source = match asked.progress {
        Some(mut progress) => {
            let early = timeout(OPENS_AFTER, early_failure(&mut progress)).await;
            if let Ok(Some((failure, position))) = early {
                return Err(ApiError::Model {
                    failure,
                    turn: Some(turn),
                    position,
                });
            }
            Source::Live(progress)
        }
        None => earlier(app, user, turn, position).await?,
    };
    let continues = continued_by(app, user, turn, &source).await?;
    let stream = TurnStream::new(app.clone(), request, turn, user, source, 0, open);
    let stream = stream.continuing(continues);
    let response = sse::response()
        .insert_header(("Genie-Turn", turn.to_string()))
        .insert_header((response::POSITION, response::opaque(position)))
        .streaming(in_span(stream.events()));
    Ok(RawAnswer::new(response))
}

/// Where a started turn is read.
pub async fn source_of(app: &App, user: UserId, started: StartedTurn) -> Result<Source, ApiError> {
    match started.progress {
        Some(progress) => Ok(Source::Live(progress)),
        None => earlier(app, user, started.turn, started.position).await,
    }
}

/// Where a turn is read that an earlier request with the same key began.
async fn earlier(app: &App, user: UserId, turn: TurnId, position: u64) -> Result<Source, ApiError> {
    let wait = app.config.read_wait;
    app.reads.wait_for("chats", position, wait).await?;
    let found = find(app, user, turn).await?;
    found.ok_or(ApiError::NotFound("turn"))
}

/// The interrupted turn that this one goes on with.
async fn continued_by(
    app: &App,
    user: UserId,
    turn: TurnId,
    source: &Source,
) -> Result<Option<TurnId>, ApiError> {
    match source {
        Source::Live(progress) => Ok(progress.borrow().continues),
        Source::Stored => Ok(app.reads.chats.continued_by(user, turn).await?),
    }
}

/// Waits for the first sign of a turn. Returns its failure when that is the first sign, `None` when the stream is to
/// open.
async fn early_failure(progress: &mut watch::Receiver<TurnProgress>) -> Option<(Failure, u64)> {
    let is_sign = |progress: &TurnProgress| {
        !progress.text.is_empty()
            || progress.ended.is_some()
            || matches!(progress.stage, TurnStage::Queued { .. })
    };
    let progress = progress.wait_for(is_sign).await.ok()?;
    let ended = progress
        .ended
        .as_ref()
        .filter(|_| progress.text.is_empty())?;
    Some((ended.answer.failure.clone()?, ended.position))
}

/// The step that a user must take before chatting; `None` when the user may chat.
pub async fn gate(app: &App, user: &ActingUser) -> Result<Option<&'static str>, ApiError> {
    let is_open = |account: &AccountRow| {
        Onboarding::parse(&account.onboarding)
            .and_then(next_step)
            .is_none()
    };
    if !app.config.onboarding_gate || user.caller.is_admin() || is_open(&user.account) {
        return Ok(None);
    }
    // The account row may be old, above all just after a start. So only the facts may send a user away.
    match app.write.onboarding.step(user.account.user).await {
        Ok(step) => Ok(step.and_then(next_step)),
        Err(WriteError::Forgotten) => Err(ApiError::NoCaller),
        Err(error) => Err(error.into()),
    }
}

fn next_step(onboarding: Onboarding) -> Option<&'static str> {
    match onboarding {
        Onboarding::ExtensionInstall => {
            Some("Welcome! Install the browser extension first; then I can help you.")
        }
        Onboarding::DataCollection => Some(
            "Almost there: let the extension collect your data, or upload it; then I can help you.",
        ),
        Onboarding::Processing | Onboarding::Complete => None,
    }
}

/// Answers one whole text and the end of a stream. Nothing reaches the model.
fn gated(app: &App, next_step: &str) -> HttpResponse {
    let turn = TurnId(app.log.clock().new_uuid());
    let text = TurnStreamEvent::whole_text(turn, next_step.to_owned());
    let end = TurnStreamEvent::end(turn, false, "completed", None, &TurnMetrics::default());
    let events = [
        sse::retry(),
        sse::event(&format!("{turn}:1"), &text),
        sse::event(&format!("{turn}:2"), &end),
    ];
    sse::response()
        .insert_header(("Genie-Turn", turn.to_string()))
        .body(events.concat())
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ResumeQuery {
    /// The place that the reader has reached: the n of its last event. `Last-Event-ID` takes precedence.
    after: Option<u64>,
}

/// `GET /api/genie/turns/{turn}/stream`: from any device, while the turn runs and after its end.
pub async fn resume(
    app: Data<App>,
    request: HttpRequest,
    min_position: MinPosition,
    reader: StreamReader<TurnStreams>,
    turn: Path<String>,
    Query(query): Query<ResumeQuery>,
    Query(_): Query<TicketQuery>,
) -> Result<RawAnswer<TurnEvents>, ApiError> {
    let turn = turn_id(&turn)?;
    let is_given = request
        .headers()
        .get(sse::LAST_EVENT_ID)
        .is_some_and(|last| !last.is_empty());
    let after = match last_event(&request) {
        Some((of, after)) if of == turn => after,
        _ if is_given => {
            return Err(ApiError::field(
                "`Last-Event-ID` must be the id of an event of this turn",
            ));
        }
        _ => query.after.unwrap_or(0),
    };
    let id = reader.user.account.user;
    let source = find_after(&app, &min_position, id, turn).await?;
    let ended = match &source {
        Source::Stored if reader.has_ticket() => app.reads.chats.ended_at(id, turn).await?,
        _ => None,
    };
    reader.may_read(turn.0, ended, app.log.clock().now())?;
    go_on(&app, request, reader, turn, after, source).await
}

/// `POST /api/genie/turns/{turn}/ticket`
pub async fn ticket(
    app: Data<App>,
    min_position: MinPosition,
    user: UserCaller,
    turn: Path<String>,
) -> Result<Answer<StreamTicketAnswer>, ApiError> {
    let turn = turn_id(&turn)?;
    let owner = user.account.user;
    find_after(&app, &min_position, owner, turn).await?;
    Ok(Answer(StreamTicketAnswer::new::<TurnStreams>(
        &app, turn.0, owner, user.login,
    )))
}

/// The turn and the place that `Last-Event-ID` names. The proof of a ticket may follow.
fn last_event(request: &HttpRequest) -> Option<(TurnId, u64)> {
    let last = request.headers().get(sse::LAST_EVENT_ID)?.to_str().ok()?;
    let (turn, after) = last.split_once(':')?;
    let after = stream_ticket::without_proof(after);
    Some((turn.parse().ok()?, after.parse().ok()?))
}

/// The stream of a turn from a place on; 204 after its last event.
async fn go_on<Kind>(
    app: &Data<App>,
    request: HttpRequest,
    reader: StreamReader<TurnStreams>,
    turn: TurnId,
    after: u64,
    source: Source,
) -> Result<RawAnswer<Kind>, ApiError> {
    let id = reader.user.account.user;
    // A reader that has seen something may have seen all of it.
    if after > 0 && matches!(source, Source::Stored) {
        let chats = app.reads.chats.clone();
        let answer = long_pages::make(async move { chats.answer(id, turn).await }).await?;
        let ended_at = answer.map(|answer| stream::last_id(&answer.content));
        if ended_at.is_some_and(|last| after >= last) {
            return Ok(RawAnswer::new(HttpResponse::NoContent().finish()));
        }
    }
    let open = app.streams.open(reader.user.caller.user_id())?;
    // Only the first event names it.
    let continues = match after {
        0 => continued_by(app, id, turn, &source).await?,
        _ => None,
    };
    let stream = TurnStream::new(app.clone(), request, turn, id, source, after, open);
    let stream = stream.continuing(continues).read_by(reader);
    let response = sse::response()
        .insert_header(("Genie-Turn", turn.to_string()))
        .streaming(in_span(stream.events()));
    Ok(RawAnswer::new(response))
}

/// Finds a turn of this user: it runs here, or the read side knows it.
async fn find(app: &App, user: UserId, turn: TurnId) -> Result<Option<Source>, ApiError> {
    if let Some(progress) = app.write.chats.progress(turn, user) {
        return Ok(Some(Source::Live(progress)));
    }
    let is_known = app.reads.chats.has_turn(user, turn).await?;
    Ok(is_known.then_some(Source::Stored))
}

/// The same, for a request that may name the position that it has seen.
async fn find_after(
    app: &App,
    min_position: &MinPosition,
    user: UserId,
    turn: TurnId,
) -> Result<Source, ApiError> {
    if let Some(progress) = app.write.chats.progress(turn, user) {
        return Ok(Source::Live(progress));
    }
    min_position.wait(app, "chats", Some(user)).await?;
    let found = find(app, user, turn).await?;
    found.ok_or(ApiError::NotFound("turn"))
}

/// `DELETE /api/genie/turns/{turn}`: stops the turn at the model server, too. Stopping a turn that has ended is no
/// error.
pub async fn stop(
    app: Data<App>,
    min_position: MinPosition,
    user: ActingUser,
    turn: Path<String>,
) -> Result<Answer<StoppedTurn>, ApiError> {
    let turn = turn_id(&turn)?;
    let id = user.account.user;
    let source = find_after(&app, &min_position, id, turn).await?;
    app.write.chats.stop(turn).await?;
    if let Source::Live(progress) = source {
        let _ = timeout(OPENS_AFTER * 4, ended(progress)).await; // the turn stops either way
    }
    Ok(Answer(StoppedTurn {
        turn,
        stopped: true,
    }))
}

async fn ended(mut progress: watch::Receiver<TurnProgress>) {
    let _ = progress.wait_for(|progress| progress.ended.is_some()).await; // a closed feed has ended, too
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SearchQuery {
    /// Only sessions whose title contains this, in upper or lower case. At most 200 characters; blank is none.
    #[param(max_length = 200)]
    search: Option<String>,
}

impl SearchQuery {
    /// The wanted part of a title, in the form in which titles are compared.
    fn wanted(&self) -> Result<Option<String>, ApiError> {
        let text = self.search.as_deref().unwrap_or_default();
        if text.chars().count() > MAX_TITLE {
            return Err(ApiError::field(format!(
                "`search` must have at most {MAX_TITLE} characters"
            )));
        }
        let wanted = typed_text::cleaned_lower_case(text);
        Ok(Some(wanted).filter(|wanted| !wanted.is_empty()))
    }
}

/// `GET /api/genie/sessions`
pub async fn sessions(
    app: Data<App>,
    min_position: MinPosition,
    user: ActingUser,
    Query(page): Query<PageQuery>,
    Query(search): Query<SearchQuery>,
) -> Result<ListPage<ChatSession>, ApiError> {
    let id = user.account.user;
    let limit = page.limit()?;
    let after = page.after_pair()?;
    let wanted = search.wanted()?;
    min_position.wait(&app, "chats", Some(id)).await?;
    let rows = match wanted {
        None => app.reads.chats.sessions(id, after, limit + 1).await?,
        Some(wanted) => {
            let chats = app.reads.chats.clone();
            let found = async move { found_sessions(&chats, id, after, &wanted, limit + 1).await };
            long_pages::make(found).await?
        }
    };
    ListPage::of(
        &Paged::cut(rows, limit as usize),
        |row| format!("{}/{}", row.updated_at.0, row.id),
        ChatSession::from,
    )
}

/// The sessions with these words in their titles, after a place. Titles are sealed, so each is opened and looked at. A
/// user has a bounded number of them, and nobody else's are read.
async fn found_sessions(
    chats: &ChatReader,
    user: UserId,
    mut after: Option<(i64, String)>,
    wanted: &str,
    limit: i64,
) -> Result<Vec<ChatRow>, ApiError> {
    let mut found = Vec::new();
    loop {
        let rows = chats.sessions(user, after, SEARCHED_AT_ONCE).await?;
        let is_last = (rows.len() as i64) < SEARCHED_AT_ONCE;
        after = rows.last().map(|row| (row.updated_at.0, row.id.clone()));
        let matching = rows
            .into_iter()
            .filter(|row| typed_text::cleaned_lower_case(&row.title).contains(wanted));
        found.extend(matching.take(limit as usize - found.len()));
        if is_last || found.len() as i64 == limit {
            return Ok(found);
        }
    }
}

#[derive(Deserialize, ToSchema)]
pub struct RenameRequest {
    /// 1 to 200 characters, not blank. Null for the first words of the first question again.
    #[schema(max_length = 200, nullable)]
    title: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct RenamedSession {
    /// The session's name.
    id: String,
    /// The user's own title; null when it has none.
    #[schema(required)]
    title: Option<String>,
}

/// `PATCH /api/genie/sessions/{session}`
pub async fn rename(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    user: ActingUser,
    session: Path<String>,
    PatchBody { body, cleared }: PatchBody<RenameRequest>,
) -> Result<Written<RenamedSession>, ApiError> {
    let context = idempotency_key.asking(&app, &user.caller)?;
    let title = match body.title {
        Some(title) => Some(title_of(&title)?),
        None if cleared.iter().any(|field| field == "title") => None,
        None => return Err(bad_title()),
    };
    let id = user.account.user;
    let (name, session) = session_of(&app, id, &session);
    let done = app.write.chats.rename(id, session, title.clone(), context);
    let done = done.await?;
    Ok(Written(RenamedSession { id: name, title }, done.position))
}

/// A title as people see it, on one line.
fn title_of(text: &str) -> Result<String, ApiError> {
    let title = typed_text::cleaned(text);
    let is_good = (1..=MAX_TITLE).contains(&title.chars().count());
    if !is_good || title.chars().any(char::is_control) {
        return Err(bad_title());
    }
    Ok(title)
}

fn bad_title() -> ApiError {
    ApiError::field(format!(
        "`title` must have 1 to {MAX_TITLE} characters, not be blank, and have no control characters"
    ))
}

#[derive(Serialize, ToSchema)]
pub struct DeletedSession {
    /// The session's name.
    id: String,
    deleted: bool,
}

/// `DELETE /api/genie/sessions/{session}`: its running turns stop.
pub async fn delete(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    user: ActingUser,
    session: Path<String>,
) -> Result<Written<DeletedSession>, ApiError> {
    let context = idempotency_key.asking(&app, &user.caller)?;
    let id = user.account.user;
    let (name, session) = session_of(&app, id, &session);
    let done = app.write.chats.remove(id, session, context).await?;
    let deleted = DeletedSession {
        id: name,
        deleted: true,
    };
    Ok(Written(deleted, done.position))
}

/// The session of this user that a path names, and its name.
fn session_of(app: &App, user: UserId, path: &str) -> (String, SessionId) {
    let name = typed_text::cleaned(path);
    let id = app.log.hashes().session(user, &name);
    (name, id)
}

/// `GET /api/genie/sessions/{session}/messages`: oldest first.
pub async fn messages(
    app: Data<App>,
    min_position: MinPosition,
    user: ActingUser,
    session: Path<String>,
    Query(page): Query<PageQuery>,
) -> Result<ListPage<Message>, ApiError> {
    let id = user.account.user;
    let limit = page.limit()?;
    min_position.wait(&app, "chats", Some(id)).await?;
    let (_, session) = session_of(&app, id, &session);
    let after = page.after_number()?.unwrap_or(0);
    let chats = app.reads.chats.clone();
    long_pages::make(async move {
        let rows = chats.messages(id, session, after, limit).await?;
        let rows = rows.ok_or(ApiError::NotFound("session"))?;
        ListPage::of(&rows, |row| row.position.to_string(), Message::from)
    })
    .await
}

fn turn_id(text: &str) -> Result<TurnId, ApiError> {
    text.parse().map_err(|_| ApiError::NotFound("turn"))
}
