//! Appends on SQLite: the same steps as the Postgres function, in one immediate transaction and a
//! few statements.

use sqlx::{
    Connection, Row, Sqlite, SqliteConnection, SqlitePool, Transaction, pool::PoolConnection,
};
use uuid::Uuid;

use crate::{
    StoredRow,
    append::{Appended, Request, Verdict, Work},
    leases::LeaseRow,
    row_chunks::row_chunks,
    unfinished::{self, UnfinishedRow},
};

/// The transaction of an append.
pub(crate) type SqliteTx<'a> = Transaction<'a, Sqlite>;

/// The writer's connection, kept from batch to batch.
pub(crate) type HeldSqlite = Option<PoolConnection<Sqlite>>;

pub(crate) async fn append(
    pool: &SqlitePool,
    held: &mut HeldSqlite,
    batch: &[&Request],
) -> Result<Vec<Verdict>, sqlx::Error> {
    let mut connection = match held.take() {
        Some(connection) => connection,
        None => pool.acquire().await?,
    };
    // The unique keys are the fence. Nothing is looked up before one of them is met.
    let mut outcomes = append_on(&mut connection, batch, Request::has_condition).await;
    if outcomes.as_ref().is_err_and(is_unique_violation) {
        outcomes = append_on(&mut connection, batch, |_| true).await;
    }
    // After an error the pool checks the connection.
    *held = outcomes.is_ok().then_some(connection);
    outcomes
}

fn is_unique_violation(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.is_unique_violation())
}

/// Judges the doubtful requests and inserts all others, in one transaction.
async fn append_on(
    connection: &mut SqliteConnection,
    batch: &[&Request],
    is_doubtful: impl Fn(&Request) -> bool,
) -> Result<Vec<Verdict>, sqlx::Error> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut head: i64 = sqlx::query_scalar("SELECT coalesce(max(position), 0) FROM events")
        .fetch_one(&mut *tx)
        .await?;
    let mut outcomes = Vec::with_capacity(batch.len());
    let mut rows = Vec::new();
    let mut work = Vec::new();
    for request in batch {
        let refused = if is_doubtful(request) {
            judge(&mut tx, request).await?
        } else {
            None
        };
        outcomes.push(refused.unwrap_or_else(|| {
            let first = head + 1;
            rows.extend((first..).zip(&request.rows));
            work.extend(&request.work);
            head += request.rows.len() as i64;
            Verdict::Written(Appended {
                first: first as u64,
                last: head as u64,
            })
        }));
    }
    insert(&mut tx, &rows).await?;
    let mut put = Vec::new();
    for work in work {
        match work {
            Work::Unfinished(UnfinishedRow::Put(job)) => put.push(job),
            other => other.write(&mut tx).await?,
        }
    }
    // No two requests share an owner, and a job has one change in an append.
    unfinished::put(&mut tx, &put).await?;
    tx.commit().await?;
    Ok(outcomes)
}

/// Why the request is not to be inserted; `None` when it is.
async fn judge(tx: &mut SqliteTx<'_>, request: &Request) -> Result<Option<Verdict>, sqlx::Error> {
    let mut owners: Vec<Uuid> = request.owners().collect();
    owners.dedup();
    let is_stale = is_stale(tx, request, &owners).await?;
    // An owner whose last event is the one before the request cannot have these rows yet.
    if is_stale && let Some(at) = already(tx, request).await? {
        return Ok(Some(Verdict::Written(at)));
    }
    if is_deposed(tx, request).await? {
        return Ok(Some(Verdict::Deposed));
    }
    for owner in &owners {
        if !request.system_owners.contains(owner) && !key_is_live(tx, request, *owner).await? {
            return Ok(Some(Verdict::KeyNotLive));
        }
    }
    if is_stale || !is_at(tx, request).await? {
        return Ok(Some(Verdict::Stale));
    }
    // Only a first event can meet another owner's stream.
    for row in request.rows.iter().filter(|row| row.sequence == 1) {
        let taken = sqlx::query("SELECT 1 FROM events WHERE stream = $1 AND sequence = $2")
            .bind(row.stream)
            .bind(row.sequence as i64)
            .fetch_optional(&mut **tx)
            .await?;
        if taken.is_some() {
            return Ok(Some(Verdict::Taken));
        }
    }
    for work in &request.work {
        if let Work::Remember(outcome) = work {
            let used =
                sqlx::query("SELECT 1 FROM idempotency WHERE key_hash = $1").bind(&outcome.key);
            if used.fetch_optional(&mut **tx).await?.is_some() {
                return Ok(Some(Verdict::KeyUsed));
            }
        }
        if let Work::Lease(LeaseRow::OnlyIfLapsed {
            kind,
            id,
            holder,
            now,
        }) = work
        {
            let lapsed = sqlx::query("SELECT 1 FROM leases WHERE kind = $1 AND id = $2 AND holder = $3 AND expires_at <= $4")
                .bind(kind.as_str())
                .bind(id)
                .bind(holder)
                .bind(now.0)
                .fetch_optional(&mut **tx)
                .await?;
            if lapsed.is_none() {
                return Ok(Some(Verdict::LeaseHeld));
            }
        }
    }
    Ok(None)
}

