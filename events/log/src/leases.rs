//! A working table: the leases of running jobs, turns and captions, with their holder and end.
//! Never the only proof that something happened.

use std::collections::HashMap;

use genie_events::{Timestamp, UserId};
use serde_json::{Value, json};
use sqlx::{Row, any::AnyRow};

use crate::{Epoch, Log, LogError, append_sqlite::SqliteTx, store::Store};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseKind {
    /// Held by a worker.
    Job,
    /// Held by a node.
    Turn,
    /// Held by a node.
    Caption,
}

impl LeaseKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Turn => "turn",
            Self::Caption => "caption",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The id of the job, turn or caption.
    pub id: String,
    pub user: UserId,
    pub stream_id: String,
    /// The hash of a worker's lease, or a node; empty while nobody holds it.
    pub holder: String,
    pub expires_at: Timestamp,
    pub cancelled: bool,
    /// In percent.
    pub progress: Option<i64>,
    /// What the worker says of its work; sealed for [`MESSAGE`].
    pub message: Option<Vec<u8>>,
}

/// The column that a worker's message is sealed for, under the key of the lease's user.
pub const MESSAGE: &str = "leases.message";

/// The leases that one statement reads.
const READ_AT_ONCE: usize = 64;
/// The leases that one statement renews.
const RENEWED_AT_ONCE: usize = 64;
const COLUMNS: &str = "id, user_id, stream_id, holder, expires_at, cancelled, progress, message";

fn read(row: &AnyRow) -> Result<Lease, sqlx::Error> {
    let user: String = row.try_get("user_id")?;
    Ok(Lease {
        id: row.try_get("id")?,
        user: user
            .parse()
            .map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        stream_id: row.try_get("stream_id")?,
        holder: row.try_get("holder")?,
        expires_at: Timestamp(row.try_get("expires_at")?),
        cancelled: row.try_get::<i64, _>("cancelled")? != 0,
        progress: row.try_get("progress")?,
        message: row.try_get("message")?,
    })
}

/// A heartbeat of one lease.
#[derive(Debug, Clone)]
pub struct Renewal {
    /// The id of the job, turn or caption.
    pub id: String,
    pub holder: String,
    /// In percent; what was reported before stays without.
    pub progress: Option<i64>,
    /// Sealed for [`MESSAGE`]; what was reported before stays without.
    pub message: Option<Vec<u8>>,
}

/// Renews so many leases. The rows of the list are padded with the last to a power of two, so that there are few
/// different statements.
fn renew_sql(count: usize, store: &Store) -> String {
    let bytes = if store.is_postgres() { "bytea" } else { "blob" };
    let row = |n: usize| {
        let first = 3 + 4 * n.min(count.saturating_sub(1));
        format!(
            "(CAST(${} AS text), CAST(${} AS text), CAST(${} AS bigint), CAST(${} AS {bytes}))",
            first,
            first + 1,
            first + 2,
            first + 3
        )
    };
    let rows: Vec<String> = (0..count.next_power_of_two()).map(row).collect();
    format!(
        "UPDATE leases SET expires_at = CASE WHEN cancelled = 0 THEN $2 ELSE expires_at END, \
             progress = coalesce(beat.column3, progress), message = coalesce(beat.column4, message) \
         FROM (VALUES {}) AS beat WHERE kind = $1 AND id = beat.column1 AND holder = beat.column2 RETURNING {COLUMNS}",
        rows.join(", ")
    )
}

/// The leases of running jobs, turns and captions. See [`Log::leases`].
#[derive(Debug, Clone)]
pub struct Leases(Log);

impl Log {
    /// The leases of running jobs, turns and captions.
    pub fn leases(&self) -> Leases {
        Leases(self.clone())
    }
}

impl Leases {
    pub async fn get(&self, kind: LeaseKind, id: &str) -> Result<Option<Lease>, LogError> {
        let id = id.to_owned();
        self.0
            .store()
            .run(async move |store: Store| {
                let sql = format!("SELECT {COLUMNS} FROM leases WHERE kind = $1 AND id = $2");
                let row = sqlx::query(&sql)
                    .bind(kind.as_str())
                    .bind(id)
                    .fetch_optional(store.reads())
                    .await?;
                Ok(row.as_ref().map(read).transpose()?)
            })
            .await
    }

    /// The leases of a kind that these have, in any order.
    pub async fn of(&self, kind: LeaseKind, ids: Vec<String>) -> Result<Vec<Lease>, LogError> {
        self.0
            .store()
            .run(async move |store: Store| {
                let mut leases = Vec::with_capacity(ids.len());
                for some in ids.chunks(READ_AT_ONCE) {
                    let places: Vec<String> = (1..=some.len().next_power_of_two())
                        .map(|n| format!("${}", n.min(some.len()) + 1))
                        .collect();
                    let sql = format!(
                        "SELECT {COLUMNS} FROM leases WHERE kind = $1 AND id IN ({})",
                        places.join(", ")
                    );
                    let query = sqlx::query(&sql).bind(kind.as_str());
                    let query = some.iter().fold(query, |query, id| query.bind(id.clone()));
                    let rows = query.fetch_all(store.reads()).await?;
                    leases.extend(rows.iter().map(read).collect::<Result<Vec<_>, _>>()?);
                }
                Ok(leases)
            })
            .await
    }

