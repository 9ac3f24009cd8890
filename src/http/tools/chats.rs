//! The tool that asks genie's own model.

use std::time::Duration;

use genie_actors::{CommandContext, turn_feed::TurnProgress};
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};

use super::{ToolArguments, ToolSpec, schema};
use crate::{
    app::App,
    http::{
        caller::ActingUser,
        chats::{self, Question},
        error::ApiError,
    },
};

/// A call waits so long for the end of its answer. The turn goes on afterwards.
const PATIENCE: Duration = Duration::from_secs(240);

pub fn specs() -> [ToolSpec; 1] {
    [ToolSpec {
        name: "chat",
        description: "Asks genie's own model a question in one of the user's chats, and waits for the answer.",
        input_schema: schema::object([
            schema::text("message", "The question.").required(),
            schema::short_text(
                "session",
                "The chat, by a name of your choice; a new name begins a new one.",
                200,
            ),
        ]),
        output_schema: schema::object([
            schema::text("text", "The answer, as far as it was written.").required(),
            schema::text("session", "The chat.").required(),
            schema::text(
                "turn_id",
                "The question and its answer. Absent when nothing was asked.",
            ),
            schema::word(
                "outcome",
                "How the answer ended; running: it is still being written.",
                ["completed", "stopped", "failed", "interrupted", "running"],
            )
            .required(),
        ]),
        read_only: false,
        idempotent: false,
        destructive: false,
    }]
}

pub async fn ask(
    app: &App,
    user: &ActingUser,
    arguments: ToolArguments,
    asking: CommandContext,
) -> Result<Value, ApiError> {
    let question: Question = arguments.renamed("session", "sessionId").into()?;
    question.check_message()?;
    let id = user.account.user;
    let session = question.session_of(id)?;
    if let Some(next_step) = chats::gate(app, user).await? {
        return Ok(json!({"text": next_step, "session": session, "outcome": "completed"}));
    }
    let _open = app.streams.open(Some(id))?;
    let chats = &app.write.chats;
    let asked = chats
        .ask(id, session.clone(), question.message, asking)
        .await?;
    let turn = asked.turn;
    let progress = asked
        .progress
        .ok_or_else(|| ApiError::Internal("a new turn has no progress".into()))?;
    let seen = end(progress).await;
    let outcome = match &seen.ended {
        None => "running",
        Some(end) => match &end.answer.failure {
            Some(failure) if seen.text.is_empty() => {
                return Err(ApiError::Model {
                    failure: failure.clone(),
                    turn: Some(turn),
                    position: end.position,
                });
            }
            _ => end.answer.outcome.as_str(),
        },
    };
    Ok(json!({"text": seen.text, "session": session, "turn_id": turn, "outcome": outcome}))
}

/// What is seen of a turn at its end, or after the longest wait.
async fn end(mut progress: watch::Receiver<TurnProgress>) -> TurnProgress {
    // An error: the turn went to another server, and its end is not told here.
    let _ = timeout(PATIENCE, progress.wait_for(|seen| seen.ended.is_some())).await;
    progress.borrow().clone()
}
