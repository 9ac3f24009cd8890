//! Ollama's wire: chat requests, and what the server says of itself and its models. Closing the connection is the only
//! way to cancel an answer; dropping the stream does it.

use std::time::Duration;

use futures_util::StreamExt;
use genie_events::chat::Failure;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

use crate::outbound::ProxyUse;

mod failure;
mod frame;
mod stream;

pub use failure::UNREACHABLE;
use failure::{broke_off, not_ollama, refused, too_slow, unreachable};
pub use frame::FrameCall;
pub use stream::{ModelFrame, ModelStream};

/// The longest time to connect, and to answer a question about the server itself.
const CONNECT: Duration = Duration::from_secs(3);
/// The longest time that an answer waits to learn whether its model is loaded.
const PRESENCE: Duration = Duration::from_millis(500);
/// The longest time for the body of a refusal.
const REFUSAL: Duration = Duration::from_secs(10);
/// The most bytes that are read of a refusal.
const MAX_REFUSAL: usize = 64 * 1024;
/// The most bytes of a list of models.
const MAX_LIST: usize = 4 << 20;
/// Connections that are idle for this long are closed.
const IDLE: Duration = Duration::from_secs(30);

/// How long the model server may be silent.
#[derive(Debug, Clone, Copy)]
pub struct TokenWaits {
    /// From the request to the first token. The server sends nothing while it loads the model and reads the prompt, or
    /// only the head of its answer.
    pub first: Duration,
    /// Between two tokens.
    pub between: Duration,
}

#[derive(Debug, Clone)]
pub struct Ollama {
    http: reqwest::Client,
    /// Keeps no connections.
    without_pool: reqwest::Client,
    base: String,
    /// True when the server is reached through a proxy.
    is_by_proxy: bool,
    waits: TokenWaits,
}

/// A message as the wire carries it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelMessage {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: &'static str,
    pub content: String,
    /// Pictures, in base64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// The calls that the model asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<CalledTool>,
    /// Of a result: the tool, and the id of the call.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub result_of: Option<ResultOf>,
}

impl ModelMessage {
    pub fn new(role: &'static str, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            images: Vec::new(),
            tool_calls: Vec::new(),
            result_of: None,
        }
    }
}

/// A call as the wire carries it. Its arguments are an object.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CalledTool {
    pub id: String,
    pub function: CalledFunction,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CalledFunction {
    pub name: String,
    pub arguments: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResultOf {
    pub tool_name: String,
    pub tool_call_id: String,
}

/// How an answer is drawn. What is absent is the model's own.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Sampling {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    /// The answer ends before any of these texts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

/// What a model is asked.
#[derive(Debug, Clone, Copy)]
pub struct ModelPrompt<'a> {
    pub messages: &'a [ModelMessage],
    /// The tools that it may ask for, each as the wire describes it.
    pub tools: &'a [Value],
    /// `"json"`, or a JSON Schema that the answer follows.
    pub format: Option<&'a Value>,
    pub sampling: Option<&'a Sampling>,
}

impl<'a> ModelPrompt<'a> {
    /// A conversation alone.
    pub fn of(messages: &'a [ModelMessage]) -> Self {
        Self {
            messages,
            tools: &[],
            format: None,
            sampling: None,
        }
    }
}

/// What an answer may take of the model.
#[derive(Debug, Clone, Copy)]
pub struct AnswerLimits {
    /// The model's context. Ollama loads a model again for everybody when this differs from the last request, so it is
    /// the same for all requests of a model.
    pub context_tokens: u32,
    /// The tokens of the answer: a model that loops would never stop.
    pub answer_tokens: u32,
}

/// Whether the server has a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModelPresence {
    Missing,
    /// The next answer waits until the model is loaded.
    OnDisk,
    Loaded,
}

impl ModelPresence {
    /// The word of `/readyz`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::OnDisk => "on_disk",
            Self::Loaded => "loaded",
        }
    }
}

#[derive(Serialize)]
struct ChatRequest<'a> {
    model: &'a str,
    messages: &'a [ModelMessage],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tools: &'a [Value],
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<&'a Value>,
    stream: bool,
    options: ModelOptions,
}

#[derive(Serialize)]
struct ModelOptions {
    num_ctx: u32,
    num_predict: u32,
    #[serde(flatten)]
    sampling: Map<String, Value>,
}

/// The answer of `/api/version`.
#[derive(Deserialize)]
struct OllamaVersion {
    #[expect(dead_code, reason = "that it is there says that an Ollama answers")]
    version: String,
}

/// The answer of `/api/tags` and of `/api/ps`.
#[derive(Deserialize)]
struct ModelList {
    models: Option<Vec<ListedModel>>,
}

#[derive(Deserialize)]
struct ListedModel {
    name: String,
}

impl ModelList {
    /// Ollama compares names without regard to case. A name without a tag is that of `latest`.
    fn has(&self, model: &str) -> bool {
        let wanted = model.strip_suffix(":latest").unwrap_or(model);
        let names = self.models.iter().flatten().map(|listed| &*listed.name);
        let mut names = names.map(|name| name.strip_suffix(":latest").unwrap_or(name));
        names.any(|name| name.eq_ignore_ascii_case(wanted))
    }
}

