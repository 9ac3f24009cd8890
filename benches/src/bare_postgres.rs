//! Bare inserts on Postgres: one prepared statement for each batch, its columns as arrays.

use genie_log::StoredRow;
use sqlx::{Connection, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::sync::{Mutex, RwLock};

use crate::{bare::COLUMNS, setup::Measured};

/// The most connections that are compared.
const CONNECTIONS: u32 = 2;

pub struct BarePostgres {
    pool: PgPool,
    /// Made beforehand, so that only the insert is measured.
    single: Mutex<PgConnection>,
    /// One for each of the callers who commit at once.
    callers: RwLock<Vec<Mutex<PgConnection>>>,
    url: String,
    many: String,
    one: String,
}

impl BarePostgres {
    pub async fn make(url: &str) -> Measured<Self> {
        let mut connection = PgConnection::connect(url).await?;
        sqlx::query("CREATE TABLE bare_events (LIKE events INCLUDING ALL)")
            .execute(&mut connection)
            .await?;
        Ok(Self {
            single: Mutex::new(connection),
            callers: RwLock::default(),
            url: url.to_owned(),
            pool: PgPoolOptions::new()
                .min_connections(CONNECTIONS)
                .max_connections(CONNECTIONS)
                .connect(url)
                .await?,
            many: format!(
                "INSERT INTO bare_events ({COLUMNS}) \
                 SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::uuid[], $5::bigint[], $6::smallint[], \
                                      $7::text[], $8::smallint[], $9::uuid[], $10::smallint[], $11::bigint[], $12::bytea[], \
                                      $13::text[], $14::bytea[])"
            ),
            one: format!(
                "INSERT INTO bare_events ({COLUMNS}) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
            ),
        })
    }

    /// One statement for each batch.
    pub async fn insert_all(&self, batches: &[Vec<StoredRow>]) -> Measured<()> {
        let mut connection = self.pool.acquire().await?;
        for rows in batches {
            sqlx::query(&self.many)
                .bind(column(rows, |row| row.position as i64))
                .bind(column(rows, |row| row.owner))
                .bind(column(rows, |row| row.owner_seq as i64))
                .bind(column(rows, |row| row.stream))
                .bind(column(rows, |row| row.sequence as i64))
                .bind(column(rows, |row| row.kind))
                .bind(column(rows, |row| row.event_type.as_ref()))
                .bind(column(rows, |row| row.event_version))
                .bind(column(rows, |row| row.event_id))
                .bind(column(rows, |row| row.slice as i16))
                .bind(column(rows, |row| row.recorded_at.0))
                .bind(column(rows, |row| row.digest.as_slice()))
                .bind(column(rows, |row| row.metadata.as_str()))
                .bind(column(rows, |row| row.payload.as_slice()))
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }

    /// Opens the connections that these callers lack.
    pub async fn connect_callers(&self, count: usize) -> Measured<()> {
        let mut callers = self.callers.write().await;
        while callers.len() < count {
            callers.push(Mutex::new(PgConnection::connect(&self.url).await?));
        }
        Ok(())
    }

    /// One row, on the only connection.
    pub async fn insert_one(&self, row: &StoredRow) -> Measured<()> {
        self.insert_on(&mut *self.single.lock().await, row).await
    }

    /// One row, on a caller's own connection.
    pub async fn insert_one_of(&self, caller: usize, row: &StoredRow) -> Measured<()> {
        let callers = self.callers.read().await;
        let connection = callers.get(caller).ok_or("a caller has no connection")?;
        self.insert_on(&mut *connection.lock().await, row).await
    }

    async fn insert_on(&self, connection: &mut PgConnection, row: &StoredRow) -> Measured<()> {
        sqlx::query(&self.one)
            .bind(row.position as i64)
            .bind(row.owner)
            .bind(row.owner_seq as i64)
            .bind(row.stream)
            .bind(row.sequence as i64)
            .bind(row.kind)
            .bind(row.event_type.as_ref())
            .bind(row.event_version)
            .bind(row.event_id)
            .bind(row.slice as i16)
            .bind(row.recorded_at.0)
            .bind(&row.digest)
            .bind(&row.metadata)
            .bind(&row.payload)
            .execute(connection)
            .await?;
        Ok(())
    }
}

fn column<'r, T>(rows: &'r [StoredRow], value: impl Fn(&'r StoredRow) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}
