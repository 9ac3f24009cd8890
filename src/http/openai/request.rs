//! A request in OpenAI's dialect, and what the model is asked by it. What is not done is refused when it is asked for, and
//! ignored when it is only named. Each refusal begins with the field.

use genie_actors::chats::given::{GivenConversation, GivenMessage, Sampling};
use genie_events::{chat::ToolCall, typed_text};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::http::{chats::MAX_SESSION_NAME, error::ApiError};

/// The most texts that end an answer.
const MAX_STOPS: usize = 16;
/// The most tools.
const MAX_TOOLS: usize = 128;
/// The session of clients that name none.
const SESSION: &str = "openai";

#[derive(Deserialize, ToSchema)]
#[schema(as = ChatCompletionRequest)]
pub struct CompletionRequest {
    /// One of `GET /v1/models`.
    pub model: String,
    /// What the model gets, after the server's system prompt. When it is longer than the model's context, the oldest messages are left out. Pictures are data URLs.
    #[schema(min_items = 1)]
    messages: Vec<CompletionMessage>,
    /// True for server-sent events.
    pub stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// The session that keeps the turn. The default is `openai`.
    #[schema(max_length = 200)]
    user: Option<String>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    seed: Option<i64>,
    /// A text, or at most 16, before which the answer ends.
    stop: Option<Value>,
    /// At most `CHAT_MAX_TOKENS`, which is also the default.
    #[schema(minimum = 1)]
    max_completion_tokens: Option<i64>,
    /// The older name of `max_completion_tokens`.
    #[schema(minimum = 1)]
    max_tokens: Option<i64>,
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f64>,
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f64>,
    response_format: Option<ResponseFormat>,
    /// The client's own functions. An answer that calls them ends with `tool_calls`.
    #[schema(value_type = Option<Vec<Object>>, max_items = 128)]
    tools: Option<Vec<Value>>,
    /// `auto` or `none`.
    tool_choice: Option<Value>,
    /// 1.
    n: Option<u32>,
    logprobs: Option<bool>,
    #[schema(ignore)]
    top_logprobs: Option<Value>,
    #[schema(ignore)]
    modalities: Option<Value>,
    #[schema(ignore)]
    audio: Option<Value>,
    #[schema(ignore)]
    functions: Option<Value>,
    #[schema(ignore)]
    function_call: Option<Value>,
    #[schema(ignore)]
    parallel_tool_calls: Option<Value>,
    #[schema(ignore)]
    logit_bias: Option<Value>,
    #[schema(ignore)]
    prediction: Option<Value>,
    #[schema(ignore)]
    web_search_options: Option<Value>,
}

#[derive(Deserialize, ToSchema)]
struct StreamOptions {
    /// True for a last chunk without choices that has the `usage`.
    include_usage: Option<bool>,
}

#[derive(Deserialize, ToSchema)]
struct ResponseFormat {
    r#type: FormatKind,
    /// Of the type `json_schema`: `{name, schema}`.
    json_schema: Option<Value>,
}

#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum FormatKind {
    Text,
    JsonObject,
    JsonSchema,
}

#[derive(Deserialize, ToSchema)]
struct CompletionMessage {
    role: CompletionRole,
    /// A text, or a list of parts of the types `text` and `image_url`.
    content: Option<Value>,
    /// The calls of an assistant's message. Arguments that are no JSON object count as an empty one.
    tool_calls: Option<Vec<ReplayedCall>>,
    /// The call whose result a tool's message is.
    tool_call_id: Option<String>,
}

/// `developer` is the same as `system`.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum CompletionRole {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

#[derive(Deserialize, ToSchema)]
struct ReplayedCall {
    id: String,
    function: ReplayedFunction,
}

#[derive(Deserialize, ToSchema)]
struct ReplayedFunction {
    name: String,
    /// A JSON object, as text or as itself. Anything else counts as an empty one.
    arguments: Option<Value>,
}

impl CompletionRequest {
    pub fn includes_usage(&self) -> bool {
        let options = self.stream_options.as_ref();
        options.is_some_and(|options| options.include_usage == Some(true))
    }

    /// The session that keeps the turn.
    pub fn session(&self) -> Result<String, ApiError> {
        let named = self.user.as_deref().map(typed_text::cleaned);
        let session = named.filter(|name| !name.is_empty());
        let session = session.unwrap_or_else(|| SESSION.to_owned());
        if session.chars().count() > MAX_SESSION_NAME {
            return Err(ApiError::field(format!(
                "`user` must have at most {MAX_SESSION_NAME} characters"
            )));
        }
        Ok(session)
    }

