//! The system's own streams. They are read from the log each time, because they are asked seldom and from every
//! node.

use cqrs_es::Aggregate;
use genie_events::{Event, Refusal, StreamId, StreamKind};
use genie_log::{Append, AppendRequest, Group, Log, Owner, Remember};
use serde_json::Value;
use uuid::Uuid;

use crate::{WriteError, caller::CommandContext, race::Race, user::answer_again};

/// The present state of a stream.
#[derive(Debug)]
pub(crate) struct SystemStream<A> {
    pub state: A,
    pub stream: StreamId,
    /// The number of the stream's events: the fence of the next append.
    pub count: u64,
}

impl<A> SystemStream<A>
where
    A: Aggregate + 'static,
    A::Event: Into<Event>,
{
    pub async fn load(
        log: &Log,
        kind: StreamKind,
        id: impl Into<Uuid>,
    ) -> Result<Self, WriteError> {
        let stream = StreamId::new(kind, id);
        let (state, count) = log
            .reader()
            .stream(&Owner::System(stream), stream.id)
            .await?
            .unwrap_or_default();
        Ok(Self {
            state,
            stream,
            count,
        })
    }

    /// New events of this stream, for an append.
    pub fn group(&self, events: Vec<A::Event>) -> Group {
        let events = events.into_iter().map(Into::into).collect();
        Group::of_system(&self.stream, self.count, events)
    }
}

/// Asks a stream of the system for a change. Answers the position that reads must reach to see it. The outcome of a
/// repeatable request is kept with the user who sent it.
pub(crate) async fn ask<A>(
    append: &Append,
    kind: StreamKind,
    id: impl Into<Uuid> + Copy,
    context: CommandContext,
    decide: impl Fn(&A) -> Result<Vec<A::Event>, Refusal>,
) -> Result<u64, WriteError>
where
    A: Aggregate + 'static,
    A::Event: Into<Event>,
{
    let CommandContext { metadata, key, .. } = context;
    let repeatable = metadata.by.zip(key);
    let log = append.log();
    let mut race = Race::new();
    loop {
        let loaded = SystemStream::<A>::load(log, kind, id).await?;
        // Looked up after the state was read, as a user's actor does.
        if let Some((user, key)) = &repeatable
            && let Some(remembered) = log.outcomes().get(*user, key).await?
        {
            return answer_again(remembered).map(|receipt| receipt.position);
        }
        let events = decide(&loaded.state)?;
        if events.is_empty() {
            return Ok(log.reader().head()); // everything is so already
        }
        let remember = repeatable.clone().map(|(user, request)| Remember {
            request,
            user,
            outcome: Value::Null,
        });
        let request = AppendRequest {
            groups: vec![loaded.group(events)],
            work: vec![],
            metadata: metadata.clone(),
            remember,
        };
        if let Some(at) = race.append(append, request).await? {
            return Ok(at.last);
        }
    }
}
