//! Appends on SQLite: the same steps as the Postgres function, in one immediate transaction and a
//! few statements.

use std::collections::{BTreeMap, HashSet};

use sqlx::{
    Connection, Row, Sqlite, SqliteConnection, SqlitePool, Transaction, pool::PoolConnection,
    types::Json,
};
use uuid::Uuid;

use crate::{
    StoredRow,
    append::{Appended, Request, Verdict, Work},
    leases::LeaseRow,
};

/// The transaction of an append.
pub(crate) type SqliteTx<'a> = Transaction<'a, Sqlite>;

/// The rows of one statement. A batch is cut into these sizes, so that there are few different
/// statements. Each statement makes a trip to SQLite's thread and back, which costs more than the
/// row.
const ROWS_AT_ONCE: [usize; 4] = [64, 16, 4, 1];

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
    let outcomes = append_on(&mut connection, batch).await;
    // After an error the pool checks the connection.
    *held = outcomes.is_ok().then_some(connection);
    outcomes
}

async fn append_on(
    connection: &mut SqliteConnection,
    batch: &[&Request],
) -> Result<Vec<Verdict>, sqlx::Error> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut head: i64 = sqlx::query_scalar("SELECT coalesce(max(position), 0) FROM events")
        .fetch_one(&mut *tx)
        .await?;
    let doubtful = doubtful(&mut tx, batch).await?;
    let mut outcomes = Vec::with_capacity(batch.len());
    let mut rows = Vec::new();
    let mut work = Vec::new();
    for (n, request) in batch.iter().enumerate() {
        let refused = if doubtful.contains(&n) {
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
    for work in work {
        work.write(&mut tx).await?;
    }
    tx.commit().await?;
    Ok(outcomes)
}

/// The requests that are not plainly good. An owner whose last event is the one before cannot have these rows yet, nor this
/// stream another one of the owner's: only a first event can meet a stream of somebody else.
async fn doubtful(
    tx: &mut SqliteTx<'_>,
    batch: &[&Request],
) -> Result<HashSet<usize>, sqlx::Error> {
    let mut fences = Vec::new();
    let mut firsts = Vec::new();
    let mut doubtful = HashSet::new();
    for (n, request) in batch.iter().enumerate() {
        let mut owners = BTreeMap::new();
        for row in &request.rows {
            let first = owners.entry(row.owner).or_insert(row.owner_seq);
            *first = row.owner_seq.min(*first);
        }
        let needs_no_key =
            |owner: &Uuid| request.system_owners.contains(owner) || request.makes_key_of(*owner);
        fences.extend(
            owners
                .into_iter()
                .map(|(owner, first)| (n, owner, first, needs_no_key(&owner))),
        );
        firsts.extend(
            request
                .rows
                .iter()
                .filter(|row| row.sequence == 1)
                .map(|row| (n, &row.kind, &row.id)),
        );
        if request.work.iter().any(Work::is_condition) {
            doubtful.insert(n);
        }
    }
    let sql = "WITH r AS (SELECT value ->> 0 AS request, value ->> 1 AS owner, value ->> 2 AS first, value ->> 3 AS system \
                          FROM json_each($1)) \
         SELECT DISTINCT r.request FROM r LEFT JOIN user_keys k ON k.user_id = r.owner AND k.state = 'live' \
         LEFT JOIN events e ON e.user_id = r.owner AND e.user_seq >= r.first - 1 \
         WHERE NOT (r.system OR k.user_id IS NOT NULL) OR e.user_seq >= r.first OR (e.user_seq IS NULL AND r.first <> 1)";
    let found: Vec<i64> = sqlx::query_scalar(sql)
        .bind(Json(fences))
        .fetch_all(&mut **tx)
        .await?;
    doubtful.extend(found.into_iter().map(|n| n as usize));
    if !firsts.is_empty() {
        let sql = "WITH r AS (SELECT value ->> 0 AS request, value ->> 1 AS kind, value ->> 2 AS id FROM json_each($1)) \
             SELECT DISTINCT r.request FROM r JOIN events e \
                 ON e.aggregate_type = r.kind AND e.aggregate_id = r.id AND e.sequence = 1";
        let found: Vec<i64> = sqlx::query_scalar(sql)
            .bind(Json(firsts))
            .fetch_all(&mut **tx)
            .await?;
        doubtful.extend(found.into_iter().map(|n| n as usize));
    }
    Ok(doubtful)
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
    if is_stale {
        return Ok(Some(Verdict::Stale));
    }
    // Only a first event can meet another owner's stream.
    for row in request.rows.iter().filter(|row| row.sequence == 1) {
        let taken = sqlx::query("SELECT 1 FROM events WHERE aggregate_type = $1 AND aggregate_id = $2 AND sequence = $3")
            .bind(&row.kind)
            .bind(&row.id)
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
        let last: i64 =
            sqlx::query_scalar("SELECT coalesce(max(user_seq), 0) FROM events WHERE user_id = $1")
                .bind(owner.to_string())
                .fetch_one(&mut **tx)
                .await?;
        if fence as i64 != last + 1 {
            return Ok(true);
        }
    }
    Ok(false)
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
        let found = sqlx::query("SELECT position FROM events WHERE event_id = $1")
            .bind(row.event_id.to_string())
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

/// Inserts rows at their positions.
pub(crate) async fn insert(
    tx: &mut SqliteTx<'_>,
    mut rows: &[(i64, &StoredRow)],
) -> Result<(), sqlx::Error> {
    while let Some(size) = ROWS_AT_ONCE.into_iter().find(|size| *size <= rows.len()) {
        let (now, later) = rows.split_at(size);
        let values = vec!["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"; size].join(", ");
        let sql = format!(
            "INSERT INTO events (position, aggregate_type, aggregate_id, sequence, event_type, event_version, payload, \
                                 metadata, event_id, user_id, user_seq, slice, recorded_at, digest) VALUES {values}"
        );
        let query = now
            .iter()
            .fold(sqlx::query(&sql), |query, (position, row)| {
                query
                    .bind(position)
                    .bind(&row.kind)
                    .bind(&row.id)
                    .bind(row.sequence as i64)
                    .bind(&row.event_type)
                    .bind(&row.event_version)
                    .bind(&row.payload)
                    .bind(&row.metadata)
                    .bind(row.event_id.to_string())
                    .bind(row.owner.to_string())
                    .bind(row.owner_seq as i64)
                    .bind(row.slice as i64)
                    .bind(row.recorded_at.0)
                    .bind(&row.digest)
            });
        query.execute(&mut **tx).await?;
        rows = later;
    }
    Ok(())
}
