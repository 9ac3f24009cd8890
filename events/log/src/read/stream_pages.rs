//! Reads a stream of a user backwards, from its newest event.

use std::collections::{HashMap, HashSet};

use genie_events::{Event, StreamId, UserId};
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::below;
use crate::{
    Fact, LogError, LogReader, Owner, StoredRow,
    pages::{PageSql, paged},
    store::Store,
    stored_row::{BYTES, stored_stream, uuid_column},
};

/// The streams that one statement looks for.
const STREAMS_AT_ONCE: usize = 64;

impl LogReader {
    /// The first events of users' streams, in the order of the streams: `None` for a stream that the user does not
    /// have. One that can't be opened does not hide the others.
    pub async fn first_events(
        &self,
        streams: &[(UserId, StreamId)],
    ) -> Result<Vec<Result<Option<Event>, LogError>>, LogError> {
        let mut rows = HashMap::with_capacity(streams.len());
        let ids: Vec<StreamId> = streams.iter().map(|(_, stream)| *stream).collect();
        for row in self.rows_of(&ids, 1, Store::columns).await? {
            let row = StoredRow::read(&row)?;
            rows.insert(row.stream, row);
        }
        let mut events = Vec::with_capacity(streams.len());
        for (user, stream) in streams {
            let row = rows.get(&stored_stream(stream));
            // A stream belongs to one owner.
            events.push(match row.filter(|row| row.owner == user.0) {
                Some(row) => self.open_own(*user, row).await.map(Some),
                None => Ok(None),
            });
        }
        Ok(events)
    }

    async fn open_own(&self, user: UserId, row: &StoredRow) -> Result<Event, LogError> {
        let keys = self.log().keys().live(user).await?;
        let (_, event) = row.open(&keys)?;
        Ok(event)
    }

    /// The streams among these that have begun, whoever has them.
    pub async fn begun(&self, streams: &[StreamId]) -> Result<HashSet<StreamId>, LogError> {
        self.having(streams, 1).await
    }

    /// The streams among these that have an event with this number, whoever has them.
    pub async fn having(
        &self,
        streams: &[StreamId],
        sequence: u64,
    ) -> Result<HashSet<StreamId>, LogError> {
        let column = |store: &Store| {
            if store.is_postgres() {
                "uuid_send(stream) AS stream"
            } else {
                "stream"
            }
        };
        let rows = self.rows_of(streams, sequence, column).await?;
        let found: HashSet<Uuid> = rows
            .iter()
            .map(|row| uuid_column(row, "stream"))
            .collect::<Result<_, _>>()?;
        let is_found = |stream: &&StreamId| found.contains(&stored_stream(stream));
        Ok(streams.iter().filter(is_found).copied().collect())
    }

    /// These columns of the streams' rows with this number, in any order.
    async fn rows_of(
        &self,
        streams: &[StreamId],
        sequence: u64,
        columns: impl Fn(&Store) -> &'static str + Send + 'static,
    ) -> Result<Vec<AnyRow>, LogError> {
        let mut ids: Vec<String> = streams
            .iter()
            .map(|stream| stored_stream(stream).to_string())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let read = async move |store: Store| {
            let mut rows = Vec::with_capacity(ids.len());
            for some in ids.chunks(STREAMS_AT_ONCE) {
                // Padded with the last to a power of two, so that there are few different statements.
                let places: Vec<String> = (1..=some.len().next_power_of_two())
                    .map(|n| format!("unhex(${}, '-')", n.min(some.len())))
                    .collect();
                let sql = format!(
                    "SELECT {} FROM events WHERE stream IN ({}) AND sequence = {sequence}",
                    columns(&store),
                    places.join(", ")
                );
                let query = some
                    .iter()
                    .fold(sqlx::query(&sql), |query, id| query.bind(id.clone()));
                rows.extend(query.fetch_all(store.reads()).await?);
            }
            Ok(rows)
        };
        self.log().store().run(read).await
    }