    /// What the model is asked, by its name at the model server.
    pub fn conversation(self, model: String) -> Result<GivenConversation, ApiError> {
        self.check_what_is_not_done()?;
        let sampling = self.sampling()?;
        let answer_tokens = self.answer_tokens()?;
        let tools = self.tools()?;
        let format = self.response_format.map(ResponseFormat::read).transpose()?;
        if self.messages.is_empty() {
            return Err(ApiError::field("`messages` must have at least one message"));
        }
        let messages = self.messages.into_iter().enumerate();
        let messages = messages.map(|(n, message)| message.read(n));
        Ok(GivenConversation {
            model,
            context: vec![],
            messages: messages.collect::<Result<_, _>>()?,
            tools,
            format: format.flatten(),
            sampling,
            answer_tokens,
        })
    }

    fn check_what_is_not_done(&self) -> Result<(), ApiError> {
        if self.n.is_some_and(|n| n != 1) {
            return Err(ApiError::field("`n` must be 1"));
        }
        if self.logprobs == Some(true) {
            return Err(ApiError::field("`logprobs` must be false"));
        }
        let speaks = |modalities: &Value| {
            let listed = modalities.as_array().into_iter().flatten();
            listed.filter(|word| *word != "text").count() > 0
        };
        if self.modalities.as_ref().is_some_and(speaks) {
            return Err(ApiError::field("`modalities` must be text alone"));
        }
        if self.parallel_tool_calls == Some(false.into()) {
            return Err(ApiError::field("`parallel_tool_calls` must be true"));
        }
        let unknown = [
            ("top_logprobs", &self.top_logprobs),
            ("audio", &self.audio),
            ("functions", &self.functions),
            ("function_call", &self.function_call),
            ("logit_bias", &self.logit_bias),
            ("prediction", &self.prediction),
            ("web_search_options", &self.web_search_options),
        ];
        for (field, value) in unknown {
            if value.as_ref().is_some_and(asks_for_something) {
                return Err(ApiError::field(format!(
                    "`{field}` is not supported; leave it out"
                )));
            }
        }
        Ok(())
    }

    fn sampling(&self) -> Result<Sampling, ApiError> {
        let stop = match &self.stop {
            None => vec![],
            Some(stop) => texts(stop)
                .filter(|texts| texts.len() <= MAX_STOPS)
                .ok_or_else(|| {
                    ApiError::field(format!(
                        "`stop` must be a text or a list of at most {MAX_STOPS} texts"
                    ))
                })?,
        };
        Ok(Sampling {
            temperature: within("temperature", self.temperature, 0.0, 2.0)?,
            top_p: within("top_p", self.top_p, 0.0, 1.0)?,
            seed: self.seed,
            presence_penalty: within("presence_penalty", self.presence_penalty, -2.0, 2.0)?,
            frequency_penalty: within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?,
            stop,
        })
    }

    fn answer_tokens(&self) -> Result<Option<u32>, ApiError> {
        let most = [
            ("max_completion_tokens", self.max_completion_tokens),
            ("max_tokens", self.max_tokens),
        ];
        for (field, tokens) in most {
            if tokens.is_some_and(|tokens| tokens < 1) {
                return Err(ApiError::field(format!("`{field}` must be at least 1")));
            }
        }
        // The longest answer of the server bounds it, which is shorter.
        let wanted = self.max_completion_tokens.or(self.max_tokens);
        Ok(wanted.map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX)))
    }

    /// The tools as the model server takes them, which is as OpenAI does.
    fn tools(&self) -> Result<Vec<Value>, ApiError> {
        let tools = self.tools.clone().unwrap_or_default();
        if tools.len() > MAX_TOOLS {
            return Err(ApiError::field(format!(
                "`tools` must have at most {MAX_TOOLS} items"
            )));
        }
        for (n, tool) in tools.iter().enumerate() {
            if tool["type"] != "function" {
                return Err(ApiError::field(format!(
                    "`tools[{n}].type` must be `function`"
                )));
            }
            if tool["function"]["name"].as_str().unwrap_or("").is_empty() {
                return Err(ApiError::field(format!(
                    "`tools[{n}].function.name` must be a text"
                )));
            }
        }
        match self.tool_choice.as_ref().and_then(Value::as_str) {
            Some("none") => Ok(vec![]),
            Some("auto") => Ok(tools),
            None if self.tool_choice.is_none() => Ok(tools),
            _ => Err(ApiError::field("`tool_choice` must be `auto` or `none`")),
        }
    }
}

/// False for what only names a field: null, false, zero, and empty lists and objects.
fn asks_for_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty() && text != "none" && text != "auto",
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn within(
    field: &str,
    number: Option<f64>,
    least: f64,
    most: f64,
) -> Result<Option<f64>, ApiError> {
    if number.is_some_and(|number| !(least..=most).contains(&number)) {
        return Err(ApiError::field(format!(
            "`{field}` must be {least} to {most}"
        )));
    }
    Ok(number)
}

/// A text, or a list of texts.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect(),
        _ => None,
    }
}

