//! The working tables that an export carries: data that the log does not hold and cannot make
//! again.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Map, Value};
use sqlx::{Any, Row as _, any::AnyArguments, any::AnyRow, query::Query};

use super::TransferError;
use crate::StoreTransaction;

/// The number of rows that one statement reads.
const PAGE: usize = 500;
/// The number of rows that one statement writes: every store takes 32,766 values.
const CHUNK: usize = 200;

/// A row by its columns; bytes in base64.
pub(crate) type Row = Map<String, Value>;

/// The type of a column.
#[derive(Debug, Clone, Copy)]
enum Holds {
    Text,
    Number,
    Bytes,
}
use Holds::{Bytes, Number, Text};

#[derive(Debug)]
pub(crate) struct Table {
    pub name: &'static str,
    /// The columns of the primary key come first.
    columns: &'static [(&'static str, Holds)],
    /// The number of the primary key's columns.
    key: usize,
    /// A condition on the rows; empty for all.
    only: &'static str,
}

/// The tables that an export carries, in this order; users' keys come first. All other tables are
/// filled from the log again, or belong to the machines on which the store runs. A test demands the
/// decision for each table of the schema.
pub(crate) const CARRIED: &[Table] = &[
    Table {
        name: "user_keys",
        columns: &[
            ("user_id", Text),
            ("key_id", Text),
            ("master_id", Text),
            ("wrapped", Bytes),
            ("state", Text),
            ("destroyed_at", Number),
        ],
        key: 1,
        only: "",
    },
    Table {
        name: "retired_masters",
        columns: &[("id", Text), ("retired_at", Number)],
        key: 1,
        only: "",
    },
    Table {
        name: "secrets",
        columns: &[
            ("secret_id", Text),
            ("version", Number),
            ("user_id", Text),
            ("sealed", Bytes),
        ],
        key: 2,
        only: "",
    },
    Table {
        name: "sessions",
        columns: &[
            ("family", Text),
            ("user_id", Text),
            ("token_hash", Text),
            ("rotated", Text),
            ("agent_sealed", Bytes),
            ("created_at", Number),
            ("used_at", Number),
            ("expires_at", Number),
        ],
        key: 1,
        only: "",
    },
    Table {
        name: "leases",
        columns: &[
            ("kind", Text),
            ("id", Text),
            ("user_id", Text),
            ("stream_id", Text),
            ("holder", Text),
            ("expires_at", Number),
            ("cancelled", Number),
            ("progress", Number),
        ],
        key: 2,
        only: "",
    },
    Table {
        name: "unfinished",
        columns: &[
            ("user_id", Text),
            ("job_id", Text),
            ("queue", Text),
            ("priority", Number),
            ("submitted", Number),
            ("sequence", Number),
            ("due", Number),
            ("running", Number),
        ],
        key: 2,
        only: "",
    },
    Table {
        name: "journal",
        columns: &[
            ("turn_id", Text),
            ("upto", Number),
            ("user_id", Text),
            ("sealed", Bytes),
        ],
        key: 2,
        // A turn that is over has its answer in the log.
        only: "turn_id IN (SELECT id FROM leases WHERE kind = 'turn')",
    },
    Table {
        name: "idempotency",
        columns: &[
            ("key_hash", Text),
            ("user_id", Text),
            ("request_hash", Text),
            ("fact_owner", Text),
            ("fact_seq", Number),
            ("sealed", Bytes),
            ("kept_at", Number),
        ],
        key: 1,
        only: "",
    },
    Table {
        name: "reservations",
        columns: &[("email_id", Text)],
        key: 1,
        only: "",
    },
    // Only the rows. The files' bytes are sealed, and can be copied as they are.
    Table {
        name: "blobs",
        columns: &[
            ("id", Text),
            ("user_id", Text),
            ("name", Bytes),
            ("size", Number),
            ("media_type", Text),
            ("state", Text),
            ("created_at", Number),
        ],
        key: 1,
        only: "",
    },
    Table {
        name: "forgettings",
        columns: &[
            ("user_id", Text),
            ("state", Text),
            ("due", Number),
            ("position", Number),
            ("forgotten_at", Number),
            ("erased_at", Number),
            ("certificate", Text),
        ],
        key: 1,
        only: "",
    },
];

type Asked<'q> = Query<'q, Any, AnyArguments<'q>>;

/// The bytes of a column; `None` for any other content.
pub(super) fn bytes(row: &Row, column: &str) -> Option<Vec<u8>> {
    row.get(column)
        .and_then(Value::as_str)
        .and_then(|text| BASE64.decode(text).ok())
}

