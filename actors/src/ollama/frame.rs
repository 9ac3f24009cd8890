//! One line of the model server's stream, read leniently: servers and proxies send counts as floats or below zero, `null`
//! for what they leave out, and an emoji as two halves in two frames.

use genie_events::chat::{FinishReason, TurnMetrics};
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};
use serde_json::{Map, Value};

/// What one line says.
#[derive(Debug)]
pub(super) struct Frame {
    /// The server's words, when the line carries an error. An error counts more than anything else in its line: a line can
    /// say `done` and yet carry one.
    pub error: Option<String>,
    pub text: TextPiece,
    /// The model thought. Thoughts are no part of the answer.
    pub has_thought: bool,
    /// The tools that the model asks for.
    pub calls: Vec<FrameCall>,
    /// Present in the last line of an answer.
    pub done: Option<TurnMetrics>,
}

/// A call of a tool, whole. Models make calls without an id, without arguments, or with arguments as text.
#[derive(Debug, PartialEq)]
pub struct FrameCall {
    pub name: String,
    pub arguments: Map<String, Value>,
}

/// A piece of text in WTF-8: UTF-8 that may begin or end in the middle of a character of two UTF-16 halves.
#[derive(Debug, Default)]
pub(super) struct TextPiece(Vec<u8>);

impl Frame {
    pub fn read(line: &[u8]) -> serde_json::Result<Self> {
        let wire: WireFrame = serde_json::from_slice(line)?;
        let message = wire.message.unwrap_or_default();
        let thought = message.thinking.unwrap_or_default();
        let done = matches!(wire.done, Some(Value::Bool(true))).then(|| TurnMetrics {
            prompt_tokens: count(wire.prompt_eval_count.as_ref()),
            answer_tokens: count(wire.eval_count.as_ref()),
            total_ms: count(wire.total_duration.as_ref()).map(millis),
            load_ms: count(wire.load_duration.as_ref()).map(millis),
            finish_reason: Some(match wire.done_reason.as_ref().and_then(Value::as_str) {
                Some("length") => FinishReason::Length,
                _ => FinishReason::Stop,
            }),
        });
        Ok(Self {
            error: wire.error.as_ref().map(error_text),
            text: message.content.unwrap_or_default(),
            has_thought: !thought.0.is_empty(),
            calls: calls(message.tool_calls.as_ref()),
            done,
        })
    }
}

fn calls(listed: Option<&Value>) -> Vec<FrameCall> {
    let listed = listed.and_then(Value::as_array).into_iter().flatten();
    let call = |call: &Value| {
        let function = call.get("function")?;
        let name = function.get("name")?.as_str()?.to_owned();
        let arguments = object(function.get("arguments"));
        Some(FrameCall { name, arguments })
    };
    listed.filter_map(call).collect()
}

/// Arguments as an object, whatever they are.
fn object(arguments: Option<&Value>) -> Map<String, Value> {
    match arguments {
        Some(Value::Object(fields)) => fields.clone(),
        Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_default(),
        _ => Map::new(),
    }
}

/// Durations come in nanoseconds.
fn millis(nanoseconds: u64) -> u64 {
    nanoseconds / 1_000_000
}

fn count(value: Option<&Value>) -> Option<u64> {
    let number = value?.as_f64()?;
    (number >= 0.0).then_some(number as u64)
}

/// Reads a string, or an object with a message.
pub(super) fn error_text(error: &Value) -> String {
    let text = error
        .as_str()
        .or_else(|| error.get("message").and_then(Value::as_str))
        .unwrap_or("");
    text.chars().take(200).collect()
}

/// A line. `null` and an absent field are the same, and unknown fields are ignored.
#[derive(Deserialize)]
struct WireFrame {
    error: Option<Value>,
    message: Option<WireMessage>,
    done: Option<Value>,
    done_reason: Option<Value>,
    prompt_eval_count: Option<Value>,
    eval_count: Option<Value>,
    total_duration: Option<Value>,
    load_duration: Option<Value>,
}

#[derive(Default, Deserialize)]
struct WireMessage {
    content: Option<TextPiece>,
    thinking: Option<TextPiece>,
    tool_calls: Option<Value>,
}

impl<'de> Deserialize<'de> for TextPiece {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = TextPiece;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<TextPiece, E> {
                Ok(TextPiece(bytes.to_vec()))
            }
        }
        // As bytes serde_json takes a lone half of a character, which it refuses in a `String`.
        deserializer.deserialize_bytes(Bytes)
    }
}

/// Joins the pieces of a text. A half of a character waits for its other half in the next piece.
#[derive(Debug, Default)]
pub(super) struct TextJoiner {
    half: Option<[u8; HALF]>,
}

/// The bytes of a half of a character in WTF-8.
const HALF: usize = 3;

