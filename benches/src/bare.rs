//! The lower bound of the work: inserts the same rows into a table with the same columns and indexes, and does nothing else.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use futures_util::future::try_join_all;
use genie_log::{Clock, Log, StoredRow, store::Target};
use tokio::time::{Duration, Instant};

use crate::{
    bare_postgres::BarePostgres,
    bare_sqlite::BareSqlite,
    setup::{Ground, Measured},
};

/// Rows in one statement on Postgres, and in one transaction on SQLite.
pub const BATCH: usize = 256;
/// The same columns as genie's table.
pub const COLUMNS: &str = "position, owner, owner_seq, stream, sequence, kind, event_type, event_version, event_id, slice, \
     recorded_at, digest, metadata, payload";

/// A table beside genie's.
pub struct Bare {
    table: BareTable,
    /// Rows that genie wrote, so that the bytes are the same.
    pattern: Vec<StoredRow>,
    next: AtomicI64,
}

enum BareTable {
    Postgres(BarePostgres),
    Sqlite(BareSqlite),
}

impl Bare {
    /// Makes the table, and takes the latest rows that genie wrote as a pattern.
    pub async fn beside(ground: &Ground, log: &Log) -> Measured<Self> {
        let pattern: Vec<StoredRow> = log
            .reader()
            .rows(log.reader().head().saturating_sub(BATCH as u64), BATCH)
            .await?;
        if pattern.len() < BATCH {
            return Err(format!("{} rows to copy, where {BATCH} are wanted", pattern.len()).into());
        }
        let table = match &ground.store.target {
            Target::Postgres(url) => BareTable::Postgres(BarePostgres::make(url).await?),
            Target::Sqlite(path) => BareTable::Sqlite(BareSqlite::make(path).await?),
        };
        Ok(Self {
            table,
            pattern,
            next: AtomicI64::new(1),
        })
    }

    /// Rows per second, in batches of [`BATCH`], one after the other on each connection. The
    /// batches are made before the clock runs.
    pub async fn batched_rate(&self, batches: usize, connections: usize) -> Measured<f64> {
        let ready: Vec<Vec<Vec<StoredRow>>> = (0..connections)
            .map(|_| (0..batches).map(|_| self.fresh_rows(BATCH)).collect())
            .collect();
        let began = Instant::now();
        match &self.table {
            BareTable::Postgres(table) => {
                try_join_all(ready.iter().map(|batches| table.insert_all(batches))).await?;
            }
            BareTable::Sqlite(table) => {
                try_join_all(ready.iter().map(|batches| table.insert_all(batches))).await?;
            }
        }
        Ok((connections * batches * BATCH) as f64 / began.elapsed().as_secs_f64())
    }

    /// The time until one row is durable.
    pub async fn single(&self) -> Measured<Duration> {
        let rows = self.fresh_rows(1);
        let began = Instant::now();
        match &self.table {
            BareTable::Postgres(table) => table.insert_one(&rows[0]).await?,
            BareTable::Sqlite(table) => table.insert_one(&rows[0]).await?,
        }
        Ok(began.elapsed())
    }

    /// The same of many callers at once, each of whom commits `each` rows, one after the other. On
    /// Postgres each caller has a connection. SQLite has one writer at a time, so the callers wait for one
    /// connection in the order in which they came.
    pub async fn singles_at_once(
        self: &Arc<Self>,
        callers: usize,
        each: usize,
    ) -> Measured<Vec<Duration>> {
        if let BareTable::Postgres(table) = &self.table {
            table.connect_callers(callers).await?;
        }
        let committing = (0..callers).map(|caller| {
            let bare = Arc::clone(self);
            tokio::spawn(async move {
                let rows = bare.fresh_rows(each);
                let mut times = Vec::with_capacity(each);
                for row in &rows {
                    let began = Instant::now();
                    match &bare.table {
                        BareTable::Postgres(table) => table.insert_one_of(caller, row).await?,
                        BareTable::Sqlite(table) => table.insert_one(row).await?,
                    }
                    times.push(began.elapsed());
                }
                Measured::Ok(times)
            })
        });
        let all = try_join_all(committing).await?;
        Ok(all.into_iter().collect::<Measured<Vec<_>>>()?.concat())
    }

    /// Copies the pattern with new numbers and ids. Ids ascend, as genie's do.
    fn fresh_rows(&self, count: usize) -> Vec<StoredRow> {
        let clock = Clock::system();
        let fresh = |row: &StoredRow| {
            let number = self.next.fetch_add(1, Ordering::Relaxed) as u64;
            let event_id = clock.new_uuid();
            StoredRow {
                position: number,
                sequence: number,
                owner_seq: number,
                event_id,
                ..row.clone()
            }
        };
        self.pattern.iter().cycle().take(count).map(fresh).collect()
    }
}
