//! The events of a turn's stream, as `data:` lines. Fields are sorted by name.

use genie_events::{
    TurnId,
    chat::{Failure, FinishReason, TurnMetrics},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::words::{
    self, ErrorEvent, False, Finalized, StageUpdate, TextResponse, TextResponseChunk, True,
};

/// The `data:` line of one event. `finalizeResponseStream` is always the last.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ChatEvent, discriminator(property_name = "type", mapping(
    ("stage_update" = "#/components/schemas/ChatStage"),
    ("textResponseChunk" = "#/components/schemas/ChatChunk"),
    ("textResponse" = "#/components/schemas/ChatText"),
    ("error" = "#/components/schemas/ChatError"),
    ("finalizeResponseStream" = "#/components/schemas/ChatEnd"),
)))]
pub enum TurnStreamEvent {
    Stage(ChatStage),
    Chunk(ChatChunk),
    Text(ChatText),
    Error(ChatError),
    End(ChatEnd),
}

/// The stage.
#[derive(Serialize, ToSchema)]
pub struct ChatStage {
    /// The interrupted turn that this one goes on with. Present in the first event of such a turn only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Uuid)]
    continues: Option<TurnId>,
    /// The estimated wait. Present while the turn waits, null when it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    eta_ms: Option<Option<u64>>,
    /// For people.
    #[serde(rename = "missionLabel")]
    mission_label: &'static str,
    #[schema(value_type = words::Mood)]
    mood: &'static str,
    /// The turn's place in the line for the model, from 1. Present while it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1)]
    queue_position: Option<usize>,
    r#type: StageUpdate,
}

/// More of the answer. The last one is empty and closes the text.
#[derive(Serialize, ToSchema)]
pub struct ChatChunk {
    close: bool,
    error: False,
    #[serde(rename = "textResponse")]
    text: String,
    r#type: TextResponseChunk,
    /// The turn.
    #[schema(value_type = Uuid)]
    uuid: TurnId,
}

/// A whole text in one event: the step to take before chatting.
#[derive(Serialize, ToSchema)]
pub struct ChatText {
    close: True,
    error: False,
    #[serde(rename = "textResponse")]
    text: String,
    r#type: TextResponse,
    /// An id of this answer only: no turn was begun.
    #[schema(value_type = Uuid)]
    uuid: TurnId,
}

/// The turn failed after its stream had opened. The text that came before is kept.
#[derive(Serialize, ToSchema)]
pub struct ChatError {
    close: True,
    /// For programs: a code of the model server (see 502), where `ollama_timeout` is also an answer that took longer than `CHAT_MAX_SECONDS`. `answer_too_long`: the answer was stopped at 524288 bytes of JSON. `interrupted`: the server went down. `history_unreadable`: the earlier messages could not be read. `journal_unwritable`: the text could not be stored. `internal`: a fault of the server.
    code: String,
    error: True,
    /// For people.
    #[serde(rename = "textResponse")]
    text: String,
    r#type: ErrorEvent,
    /// The turn.
    #[schema(value_type = Uuid)]
    uuid: TurnId,
}

/// The last event.
#[derive(Serialize, ToSchema)]
pub struct ChatEnd {
    close: True,
    /// True when the turn failed.
    error: bool,
    metrics: ModelMetrics,
    /// The model that answered; null when none did.
    #[schema(required)]
    model: Option<String>,
    #[schema(value_type = words::Outcome)]
    outcome: &'static str,
    r#type: Finalized,
    /// The turn.
    #[schema(value_type = Uuid)]
    uuid: TurnId,
}

/// The model server's account of its work. Each may be unknown.
#[derive(Serialize, ToSchema)]
#[schema(as = TurnMetrics)]
pub struct ModelMetrics {
    /// Tokens of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    answer_tokens: Option<u64>,
    /// Why the model ended its answer: `length` when it had no tokens left (`CHAT_MAX_TOKENS`), so that the answer may break off in the middle.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = words::FinishReason)]
    finish_reason: Option<&'static str>,
    /// The time to load the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    load_ms: Option<u64>,
    /// Tokens of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    prompt_tokens: Option<u64>,
    /// The time from the request to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    total_ms: Option<u64>,
}

impl From<&TurnMetrics> for ModelMetrics {
    fn from(metrics: &TurnMetrics) -> Self {
        Self {
            answer_tokens: metrics.answer_tokens,
            finish_reason: metrics.finish_reason.map(FinishReason::as_str),
            load_ms: metrics.load_ms,
            prompt_tokens: metrics.prompt_tokens,
            total_ms: metrics.total_ms,
        }
    }
}

