//! Searches the place where a store keeps its bytes for a forgotten user's data: the files of an
//! embedded store, or a dump of Postgres. Only data that the search found before may count as gone
//! afterwards. A search that could not have found anything proves nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use aho_corasick::AhoCorasick;
use futures_util::TryStreamExt;
use genie_log::{
    Log,
    store::Target,
    testing::{Kind, TestStore},
};
use sqlx::{Connection, PgConnection, Row};

/// The place of the nonce in sealed bytes. No two values share a nonce.
const NONCE: std::ops::Range<usize> = 33..57;
/// Shorter sequences of bytes could occur by chance.
const SHORTEST: usize = 16;

/// Bytes that occur nowhere else, each with its column as `table.column`: the user's wrapped key,
/// working rows and read rows. The user's events are left out because they stay.
pub struct Fingerprints(Vec<(String, Vec<u8>)>);

impl Fingerprints {
    /// Takes the fingerprints of a user's sealed columns. The store itself names its tables, so
    /// that a table of a later release is not missed.
    pub async fn take(store: &TestStore, user: &str) -> Self {
        let log = store.open_to_read().await;
        let mut all = Vec::new();
        for (table, column) in sealed_columns(&log, store.kind).await {
            // In either form of an id.
            let is_the_user_s = match store.kind {
                Kind::Sqlite => "user_id IN ($1, unhex($1, '-'))",
                Kind::Postgres => "CAST(user_id AS text) = $1",
            };
            let sql = format!(
                "SELECT {column} FROM {table} WHERE {is_the_user_s} AND {column} IS NOT NULL"
            );
            let rows = sqlx::query(&sql)
                .bind(user)
                .fetch_all(log.store().reads())
                .await
                .unwrap();
            for row in rows {
                let sealed: Vec<u8> = row.get(0);
                let bytes = sealed.get(NONCE).unwrap_or(&sealed).to_vec();
                if bytes.len() >= SHORTEST {
                    all.push((format!("{table}.{column}"), bytes));
                }
            }
        }
        Self(all)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fingerprints that the store still holds, counted by column.
    pub async fn found(&self, store: &TestStore) -> BTreeMap<&str, usize> {
        let numbers = match &store.target {
            Target::Sqlite(path) => in_files(path.display().to_string(), &self.0),
            Target::Postgres(url) => in_tables(url, &self.0).await,
        };
        let mut found = BTreeMap::new();
        for number in numbers {
            *found.entry(self.0[number].0.as_str()).or_default() += 1;
        }
        found
    }
}

/// All columns of bytes in tables that name a user, without the log and without ids.
async fn sealed_columns(log: &Log, kind: Kind) -> Vec<(String, String)> {
    let sql = match kind {
        Kind::Sqlite => {
            "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c \
             WHERE m.type = 'table' AND c.type = 'BLOB' AND substr(c.name, -3) <> '_id' AND m.name <> 'events' \
             AND EXISTS (SELECT 1 FROM pragma_table_info(m.name) u WHERE u.name = 'user_id')"
        }
        Kind::Postgres => {
            "SELECT CAST(c.table_name AS text), CAST(c.column_name AS text) FROM information_schema.columns c \
             WHERE c.table_schema = 'public' AND c.data_type = 'bytea' AND c.table_name <> 'events' \
             AND EXISTS (SELECT 1 FROM information_schema.columns u WHERE u.table_schema = 'public' \
                 AND u.table_name = c.table_name AND u.column_name = 'user_id')"
        }
    };
    sqlx::query_as(sql)
        .fetch_all(log.store().reads())
        .await
        .unwrap()
}

/// Searches the file of an embedded store and SQLite's journal files beside it.
fn in_files(path: String, wanted: &[(String, Vec<u8>)]) -> BTreeSet<usize> {
    let wanted = AhoCorasick::new(wanted.iter().map(|(_, bytes)| bytes)).unwrap();
    ["", "-wal", "-journal"]
        .into_iter()
        .filter_map(|suffix| fs::read(PathBuf::from(format!("{path}{suffix}"))).ok())
        .flat_map(|bytes| numbers(&wanted, &bytes))
        .collect()
}

/// Searches a copy of all tables.
async fn in_tables(url: &str, wanted: &[(String, Vec<u8>)]) -> BTreeSet<usize> {
    let wanted = AhoCorasick::new(wanted.iter().map(|(_, bytes)| hex::encode(bytes))).unwrap();
    let mut connection = PgConnection::connect(url).await.unwrap();
    let sql = "SELECT CAST(tablename AS text) FROM pg_tables WHERE schemaname = 'public'";
    let tables: Vec<String> = sqlx::query_scalar(sql)
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let mut found = BTreeSet::new();
    for table in tables {
        let copy = format!("COPY \"{table}\" TO STDOUT");
        let mut rows = connection.copy_out_raw(&copy).await.unwrap();
        while let Some(row) = rows.try_next().await.unwrap() {
            found.extend(numbers(&wanted, &row));
        }
    }
    found
}

fn numbers(wanted: &AhoCorasick, bytes: &[u8]) -> BTreeSet<usize> {
    wanted
        .find_overlapping_iter(bytes)
        .map(|one| one.pattern().as_usize())
        .collect()
}
