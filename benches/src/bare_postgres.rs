//! Bare inserts on Postgres: one prepared statement for each batch, its columns as arrays.

use genie_log::StoredRow;
use sqlx::{Connection, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::sync::Mutex;

use crate::{bare::COLUMNS, setup::Measured};

/// The most connections that are compared.
const CONNECTIONS: u32 = 2;

pub struct BarePostgres {
    pool: PgPool,
    /// Made beforehand, so that only the insert is measured.
    single: Mutex<PgConnection>,
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
            pool: PgPoolOptions::new()
                .min_connections(CONNECTIONS)
                .max_connections(CONNECTIONS)
                .connect(url)
                .await?,
            many: format!(
                "INSERT INTO bare_events ({COLUMNS}) \
                 SELECT position, aggregate_type, aggregate_id, sequence, event_type, event_version, payload::json, \
                        metadata::json, event_id, user_id, user_seq, slice, recorded_at, digest \
                 FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], \
                             $9::text[], $10::text[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bytea[]) AS r ({COLUMNS})"
            ),
            one: format!(
                "INSERT INTO bare_events ({COLUMNS}) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7::text::json, $8::text::json, $9, $10, $11, $12, $13, $14)"
            ),
        })
    }

    /// One statement for each batch.
    pub async fn insert_all(&self, batches: &[Vec<StoredRow>]) -> Measured<()> {
        let mut connection = self.pool.acquire().await?;
        for rows in batches {
            sqlx::query(&self.many)
                .bind(column(rows, |row| row.position as i64))
                .bind(column(rows, |row| row.kind.as_str()))
                .bind(column(rows, |row| row.id.as_str()))
                .bind(column(rows, |row| row.sequence as i64))
                .bind(column(rows, |row| row.event_type.as_str()))
                .bind(column(rows, |row| row.event_version.as_str()))
                .bind(column(rows, |row| row.payload.as_str()))
                .bind(column(rows, |row| row.metadata.as_str()))
                .bind(column(rows, |row| row.event_id.to_string()))
                .bind(column(rows, |row| row.owner.to_string()))
                .bind(column(rows, |row| row.owner_seq as i64))
                .bind(column(rows, |row| row.slice as i64))
                .bind(column(rows, |row| row.recorded_at.0))
                .bind(column(rows, |row| row.digest.as_slice()))
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }

    pub async fn insert_one(&self, row: &StoredRow) -> Measured<()> {
        sqlx::query(&self.one)
            .bind(row.position as i64)
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
            .execute(&mut *self.single.lock().await)
            .await?;
        Ok(())
    }
}

fn column<'r, T>(rows: &'r [StoredRow], value: impl Fn(&'r StoredRow) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}
