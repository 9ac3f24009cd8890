//! Chats: a user asks, and the model's answer is a turn.

use std::sync::Arc;

use genie_events::{
    Change, Event, SessionId, TurnId, User, UserCommand, UserId,
    chat::{ChatCommand, ChatEvent},
    user::Recall,
};
use genie_log::leases::LeaseKind;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::DropGuard;

use crate::{
    WriteError,
    caller::CommandContext,
    supervisor::Supervisor,
    turn_feed::TurnProgress,
    users::{Plan, Planner, Receipt},
};

pub(crate) mod conversation;
pub mod given;
mod history;
mod relay;
pub(crate) mod token_estimate;
pub(crate) mod turn;

use given::{GivenConversation, GivenTurn};

#[derive(Debug)]
pub struct StartedTurn {
    pub turn: TurnId,
    /// The position of its fact.
    pub position: u64,
    /// `None` when an earlier request with the same key began the turn.
    pub progress: Option<watch::Receiver<TurnProgress>>,
}

/// A turn that a program asked for with its messages.
#[derive(Debug)]
pub struct PromptedTurn {
    pub started: StartedTurn,
    /// The turn stops when this is dropped.
    pub stop: DropGuard,
}

#[derive(Debug, Clone)]
pub struct Chats {
    supervisor: Supervisor,
}

impl Chats {
    pub(crate) fn new(supervisor: Supervisor) -> Self {
        Self { supervisor }
    }

    /// Starts a turn. After `Ok` the question is durable and will be answered, even if the client goes away. The same
    /// request again, by its key, answers the first turn.
    pub async fn ask(
        &self,
        user: UserId,
        session_name: String,
        message: String,
        context: CommandContext,
    ) -> Result<StartedTurn, WriteError> {
        let log = &self.supervisor.0.log;
        let turn = TurnId(log.clock().new_uuid());
        let session = log.hashes().session(user, &session_name);
        let command = ChatCommand::Ask {
            turn,
            session: session_name,
            message,
        };
        self.start(turn, user, session, command, context).await
    }

    /// Starts a turn whose messages a program gives. It stops when the wait for this method, or its answer, is dropped. A
    /// session may have several such turns at once.
    pub async fn prompt(
        &self,
        user: UserId,
        session_name: String,
        given: GivenConversation,
        context: CommandContext,
    ) -> Result<PromptedTurn, WriteError> {
        let inner = &self.supervisor.0;
        let turn = TurnId(inner.log.clock().new_uuid());
        let session = inner.log.hashes().session(user, &session_name);
        let command = ChatCommand::Prompt {
            turn,
            session: session_name,
            message: given::question(&given.messages).to_owned(),
            model: given.model.clone(),
        };
        let system = self.supervisor.system_prompt(user).await?;
        let tokens = inner.settings.context_tokens(&given.model);
        let budget = inner.token_scale.estimated(tokens);
        let limits = inner.settings.answer_limits(&given.model);
        let given = GivenTurn::new(given, system, budget, limits)?;
        let stop = given.stop.clone().drop_guard();
        // Nothing is awaited from here until the plan runs on its own task, which releases what is opened.
        inner.given_turns.add(turn, given);
        let started = self.start(turn, user, session, command, context).await?;
        Ok(PromptedTurn { started, stop })
    }

    /// Goes on with an interrupted turn, by a new one, like [`Self::ask`].
    pub async fn continue_turn(
        &self,
        user: UserId,
        session: SessionId,
        continues: TurnId,
        context: CommandContext,
    ) -> Result<StartedTurn, WriteError> {
        let turn = TurnId(self.supervisor.0.log.clock().new_uuid());
        let command = ChatCommand::Continue { turn, continues };
        self.start(turn, user, session, command, context).await
    }

