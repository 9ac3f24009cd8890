//! Turns whose messages a program gives, because it keeps its own history. The messages are in this node's memory alone:
//! such a turn ends with its connection, so no other node goes on with it. Its question and its answer are facts like any
//! other turn's.

use std::{collections::HashMap, sync::Arc};

use genie_events::{Refusal, TurnId, chat::ToolCall};
use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::conversation::tokens;
pub use crate::ollama::Sampling;
use crate::ollama::{
    AnswerLimits, CalledFunction, CalledTool, ModelMessage, ModelPrompt, ResultOf,
};

/// The code of a conversation that is too long for the model.
pub const TOO_LONG: &str = "context_length_exceeded";

/// What a program asks of a model.
#[derive(Debug, Clone)]
pub struct GivenConversation {
    pub model: String,
    /// What stands after the server's system prompt.
    pub context: Vec<String>,
    pub messages: Vec<GivenMessage>,
    /// The program's own tools, each as the model server takes it.
    pub tools: Vec<Value>,
    /// `"json"`, or a JSON Schema that the answer follows.
    pub format: Option<Value>,
    pub sampling: Sampling,
    /// The most tokens of the answer, if fewer than the server's setting.
    pub answer_tokens: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum GivenMessage {
    System(String),
    User {
        text: String,
        /// In base64.
        images: Vec<String>,
    },
    Assistant {
        text: String,
        calls: Vec<ToolCall>,
    },
    /// The result of a call, by the call's id.
    Result {
        call: String,
        text: String,
    },
    /// Nothing for the model. It keeps the places of the others.
    Left,
}

/// A turn that was asked for with its messages.
#[derive(Debug)]
pub(crate) struct GivenTurn {
    pub model: String,
    messages: Vec<ModelMessage>,
    tools: Vec<Value>,
    format: Option<Value>,
    sampling: Sampling,
    pub limits: AnswerLimits,
    /// Cancelled when the connection that asked is closed.
    pub stop: CancellationToken,
}

impl GivenTurn {
    /// `system` is the system prompt; `budget` is in estimated tokens.
    pub fn new(
        given: GivenConversation,
        system: String,
        budget: usize,
        most: AnswerLimits,
    ) -> Result<Self, Refusal> {
        let of_tools: usize = given
            .tools
            .iter()
            .map(|tool| tokens(&tool.to_string()))
            .sum();
        let mut system = vec![system];
        system.extend(given.context);
        let budget = budget.saturating_sub(of_tools);
        let messages = fitting(system, given.messages, budget)?;
        let answer_tokens = given.answer_tokens.unwrap_or(most.answer_tokens);
        Ok(Self {
            model: given.model,
            messages,
            tools: given.tools,
            format: given.format,
            sampling: given.sampling,
            limits: AnswerLimits {
                answer_tokens: answer_tokens.min(most.answer_tokens),
                ..most
            },
            stop: CancellationToken::new(),
        })
    }

    pub fn prompt(&self) -> ModelPrompt<'_> {
        ModelPrompt {
            messages: &self.messages,
            tools: &self.tools,
            format: self.format.as_ref(),
            sampling: Some(&self.sampling),
        }
    }
}

/// The given turns of this node, from before their question is written until their end.
#[derive(Debug, Default)]
pub(crate) struct GivenTurns(Mutex<HashMap<TurnId, Arc<GivenTurn>>>);

impl GivenTurns {
    pub fn add(&self, turn: TurnId, given: GivenTurn) {
        self.0.lock().insert(turn, Arc::new(given));
    }

    pub fn get(&self, turn: TurnId) -> Option<Arc<GivenTurn>> {
        self.0.lock().get(&turn).cloned()
    }

    pub fn remove(&self, turn: TurnId) {
        self.0.lock().remove(&turn);
    }
}

/// The text by which a turn is known: the last message of the user, or the last message when there is none.
pub(super) fn question(messages: &[GivenMessage]) -> &str {
    let of_user = |message: &&GivenMessage| matches!(message, GivenMessage::User { .. });
    let question = messages.iter().rev().find(of_user).or(messages.last());
    match question {
        Some(
            GivenMessage::User { text, .. }
            | GivenMessage::System(text)
            | GivenMessage::Assistant { text, .. }
            | GivenMessage::Result { text, .. },
        ) => text,
        Some(GivenMessage::Left) | None => "",
    }
}

/// Messages that stand or fall together: calls of tools and their results, or one other message.
type MessageGroup = Vec<ModelMessage>;

