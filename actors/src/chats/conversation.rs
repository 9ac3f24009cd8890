//! The part of a conversation that the model gets, and the part of an answer that is kept.

use genie_events::{TurnId, chat::ChatEvent};

use super::token_estimate::{PER_MESSAGE, estimate};
use crate::ollama::ModelMessage;

/// A conversation that is gathered backwards, from its newest event, until the budget is full.
#[derive(Debug)]
pub(super) struct ConversationBuilder {
    /// The turn that is asked for.
    turn: TurnId,
    /// The head of the conversation.
    system: String,
    /// The estimated tokens that are left.
    left: usize,
    /// The turn's question was found, or the fact that it goes on with another turn.
    found: bool,
    /// The turn's question was taken. What comes before goes only if it fits.
    has_question: bool,
    /// The turn whose answer is the beginning of the one that was taken last.
    joins: Option<TurnId>,
    newest_first: Vec<ModelMessage>,
    /// The session was removed after the question.
    removed: bool,
}

impl ConversationBuilder {
    /// `budget` is in estimated tokens.
    pub fn new(turn: TurnId, system: String, budget: usize) -> Self {
        Self {
            turn,
            left: budget.saturating_sub(tokens(&system)),
            system,
            found: false,
            has_question: false,
            joins: None,
            newest_first: Vec::new(),
            removed: false,
        }
    }

    /// True when the turn's session was removed, so that there is nothing to answer.
    pub fn is_removed(&self) -> bool {
        self.removed
    }

    /// Takes the next older event. Returns false when no older one is wanted.
    pub fn take(&mut self, event: ChatEvent) -> bool {
        match event {
            ChatEvent::Asked { turn, message, .. } | ChatEvent::Prompted { turn, message, .. } => {
                if !self.found && turn != self.turn {
                    return true; // of a later turn
                }
                self.found = true;
                self.joins = None;
                let is_taken = self.add("user", message, false);
                self.has_question = true;
                is_taken
            }
            ChatEvent::Continued { turn, continues } => {
                self.found |= turn == self.turn;
                self.joins = self.found.then_some(continues);
                true
            }
            ChatEvent::Answered { turn, answer } => {
                // An answer to a later question, or to this one.
                if !self.found || answer.content.is_empty() {
                    return true;
                }
                self.add("assistant", answer.content, self.joins == Some(turn))
            }
            ChatEvent::Removed { .. } => {
                self.removed = !self.found;
                false
            }
            ChatEvent::Renamed { .. } | ChatEvent::Reopened => true,
        }
    }

    /// `joins`: it is the beginning of the message that was added last.
    fn add(&mut self, role: &'static str, content: String, joins: bool) -> bool {
        // The question itself always goes, however long, and the part answer that is gone on with. A model server that
        // cannot take it says so.
        let tokens = tokens(&content);
        if tokens > self.left && self.has_question {
            return false;
        }
        self.left = self.left.saturating_sub(tokens);
        match self.newest_first.last_mut() {
            Some(rest) if joins && rest.role == role => rest.content.insert_str(0, &content),
            _ => self.newest_first.push(ModelMessage::new(role, content)),
        }
        true
    }

    /// The system prompt, and the messages in the order in which they were written; `None` without the question. Many
    /// models' templates take only a user and an assistant in turns, the user first. So questions without an answer
    /// between them are one message, and an answer whose question did not fit is left out.
    pub fn build(self) -> Option<Vec<ModelMessage>> {
        if self.newest_first.is_empty() {
            return None;
        }
        let mut messages = vec![ModelMessage::new("system", self.system)];
        let oldest_first = self.newest_first.into_iter().rev();
        for message in oldest_first.skip_while(|message| message.role == "assistant") {
            match messages.last_mut() {
                Some(last) if last.role == message.role => {
                    last.content.push_str("\n\n");
                    last.content.push_str(&message.content);
                }
                _ => messages.push(message),
            }
        }
        Some(messages)
    }
}

/// The estimated tokens of a message.
pub(super) fn tokens(content: &str) -> usize {
    estimate(content) + PER_MESSAGE
}

