//! The part of a conversation that the model gets, and the part of an answer that is kept.

use genie_events::{TurnId, chat::ChatEvent};

use crate::ollama::ModelMessage;

/// The estimated bytes of a token, to fit a conversation into the model's context.
pub(super) const BYTES_PER_TOKEN: usize = 4;

const SYSTEM_PROMPT: &str =
    "You are Genie, a helpful assistant for content creators. Be brief and concrete.";

/// The conversation up to this turn's question: the system prompt, then the newest messages that fit.
pub(super) fn conversation(
    history: &[ChatEvent],
    turn: TurnId,
    budget: usize,
) -> Vec<ModelMessage> {
    let mut messages = Vec::new();
    for event in history {
        match event {
            ChatEvent::Asked {
                turn: asked,
                message,
                ..
            } => {
                messages.push(ModelMessage {
                    role: "user",
                    content: message.clone(),
                });
                if *asked == turn {
                    break;
                }
            }
            ChatEvent::Answered { answer, .. } if !answer.content.is_empty() => {
                messages.push(ModelMessage {
                    role: "assistant",
                    content: answer.content.clone(),
                });
            }
            ChatEvent::Answered { .. } => {}
        }
    }
    let mut left = budget.saturating_sub(SYSTEM_PROMPT.len());
    let mut fitting: Vec<ModelMessage> = Vec::new();
    for (n, message) in messages.into_iter().rev().enumerate() {
        // The question itself always goes, however long. A model server that cannot take it says so.
        if n > 0 && message.content.len() > left {
            break;
        }
        left = left.saturating_sub(message.content.len());
        fitting.push(message);
    }
    fitting.push(ModelMessage {
        role: "system",
        content: SYSTEM_PROMPT.into(),
    });
    fitting.reverse();
    fitting
}

/// The beginning of a text that fits into `room` bytes of JSON, which are subtracted from `room`.
pub(crate) fn fitting<'a>(text: &'a str, room: &mut usize) -> &'a str {
    for (at, character) in text.char_indices() {
        let bytes = match character {
            '"' | '\\' | '\n' | '\r' | '\t' => 2,
            control if control.is_control() => 6,
            other => other.len_utf8(),
        };
        match room.checked_sub(bytes) {
            Some(left) => *room = left,
            None => {
                *room = 0;
                return &text[..at];
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use genie_events::chat::{TurnAnswer, TurnMetrics, TurnOutcome};
    use uuid::Uuid;

    use super::*;

    fn turn(n: u128) -> TurnId {
        TurnId(Uuid::from_u128(n))
    }
    fn asked(n: u128, message: &str) -> ChatEvent {
        ChatEvent::Asked {
            turn: turn(n),
            session: "s".into(),
            message: message.into(),
        }
    }
    fn answered(n: u128, content: &str) -> ChatEvent {
        let answer = TurnAnswer {
            content: content.into(),
            outcome: TurnOutcome::Completed,
            failure: None,
            model: "m".into(),
            metrics: TurnMetrics::default(),
        };
        ChatEvent::Answered {
            turn: turn(n),
            answer,
        }
    }

    #[test]
    fn a_fitting_text_is_measured_as_json() {
        for text in [
            "plain",
            "line\nfeed \"quoted\" \\",
            "\u{1}\u{7f}",
            "你好 😀",
        ] {
            let mut room = 1000;
            assert_eq!(fitting(text, &mut room), text);
            let json = serde_json::to_string(text).unwrap().len() - 2;
            assert!(1000 - room >= json, "{text:?}: {} < {json}", 1000 - room);
        }
        let mut room = 3;
        assert_eq!((fitting("你好", &mut room), room), ("你", 0));
        let mut room = 3;
        assert_eq!((fitting("\n\n", &mut room), room), ("\n", 0));
    }

    #[test]
    fn the_newest_messages_that_fit_are_given_after_the_system_prompt() {
        let history = [
            asked(1, "one"),
            answered(1, "ONE"),
            asked(2, "two"),
            answered(2, ""),
            asked(3, "three"),
            asked(4, "later"),
        ];
        let roles = |budget| -> Vec<(&'static str, String)> {
            conversation(&history, turn(3), budget)
                .into_iter()
                .skip(1)
                .map(|message| (message.role, message.content))
                .collect()
        };
        let all = [
            ("user", "one"),
            ("assistant", "ONE"),
            ("user", "two"),
            ("user", "three"),
        ];
        assert_eq!(
            roles(100_000),
            all.map(|(role, text)| (role, text.to_owned()))
        );
        assert_eq!(
            roles(SYSTEM_PROMPT.len() + 8),
            [("user", "two".to_owned()), ("user", "three".to_owned())]
        );
        assert_eq!(
            roles(0),
            [("user", "three".to_owned())],
            "the question always goes"
        );
        assert_eq!(conversation(&history, turn(3), 0)[0].role, "system");
    }
}