async fn is_stale(
    tx: &mut SqliteTx<'_>,
    request: &Request,
    owners: &[Uuid],
) -> Result<bool, sqlx::Error> {
    for owner in owners {
        let fence = request
            .rows
            .iter()
            .filter(|row| row.owner == *owner)
            .map(|row| row.owner_seq)
            .min()
            .unwrap_or(0);
        if fence != last_of(tx, *owner).await? + 1 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True when the users on whom the request rests have had no further event.
async fn is_at(tx: &mut SqliteTx<'_>, request: &Request) -> Result<bool, sqlx::Error> {
    for (user, seq) in request.conditions() {
        if last_of(tx, user).await? != seq {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The number of an owner's last event.
async fn last_of(tx: &mut SqliteTx<'_>, owner: Uuid) -> Result<u64, sqlx::Error> {
    let sql = "SELECT coalesce(max(owner_seq), 0) FROM events WHERE owner = $1";
    let last: i64 = sqlx::query_scalar(sql)
        .bind(owner)
        .fetch_one(&mut **tx)
        .await?;
    Ok(last as u64)
}

async fn already(
    tx: &mut SqliteTx<'_>,
    request: &Request,
) -> Result<Option<Appended>, sqlx::Error> {
    let (Some(first), Some(last)) = (request.rows.first(), request.rows.last()) else {
        return Ok(None);
    };
    let mut positions = Vec::with_capacity(2);
    for row in [first, last] {
        let sql =
            "SELECT position FROM events WHERE owner = $1 AND owner_seq = $2 AND event_id = $3";
        let found = sqlx::query(sql)
            .bind(row.owner)
            .bind(row.owner_seq as i64)
            .bind(row.event_id)
            .fetch_optional(&mut **tx)
            .await?;
        match found {
            Some(found) => positions.push(found.try_get::<i64, _>("position")? as u64),
            None => return Ok(None),
        }
    }
    Ok(Some(Appended {
        first: positions[0],
        last: positions[1],
    }))
}

/// True when the request was to be written in one epoch only, and that epoch is over.
async fn is_deposed(tx: &mut SqliteTx<'_>, request: &Request) -> Result<bool, sqlx::Error> {
    for work in &request.work {
        if let Work::OnlyInEpoch(epoch) = work {
            let present =
                sqlx::query("SELECT 1 FROM elections WHERE name = 'genie' AND epoch = $1")
                    .bind(epoch.number());
            if present.fetch_optional(&mut **tx).await?.is_none() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

async fn key_is_live(
    tx: &mut SqliteTx<'_>,
    request: &Request,
    owner: Uuid,
) -> Result<bool, sqlx::Error> {
    if request.makes_key_of(owner) {
        return Ok(true);
    }
    let live = sqlx::query("SELECT 1 FROM user_keys WHERE user_id = $1 AND state = 'live'")
        .bind(owner.to_string());
    Ok(live.fetch_optional(&mut **tx).await?.is_some())
}

/// Inserts rows at their positions. A key that is met fails the statement and leaves its earlier rows
/// (`OR FAIL`), because the caller gives up the whole transaction. Otherwise SQLite would keep a copy of
/// each page, to undo the statement alone.
pub(crate) async fn insert(
    tx: &mut SqliteTx<'_>,
    rows: &[(i64, &StoredRow)],
) -> Result<(), sqlx::Error> {
    for rows in row_chunks(rows) {
        let values = vec!["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"; rows.len()].join(", ");
        let sql = format!(
            "INSERT OR FAIL INTO events (position, owner, owner_seq, stream, sequence, kind, event_type, event_version, \
                                         event_id, slice, recorded_at, digest, metadata, payload) VALUES {values}"
        );
        let query = rows
            .iter()
            .fold(sqlx::query(&sql), |query, (position, row)| {
                query
                    .bind(position)
                    .bind(row.owner)
                    .bind(row.owner_seq as i64)
                    .bind(row.stream)
                    .bind(row.sequence as i64)
                    .bind(row.kind)
                    .bind(row.event_type.as_ref())
                    .bind(row.event_version)
                    .bind(row.event_id)
                    .bind(row.slice)
                    .bind(row.recorded_at.0)
                    .bind(row.digest.as_slice())
                    .bind(row.metadata.as_str())
                    .bind(row.payload.as_slice())
            });
        query.execute(&mut **tx).await?;
    }
    Ok(())
}
