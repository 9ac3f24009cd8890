//! The beginning of an answer: its turn in the line, and its first token, from whichever model server gives one.

use genie_events::{User, UserId, chat::Failure, tier::Tier};
use serde_json::json;
use tokio::time::Instant;

use super::Supervisor;
use crate::{
    model_queue::{ModelRequest, QueueClass, QueuePass, QueueTicket},
    ollama::{AnswerLimits, ModelPrompt, ModelStream, UNREACHABLE},
};

/// An answer that has begun. It holds its place at the model server.
pub(crate) struct OpenAnswer {
    pub stream: ModelStream,
    pub pass: QueuePass,
}

impl Supervisor {
    /// Puts a run into the line for a model, and gives its admission back.
    pub async fn line_up(
        &self,
        id: &str,
        class: QueueClass,
        user: UserId,
        model: &str,
    ) -> QueueTicket {
        let request = ModelRequest {
            class,
            user,
            tier: self.tier(user).await,
            model: model.to_owned(),
        };
        let ticket = self.0.queue.enqueue(request);
        self.0.admitted.lock().remove(id);
        ticket
    }

    /// The user's tier; that of new users when the store can't tell. It decides only who goes first.
    async fn tier(&self, user: UserId) -> Tier {
        let look = |state: &User| json!(state.tier().ok());
        let tier = self.0.users.look(user, look).await;
        let tier = tier.ok().and_then(|tier| serde_json::from_value(tier).ok());
        tier.flatten().unwrap_or_default()
    }

    /// True when the server has to load the model before it answers. It is asked only about a model that did not answer
    /// a moment ago, and before the question: from then on it counts the model as loaded.
    pub async fn must_load(&self, server: usize, model: &str) -> bool {
        let is_loaded = self.0.loaded.has(server, model, Instant::now());
        !is_loaded && self.0.model_servers[server].must_load(model).await
    }

    /// Asks for an answer, and resolves with its first token. When a server fails before that, another one is
    /// asked. Fails with what a server said, when all failed.
    pub async fn open_answer(
        &self,
        mut pass: QueuePass,
        model: &str,
        prompt: &ModelPrompt<'_>,
        limits: AnswerLimits,
    ) -> Result<OpenAnswer, Failure> {
        let mut tried = Vec::new();
        let mut told: Option<Failure> = None;
        loop {
            let server = &self.0.model_servers[pass.server()];
            let sampling = self.0.settings.sampling(model);
            let failure = match server.chat(model, prompt, limits, sampling).await {
                Ok(stream) => {
                    pass.answered();
                    self.0.loaded.note(pass.server(), model, Instant::now());
                    return Ok(OpenAnswer { stream, pass });
                }
                Err(failure) => failure,
            };
            if !may_succeed_elsewhere(&failure) {
                return Err(failure);
            }
            // What a server said tells more than that another is away.
            let told = match &mut told {
                Some(told) if told.code != UNREACHABLE => told,
                told => told.insert(failure),
            };
            match self.0.queue.elsewhere(pass, model, &mut tried).await {
                Some(other) => pass = other,
                None => return Err(told.clone()),
            }
        }
    }
}

/// True for failures of the server; false for an answer that is bad, or slow.
fn may_succeed_elsewhere(failure: &Failure) -> bool {
    let codes = [
        UNREACHABLE,
        "ollama_failed",
        "ollama_incomplete",
        "ollama_busy",
        "ollama_model_missing",
    ];
    codes.contains(&failure.code.as_str())
}
