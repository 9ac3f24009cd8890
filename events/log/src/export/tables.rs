//! The working tables that an export carries: data that the log does not hold and cannot make
//! again.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Map, Value};
use sqlx::{Any, Row as _, any::AnyArguments, any::AnyRow, query::Query};
use uuid::Uuid;

use super::TransferError;
use crate::{
    StoreTransaction,
    pages::{PAGE_BYTES, Paged},
    stored_ids::IdForm,
};

/// The most rows that one statement reads. Of a page's bytes there are at most [`PAGE_BYTES`], or one
/// row.
const PAGE: usize = 500;
/// The most rows that one statement writes: every store takes 32,766 values.
const CHUNK: usize = 200;

/// A row by its columns; bytes in base64.
pub(crate) type Row = Map<String, Value>;

/// The type of a column.
#[derive(Debug, Clone, Copy)]
enum Holds {
    Text,
    Number,
    Bytes,
    /// A UUID in binary form. The export has its text.
    Id,
}
use Holds::{Bytes, Id, Number, Text};

impl Holds {
    /// The value of the n-th placeholder, from 1.
    fn given(self, n: usize) -> String {
        let place = format!("${n}");
        match self {
            Id => IdForm::Binary.given(&place),
            Text | Number | Bytes => place,
        }
    }
}

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
            ("message", Bytes),
        ],
        key: 2,
        only: "",
    },
    Table {
        name: "unfinished",
        columns: &[
            ("user_id", Id),
            ("job_id", Id),
            ("queue", Text),
            ("operation", Text),
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
            ("details", Bytes),
            ("size", Number),
            ("media_type", Text),
            ("job_id", Text),
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

    /// The columns as the drivers hand them over.
    fn shown(&self) -> String {
        let columns = self.columns.iter();
        let shown = columns.map(|(name, holds)| match holds {
            Id => IdForm::Binary.shown(name),
            Text | Number | Bytes => (*name).to_owned(),
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    /// The rows after one, in the order of the key, and whether more follow. The transaction shows one
    /// moment: the sizes are looked at first, so that no row is read that is not on the page.
    pub(super) async fn page(
        &self,
        tx: &mut StoreTransaction,
        after: Option<&Row>,
    ) -> Result<Paged<Row>, TransferError> {
        let key: Vec<&str> = self.columns[..self.key]
            .iter()
            .map(|(name, _)| *name)
            .collect();
        let key = key.join(", ");
        let places = self.columns[..self.key].iter().zip(1..);
        let places: Vec<String> = places.map(|((_, holds), n)| holds.given(n)).collect();
        let after_it = after.map(|_| format!("({key}) > ({})", places.join(", ")));
        let only = (!self.only.is_empty()).then(|| self.only.to_owned());
        let conditions: Vec<String> = after_it.into_iter().chain(only).collect();
        let filter = if conditions.is_empty() {
            String::new()
        } else {
            format!("WHERE {}", conditions.join(" AND "))
        };
        let sizes = format!(
            "SELECT count(*) AS found, count(CASE WHEN nth = 1 OR upto <= {PAGE_BYTES} THEN 1 END) AS fit FROM ( \
                 SELECT row_number() OVER (ORDER BY {key}) AS nth, \
                     sum(bytes) OVER (ORDER BY {key} ROWS UNBOUNDED PRECEDING) AS upto \
                 FROM (SELECT {key}, {} AS bytes FROM {} {filter} ORDER BY {key} LIMIT {}) AS sizes) AS sums",
            self.bytes(),
            self.name,
            PAGE + 1
        );
        let sizes = self.after(&sizes, after).fetch_one(&mut **tx).await?;
        let found: i64 = sizes.try_get("found")?;
        let fit = sizes.try_get::<i64, _>("fit")?.min(PAGE as i64);
        // The table's own name, because a shown id has its column's name.
        let order: Vec<String> = key
            .split(", ")
            .map(|column| format!("{}.{column}", self.name))
            .collect();
        let sql = format!(
            "SELECT {} FROM {} {filter} ORDER BY {} LIMIT {fit}",
            self.shown(),
            self.name,
            order.join(", ")
        );
        let rows = self.after(&sql, after).fetch_all(&mut **tx).await?;
        Ok(Paged {
            rows: rows
                .iter()
                .map(|row| self.read(row))
                .collect::<Result<Vec<_>, _>>()?,
            has_more: found > fit,
        })
    }

    /// The size of a row, as an expression that needs no column's content.
    fn bytes(&self) -> String {
        let sizes: Vec<String> = self
            .columns
            .iter()
            .filter(|(_, holds)| matches!(holds, Text | Bytes))
            .map(|(column, _)| format!("coalesce(octet_length({column}), 0)"))
            .collect();
        sizes.join(" + ")
    }

    /// The statement about the rows after one.
    fn after<'q>(&self, sql: &'q str, after: Option<&Row>) -> Asked<'q> {
        let query = sqlx::query(sql);
        let Some(after) = after else {
            return query;
        };
        let key = &self.columns[..self.key];
        key.iter().fold(query, |query, (column, holds)| {
            bind(query, after, column, *holds)
        })
    }

    fn read(&self, row: &AnyRow) -> Result<Row, sqlx::Error> {
        let mut read = Row::new();
        for (column, holds) in self.columns {
            let value = match holds {
                Text => row.try_get::<Option<String>, _>(*column)?.map(Value::from),
                Id => {
                    let text: String = row.try_get(*column)?;
                    let id = Uuid::try_parse(&text)
                        .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
                    Some(id.to_string().into())
                }
                Number => row.try_get::<Option<i64>, _>(*column)?.map(Value::from),
                Bytes => row
                    .try_get::<Option<Vec<u8>>, _>(*column)?
                    .map(|bytes| BASE64.encode(bytes).into()),
            };
            read.insert((*column).to_owned(), value.unwrap_or(Value::Null));
        }
        Ok(read)
    }

    pub(crate) async fn write(
        &self,
        tx: &mut StoreTransaction,
        rows: &[Row],
    ) -> Result<(), TransferError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut numbers = 1..;
        let mut one = || {
            let places = self.columns.iter().zip(numbers.by_ref());
            let places: Vec<String> = places.map(|((_, holds), n)| holds.given(n)).collect();
            format!("({})", places.join(", "))
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

/// Rows of one table that one statement writes.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    rows: Vec<Row>,
    bytes: usize,
}

impl Chunk {
    /// Adds a row. A row beyond the bound comes back; the first row always has room.
    pub(crate) fn add(&mut self, row: Row) -> Option<Row> {
        let texts = row.values().filter_map(Value::as_str);
        let bytes = self.bytes + texts.map(str::len).sum::<usize>();
        let is_full = self.rows.len() == CHUNK || bytes > PAGE_BYTES as usize;
        if is_full && !self.rows.is_empty() {
            return Some(row);
        }
        self.bytes = bytes;
        self.rows.push(row);
        None
    }

    pub(crate) fn take(&mut self) -> Vec<Row> {
        std::mem::take(self).rows
    }
}

/// A column that an older export lacks is bound as NULL. The store refuses it where NULL is not
/// allowed.
fn bind<'q>(query: Asked<'q>, row: &Row, column: &str, holds: Holds) -> Asked<'q> {
    match holds {
        Text | Id => query.bind(row.get(column).and_then(Value::as_str).map(str::to_owned)),
        Number => query.bind(row.get(column).and_then(Value::as_i64)),
        Bytes => query.bind(bytes(row, column)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Kind, TestStore, both_stores};

    both_stores!(
        a_page_of_a_table_ends_at_a_mebibyte_or_its_number_of_rows,
        async |store: TestStore| {
            let log = store.open().await.log;
            let sizes = [400_000, 400_000, 400_000, 1_200_000, 10, 1_000_000];
            let small = vec![10; 1200];
            let sizes: Vec<usize> = sizes.into_iter().chain(small).collect();
            let row = |(n, size)| {
                let sealed = match store.kind {
                    Kind::Sqlite => format!("zeroblob({size})"),
                    Kind::Postgres => format!("decode(repeat('00', {size}), 'hex')"),
                };
                format!("('{n:05}', 1, 'u', {sealed})")
            };
            let rows: Vec<String> = sizes.iter().enumerate().map(row).collect();
            let sql = format!("INSERT INTO secrets VALUES {}", rows.join(", "));
            store.try_sql(&sql).await.unwrap();
            let table = CARRIED.iter().find(|table| table.name == "secrets");
            let table = table.unwrap();
            let mut tx = log.store().reads().begin_with("BEGIN").await.unwrap();
            let mut after = None;
            let mut pages = Vec::new();
            let mut ids = Vec::new();
            loop {
                let page = table.page(&mut tx, after.as_ref()).await.unwrap();
                pages.push(page.rows.len());
                ids.extend(page.rows.iter().map(|row| row["secret_id"].to_string()));
                after = page.rows.last().cloned();
                if !page.has_more {
                    break;
                }
            }
            assert_eq!(pages, [2, 1, 1, 500, 500, 202]);
            ids.dedup();
            assert_eq!(ids.len(), sizes.len());
        }
    );

    #[test]
    fn a_chunk_ends_at_a_mebibyte_or_its_number_of_rows() {
        let row = |bytes: usize| Row::from_iter([("sealed".to_owned(), "x".repeat(bytes).into())]);
        let mut chunk = Chunk::default();
        assert!(chunk.add(row(2 << 20)).is_none(), "the first row has room");
        assert!(chunk.add(row(1)).is_some());
        assert_eq!(chunk.take().len(), 1);
        assert!(chunk.add(row(600_000)).is_none());
        assert!(chunk.add(row(600_000)).is_some());
        assert!(chunk.add(row(400_000)).is_none());
        assert_eq!(chunk.take().len(), 2);
        let fit = (0..).take_while(|_| chunk.add(row(1)).is_none());
        assert_eq!(fit.count(), CHUNK);
    }

    /// Filled from the log again, or bound to the machines on which the store runs.
    const LEFT_OUT: &[&str] = &[
        "events", // An export carries these rows in `log-` files.
        "_sqlx_migrations",
        "snapshots",
        "checkpoints",
        "elections",
        "rings",         // The running servers.
        "uploads",       // Else two servers would delete each other's bytes in one blob store.
        "resumable",     // Their bytes are those of `uploads`.
        "refresh_grace", // Good for seconds only.
        "tree_hashes",
        "tree_heads", // Signed anew over the same facts. A head to be trusted was kept outside.
        "accounts",
        "usage",
        "credentials",
        "jobs",
        "job_counts",
        "jobs_due",
        "marks",
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
