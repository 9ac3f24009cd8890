//! Reads server-sent events as a client does, in pieces.

use std::time::Duration;

use reqwest::Response;
use serde_json::Value;
use tokio::time::timeout;

/// A stream without anything for so long, heartbeats included, counts as dead.
const SILENCE: Duration = Duration::from_secs(15);
/// The most bytes of one event.
const LONGEST: usize = 4 << 20;

/// One event, or a bare cursor.
#[derive(Debug, Default, PartialEq)]
pub struct StreamEvent {
    pub id: Option<String>,
    pub data: Option<Value>,
}

pub struct EventStream {
    response: Response,
    buffer: Vec<u8>,
}

impl EventStream {
    pub fn of(response: Response) -> Self {
        Self {
            response,
            buffer: Vec::new(),
        }
    }

    /// The next event; `None` when the stream ended, broke or went silent.
    pub async fn next(&mut self) -> Option<StreamEvent> {
        loop {
            if let Some(event) = take_event(&mut self.buffer) {
                return Some(event);
            }
            let piece = timeout(SILENCE, self.response.chunk()).await.ok()?.ok()??;
            self.buffer.extend_from_slice(&piece);
            if self.buffer.len() > LONGEST {
                return None;
            }
        }
    }
}

/// Takes the first whole event out of the buffer.
fn take_event(buffer: &mut Vec<u8>) -> Option<StreamEvent> {
    let end = buffer.windows(2).position(|two| two == b"\n\n")?;
    let block: Vec<u8> = buffer.drain(..end + 2).collect();
    let text = String::from_utf8_lossy(&block);
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    Some(StreamEvent {
        id: field("id:").map(str::to_owned),
        data: field("data:").and_then(|data| serde_json::from_str(data).ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_or_not_yet_there() {
        let mut buffer =
            b"retry: 2000\nid: a\ndata: {\"n\":1}\n\n: still here\nid: b\n\n: still here\nid: c\nda".to_vec();
        let events: Vec<StreamEvent> = std::iter::from_fn(|| take_event(&mut buffer)).collect();
        let a = StreamEvent {
            id: Some("a".into()),
            data: Some(serde_json::json!({"n": 1})),
        };
        let b = StreamEvent {
            id: Some("b".into()),
            data: None,
        };
        assert_eq!(events, [a, b]);
        assert_eq!(buffer, b": still here\nid: c\nda");
    }
}