    /// The events of a user's stream before a sequence, newest first, each with its sequence: at most
    /// `limit`, and at most a page in bytes. Empty when the user has no such stream.
    pub async fn newest_events(
        &self,
        user: UserId,
        stream: &StreamId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, Event)>, LogError> {
        let rows = self.newest_rows(user.0, *stream, before, limit).await?;
        if rows.is_empty() {
            return match before {
                Some(before @ 2..) => {
                    let missing = format!("event {} of the stream is missing", before - 1);
                    Err(LogError::damaged(0, stream, missing))
                }
                _ => Ok(vec![]),
            };
        }
        let keys = self.log().keys().live(user).await?;
        let mut events = Vec::with_capacity(rows.len());
        let mut expected = before;
        for row in &rows {
            if expected.is_some_and(|after| row.sequence + 1 != after) {
                return Err(row.damaged("the event after it is missing"));
            }
            expected = Some(row.sequence);
            let (_, event) = row.open(&keys)?;
            events.push((row.sequence, event));
        }
        Ok(events)
    }

    /// The types of the newest events of a user's stream, newest first; needs no key.
    pub async fn newest_types(
        &self,
        user: UserId,
        stream: StreamId,
        limit: usize,
    ) -> Result<Vec<String>, LogError> {
        let rows = self.newest_rows(user.0, stream, None, limit).await?;
        Ok(rows
            .into_iter()
            .map(|row| row.event_type.into_owned())
            .collect())
    }

    /// The newest fact of a stream of the system.
    pub async fn newest_of_system(&self, stream: &StreamId) -> Result<Option<Fact>, LogError> {
        let owner = Owner::System(*stream).id();
        let rows = self.newest_rows(owner, *stream, None, 1).await?;
        match rows.first() {
            Some(row) => self.open_row(row).await.map(Some),
            None => Ok(None),
        }
    }

    /// The number of events of a user's stream, and the type of the newest; `None` when the user has no such stream.
    pub async fn end_of(
        &self,
        user: UserId,
        stream: StreamId,
    ) -> Result<Option<(u64, String)>, LogError> {
        let read = async move |store: Store| {
            // A stream belongs to one owner.
            let sql = "SELECT CASE WHEN owner = unhex($2, '-') THEN sequence ELSE 0 END AS sequence, event_type FROM events \
                       WHERE stream = unhex($1, '-') ORDER BY events.sequence DESC LIMIT 1";
            let newest: Option<(i64, String)> = sqlx::query_as(sql)
                .bind(stored_stream(&stream).to_string())
                .bind(user.to_string())
                .fetch_optional(store.reads())
                .await?;
            let newest = newest.filter(|(sequence, _)| *sequence > 0);
            Ok(newest.map(|(sequence, event_type)| (sequence as u64, event_type)))
        };
        self.log().store().run(read).await
    }

