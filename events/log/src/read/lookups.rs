//! Single questions that an index of the log answers.

use genie_events::{
    CredentialId, Metadata, ServiceKeyId, StreamId, StreamKind, UserId, ids::EmailId,
};
use sqlx::{Row, any::AnyRow};
use uuid::Uuid;

use super::{PAGE, below};
use crate::{
    Log, LogError, StoredRow,
    pages::{PageSql, Paged, paged},
    store::Store,
    stored_row::{BYTES, stored_stream},
};

/// A page of shown and refused credentials looks at no more of its user's facts than this.
const REVEALS_LOOKED_AT: u64 = 2000;

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
        columns: store.columns(),
        key: "position",
        bytes: BYTES,
        condition,
        order: &[order],
        descending: true,
        limit,
    }
    .text(store)
}

/// The kind of a key, by its first fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// A service key, which is the system's.
    Service,
    /// A user's own.
    OfUser(UserId),
}

impl Lookups {
    /// The kind of a key, even of a revoked one; `None` when there never was one with this hash.
    pub async fn key_kind(&self, key: ServiceKeyId) -> Result<Option<KeyKind>, LogError> {
        let Some(first) = self.first_row(key.into()).await? else {
            return Ok(None);
        };
        Ok(match first.verified_stream()?.kind {
            StreamKind::ServiceKey => Some(KeyKind::Service),
            StreamKind::ApiKey => first.user().map(KeyKind::OfUser),
            _ => None,
        })
    }

    async fn first_row(&self, stored_stream: Uuid) -> Result<Option<StoredRow>, LogError> {
        let read = async move |store: Store| {
            let columns = store.columns();
            let sql = format!(
                "SELECT {columns} FROM events WHERE stream = unhex($1, '-') AND sequence = 1"
            );
            let first = sqlx::query(&sql)
                .bind(stored_stream.to_string())
                .fetch_optional(store.reads())
                .await?;
            Ok(first.as_ref().map(StoredRow::read).transpose()?)
        };
        self.0.store().run(read).await
    }

    /// The owner of a credential, even of a removed one; `None` when there never was one.
    pub async fn owner_of(&self, credential: CredentialId) -> Result<Option<UserId>, LogError> {
        let Some(first) = self.first_row(credential.into()).await? else {
            return Ok(None);
        };
        let is_credential = first.verified_stream()?.kind == StreamKind::Credential;
        Ok(first.user().filter(|_| is_credential))
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
            let condition = "stream = unhex($1, '-') AND owner = unhex($2, '-') AND sequence < $3";
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

    /// The facts about showing or refusing a user's credentials, before an `owner_seq`, newest first:
    /// a page of at most `limit`, and the `owner_seq` down to which it looked, when there are facts
    /// before it. A page may hold few of these facts, or none, and have a next one.
    pub async fn revealed_rows(
        &self,
        user: UserId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<(Paged<StoredRow>, Option<u64>), LogError> {
        let before = match before {
            Some(before) => before,
            None => self.0.reader().user_seq(user).await? + 1,
        };
        let floor = before.saturating_sub(REVEALS_LOOKED_AT);
        let read = async move |store: Store| {
            let condition = "owner = unhex($1, '-') AND owner_seq < $2 AND owner_seq >= $3 \
                 AND event_type IN ('credential.revealed', 'credential.refused')";
            let sql = newest_first(&store, condition, "owner_seq", "$4");
            let query = sqlx::query(&sql)
                .bind(user.to_string())
                .bind(below(Some(before)))
                .bind(floor as i64)
                .bind(limit.min(PAGE) as i64);
            let page = paged(query.fetch_all(store.reads()).await?)?;
            Ok(page.try_map(|row| StoredRow::read(&row))?)
        };
        let page = self.0.store().run(read).await?;
        Ok((page, (floor > 1).then_some(floor)))
    }

    /// The position of a stream's last event; `None` when there is no such stream.
    pub async fn last_position(&self, stream: StreamId) -> Result<Option<u64>, LogError> {
        let read = async move |store: Store| {
            let sql = "SELECT position FROM events WHERE stream = unhex($1, '-') ORDER BY sequence DESC LIMIT 1";
            let position: Option<i64> = sqlx::query_scalar(sql)
                .bind(stored_stream(&stream).to_string())
                .fetch_optional(store.reads())
                .await?;
            Ok(position.map(|position| position as u64))
        };
        self.0.store().run(read).await
    }

    /// The position of a user's last event; 0 for an unknown user.
    pub async fn last_position_of(&self, user: UserId) -> Result<u64, LogError> {
        let read = async move |store: Store| {
            let sql = "SELECT position FROM events WHERE owner = unhex($1, '-') ORDER BY owner_seq DESC LIMIT 1";
            let position: Option<i64> = sqlx::query_scalar(sql)
                .bind(user.to_string())
                .fetch_optional(store.reads())
                .await?;
            Ok(position.unwrap_or(0) as u64)
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
            let columns = store.columns();
            let sql = format!(
                "SELECT {columns} FROM events WHERE stream = unhex($1, '-') AND event_type = $2 \
                 ORDER BY sequence DESC LIMIT 1"
            );
            let asked = sqlx::query(&sql)
                .bind(stored_stream(&stream).to_string())
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

    /// The e-mail addresses that were reserved after a position and still are, in order: position
    /// and stream.
    pub async fn reserved_emails(&self, after: u64) -> Result<Vec<(u64, EmailId)>, LogError> {
        let read = async move |store: Store| {
            let sql = format!(
                "SELECT position, email_id FROM ( \
                     SELECT email_id, (SELECT e.position FROM events e WHERE e.stream = unhex(r.email_id, '-') \
                                       ORDER BY e.sequence DESC LIMIT 1) AS position FROM reservations r) reserved \
                 WHERE position > $1 ORDER BY position LIMIT {PAGE}"
            );
            let rows = sqlx::query(&sql)
                .bind(after as i64)
                .fetch_all(store.reads())
                .await?;
            let read = |row: AnyRow| {
                let email: String = row.try_get("email_id")?;
                let damaged = |_| LogError::Statement(format!("`{email}` is not an e-mail's id"));
                let position: i64 = row.try_get("position")?;
                Ok((position as u64, email.parse().map_err(damaged)?))
            };
            rows.into_iter().map(read).collect()
        };
        self.0.store().run(read).await
    }
}