impl ResponseFormat {
    /// The format as the model server takes it.
    fn read(self) -> Result<Option<Value>, ApiError> {
        match self.r#type {
            FormatKind::Text => Ok(None),
            FormatKind::JsonObject => Ok(Some(json!("json"))),
            FormatKind::JsonSchema => {
                let schema = self
                    .json_schema
                    .as_ref()
                    .and_then(|named| named.get("schema"));
                let schema = schema.filter(|schema| schema.is_object()).cloned();
                schema.map(Some).ok_or_else(|| {
                    ApiError::field("`response_format.json_schema.schema` must be an object")
                })
            }
        }
    }
}

impl CompletionMessage {
    fn read(self, n: usize) -> Result<GivenMessage, ApiError> {
        let content = MessageContent::read(self.content.unwrap_or_default(), n)?;
        let has_pictures = !content.images.is_empty();
        if has_pictures && !matches!(self.role, CompletionRole::User) {
            return Err(ApiError::field(format!(
                "`messages[{n}].content` must be text: only a user's message has pictures"
            )));
        }
        let text = content.text;
        Ok(match self.role {
            CompletionRole::System | CompletionRole::Developer => GivenMessage::System(text),
            CompletionRole::User => GivenMessage::User {
                text,
                images: content.images,
            },
            CompletionRole::Assistant => {
                let calls = self.tool_calls.unwrap_or_default().into_iter();
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
            CompletionRole::Tool => GivenMessage::Result {
                call: self.tool_call_id.ok_or_else(|| {
                    ApiError::field(format!("`messages[{n}].tool_call_id` is missing"))
                })?,
                text,
            },
        })
    }
}

/// Arguments as an object. Models, and clients that cut them, write them empty or broken.
pub fn object(arguments: Option<Value>) -> Map<String, Value> {
    match arguments {
        Some(Value::Object(fields)) => fields,
        Some(Value::String(text)) => serde_json::from_str(&text).unwrap_or_default(),
        _ => Map::new(),
    }
}

/// The content of a message.
#[derive(Debug, Default, PartialEq)]
pub struct MessageContent {
    pub text: String,
    /// In base64.
    pub images: Vec<String>,
}

impl MessageContent {
    fn read(content: Value, n: usize) -> Result<Self, ApiError> {
        let wrong = || {
            ApiError::field(format!(
                "`messages[{n}].content` must be a text, or a list of parts"
            ))
        };
        let parts = match content {
            Value::Null => return Ok(Self::default()),
            Value::String(text) => {
                return Ok(Self {
                    text,
                    images: vec![],
                });
            }
            Value::Array(parts) => parts,
            _ => return Err(wrong()),
        };
        let mut read = Self::default();
        for (p, part) in parts.iter().enumerate() {
            let place = format!("messages[{n}].content[{p}]");
            match part["type"].as_str() {
                Some("text") => {
                    let text = part["text"].as_str();
                    let text = text
                        .ok_or_else(|| ApiError::field(format!("`{place}.text` must be a text")))?;
                    if !read.text.is_empty() {
                        read.text.push_str("\n\n");
                    }
                    read.text.push_str(text);
                }
                Some("image_url") => read.images.push(picture(part, &place)?),
                Some("refusal") => {}
                _ => {
                    return Err(ApiError::field(format!(
                        "`{place}.type` must be `text` or `image_url`"
                    )));
                }
            }
        }
        Ok(read)
    }
}

/// The picture of a data URL.
fn picture(part: &Value, place: &str) -> Result<String, ApiError> {
    let url = part["image_url"]["url"].as_str().unwrap_or_default();
    let data = url
        .strip_prefix("data:image/")
        .and_then(|rest| rest.split_once(";base64,"));
    data.map(|(_, data)| data.to_owned()).ok_or_else(|| {
        ApiError::field(format!(
            "`{place}.image_url.url` must be a picture in base64, such as data:image/png;base64,…; addresses are not fetched"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(request: Value) -> Result<GivenConversation, String> {
        let mut whole = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        for (field, value) in request.as_object().unwrap() {
            whole[field] = value.clone();
        }
        let mut bytes = whole.to_string().into_bytes();
        let tree = crate::http::input::json(&mut bytes).unwrap();
        let request: CompletionRequest =
            crate::http::input::read(&tree).map_err(|error| ApiError::from(error).to_string())?;
        request
            .conversation("m".into())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_only_named_is_ignored_and_what_is_asked_for_and_not_done_is_refused() {
        read(json!({
            "n": 1, "logprobs": false, "top_logprobs": null, "modalities": ["text"], "audio": null, "functions": [],
            "logit_bias": {}, "parallel_tool_calls": true, "tool_choice": "auto", "stop": null, "store": true,
            "metadata": {"a": "b"}, "service_tier": "auto", "unknown": [1],
        }))
        .unwrap();
        for (field, value) in [
            ("n", json!(2)),
            ("logprobs", json!(true)),
            ("top_logprobs", json!(3)),
            ("modalities", json!(["text", "audio"])),
            ("audio", json!({"voice": "x"})),
            ("functions", json!([{}])),
            ("function_call", json!({"name": "f"})),
            ("parallel_tool_calls", json!(false)),
            ("logit_bias", json!({"1": 5})),
            ("tool_choice", json!("required")),
            ("tool_choice", json!({"type": "function"})),
            ("temperature", json!(2.5)),
            ("top_p", json!(-1)),
            ("max_tokens", json!(0)),
            ("max_tokens", json!(-1)),
            (
                "max_completion_tokens",
                json!(9_223_372_036_854_775_808_u64),
            ),
            ("stop", json!([1])),
            ("messages", json!([])),
            ("messages", json!("x")),
        ] {
            let refused = read(json!({field: value.clone()})).unwrap_err();
            assert!(
                refused.starts_with(&format!("`{field}`")),
                "{field}: {refused}"
            );
        }
    }

    #[test]
    fn messages_are_read_in_every_form() {
        let messages = json!([
            {"role": "developer", "content": "Be kind", "name": "x"},
            {"role": "user", "content": [
                {"type": "text", "text": "What"}, {"type": "text", "text": "is it?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk=", "detail": "low"}},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
                {"id": "b", "type": "function", "function": {"name": "f", "arguments": "{\"x\":"}},
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}},
                {"id": "d", "type": "function", "function": {"name": "f", "arguments": {"y": 2}}},
            ]},
            {"role": "tool", "tool_call_id": "a", "content": "1"},
        ]);
        let given = read(json!({"messages": messages})).unwrap();
        assert_eq!(given.messages[0], GivenMessage::System("Be kind".into()));
        let picture = GivenMessage::User {
            text: "What\n\nis it?".into(),
            images: vec!["aGk=".into()],
        };
        assert_eq!(given.messages[1], picture);
        let GivenMessage::Assistant { calls, .. } = &given.messages[2] else {
            panic!("{:?}", given.messages[2]);
        };
        let arguments: Vec<String> = calls
            .iter()
            .map(|call| Value::from(call.arguments.clone()).to_string())
            .collect();
        assert_eq!(arguments, [r#"{"x":1}"#, "{}", "{}", r#"{"y":2}"#]);
        for (message, place) in [
            (
                json!({"role": "tool", "content": "1"}),
                "`messages[0].tool_call_id`",
            ),
            (
                json!({"role": "function", "content": "1"}),
                "`messages[0].role`",
            ),
            (json!({"content": "1"}), "`messages[0].role`"),
            (
                json!({"role": "user", "content": 7}),
                "`messages[0].content`",
            ),
            (
                json!({"role": "user", "content": [{"type": "input_audio"}]}),
                "`messages[0].content[0].type`",
            ),
            (
                json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}]}),
                "`messages[0].content[0].image_url.url`",
            ),
        ] {
            let refused = read(json!({"messages": [message]})).unwrap_err();
            assert!(refused.starts_with(place), "{place}: {refused}");
        }
    }

    #[test]
    fn formats_tools_and_limits_go_to_the_model() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        let tool = json!({"type": "function", "function": {"name": "f", "parameters": schema}});
        let given = read(json!({
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}},
            "tools": [tool], "max_tokens": 9, "max_completion_tokens": 7, "stop": "END", "temperature": 0, "seed": -4,
        }))
        .unwrap();
        assert_eq!(
            (given.format, given.tools),
            (Some(schema), vec![tool.clone()])
        );
        assert_eq!(given.answer_tokens, Some(7));
        assert_eq!(given.sampling.stop, ["END"]);
        assert_eq!(
            (given.sampling.temperature, given.sampling.seed),
            (Some(0.0), Some(-4))
        );
        let given = read(
            json!({"response_format": {"type": "json_object"}, "tools": [tool], "tool_choice": "none"}),
        );
        let given = given.unwrap();
        assert_eq!((given.format, given.tools), (Some(json!("json")), vec![]));
        for (request, place) in [
            (
                json!({"tools": [{"type": "web_search"}]}),
                "`tools[0].type`",
            ),
            (
                json!({"tools": [{"type": "function"}]}),
                "`tools[0].function.name`",
            ),
            (
                json!({"response_format": {"type": "json_schema"}}),
                "`response_format.json_schema.schema`",
            ),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": ["schema"]}}),
                "`response_format.json_schema.schema`",
            ),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}}),
                "`response_format.json_schema.schema`",
            ),
            (
                json!({"response_format": {"type": "xml"}}),
                "`response_format.type`",
            ),
        ] {
            let refused = read(request).unwrap_err();
            assert!(refused.starts_with(place), "{place}: {refused}");
        }
    }
}
