//! Statements over many rows of a read table. A batch of facts is folded in memory, so that each
//! row is read and written at most once, with one statement a table.
//!
//! Lists are padded with NULLs to a power of two. So a connection meets few texts, and keeps their
//! plans.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, LazyLock},
};

use genie_log::stored_ids::IdForm;
use parking_lot::Mutex;
use sqlx::{Any, any::AnyArguments, any::AnyRow, query::Query};
use uuid::Uuid;

use crate::projection::Tx;

/// At most this many rows go in one statement.
const ROWS: usize = 256;

/// A value to be written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Integer(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
    /// A UUID in binary form.
    Id(Option<Uuid>),
}

impl Cell {
    /// NULL of the same type: Postgres asks for a type even then.
    fn null(&self) -> Self {
        match self {
            Self::Integer(_) => Self::Integer(None),
            Self::Text(_) => Self::Text(None),
            Self::Bytes(_) => Self::Bytes(None),
            Self::Id(_) => Self::Id(None),
        }
    }

    fn bind<'q>(self, query: RowQuery<'q>, places: Placeholders) -> RowQuery<'q> {
        match self {
            Self::Integer(number) => query.bind(number),
            Self::Text(text) => query.bind(text),
            Self::Bytes(bytes) => query.bind(bytes),
            Self::Id(id) => places.bind_id(query, id),
        }
    }
}

type RowQuery<'q> = Query<'q, Any, AnyArguments<'q>>;

impl From<i64> for Cell {
    fn from(number: i64) -> Self {
        Self::Integer(Some(number))
    }
}

impl From<Option<i64>> for Cell {
    fn from(number: Option<i64>) -> Self {
        Self::Integer(number)
    }
}

impl From<Uuid> for Cell {
    fn from(id: Uuid) -> Self {
        Self::Id(Some(id))
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(Some(text))
    }
}

impl From<Option<String>> for Cell {
    fn from(text: Option<String>) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<u8>> for Cell {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(Some(bytes))
    }
}

impl From<Option<Vec<u8>>> for Cell {
    fn from(bytes: Option<Vec<u8>>) -> Self {
        Self::Bytes(bytes)
    }
}

/// The way to write rows of a table.
pub(crate) struct Upsert {
    pub table: &'static str,
    /// The first column is never NULL.
    pub columns: &'static [&'static str],
    /// The rest of the statement, after `ON CONFLICT`.
    pub on_conflict: &'static str,
}

impl Upsert {
    /// Writes the rows, whose cells stand in the order of the columns.
    pub async fn write(&self, tx: &mut Tx, rows: Vec<Vec<Cell>>) -> Result<(), sqlx::Error> {
        let Some(padding) = rows.first() else {
            return Ok(());
        };
        let padding: Vec<Cell> = padding.iter().map(Cell::null).collect();
        let mut rows = rows.into_iter();
        while rows.len() > 0 {
            let count = rows.len().min(ROWS);
            let padded = count.next_power_of_two();
            let places = Placeholders::of(tx);
            let sql = kept_text([self.table, self.on_conflict], padded, places, || {
                self.text(padded, &padding, places)
            });
            let mut query = sqlx::query(&sql);
            for cell in rows.by_ref().take(count).flatten() {
                query = cell.bind(query, places);
            }
            for cell in std::iter::repeat_n(&padding, padded - count).flatten() {
                query = cell.clone().bind(query, places);
            }
            query.execute(&mut **tx).await?;
        }
        Ok(())
    }

    /// The statement for a number of rows.
    #[cfg(test)]
    pub fn sql(&self, rows: usize) -> String {
        self.text(rows, &[], Placeholders::Numbered)
    }

    /// `padding` has a cell of the type of each column.
    fn text(&self, rows: usize, padding: &[Cell], places: Placeholders) -> String {
        let width = self.columns.len();
        let form = |n: usize| match padding.get(n % width) {
            Some(Cell::Id(_)) => IdForm::Binary,
            _ => IdForm::Text,
        };
        let cell = |n: usize| places.nth(n + 1, form(n));
        let row = |n: usize| {
            let cells: Vec<String> = (n * width..(n + 1) * width).map(cell).collect();
            format!("({})", cells.join(", "))
        };
        let values: Vec<String> = (0..rows).map(row).collect();
        // `column1` is the name that both stores give to the first column of VALUES.
        format!(
            "INSERT INTO {} ({}) SELECT * FROM (VALUES {}) AS v WHERE column1 IS NOT NULL ON CONFLICT {}",
            self.table,
            self.columns.join(", "),
            values.join(", "),
            self.on_conflict,
        )
    }
}

