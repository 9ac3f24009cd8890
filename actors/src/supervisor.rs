//! The supervisor of the model's answers, both chat turns and captions. It owns every running answer as a task with
//! its own cancel token, renews the leases, and takes over the answers of dead nodes. A panic in a task is a value.

use std::{collections::HashMap, sync::Arc, time::Duration};

use genie_events::{CaptionId, Refusal, Timestamp, TurnId, UserId};
use genie_log::leases::LeaseRow;
use genie_log::{Log, LogError, Work, leases::LeaseKind, turn_journal::Journal};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    WriteError,
    captions::CaptionWaiters,
    chats::{given::GivenTurns, token_estimate::TokenScale},
    model_queue::{ModelQueue, QueueAdmission},
    ollama::{AnswerLimits, Ollama, TokenWaits},
    outbound::ProxyUse,
    turn_feed::TurnFeeds,
    users::Users,
};

use loaded::LoadedModels;

pub(crate) mod failure;
mod follow;
mod loaded;
pub(crate) mod open_answer;
pub(crate) mod prompt;
pub(crate) mod retry;
mod take_over;

/// A run belongs to its node for this long without a heartbeat.
const LEASE_SECONDS: i64 = 15;
const LEASE: Duration = Duration::from_secs(LEASE_SECONDS as u64);
/// The code of the refusal of a full queue. It never leaves this file.
const QUEUE_IS_FULL: &str = "queue_is_full";

#[derive(Debug, Clone)]
pub struct ModelSettings {
    /// The model servers.
    pub urls: Vec<String>,
    pub proxies: ProxyUse,
    pub chat_model: String,
    pub caption_model: String,
    /// Answers at once on each server.
    pub concurrency: usize,
    /// Answers that may wait on each server.
    pub queue: usize,
    /// The estimated tokens of a conversation that the model is given.
    pub context_tokens: u32,
    /// The most tokens of an answer.
    pub answer_tokens: u32,
    /// The longest time of an answer, once it is its turn: a model that loops must not hold its slot for ever.
    pub answer_time: Duration,
    pub waits: TokenWaits,
    /// The deployment's own words to the model, at the head of each conversation.
    pub system_prompt: String,
    /// What differs for single models, by the names of [`canonical_model`].
    pub profiles: HashMap<String, ModelProfile>,
}

/// What differs for a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelProfile {
    /// Instead of [`ModelSettings::context_tokens`].
    pub context_tokens: Option<u32>,
    /// Instead of [`ModelSettings::answer_tokens`].
    pub answer_tokens: Option<u32>,
    /// How its answers are drawn, in the words of the model server.
    pub sampling: Map<String, Value>,
}

/// The name of a model in one form. The model server compares names without regard to case, and a name without a tag is
/// that of `latest`.
pub fn canonical_model(model: &str) -> String {
    let name = model.to_lowercase();
    name.strip_suffix(":latest")
        .map_or(name.clone(), str::to_owned)
}

impl ModelSettings {
    fn profile(&self, model: &str) -> Option<&ModelProfile> {
        self.profiles.get(&canonical_model(model))
    }

    /// The estimated tokens of a conversation that this model is given.
    pub fn context_tokens(&self, model: &str) -> u32 {
        let own = self.profile(model).and_then(|own| own.context_tokens);
        own.unwrap_or(self.context_tokens)
    }

    /// The limits of a chat's answer. The conversation has its tokens, and the answer its own.
    pub fn answer_limits(&self, model: &str) -> AnswerLimits {
        let own = self.profile(model).and_then(|own| own.answer_tokens);
        let answer_tokens = own.unwrap_or(self.answer_tokens);
        AnswerLimits {
            context_tokens: self.context_tokens(model).saturating_add(answer_tokens),
            answer_tokens,
        }
    }

    /// How the answers of a model are drawn.
    pub fn sampling(&self, model: &str) -> Map<String, Value> {
        self.profile(model)
            .map(|own| own.sampling.clone())
            .unwrap_or_default()
    }
}

#[derive(Clone)]
pub(crate) struct Supervisor(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub log: Log,
    pub users: Users,
    pub journal: Journal,
    /// In the order of the setting. The queue names them by their numbers.
    pub model_servers: Vec<Ollama>,
    pub settings: ModelSettings,
    pub feeds: TurnFeeds,
    pub given_turns: GivenTurns,
    pub caption_waiters: CaptionWaiters,
    pub queue: ModelQueue,
    /// The model that each server answered by last.
    loaded: LoadedModels,
    /// Of the chat's model.
    pub token_scale: TokenScale,
    /// The name of this process in leases.
    pub node: String,
    running: Mutex<HashMap<String, RunHandle>>,
    /// The time since which this node's renewals have succeeded; unset while they fail.
    renewing_since: Mutex<Option<Instant>>,
    /// Admissions to the queue whose runs are not in it yet.
    admitted: Mutex<HashMap<String, QueueAdmission>>,
}

