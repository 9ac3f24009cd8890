//! Ollama's wire: one chat request, its stream of frames, and every way in which it can end. Closing the connection
//! is the only way to cancel; dropping the stream does it.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::{StreamExt, stream::BoxStream};
use genie_events::chat::{Failure, TurnMetrics};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::outbound::ProxyUse;

/// The longest time to connect.
const CONNECT: Duration = Duration::from_secs(3);
/// The longest time to the first byte: Ollama sends nothing while the model loads and reads.
const FIRST_FRAME: Duration = Duration::from_secs(330);
/// The longest time between frames.
const NEXT_FRAME: Duration = Duration::from_secs(60);
/// The longest line. Ollama's own client allows the same.
const MAX_LINE: usize = 8 << 20;
/// The most bytes that are read of an error's body.
const MAX_ERROR: usize = 64 * 1024;
/// Connections that are idle for this long are closed.
const IDLE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub struct Ollama {
    http: reqwest::Client,
    base: String,
    /// True when the server is reached through a proxy.
    is_by_proxy: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct ModelMessage {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    pub content: String,
}

/// One frame of the stream.
#[derive(Debug, PartialEq)]
pub enum ModelFrame {
    /// More of the answer.
    Text(String),
    /// The last frame. It can carry text, too.
    Done {
        /// The rest of the answer.
        text: String,
        metrics: TurnMetrics,
    },
}

/// A stream of frames. Dropping it closes the connection.
pub struct ModelStream {
    bytes: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: BytesMut,
    /// How many bytes of the buffer were searched for the end of a line.
    searched: usize,
    model: String,
}

#[derive(Serialize)]
struct ChatRequest<'a> {
    model: &'a str,
    messages: &'a [ModelMessage],
    stream: bool,
    options: SamplingOptions,
}

/// Options of sampling only. Options of loading would make Ollama load the model again for everybody.
#[derive(Serialize)]
struct SamplingOptions {
    num_predict: u32,
}

#[derive(Deserialize)]
struct WireFrame {
    #[serde(default)]
    error: Option<serde_json::Value>,
    #[serde(default)]
    message: Option<WireMessage>,
    #[serde(default)]
    done: bool,
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
    total_duration: Option<u64>,
    load_duration: Option<u64>,
}

/// The answer of `/api/version`.
#[derive(Deserialize)]
struct OllamaVersion {
    #[expect(dead_code, reason = "that it is there says that an Ollama answers")]
    version: String,
}

#[derive(Deserialize)]
struct WireMessage {
    #[serde(default)]
    content: String,
}

impl Ollama {
    /// The server at `base`, such as `http://127.0.0.1:11434`.
    pub fn new(base: &str, proxies: ProxyUse) -> reqwest::Result<Self> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent("genie");
        Ok(Self {
            http: proxies.client(client, base).build()?,
            base: base.trim_end_matches('/').to_owned(),
            is_by_proxy: proxies.applies_to(base),
        })
    }

    /// Checks that an Ollama answers, and not a proxy's page or another server.
    pub async fn ping(&self) -> Result<(), Failure> {
        let asking = self
            .http
            .get(format!("{}/api/version", self.base))
            .timeout(CONNECT)
            .send();
        let answer = asking.await.map_err(|_| self.unreachable())?;
        match serde_json::from_slice::<OllamaVersion>(&beginning(answer).await) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.not_ollama()),
        }
    }

    fn unreachable(&self) -> Failure {
        if self.is_by_proxy {
            return failure(
                "ollama_unreachable",
                "The model server does not answer through the proxy that the environment names (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY); put its host into NO_PROXY, or mend the proxy",
            );
        }
        unreachable()
    }

    fn not_ollama(&self) -> Failure {
        let sentence = if self.is_by_proxy {
            "What answers at OLLAMA_URL is no Ollama but perhaps the proxy that the environment names (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY); put the model server's host into NO_PROXY"
        } else {
            "What answers at OLLAMA_URL is no Ollama; the address must be that of Ollama itself, without a path such as /v1"
        };
        failure("ollama_unreachable", sentence)
    }

    /// Asks for an answer of at most `max_tokens` tokens. Resolves with the first byte.
    pub async fn chat(
        &self,
        model: &str,
        messages: &[ModelMessage],
        max_tokens: u32,
    ) -> Result<ModelStream, Failure> {
        let request = ChatRequest {
            model,
            messages,
            stream: true,
            options: SamplingOptions {
                num_predict: max_tokens,
            },
        };
        let sending = self
            .http
            .post(format!("{}/api/chat", self.base))
            .json(&request)
            .send();
        let answer = match tokio::time::timeout(FIRST_FRAME, sending).await {
            Err(_) => return Err(too_slow()),
            Ok(Err(error)) if error.is_connect() || error.is_timeout() => {
                return Err(self.unreachable());
            }
            Ok(Err(error)) => {
                warn!(error = %error.without_url(), "model server: connection ended before the answer");
                return Err(broke_off());
            }
            Ok(Ok(answer)) => answer,
        };
        let status = answer.status();
        if status.is_success() {
            return Ok(ModelStream {
                bytes: answer.bytes_stream().boxed(),
                buffer: BytesMut::new(),
                searched: 0,
                model: model.to_owned(),
            });
        }
        // An error's body is not always JSON, and may be empty.
        let body = tokio::time::timeout(NEXT_FRAME, beginning(answer))
            .await
            .unwrap_or_default();
        let text = serde_json::from_slice::<WireFrame>(&body)
            .ok()
            .and_then(|frame| frame.error)
            .map(|error| error_text(&error));
        Err(refused(status.as_u16(), &text.unwrap_or_default(), model))
    }
}

