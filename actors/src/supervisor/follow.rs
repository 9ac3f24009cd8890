//! What was asked is begun when its fact is seen in the log, by the node that holds its lease.

use std::time::Duration;

use genie_events::{
    Metadata, SessionId, TurnId, UserId, account::FORGOTTEN, caption::CaptionEvent,
    chat::ChatEvent, event::Event,
};
use genie_log::{Body, Fact, LogError, StoredRow, leases::LeaseKind};
use tracing::{error, warn};

use super::{Supervisor, lock};

/// Pause after the log could not be read.
const AWAY: Duration = Duration::from_millis(500);

impl Supervisor {
    /// Follows the log from a position for ever and runs what is this node's to run; to be spawned on the runtime that owns the
    /// store's connections.
    pub async fn follow(self, after: u64) {
        let mut follower = self.0.log.follow(after);
        while let Some(rows) = follower.next_or_end("supervisor").await {
            for row in &rows {
                match row.event_type.as_str() {
                    "chat.asked" | "caption.requested" => self.see_surely(row).await,
                    FORGOTTEN => self.let_go(UserId(row.owner)),
                    _ => {}
                }
            }
        }
    }

    async fn see_surely(&self, row: &StoredRow) {
        loop {
            match self.see(row).await {
                Err(LogError::Away(reason)) => {
                    warn!(reason, "what was asked can't be read yet; trying on")
                }
                Err(error) => {
                    return error!(%error, position = row.position, "what was asked can't be begun");
                }
                Ok(()) => return,
            }
            tokio::time::sleep(AWAY).await;
        }
    }

    async fn see(&self, row: &StoredRow) -> Result<(), LogError> {
        let fact = self.0.log.open_row(row).await?;
        let Some(user) = fact.user else { return Ok(()) };
        let Body::Open(event, _) = &fact.body else {
            self.leave_unread(&fact);
            return Ok(());
        };
        match event {
            Event::Chat(ChatEvent::Asked { turn, .. }) => {
                let id = turn.to_string();
                match self.is_mine(LeaseKind::Turn, &id).await? {
                    true => self.start_turn(
                        *turn,
                        user,
                        SessionId(fact.stream.id.clone()),
                        cause(&fact),
                    ),
                    false => self.leave_alone(&id, Some(*turn), None),
                }
            }
            Event::Caption(CaptionEvent::Requested { brief, .. }) => {
                let Ok(caption) = fact.stream.id.parse() else {
                    return Ok(());
                };
                match self.is_mine(LeaseKind::Caption, &fact.stream.id).await? {
                    true => self.start_caption(caption, user, brief.clone(), cause(&fact)),
                    false => self.leave_alone(&fact.stream.id, None, Some(caption)),
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whoever asked it was forgotten before it was begun.
    fn leave_unread(&self, fact: &Fact) {
        match fact
            .metadata
            .clear
            .get("turn")
            .and_then(|turn| serde_json::from_value::<TurnId>(turn.clone()).ok())
        {
            Some(turn) => self.leave_alone(&turn.to_string(), Some(turn), None),
            None => self.leave_alone(&fact.stream.id, None, fact.stream.id.parse().ok()),
        }
    }

    /// Stops what runs for a user who was forgotten, at the model server too. It has no end: nobody could read it.
    fn let_go(&self, user: UserId) {
        lock(&self.0.running)
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