impl TextJoiner {
    /// The text that is whole now. A half that lacks its other half is U+FFFD.
    pub fn join(&mut self, piece: TextPiece) -> String {
        let mut bytes = piece.0;
        if bytes.is_empty() {
            return String::new();
        }
        if let Some(first) = self.half.take() {
            match bytes
                .first_chunk()
                .and_then(|second| character(first, *second))
            {
                Some(whole) => {
                    let mut utf8 = [0; 4];
                    let utf8 = whole.encode_utf8(&mut utf8).as_bytes();
                    bytes.splice(..HALF, utf8.iter().copied());
                }
                None => drop(bytes.splice(..0, first)),
            }
        }
        if let Some(last) = bytes.last_chunk::<HALF>().copied()
            && (0xD800..0xDC00).contains(&code_unit(last))
        {
            self.half = Some(last);
            bytes.truncate(bytes.len() - HALF);
        }
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => without_halves(&error.into_bytes()),
        }
    }

    /// The half that is left at the end of the text.
    pub fn end(&mut self) -> Option<char> {
        self.half.take().map(|_| char::REPLACEMENT_CHARACTER)
    }
}

/// The code unit of a half in WTF-8; another number for other bytes.
fn code_unit([a, b, c]: [u8; HALF]) -> u32 {
    if a != 0xED || b < 0xA0 {
        return 0;
    }
    0xD000 | (u32::from(b & 0x3F) << 6) | u32::from(c & 0x3F)
}

/// The character of two halves.
fn character(first: [u8; HALF], second: [u8; HALF]) -> Option<char> {
    let (first, second) = (code_unit(first), code_unit(second));
    if !(0xDC00..0xE000).contains(&second) {
        return None;
    }
    char::from_u32(0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00))
}

fn without_halves(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut left = bytes;
    loop {
        let at = left
            .windows(HALF)
            .position(|window| window[0] == 0xED && window[1] >= 0xA0);
        let Some(at) = at else {
            text.push_str(&String::from_utf8_lossy(left));
            return text;
        };
        text.push_str(&String::from_utf8_lossy(&left[..at]));
        text.push(char::REPLACEMENT_CHARACTER);
        left = &left[at + HALF..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(lines: &[&str]) -> String {
        let mut joiner = TextJoiner::default();
        let mut text = String::new();
        for content in lines {
            let line = format!(r#"{{"message":{{"content":"{content}"}}}}"#);
            text.push_str(&joiner.join(Frame::read(line.as_bytes()).unwrap().text));
        }
        text.extend(joiner.end());
        text
    }

    #[test]
    fn halves_of_characters_are_joined_over_frames() {
        assert_eq!(joined(&[r"a\ud83d", r"\ude00b"]), "a😀b");
        assert_eq!(joined(&[r"\ud83d", "", r"\ude00\ud83d", r"\ude01"]), "😀😁");
        assert_eq!(joined(&[r"\ud83d\ude00", "你\\u597d"]), "😀你好");
        for (lines, shown) in [
            (&[r"a\ud83d", "b"][..], "a\u{fffd}b"),
            (&[r"a\ude00b"], "a\u{fffd}b"),
            (&[r"\ud83d", r"\ud83d", r"\ude00"], "\u{fffd}😀"),
            (&[r"a\ud83d"], "a\u{fffd}"),
            (&[r"\ud83dx\ude00"], "\u{fffd}x\u{fffd}"),
        ] {
            assert_eq!(joined(lines), shown, "{lines:?}");
        }
    }

    #[test]
    fn odd_numbers_and_nulls_are_taken() {
        let line = br#"{"error":null,"message":{"content":null,"thinking":null,"role":"assistant"},"done":true,"done_reason":null,
            "prompt_eval_count":7.0,"eval_count":-1,"total_duration":5.5e6,"load_duration":null,"unknown":[1]}"#;
        let frame = Frame::read(line).unwrap();
        let metrics = frame.done.unwrap();
        assert_eq!((frame.error, frame.has_thought), (None, false));
        assert_eq!(metrics.finish_reason, Some(FinishReason::Stop));
        assert_eq!(
            (
                metrics.prompt_tokens,
                metrics.answer_tokens,
                metrics.total_ms,
                metrics.load_ms
            ),
            (Some(7), None, Some(5), None)
        );
        let frame = Frame::read(br#"{"message":null,"done":null}"#).unwrap();
        assert!(frame.done.is_none() && frame.text.0.is_empty());
        let frame = Frame::read(br#"{"done":true,"done_reason":"length"}"#).unwrap();
        let reason = frame.done.unwrap().finish_reason;
        assert_eq!(reason, Some(FinishReason::Length));
        assert!(Frame::read(b"<html>").is_err());
        assert!(Frame::read(br#"{"message":{"content":7}}"#).is_err());
    }

    #[test]
    fn calls_are_read_however_they_are_written() {
        let line = br#"{"message":{"content":"","tool_calls":[
            {"id":"call_1","function":{"index":0,"name":"a","arguments":{"x":1}}},
            {"function":{"name":"b","arguments":"{\"y\":2}"}},
            {"function":{"name":"c"}},{"function":{}},7]}}"#;
        let frame = Frame::read(line).unwrap();
        let calls: Vec<String> = frame
            .calls
            .iter()
            .map(|call| format!("{} {}", call.name, Value::from(call.arguments.clone())))
            .collect();
        assert_eq!(calls, [r#"a {"x":1}"#, r#"b {"y":2}"#, "c {}"]);
        let frame = Frame::read(br#"{"message":{"tool_calls":null}}"#).unwrap();
        assert_eq!(frame.calls, []);
    }
}