    /// Begins a turn by this command.
    async fn start(
        &self,
        turn: TurnId,
        user: UserId,
        session: SessionId,
        command: ChatCommand,
        context: CommandContext,
    ) -> Result<StartedTurn, WriteError> {
        let supervisor = &self.supervisor;
        if let Err(full) = supervisor.admit(&turn.to_string()) {
            supervisor.release_turn(turn);
            return Err(supervisor.with_retry_after(full.into()));
        }
        let continues = match &command {
            ChatCommand::Continue { continues, .. } => Some(*continues),
            _ => None,
        };
        let progress = supervisor.0.feeds.open(turn, user);
        supervisor.0.feeds.continues(turn, continues);
        let lease = supervisor.lease(LeaseKind::Turn, turn.to_string(), user, session.to_string());
        let command = UserCommand::Chat(session, command);
        let recall = command.recall();
        let planner = move |state: &User, now| {
            let changes = state.decide(now, command.clone())?;
            Ok(Plan {
                changes,
                work: vec![lease.clone()],
                outcome: json!(turn),
                ..Plan::default()
            })
        };
        let receipt = self
            .plan(turn, user, recall, context, Arc::new(planner))
            .await?;
        let began: TurnId = receipt.outcome("a turn")?;
        let is_new = began == turn;
        if !is_new {
            supervisor.release_turn(turn);
        }
        Ok(StartedTurn {
            turn: began,
            position: receipt.position,
            progress: is_new.then_some(progress),
        })
    }

    /// Runs on a task of its own. So a refusal still closes what was opened for the turn when the client goes away.
    async fn plan(
        &self,
        turn: TurnId,
        user: UserId,
        recall: Option<Recall>,
        context: CommandContext,
        planner: Planner,
    ) -> Result<Receipt, WriteError> {
        let supervisor = self.supervisor.clone();
        let asking = async move {
            let users = &supervisor.0.users;
            let asked = users
                .plan_recalling(user, recall.into_iter().collect(), context, planner)
                .await;
            if asked.is_err() {
                supervisor.release_turn(turn);
            }
            asked
        };
        self.supervisor.0.users.run_to_end(asking).await
    }

    /// Gives a session a title of the user's own, or the default one again.
    pub async fn rename(
        &self,
        user: UserId,
        session: SessionId,
        title: Option<String>,
        context: CommandContext,
    ) -> Result<Receipt, WriteError> {
        let command = UserCommand::Chat(session, ChatCommand::Rename { title });
        self.supervisor.0.users.ask(user, context, command).await
    }

    /// Removes a session. Its running turns end in the same append, and stop at the model server.
    pub async fn remove(
        &self,
        user: UserId,
        session: SessionId,
        context: CommandContext,
    ) -> Result<Receipt, WriteError> {
        let planner = move |state: &User, now| {
            let command = UserCommand::Chat(session, ChatCommand::Remove);
            let changes = state.decide(now, command)?;
            let ended = ended_turns(&changes).flat_map(turn::leftovers).collect();
            Ok(Plan {
                changes,
                work: ended,
                ..Plan::default()
            })
        };
        let users = &self.supervisor.0.users;
        let recalls = vec![Recall::Session(session)];
        let receipt = users
            .plan_recalling(user, recalls, context, Arc::new(planner))
            .await?;
        for turn in ended_turns(&receipt.changes) {
            self.supervisor.end_removed(turn, receipt.position);
        }
        Ok(receipt)
    }

    /// Stops a turn, at the model server too. A turn on another node stops at that node's next heartbeat.
    pub async fn stop(&self, turn: TurnId) -> Result<(), WriteError> {
        let id = turn.to_string();
        self.supervisor
            .0
            .log
            .leases()
            .call_off(LeaseKind::Turn, &id)
            .await?;
        self.supervisor.cancel_run(&id);
        Ok(())
    }

    /// The progress of a turn of this user that runs on this node.
    pub fn progress(&self, turn: TurnId, user: UserId) -> Option<watch::Receiver<TurnProgress>> {
        self.supervisor.0.feeds.find(turn, user)
    }
}

/// The turns that ended with their session.
fn ended_turns(changes: &[Change]) -> impl Iterator<Item = TurnId> {
    changes.iter().flat_map(|change| match &change.event {
        Event::Chat(ChatEvent::Removed { turns }) => turns.clone(),
        _ => vec![],
    })
}
