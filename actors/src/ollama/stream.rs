//! The stream of one answer, line by line, and every way in which it can end.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::{StreamExt, stream::BoxStream};
use genie_events::chat::{Failure, FinishReason, TurnMetrics};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::{
    failure::{broke_off, incomplete, no_text, refused_with, too_slow},
    frame::{Frame, FrameCall, TextJoiner},
};

/// The longest line. Ollama's own client allows the same.
const MAX_LINE: usize = 8 << 20;

/// The most calls of tools in one answer.
const MAX_CALLS: usize = 64;

/// One frame of the stream.
#[derive(Debug, PartialEq)]
pub enum ModelFrame {
    /// More of the answer. Empty while the model thinks.
    Text(String),
    /// The last frame. It can carry text, too.
    Done {
        /// The rest of the answer.
        text: String,
        /// The tools that the model asks for, from all frames.
        calls: Vec<FrameCall>,
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
    /// The latest moment for the next token.
    due: Instant,
    /// The longest time between two tokens.
    between_tokens: Duration,
    text: TextJoiner,
    has_text: bool,
    has_thought: bool,
    /// True when the model was offered tools. Otherwise calls are nothing that it could mean.
    pub(super) takes_calls: bool,
    calls: Vec<FrameCall>,
    /// The first frame, until it is taken.
    first: Option<ModelFrame>,
}

impl ModelStream {
    /// A stream whose first token must come before `due`.
    pub(super) fn new(
        bytes: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
        model: &str,
        due: Instant,
        between_tokens: Duration,
    ) -> Self {
        Self {
            bytes,
            buffer: BytesMut::new(),
            searched: 0,
            model: model.to_owned(),
            due,
            between_tokens,
            text: TextJoiner::default(),
            has_text: false,
            has_thought: false,
            takes_calls: true,
            calls: Vec::new(),
            first: None,
        }
    }

    /// Waits for the first token, which stays in the stream.
    pub(super) async fn first_token(&mut self) -> Result<(), Failure> {
        let mut blank = String::new();
        self.first = Some(loop {
            match self.next().await? {
                ModelFrame::Text(text) => {
                    blank.push_str(&text);
                    if self.has_text || self.has_thought || !self.calls.is_empty() {
                        break ModelFrame::Text(blank);
                    }
                }
                ModelFrame::Done {
                    text,
                    calls,
                    metrics,
                } => {
                    let text = blank + &text;
                    break ModelFrame::Done {
                        text,
                        calls,
                        metrics,
                    };
                }
            }
        });
        Ok(())
    }