impl Table {
    fn names(&self) -> String {
        self.columns
            .iter()
            .map(|(name, _)| *name)
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// The rows after one, in the order of the key. The last page has fewer than [`PAGE`] rows.
    pub(super) async fn page(
        &self,
        tx: &mut StoreTransaction,
        after: Option<&Row>,
    ) -> Result<Vec<Row>, TransferError> {
        let key: Vec<&str> = self.columns[..self.key]
            .iter()
            .map(|(name, _)| *name)
            .collect();
        let key = key.join(", ");
        let places: Vec<String> = (1..=self.key).map(|n| format!("${n}")).collect();
        let after_it = after.map(|_| format!("({key}) > ({})", places.join(", ")));
        let only = (!self.only.is_empty()).then(|| self.only.to_owned());
        let conditions: Vec<String> = after_it.into_iter().chain(only).collect();
        let filter = if conditions.is_empty() {
            String::new()
        } else {
            format!("WHERE {}", conditions.join(" AND "))
        };
        let sql = format!(
            "SELECT {} FROM {} {filter} ORDER BY {key} LIMIT {PAGE}",
            self.names(),
            self.name
        );
        let mut query = sqlx::query(&sql);
        if let Some(after) = after {
            for (column, holds) in &self.columns[..self.key] {
                query = bind(query, after, column, *holds);
            }
        }
        let rows = query.fetch_all(&mut **tx).await?;
        Ok(rows
            .iter()
            .map(|row| self.read(row))
            .collect::<Result<Vec<_>, _>>()?)
    }

    pub(super) fn is_last(page: &[Row]) -> bool {
        page.len() < PAGE
    }

    fn read(&self, row: &AnyRow) -> Result<Row, sqlx::Error> {
        let mut read = Row::new();
        for (column, holds) in self.columns {
            let value = match holds {
                Text => row.try_get::<Option<String>, _>(*column)?.map(Value::from),
                Number => row.try_get::<Option<i64>, _>(*column)?.map(Value::from),
                Bytes => row
                    .try_get::<Option<Vec<u8>>, _>(*column)?
                    .map(|bytes| BASE64.encode(bytes).into()),
            };
            read.insert((*column).to_owned(), value.unwrap_or(Value::Null));
        }
        Ok(read)
    }

    /// True when these rows should be written now.
    pub(crate) fn is_full(rows: &[Row]) -> bool {
        rows.len() >= CHUNK
    }

    pub(crate) async fn write(
        &self,
        tx: &mut StoreTransaction,
        rows: &[Row],
    ) -> Result<(), TransferError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut places = (1..).map(|n: usize| format!("${n}"));
        let mut one = || {
            format!(
                "({})",
                places
                    .by_ref()
                    .take(self.columns.len())
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        };
        let values: Vec<String> = rows.iter().map(|_| one()).collect();
        let sql = format!(
            "INSERT INTO {} ({}) VALUES {}",
            self.name,
            self.names(),
            values.join(", ")
        );
        let mut query = sqlx::query(&sql);
        for row in rows {
            for (column, holds) in self.columns {
                query = bind(query, row, column, *holds);
            }
        }
        query.execute(&mut **tx).await?;
        Ok(())
    }

    pub(crate) async fn empty(&self, tx: &mut StoreTransaction) -> Result<(), TransferError> {
        sqlx::query(&format!("DELETE FROM {}", self.name))
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}

/// A column that an older export lacks is bound as NULL. The store refuses it where NULL is not
/// allowed.
fn bind<'q>(query: Asked<'q>, row: &Row, column: &str, holds: Holds) -> Asked<'q> {
    match holds {
        Text => query.bind(row.get(column).and_then(Value::as_str).map(str::to_owned)),
        Number => query.bind(row.get(column).and_then(Value::as_i64)),
        Bytes => query.bind(bytes(row, column)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestStore, both_stores};

    /// Filled from the log again, or bound to the machines on which the store runs.
    const LEFT_OUT: &[&str] = &[
        "events", // An export carries these rows in `log-` files.
        "_sqlx_migrations",
        "snapshots",
        "checkpoints",
        "elections",
        "rings",         // The running servers.
        "uploads",       // Else two servers would delete each other's bytes in one blob store.
        "refresh_grace", // Good for seconds only.
        "tree_hashes",
        "tree_heads", // Signed anew over the same facts. A head to be trusted was kept outside.
        "accounts",
        "usage",
        "credentials",
        "jobs",
        "job_counts",
        "jobs_due",
        "projections",
        "chats",
        "messages",
        "captions",
        "service_keys",
        "invites",
        "impersonations", // A move to another store ends them.
        "damaged",
    ];

    both_stores!(
        every_table_and_column_is_carried_or_left_out_on_purpose,
        async |store: TestStore| {
            let log = store.open().await.log;
            let sql = match store.database_url() {
                None => {
                    "SELECT m.name AS name, c.name AS col FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'"
                }
                Some(_) => {
                    "SELECT CAST(table_name AS text) AS name, CAST(column_name AS text) AS col \
                 FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name) \
                 WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
                }
            };
            let rows = sqlx::query(sql)
                .fetch_all(log.store().reads())
                .await
                .unwrap();
            let mut found = std::collections::BTreeMap::<String, Vec<String>>::new();
            for row in rows {
                found
                    .entry(row.get("name"))
                    .or_default()
                    .push(row.get("col"));
            }
            for (name, mut columns) in found {
                let Some(table) = CARRIED.iter().find(|table| table.name == name) else {
                    assert!(
                        LEFT_OUT.contains(&name.as_str()),
                        "decide whether an export carries `{name}`"
                    );
                    continue;
                };
                let mut carried: Vec<&str> =
                    table.columns.iter().map(|(column, _)| *column).collect();
                carried.sort_unstable();
                columns.sort_unstable();
                assert_eq!(carried, columns, "{name}");
            }
        }
    );
}
