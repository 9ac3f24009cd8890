//! OpenAI's dialect (docs/api.md, OpenAI's dialect): a turn by `POST /v1/chat/completions`, and the list of models. It is
//! framing alone. The turn, its journal and its commands are those of every chat.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Bytes, Data, Path},
};
use async_stream::stream;
use futures_util::Stream;
use genie_actors::chats::PromptedTurn;
use genie_events::{
    TurnId,
    chat::{FinishReason, ToolCall},
};
use serde::Serialize;
use tokio_util::sync::DropGuard;
use tracing::warn;
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        body::Body,
        caller::ActingUser,
        chats::{
            gate, source_of,
            stream::{End, TurnStream, View},
        },
        error::{ApiError, OpenAiError, OpenAiFailure},
        idempotency::without_key,
        request::in_span,
        response::{self, RawAnswer},
        sse,
        words::{
            self, ChunkObject, CompletionObject, FunctionWord, GenieWord, ListObject, ModelObject,
        },
    },
};

mod request;
pub use request::CompletionRequest;

/// The last event of a stream.
const DONE: &[u8] = b"data: [DONE]\n\n";

/// The whole answer.
#[derive(Serialize, ToSchema)]
#[schema(as = ChatCompletion)]
pub struct Completion<'a> {
    choices: [CompletionChoice<'a>; 1],
    /// In seconds since 1970.
    created: i64,
    id: String,
    model: &'a str,
    object: CompletionObject,
    usage: CompletionUsage,
}

#[derive(Serialize, ToSchema)]
struct CompletionChoice<'a> {
    #[schema(value_type = words::FinishReason)]
    finish_reason: &'static str,
    index: u32,
    message: CompletedMessage<'a>,
}

#[derive(Serialize, ToSchema)]
struct CompletedMessage<'a> {
    /// Null when the answer is calls alone.
    #[schema(required)]
    content: Option<&'a str>,
    role: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    tool_calls: Vec<CompletionCall<'a>>,
}

/// A call of one of the client's functions.
#[derive(Serialize, ToSchema)]
struct CompletionCall<'a> {
    function: CompletionFunction<'a>,
    id: &'a str,
    /// The call's place among the calls of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    index: Option<usize>,
    r#type: FunctionWord,
}

#[derive(Serialize, ToSchema)]
struct CompletionFunction<'a> {
    /// A JSON object, as text.
    arguments: String,
    name: &'a str,
}

/// The model server's count of tokens, 0 where it told none.
#[derive(Clone, Copy, Default, Serialize, ToSchema)]
struct CompletionUsage {
    completion_tokens: u64,
    prompt_tokens: u64,
    total_tokens: u64,
}

/// An event of a stream.
#[derive(Serialize, ToSchema)]
#[schema(as = ChatCompletionChunk)]
pub struct CompletionChunk<'a> {
    /// One, but none in the event with the usage.
    choices: Vec<ChunkChoice<'a>>,
    /// In seconds since 1970.
    created: i64,
    id: &'a str,
    model: &'a str,
    object: ChunkObject,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<CompletionUsage>)]
    usage: Option<Option<CompletionUsage>>,
}

#[derive(Serialize, ToSchema)]
struct ChunkChoice<'a> {
    delta: ChunkDelta<'a>,
    /// Null before the end.
    #[schema(required, value_type = Option<words::FinishReason>)]
    finish_reason: Option<&'static str>,
    index: u32,
}

#[derive(Default, Serialize, ToSchema)]
struct ChunkDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    tool_calls: Vec<CompletionCall<'a>>,
}

/// The models that may be asked for.
#[derive(Serialize, ToSchema)]
pub struct ModelCatalogue {
    data: Vec<CatalogueModel>,
    object: ListObject,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Model)]
pub struct CatalogueModel {
    /// 0: when the model was made is not known.
    created: i64,
    id: String,
    object: ModelObject,
    owned_by: GenieWord,
}

impl CatalogueModel {
    fn new(id: &str) -> Self {
        Self {
            created: 0,
            id: id.to_owned(),
            object: ModelObject,
            owned_by: GenieWord,
        }
    }
}

/// A JSON answer of OpenAI's own, without genie's two flags.
fn raw<T: Serialize>(answer: &T) -> RawAnswer<T> {
    RawAnswer::new(HttpResponse::Ok().json(answer))
}

/// `GET /v1/models`
pub async fn models(
    app: Data<App>,
    user: Result<ActingUser, ApiError>,
) -> Result<RawAnswer<ModelCatalogue>, OpenAiError> {
    user?;
    let names = app.config.chat_models.iter();
    Ok(raw(&ModelCatalogue {
        data: names.map(|name| CatalogueModel::new(name)).collect(),
        object: ListObject,
    }))
}

