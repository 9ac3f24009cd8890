//! Reads as much of a chat as the model is given: backwards, in pages, until the budget is full. So a turn costs the same
//! however long its chat is.

use genie_events::{Event, StreamId, UserId};
use genie_log::{Log, LogError};

use super::conversation::ConversationBuilder;
use crate::ollama::ModelMessage;

/// Events that are read at once.
const PAGE: usize = 64;
/// The most events of a chat that are read, whatever the budget.
const MOST_EVENTS: usize = 4096;

/// The conversation that ends in a turn's question; `None` when its session was removed.
pub(super) async fn read_conversation(
    log: &Log,
    user: UserId,
    stream: &StreamId,
    mut conversation: ConversationBuilder,
) -> Result<Option<Vec<ModelMessage>>, LogError> {
    gather(log, user, stream, &mut conversation).await?;
    if conversation.is_removed() {
        return Ok(None);
    }
    let lacking = || LogError::damaged(0, stream, "it lacks the question of a running turn");
    conversation.build().map(Some).ok_or_else(lacking)
}

/// Hands over the newest events until no older one is wanted. Returns how many were read.
async fn gather(
    log: &Log,
    user: UserId,
    stream: &StreamId,
    conversation: &mut ConversationBuilder,
) -> Result<usize, LogError> {
    let reader = log.reader();
    let mut before = None;
    let mut read = 0;
    while read < MOST_EVENTS && before != Some(1) {
        let events = reader.newest_events(user, stream, before, PAGE).await?;
        let Some((oldest, _)) = events.last() else {
            break;
        };
        before = Some(*oldest);
        read += events.len();
        for (_, event) in events {
            if let Event::Chat(event) = event
                && !conversation.take(event)
            {
                return Ok(read);
            }
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use genie_events::{Metadata, StreamKind, TurnId, chat::ChatEvent};
    use genie_log::{
        AppendRequest, Group, NewFact,
        testing::{TestStore, append, both_stores},
    };
    use uuid::Uuid;

    use super::*;

    both_stores!(
        a_turn_reads_the_same_few_events_however_long_its_chat_is,
        async |store: TestStore| {
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            let stream = StreamId::new(StreamKind::Chat, log.hashes().session(ada, "s"));
            let turn = |n: u64| TurnId(Uuid::from_u128(n.into()));
            let mut read = Vec::new();
            let mut asked = 0;
            for length in [200, 1200] {
                let facts = (asked + 1..=length).map(|n| NewFact {
                    stream,
                    sequence: n,
                    event: ChatEvent::Asked {
                        turn: turn(n),
                        session: "s".into(),
                        message: format!("{n:01000}"),
                    }
                    .into(),
                });
                let group = Group::of_user(ada, asked + 1, facts.collect());
                let request = AppendRequest {
                    groups: vec![group],
                    work: vec![],
                    metadata: Metadata::system(),
                    remember: None,
                };
                append(&log, request).await.unwrap();
                asked = length;
                let mut conversation =
                    ConversationBuilder::new(turn(length), "Be kind".into(), 4096);
                read.push(gather(&log, ada, &stream, &mut conversation).await.unwrap());
                let messages = conversation.build().unwrap();
                let newest = &messages.last().unwrap().content;
                assert!(newest.ends_with(&format!("{length:01000}")));
                // No question was answered, so they are one message.
                assert_eq!((messages.len(), newest.len()), (2, 16 * 1000 + 15 * 2));
            }
            assert_eq!(read, [PAGE, PAGE]);
        }
    );
}
