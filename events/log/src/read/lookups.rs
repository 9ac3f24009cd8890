//! Single questions that an index of the log answers.

use genie_events::{CredentialId, Metadata, StreamId, UserId};
use sqlx::{Row, any::AnyRow};

use super::{JobStep, PAGE, below};
use crate::{
    Log, LogError, StoredRow,
    pages::{PageSql, Paged, paged},
    store::Store,
    stored_row::{BYTES, COLUMNS},
};

/// Single questions that an index of the log answers. See [`Log::lookups`].
#[derive(Debug, Clone)]
pub struct Lookups(Log);

impl Log {
    /// Single questions that an index of the log answers.
    pub fn lookups(&self) -> Lookups {
        Lookups(self.clone())
    }
}

fn newest_first(store: &Store, condition: &str, order: &str, limit: &str) -> String {
    PageSql {
        table: "events",
        columns: COLUMNS,
        key: "position",
        bytes: BYTES,
        condition,
        order: &[order],
        descending: true,
        limit,
    }
    .text(store)
}

impl Lookups {
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
        self.0.store().run(read).await
    }

    /// The rows of one of a user's credentials before a sequence, newest first: a page of at most `limit`.
    pub async fn credential_rows(
        &self,
        user: UserId,
        credential: CredentialId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Paged<StoredRow>, LogError> {
        let read = async move |store: Store| {
            let condition = "aggregate_type = 'credential' AND aggregate_id = $1 AND user_id = $2 AND sequence < $3";
            let sql = newest_first(&store, condition, "sequence", "$4");
            let query = sqlx::query(&sql)
                .bind(credential.to_string())
                .bind(user.to_string())
                .bind(below(before))
                .bind(limit.min(PAGE) as i64);
            let page = paged(query.fetch_all(store.reads()).await?)?;
            Ok(page.try_map(|row| StoredRow::read(&row))?)
        };
        self.0.store().run(read).await
    }

    /// The facts about showing or refusing a user's credentials, before a `user_seq`, newest first: a page of at most
    /// `limit`.
    pub async fn revealed_rows(
        &self,
        user: UserId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Paged<StoredRow>, LogError> {
        let read = async move |store: Store| {
            // An index has just these rows.
            let condition = "user_id = $1 AND user_seq < $2 AND event_type IN ('credential.revealed', 'credential.refused')";
            let sql = newest_first(&store, condition, "user_seq", "$3");
            let query = sqlx::query(&sql)
                .bind(user.to_string())
                .bind(below(before))
                .bind(limit.min(PAGE) as i64);
            let page = paged(query.fetch_all(store.reads()).await?)?;
            Ok(page.try_map(|row| StoredRow::read(&row))?)
        };
        self.0.store().run(read).await
    }

    /// The position of a stream's last event; `None` when there is no such stream.
    pub async fn last_position(&self, stream: StreamId) -> Result<Option<u64>, LogError> {
        let read = async move |store: Store| {
            let sql = "SELECT position FROM events WHERE aggregate_type = $1 AND aggregate_id = $2 \
                 ORDER BY sequence DESC LIMIT 1";
            let position: Option<i64> = sqlx::query_scalar(sql)
                .bind(stream.kind.as_str())
                .bind(stream.id)
                .fetch_optional(store.reads())
                .await?;
            Ok(position.map(|position| position as u64))
        };
        self.0.store().run(read).await
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
        self.0.store().run(read).await
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
        self.0.store().run(read).await
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
        self.0.store().run(read).await
    }
}
