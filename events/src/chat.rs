//! `chat`: the turns of a session. Each turn is a question and one answer, whatever its outcome.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use unicode_segmentation::UnicodeSegmentation;

use crate::{aggregate, domain_event, ids::TurnId, refusal::Refusal, typed_text};

/// The type of the fact that a session was removed.
pub const REMOVED: &str = "chat.removed";

/// The state of a session. Its messages stay in the log and are read from there when they are
/// needed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Chat {
    running: Option<TurnId>,
    /// The running turns whose messages a program gave, and their models. They do not wait for each other.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    prompted: BTreeMap<TurnId, String>,
    /// The interrupted turn that the running one goes on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    continues: Option<TurnId>,
    /// The last turn, while none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<LastTurn>,
    /// The session was removed, and nothing was asked since.
    #[serde(skip)]
    removed: bool,
}

/// The turn that ended last in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct LastTurn {
    turn: TurnId,
    outcome: TurnOutcome,
    /// The interrupted turn that it went on with.
    continues: Option<TurnId>,
}

/// The longest title, in characters.
pub const MAX_TITLE: usize = 200;
/// The characters of a first question that name its session.
const DEFAULT_TITLE: usize = 60;

/// The characters of a first question in which its title is looked for.
const LOOKED_AT: usize = 2000;

/// The title of a session that the user gave none: the beginning of its first question, on one line. What a reader sees
/// as one character is not cut.
pub fn default_title(question: &str) -> String {
    let beginning: String = question.chars().take(LOOKED_AT).collect();
    let words: Vec<&str> = beginning.split_whitespace().collect();
    let one_line = typed_text::cleaned(&words.join(" "));
    let mut title = String::new();
    let mut left = DEFAULT_TITLE;
    for seen in one_line.graphemes(true) {
        let characters = seen.chars().count();
        if characters > left {
            break;
        }
        left -= characters;
        title.push_str(seen);
    }
    if title.is_empty() {
        // A pile of marks that is longer than a title.
        title = one_line.chars().take(DEFAULT_TITLE).collect();
    }
    title.truncate(title.trim_end().len());
    title
}

/// The outcome of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnOutcome {
    /// The model finished its answer.
    Completed,
    Stopped,
    Failed,
    /// genie died during the turn.
    Interrupted,
}

impl TurnOutcome {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Why the model ended its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// It had said all.
    Stop,
    /// It had no tokens left, so the answer may break off in the middle.
    Length,
    /// It asked for tools.
    ToolCalls,
}

impl FinishReason {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

/// The model server's account of its work: tokens, durations in milliseconds, and why it ended. Each
/// may be unknown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TurnMetrics {
    /// Tokens of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_tokens: Option<u64>,
    /// The time from the request to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_ms: Option<u64>,
    /// The time to load the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ChatCommand {
    Ask {
        turn: TurnId,
        /// The session's name; personal.
        session: String,
        /// The user's words; personal.
        message: String,
    },
    /// Asks with messages that the program gives itself: it keeps its own history.
    Prompt {
        turn: TurnId,
        /// The session's name; personal.
        session: String,
        /// The last of the user's messages; personal.
        message: String,
        model: String,
    },
    /// Goes on with an interrupted turn, by a new one. The text of the first is the beginning of the answer.
    Continue {
        turn: TurnId,
        continues: TurnId,
    },
    Answer {
        turn: TurnId,
        answer: TurnAnswer,
    },
    /// Gives the session a title of the user's own.
    Rename {
        /// Personal. `None` for the default title.
        title: Option<String>,
    },
    /// Removes the session with its messages. Its name is free again.
    Remove,
}

/// A call of a tool that the model asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// The model's words; personal.
    pub arguments: Map<String, Value>,
}