/// A statement over rows that are named by their keys. `{}` stands for the list of keys.
pub(crate) struct ByKey {
    sql: &'static str,
    form: IdForm,
}

impl ByKey {
    pub const fn text(sql: &'static str) -> Self {
        let form = IdForm::Text;
        Self { sql, form }
    }

    pub const fn binary(sql: &'static str) -> Self {
        let form = IdForm::Binary;
        Self { sql, form }
    }

    /// Runs the statement over these keys; answers the rows that it answers.
    pub async fn run(
        &self,
        tx: &mut Tx,
        keys: &BTreeSet<Uuid>,
    ) -> Result<Vec<AnyRow>, sqlx::Error> {
        let keys: Vec<Uuid> = keys.iter().copied().collect();
        let places = Placeholders::of(tx);
        let mut found = Vec::new();
        for keys in keys.chunks(ROWS) {
            let padded = keys.len().next_power_of_two();
            let sql = kept_text([self.sql, ""], padded, places, || {
                self.with_keys(padded, places)
            });
            let mut query = sqlx::query(&sql);
            let padding = std::iter::repeat_n(None, padded - keys.len());
            for key in keys.iter().copied().map(Some).chain(padding) {
                query = match self.form {
                    IdForm::Text => query.bind(key.map(|key| key.to_string())),
                    IdForm::Binary => places.bind_id(query, key),
                };
            }
            found.extend(query.fetch_all(&mut **tx).await?);
        }
        Ok(found)
    }

    /// The statement for a number of keys.
    #[cfg(test)]
    pub fn sql(&self, keys: usize) -> String {
        self.with_keys(keys, Placeholders::Numbered)
    }

    fn with_keys(&self, keys: usize, places: Placeholders) -> String {
        let keys: Vec<String> = (1..=keys).map(|n| places.nth(n, self.form)).collect();
        self.sql.replace("{}", &keys.join(", "))
    }
}

/// The texts of statements, by what names a statement, by the number of its rows, and by the form of its
/// placeholders. Making a long one costs more than the rest of its row's way. There are few: a handful of
/// sizes for each statement.
static TEXTS: LazyLock<Mutex<HashMap<StatementText, Arc<str>>>> = LazyLock::new(Mutex::default);

type StatementText = ([&'static str; 2], usize, Placeholders);

fn kept_text(
    statement: [&'static str; 2],
    rows: usize,
    places: Placeholders,
    make: impl FnOnce() -> String,
) -> Arc<str> {
    let mut texts = TEXTS.lock();
    let text = texts
        .entry((statement, rows, places))
        .or_insert_with(|| make().into());
    Arc::clone(text)
}

/// How a store writes placeholders. SQLite looks for the name of each among the names of all, which takes long
/// for many; those without a name stand in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Placeholders {
    /// Postgres. The driver has no binary ids, so they go as text.
    Numbered,
    /// SQLite.
    Nameless,
}

impl Placeholders {
    fn of(tx: &Tx) -> Self {
        if tx.backend_name() == "SQLite" {
            Self::Nameless
        } else {
            Self::Numbered
        }
    }

    /// The text of the n-th placeholder, from 1, of a value; an id has a form.
    fn nth(self, n: usize, form: IdForm) -> String {
        match self {
            Self::Numbered => form.given(&format!("${n}")),
            Self::Nameless => "?".into(),
        }
    }

    /// Binds an id in binary form.
    fn bind_id(self, query: RowQuery<'_>, id: Option<Uuid>) -> RowQuery<'_> {
        match self {
            Self::Numbered => query.bind(id.map(|id| id.to_string())),
            Self::Nameless => query.bind(id.map(|id| id.into_bytes().to_vec())),
        }
    }
}