/// `GET /v1/models/{id}`
pub async fn model(
    app: Data<App>,
    user: Result<ActingUser, ApiError>,
    id: Path<String>,
) -> Result<RawAnswer<CatalogueModel>, OpenAiError> {
    user?;
    Ok(raw(&CatalogueModel::new(listed(&app, &id)?)))
}

/// The model of this name. Names are compared as Ollama does.
fn listed<'a>(app: &'a App, wanted: &str) -> Result<&'a str, OpenAiError> {
    let bare = |name: &'a str| name.strip_suffix(":latest").unwrap_or(name);
    let wanted = wanted.strip_suffix(":latest").unwrap_or(wanted);
    let mut names = app.config.chat_models.iter();
    let found = names.find(|name| bare(name).eq_ignore_ascii_case(wanted));
    found.map(String::as_str).ok_or(OpenAiError::NoModel)
}

/// The answer to `POST /v1/chat/completions`, whole or as a stream.
pub enum CompletionAnswer {}

/// `POST /v1/chat/completions`. The turn stops when its client goes away.
pub async fn complete(
    app: Data<App>,
    request: HttpRequest,
    user: Result<ActingUser, ApiError>,
    body: Result<Body<CompletionRequest>, ApiError>,
) -> Result<RawAnswer<CompletionAnswer>, OpenAiError> {
    let user = user?;
    let Body(body) = body?;
    let id = user.account.user;
    let model = listed(&app, &body.model)?.to_owned();
    let is_stream = body.stream == Some(true);
    let told_usage = is_stream && body.includes_usage();
    let session = body.session()?;
    let given = body.conversation(model.clone())?;
    let mut frame = CompletionFrame {
        id: String::new(),
        created: app.log.clock().now().0 / 1_000_000,
        model,
        told_usage,
    };
    if let Some(next_step) = gate(&app, &user).await? {
        frame.id = frame_id(TurnId(app.log.clock().new_uuid()));
        return Ok(RawAnswer::new(frame.of_text(next_step, is_stream)));
    }
    let context = without_key(&request, &user.caller);
    let open = app.streams.open(user.caller.user_id())?;
    let PromptedTurn { started, stop } =
        app.write.chats.prompt(id, session, given, context).await?;
    let (turn, position) = (started.turn, started.position);
    frame.id = frame_id(turn);
    let source = source_of(&app, id, started).await?;
    let mut turn_stream = TurnStream::new(app, request, turn, id, source, 0, open);
    let mut builder = if is_stream {
        sse::response()
    } else {
        HttpResponse::Ok()
    };
    builder
        .insert_header(("Genie-Turn", turn.to_string()))
        .insert_header((response::POSITION, response::opaque(position)));
    if !is_stream {
        let (text, end) = whole(&mut turn_stream).await?;
        end.check(turn)?;
        drop(stop);
        return Ok(RawAnswer::new(builder.json(frame.whole(&text, &end))));
    }
    // Until something was said a failure is a status.
    let first = turn_stream.news().await?.ok_or(ApiError::NoCaller)?;
    let first = first.or_early_failure(turn)?;
    let events = frame.events(turn_stream, first, stop);
    Ok(RawAnswer::new(builder.streaming(in_span(events))))
}

/// The whole text of a turn, and its end.
async fn whole(turn: &mut TurnStream) -> Result<(String, End), ApiError> {
    let mut text = String::new();
    while let Some(news) = turn.news().await? {
        text.push_str(&news.fresh);
        if let Some(end) = news.ended {
            return Ok((text, end));
        }
    }
    Err(ApiError::NoCaller)
}

fn frame_id(turn: TurnId) -> String {
    format!("chatcmpl-{turn}")
}

/// What all parts of an answer have in common.
struct CompletionFrame {
    id: String,
    created: i64,
    model: String,
    /// True when the client asked for the usage.
    told_usage: bool,
}

