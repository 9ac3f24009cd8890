//! Starts an answer when the log shows its question. The node that holds the answer's lease does it.

use std::{collections::BTreeMap, time::Duration};

use genie_events::{
    CaptionId, Metadata, SessionId, StreamId, StreamKind, TurnId, UserId,
    account::FORGOTTEN,
    caption::{Brief, CaptionEvent},
    chat::{self, ChatEvent, TurnAnswer, TurnMetrics, TurnOutcome},
    event::Event,
};
use genie_log::{Fact, FactBody, LogError, StoredRow, leases::LeaseKind};
use serde_json::Value;
use tracing::{error, warn};

use super::Supervisor;
use crate::{captions, chats, turn_feed::TurnEnd};

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
        match row.event_type.as_ref() {
            "chat.asked" | "chat.continued" | "chat.prompted" | "caption.requested" => {
                self.start_with_retry(row).await
            }
            chat::REMOVED => self.end_removed_turns(row),
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
                    error!(%error, position = row.position, "supervisor: a question can't be read; it is not answered");
                    let clear = row.metadata().map(|metadata| metadata.clear);
                    return self.release(&clear.unwrap_or_default(), row.stream_id());
                }
            }
            tokio::time::sleep(AWAY).await;
        }
    }

    async fn start(&self, row: &StoredRow) -> Result<(), LogError> {
        let fact = self.0.log.reader().open_row(row).await?;
        let Some(user) = fact.user else { return Ok(()) };
        match &fact.body {
            FactBody::Open(
                Event::Chat(ChatEvent::Asked { turn, .. } | ChatEvent::Continued { turn, .. }),
                _,
            ) => self.start_turn(*turn, user, &fact).await,
            FactBody::Open(Event::Chat(ChatEvent::Prompted { turn, .. }), _) => {
                if self.0.given_turns.get(*turn).is_some() {
                    return self.start_turn(*turn, user, &fact).await;
                }
                // Another node's, or its request has failed. Then it ends when its lease expires.
                self.release_turn(*turn);
                Ok(())
            }
            FactBody::Open(Event::Caption(CaptionEvent::Requested { brief, .. }), _) => {
                self.start_caption(user, brief, &fact).await
            }
            FactBody::Open(..) => Ok(()),
            _ => {
                self.release(&fact.metadata.clear, Ok(fact.stream));
                Ok(())
            }
        }
    }

    async fn start_turn(&self, turn: TurnId, user: UserId, fact: &Fact) -> Result<(), LogError> {
        if self.is_here(LeaseKind::Turn, &turn.to_string()).await? {
            let session = SessionId(fact.stream.id);
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
        let caption = CaptionId(fact.stream.id);
        if self
            .is_here(LeaseKind::Caption, &caption.to_string())
            .await?
        {
            captions::task::start(self, caption, user, brief.clone(), cause(fact));
        } else {
            self.release_caption(caption);
        }
        Ok(())
    }

    /// Gives back what was opened for an answer that does not start: its user was forgotten, or its question can't be
    /// read.
    fn release(&self, clear: &BTreeMap<String, Value>, stream: Result<StreamId, LogError>) {
        let turn = clear.get("turn");
        if let Some(turn) = turn.and_then(|turn| serde_json::from_value(turn.clone()).ok()) {
            self.release_turn(turn);
        } else if let Ok(stream) = stream
            && stream.kind == StreamKind::Caption
        {
            self.release_caption(CaptionId(stream.id));
        }
    }

    /// Stops the turns that ended with their session, and tells their readers. The node that runs them may be another
    /// than the one that removed the session.
    fn end_removed_turns(&self, row: &StoredRow) {
        let Ok(metadata) = row.metadata() else {
            return; // a damaged fact; its turns are lost at the next heartbeat, because their leases are gone
        };
        let turns = metadata.clear.get("turns").cloned().unwrap_or_default();
        let turns: Vec<TurnId> = serde_json::from_value(turns).unwrap_or_default();
        for turn in turns {
            self.end_removed(turn, row.position);
        }
    }

    /// Stops a turn that ended with its session.
    pub fn end_removed(&self, turn: TurnId, position: u64) {
        if let Some(run) = self.0.running.lock().get(&turn.to_string()) {
            run.lost.cancel();
        }
        let answer = TurnAnswer {
            content: String::new(),
            outcome: TurnOutcome::Stopped,
            failure: None,
            model: self.0.settings.chat_model.clone(),
            metrics: TurnMetrics::default(),
            tool_calls: vec![],
        };
        self.0.feeds.end(turn, TurnEnd { answer, position });
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use genie_events::{Change, TurnId};
    use genie_log::{
        AppendRequest, Group, NewFact,
        testing::{TestStore, append, both_stores},
    };

    use super::*;
    use crate::{TokenWaits, outbound::ProxyUse, supervisor::ModelSettings, users::tests::node};

    both_stores!(
        a_question_that_cannot_be_read_takes_no_place_in_line,
        async |store: TestStore| {
            rustls::crypto::ring::default_provider()
                .install_default()
                .ok();
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            let settings = ModelSettings {
                proxies: ProxyUse::default(),
                urls: vec!["http://127.0.0.1:9".into()],
                chat_model: "m".into(),
                caption_model: "m".into(),
                concurrency: 1,
                queue: 0,
                context_tokens: 1000,
                answer_tokens: 100,
                answer_time: Duration::from_secs(1),
                waits: TokenWaits {
                    first: Duration::from_secs(1),
                    between: Duration::from_secs(1),
                },
                system_prompt: "Be kind".into(),
                profiles: HashMap::new(),
            };
            let supervisor =
                Supervisor::new(log.clone(), node(&log), settings, "node".into()).unwrap();
            let turn = TurnId(log.clock().new_uuid());
            let asked = ChatEvent::Asked {
                turn,
                session: "s".into(),
                message: "hello".into(),
            };
            let change = Change::new(log.hashes().session(ada, "s"), asked);
            let fact = NewFact {
                stream: change.stream,
                sequence: 1,
                event: change.event,
            };
            let request = AppendRequest {
                groups: vec![Group::of_user(ada, 1, vec![fact])],
                work: vec![],
                metadata: Metadata::system(),
                remember: None,
            };
            append(&log, request).await.unwrap();
            supervisor.admit(&turn.to_string()).unwrap();
            assert!(supervisor.admit("another").is_err(), "the line is full");
            let mut row = log.reader().rows(1, 1).await.unwrap().remove(0);
            row.digest[0] ^= 1;
            supervisor.see(&row).await;
            assert!(
                supervisor.admit("another").is_ok(),
                "the place was given back"
            );
        }
    );
}