/// The answer of a turn and its outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnAnswer {
    /// The text as far as it came; personal.
    pub content: String,
    pub outcome: TurnOutcome,
    /// Present if the turn failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The model that answered.
    pub model: String,
    #[serde(default)]
    pub metrics: TurnMetrics,
    /// The calls of the program's own tools with which the answer ends; personal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// Why something failed: a stable code, and a sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub code: String,
    pub sentence: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ChatEvent {
    Asked {
        turn: TurnId,
        /// The session's name; personal.
        session: String,
        /// The user's words; personal.
        message: String,
    },
    /// A program asked, with messages of its own.
    Prompted {
        turn: TurnId,
        /// The session's name; personal.
        session: String,
        /// The last of the user's messages; personal.
        message: String,
        model: String,
    },
    /// A new turn goes on with an interrupted one.
    Continued { turn: TurnId, continues: TurnId },
    Answered {
        turn: TurnId,
        #[serde(flatten)]
        answer: TurnAnswer,
    },
    Renamed {
        /// Personal. `None` for the default title.
        title: Option<String>,
    },
    /// Nothing before this fact is shown or given to a model again.
    Removed {
        /// The turns that ended with the session.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        turns: Vec<TurnId>,
    },
    /// A session begins anew under the name of a removed one.
    Reopened,
}

domain_event!(ChatEvent,
    Self::Asked { .. } => "chat.asked",
    Self::Prompted { .. } => "chat.prompted",
    Self::Continued { .. } => "chat.continued",
    Self::Answered { .. } => "chat.answered",
    Self::Renamed { .. } => "chat.renamed",
    Self::Removed { .. } => "chat.removed",
    Self::Reopened => "chat.reopened",
);
aggregate!(Chat, "chat", ChatCommand, ChatEvent);

impl ChatEvent {
    /// The fields that are not personal and are stored readable.
    pub(crate) fn clear(&self) -> Value {
        match self {
            Self::Asked { turn, message, .. } => {
                json!({"turn": turn, "bytes": message.len()})
            }
            Self::Prompted {
                turn,
                message,
                model,
                ..
            } => json!({"turn": turn, "bytes": message.len(), "model": model}),
            Self::Answered { turn, answer } => json!({
                "turn": turn, "outcome": answer.outcome, "model": answer.model, "bytes": answer.content.len(),
                "failure": answer.failure.as_ref().map(|failure| &failure.code),
            }),
            Self::Continued { turn, continues } => json!({"turn": turn, "continues": continues}),
            Self::Removed { turns } => json!({"turns": (!turns.is_empty()).then_some(turns)}),
            Self::Renamed { .. } | Self::Reopened => json!({}),
        }
    }
}

impl Chat {
    /// A session of which only the type of its newest event is known.
    pub(crate) fn recalled(newest: &str) -> Self {
        Self {
            removed: newest == REMOVED,
            ..Self::default()
        }
    }

    /// A session of which only the newest events are known, oldest first.
    pub fn of_newest(events: impl IntoIterator<Item = ChatEvent>) -> Self {
        let mut chat = Self::default();
        events.into_iter().for_each(|event| chat.evolve(event));
        chat
    }

    pub fn running(&self) -> Option<TurnId> {
        self.running
    }

    pub fn is_removed(&self) -> bool {
        self.removed
    }

    /// The model of a running turn whose messages a program gave.
    pub fn prompted_model(&self, turn: TurnId) -> Option<&str> {
        self.prompted.get(&turn).map(String::as_str)
    }

    fn running_turns(&self) -> impl Iterator<Item = TurnId> {
        self.running
            .into_iter()
            .chain(self.prompted.keys().copied())
    }

    /// True while this turn runs.
    fn is_running(&self, turn: TurnId) -> bool {
        self.running == Some(turn) || self.prompted.contains_key(&turn)
    }

    /// True when no turn runs.
    pub fn is_idle(&self) -> bool {
        self.running.is_none() && self.prompted.is_empty()
    }