/// The beginning of an error's body.
/// The beginning of a body.
async fn beginning(mut answer: reqwest::Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(bytes)) = answer.chunk().await {
        let room = MAX_ERROR - body.len();
        body.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if body.len() == MAX_ERROR {
            break;
        }
    }
    body
}

impl ModelStream {
    /// The next frame. After `Done` or an error there is no more. Cancel-safe: dropping the wait loses no bytes.
    pub async fn next(&mut self) -> Result<ModelFrame, Failure> {
        loop {
            let unsearched = &self.buffer[self.searched..];
            if let Some(end) = unsearched.iter().position(|byte| *byte == b'\n') {
                let end = self.searched + end;
                self.searched = 0;
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return self.read(&line);
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MAX_LINE {
                warn!(
                    model = self.model,
                    "model server: a line of the stream is too long; the answer ends"
                );
                return Err(broke_off());
            }
            match tokio::time::timeout(NEXT_FRAME, self.bytes.next()).await {
                Err(_) => return Err(too_slow()),
                Ok(Some(Ok(bytes))) => self.buffer.extend_from_slice(&bytes),
                Ok(Some(Err(error))) => {
                    warn!(model = self.model, error = %error.without_url(), "model server: connection ended in the middle of the answer");
                    return Err(broke_off());
                }
                // The last line may come without its line feed.
                Ok(None) if !self.buffer.trim_ascii().is_empty() => {
                    self.searched = 0;
                    let line = self.buffer.split();
                    return self.read(&line);
                }
                Ok(None) => return Err(incomplete()),
            }
        }
    }

    fn read(&self, line: &[u8]) -> Result<ModelFrame, Failure> {
        let Ok(frame) = serde_json::from_slice::<WireFrame>(line) else {
            warn!(
                model = self.model,
                bytes = line.len(),
                "model server: a line of the stream is not JSON; the answer ends"
            );
            return Err(broke_off());
        };
        // The error comes first: a frame can say `done` and yet carry an error.
        if let Some(error) = frame.error {
            return Err(refused(200, &error_text(&error), &self.model));
        }
        let text = frame
            .message
            .map(|message| message.content)
            .unwrap_or_default();
        let millis = |nanos: Option<u64>| nanos.map(|nanos| nanos / 1_000_000);
        if !frame.done {
            return Ok(ModelFrame::Text(text));
        }
        Ok(ModelFrame::Done {
            text,
            metrics: TurnMetrics {
                prompt_tokens: frame.prompt_eval_count,
                answer_tokens: frame.eval_count,
                total_ms: millis(frame.total_duration),
                load_ms: millis(frame.load_duration),
            },
        })
    }
}

/// Reads a string, or an object with a message.
fn error_text(error: &serde_json::Value) -> String {
    let text = error
        .as_str()
        .or_else(|| error.get("message").and_then(serde_json::Value::as_str))
        .unwrap_or("");
    text.chars().take(200).collect()
}

fn failure(code: &str, sentence: impl Into<String>) -> Failure {
    Failure {
        code: code.into(),
        sentence: sentence.into(),
    }
}

fn unreachable() -> Failure {
    failure(
        "ollama_unreachable",
        "The model server does not answer; start Ollama or set OLLAMA_URL (./scripts/run --with-model starts a small model)",
    )
}

fn too_slow() -> Failure {
    failure(
        "ollama_timeout",
        "The model server took too long; try again, or choose a smaller model",
    )
}

fn broke_off() -> Failure {
    failure("ollama_failed", "The model server broke off; try again")
}

fn incomplete() -> Failure {
    failure(
        "ollama_incomplete",
        "The model server stopped before the end of its answer; the text so far is kept",
    )
}

fn refused(status: u16, text: &str, model: &str) -> Failure {
    warn!(
        http.status = status,
        error = text,
        model,
        "model server: request refused"
    );
    if status == 404 {
        return failure(
            "ollama_model_missing",
            format!(
                "The model server has no model `{model}`; run `ollama pull {model}`, or choose another"
            ),
        );
    }
    match status {
        429 | 503 => failure("ollama_busy", "The model server is busy; try again shortly"),
        _ => failure("ollama_failed", "The model server failed; try again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(chunks: &[&str]) -> ModelStream {
        let chunks: Vec<_> = chunks
            .iter()
            .map(|chunk| Ok(bytes::Bytes::from((*chunk).to_owned())))
            .collect();
        ModelStream {
            bytes: futures_util::stream::iter(chunks).boxed(),
            buffer: BytesMut::new(),
            searched: 0,
            model: "m".into(),
        }
    }

    async fn all(mut stream: ModelStream) -> (String, Result<TurnMetrics, String>) {
        let mut said = String::new();
        loop {
            match stream.next().await {
                Ok(ModelFrame::Text(text)) => said.push_str(&text),
                Ok(ModelFrame::Done { text, metrics }) => return (said + &text, Ok(metrics)),
                Err(failure) => return (said, Err(failure.code)),
            }
        }
    }

    #[tokio::test]
    async fn frames_are_cut_at_line_feeds_however_they_arrive() {
        let chunks = [
            "{\"message\":{\"content\":\"a\\nb\"},\"done\":fal",
            "se}\n{\"message\":{\"content\":\" 你\"},\"done\":false}\n\n{\"message\":{\"content\":\"!\"},",
            "\"done\":true,\"total_duration\":5000000,\"eval_count\":3,\"unknown\":1}",
        ];
        let (said, metrics) = all(stream(&chunks)).await;
        assert_eq!(said, "a\nb 你!");
        let metrics = metrics.unwrap();
        assert_eq!(
            (
                metrics.total_ms,
                metrics.answer_tokens,
                metrics.prompt_tokens
            ),
            (Some(5), Some(3), None)
        );
    }

    #[tokio::test]
    async fn every_way_to_end_has_its_code() {
        let text = "{\"message\":{\"content\":\"a\"},\"done\":false}\n";
        for (end, code) in [
            ("", "ollama_incomplete"),
            ("{\"error\":\"boom\"}\n", "ollama_failed"),
            (
                "{\"error\":{\"message\":\"boom\",\"type\":\"t\"}}\n",
                "ollama_failed",
            ),
            (
                "{\"message\":{\"content\":\"\"},\"done\":true,\"done_reason\":\"error\",\"error\":\"Connection error.\"}\n",
                "ollama_failed",
            ),
            ("<html>\n", "ollama_failed"),
        ] {
            assert_eq!(
                all(stream(&[text, end])).await,
                ("a".into(), Err(code.into())),
                "{end}"
            );
        }
    }

    #[tokio::test]
    async fn thinking_is_not_part_of_the_answer() {
        let chunks = [
            "{\"message\":{\"content\":\"\",\"thinking\":\"hm\"},\"done\":false}\n",
            "{\"message\":{\"content\":\"4\"},\"done\":false}\n{\"done\":true}\n",
        ];
        assert_eq!(all(stream(&chunks)).await.0, "4");
    }
}
