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
    append::{Appended, Outcome, Request, Work},
    sessions::MAX_SESSIONS,
};

type Tx<'a> = Transaction<'a, Sqlite>;

/// The rows of one statement. A batch is cut into these sizes, so that there are few different
/// statements. Each statement makes a trip to SQLite's thread and back, which costs more than the
/// row.
const ROWS_AT_ONCE: [usize; 4] = [64, 16, 4, 1];

/// The writer's connection, kept from batch to batch.
pub(crate) type Held = Option<PoolConnection<Sqlite>>;

pub(crate) async fn append(
    pool: &SqlitePool,
    held: &mut Held,
    batch: &[&Request],
) -> Result<Vec<Outcome>, sqlx::Error> {
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
) -> Result<Vec<Outcome>, sqlx::Error> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut head: i64 = sqlx::query_scalar("SELECT coalesce(max(position), 0) FROM events")
        .fetch_one(&mut *tx)
        .await?;
    let doubtful = doubtful(&mut tx, batch).await?;
    let (mut outcomes, mut rows, mut work) =
        (Vec::with_capacity(batch.len()), Vec::new(), Vec::new());
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
            Outcome::Written(Appended {
                first: first as u64,
                last: head as u64,
            })
        }));
    }
    insert(&mut tx, &rows).await?;
    for work in work {
        write_work(&mut tx, work).await?;
    }
    tx.commit().await?;
    Ok(outcomes)
}

/// The doubtful requests. When an owner's last event is the one before the request, the log cannot
/// hold its owner numbers yet, or its sequences in the owner's streams. Only a first event can meet
/// another owner's stream.
async fn doubtful(tx: &mut Tx<'_>, batch: &[&Request]) -> Result<HashSet<usize>, sqlx::Error> {
    let (mut fences, mut firsts, mut doubtful) = (Vec::new(), Vec::new(), HashSet::new());
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

/// Why the request is refused; `None` when it is to be inserted.
async fn judge(tx: &mut Tx<'_>, request: &Request) -> Result<Option<Outcome>, sqlx::Error> {
    let mut owners: Vec<Uuid> = request.owners().collect();
    owners.dedup();
    let is_stale = is_stale(tx, request, &owners).await?;
    // An owner whose last event is the one before the request cannot have these rows yet.
    if is_stale && let Some(at) = already(tx, request).await? {
        return Ok(Some(Outcome::Written(at)));
    }
    if is_deposed(tx, request).await? {
        return Ok(Some(Outcome::Deposed));
    }
    for owner in &owners {
        if !request.system_owners.contains(owner) && !key_is_live(tx, request, *owner).await? {
            return Ok(Some(Outcome::KeyNotLive));
        }
    }
    if is_stale {
        return Ok(Some(Outcome::Stale));
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
            return Ok(Some(Outcome::Taken));
        }
    }
    for work in &request.work {
        if let Work::Remember(outcome) = work {
            let used =
                sqlx::query("SELECT 1 FROM idempotency WHERE key_hash = $1").bind(&outcome.key);
            if used.fetch_optional(&mut **tx).await?.is_some() {
                return Ok(Some(Outcome::KeyUsed));
            }
        }
        if let Work::OnlyIfLapsed {
            kind,
            id,
            holder,
            now,
        } = work
        {
            let lapsed = sqlx::query("SELECT 1 FROM leases WHERE kind = $1 AND id = $2 AND holder = $3 AND expires_at <= $4")
                .bind(kind.as_str())
                .bind(id)
                .bind(holder)
                .bind(now.0)
                .fetch_optional(&mut **tx)
                .await?;
            if lapsed.is_none() {
                return Ok(Some(Outcome::LeaseHeld));
            }
        }
    }
    Ok(None)
}

