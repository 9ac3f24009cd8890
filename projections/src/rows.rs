//! Statements over many rows of a read table. A batch of facts is folded in memory, so that each
//! row is read and written at most once, with one statement a table.
//!
//! Lists are padded with NULLs to a power of two. So a connection meets few texts, and keeps their
//! plans.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, LazyLock},
};

use parking_lot::Mutex;
use sqlx::{Any, any::AnyArguments, any::AnyRow, query::Query};

use crate::projection::Tx;

/// At most this many rows go in one statement.
const ROWS: usize = 256;

/// A value to be written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Integer(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

impl Cell {
    /// NULL of the same type: Postgres asks for a type even then.
    fn null(&self) -> Self {
        match self {
            Self::Integer(_) => Self::Integer(None),
            Self::Text(_) => Self::Text(None),
            Self::Bytes(_) => Self::Bytes(None),
        }
    }

    fn bind<'q>(self, query: RowQuery<'q>) -> RowQuery<'q> {
        match self {
            Self::Integer(number) => query.bind(number),
            Self::Text(text) => query.bind(text),
            Self::Bytes(bytes) => query.bind(bytes),
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
            let sql = kept_text([self.table, self.on_conflict], padded, tx, |place| {
                self.text(padded, place)
            });
            let mut query = sqlx::query(&sql);
            for cell in rows.by_ref().take(count).flatten() {
                query = cell.bind(query);
            }
            for cell in std::iter::repeat_n(&padding, padded - count).flatten() {
                query = cell.clone().bind(query);
            }
            query.execute(&mut **tx).await?;
        }
        Ok(())
    }

    /// The statement for a number of rows.
    #[cfg(test)]
    pub fn sql(&self, rows: usize) -> String {
        self.text(rows, numbered)
    }

    fn text(&self, rows: usize, place: Placeholder) -> String {
        let width = self.columns.len();
        let row = |n: usize| format!("({})", places(n * width, width, place));
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
pub(crate) struct ByKey(pub &'static str);

impl ByKey {
    /// Runs the statement over these keys; answers the rows that it answers.
    pub async fn run(
        &self,
        tx: &mut Tx,
        keys: &BTreeSet<String>,
    ) -> Result<Vec<AnyRow>, sqlx::Error> {
        let keys: Vec<&String> = keys.iter().collect();
        let mut found = Vec::new();
        for keys in keys.chunks(ROWS) {
            let padded = keys.len().next_power_of_two();
            let sql = kept_text([self.0, ""], padded, tx, |place| self.text(padded, place));
            let mut query = sqlx::query(&sql);
            for key in keys {
                query = query.bind(key.as_str());
            }
            for _ in keys.len()..padded {
                query = query.bind(None::<String>);
            }
            found.extend(query.fetch_all(&mut **tx).await?);
        }
        Ok(found)
    }

    /// The statement for a number of keys.
    #[cfg(test)]
    pub fn sql(&self, keys: usize) -> String {
        self.text(keys, numbered)
    }

    fn text(&self, keys: usize, place: Placeholder) -> String {
        self.0.replace("{}", &places(0, keys, place))
    }
}

/// The texts of statements, by what names a statement, by the number of its rows, and by the form of its
/// placeholders. Making a long one costs more than the rest of its row's way. There are few: a handful of
/// sizes for each statement.
static TEXTS: LazyLock<Mutex<HashMap<StatementText, Arc<str>>>> = LazyLock::new(Mutex::default);

type StatementText = ([&'static str; 2], usize, bool);

fn kept_text(
    statement: [&'static str; 2],
    rows: usize,
    tx: &Tx,
    make: impl FnOnce(Placeholder) -> String,
) -> Arc<str> {
    let is_sqlite = is_sqlite(tx);
    let mut texts = TEXTS.lock();
    let text = texts
        .entry((statement, rows, is_sqlite))
        .or_insert_with(|| make(placeholder(is_sqlite)).into());
    Arc::clone(text)
}

/// The text of the n-th placeholder, from 1.
type Placeholder = fn(usize) -> String;

fn numbered(n: usize) -> String {
    format!("${n}")
}

fn nameless(_: usize) -> String {
    "?".into()
}

fn is_sqlite(tx: &Tx) -> bool {
    tx.backend_name() == "SQLite"
}

/// How a store writes placeholders. SQLite looks for the name of each among the names of all, which takes long
/// for many; those without a name stand in order.
fn placeholder(is_sqlite: bool) -> Placeholder {
    if is_sqlite { nameless } else { numbered }
}

/// `count` placeholders, after the first `before`, separated by commas.
fn places(before: usize, count: usize, place: Placeholder) -> String {
    let one = |n: usize| place(before + n);
    (1..=count).map(one).collect::<Vec<_>>().join(", ")
}
