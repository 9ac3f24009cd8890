//! Starts an answer when the log shows its question. The node that holds the answer's lease does it.

use std::time::Duration;

use genie_events::{
    Metadata, SessionId, TurnId, UserId,
    account::FORGOTTEN,
    caption::{Brief, CaptionEvent},
    chat::ChatEvent,
    event::Event,
};
use genie_log::{Fact, FactBody, LogError, StoredRow, leases::LeaseKind};
use tracing::{error, warn};

use super::Supervisor;
use crate::{captions, chats};

/// The pause after the log could not be read.
const AWAY: Duration = Duration::from_millis(500);

impl Supervisor {
    /// Follows the log from a position for ever and starts the answers that this node has to write. Spawn it on the
    /// runtime that owns the store's connections.
    pub async fn follow(self, after: u64) {
        let mut follower = self.0.log.reader().follow(after);
        while let Some(rows) = follower.next_or_end("supervisor").await {
            for row in &rows {
                self.see(row).await;
            }
        }
    }

    async fn see(&self, row: &StoredRow) {
        match row.event_type.as_str() {
            "chat.asked" | "caption.requested" => self.start_with_retry(row).await,
            FORGOTTEN => self.drop_user(UserId(row.owner)),
            _ => {}
        }
    }

    async fn start_with_retry(&self, row: &StoredRow) {
        loop {
            match self.start(row).await {
                Ok(()) => return,
                Err(LogError::Away(reason)) => {
                    warn!(
                        reason,
                        position = row.position,
                        "supervisor: reading a question failed; trying again"
                    )
                }
                Err(error) => {
                    return error!(%error, position = row.position, "supervisor: a question can't be read; it is not answered");
                }
            }
            tokio::time::sleep(AWAY).await;
        }
    }

    async fn start(&self, row: &StoredRow) -> Result<(), LogError> {
        let fact = self.0.log.reader().open_row(row).await?;
        let Some(user) = fact.user else { return Ok(()) };
        match &fact.body {
            FactBody::Open(Event::Chat(ChatEvent::Asked { turn, .. }), _) => {
                self.start_turn(*turn, user, &fact).await
            }
            FactBody::Open(Event::Caption(CaptionEvent::Requested { brief, .. }), _) => {
                self.start_caption(user, brief, &fact).await
            }
            FactBody::Open(..) => Ok(()),
            _ => {
                self.release_unreadable(&fact);
                Ok(())
            }
        }
    }

    async fn start_turn(&self, turn: TurnId, user: UserId, fact: &Fact) -> Result<(), LogError> {
        if self.holds_lease(LeaseKind::Turn, &turn.to_string()).await? {
            let session = SessionId(fact.stream.id.clone());
            chats::turn::start(self, turn, user, session, cause(fact));
        } else {
            self.release_turn(turn);
        }
        Ok(())
    }

    async fn start_caption(
        &self,
        user: UserId,
        brief: &Brief,
        fact: &Fact,
    ) -> Result<(), LogError> {
        let Ok(caption) = fact.stream.id.parse() else {
            return Ok(());
        };
        if self
            .holds_lease(LeaseKind::Caption, &fact.stream.id)
            .await?
        {
            captions::task::start(self, caption, user, brief.clone(), cause(fact));
        } else {
            self.release_caption(caption);
        }
        Ok(())
    }

    /// Gives back what was opened for an answer whose user was forgotten before it started.
    fn release_unreadable(&self, fact: &Fact) {
        let turn = fact.metadata.clear.get("turn");
        if let Some(turn) = turn.and_then(|turn| serde_json::from_value(turn.clone()).ok()) {
            self.release_turn(turn);
        } else if let Ok(caption) = fact.stream.id.parse() {
            self.release_caption(caption);
        }
    }

    /// Stops all runs of a forgotten user, at the model server too. Such an answer has no end: nobody could read it.
    fn drop_user(&self, user: UserId) {
        self.0
            .running
            .lock()
            .values()
            .filter(|run| run.user == user)
            .for_each(|run| run.lost.cancel());
    }
}

fn cause(fact: &Fact) -> Metadata {
    Metadata {
        request_id: fact.metadata.request_id.clone(),
        ..Metadata::caused_by(fact.event_id)
    }
}