/// The system prompt, and the newest messages that fit. What follows the last message of the user must fit, with it and
/// with the system messages before all others.
fn fitting(
    system: Vec<String>,
    given: Vec<GivenMessage>,
    budget: usize,
) -> Result<Vec<ModelMessage>, Refusal> {
    let (system, groups) = grouped(system, given)?;
    let is_of_user = |group: &MessageGroup| group[0].role == "user";
    let last = groups.len().checked_sub(1);
    let needed = groups.iter().rposition(is_of_user).or(last).unwrap_or(0);
    let needs: usize = groups[needed..].iter().map(tokens_of_group).sum();
    let mut left = budget
        .checked_sub(tokens(&system) + needs)
        .ok_or_else(too_long)?;
    let mut first = needed;
    while let Some(older) = first.checked_sub(1)
        && let Some(rest) = left.checked_sub(tokens_of_group(&groups[older]))
    {
        left = rest;
        first = older;
    }
    let is_cut = first > 0;
    let kept = groups.into_iter().skip(first);
    // Many models' templates take only a conversation that the user begins.
    let kept = kept.skip_while(|group| is_cut && !is_of_user(group));
    let mut messages = vec![ModelMessage::new("system", system)];
    for message in kept.flatten() {
        match messages.last_mut() {
            Some(last) if is_one_with(last, &message) => {
                last.content.push_str("\n\n");
                last.content.push_str(&message.content);
            }
            _ => messages.push(message),
        }
    }
    Ok(messages)
}

/// True for two messages that are one to models whose templates take a user and an assistant in turns.
fn is_one_with(last: &ModelMessage, next: &ModelMessage) -> bool {
    let is_plain = |message: &ModelMessage| {
        message.images.is_empty() && message.tool_calls.is_empty() && message.result_of.is_none()
    };
    last.role == next.role && last.role != "system" && is_plain(last) && is_plain(next)
}

/// The system prompt with the system messages at the beginning, and the other messages in groups.
fn grouped(
    mut system: Vec<String>,
    given: Vec<GivenMessage>,
) -> Result<(String, Vec<MessageGroup>), Refusal> {
    let mut groups: Vec<MessageGroup> = Vec::new();
    for (n, message) in given.into_iter().enumerate() {
        let message = match message {
            GivenMessage::Left => continue,
            GivenMessage::System(text) if groups.is_empty() => {
                system.push(text);
                continue;
            }
            GivenMessage::System(text) => ModelMessage::new("system", text),
            GivenMessage::User { text, images } => ModelMessage {
                images,
                ..ModelMessage::new("user", text)
            },
            GivenMessage::Assistant { text, calls } => ModelMessage {
                tool_calls: calls.into_iter().map(called).collect(),
                ..ModelMessage::new("assistant", text)
            },
            GivenMessage::Result { call, text } => {
                let group = groups.last_mut().ok_or_else(|| no_such_call(n))?;
                let result = result(&call, text, &group[0]).ok_or_else(|| no_such_call(n))?;
                group.push(result);
                continue;
            }
        };
        groups.push(vec![message]);
    }
    Ok((system.join("\n\n"), groups))
}

fn called(call: ToolCall) -> CalledTool {
    CalledTool {
        id: call.id,
        function: CalledFunction {
            name: call.name,
            arguments: call.arguments,
        },
    }
}

/// The result of one of the calls of a message.
fn result(call: &str, text: String, calls: &ModelMessage) -> Option<ModelMessage> {
    let called = calls.tool_calls.iter().find(|called| called.id == call)?;
    Some(ModelMessage {
        result_of: Some(ResultOf {
            tool_name: called.function.name.clone(),
            tool_call_id: call.to_owned(),
        }),
        ..ModelMessage::new("tool", text)
    })
}

/// The estimated tokens of a picture.
const PER_IMAGE: usize = 768;

fn tokens_of_group(group: &MessageGroup) -> usize {
    let of_message = |message: &ModelMessage| {
        let calls: usize = message
            .tool_calls
            .iter()
            .map(|call| {
                let arguments = Value::from(call.function.arguments.clone()).to_string();
                tokens(&call.function.name) + tokens(&arguments)
            })
            .sum();
        tokens(&message.content) + calls + message.images.len() * PER_IMAGE
    };
    group.iter().map(of_message).sum()
}

fn too_long() -> Refusal {
    Refusal {
        code: TOO_LONG,
        ..Refusal::invalid(
            "messages",
            "`messages` is longer than the model's context; shorten the last message, or what follows it",
        )
    }
}

fn no_such_call(n: usize) -> Refusal {
    Refusal::invalid(
        "messages",
        format!(
            "`messages[{n}].tool_call_id` must be the id of a call in the assistant's message before it"
        ),
    )
}

