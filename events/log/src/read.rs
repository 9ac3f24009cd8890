//! Reads pages of the log, a user's events, and single streams.

use std::collections::BTreeMap;

use cqrs_es::{
    Aggregate,
    persist::{PersistedEventRepository, PersistenceError, SerializedEvent},
};
use genie_events::{JobId, Metadata, StreamId, StreamKind, UserId, upcast};
use postgres_es::PostgresEventRepository;
use serde_json::Value;
use sqlx::{Row, any::AnyRow};
use tokio::sync::watch;

use crate::{
    Fact, Log, LogError, Owner, StoredRow,
    encryption::{Envelope, Place},
    keys::KeyState,
    store::Store,
    stored_row::COLUMNS,
    tail_cache::ReadTo,
};

/// Single questions that an index answers.
mod lookups;
/// Streams, backwards from their newest event.
mod stream_pages;

pub use lookups::Lookups;

pub const PAGE: usize = 1000;

/// The part of a job's event that needs no key.
#[derive(Debug, Clone)]
pub struct JobStep {
    pub position: u64,
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
        let job = stream.id.parse().map_err(|reason| row.damaged(reason))?;
        let event_type = row.event_type.clone();
        let clear = row.metadata()?.clear;
        Ok(Some(Self {
            position: row.position,
            job,
            user,
            sequence: row.sequence,
            event_type,
            clear,
        }))
    }

    /// `None` for a row that makes no sense: a claim of that job meets its owner's state.
    fn read(row: &AnyRow) -> Result<Option<Self>, sqlx::Error> {
        let job: String = row.try_get("aggregate_id")?;
        let user: String = row.try_get("user_id")?;
        let metadata = serde_json::from_str::<Metadata>(&row.try_get::<String, _>("metadata")?);
        let (Ok(job), Ok(user), Ok(metadata)) = (job.parse(), user.parse(), metadata) else {
            return Ok(None);
        };
        Ok(Some(Self {
            position: row.try_get::<i64, _>("position")? as u64,
            job,
            user,
            sequence: row.try_get::<i64, _>("sequence")? as u64,
            event_type: row.try_get("event_type")?,
            clear: metadata.clear,
        }))
    }
}

/// An event of a single stream, with the fields that postgres-es reads.
struct StoredEvent {
    sequence: u64,
    event_type: String,
    version: String,
    payload: String,
}

/// An error of postgres-es, which hides what the database said.
fn unread(error: PersistenceError) -> LogError {
    let reason = error.to_string();
    match error {
        PersistenceError::ConnectionError(_) => LogError::Away(reason),
        PersistenceError::UnknownError(error) => match error.downcast::<sqlx::Error>() {
            Ok(error) => (*error).into(),
            Err(_) => LogError::Statement(reason),
        },
        _ => LogError::Statement(reason),
    }
}

/// An upper bound, as both stores hold it.
fn below(before: Option<u64>) -> i64 {
    before
        .and_then(|before| i64::try_from(before).ok())
        .unwrap_or(i64::MAX)
}