    pub fn decide(&self, command: ChatCommand) -> Result<Vec<ChatEvent>, Refusal> {
        match command {
            ChatCommand::Ask {
                turn,
                session,
                message,
            } => match self.running {
                Some(running) if running == turn => Ok(vec![]),
                Some(running) => Err(Refusal {
                    turn: Some(running),
                    ..turn_running()
                }),
                None => Ok(vec![ChatEvent::Asked {
                    turn,
                    session,
                    message,
                }]),
            },
            ChatCommand::Prompt { turn, .. } if self.is_running(turn) => Ok(vec![]),
            ChatCommand::Prompt {
                turn,
                session,
                message,
                model,
            } => Ok(vec![ChatEvent::Prompted {
                turn,
                session,
                message,
                model,
            }]),
            ChatCommand::Continue { turn, continues } => match self.running {
                Some(running) if running == turn => Ok(vec![]),
                Some(running) => Err(Refusal {
                    turn: Some(running),
                    ..turn_running()
                }),
                None => {
                    self.check_interrupted(continues)?;
                    Ok(vec![ChatEvent::Continued { turn, continues }])
                }
            },
            // A turn that is not running has its answer already or never existed, so there is
            // nothing to record.
            ChatCommand::Answer { turn, answer } => {
                let is_running = self.is_running(turn);
                let answered = is_running.then_some(ChatEvent::Answered { turn, answer });
                Ok(answered.into_iter().collect())
            }
            ChatCommand::Rename { .. } if self.removed => Err(Refusal::not_found("session")),
            ChatCommand::Rename { title } => Ok(vec![ChatEvent::Renamed { title }]),
            ChatCommand::Remove if self.removed => Ok(vec![]),
            ChatCommand::Remove => Ok(vec![ChatEvent::Removed {
                turns: self.running_turns().collect(),
            }]),
        }
    }

    /// Only the last turn of a session can be gone on with, and only an interrupted one: itself, or by another try when
    /// one that went on with it broke off, too.
    fn check_interrupted(&self, continues: TurnId) -> Result<(), Refusal> {
        let last = self.last.ok_or_else(turn_not_last)?;
        let has_failed = matches!(last.outcome, TurnOutcome::Failed | TurnOutcome::Interrupted);
        if last.turn == continues {
            let is_interrupted = last.outcome == TurnOutcome::Interrupted;
            return is_interrupted
                .then_some(())
                .ok_or_else(turn_not_interrupted);
        }
        let was_tried = last.continues == Some(continues) && has_failed;
        was_tried.then_some(()).ok_or_else(turn_not_last)
    }

    pub fn evolve(&mut self, event: ChatEvent) {
        match event {
            ChatEvent::Asked { turn, .. } => self.begin(turn, None),
            ChatEvent::Continued { turn, continues } => self.begin(turn, Some(continues)),
            ChatEvent::Prompted { turn, model, .. } => {
                self.prompted.insert(turn, model);
            }
            ChatEvent::Answered { turn, answer } => {
                if self.prompted.remove(&turn).is_some() {
                    return;
                }
                self.running = None;
                self.last = Some(LastTurn {
                    turn,
                    outcome: answer.outcome,
                    continues: self.continues.take(),
                });
            }
            ChatEvent::Renamed { .. } => {}
            ChatEvent::Removed { .. } => {
                *self = Self {
                    removed: true,
                    ..Self::default()
                }
            }
            ChatEvent::Reopened => self.removed = false,
        }
    }

    fn begin(&mut self, turn: TurnId, continues: Option<TurnId>) {
        self.running = Some(turn);
        self.continues = continues;
        self.last = None;
    }
}

/// An ended turn that was not interrupted.
fn turn_not_interrupted() -> Refusal {
    Refusal::conflict(
        "turn_not_interrupted",
        "Only a turn that was interrupted can be continued; ask again",
    )
}

fn turn_not_last() -> Refusal {
    Refusal::conflict(
        "turn_not_last",
        "The chat has gone on since this turn; only its last turn can be continued",
    )
}

