//! The system's own streams: folded from the log each time, because they are asked seldom and from every node.

use cqrs_es::Aggregate;
use genie_events::{Event, Refusal, StreamId, StreamKind};
use genie_log::{Append, AppendError, AppendRequest, Group, Log, Owner, Remember, clock};
use serde_json::Value;

use crate::{WriteError, caller::Asking, user::answer_again};

/// How often a race is tried again before the caller is told to come back.
const TRIES: u32 = 5;
/// The pause before that; spread by chance.
const RACE_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

/// What a stream of the system says now, and how many events it has.
pub(crate) async fn load<A>(
    log: &Log,
    kind: StreamKind,
    id: &str,
) -> Result<(A, StreamId, u64), WriteError>
where
    A: Aggregate + 'static,
{
    let stream = StreamId::new(kind, id);
    let (state, count) = log
        .stream(&Owner::System(stream.clone()), id)
        .await?
        .unwrap_or_default();
    Ok((state, stream, count))
}

/// Asks a stream of the system something, again on what another left behind when there was a race. Answers the position that
/// reads must have reached to see it. What came of a request that may be sent again is kept with the user who asked.
pub(crate) async fn ask<A>(
    append: &Append,
    kind: StreamKind,
    id: &str,
    asking: Asking,
    decide: impl Fn(&A) -> Result<Vec<A::Event>, Refusal>,
) -> Result<u64, WriteError>
where
    A: Aggregate + 'static,
    A::Event: Into<Event>,
{
    let log = append.log();
    let Asking { metadata, key } = asking;
    let again = metadata.by.zip(key);
    for _ in 0..TRIES {
        let (state, stream, count) = load::<A>(log, kind, id).await?;
        // Asked for after the state was read, as a user's actor does.
        if let Some((user, key)) = &again
            && let Some(remembered) = log.outcomes().get(*user, key).await?
        {
            return answer_again(remembered).map(|done| done.position);
        }
        let events: Vec<Event> = decide(&state)?.into_iter().map(Into::into).collect();
        if events.is_empty() {
            return Ok(log.head()); // it is so already
        }
        let group = Group::of_system(&stream, count, events);
        let remember = again.clone().map(|(user, request)| Remember {
            request,
            user,
            outcome: Value::Null,
        });
        match append
            .append(AppendRequest {
                groups: vec![group],
                work: vec![],
                metadata: metadata.clone(),
                remember,
            })
            .await
        {
            Ok(at) => return Ok(at.last),
            Err(AppendError::Stale | AppendError::KeyUsed) => {
                tokio::time::sleep(RACE_PAUSE.mul_f64(clock::chance())).await
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(WriteError::Busy)
}
