//! The dialect of AG-UI 1.0 (docs/api.md, AG-UI): `POST /api/genie/agui` runs a turn and tells it in AG-UI's events. It is
//! framing alone. The turn, its journal and its commands are those of every chat.

use actix_web::{
    HttpRequest,
    web::{Bytes, Data},
};
use async_stream::stream;
use futures_util::Stream;
use genie_actors::{
    Caller, CommandContext,
    chats::{
        PromptedTurn,
        given::{GivenConversation, GivenMessage, Sampling},
    },
};
use genie_events::{TurnId, chat::ToolCall, typed_text};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio_util::sync::DropGuard;
use tracing::warn;
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        body::Body,
        caller::ActingUser,
        chats::{
            MAX_SESSION_NAME, gate, source_of,
            stream::{End, TurnStream},
        },
        error::ApiError,
        idempotency::without_key,
        request::in_span,
        response::{self, RawAnswer},
        sse,
    },
};

/// The longest id of a run, in bytes.
const MAX_RUN_ID: usize = 255;
/// The most tools of a page.
const MAX_TOOLS: usize = 128;

#[derive(Deserialize, ToSchema)]
#[schema(as = RunAgentInput)]
pub struct RunInput {
    /// The session that keeps the turn.
    #[serde(rename = "threadId")]
    #[schema(min_length = 1, max_length = 200)]
    thread: String,
    /// The same run again tells the same turn.
    #[serde(rename = "runId")]
    #[schema(min_length = 1, max_length = 255)]
    run: String,
    /// What the model gets, after the server's system prompt. When it is longer than the model's context, the oldest messages are left out.
    messages: Vec<RunMessage>,
    /// The page's own tools. A run that calls them ends; their results come back in the messages of the next run.
    #[schema(value_type = Option<Vec<Object>>, max_items = 128)]
    tools: Option<Vec<PageTool>>,
    /// What the model should know beside the messages.
    context: Option<Vec<RunContext>>,
    /// Empty: no run of this server waits for an answer.
    #[schema(value_type = Option<Vec<Object>>)]
    resume: Option<Vec<Value>>,
}

#[derive(Deserialize, ToSchema)]
struct RunMessage {
    /// `user`, `assistant`, `system`, `developer` or `tool`. Messages of other roles are left out.
    role: String,
    /// A text, or a list of parts of the types `text` and `image`.
    content: Option<Value>,
    #[serde(rename = "toolCalls")]
    calls: Option<Vec<RunCall>>,
    #[serde(rename = "toolCallId")]
    call: Option<String>,
}

#[derive(Deserialize, ToSchema)]
struct RunCall {
    id: String,
    function: RunFunction,
}

#[derive(Deserialize, ToSchema)]
struct RunFunction {
    name: String,
    /// A JSON object, as text or as itself. Anything else counts as an empty one.
    arguments: Option<Value>,
}

#[derive(Deserialize, ToSchema)]
struct PageTool {
    name: String,
    description: Option<String>,
    /// A JSON Schema.
    #[schema(value_type = Option<Object>)]
    parameters: Option<Value>,
}

#[derive(Deserialize, ToSchema)]
struct RunContext {
    description: String,
    value: String,
}