fn turn_running() -> Refusal {
    Refusal::conflict(
        "turn_running",
        "This session is answering already; wait for the end of that turn, or stop it",
    )
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;
    use uuid::Uuid;

    use super::*;

    type Given = TestFramework<Chat>;

    fn turn(n: u128) -> TurnId {
        TurnId(Uuid::from_u128(n))
    }
    fn ask(n: u128) -> ChatCommand {
        ChatCommand::Ask {
            turn: turn(n),
            session: "s".into(),
            message: "hello".into(),
        }
    }
    fn asked(n: u128) -> ChatEvent {
        ChatEvent::Asked {
            turn: turn(n),
            session: "s".into(),
            message: "hello".into(),
        }
    }
    fn answer() -> TurnAnswer {
        TurnAnswer {
            content: "hi".into(),
            outcome: TurnOutcome::Completed,
            failure: None,
            model: "m".into(),
            metrics: TurnMetrics::default(),
            tool_calls: vec![],
        }
    }

    #[test]
    fn a_second_turn_waits_for_the_end_of_the_first_and_names_it() {
        let refused = Given::with(())
            .given(vec![asked(1)])
            .when(ask(2))
            .inspect_result()
            .unwrap_err();
        assert_eq!(
            (refused.code, refused.turn),
            ("turn_running", Some(turn(1)))
        );
        let ended = vec![
            asked(1),
            ChatEvent::Answered {
                turn: turn(1),
                answer: answer(),
            },
        ];
        Given::with(())
            .given(ended)
            .when(ask(2))
            .then_expect_events(vec![asked(2)]);
    }

    #[test]
    fn prompted_turns_wait_for_nothing_and_hold_nothing_up() {
        let prompt = |n| ChatCommand::Prompt {
            turn: turn(n),
            session: "s".into(),
            message: "hello".into(),
            model: "m".into(),
        };
        let prompted = |n| ChatEvent::Prompted {
            turn: turn(n),
            session: "s".into(),
            message: "hello".into(),
            model: "m".into(),
        };
        let answered = ChatEvent::Answered {
            turn: turn(2),
            answer: answer(),
        };
        let running = vec![asked(1), prompted(2)];
        Given::with(())
            .given(running.clone())
            .when(prompt(3))
            .then_expect_events(vec![prompted(3)]);
        Given::with(())
            .given(running.clone())
            .when(prompt(2))
            .then_expect_events(vec![]);
        let answer = ChatCommand::Answer {
            turn: turn(2),
            answer: answer(),
        };
        Given::with(())
            .given(running.clone())
            .when(answer.clone())
            .then_expect_events(vec![answered.clone()]);
        let still_running = [running, vec![answered]].concat();
        Given::with(())
            .given(still_running.clone())
            .when(answer)
            .then_expect_events(vec![]);
        let refused = Given::with(())
            .given(still_running)
            .when(ask(4))
            .inspect_result()
            .unwrap_err();
        assert_eq!(refused.turn, Some(turn(1)), "the session's own turn runs");
    }

    #[test]
    fn a_turn_is_answered_once() {
        let command = ChatCommand::Answer {
            turn: turn(1),
            answer: answer(),
        };
        let answered = ChatEvent::Answered {
            turn: turn(1),
            answer: answer(),
        };
        Given::with(())
            .given(vec![asked(1)])
            .when(command.clone())
            .then_expect_events(vec![answered.clone()]);
        Given::with(())
            .given(vec![asked(1), answered])
            .when(command)
            .then_expect_events(vec![]);
    }

    fn ended(n: u128, outcome: TurnOutcome) -> ChatEvent {
        let answer = TurnAnswer {
            outcome,
            ..answer()
        };
        ChatEvent::Answered {
            turn: turn(n),
            answer,
        }
    }
    fn continued(n: u128, continues: u128) -> ChatEvent {
        ChatEvent::Continued {
            turn: turn(n),
            continues: turn(continues),
        }
    }

    #[test]
    fn only_the_last_turn_can_be_continued_and_only_when_it_was_interrupted() {
        use TurnOutcome::{Completed, Failed, Interrupted, Stopped};
        let go_on = |events: &[ChatEvent], n, continues| {
            let command = ChatCommand::Continue {
                turn: turn(n),
                continues: turn(continues),
            };
            Chat::of_newest(events.to_vec())
                .decide(command)
                .map_err(|refusal| (refusal.code, refusal.turn))
        };
        let broken = [asked(1), ended(1, Interrupted)];
        assert_eq!(go_on(&broken, 2, 1), Ok(vec![continued(2, 1)]));
        // What was told of the first turn is enough, as when only the newest facts were read.
        assert_eq!(go_on(&broken[1..], 2, 1), Ok(vec![continued(2, 1)]));
        let running = [&broken[..], &[continued(2, 1)]].concat();
        assert_eq!(go_on(&running, 2, 1), Ok(vec![]), "asked twice");
        assert_eq!(go_on(&running, 3, 1), Err(("turn_running", Some(turn(2)))));
        for (outcome, of_first, of_second) in [
            (Failed, Ok(()), Err("turn_not_interrupted")),
            (Interrupted, Ok(()), Ok(())),
            (Completed, Err("turn_not_last"), Err("turn_not_interrupted")),
            (Stopped, Err("turn_not_last"), Err("turn_not_interrupted")),
        ] {
            let tried = [&running[..], &[ended(2, outcome)]].concat();
            let code = |of| go_on(&tried, 3, of).map(drop).map_err(|(code, _)| code);
            assert_eq!((code(1), code(2)), (of_first, of_second), "{outcome:?}");
            let gone_on = [&tried[..], &[asked(3), ended(3, Interrupted)]].concat();
            let code = |of| go_on(&gone_on, 4, of).map(drop).map_err(|(code, _)| code);
            assert_eq!(code(1), Err("turn_not_last"));
            assert_eq!(code(3), Ok(()));
        }
        let renamed = [&broken[..], &[ChatEvent::Renamed { title: None }]].concat();
        assert_eq!(go_on(&renamed, 2, 1), Ok(vec![continued(2, 1)]));
    }

    #[test]
    fn a_session_is_removed_once_with_its_running_turn() {
        let removed = |turns: Vec<TurnId>| ChatEvent::Removed { turns };
        Given::with(())
            .given(vec![asked(1)])
            .when(ChatCommand::Remove)
            .then_expect_events(vec![removed(vec![turn(1)])]);
        let gone = vec![asked(1), removed(vec![turn(1)])];
        Given::with(())
            .given(gone.clone())
            .when(ChatCommand::Remove)
            .then_expect_events(vec![]);
        Given::with(())
            .given(gone.clone())
            .when(ChatCommand::Answer {
                turn: turn(1),
                answer: answer(),
            })
            .then_expect_events(vec![]);
        let rename = ChatCommand::Rename {
            title: Some("t".into()),
        };
        let refused = Given::with(())
            .given(gone.clone())
            .when(rename.clone())
            .inspect_result()
            .unwrap_err();
        assert_eq!(refused.code, "not_found");
        Given::with(())
            .given([gone, vec![ChatEvent::Reopened, asked(2)]].concat())
            .when(rename)
            .then_expect_events(vec![ChatEvent::Renamed {
                title: Some("t".into()),
            }]);
    }

    #[test]
    fn a_session_is_named_by_the_beginning_of_its_first_question() {
        for (question, title) in [("Say hello", "Say hello"), ("  two\n lines\t", "two lines")] {
            assert_eq!(default_title(question), title);
        }
        assert_eq!(default_title(&"x".repeat(61)), "x".repeat(60));
        // A family of seven characters does not fit whole into what is left.
        let family = "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}\u{200d}\u{1f466}";
        let question = format!("{}{family}", "x".repeat(55));
        assert_eq!(default_title(&question), "x".repeat(55));
        let question = format!("{}{family}!", "x".repeat(53));
        assert_eq!(
            default_title(&question),
            format!("{}{family}", "x".repeat(53))
        );
        let marks = format!("a{}", "\u{316}".repeat(100));
        assert_eq!(default_title(&marks).chars().count(), 60);
    }
}
