//! Imports an export into a store that is empty, or that holds the beginning of that export.
//!
//! Rows keep their positions, ids and digests. They go in by batches; each batch is one
//! transaction, which finds the head where the last batch left it. The working tables and the end
//! of the import are one transaction. So a crash leaves whole batches, and the next run continues
//! after them. From the first batch to the last transaction a mark stands in the store, and no
//! server starts on a store with the mark ([`LogError::ImportUnfinished`]).

use std::time::Duration;

use sqlx::{PgPool, Postgres, Row as _, Transaction};
use uuid::Uuid;

use crate::{
    LogError, MasterKeys, StoreTransaction, StoredRow,
    append_sqlite::insert,
    export::{CARRIED, Chunk, Export, Row, Table, TransferError},
    log::stored_head,
    postgres_records::NewEvent,
    read::read_rows,
    store::{POOL_NAME, Store, Target, Writing, in_time},
};

/// The limits of a batch, which holds at least one row.
const BATCH_ROWS: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;
/// The lock that `append()` holds until its commit (`0001_log.sql`).
const APPEND_LOCK: i64 = 7_340_991;
/// How long to wait for another genie on the same Postgres: the connection of a killed one lingers
/// a moment.
const OTHERS_GO: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(250);
const SYSTEM_KEY: &str = "SELECT key_id FROM user_keys WHERE user_id = $1";
const IN_USE: &str = "the store is in use by another genie's log; an import needs an empty store, or one that an earlier import \
     of the same log filled";
/// The mark, a row of `checkpoints`: the head of the export that is being imported.
const MARK: &str = "import";

/// The outcome of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// The store's last position.
    pub head: u64,
    /// The number of rows that the store held before.
    pub had: u64,
}

/// Imports an export. No server may run on the store: on Postgres this function checks it, the
/// embedded store is locked by the caller. It reads files as it goes, so call it on a runtime where
/// nobody waits for the thread.
pub async fn import(
    target: &Target,
    masters: &MasterKeys,
    export: &Export,
) -> Result<Imported, TransferError> {
    let (system, system_row) = export.system_key()?;
    masters.unwrap(&system)?;
    let store = Store::open(target, false).await?;
    let done = into_store(&store, export, system.key_id, system_row).await;
    store.close().await;
    done
}

async fn into_store(
    store: &Store,
    export: &Export,
    system: Uuid,
    system_row: Row,
) -> Result<Imported, TransferError> {
    if let Writing::Postgres(pool) = &store.writing {
        nobody_else(pool).await?;
    }
    let had = in_time(fits(store, export, system)).await?;
    if had == export.head() && !is_unfinished(store).await? {
        return Ok(Imported { head: had, had });
    }
    in_time(begin(store, had, export.head(), system, system_row)).await?;
    if let Writing::Postgres(pool) = &store.writing {
        // Catches a server that looked for the mark before it was written: it has connected by now.
        nobody_else(pool).await?;
    }
    let mut head = had;
    let mut batch = Vec::with_capacity(BATCH_ROWS);
    let mut bytes = 0;
    for row in export.rows(had) {
        let row = row?;
        let size = row.payload.len() + row.metadata.len();
        let is_full = batch.len() == BATCH_ROWS || bytes + size > BATCH_BYTES;
        if is_full && !batch.is_empty() {
            head = in_time(write_batch(store, head, &batch)).await?;
            batch.clear();
            bytes = 0;
        }
        bytes += size;
        batch.push(row);
    }
    if !batch.is_empty() {
        head = in_time(write_batch(store, head, &batch)).await?;
    }
    finish(store, export, head).await?;
    Ok(Imported { head, had })
}