    /// The next frame. After `Done` or an error there is no more. Cancel-safe: dropping the wait loses no bytes.
    pub async fn next(&mut self) -> Result<ModelFrame, Failure> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        loop {
            if let Some(line) = self.line() {
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return self.read(&line);
            }
            if self.buffer.len() > MAX_LINE {
                warn!(
                    model = self.model,
                    "model server: a line of the stream is too long; the answer ends"
                );
                return Err(broke_off());
            }
            match timeout_at(self.due, self.bytes.next()).await {
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

    /// The next whole line, without its line feed.
    fn line(&mut self) -> Option<BytesMut> {
        let unsearched = &self.buffer[self.searched..];
        let Some(end) = unsearched.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = self.buffer.split_to(self.searched + end);
        self.searched = 0;
        self.buffer.advance(1);
        Some(line)
    }

    fn read(&mut self, line: &[u8]) -> Result<ModelFrame, Failure> {
        let Ok(frame) = Frame::read(line) else {
            warn!(
                model = self.model,
                bytes = line.len(),
                "model server: a line of the stream is not JSON; the answer ends"
            );
            return Err(broke_off());
        };
        if let Some(error) = frame.error {
            return Err(refused_with(200, &error, &self.model));
        }
        let mut text = self.text.join(frame.text);
        if frame.done.is_some() {
            text.extend(self.text.end());
        }
        self.has_thought |= frame.has_thought;
        self.has_text |= !text.trim().is_empty();
        let has_calls = self.takes_calls && !frame.calls.is_empty();
        if has_calls {
            self.take_calls(frame.calls)?;
        }
        // Neither a line without a token nor blanks before the text are a sign of life.
        if has_calls || frame.has_thought || (self.has_text && !text.is_empty()) {
            self.due = Instant::now() + self.between_tokens;
        }
        match frame.done {
            None => Ok(ModelFrame::Text(text)),
            Some(_) if !self.has_text && self.calls.is_empty() => Err(no_text(self.has_thought)),
            Some(metrics) => Ok(self.done(text, metrics)),
        }
    }

    fn take_calls(&mut self, calls: Vec<FrameCall>) -> Result<(), Failure> {
        if self.calls.len() + calls.len() > MAX_CALLS {
            warn!(
                model = self.model,
                "model server: the model asks for too many tools; the answer ends"
            );
            return Err(broke_off());
        }
        self.calls.extend(calls);
        Ok(())
    }

    fn done(&mut self, text: String, mut metrics: TurnMetrics) -> ModelFrame {
        if !self.calls.is_empty() {
            metrics.finish_reason = Some(FinishReason::ToolCalls);
        }
        ModelFrame::Done {
            text,
            calls: std::mem::take(&mut self.calls),
            metrics,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn stream(chunks: &[&str]) -> ModelStream {
        let chunks: Vec<_> = chunks
            .iter()
            .map(|chunk| Ok(bytes::Bytes::from((*chunk).to_owned())))
            .collect();
        let chunks = futures_util::stream::iter(chunks).boxed();
        ModelStream::new(chunks, "m", Instant::now() + LONG, LONG)
    }

    async fn all(mut stream: ModelStream) -> (String, Result<TurnMetrics, String>) {
        let mut said = String::new();
        loop {
            match stream.next().await {
                Ok(ModelFrame::Text(text)) => said.push_str(&text),
                Ok(ModelFrame::Done { text, metrics, .. }) => return (said + &text, Ok(metrics)),
                Err(failure) => return (said, Err(failure.code)),
            }
        }
    }

    #[tokio::test]
    async fn frames_are_cut_at_line_feeds_however_they_arrive() {
        let chunks = [
            "{\"message\":{\"content\":\"a\\nb\"},\"done\":fal",
            "se}\n{\"message\":{\"content\":\" 你\"},\"done\":false}\n\n{\"message\":{\"content\":\"!\"},",
            "\"done\":true,\"done_reason\":\"length\",\"total_duration\":5000000,\"eval_count\":3,\"unknown\":1}",
        ];
        let (said, end) = all(stream(&chunks)).await;
        assert_eq!(said, "a\nb 你!");
        let metrics = end.unwrap();
        assert_eq!(metrics.finish_reason, Some(FinishReason::Length));
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
    async fn thoughts_are_not_part_of_the_answer_and_no_answer_alone() {
        let thought = "{\"message\":{\"content\":\"\",\"thinking\":\"hm\"},\"done\":false}\n";
        let answer = "{\"message\":{\"content\":\"4\"},\"done\":false}\n{\"done\":true}\n";
        assert_eq!(all(stream(&[thought, answer])).await.0, "4");
        for answer in [
            "{\"done\":true}\n",
            "{\"message\":{\"content\":\" \\n\"},\"done\":true}\n",
        ] {
            let mut thoughts = stream(&[thought, answer]);
            thoughts.next().await.unwrap();
            let failure = thoughts.next().await.unwrap_err();
            assert_eq!(failure.code, "ollama_empty");
            assert!(failure.sentence.contains("thought"), "{failure:?}");
            let failure = stream(&[answer]).next().await.unwrap_err();
            assert!(failure.sentence.contains("nothing"), "{failure:?}");
        }
    }

    #[tokio::test]
    async fn calls_of_tools_are_an_answer_and_come_with_its_end() {
        let call = |name: &str| {
            format!(
                "{{\"message\":{{\"content\":\"\",\"tool_calls\":[{{\"function\":{{\"name\":\"{name}\"}}}}]}}}}\n"
            )
        };
        let lines = [call("a"), call("b"), "{\"done\":true}".into()];
        let mut stream = stream(&lines.each_ref().map(String::as_str));
        stream.first_token().await.unwrap();
        assert_eq!(stream.next().await, Ok(ModelFrame::Text(String::new())));
        assert_eq!(stream.next().await, Ok(ModelFrame::Text(String::new())));
        let Ok(ModelFrame::Done { calls, metrics, .. }) = stream.next().await else {
            panic!("the end");
        };
        let names: Vec<_> = calls.iter().map(|call| call.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(metrics.finish_reason, Some(FinishReason::ToolCalls));
    }

    #[tokio::test]
    async fn the_first_token_stays_in_the_stream() {
        let line = |text: &str| format!("{{\"message\":{{\"content\":\"{text}\"}}}}\n");
        let lines = [
            line(""),
            line(" "),
            line("a"),
            line("b"),
            "{\"done\":true}".into(),
        ];
        let mut stream = stream(&lines.each_ref().map(String::as_str));
        stream.first_token().await.unwrap();
        assert_eq!(stream.next().await, Ok(ModelFrame::Text(" a".into())));
        assert_eq!(all(stream).await.0, "b");
    }

    #[tokio::test]
    async fn a_stream_that_drips_without_tokens_is_too_slow() {
        let empty = "{\"message\":{\"content\":\"\"},\"done\":false}\n";
        let token = "{\"message\":{\"content\":\"a\"},\"done\":false}\n";
        let drip = |first: &'static str| {
            let lines = [first].into_iter().chain(std::iter::repeat(empty));
            let lines = futures_util::stream::iter(lines).then(async |line| {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(bytes::Bytes::from(line))
            });
            let due = Instant::now() + Duration::from_millis(500);
            ModelStream::new(lines.boxed(), "m", due, Duration::from_millis(200))
        };
        let too_slow = || Err("ollama_timeout".into());
        assert_eq!(all(drip(token)).await, ("a".into(), too_slow()));
        assert_eq!(all(drip(empty)).await, (String::new(), too_slow()));
    }
}
