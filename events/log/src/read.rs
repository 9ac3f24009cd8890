//! Reads pages of the log, a user's events, and single streams.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use cqrs_es::{Aggregate, persist::SerializedEvent};
use genie_events::{JobId, StreamId, StreamKind, UserId, upcast};
use serde::Deserialize;
use serde_json::Value;
use sqlx::{Row, any::AnyRow};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    Fact, Log, LogError, Owner, StoredRow,
    encryption::CantOpen,
    keys::KeyState,
    postgres_streams::PostgresStreams,
    store::Store,
    stored_row::{event_place, stored_stream, uuid_column},
    tail_cache::ReadTo,
};

/// Single questions that an index answers.
mod lookups;
/// Pages of the log, and of one owner's events.
mod row_pages;
/// Streams, backwards from their newest event.
mod stream_pages;

pub use lookups::{KeyKind, Lookups};
pub use row_pages::Shown;
pub(crate) use row_pages::read_rows;

pub const PAGE: usize = 1000;

/// The part of a job's event that needs no key.
#[derive(Debug, Clone)]
pub struct JobStep {
    /// The event's number among its owner's events.
    pub owner_seq: u64,
    pub job: JobId,
    pub user: UserId,
    /// The event's number in the job's stream.
    pub sequence: u64,
    /// Such as `job.submitted`.
    pub event_type: String,
    /// The event's non-personal fields.
    pub clear: BTreeMap<String, Value>,
}

impl JobStep {
    /// The job's event in a row; `None` for a row of another kind.
    pub fn of(row: &StoredRow) -> Result<Option<Self>, LogError> {
        let stream = row.verified_stream()?;
        if stream.kind != StreamKind::Job {
            return Ok(None);
        }
        let Some(user) = row.user() else {
            return Ok(None);
        };
        Ok(Some(Self {
            owner_seq: row.owner_seq,
            job: JobId(stream.id),
            user,
            sequence: row.sequence,
            event_type: row.event_type.clone().into_owned(),
            clear: row.clear()?,
        }))
    }
}

/// An event of a single stream, with the fields that postgres-es reads.
struct SealedStreamEvent {
    sequence: u64,
    event_type: String,
    version: i16,
    event_id: Uuid,
    sealed: Vec<u8>,
}

/// The payload as the view `stream_events` shows it.
#[derive(Deserialize)]
struct ShownPayload {
    event_id: Uuid,
    sealed: String,
}

impl TryFrom<SerializedEvent> for SealedStreamEvent {
    type Error = LogError;

    fn try_from(event: SerializedEvent) -> Result<Self, LogError> {
        let unreadable = |reason: &dyn std::fmt::Display| {
            LogError::Statement(format!("the view stream_events can't be read: {reason}"))
        };
        let payload: ShownPayload =
            serde_json::from_value(event.payload).map_err(|reason| unreadable(&reason))?;
        let sealed = BASE64
            .decode(payload.sealed)
            .map_err(|reason| unreadable(&reason))?;
        Ok(Self {
            sequence: event.sequence as u64,
            event_type: event.event_type,
            version: event.event_version.parse().unwrap_or(-1), // refused as an unknown version
            event_id: payload.event_id,
            sealed,
        })
    }
}

/// An upper bound, as both stores hold it.
fn below(before: Option<u64>) -> i64 {
    before
        .and_then(|before| i64::try_from(before).ok())
        .unwrap_or(i64::MAX)
}

/// Reads the log's facts in order: pages of it, a user's events, single streams. See
/// [`Log::reader`].
#[derive(Debug, Clone)]
pub struct LogReader(Log);

impl Log {
    /// Reads the log's facts in order.
    pub fn reader(&self) -> LogReader {
        LogReader(self.clone())
    }
}

impl LogReader {
    pub(crate) fn log(&self) -> &Log {
        &self.0
    }

    /// The last position that this process knows of.
    pub fn head(&self) -> u64 {
        self.0.tail().head()
    }

    /// Wakes whenever the head rises.
    pub fn watch_head(&self) -> watch::Receiver<u64> {
        self.0.tail().watch_head()
    }

    /// The first position that is missing from the log, once a reader has found a hole.
    pub fn hole(&self) -> Option<u64> {
        match *self.0.tail().watch_reading().borrow() {
            ReadTo::Hole { missing } => Some(missing),
            ReadTo::UpTo(_) => None,
        }
    }

    /// The number of a user's events.
    pub async fn user_seq(&self, user: UserId) -> Result<u64, LogError> {
        let read = async move |store: Store| {
            let sql = "SELECT coalesce(max(owner_seq), 0) AS seq FROM events WHERE owner = unhex($1, '-')";
            let row = sqlx::query(sql)
                .bind(user.to_string())
                .fetch_one(store.reads())
                .await?;
            Ok(row.try_get::<i64, _>("seq")? as u64)
        };
        self.0.store().run(read).await
    }