/// The `data:` line of one event. `RUN_FINISHED` or `RUN_ERROR` is the last.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(as = AgUiEvent)]
pub enum RunEvent {
    RunStarted {
        #[serde(rename = "protocolVersion")]
        protocol_version: &'static str,
        #[serde(rename = "runId")]
        run: String,
        #[serde(rename = "threadId")]
        thread: String,
    },
    TextMessageStart {
        #[serde(rename = "messageId")]
        message: String,
        role: &'static str,
    },
    TextMessageContent {
        delta: String,
        #[serde(rename = "messageId")]
        message: String,
    },
    TextMessageEnd {
        #[serde(rename = "messageId")]
        message: String,
    },
    ToolCallStart {
        #[serde(rename = "parentMessageId")]
        message: String,
        #[serde(rename = "toolCallId")]
        call: String,
        #[serde(rename = "toolCallName")]
        tool: String,
    },
    ToolCallArgs {
        /// A JSON object, as text.
        delta: String,
        #[serde(rename = "toolCallId")]
        call: String,
    },
    ToolCallEnd {
        #[serde(rename = "toolCallId")]
        call: String,
    },
    RunFinished {
        outcome: RunOutcome,
        #[serde(rename = "runId")]
        run: String,
        #[serde(rename = "threadId")]
        thread: String,
        /// The model server's count of tokens, as far as it told it.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[schema(required = false)]
        usage: Vec<RunUsage>,
    },
    RunError {
        /// For programs.
        code: String,
        /// For people.
        message: String,
    },
}

#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RunOutcome {
    Success {
        /// The calls of the page's tools that the run ended with.
        #[serde(rename = "pendingToolCallIds", skip_serializing_if = "Vec::is_empty")]
        #[schema(required = false)]
        pending: Vec<String>,
    },
    /// The user stopped the turn.
    Cancelled,
}

#[derive(Serialize, ToSchema)]
pub struct RunUsage {
    #[serde(rename = "inputTokens", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    input: Option<u64>,
    model: String,
    #[serde(rename = "outputTokens", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    output: Option<u64>,
}

/// The events of a run.
pub enum RunEvents {}

/// `POST /api/genie/agui`. The turn stops when the client that asked for it goes away.
pub async fn run(
    app: Data<App>,
    request: HttpRequest,
    user: ActingUser,
    Body(body): Body<RunInput>,
) -> Result<RawAnswer<RunEvents>, ApiError> {
    let id = user.account.user;
    let run = RunIds {
        thread: body.thread.clone(),
        run: body.run.clone(),
    };
    let session = body.checked_session()?;
    let given = body.conversation(app.config.ollama_model.clone())?;
    if let Some(next_step) = gate(&app, &user).await? {
        let turn = TurnId(app.log.clock().new_uuid());
        return Ok(RawAnswer::new(
            sse::response().body(run.of_text(turn, next_step).concat()),
        ));
    }
    let context = run.context(&app, &request, &user.caller);
    let open = app.streams.open(user.caller.user_id())?;
    let PromptedTurn { started, stop } =
        app.write.chats.prompt(id, session, given, context).await?;
    let (turn, position) = (started.turn, started.position);
    let source = source_of(&app, id, started).await?;
    let turn_stream = TurnStream::new(app, request, turn, id, source, 0, open);
    let response = sse::response()
        .insert_header(("Genie-Turn", turn.to_string()))
        .insert_header((response::POSITION, response::opaque(position)))
        .streaming(in_span(run.events(turn_stream, stop)));
    Ok(RawAnswer::new(response))
}

impl RunInput {
    fn checked_session(&self) -> Result<String, ApiError> {
        let session = typed_text::cleaned(&self.thread);
        if session.is_empty() || session.chars().count() > MAX_SESSION_NAME {
            return Err(ApiError::field(format!(
                "`threadId` must have 1 to {MAX_SESSION_NAME} characters"
            )));
        }
        if self.run.is_empty() || self.run.len() > MAX_RUN_ID {
            return Err(ApiError::field(format!(
                "`runId` must have 1 to {MAX_RUN_ID} bytes"
            )));
        }
        if self
            .resume
            .as_ref()
            .is_some_and(|resume| !resume.is_empty())
        {
            return Err(ApiError::field(
                "`resume` must be empty: no run of this server waits for an answer",
            ));
        }
        Ok(session)
    }