/// The tokens that reach a run.
#[derive(Debug, Clone)]
pub(crate) struct RunHandle {
    user: UserId,
    /// The user stopped the run.
    pub cancel: CancellationToken,
    /// Another node took the run, or its user was forgotten: this node must not end it.
    pub lost: CancellationToken,
}

impl RunHandle {
    /// Resolves when the run should stop: it was cancelled or lost.
    pub async fn over(&self) {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = self.lost.cancelled() => {}
        }
    }
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Supervisor({})", self.0.node)
    }
}

impl Supervisor {
    pub fn new(
        log: Log,
        users: Users,
        settings: ModelSettings,
        node: String,
    ) -> Result<Self, WriteError> {
        let server = |url: &String| Ollama::new(url, settings.proxies, settings.waits);
        let servers: Result<Vec<_>, _> = settings.urls.iter().map(server).collect();
        let model_servers = servers.map_err(|error| WriteError::Internal(error.to_string()))?;
        Ok(Self(Arc::new(Inner {
            journal: log.journals().start(&node),
            log,
            users,
            queue: ModelQueue::new(model_servers.len(), settings.concurrency, settings.queue),
            model_servers,
            feeds: TurnFeeds::default(),
            given_turns: GivenTurns::default(),
            caption_waiters: CaptionWaiters::default(),
            loaded: LoadedModels::default(),
            token_scale: TokenScale::default(),
            settings,
            node,
            running: Mutex::default(),
            // A start is no outage: runs of an earlier process are taken over at once.
            renewing_since: Mutex::new(Instant::now().checked_sub(LEASE)),
            admitted: Mutex::default(),
        })))
    }

    /// Counts a request against the queue's length now, before its fact is seen. The same request again takes no
    /// second place.
    pub fn admit(&self, id: &str) -> Result<(), Refusal> {
        let mut admitted = self.0.admitted.lock();
        if !admitted.contains_key(id) {
            let admission = self.0.queue.admit().ok_or_else(|| {
                Refusal::conflict(QUEUE_IS_FULL, "Too many answers are waiting for the model")
            })?;
            admitted.insert(id.to_owned(), admission);
        }
        Ok(())
    }

    /// Turns the refusal of a full queue into an error that says when to come back.
    pub fn with_retry_after(&self, error: WriteError) -> WriteError {
        match error {
            WriteError::Refused(refusal) if refusal.code == QUEUE_IS_FULL => WriteError::TooMany {
                retry_after: self.0.queue.wait_estimate(),
            },
            other => other,
        }
    }

    /// Gives back what was opened for a turn that does not run here.
    pub fn release_turn(&self, turn: TurnId) {
        self.0.admitted.lock().remove(&turn.to_string());
        self.0.given_turns.remove(turn);
        self.0.feeds.close(turn);
    }

    /// Gives back what was opened for a caption that does not run here.
    pub fn release_caption(&self, caption: CaptionId) {
        self.0.admitted.lock().remove(&caption.to_string());
        self.0.caption_waiters.drop_one(caption);
    }

    pub fn lease(&self, kind: LeaseKind, id: String, user: UserId, stream_id: String) -> Work {
        Work::Lease(LeaseRow::Put {
            kind,
            id,
            user,
            stream_id,
            holder: self.0.node.clone(),
            expires_at: self.lease_end(),
        })
    }

    fn lease_end(&self) -> Timestamp {
        self.0.log.clock().now().plus_seconds(LEASE_SECONDS)
    }

    /// True for a run that this node has to begin: it was asked for here, in the same append as its lease, or the
    /// store says so. A lease that was lost meanwhile lets the run write nothing.
    pub async fn is_here(&self, kind: LeaseKind, id: &str) -> Result<bool, LogError> {
        let is_admitted = self.0.admitted.lock().contains_key(id);
        Ok(is_admitted || self.holds_lease(kind, id).await?)
    }

    pub async fn holds_lease(&self, kind: LeaseKind, id: &str) -> Result<bool, LogError> {
        let lease = self.0.log.leases().get(kind, id).await?;
        Ok(lease.is_some_and(|lease| lease.holder == self.0.node))
    }

    /// Enters a run; `None` when it runs already.
    pub fn begin_run(&self, id: String, user: UserId) -> Option<RunHandle> {
        self.begin_run_until(id, user, CancellationToken::new())
    }

    /// The same, of a run that `cancel` stops.
    pub fn begin_run_until(
        &self,
        id: String,
        user: UserId,
        cancel: CancellationToken,
    ) -> Option<RunHandle> {
        let mut running = self.0.running.lock();
        if running.contains_key(&id) {
            return None;
        }
        let run = RunHandle {
            user,
            cancel,
            lost: CancellationToken::new(),
        };
        running.insert(id, run.clone());
        Some(run)
    }

    pub fn cancel_run(&self, id: &str) {
        if let Some(run) = self.0.running.lock().get(id) {
            run.cancel.cancel();
        }
    }

    pub fn end_run(&self, id: &str) {
        self.0.running.lock().remove(id);
        self.0.admitted.lock().remove(id);
    }
}