    /// Hands over all facts of a user in order. The first damaged one ends it: later facts could
    /// not be trusted to follow from the earlier ones.
    pub async fn user_facts(
        &self,
        user: UserId,
        mut each: impl FnMut(Fact),
    ) -> Result<(), LogError> {
        let mut after = 0;
        loop {
            let rows = self.user_rows(user, after).await?;
            for row in &rows {
                if row.owner_seq != after + 1 {
                    return Err(row.damaged(format!(
                        "the user's event {} is missing before it",
                        after + 1
                    )));
                }
                each(self.open_row(row).await?);
                after = row.owner_seq;
            }
            if rows.is_empty() {
                return Ok(());
            }
        }
    }

    /// One stream folded, with the number of its events; `None` when this owner has no such stream.
    /// On Postgres it is read through postgres-es.
    pub async fn stream<A>(
        &self,
        owner: &Owner,
        id: impl Into<Uuid>,
    ) -> Result<Option<(A, u64)>, LogError>
    where
        A: Aggregate + 'static,
    {
        let events = self.stream_events::<A>(owner, id.into()).await?;
        let count = events.len() as u64;
        let mut state = A::default();
        events.into_iter().for_each(|event| state.apply(event));
        Ok((count > 0).then_some((state, count)))
    }

    /// The events of one stream; empty when this owner has no such stream.
    pub async fn stream_events<A>(
        &self,
        owner: &Owner,
        id: impl Into<Uuid>,
    ) -> Result<Vec<A::Event>, LogError>
    where
        A: Aggregate + 'static,
    {
        let Some(kind) = StreamKind::parse(A::TYPE) else {
            return Ok(vec![]);
        };
        let stream = StreamId::new(kind, id.into());
        let events = match self.0.store().postgres_streams().cloned() {
            Some(streams) => self.stream_on_postgres::<A>(streams, &stream).await?,
            None => self.stream_on_sqlite(&stream).await?,
        };
        self.open_events::<A>(owner, &stream, events).await
    }

    async fn stream_on_postgres<A>(
        &self,
        streams: PostgresStreams,
        stream: &StreamId,
    ) -> Result<Vec<SealedStreamEvent>, LogError>
    where
        A: Aggregate + 'static,
    {
        let id = stored_stream(stream).to_string();
        let read = async move |_| streams.events::<A>(&id).await;
        let events = self.0.store().run(read).await?;
        events
            .into_iter()
            .map(SealedStreamEvent::try_from)
            .collect()
    }

    async fn stream_on_sqlite(
        &self,
        stream: &StreamId,
    ) -> Result<Vec<SealedStreamEvent>, LogError> {
        let id = stored_stream(stream).to_string();
        let read = async move |store: Store| {
            let sql = "SELECT sequence, event_type, event_version, event_id, payload FROM events \
                 WHERE stream = unhex($1, '-') ORDER BY sequence";
            let rows = sqlx::query(sql).bind(id).fetch_all(store.reads()).await?;
            let event = |row: AnyRow| {
                Ok(SealedStreamEvent {
                    sequence: row.try_get::<i64, _>("sequence")? as u64,
                    event_type: row.try_get("event_type")?,
                    version: i16::try_from(row.try_get::<i64, _>("event_version")?).unwrap_or(-1),
                    event_id: uuid_column(&row, "event_id")?,
                    sealed: row.try_get("payload")?,
                })
            };
            let events = rows.into_iter().map(event);
            Ok(events.collect::<Result<Vec<_>, sqlx::Error>>()?)
        };
        self.0.store().run(read).await
    }

    async fn open_events<A: Aggregate>(
        &self,
        owner: &Owner,
        stream: &StreamId,
        stored: Vec<SealedStreamEvent>,
    ) -> Result<Vec<A::Event>, LogError> {
        if stored.is_empty() {
            return Ok(vec![]);
        }
        let KeyState::Live(keys) = self.0.keys().of(owner.key_owner()).await? else {
            return Ok(vec![]);
        };
        let mut events = Vec::with_capacity(stored.len());
        for event in stored {
            let sequence = event.sequence;
            let damaged = |reason: &dyn ToString| {
                let reason = format!("event {sequence}: {}", reason.to_string());
                LogError::damaged(0, stream, reason)
            };
            if sequence != events.len() as u64 + 1 {
                return Err(damaged(&"the event before it is missing"));
            }
            let place = event_place(
                event.event_id,
                stored_stream(stream),
                sequence,
                &event.event_type,
                owner.id(),
            );
            let opened = match keys.payload().open(&event.sealed, &place) {
                Ok(opened) => opened,
                // The stream belongs to another owner.
                Err(CantOpen::OtherKey) => return Ok(vec![]),
                Err(reason) => return Err(damaged(&reason)),
            };
            let mut json = serde_json::from_slice(&opened).map_err(|reason| damaged(&reason))?;
            upcast::lift(&event.event_type, event.version, &mut json, upcast::STEPS)
                .map_err(|reason| damaged(&reason))?;
            events.push(serde_json::from_value(json).map_err(|reason| damaged(&reason))?);
        }
        Ok(events)
    }
}