    fn conversation(self, model: String) -> Result<GivenConversation, ApiError> {
        let mut messages = Vec::with_capacity(self.messages.len());
        for (n, message) in self.messages.into_iter().enumerate() {
            messages.push(message.read(n)?);
        }
        if messages.is_empty() {
            return Err(ApiError::field("`messages` must have at least one message"));
        }
        let tools = self.tools.unwrap_or_default();
        if tools.len() > MAX_TOOLS {
            return Err(ApiError::field(format!(
                "`tools` must have at most {MAX_TOOLS} items"
            )));
        }
        let context = self.context.unwrap_or_default().into_iter();
        let context = context.map(|one| format!("{}: {}", one.description, one.value));
        Ok(GivenConversation {
            model,
            context: context.collect(),
            messages,
            tools: tools.into_iter().map(PageTool::for_model).collect(),
            format: None,
            sampling: Sampling::default(),
            answer_tokens: None,
        })
    }
}

impl PageTool {
    fn for_model(self) -> Value {
        let parameters = self.parameters.filter(Value::is_object);
        json!({"type": "function", "function": {
            "name": self.name,
            "description": self.description.unwrap_or_default(),
            "parameters": parameters.unwrap_or_else(|| json!({"type": "object", "properties": {}})),
        }})
    }
}

impl RunMessage {
    fn read(self, n: usize) -> Result<GivenMessage, ApiError> {
        let (text, images) = content(self.content.unwrap_or_default(), n)?;
        Ok(match self.role.as_str() {
            "system" | "developer" => GivenMessage::System(text),
            "user" => GivenMessage::User { text, images },
            "assistant" => {
                let calls = self.calls.unwrap_or_default().into_iter();
                let calls = calls.map(|call| ToolCall {
                    id: call.id,
                    name: call.function.name,
                    arguments: object(call.function.arguments),
                });
                GivenMessage::Assistant {
                    text,
                    calls: calls.collect(),
                }
            }
            "tool" => GivenMessage::Result {
                call: self.call.ok_or_else(|| {
                    ApiError::field(format!("`messages[{n}].toolCallId` is missing"))
                })?,
                text,
            },
            // What the page showed beside the conversation, and thoughts.
            _ => GivenMessage::Left,
        })
    }
}

/// Arguments as an object, whatever they are.
fn object(arguments: Option<Value>) -> Map<String, Value> {
    match arguments {
        Some(Value::Object(fields)) => fields,
        Some(Value::String(text)) => serde_json::from_str(&text).unwrap_or_default(),
        _ => Map::new(),
    }
}