impl TurnStreamEvent {
    pub fn stage(mission_label: &'static str, mood: &'static str) -> Self {
        Self::Stage(ChatStage {
            continues: None,
            eta_ms: None,
            mission_label,
            mood,
            queue_position: None,
            r#type: StageUpdate,
        })
    }

    /// The stage of a turn that waits for the model.
    pub fn queued(place: usize, eta_ms: Option<u64>) -> Self {
        Self::Stage(ChatStage {
            continues: None,
            eta_ms: Some(eta_ms),
            mission_label: "Waiting for the model",
            mood: "thinking",
            queue_position: Some(place),
            r#type: StageUpdate,
        })
    }

    /// The same stage, of a turn that goes on with another.
    pub fn continuing(self, continues: Option<TurnId>) -> Self {
        match self {
            Self::Stage(stage) => Self::Stage(ChatStage { continues, ..stage }),
            other => other,
        }
    }

    /// More of the answer.
    pub fn chunk(uuid: TurnId, text: String) -> Self {
        Self::Chunk(ChatChunk {
            close: false,
            error: False,
            text,
            r#type: TextResponseChunk,
            uuid,
        })
    }

    /// The end of the text.
    pub fn text_end(uuid: TurnId) -> Self {
        Self::Chunk(ChatChunk {
            close: true,
            error: False,
            text: String::new(),
            r#type: TextResponseChunk,
            uuid,
        })
    }

    pub fn whole_text(uuid: TurnId, text: String) -> Self {
        Self::Text(ChatText {
            close: True,
            error: False,
            text,
            r#type: TextResponse,
            uuid,
        })
    }

    pub fn failure(uuid: TurnId, failure: &Failure) -> Self {
        Self::Error(ChatError {
            close: True,
            code: failure.code.clone(),
            error: True,
            text: failure.sentence.clone(),
            r#type: ErrorEvent,
            uuid,
        })
    }

    pub fn end(
        uuid: TurnId,
        failed: bool,
        outcome: &'static str,
        model: Option<String>,
        metrics: &TurnMetrics,
    ) -> Self {
        Self::End(ChatEnd {
            close: True,
            error: failed,
            metrics: metrics.into(),
            model,
            outcome,
            r#type: Finalized,
            uuid,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_these_bytes() {
        let turn: TurnId = "0192d4e1-15c2-7d09-9a41-5e6f708192a3".parse().unwrap();
        let uuid = r#""uuid":"0192d4e1-15c2-7d09-9a41-5e6f708192a3""#;
        let json = |event| serde_json::to_string(&event).unwrap();
        assert_eq!(
            json(TurnStreamEvent::stage("Writing", "focused")),
            r#"{"missionLabel":"Writing","mood":"focused","type":"stage_update"}"#
        );
        assert_eq!(
            json(TurnStreamEvent::stage("Writing", "focused").continuing(Some(turn))),
            r#"{"continues":"0192d4e1-15c2-7d09-9a41-5e6f708192a3","missionLabel":"Writing","mood":"focused","type":"stage_update"}"#
        );
        assert_eq!(
            json(TurnStreamEvent::queued(2, None)),
            r#"{"eta_ms":null,"missionLabel":"Waiting for the model","mood":"thinking","queue_position":2,"type":"stage_update"}"#
        );
        assert_eq!(
            json(TurnStreamEvent::chunk(turn, "a".into())),
            format!(
                r#"{{"close":false,"error":false,"textResponse":"a","type":"textResponseChunk",{uuid}}}"#
            )
        );
        assert_eq!(
            json(TurnStreamEvent::text_end(turn)),
            format!(
                r#"{{"close":true,"error":false,"textResponse":"","type":"textResponseChunk",{uuid}}}"#
            )
        );
        assert_eq!(
            json(TurnStreamEvent::whole_text(turn, "a".into())),
            format!(
                r#"{{"close":true,"error":false,"textResponse":"a","type":"textResponse",{uuid}}}"#
            )
        );
        let failure = Failure {
            code: "c".into(),
            sentence: "s".into(),
        };
        assert_eq!(
            json(TurnStreamEvent::failure(turn, &failure)),
            format!(
                r#"{{"close":true,"code":"c","error":true,"textResponse":"s","type":"error",{uuid}}}"#
            )
        );
        let metrics = TurnMetrics {
            prompt_tokens: Some(1),
            answer_tokens: Some(2),
            total_ms: None,
            load_ms: Some(3),
            finish_reason: Some(FinishReason::Length),
        };
        assert_eq!(
            json(TurnStreamEvent::end(turn, true, "failed", None, &metrics)),
            format!(
                r#"{{"close":true,"error":true,"metrics":{{"answer_tokens":2,"finish_reason":"length","load_ms":3,"prompt_tokens":1}},"model":null,"outcome":"failed","type":"finalizeResponseStream",{uuid}}}"#
            )
        );
    }
}
