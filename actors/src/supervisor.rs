//! The supervisor of model streams. It owns every running answer as a task with its own deadline and cancel token, renews their
//! leases, and ends what a dead node left behind. A panic in a task is a value.

use std::{collections::HashMap, sync::Arc, time::Duration};

use genie_events::{
    CaptionId, Metadata, Refusal, SessionId, Timestamp, TurnId, User, UserCommand, UserId,
    chat::ChatCommand,
};
use genie_log::leases::LeaseRow;
use genie_log::{Epoch, Log, LogError, Work, leases::LeaseKind, turn_journal::Journal};
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    WriteError,
    chats::{self, TurnTask},
    model_queue::{Admission, Class, Place, Turnstile},
    ollama::Ollama,
    turn_feed::{Feeds, Progress},
    users::{Plan, Users},
};

/// Captions: asked, awaited, begun and ended here.
mod captions;
/// What was asked is begun when its fact is seen.
mod follow;
mod take_over;

pub use captions::CaptionEnd;

/// How long a run is its node's without a heartbeat.
const LEASE_SECONDS: i64 = 15;
const LEASE: Duration = Duration::from_secs(LEASE_SECONDS as u64);
/// The code of the refusal at the door, which only this file sees.
const LINE_IS_FULL: &str = "line_is_full";
/// How the model server is used.
#[derive(Debug, Clone)]
pub struct ModelSettings {
    /// Where it is.
    pub url: String,
    /// Who chats.
    pub chat_model: String,
    /// Who writes captions.
    pub caption_model: String,
    /// Answers at once.
    pub concurrency: usize,
    /// Answers that may wait.
    pub queue: usize,
    /// How much of a conversation the model is given, in tokens (estimated as four bytes each).
    pub context_tokens: usize,
}

/// The supervisor.
#[derive(Clone)]
pub struct Supervisor(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub log: Log,
    pub users: Users,
    pub journal: Journal,
    pub ollama: Ollama,
    pub settings: ModelSettings,
    pub feeds: Feeds,
    pub turnstile: Turnstile,
    /// This process, as leases name it.
    pub node: String,
    running: Mutex<HashMap<String, Run>>,
    /// Since when this node's own renewals have succeeded; unset while they fail.
    renewing_since: Mutex<Option<Instant>>,
    /// Let in at the door, until their runs are in line.
    admitted: Mutex<HashMap<String, Admission>>,
    awaited: Mutex<HashMap<CaptionId, oneshot::Sender<CaptionEnd>>>,
}

/// How a run is reached.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// Whose it is.
    user: UserId,
    /// Somebody called it off.
    pub cancel: CancellationToken,
    /// Another node took it, or its user was forgotten: it is not this node's to end.
    pub lost: CancellationToken,
}

/// A turn that was asked.
#[derive(Debug)]
pub struct AskedTurn {
    /// Which.
    pub turn: TurnId,
    /// The position of its fact.
    pub position: u64,
    /// What is shown of it.
    pub progress: watch::Receiver<Progress>,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Supervisor({})", self.0.node)
    }
}

impl Supervisor {
    /// Over this log and model server; `node` names this process in leases.
    pub fn new(
        log: Log,
        users: Users,
        journal: Journal,
        settings: ModelSettings,
        node: String,
    ) -> Result<Self, WriteError> {
        let ollama =
            Ollama::new(&settings.url).map_err(|error| WriteError::Internal(error.to_string()))?;
        let turnstile = Turnstile::new(settings.concurrency, settings.queue);
        let (running, admitted, awaited) = (Mutex::default(), Mutex::default(), Mutex::default());
        let feeds = Feeds::default();
        // A start is no outage: what an earlier process left behind is taken over at once.
        let renewing_since = Mutex::new(Instant::now().checked_sub(LEASE));
        Ok(Self(Arc::new(Inner {
            log,
            users,
            journal,
            ollama,
            settings,
            feeds,
            turnstile,
            node,
            running,
            renewing_since,
            admitted,
            awaited,
        })))
    }

    /// What readers of running turns are shown.
    pub fn feeds(&self) -> &Feeds {
        &self.0.feeds
    }

    /// The model server.
    pub fn ollama(&self) -> &Ollama {
        &self.0.ollama
    }