/// The estimated tokens of a conversation.
pub(super) fn tokens_of(conversation: &[ModelMessage]) -> usize {
    let messages = conversation.iter();
    messages.map(|message| tokens(&message.content)).sum()
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

    const SYSTEM_PROMPT: &str = "You are a helpful assistant. Be brief and concrete.";

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
            tool_calls: vec![],
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

    /// What the model is given of a history, and how many events of it were read.
    fn given(
        history: &[ChatEvent],
        asked: u128,
        budget: usize,
    ) -> (Vec<(&'static str, String)>, usize) {
        let mut conversation = ConversationBuilder::new(turn(asked), SYSTEM_PROMPT.into(), budget);
        let mut read = 0;
        for event in history.iter().rev() {
            read += 1;
            if !conversation.take(event.clone()) {
                break;
            }
        }
        let messages = conversation.build().unwrap();
        assert_eq!(messages[0].role, "system");
        let messages = messages.into_iter().skip(1);
        let shown = messages.map(|message| (message.role, message.content));
        (shown.collect(), read)
    }

    #[test]
    fn the_newest_messages_that_fit_are_given_after_the_system_prompt() {
        let history = [
            asked(1, "one"),
            answered(1, "ONE"),
            asked(2, "two"),
            answered(2, ""),
            asked(3, "three"),
            answered(3, "late"),
            asked(4, "later"),
        ];
        let of = |role, text: &str| (role, text.to_owned());
        let all = vec![
            of("user", "one"),
            of("assistant", "ONE"),
            of("user", "two\n\nthree"),
        ];
        assert_eq!(given(&history, 3, 100_000), (all, 7));
        let two = tokens(SYSTEM_PROMPT) + tokens("three") + tokens("two");
        let newest = vec![of("user", "two\n\nthree")];
        assert_eq!(given(&history, 3, two), (newest.clone(), 6));
        let three = two + tokens("ONE");
        assert_eq!(
            given(&history, 3, three),
            (newest, 7),
            "no answer without its question"
        );
        let question = vec![of("user", "three")];
        assert_eq!(
            given(&history, 3, 0),
            (question, 5),
            "the question always goes"
        );
    }

    #[test]
    fn an_interrupted_answer_is_gone_on_with_and_is_one_message_later() {
        let continued = |n, continues| ChatEvent::Continued {
            turn: turn(n),
            continues: turn(continues),
        };
        let of = |role, text: &str| (role, text.to_owned());
        let history = [
            asked(1, "one"),
            answered(1, "ONE"),
            asked(2, "two"),
            answered(2, "TW"),
            continued(3, 2),
            answered(3, ""),
            continued(4, 2),
            answered(4, "O"),
            asked(5, "five"),
        ];
        let before = vec![of("user", "one"), of("assistant", "ONE"), of("user", "two")];
        let part = [before.clone(), vec![of("assistant", "TW")]].concat();
        assert_eq!(given(&history, 3, 100_000), (part.clone(), 9));
        assert_eq!(given(&history, 4, 100_000), (part.clone(), 9));
        assert_eq!(
            given(&history, 4, 0),
            (part[2..].to_vec(), 8),
            "however long"
        );
        let whole = [of("assistant", "TWO"), of("user", "five")];
        assert_eq!(
            given(&history, 5, 100_000),
            ([before, whole.to_vec()].concat(), 9)
        );
    }

    #[test]
    fn nothing_before_the_removal_of_a_session_is_given() {
        let removed = ChatEvent::Removed { turns: vec![] };
        let history = [
            asked(1, "one"),
            answered(1, "ONE"),
            removed.clone(),
            ChatEvent::Reopened,
            asked(2, "two"),
        ];
        let new = vec![("user", "two".to_owned())];
        assert_eq!(given(&history, 2, 100_000), (new, 3));
        let mut conversation = ConversationBuilder::new(turn(2), SYSTEM_PROMPT.into(), 1000);
        assert!(!conversation.take(removed), "removed after its question");
        assert!(conversation.is_removed());
    }

    #[test]
    fn a_conversation_without_its_question_is_none() {
        let mut conversation = ConversationBuilder::new(turn(9), SYSTEM_PROMPT.into(), 1000);
        assert!(conversation.take(asked(1, "one")));
        assert!(conversation.build().is_none());
    }

    #[test]
    fn messages_without_text_fill_the_budget_too() {
        let history: Vec<ChatEvent> = (1..=1000).map(|n| asked(n, "x")).collect();
        let budget = tokens(SYSTEM_PROMPT) + 100 * tokens("x");
        let (messages, read) = given(&history, 1000, budget);
        assert_eq!((messages.len(), read), (1, 101));
        assert_eq!(messages[0].1.matches('x').count(), 100);
    }
}