/// A running server holds connections for notifications and the election all the time. The import's
/// own connections are those of its pools.
async fn nobody_else(pool: &PgPool) -> Result<(), TransferError> {
    let mut waited = Duration::ZERO;
    loop {
        let sql = "SELECT count(*) FROM pg_stat_activity \
             WHERE datname = current_database() AND starts_with(application_name, 'genie') AND application_name <> $1";
        let connections: i64 = sqlx::query_scalar(sql)
            .bind(POOL_NAME)
            .fetch_one(pool)
            .await?;
        let others = connections - i64::from(pool.size());
        if others <= 0 {
            return Ok(());
        }
        if waited >= OTHERS_GO {
            return Err(TransferError::Refused(
                "another genie is connected to this store; stop that genie first".into(),
            ));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        waited += LOOK_AGAIN;
    }
}

/// The number of the export's rows that the store holds. The store must hold no other row.
async fn fits(store: &Store, export: &Export, system: Uuid) -> Result<u64, TransferError> {
    let head = stored_head(store).await?;
    let stored: Option<String> = sqlx::query_scalar(SYSTEM_KEY)
        .bind(Uuid::nil().to_string())
        .fetch_optional(store.reads())
        .await?;
    match stored {
        None if head == 0 => return Ok(0),
        Some(key) if key == system.to_string() => {}
        _ => return Err(TransferError::Refused(IN_USE.into())),
    }
    if head == 0 {
        return Ok(0);
    }
    if head > export.head() {
        return Err(TransferError::Refused(format!(
            "the store ends at position {head} and the export at {}: the store was used since; nothing was changed",
            export.head()
        )));
    }
    let stored = read_rows(store, head - 1, 1).await?.pop();
    if export.rows(head - 1).next().transpose()? != stored {
        return Err(TransferError::Refused(format!(
            "the store and the export differ at position {head}: the store was used since the export, or belongs to another log; \
             nothing was changed"
        )));
    }
    Ok(head)
}

/// Writes the mark and the system's key, before the first row.
async fn begin(
    store: &Store,
    had: u64,
    goal: u64,
    system: Uuid,
    system_row: Row,
) -> Result<(), TransferError> {
    let mut tx = store.durable().await?;
    lock_at(store, &mut tx, had).await?;
    let sql = "INSERT INTO checkpoints (name, position) VALUES ($1, $2) \
         ON CONFLICT (name) DO UPDATE SET position = excluded.position";
    sqlx::query(sql)
        .bind(MARK)
        .bind(goal as i64)
        .execute(&mut *tx)
        .await?;
    let stored: Option<String> = sqlx::query_scalar(SYSTEM_KEY)
        .bind(Uuid::nil().to_string())
        .fetch_optional(&mut *tx)
        .await?;
    match stored {
        None => {
            CARRIED[0]
                .write(&mut tx, std::slice::from_ref(&system_row))
                .await?
        }
        Some(key) if key == system.to_string() => {}
        Some(_) => return Err(TransferError::Refused(IN_USE.into())),
    }
    Ok(tx.commit().await?)
}

/// Keeps appends out of this transaction, and checks that the head has not moved.
async fn lock_at(store: &Store, tx: &mut StoreTransaction, head: u64) -> Result<(), TransferError> {
    if let Writing::Postgres(_) = store.writing {
        // `pg_advisory_xact_lock` answers `void`, which not every driver can read.
        let sql = "WITH locked AS MATERIALIZED (SELECT pg_advisory_xact_lock($1)) SELECT count(*) AS n FROM locked";
        sqlx::query(sql)
            .bind(APPEND_LOCK)
            .execute(&mut **tx)
            .await?;
    }
    let sql = "SELECT coalesce(max(position), 0) AS head FROM events";
    let found = sqlx::query(sql)
        .fetch_one(&mut **tx)
        .await?
        .try_get::<i64, _>("head")? as u64;
    is_where_it_was(found, head)
}

fn is_where_it_was(found: u64, head: u64) -> Result<(), TransferError> {
    if found != head {
        return Err(TransferError::Refused(format!(
            "somebody else wrote to the store: it ends at position {found}, and the import was at {head}"
        )));
    }
    Ok(())
}

async fn write_batch(store: &Store, head: u64, rows: &[StoredRow]) -> Result<u64, TransferError> {
    match &store.writing {
        Writing::Postgres(pool) => {
            let mut tx = pool.begin().await?;
            sqlx::query("SELECT pg_advisory_xact_lock($1)")
                .bind(APPEND_LOCK)
                .execute(&mut *tx)
                .await?;
            let sql = "SELECT coalesce(max(position), 0) FROM events";
            let found: i64 = sqlx::query_scalar(sql).fetch_one(&mut *tx).await?;
            is_where_it_was(found as u64, head)?;
            insert_postgres(&mut tx, rows).await?;
            tx.commit().await?;
        }
        Writing::Sqlite(pool, turns) => {
            let _turn = turns.next().await?;
            let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
            let sql = "SELECT coalesce(max(position), 0) FROM events";
            let found: i64 = sqlx::query_scalar(sql).fetch_one(&mut *tx).await?;
            is_where_it_was(found as u64, head)?;
            insert(
                &mut tx,
                &rows
                    .iter()
                    .map(|row| (row.position as i64, row))
                    .collect::<Vec<_>>(),
            )
            .await?;
            tx.commit().await?;
        }
    }
    Ok(rows.last().map_or(head, |row| row.position))
}

async fn insert_postgres(
    tx: &mut Transaction<'_, Postgres>,
    rows: &[StoredRow],
) -> Result<(), sqlx::Error> {
    let insert = sqlx::query(
        "INSERT INTO events (owner, owner_seq, stream, sequence, kind, event_type, event_version, event_id, slice, \
                             recorded_at, digest, metadata, payload, position) \
         SELECT * FROM unnest($1::new_event[], $2::bigint[])",
    );
    let positions: Vec<i64> = rows.iter().map(|row| row.position as i64).collect();
    insert
        .bind(rows.iter().map(NewEvent).collect::<Vec<_>>())
        .bind(positions)
        .execute(&mut **tx)
        .await
        .map(drop)
}

/// Replaces the working tables by the export's, and removes the mark.
async fn finish(store: &Store, export: &Export, head: u64) -> Result<(), TransferError> {
    let mut tx = store.durable().await?;
    if let Writing::Postgres(_) = store.writing {
        // Emptying a large table and reading the export may take long.
        for limit in ["statement_timeout", "idle_in_transaction_session_timeout"] {
            sqlx::query(&format!("SET LOCAL {limit} = 0"))
                .execute(&mut *tx)
                .await?;
        }
    }
    lock_at(store, &mut tx, head).await?;
    for table in CARRIED {
        table.empty(&mut tx).await?;
    }
    let mut current: &Table = &CARRIED[0];
    let mut chunk = Chunk::default();
    for row in export.tables()? {
        let (table, row) = row?;
        if table.name != current.name {
            in_time(current.write(&mut tx, &chunk.take())).await?;
            current = table;
        }
        if let Some(row) = chunk.add(row) {
            in_time(current.write(&mut tx, &chunk.take())).await?;
            chunk.add(row); // the first of its chunk
        }
    }
    in_time(current.write(&mut tx, &chunk.take())).await?;
    sqlx::query("DELETE FROM checkpoints WHERE name = $1")
        .bind(MARK)
        .execute(&mut *tx)
        .await?;
    Ok(tx.commit().await?)
}

/// True when an import into the store was begun and not finished.
pub(crate) async fn is_unfinished(store: &Store) -> Result<bool, LogError> {
    let mark = sqlx::query("SELECT position FROM checkpoints WHERE name = $1").bind(MARK);
    Ok(mark.fetch_optional(store.reads()).await?.is_some())
}
