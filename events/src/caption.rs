//! `caption`: one caption that the model was asked for, and its outcome.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    aggregate, chat::Failure, domain_event, refusal::Refusal, timestamp::Month, typed_text,
};

/// The longest caption of each platform.
mod cap;
pub use cap::CaptionCap;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Caption {
    #[default]
    Absent,
    Requested {
        /// The month in which the caption was counted.
        month: Month,
    },
    /// The caption was written or failed.
    Ended,
}

/// The request for a caption (docs/api.md, Captions).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Brief {
    pub platform: Platform,
    /// Personal.
    pub tone: String,
    /// Personal.
    pub topic: String,
    pub length: Length,
    /// The user's name on the platform; personal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform_username: Option<String>,
}

/// A brief in the words of a client. A blank text counts as absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct BriefWords {
    pub platform: Option<String>,
    pub tone: Option<String>,
    pub topic: Option<String>,
    pub length: Option<String>,
    pub platform_username: Option<String>,
}

/// The longest text of a brief, in characters.
const LONGEST_TEXT: usize = 500;

impl TryFrom<BriefWords> for Brief {
    /// A sentence for the client.
    type Error = String;

    fn try_from(words: BriefWords) -> Result<Self, String> {
        let platform = match &words.platform {
            None => Platform::default(),
            Some(word) => {
                Platform::parse(&typed_text::cleaned_lower_case(word)).ok_or_else(|| {
                    let known = Platform::ALL.map(Platform::as_str).join(", ");
                    format!("`platform` must be one of: {known}")
                })?
            }
        };
        let length = match &words.length {
            None => Length::default(),
            Some(word) => {
                Length::parse(word).ok_or("`length` must be one of: short, medium, long")?
            }
        };
        Ok(Self {
            platform,
            tone: text("tone", words.tone)?.unwrap_or_else(|| "playful".into()),
            topic: text("topic", words.topic)?.unwrap_or_else(|| "new content drop".into()),
            length,
            platform_username: text("platform_username", words.platform_username)?,
        })
    }
}

fn text(name: &str, given: Option<String>) -> Result<Option<String>, String> {
    match given.filter(|text| !text.trim().is_empty()) {
        Some(text) if text.chars().count() > LONGEST_TEXT => Err(format!(
            "`{name}` must be at most {LONGEST_TEXT} characters"
        )),
        given => Ok(given),
    }
}

/// The platform of a caption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    #[default]
    Onlyfans,
    Fansly,
    X,
    Reddit,
    Tiktok,
    Instagram,
    Youtube,
    Snapchat,
}

impl Platform {
    pub const ALL: [Self; 8] = [
        Self::Onlyfans,
        Self::Fansly,
        Self::X,
        Self::Reddit,
        Self::Tiktok,
        Self::Instagram,
        Self::Youtube,
        Self::Snapchat,
    ];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Onlyfans => "onlyfans",
            Self::Fansly => "fansly",
            Self::X => "x",
            Self::Reddit => "reddit",
            Self::Tiktok => "tiktok",
            Self::Instagram => "instagram",
            Self::Youtube => "youtube",
            Self::Snapchat => "snapchat",
        }
    }

    /// Reads a stored or sent word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|platform| platform.as_str() == word)
    }

    /// The platform's style, as the prompt describes it.
    pub fn style(self) -> &'static str {
        match self {
            Self::Onlyfans => "1 to 3 short sentences, intimate, no links",
            Self::Fansly => "flirty and direct",
            Self::X => "under 280 characters, a hook first, then the value",
            Self::Reddit => "conversational, as one member of the community to others",
            Self::Tiktok => "at most 150 characters, with hashtags",
            Self::Instagram => "with 3 to 5 hashtags at the end",
            Self::Youtube => "the first two lines are the hook, with keywords",
            Self::Snapchat => "at most 30 characters",
        }
    }
}

/// The length of a caption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// 1 to 2 sentences.
    Short,
    /// 2 to 4 sentences.
    #[default]
    Medium,
    /// 4 to 8 sentences.
    Long,
}

impl Length {
    /// Reads a stored or sent word.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "short" => Self::Short,
            "medium" => Self::Medium,
            "long" => Self::Long,
            _ => return None,
        })
    }

    /// The length, as the prompt describes it.
    pub fn sentences(self) -> &'static str {
        match self {
            Self::Short => "1 to 2 sentences",
            Self::Medium => "2 to 4 sentences",
            Self::Long => "4 to 8 sentences",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum CaptionCommand {
    Request {
        brief: Brief,
        /// The month in which the caption is counted.
        month: Month,
    },
    Finish(Result<WrittenCaption, Failure>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenCaption {
    /// Personal.
    pub text: String,
    /// The model that wrote it.
    pub model: String,
    /// True when the text was cut at the platform's limit.
    pub truncated: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum CaptionEvent {
    Requested {
        #[serde(flatten)]
        brief: Brief,
        /// The month in which the caption was counted.
        month: Month,
    },
    Completed(WrittenCaption),
    /// The caption failed. This fact also gives the quota unit back.
    Failed(Failure),
}

domain_event!(CaptionEvent,
    Self::Requested { .. } => "caption.requested",
    Self::Completed(_) => "caption.completed",
    Self::Failed(_) => "caption.failed",
);
aggregate!(Caption, "caption", CaptionCommand, CaptionEvent);

impl CaptionEvent {
    /// The fields that are not personal and are stored readable.
    pub(crate) fn clear(&self) -> Value {
        match self {
            Self::Requested { brief, .. } => {
                json!({"platform": brief.platform, "length": brief.length})
            }
            Self::Completed(written) => {
                json!({"model": written.model, "truncated": written.truncated})
            }
            Self::Failed(failure) => json!({"failure": failure.code}),
        }
    }
}

impl Caption {
    pub fn decide(&self, command: CaptionCommand) -> Result<Vec<CaptionEvent>, Refusal> {
        match (self, command) {
            (Self::Absent, CaptionCommand::Request { brief, month }) => {
                Ok(vec![CaptionEvent::Requested { brief, month }])
            }
            (Self::Requested { .. }, CaptionCommand::Finish(Ok(written))) => {
                Ok(vec![CaptionEvent::Completed(written)])
            }
            (Self::Requested { .. }, CaptionCommand::Finish(Err(failure))) => {
                Ok(vec![CaptionEvent::Failed(failure)])
            }
            (_, CaptionCommand::Request { .. } | CaptionCommand::Finish(_)) => Ok(vec![]),
        }
    }

    pub fn evolve(&mut self, event: CaptionEvent) {
        *self = match event {
            CaptionEvent::Requested { month, .. } => Self::Requested { month },
            CaptionEvent::Completed(_) | CaptionEvent::Failed(_) => Self::Ended,
        };
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;

    use super::*;

    #[test]
    fn a_caption_ends_once() {
        let brief = Brief {
            platform: Platform::X,
            tone: "playful".into(),
            topic: "news".into(),
            length: Length::Short,
            platform_username: None,
        };
        let requested = CaptionEvent::Requested {
            brief,
            month: Month(202_611),
        };
        let written = WrittenCaption {
            text: "hey".into(),
            model: "m".into(),
            truncated: false,
        };
        TestFramework::<Caption>::with(())
            .given(vec![requested.clone()])
            .when(CaptionCommand::Finish(Ok(written.clone())))
            .then_expect_events(vec![CaptionEvent::Completed(written.clone())]);
        TestFramework::<Caption>::with(())
            .given(vec![requested, CaptionEvent::Completed(written.clone())])
            .when(CaptionCommand::Finish(Ok(written)))
            .then_expect_events(vec![]);
    }
}