async fn is_stale(
    tx: &mut Tx<'_>,
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

async fn already(tx: &mut Tx<'_>, request: &Request) -> Result<Option<Appended>, sqlx::Error> {
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

/// Whether the one epoch in which the request may be written is over.
async fn is_deposed(tx: &mut Tx<'_>, request: &Request) -> Result<bool, sqlx::Error> {
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

async fn key_is_live(tx: &mut Tx<'_>, request: &Request, owner: Uuid) -> Result<bool, sqlx::Error> {
    if request.makes_key_of(owner) {
        return Ok(true);
    }
    let live = sqlx::query("SELECT 1 FROM user_keys WHERE user_id = $1 AND state = 'live'")
        .bind(owner.to_string());
    Ok(live.fetch_optional(&mut **tx).await?.is_some())
}

/// Inserts rows at their positions.
pub(crate) async fn insert(
    tx: &mut Tx<'_>,
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

async fn write_work(tx: &mut Tx<'_>, work: &Work) -> Result<(), sqlx::Error> {
    let query = match work {
        Work::NewKey(key) => {
            sqlx::query("INSERT INTO user_keys (user_id, key_id, master_id, wrapped, state) VALUES ($1, $2, $3, $4, 'live')")
                .bind(key.owner.to_string())
                .bind(key.key_id.to_string())
                .bind(&key.master_id)
                .bind(&key.sealed)
        }
        Work::PutSecret { user, secret_id, version, sealed } => {
            sqlx::query("DELETE FROM secrets WHERE secret_id = $1 AND version < $2")
                .bind(secret_id)
                .bind(i64::from(*version))
                .execute(&mut **tx)
                .await?;
            sqlx::query("INSERT INTO secrets (secret_id, version, user_id, sealed) VALUES ($1, $2, $3, $4)")
                .bind(secret_id)
                .bind(i64::from(*version))
                .bind(user.to_string())
                .bind(sealed)
        }
        Work::DeleteSecret { secret_id } => sqlx::query("DELETE FROM secrets WHERE secret_id = $1").bind(secret_id),
        Work::OpenSession(session) => {
            sqlx::query(
                "DELETE FROM sessions WHERE user_id = $1 AND (expires_at <= $2 OR family NOT IN \
                 (SELECT family FROM sessions WHERE user_id = $1 ORDER BY used_at DESC, family DESC LIMIT $3))",
            )
            .bind(session.user.to_string())
            .bind(session.now.0)
            .bind(MAX_SESSIONS - 1)
            .execute(&mut **tx)
            .await?;
            sqlx::query(
                "INSERT INTO sessions (family, user_id, token_hash, agent_sealed, created_at, used_at, expires_at) \
                 VALUES ($1, $2, $3, $4, $5, $5, $6)",
            )
            .bind(&session.family)
            .bind(session.user.to_string())
            .bind(&session.token_hash)
            .bind(&session.agent_sealed)
            .bind(session.now.0)
            .bind(session.expires_at.0)
        }
        Work::EndSession { family } => sqlx::query("DELETE FROM sessions WHERE family = $1").bind(family),
        Work::EndSessions { user, but } => sqlx::query("DELETE FROM sessions WHERE user_id = $1 AND family <> $2")
            .bind(user.to_string())
            .bind(but.as_deref().unwrap_or_default()),
        Work::PutBlob { id, user, name, size, media_type, created_at } => sqlx::query(
            "INSERT INTO blobs (id, user_id, name, size, media_type, state, created_at) VALUES ($1, $2, $3, $4, $5, 'kept', $6)",
        )
        .bind(id.to_string())
        .bind(user.to_string())
        .bind(name)
        .bind(*size as i64)
        .bind(media_type)
        .bind(created_at.0),
        Work::PutLease { kind, id, user, stream_id, holder, expires_at } => sqlx::query(
            "INSERT INTO leases (kind, id, user_id, stream_id, holder, epoch, expires_at) VALUES ($1, $2, $3, $4, $5, 1, $6) \
             ON CONFLICT (kind, id) DO UPDATE SET holder = excluded.holder, epoch = epoch + 1, \
                 expires_at = excluded.expires_at, cancelled = 0, progress = NULL",
        )
        .bind(kind.as_str())
        .bind(id)
        .bind(user.to_string())
        .bind(stream_id)
        .bind(holder)
        .bind(expires_at.0),
        Work::DropLease { kind, id } => {
            sqlx::query("DELETE FROM leases WHERE kind = $1 AND id = $2").bind(kind.as_str()).bind(id)
        }
        Work::CancelLease { kind, id } => {
            sqlx::query("UPDATE leases SET cancelled = 1 WHERE kind = $1 AND id = $2").bind(kind.as_str()).bind(id)
        }
        Work::Remember(outcome) => {
            let sql = "INSERT INTO idempotency (key_hash, user_id, request_hash, event_id, sealed) VALUES ($1, $2, $3, $4, $5)";
            let query = sqlx::query(sql).bind(&outcome.key).bind(outcome.user.to_string()).bind(&outcome.request);
            query.bind(outcome.event_id.to_string()).bind(&outcome.sealed)
        }
        Work::PruneJournal { turn_id } => sqlx::query("DELETE FROM journal WHERE turn_id = $1").bind(turn_id),
        Work::Forget { user, at } => return forget(tx, &user.to_string(), at.0).await,
        Work::AwaitForget { user, due } => {
            let sql =
                "INSERT INTO forgettings (user_id, state, due) VALUES ($1, 'requested', $2) ON CONFLICT (user_id) DO NOTHING";
            sqlx::query(sql).bind(user.to_string()).bind(due.0)
        }
        Work::Stay { user } => {
            sqlx::query("DELETE FROM forgettings WHERE user_id = $1 AND state = 'requested'").bind(user.to_string())
        }
        Work::OnlyIfLapsed { .. } | Work::OnlyInEpoch(_) => return Ok(()),
    };
    query.execute(&mut **tx).await.map(drop)
}

/// The fact is the user's last event: this very append has just inserted it.
async fn forget(tx: &mut Tx<'_>, user: &str, at: i64) -> Result<(), sqlx::Error> {
    let sql = "SELECT position FROM events WHERE user_id = $1 ORDER BY user_seq DESC LIMIT 1";
    let position: i64 = sqlx::query_scalar(sql)
        .bind(user)
        .fetch_one(&mut **tx)
        .await?;
    sqlx::query("UPDATE user_keys SET state = 'destroyed', wrapped = NULL, destroyed_at = $2 WHERE user_id = $1")
        .bind(user)
        .bind(position)
        .execute(&mut **tx)
        .await?;
    sqlx::query(
        "INSERT INTO forgettings (user_id, state, due, position, forgotten_at) VALUES ($1, 'forgotten', $2, $3, $2) \
         ON CONFLICT (user_id) DO UPDATE SET state = excluded.state, due = excluded.due, position = excluded.position, \
             forgotten_at = excluded.forgotten_at, erased_at = NULL, certificate = NULL",
    )
    .bind(user)
    .bind(at)
    .bind(position)
    .execute(&mut **tx)
    .await
    .map(drop)
}