/// The text of a message, and its pictures in base64.
fn content(content: Value, n: usize) -> Result<(String, Vec<String>), ApiError> {
    let parts = match content {
        Value::String(text) => return Ok((text, vec![])),
        Value::Array(parts) => parts,
        // An activity's content is an object; it is left out.
        _ => return Ok((String::new(), vec![])),
    };
    let mut texts = Vec::new();
    let mut images = Vec::new();
    for (p, part) in parts.iter().enumerate() {
        match (part["type"].as_str(), part["source"]["type"].as_str()) {
            (Some("text"), _) => texts.push(part["text"].as_str().unwrap_or_default()),
            (Some("image"), Some("data")) => {
                images.push(
                    part["source"]["value"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned(),
                );
            }
            _ => {
                return Err(ApiError::field(format!(
                    "`messages[{n}].content[{p}]` must be a text, or a picture with its data"
                )));
            }
        }
    }
    Ok((texts.join("\n\n"), images))
}

/// The client's names of a run.
struct RunIds {
    thread: String,
    run: String,
}

impl RunIds {
    /// The run's id is its key: the same run again is the same turn.
    fn context(&self, app: &App, request: &HttpRequest, caller: &Caller) -> CommandContext {
        let hashes = app.log.hashes();
        let asked = [self.thread.as_str(), &self.run];
        let key = hashes.request(&caller.scope(), "POST /api/genie/agui", &self.run, &asked);
        CommandContext {
            key: Some(key),
            ..without_key(request, caller)
        }
    }

    /// The events of a turn, to its end.
    fn events(
        self,
        mut turn: TurnStream,
        stop: DropGuard,
    ) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
        stream! {
            let _stop = stop;
            let message = turn.turn().to_string();
            let mut is_open = false;
            yield Ok(sse::data(&self.started()));
            loop {
                let view = match turn.news().await {
                    Ok(Some(view)) => view,
                    Ok(None) => return,
                    Err(error) => {
                        warn!(%error, turn.id = message, "chat stream: broke off; its turn stops");
                        return;
                    }
                };
                if view.fresh.is_empty() && view.ended.is_none() {
                    yield Ok(sse::comment());
                }
                if !view.fresh.is_empty() && !is_open {
                    is_open = true;
                    yield Ok(sse::data(&begin(&message)));
                }
                if !view.fresh.is_empty() {
                    let text = RunEvent::TextMessageContent { delta: view.fresh, message: message.clone() };
                    // By itself: what stands in a `yield` is held until the client takes it.
                    let event = sse::data(&text);
                    yield Ok(event);
                }
                if let Some(end) = view.ended {
                    for event in self.closing(&message, is_open, end) {
                        yield Ok(sse::data(&event));
                    }
                    return;
                }
            }
        }
    }

    fn started(&self) -> RunEvent {
        RunEvent::RunStarted {
            protocol_version: "1.0",
            run: self.run.clone(),
            thread: self.thread.clone(),
        }
    }

    fn finished(&self, outcome: RunOutcome, usage: Vec<RunUsage>) -> RunEvent {
        RunEvent::RunFinished {
            outcome,
            run: self.run.clone(),
            thread: self.thread.clone(),
            usage,
        }
    }

    /// The events after the last text.
    fn closing(&self, message: &str, is_open: bool, end: End) -> Vec<RunEvent> {
        let mut events = Vec::new();
        if is_open {
            events.push(RunEvent::TextMessageEnd {
                message: message.to_owned(),
            });
        }
        if let Some(failure) = end.failure {
            events.push(RunEvent::RunError {
                code: failure.code,
                message: failure.sentence,
            });
            return events;
        }
        for call in &end.tool_calls {
            events.extend(called(message, call));
        }
        let outcome = if end.is_stopped() {
            RunOutcome::Cancelled
        } else {
            RunOutcome::Success {
                pending: end.tool_calls.iter().map(|call| call.id.clone()).collect(),
            }
        };
        let usage = RunUsage {
            input: end.metrics.prompt_tokens,
            output: end.metrics.answer_tokens,
            model: end.model,
        };
        let is_told = usage.input.is_some() || usage.output.is_some();
        events.push(self.finished(outcome, is_told.then_some(usage).into_iter().collect()));
        events
    }

    /// A text that no model wrote, as a whole run.
    fn of_text(&self, turn: TurnId, text: &str) -> Vec<Bytes> {
        let message = turn.to_string();
        let outcome = RunOutcome::Success { pending: vec![] };
        let events = [
            self.started(),
            begin(&message),
            RunEvent::TextMessageContent {
                delta: text.to_owned(),
                message: message.clone(),
            },
            RunEvent::TextMessageEnd { message },
            self.finished(outcome, vec![]),
        ];
        events.iter().map(sse::data).collect()
    }
}

fn begin(message: &str) -> RunEvent {
    RunEvent::TextMessageStart {
        message: message.to_owned(),
        role: "assistant",
    }
}

fn called(message: &str, call: &ToolCall) -> [RunEvent; 3] {
    let arguments =
        serde_json::to_string(&call.arguments).expect("an object with texts for names is JSON");
    [
        RunEvent::ToolCallStart {
            message: message.to_owned(),
            call: call.id.clone(),
            tool: call.name.clone(),
        },
        RunEvent::ToolCallArgs {
            delta: arguments,
            call: call.id.clone(),
        },
        RunEvent::ToolCallEnd {
            call: call.id.clone(),
        },
    ]
}