impl Ollama {
    /// The server at `base`, such as `http://127.0.0.1:11434`.
    pub fn new(base: &str, proxies: ProxyUse, waits: TokenWaits) -> reqwest::Result<Self> {
        let client = |idle: usize| {
            let client = reqwest::Client::builder()
                .connect_timeout(CONNECT)
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(idle)
                .redirect(reqwest::redirect::Policy::none())
                .user_agent("genie");
            proxies.client(client, base).build()
        };
        Ok(Self {
            http: client(usize::MAX)?,
            without_pool: client(0)?,
            base: base.trim_end_matches('/').to_owned(),
            is_by_proxy: proxies.applies_to(base),
            waits,
        })
    }

    /// Whether the server has each of these models. Fails when what answers is no Ollama but a proxy's page or another
    /// server.
    pub async fn presences(&self, models: &[&String]) -> Result<Vec<ModelPresence>, Failure> {
        self.about::<OllamaVersion>("/api/version").await?;
        let on_disk = self.about::<ModelList>("/api/tags").await?;
        // Servers that only speak Ollama's language may lack this route.
        let loaded = self.about::<ModelList>("/api/ps").await.ok();
        let presence = |model: &&String| {
            if loaded.as_ref().is_some_and(|loaded| loaded.has(model)) {
                ModelPresence::Loaded
            } else if on_disk.has(model) {
                ModelPresence::OnDisk
            } else {
                ModelPresence::Missing
            }
        };
        Ok(models.iter().map(presence).collect())
    }

    /// True when the server has this model on its disk alone, so that the next answer waits for it to be loaded. False
    /// when the server does not say, or not soon.
    pub async fn must_load(&self, model: &str) -> bool {
        let asking = async {
            let loaded = self.about::<ModelList>("/api/ps").await?;
            if loaded.has(model) {
                return Ok(false);
            }
            let on_disk = self.about::<ModelList>("/api/tags").await?;
            Ok::<bool, Failure>(on_disk.has(model))
        };
        let told = timeout(PRESENCE, asking).await;
        matches!(told, Ok(Ok(true)))
    }

    /// What the server says of itself at this path.
    async fn about<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let asking = self
            .http
            .get(format!("{}{path}", self.base))
            .timeout(CONNECT)
            .send();
        let answer = asking.await.map_err(|_| unreachable(self.is_by_proxy))?;
        let body = beginning(answer, MAX_LIST).await;
        serde_json::from_slice(&body).map_err(|_| not_ollama(self.is_by_proxy))
    }

    /// Asks for an answer. Resolves with its first token.
    pub async fn chat(
        &self,
        model: &str,
        prompt: &ModelPrompt<'_>,
        limits: AnswerLimits,
        mut sampling: Map<String, Value>,
    ) -> Result<ModelStream, Failure> {
        // What the request asks for comes before what the model is set to.
        if let Ok(Value::Object(asked)) = serde_json::to_value(prompt.sampling) {
            sampling.extend(asked);
        }
        let request = ChatRequest {
            model,
            messages: prompt.messages,
            tools: prompt.tools,
            format: prompt.format,
            stream: true,
            options: ModelOptions {
                num_ctx: limits.context_tokens,
                num_predict: limits.answer_tokens,
                sampling,
            },
        };
        let due = Instant::now() + self.waits.first;
        let answer = timeout_at(due, self.send(&request))
            .await
            .map_err(|_| too_slow())??;
        let status = answer.status();
        if status.is_success() {
            let bytes = answer.bytes_stream().boxed();
            let mut stream = ModelStream::new(bytes, model, due, self.waits.between);
            stream.takes_calls = !prompt.tools.is_empty();
            stream.first_token().await?;
            return Ok(stream);
        }
        let body = timeout(REFUSAL, beginning(answer, MAX_REFUSAL)).await;
        let body = body.unwrap_or_default();
        Err(refused(status.as_u16(), &body, model, self.is_by_proxy))
    }

    /// Sends a request. A kept connection may be closed by the other side just as it is used; then the request is sent
    /// once more over a new one. Nothing of an answer has come by then.
    async fn send(&self, request: &ChatRequest<'_>) -> Result<reqwest::Response, Failure> {
        let url = format!("{}/api/chat", self.base);
        let first = self.http.post(&url).json(request).send().await;
        let answer = match first {
            Err(error) if !error.is_connect() => {
                warn!(error = %error.without_url(), "model server: connection ended before the answer; asking once more");
                self.without_pool.post(&url).json(request).send().await
            }
            other => other,
        };
        answer.map_err(|error| {
            if error.is_connect() {
                return unreachable(self.is_by_proxy);
            }
            warn!(error = %error.without_url(), "model server: connection ended before the answer");
            broke_off()
        })
    }
}

/// The beginning of a body.
async fn beginning(mut answer: reqwest::Response, most: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(bytes)) = answer.chunk().await {
        let room = most - body.len();
        body.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if body.len() == most {
            break;
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models_are_compared_as_ollama_does() {
        let list: ModelList = serde_json::from_str(
            r#"{"models":[{"name":"qwen2.5:latest","size":1},{"name":"Llama3:8b"}]}"#,
        )
        .unwrap();
        for (name, is_there) in [
            ("qwen2.5", true),
            ("Qwen2.5:latest", true),
            ("llama3:8B", true),
            ("llama3", false),
            ("qwen2", false),
        ] {
            assert_eq!(list.has(name), is_there, "{name}");
        }
        let none: ModelList = serde_json::from_str(r#"{"models":null}"#).unwrap();
        assert!(!none.has("qwen2.5"));
    }
}