    /// Begins a turn. When this answers `Ok` the question is durable and will be answered, whatever happens to the asker.
    pub async fn ask(
        &self,
        user: UserId,
        session_name: String,
        message: String,
        metadata: Metadata,
    ) -> Result<AskedTurn, WriteError> {
        let turn = TurnId(self.0.log.clock().new_uuid());
        self.let_in(&turn.to_string())
            .map_err(|full| self.turned_away(full.into()))?;
        let session = self.0.log.hashes().session(user, &session_name);
        let progress = self.0.feeds.open(turn, user);
        let lease = self.lease(LeaseKind::Turn, turn.to_string(), user, session.to_string());
        let planner = move |state: &User, now| {
            let command = ChatCommand::Ask {
                turn,
                session: session_name.clone(),
                message: message.clone(),
            };
            let changes = state.decide(now, UserCommand::Chat(session.clone(), command))?;
            Ok(Plan {
                changes,
                work: vec![lease.clone()],
                ..Plan::default()
            })
        };
        let supervisor = self.clone();
        // On a task of its own: when the asker goes away, what was opened for the turn is still closed if it is refused.
        let asking = self.0.log.store().io().spawn(async move {
            let asked = supervisor
                .0
                .users
                .plan(user, None, metadata, Arc::new(planner))
                .await;
            if asked.is_err() {
                supervisor.leave_alone(&turn.to_string(), Some(turn), None);
            }
            asked
        });
        let done = asking
            .await
            .map_err(|stopped| WriteError::Internal(stopped.to_string()))??;
        Ok(AskedTurn {
            turn,
            position: done.position,
            progress,
        })
    }

    /// Gives back what was opened at the door for something that does not run here.
    fn leave_alone(&self, id: &str, turn: Option<TurnId>, caption: Option<CaptionId>) {
        lock(&self.0.admitted).remove(id);
        if let Some(turn) = turn {
            self.0.feeds.close(turn);
        }
        if let Some(caption) = caption {
            self.forsake_caption(caption);
        }
    }

    /// Stops a turn, at the model server too. One that runs on another node is called off at its next heartbeat.
    pub async fn stop(&self, turn: TurnId) -> Result<(), WriteError> {
        let id = turn.to_string();
        self.0.log.leases().call_off(LeaseKind::Turn, &id).await?;
        self.cancel(&id);
        Ok(())
    }

    fn cancel(&self, id: &str) {
        if let Some(run) = lock(&self.0.running).get(id) {
            run.cancel.cancel();
        }
    }

    /// What was asked counts against the line's length from here on, not only once its fact was seen. Asking again for the same
    /// takes no second place.
    fn let_in(&self, id: &str) -> Result<(), Refusal> {
        let mut admitted = lock(&self.0.admitted);
        if !admitted.contains_key(id) {
            let full =
                || Refusal::conflict(LINE_IS_FULL, "Too many answers are waiting for the model");
            admitted.insert(id.to_owned(), self.0.turnstile.let_in().ok_or_else(full)?);
        }
        Ok(())
    }

    /// The refusal at the door, with how long the line is likely to take.
    fn turned_away(&self, error: WriteError) -> WriteError {
        match error {
            WriteError::Refused(refusal) if refusal.code == LINE_IS_FULL => WriteError::TooMany {
                retry_after: self.0.turnstile.wait_estimate(),
            },
            other => other,
        }
    }

    /// Gets in line; the place at the door is given back.
    pub(crate) fn line_up(&self, id: &str, class: Class, user: UserId) -> Place {
        let place = self.0.turnstile.line_up(class, user);
        lock(&self.0.admitted).remove(id);
        place
    }

    fn lease(&self, kind: LeaseKind, id: String, user: UserId, stream_id: String) -> Work {
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

    async fn is_mine(&self, kind: LeaseKind, id: &str) -> Result<bool, LogError> {
        Ok(self
            .0
            .log
            .leases()
            .get(kind, id)
            .await?
            .is_some_and(|lease| lease.holder == self.0.node))
    }

    fn start_turn(&self, turn: TurnId, user: UserId, session: SessionId, metadata: Metadata) {
        let Some(run) = self.begin(turn.to_string(), user) else {
            return;
        };
        let (supervisor, task) = (
            self.clone(),
            TurnTask {
                turn,
                user,
                session,
                metadata,
                run,
                office: None,
            },
        );
        tokio::spawn(async move {
            let running = tokio::spawn(chats::run_turn(supervisor.clone(), task.clone()));
            if let Err(stopped) = running.await {
                error!(turn.id = %turn, error = %stopped, "the task of turn `{turn}` died");
                chats::end_dead_turn(&supervisor, &task, chats::died()).await;
            }
            supervisor.done(&turn.to_string());
        });
    }

    /// Ends, in office, a turn that had begun on a node that died.
    fn end_turn(&self, epoch: Epoch, turn: TurnId, user: UserId, session: SessionId) {
        let Some(run) = self.begin(turn.to_string(), user) else {
            return;
        };
        let task = TurnTask {
            turn,
            user,
            session,
            metadata: Metadata::system(),
            run,
            office: Some(epoch),
        };
        let supervisor = self.clone();
        tokio::spawn(async move {
            chats::end_dead_turn(&supervisor, &task, chats::interrupted()).await;
            supervisor.done(&turn.to_string());
        });
    }

    /// A run that is not under way yet.
    fn begin(&self, id: String, user: UserId) -> Option<Run> {
        let mut running = lock(&self.0.running);
        if running.contains_key(&id) {
            return None;
        }
        let run = Run {
            user,
            cancel: CancellationToken::new(),
            lost: CancellationToken::new(),
        };
        running.insert(id, run.clone());
        Some(run)
    }

    fn done(&self, id: &str) {
        lock(&self.0.running).remove(id);
        lock(&self.0.admitted).remove(id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}
