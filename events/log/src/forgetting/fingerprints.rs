//! Fingerprints of data that must be gone once a user is forgotten, and a search for them in
//! everything that a dump of the store would hold. The store itself is asked for its tables, so
//! that a table of a later release is not left out.

use std::collections::BTreeSet;

use aho_corasick::AhoCorasick;
use futures_util::TryStreamExt;
use genie_events::UserId;
use sqlx::{ConnectOptions, PgConnection, Row, postgres::PgConnectOptions};
use tracing::info;

use crate::{
    Log, LogError,
    keys::hex,
    store::{Store, Writing},
};

/// At most this many values of a column are taken.
const MOST: i64 = 200;
/// The nonce's place in sealed bytes (see [`crate::encryption`]): no two values share a nonce.
const NONCE: std::ops::Range<usize> = 33..57;
/// Fewer bytes could occur by chance.
const LEAST: usize = 16;

/// Some bytes of a sealed value that occur nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// The column, as `table.column`.
    pub of: String,
    /// At most 24 bytes.
    pub bytes: Vec<u8>,
}

impl Log {
    /// Fingerprints of a user's sealed columns: the wrapped key, working rows, read rows. The
    /// user's events are left out: they stay.
    pub async fn fingerprints(&self, user: UserId) -> Result<Vec<Fingerprint>, LogError> {
        self.store()
            .run(async move |store: Store| {
                let mut all = Vec::new();
                for (table, column) in sealed_columns(&store).await? {
                    let sql = format!(
                        "SELECT {column} AS sealed FROM {table} WHERE user_id = $1 AND {column} IS NOT NULL LIMIT {MOST}"
                    );
                    for row in sqlx::query(&sql).bind(user.to_string()).fetch_all(store.reads()).await? {
                        let sealed: Vec<u8> = row.try_get("sealed")?;
                        let bytes = sealed.get(NONCE).unwrap_or(&sealed).to_vec();
                        if bytes.len() >= LEAST {
                            all.push(Fingerprint { of: format!("{table}.{column}"), bytes });
                        }
                    }
                }
                Ok(all)
            })
            .await
    }

    /// On Postgres: frees the space of dead rows in these tables and writes changes to their files,
    /// as far as the role may. Freed space is overwritten only when it is used again. So with
    /// `full` the tables are rewritten, and nobody can use them meanwhile.
    pub async fn vacuum(&self, tables: BTreeSet<String>, full: bool) -> Result<(), LogError> {
        let Some(options) = self.store().postgres() else {
            return Ok(());
        };
        let vacuum = async move {
            let mut connection = patient(&options).await?;
            for table in tables {
                let full = if full { "(FULL)" } else { "" };
                sqlx::query(&format!("VACUUM {full} \"{table}\""))
                    .execute(&mut connection)
                    .await?;
            }
            if let Err(error) = sqlx::query("CHECKPOINT").execute(&mut connection).await {
                info!(%error, "verification: asking for a checkpoint failed; Postgres makes one by itself");
            }
            Ok::<_, sqlx::Error>(())
        };
        let vacuumed = self.store().io().spawn(vacuum).await;
        Ok(vacuumed.map_err(|stopped| LogError::Statement(stopped.to_string()))??)
    }

    /// On Postgres: the numbers of the byte strings that stand in a copy of all tables, which is
    /// what a dump holds. Empty on an embedded store, whose file is the dump.
    pub async fn find_in_tables(&self, wanted: Vec<Vec<u8>>) -> Result<BTreeSet<usize>, LogError> {
        let Some(options) = self.store().postgres() else {
            return Ok(BTreeSet::new());
        };
        let wanted = AhoCorasick::new(wanted.iter().map(|bytes| hex(bytes)));
        let wanted = wanted.map_err(|error| LogError::Statement(error.to_string()))?;
        let look = async move {
            let mut connection = patient(&options).await?;
            let sql = "SELECT CAST(tablename AS text) FROM pg_tables WHERE schemaname = 'public'";
            let tables: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut connection).await?;
            let mut found = BTreeSet::new();
            for table in tables {
                let mut rows = connection
                    .copy_out_raw(&format!("COPY \"{table}\" TO STDOUT"))
                    .await?;
                while let Some(row) = rows.try_next().await? {
                    found.extend(
                        wanted
                            .find_overlapping_iter(&row)
                            .map(|one| one.pattern().as_usize()),
                    );
                }
            }
            Ok::<_, sqlx::Error>(found)
        };
        // On the runtime that owns the connections, as all I/O, but without the time limit of other
        // work.
        let looked = self.store().io().spawn(look).await;
        Ok(looked.map_err(|stopped| LogError::Statement(stopped.to_string()))??)
    }
}

/// A connection without a limit on the time of a statement.
async fn patient(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let mut connection = options.connect().await?;
    sqlx::query("SET statement_timeout = 0")
        .execute(&mut connection)
        .await?;
    Ok(connection)
}

/// The columns of bytes in all tables that name a user, except the log.
async fn sealed_columns(store: &Store) -> Result<Vec<(String, String)>, LogError> {
    let sql = match store.writing {
        Writing::Sqlite(_) => {
            "SELECT m.name AS of_table, c.name AS of_column FROM sqlite_master m JOIN pragma_table_info(m.name) c \
             WHERE m.type = 'table' AND c.type = 'BLOB' AND m.name <> 'events' \
             AND EXISTS (SELECT 1 FROM pragma_table_info(m.name) u WHERE u.name = 'user_id')"
        }
        Writing::Postgres(_) => {
            "SELECT CAST(c.table_name AS text) AS of_table, CAST(c.column_name AS text) AS of_column \
             FROM information_schema.columns c \
             WHERE c.table_schema = 'public' AND c.data_type = 'bytea' AND c.table_name <> 'events' \
             AND EXISTS (SELECT 1 FROM information_schema.columns u WHERE u.table_schema = 'public' \
                 AND u.table_name = c.table_name AND u.column_name = 'user_id')"
        }
    };
    let rows = sqlx::query(sql).fetch_all(store.reads()).await?;
    Ok(rows
        .iter()
        .map(|row| Ok((row.try_get("of_table")?, row.try_get("of_column")?)))
        .collect::<Result<_, sqlx::Error>>()?)
}
