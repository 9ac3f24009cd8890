//! Reads pages of the log, a user's events, and single streams.

use std::collections::BTreeMap;

use cqrs_es::{
    Aggregate,
    persist::{PersistedEventRepository, SerializedEvent},
};
use genie_events::{CredentialId, JobId, Metadata, StreamId, StreamKind, UserId, upcast};
use postgres_es::PostgresEventRepository;
use serde_json::Value;
use sqlx::{Row, any::AnyRow};

use crate::{
    Fact, Log, LogError, Owner, StoredRow,
    encryption::{Envelope, Place},
    keys::KeyState,
    store::Store,
    stored_row::COLUMNS,
};

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

impl Log {
    /// The rows after a position, in order, at most `limit` and [`PAGE`]. A missing position is an
    /// error, not a wait.
    pub async fn rows(&self, after: u64, limit: usize) -> Result<Vec<StoredRow>, LogError> {
        let limit = limit.min(PAGE) as i64;
        self.store()
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
        self.store()
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
        self.store().run(read).await
    }

    /// The owner of a credential, even of a removed one; `None` when there never was one.
    pub async fn owner_of(&self, credential: CredentialId) -> Result<Option<UserId>, LogError> {
        let read = async move |store: Store| {
            let sql = "SELECT user_id FROM events WHERE aggregate_type = 'credential' AND aggregate_id = $1 AND sequence = 1";
            let row = sqlx::query(sql)
                .bind(credential.to_string())
                .fetch_optional(store.reads())
                .await?;
            let owner = row
                .map(|row| row.try_get::<String, _>("user_id"))
                .transpose()?;
            let damaged = |_| {
                LogError::Statement(format!("the owner of credential {credential} is not an id"))
            };
            owner
                .map(|owner| owner.parse().map_err(damaged))
                .transpose()
        };
        self.store().run(read).await
    }

    /// The rows of one of a user's credentials before a sequence, newest first, at most `limit` and
    /// [`PAGE`].
    pub async fn credential_rows(
        &self,
        user: UserId,
        credential: CredentialId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredRow>, LogError> {
        let read = async move |store: Store| {
            let sql = format!(
                "SELECT {COLUMNS} FROM events WHERE aggregate_type = 'credential' AND aggregate_id = $1 AND user_id = $2 \
                 AND sequence < $3 ORDER BY sequence DESC LIMIT $4"
            );
            let query = sqlx::query(&sql)
                .bind(credential.to_string())
                .bind(user.to_string());
            let rows = query
                .bind(below(before))
                .bind(limit.min(PAGE) as i64)
                .fetch_all(store.reads())
                .await?;
            Ok(rows
                .iter()
                .map(StoredRow::read)
                .collect::<Result<Vec<_>, _>>()?)
        };
        self.store().run(read).await
    }

    /// The facts about showing or refusing a user's credentials, before a `user_seq`, newest first,
    /// at most `limit` and [`PAGE`].
    pub async fn revealed_rows(
        &self,
        user: UserId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredRow>, LogError> {
        let read = async move |store: Store| {
            // An index has just these rows.
            let sql = format!(
                "SELECT {COLUMNS} FROM events WHERE user_id = $1 AND user_seq < $2 \
                 AND event_type IN ('credential.revealed', 'credential.refused') ORDER BY user_seq DESC LIMIT $3"
            );
            let query = sqlx::query(&sql).bind(user.to_string()).bind(below(before));
            let rows = query
                .bind(limit.min(PAGE) as i64)
                .fetch_all(store.reads())
                .await?;
            Ok(rows
                .iter()
                .map(StoredRow::read)
                .collect::<Result<Vec<_>, _>>()?)
        };
        self.store().run(read).await
    }

    /// The metadata of the last event of this type in a stream; needs no key. `None` without such
    /// an event.
    pub async fn last_asked(
        &self,
        stream: StreamId,
        event_type: &'static str,
    ) -> Result<Option<Metadata>, LogError> {
        let read = async move |store: Store| {
            let sql = format!(
                "SELECT {COLUMNS} FROM events WHERE aggregate_type = $1 AND aggregate_id = $2 AND event_type = $3 \
                 ORDER BY sequence DESC LIMIT 1"
            );
            let asked = sqlx::query(&sql)
                .bind(stream.kind.as_str())
                .bind(stream.id)
                .bind(event_type);
            let Some(row) = asked.fetch_optional(store.reads()).await? else {
                return Ok(None);
            };
            let row = StoredRow::read(&row)?;
            row.verified_stream()?;
            row.metadata().map(Some)
        };
        self.store().run(read).await
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

    /// The start of the job board: all jobs that are neither completed nor cancelled, in order of
    /// position, by the fields that need no key. Jobs of forgotten users are left out.
    pub async fn unfinished_jobs(&self) -> Result<Vec<JobStep>, LogError> {
        let read = async move |store: Store| {
            let sql = "SELECT position, aggregate_id, sequence, event_type, user_id, CAST(metadata AS text) AS metadata \
                 FROM events WHERE aggregate_type = 'job' AND aggregate_id IN ( \
                     SELECT e.aggregate_id FROM events e WHERE e.aggregate_type = 'job' \
                         AND e.event_type NOT IN ('job.completed', 'job.cancelled') \
                         AND NOT EXISTS (SELECT 1 FROM events n WHERE n.aggregate_type = 'job' \
                             AND n.aggregate_id = e.aggregate_id AND n.sequence = e.sequence + 1)) \
                     AND NOT EXISTS (SELECT 1 FROM user_keys k WHERE k.user_id = events.user_id AND k.state = 'destroyed') \
                 ORDER BY position";
            let rows = sqlx::query(sql).fetch_all(store.reads()).await?;
            Ok(rows
                .iter()
                .map(JobStep::read)
                .collect::<Result<Vec<_>, _>>()?
                .into_iter()
                .flatten()
                .collect())
        };
        self.store().run(read).await
    }

    /// The e-mail addresses that were reserved after a position and have no later event, in order:
    /// position and stream.
    pub async fn reserved_emails(&self, after: u64) -> Result<Vec<(u64, String)>, LogError> {
        let read = async move |store: Store| {
            let sql = format!(
                "SELECT e.position, e.aggregate_id FROM events e WHERE e.event_type = 'email.reserved' AND e.position > $1 \
                 AND NOT EXISTS (SELECT 1 FROM events n WHERE n.aggregate_type = 'email' \
                     AND n.aggregate_id = e.aggregate_id AND n.sequence = e.sequence + 1) \
                 ORDER BY e.position LIMIT {PAGE}"
            );
            let rows = sqlx::query(&sql)
                .bind(after as i64)
                .fetch_all(store.reads())
                .await?;
            let read = |row: AnyRow| {
                Ok((
                    row.try_get::<i64, _>("position")? as u64,
                    row.try_get("aggregate_id")?,
                ))
            };
            rows.into_iter().map(read).collect()
        };
        self.store().run(read).await
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
        let events = match self.store().postgres_reads() {
            Some(pool) => {
                let repository = PostgresEventRepository::new(pool.clone());
                let id = id.to_owned();
                let read =
                    self.store()
                        .run(async move |_| match repository.get_events::<A>(&id).await {
                            Ok(events) => Ok(events),
                            Err(error) => Err(LogError::Away(error.to_string())),
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
        self.store().run(read).await
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
        let KeyState::Live(keys) = self.keys(owner.key_owner()).await? else {
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