/// The rows after a position, in order and without a hole.
pub(crate) async fn read_rows(
    store: &Store,
    after: u64,
    limit: i64,
) -> Result<Vec<StoredRow>, LogError> {
    let sql =
        format!("SELECT {COLUMNS} FROM events WHERE position > $1 ORDER BY position LIMIT $2");
    let rows = sqlx::query(&sql)
        .bind(after as i64)
        .bind(limit)
        .fetch_all(store.reads())
        .await?;
    let rows = rows
        .iter()
        .map(StoredRow::read)
        .collect::<Result<Vec<_>, _>>()?;
    match (after + 1..)
        .zip(&rows)
        .find(|(expected, row)| row.position != *expected)
    {
        Some((missing, _)) => Err(LogError::Hole { missing }),
        None => Ok(rows),
    }
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
        *self.0.tail().watch_head().borrow()
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

    /// The rows after a position, in order, at most `limit` and [`PAGE`]. A missing position is an
    /// error, not a wait.
    pub async fn rows(&self, after: u64, limit: usize) -> Result<Vec<StoredRow>, LogError> {
        let limit = limit.min(PAGE) as i64;
        self.0
            .store()
            .run(async move |store: Store| read_rows(&store, after, limit).await)
            .await
    }

    /// A user's rows after a `user_seq`, in order, at most [`PAGE`].
    pub async fn user_rows(&self, user: UserId, after: u64) -> Result<Vec<StoredRow>, LogError> {
        self.user_page(user, after, PAGE).await
    }

    /// The same, at most `limit`.
    pub async fn user_page(
        &self,
        user: UserId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredRow>, LogError> {
        self.0.store()
            .run(async move |store: Store| {
                let sql = format!("SELECT {COLUMNS} FROM events WHERE user_id = $1 AND user_seq > $2 ORDER BY user_seq LIMIT $3");
                let query = sqlx::query(&sql).bind(user.to_string()).bind(after as i64).bind(limit as i64);
                let rows = query.fetch_all(store.reads()).await?;
                Ok(rows.iter().map(StoredRow::read).collect::<Result<Vec<_>, _>>()?)
            })
            .await
    }

    /// The number of a user's events.
    pub async fn user_seq(&self, user: UserId) -> Result<u64, LogError> {
        let read = async move |store: Store| {
            let sql = "SELECT coalesce(max(user_seq), 0) AS seq FROM events WHERE user_id = $1";
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
            if rows.len() < PAGE {
                return Ok(());
            }
        }
    }

    /// One stream folded, with the number of its events; `None` when this owner has no such stream.
    /// On Postgres it is read through postgres-es.
    pub async fn stream<A>(&self, owner: &Owner, id: &str) -> Result<Option<(A, u64)>, LogError>
    where
        A: Aggregate + 'static,
    {
        let events = self.stream_events::<A>(owner, id).await?;
        let count = events.len() as u64;
        let mut state = A::default();
        events.into_iter().for_each(|event| state.apply(event));
        Ok((count > 0).then_some((state, count)))
    }

    /// The events of one stream; empty when this owner has no such stream.
    pub async fn stream_events<A>(&self, owner: &Owner, id: &str) -> Result<Vec<A::Event>, LogError>
    where
        A: Aggregate + 'static,
    {
        let Some(kind) = StreamKind::parse(A::TYPE) else {
            return Ok(vec![]);
        };
        let stream = StreamId::new(kind, id);
        let events = match self.0.store().postgres_reads() {
            Some(pool) => {
                let repository = PostgresEventRepository::new(pool.clone());
                let id = id.to_owned();
                let read = self.0.store().run(async move |_| {
                    match repository.get_events::<A>(&id).await {
                        Ok(events) => Ok(events),
                        Err(error) => Err(unread(error)),
                    }
                });
                let events = read.await?;
                let stored = |event: SerializedEvent| StoredEvent {
                    sequence: event.sequence as u64,
                    event_type: event.event_type,
                    version: event.event_version,
                    payload: event.payload.to_string(),
                };
                events.into_iter().map(stored).collect()
            }
            None => self.stream_on_sqlite(stream.clone()).await?,
        };
        self.open_events::<A>(owner, &stream, events).await
    }

    async fn stream_on_sqlite(&self, stream: StreamId) -> Result<Vec<StoredEvent>, LogError> {
        let read = async move |store: Store| {
            let sql = "SELECT sequence, event_type, event_version, payload FROM events \
                 WHERE aggregate_type = $1 AND aggregate_id = $2 ORDER BY sequence";
            let rows = sqlx::query(sql)
                .bind(stream.kind.as_str())
                .bind(stream.id)
                .fetch_all(store.reads())
                .await?;
            let event = |row: AnyRow| {
                Ok(StoredEvent {
                    sequence: row.try_get::<i64, _>("sequence")? as u64,
                    event_type: row.try_get("event_type")?,
                    version: row.try_get("event_version")?,
                    payload: row.try_get("payload")?,
                })
            };
            Ok(rows
                .into_iter()
                .map(event)
                .collect::<Result<Vec<_>, sqlx::Error>>()?)
        };
        self.0.store().run(read).await
    }

    async fn open_events<A: Aggregate>(
        &self,
        owner: &Owner,
        stream: &StreamId,
        stored: Vec<StoredEvent>,
    ) -> Result<Vec<A::Event>, LogError> {
        if stored.is_empty() {
            return Ok(vec![]);
        }
        let KeyState::Live(keys) = self.0.keys().of(owner.key_owner()).await? else {
            return Ok(vec![]);
        };
        let mut events = Vec::with_capacity(stored.len());
        for StoredEvent {
            sequence,
            event_type,
            version,
            payload,
        } in stored
        {
            let damaged = |reason: &dyn ToString| {
                LogError::damaged(
                    0,
                    stream,
                    format!("event {sequence}: {}", reason.to_string()),
                )
            };
            let envelope: Envelope = serde_json::from_str(&payload)
                .map_err(|_| damaged(&"its envelope cannot be read"))?;
            if envelope.k != keys.payload().id() {
                return Ok(vec![]); // The stream belongs to another owner.
            }
            if sequence != events.len() as u64 + 1 {
                return Err(damaged(&"the event before it is missing"));
            }
            let place = Place::event(envelope.e, stream, sequence, &event_type, owner.id());
            let opened = keys
                .payload()
                .open_event(&envelope, &place)
                .map_err(|reason| damaged(&reason))?;
            let mut json = serde_json::from_slice(&opened).map_err(|reason| damaged(&reason))?;
            upcast::lift(&event_type, &version, &mut json, upcast::STEPS)
                .map_err(|reason| damaged(&reason))?;
            events.push(serde_json::from_value(json).map_err(|reason| damaged(&reason))?);
        }
        Ok(events)
    }
}