impl CompletionFrame {
    fn whole<'a>(&'a self, text: &'a str, end: &'a End) -> Completion<'a> {
        let usage = CompletionUsage::of(end);
        self.completion(text, &end.tool_calls, finish_reason(end), usage)
    }

    fn completion<'a>(
        &'a self,
        text: &'a str,
        calls: &'a [ToolCall],
        finish_reason: &'static str,
        usage: CompletionUsage,
    ) -> Completion<'a> {
        let message = CompletedMessage {
            content: Some(text).filter(|text| !text.is_empty() || calls.is_empty()),
            role: "assistant",
            tool_calls: calls.iter().map(CompletionCall::new).collect(),
        };
        Completion {
            choices: [CompletionChoice {
                finish_reason,
                index: 0,
                message,
            }],
            created: self.created,
            id: self.id.clone(),
            model: &self.model,
            object: CompletionObject,
            usage,
        }
    }

    /// A text that no model wrote, as a whole answer.
    fn of_text(&self, text: &str, is_stream: bool) -> HttpResponse {
        if !is_stream {
            let answer = self.completion(text, &[], "stop", CompletionUsage::default());
            return HttpResponse::Ok().json(answer);
        }
        let mut events = vec![self.begin(), self.text(text)];
        events.extend(self.end("stop", CompletionUsage::default()));
        sse::response().body(events.concat())
    }

    /// The events of a turn, to its end. It stops when its client goes away.
    fn events(
        self,
        mut turn: TurnStream,
        first: View,
        stop: DropGuard,
    ) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
        stream! {
            let _stop = stop;
            yield Ok(self.begin());
            let mut news = Some(first);
            while let Some(view) = news.take() {
                if view.fresh.is_empty() && view.ended.is_none() {
                    yield Ok(sse::comment());
                }
                if !view.fresh.is_empty() {
                    // By itself: what stands in a `yield` is held until the client takes it.
                    let event = self.text(&view.fresh);
                    yield Ok(event);
                }
                if let Some(end) = view.ended {
                    for event in self.closing(&end) {
                        yield Ok(event);
                    }
                    return;
                }
                news = match turn.news().await {
                    Ok(news) => news,
                    Err(error) => {
                        warn!(%error, turn.id = %turn.turn(), "chat stream: broke off; its turn stops");
                        None
                    }
                };
            }
        }
    }

    /// The events after the last text.
    fn closing(&self, end: &End) -> Vec<Bytes> {
        if let Some(failure) = &end.failure {
            let failed = sse::data(&OpenAiFailure::of_turn(failure));
            return vec![failed, Bytes::from_static(DONE)];
        }
        let calls = end.tool_calls.iter().enumerate();
        let mut events: Vec<Bytes> = calls.map(|(n, call)| self.call(n, call)).collect();
        events.extend(self.end(finish_reason(end), CompletionUsage::of(end)));
        events
    }

    fn begin(&self) -> Bytes {
        self.delta(ChunkDelta {
            content: Some(""),
            role: Some("assistant"),
            tool_calls: vec![],
        })
    }

    fn text(&self, text: &str) -> Bytes {
        self.delta(ChunkDelta {
            content: Some(text),
            ..ChunkDelta::default()
        })
    }

    fn call(&self, n: usize, call: &ToolCall) -> Bytes {
        self.delta(ChunkDelta {
            tool_calls: vec![CompletionCall {
                index: Some(n),
                ..CompletionCall::new(call)
            }],
            ..ChunkDelta::default()
        })
    }

    fn delta(&self, delta: ChunkDelta<'_>) -> Bytes {
        self.chunk(Some((delta, None)), None)
    }

    fn end(&self, finish_reason: &'static str, usage: CompletionUsage) -> Vec<Bytes> {
        let mut events = vec![self.chunk(Some((ChunkDelta::default(), Some(finish_reason))), None)];
        if self.told_usage {
            events.push(self.chunk(None, Some(usage)));
        }
        events.push(Bytes::from_static(DONE));
        events
    }

    fn chunk(
        &self,
        choice: Option<(ChunkDelta<'_>, Option<&'static str>)>,
        usage: Option<CompletionUsage>,
    ) -> Bytes {
        let choice = choice.map(|(delta, finish_reason)| ChunkChoice {
            delta,
            finish_reason,
            index: 0,
        });
        sse::data(&CompletionChunk {
            choices: choice.into_iter().collect(),
            created: self.created,
            id: &self.id,
            model: &self.model,
            object: ChunkObject,
            usage: self.told_usage.then_some(usage),
        })
    }
}

impl<'a> CompletionCall<'a> {
    fn new(call: &'a ToolCall) -> Self {
        Self {
            function: CompletionFunction {
                arguments: serde_json::to_string(&call.arguments)
                    .expect("an object with texts for names is JSON"),
                name: &call.name,
            },
            id: &call.id,
            index: None,
            r#type: FunctionWord,
        }
    }
}

impl CompletionUsage {
    fn of(end: &End) -> Self {
        let prompt_tokens = end.metrics.prompt_tokens.unwrap_or(0);
        let completion_tokens = end.metrics.answer_tokens.unwrap_or(0);
        Self {
            completion_tokens,
            prompt_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
        }
    }
}

/// A turn that its user stopped ends as `stop`, too.
fn finish_reason(end: &End) -> &'static str {
    end.metrics
        .finish_reason
        .map_or("stop", FinishReason::as_str)
}
