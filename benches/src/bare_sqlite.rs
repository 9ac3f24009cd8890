//! Bare inserts on SQLite: one immediate transaction for each batch, one statement of many rows in it.

use std::{path::Path, str::FromStr};

use genie_log::StoredRow;
use sqlx::{
    Connection, Sqlite, SqliteConnection, SqlitePool,
    query::Query,
    sqlite::{
        SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions,
        SqliteSynchronous,
    },
};
use tokio::sync::Mutex;

use crate::{
    bare::{BATCH, COLUMNS},
    setup::Measured,
};

pub struct BareSqlite {
    pool: SqlitePool,
    /// Made beforehand, so that only the insert is measured.
    single: Mutex<SqliteConnection>,
    many: String,
    one: String,
}

impl BareSqlite {
    pub async fn make(path: &Path) -> Measured<Self> {
        let options = SqliteConnectOptions::from_str("sqlite:")?
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone())
            .await?;
        let table: String =
            sqlx::query_scalar("SELECT sql FROM sqlite_master WHERE name = 'events'")
                .fetch_one(&pool)
                .await?;
        sqlx::query(&table.replacen("events", "bare_events", 1))
            .execute(&pool)
            .await?;
        let single = Mutex::new(SqliteConnection::connect_with(&options).await?);
        let insert = format!("INSERT INTO bare_events ({COLUMNS}) VALUES ");
        let places = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        Ok(Self {
            pool,
            single,
            many: format!("{insert}{}", [places; BATCH].join(", ")),
            one: format!("{insert}{places}"),
        })
    }

    /// One transaction for each batch.
    pub async fn insert_all(&self, batches: &[Vec<StoredRow>]) -> Measured<()> {
        for rows in batches {
            let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            rows.iter()
                .fold(sqlx::query(&self.many), bind)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
        }
        Ok(())
    }

    pub async fn insert_one(&self, row: &StoredRow) -> Measured<()> {
        bind(sqlx::query(&self.one), row)
            .execute(&mut *self.single.lock().await)
            .await?;
        Ok(())
    }
}

type Insert<'q> = Query<'q, Sqlite, SqliteArguments<'q>>;

fn bind<'q>(insert: Insert<'q>, row: &'q StoredRow) -> Insert<'q> {
    insert
        .bind(row.position as i64)
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
        .bind(&row.digest)
        .bind(&row.metadata)
        .bind(&row.payload)
}