/// Names each call of an answer, in order. Model servers give no ids, or the same ones again.
pub(super) fn call_id(turn: TurnId, n: usize) -> String {
    format!("call_{}_{n}", turn.0.simple())
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    const SYSTEM_PROMPT: &str = "Be helpful.";

    fn prompt() -> Vec<String> {
        vec![SYSTEM_PROMPT.to_owned()]
    }

    fn user(text: &str) -> GivenMessage {
        GivenMessage::User {
            text: text.into(),
            images: vec![],
        }
    }
    fn says(text: &str) -> GivenMessage {
        GivenMessage::Assistant {
            text: text.into(),
            calls: vec![],
        }
    }
    fn calls(ids: &[&str]) -> GivenMessage {
        let call = |id: &&str| ToolCall {
            id: (*id).into(),
            name: format!("tool of {id}"),
            arguments: Map::new(),
        };
        GivenMessage::Assistant {
            text: String::new(),
            calls: ids.iter().map(call).collect(),
        }
    }
    fn result(call: &str, text: &str) -> GivenMessage {
        GivenMessage::Result {
            call: call.into(),
            text: text.into(),
        }
    }

    /// Role and text of what the model gets, without the system prompt.
    fn got(given: &[GivenMessage], budget: usize) -> Vec<String> {
        let messages = fitting(prompt(), given.to_vec(), budget).unwrap();
        assert_eq!(messages[0].role, "system");
        assert!(messages[0].content.starts_with(SYSTEM_PROMPT));
        let shown = messages[1..]
            .iter()
            .map(|message| format!("{} {}", message.role, message.content));
        shown.collect()
    }

    #[test]
    fn all_that_fits_is_given_as_it_came_after_the_system_prompt() {
        let given = [
            GivenMessage::System("Be kind".into()),
            says("Welcome"),
            user("one"),
            user("two"),
            calls(&["a", "b"]),
            result("b", "B"),
            result("a", "A"),
            GivenMessage::System("Be brief".into()),
            user("three"),
        ];
        let all = [
            "assistant Welcome",
            "user one\n\ntwo",
            "assistant ",
            "tool B",
            "tool A",
            "system Be brief",
            "user three",
        ];
        assert_eq!(got(&given, 10_000), all);
        let messages = fitting(prompt(), given.to_vec(), 10_000).unwrap();
        assert!(messages[0].content.ends_with("\n\nBe kind"));
        let of = messages[4].result_of.as_ref().unwrap();
        assert_eq!(
            (of.tool_name.as_str(), of.tool_call_id.as_str()),
            ("tool of b", "b")
        );
        assert_eq!(question(&given), "three");
        assert_eq!(question(&given[..6]), "two");
        assert_eq!(question(&given[..2]), "Welcome");
    }

    #[test]
    fn calls_and_their_results_are_cut_together_and_what_must_fit_is_refused_otherwise() {
        let given = [
            user("old"),
            says("older"),
            user("middle"),
            calls(&["a"]),
            result("a", &"long ".repeat(100)),
            says("so"),
            user("new"),
            calls(&["b"]),
            result("b", "B"),
        ];
        let needed = |given: &[GivenMessage]| {
            let (system, groups) = grouped(prompt(), given.to_vec()).unwrap();
            tokens(&system) + groups.iter().map(tokens_of_group).sum::<usize>()
        };
        let newest = ["user new", "assistant ", "tool B"];
        assert_eq!(got(&given, needed(&given)).len(), 9);
        // The answer fits without its question, but a conversation begins with the user.
        let without_the_first = got(&given, needed(&given) - 1);
        assert_eq!(without_the_first.len(), 7);
        assert_eq!(without_the_first[0], "user middle");
        // The result does not fit, so its call is left out, too.
        assert_eq!(got(&given, needed(&given[3..]) - 1), newest);
        assert_eq!(got(&given, needed(&given[6..])), newest);
        let refused = fitting(prompt(), given.to_vec(), needed(&given[6..]) - 1).unwrap_err();
        assert_eq!(refused.code, TOO_LONG);
    }

    #[test]
    fn a_result_without_its_call_is_refused_by_its_place() {
        for given in [
            vec![result("a", "A")],
            vec![user("x"), result("a", "A")],
            vec![calls(&["a"]), user("x"), result("a", "A")],
            vec![calls(&["a"]), result("b", "B")],
        ] {
            let refused = fitting(prompt(), given.clone(), 10_000).unwrap_err();
            let place = format!("`messages[{}].tool_call_id`", given.len() - 1);
            assert!(refused.sentence.starts_with(&place), "{refused:?}");
        }
    }

    #[test]
    fn pictures_stay_with_their_message() {
        let picture = GivenMessage::User {
            text: "what is it?".into(),
            images: vec!["aGVsbG8=".into()],
        };
        let messages = fitting(prompt(), vec![user("look"), picture], 10_000).unwrap();
        assert_eq!(messages.len(), 3);
        assert_eq!(messages[2].images, ["aGVsbG8="]);
    }
}