    async fn newest_rows(
        &self,
        owner: Uuid,
        stream: StreamId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredRow>, LogError> {
        let read = async move |store: Store| {
            let sql = PageSql {
                table: "events",
                columns: store.columns(),
                key: "position",
                bytes: BYTES,
                condition: "stream = unhex($1, '-') AND sequence < $2",
                order: &["sequence"],
                descending: true,
                limit: "$3",
            }
            .text(&store);
            let query = sqlx::query(&sql)
                .bind(stored_stream(&stream).to_string())
                .bind(below(before))
                .bind(limit as i64);
            let page = paged(query.fetch_all(store.reads()).await?)?;
            let rows = page.try_map(|row| StoredRow::read(&row))?.rows;
            Ok(rows)
        };
        let mut rows: Vec<StoredRow> = self.log().store().run(read).await?;
        // A stream belongs to one owner.
        rows.retain(|row| row.owner == owner);
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use genie_events::{Metadata, StreamKind, TurnId, chat::ChatEvent};

    use super::*;
    use crate::{
        AppendRequest, Group, Log, NewFact,
        pages::PAGE_BYTES,
        testing::{TestStore, both_stores},
    };

    fn session(log: &Log, user: UserId) -> StreamId {
        StreamId::new(StreamKind::Chat, log.hashes().session(user, "s"))
    }

    /// Appends questions of so many bytes to a session; the user has one event before them.
    async fn ask(log: &Log, user: UserId, questions: u64, bytes: usize) {
        for n in 1..=questions {
            let event = ChatEvent::Asked {
                turn: TurnId(Uuid::from_u128(u128::from(n))),
                session: "s".into(),
                message: "x".repeat(bytes),
            };
            let fact = NewFact {
                stream: session(log, user),
                sequence: n,
                event: event.into(),
            };
            let request = AppendRequest {
                groups: vec![Group::of_user(user, n, vec![fact])],
                work: vec![],
                metadata: Metadata::system(),
                remember: None,
            };
            crate::testing::append(log, request).await.unwrap();
        }
    }

    both_stores!(
        a_stream_is_read_backwards_in_pages_that_end_at_bytes_or_rows,
        async |store: TestStore| {
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            let bob = store.register(&log, "bob").await;
            ask(&log, ada, 25, 100_000).await;
            let stream = session(&log, ada);
            let reader = log.reader();
            let page = async |before, limit| {
                let events = reader.newest_events(ada, &stream, before, limit);
                let events = events.await.unwrap();
                events.into_iter().map(|(n, _)| n).collect::<Vec<u64>>()
            };
            assert_eq!(page(None, 3).await, [25, 24, 23]);
            assert_eq!(page(Some(3), 3).await, [2, 1]);
            assert!(page(Some(1), 3).await.is_empty());
            let mut seen = Vec::new();
            while seen.last() != Some(&1) {
                let next = page(seen.last().copied(), 500).await;
                assert!(!next.is_empty() && next.len() as i64 * 100_000 <= PAGE_BYTES);
                seen.extend(next);
            }
            assert_eq!(seen, (1..=25).rev().collect::<Vec<u64>>());
            let end = async |user| reader.end_of(user, stream).await.unwrap();
            assert_eq!(end(ada).await, Some((25, "chat.asked".to_owned())));
            assert_eq!(end(bob).await, None);
            let others = reader.newest_events(bob, &stream, None, 3);
            assert!(others.await.unwrap().is_empty(), "of another owner");
        }
    );

    both_stores!(
        the_first_events_of_many_streams_are_read_together,
        async |store: TestStore| {
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            let bob = store.register(&log, "bob").await;
            ask(&log, ada, 3, 10).await;
            ask(&log, bob, 2, 10).await;
            let (of_ada, of_bob) = (session(&log, ada), session(&log, bob));
            let absent = |n| StreamId::new(StreamKind::Job, Uuid::from_u128(n));
            let mut asked: Vec<_> = (0..100).map(|n| (ada, absent(n))).collect();
            asked.extend([(bob, of_bob), (ada, of_ada), (ada, of_bob), (bob, of_bob)]);
            let reader = log.reader();
            let events = reader.first_events(&asked).await.unwrap();
            let found = |event: &Result<Option<Event>, LogError>| {
                let turn = match event.as_ref().unwrap() {
                    Some(Event::Chat(ChatEvent::Asked { turn, .. })) => turn.0.as_u128(),
                    None => return None,
                    other => panic!("{other:?}"),
                };
                Some(turn)
            };
            let found: Vec<_> = events.iter().map(found).collect();
            assert_eq!(found[..100], [None; 100]);
            assert_eq!(found[100..], [Some(1), Some(1), None, Some(1)]);
            let streams: Vec<_> = asked.iter().map(|(_, stream)| *stream).collect();
            let begun = reader.begun(&streams).await.unwrap();
            assert_eq!(begun, HashSet::from([of_ada, of_bob]));
        }
    );

    both_stores!(
        a_row_larger_than_a_page_is_a_page_and_a_missing_one_an_alarm,
        async |store: TestStore| {
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            ask(&log, ada, 3, PAGE_BYTES as usize - 100_000).await;
            let stream = session(&log, ada);
            let reader = log.reader();
            let newest = reader.newest_events(ada, &stream, None, 10);
            assert_eq!(newest.await.unwrap().len(), 1);
            store.tamper("DELETE FROM events WHERE position = 2").await;
            let oldest = reader.newest_events(ada, &stream, Some(2), 10).await;
            assert!(matches!(oldest, Err(LogError::Damaged(_))), "{oldest:?}");
        }
    );
}