    /// Leases of a kind that ran out before `now`, oldest first, at most `limit`.
    pub async fn lapsed(
        &self,
        kind: LeaseKind,
        now: Timestamp,
        limit: i64,
    ) -> Result<Vec<Lease>, LogError> {
        self.0.store()
            .run(async move |store: Store| {
                let sql =
                    format!("SELECT {COLUMNS} FROM leases WHERE kind = $1 AND expires_at <= $2 ORDER BY expires_at LIMIT $3");
                let rows = sqlx::query(&sql).bind(kind.as_str()).bind(now.0).bind(limit).fetch_all(store.reads()).await?;
                Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Heartbeats: each holder keeps its lease until `until`, and may report its progress. Answers the leases in any
    /// order. A lease that its holder does not have is left out, and does not change. A cancelled lease is answered
    /// but not renewed.
    pub async fn renew(
        &self,
        kind: LeaseKind,
        renewals: Vec<Renewal>,
        until: Timestamp,
    ) -> Result<Vec<Lease>, LogError> {
        self.0
            .store()
            .run(async move |store: Store| {
                let mut tx = store.relaxed().await?;
                let mut leases = Vec::with_capacity(renewals.len());
                for some in renewals.chunks(RENEWED_AT_ONCE) {
                    let sql = renew_sql(some.len(), &store);
                    let mut query = sqlx::query(&sql).bind(kind.as_str()).bind(until.0);
                    for renewal in some {
                        query = query
                            .bind(&renewal.id)
                            .bind(&renewal.holder)
                            .bind(renewal.progress)
                            .bind(renewal.message.as_deref());
                    }
                    let rows = query.fetch_all(&mut *tx).await?;
                    leases.extend(rows.iter().map(read).collect::<Result<Vec<_>, _>>()?);
                }
                tx.commit().await?;
                Ok(leases)
            })
            .await
    }

    /// Takes a lease that nobody holds at `now`, by compare-and-set. Only the leader may:
    /// [`LogError::Deposed`] when its term is over.
    pub async fn take(
        &self,
        epoch: Epoch,
        kind: LeaseKind,
        id: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<Lease>, LogError> {
        let id = id.to_owned();
        let holder = holder.to_owned();
        self.0
            .store()
            .run(async move |store: Store| {
                let sql = format!(
                    "UPDATE leases SET holder = $3, expires_at = $5 \
                     WHERE kind = $1 AND id = $2 AND expires_at <= $4 RETURNING {COLUMNS}"
                );
                let mut tx = store.relaxed_in(epoch).await?;
                let query = sqlx::query(&sql)
                    .bind(kind.as_str())
                    .bind(id)
                    .bind(holder)
                    .bind(now.0)
                    .bind(until.0);
                let row = query.fetch_optional(&mut *tx).await?;
                tx.commit().await?;
                Ok(row.as_ref().map(read).transpose()?)
            })
            .await
    }

    /// Lets a lapsed lease that could not be ended lapse again later, so that it does not hide the others.
    pub async fn put_off(
        &self,
        kind: LeaseKind,
        id: &str,
        holder: &str,
        until: Timestamp,
    ) -> Result<(), LogError> {
        let id = id.to_owned();
        let holder = holder.to_owned();
        self.0
            .store()
            .run(async move |store: Store| {
                let mut tx = store.relaxed().await?;
                let sql = "UPDATE leases SET expires_at = $4 \
                           WHERE kind = $1 AND id = $2 AND holder = $3 AND expires_at < $4";
                sqlx::query(sql)
                    .bind(kind.as_str())
                    .bind(id)
                    .bind(holder)
                    .bind(until.0)
                    .execute(&mut *tx)
                    .await?;
                Ok(tx.commit().await?)
            })
            .await
    }

    /// Drops a lease after the log says that its work has ended. Another holder's lease of the same
    /// work stays.
    pub async fn remove(&self, kind: LeaseKind, id: &str, holder: &str) -> Result<(), LogError> {
        let id = id.to_owned();
        let holder = holder.to_owned();
        self.0
            .store()
            .run(async move |store: Store| {
                let mut tx = store.relaxed().await?;
                let sql = "DELETE FROM leases WHERE kind = $1 AND id = $2 AND holder = $3";
                sqlx::query(sql)
                    .bind(kind.as_str())
                    .bind(id)
                    .bind(holder)
                    .execute(&mut *tx)
                    .await?;
                Ok(tx.commit().await?)
            })
            .await
    }

    /// A node's heartbeat: renews the leases that the node still holds among these until `until`.
    /// Answers for each whether it was cancelled. A lease that is missing in the answer was taken
    /// by another node.
    pub async fn renew_runs(
        &self,
        node: &str,
        ids: Vec<String>,
        until: Timestamp,
    ) -> Result<HashMap<String, bool>, LogError> {
        let node = node.to_owned();
        self.0.store()
            .run(async move |store: Store| {
                let mut held = HashMap::with_capacity(ids.len());
                for ids in ids.chunks(RENEWED_AT_ONCE) {
                    let places: Vec<String> = (0..ids.len()).map(|n| format!("${}", n + 3)).collect();
                    let sql = format!(
                        "UPDATE leases SET expires_at = $2 WHERE holder = $1 AND kind IN ('turn', 'caption') AND id IN ({}) \
                         RETURNING id, cancelled",
                        places.join(", ")
                    );
                    let query = sqlx::query(&sql).bind(&node).bind(until.0);
                    let query = ids.iter().fold(query, |query, id| query.bind(id));
                    let mut tx = store.relaxed().await?;
                    let rows = query.fetch_all(&mut *tx).await?;
                    tx.commit().await?;
                    for row in rows {
                        held.insert(row.try_get("id")?, row.try_get::<i64, _>("cancelled")? != 0);
                    }
                }
                Ok(held)
            })
            .await
    }

    /// Cancels a run; its node notices at the next heartbeat.
    pub async fn call_off(&self, kind: LeaseKind, id: &str) -> Result<(), LogError> {
        let id = id.to_owned();
        self.0
            .store()
            .run(async move |store: Store| {
                let mut tx = store.relaxed().await?;
                let call =
                    sqlx::query("UPDATE leases SET cancelled = 1 WHERE kind = $1 AND id = $2")
                        .bind(kind.as_str())
                        .bind(id);
                call.execute(&mut *tx).await?;
                Ok(tx.commit().await?)
            })
            .await
    }

    /// For an embedded store, where one process runs at a time: frees all runs of an earlier
    /// process at once.
    pub async fn release_runs(&self) -> Result<(), LogError> {
        self.0
            .store()
            .run(async move |store: Store| {
                let mut tx = store.relaxed().await?;
                sqlx::query("UPDATE leases SET expires_at = 0 WHERE kind IN ('turn', 'caption')")
                    .execute(&mut *tx)
                    .await?;
                Ok(tx.commit().await?)
            })
            .await
    }
}

/// A lease's row, in the transaction of a fact.
#[derive(Debug, Clone)]
pub enum LeaseRow {
    /// A running job, turn or caption; the holder is empty when nobody runs it yet.
    Put {
        kind: LeaseKind,
        id: String,
        user: UserId,
        stream_id: String,
        holder: String,
        expires_at: Timestamp,
    },
    /// It runs no longer.
    Drop { kind: LeaseKind, id: String },
    /// Its holder is to be told at the next heartbeat that it was called off.
    Cancel { kind: LeaseKind, id: String },
    /// A condition: the append happens only if this holder's lease has lapsed in that very transaction.
    OnlyIfLapsed {
        kind: LeaseKind,
        id: String,
        holder: String,
        now: Timestamp,
    },
}

impl LeaseRow {
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Put {
                kind,
                id,
                user,
                stream_id,
                holder,
                expires_at,
            } => json!({
                "t": "put_lease", "kind": kind.as_str(), "id": id, "user_id": user,
                "stream_id": stream_id, "holder": holder, "expires_at": expires_at,
            }),
            Self::Drop { kind, id } => json!({"t": "drop_lease", "kind": kind.as_str(), "id": id}),
            Self::Cancel { kind, id } => {
                json!({"t": "cancel_lease", "kind": kind.as_str(), "id": id})
            }
            Self::OnlyIfLapsed {
                kind,
                id,
                holder,
                now,
            } => json!({
                "t": "only_if_lapsed", "kind": kind.as_str(), "id": id, "holder": holder, "now": now,
            }),
        }
    }

    pub(crate) async fn write(&self, tx: &mut SqliteTx<'_>) -> Result<(), sqlx::Error> {
        let query = match self {
            Self::Put {
                kind,
                id,
                user,
                stream_id,
                holder,
                expires_at,
            } => sqlx::query(
                "INSERT INTO leases (kind, id, user_id, stream_id, holder, expires_at) VALUES ($1, $2, $3, $4, $5, $6) \
                 ON CONFLICT (kind, id) DO UPDATE SET holder = excluded.holder, \
                     expires_at = excluded.expires_at, cancelled = 0, progress = NULL, message = NULL",
            )
            .bind(kind.as_str())
            .bind(id)
            .bind(user.to_string())
            .bind(stream_id)
            .bind(holder)
            .bind(expires_at.0),
            Self::Drop { kind, id } => {
                sqlx::query("DELETE FROM leases WHERE kind = $1 AND id = $2")
                    .bind(kind.as_str())
                    .bind(id)
            }
            Self::Cancel { kind, id } => {
                sqlx::query("UPDATE leases SET cancelled = 1 WHERE kind = $1 AND id = $2")
                    .bind(kind.as_str())
                    .bind(id)
            }
            Self::OnlyIfLapsed { .. } => return Ok(()),
        };
        query.execute(&mut **tx).await.map(drop)
    }
}
