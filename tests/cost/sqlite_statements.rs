//! What SQLite did, by its own counters, and the plans of its statements.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Once},
};

use genie_log::sqlite_counters::{CountedStatement, SqliteCounters};
use sqlx::{Connection, Row, SqliteConnection};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::FilterFn,
    layer::{Context, SubscriberExt},
};

use crate::{background::is_background, operation_cost::OperationCost};

/// Counts what is done in one file.
pub struct SqliteStatements {
    counters: Arc<SqliteCounters>,
    file: PathBuf,
    /// All statements that were counted.
    seen: BTreeSet<String>,
}

impl SqliteStatements {
    /// Counts on connections that are opened from now on.
    pub fn start(file: PathBuf) -> Self {
        listen();
        Self {
            counters: SqliteCounters::of(&file),
            file,
            seen: BTreeSet::new(),
        }
    }

    /// What was done since the last call, without what the server does by itself.
    pub fn take(&mut self) -> Vec<CountedStatement> {
        let mut statements = self.counters.take_statements();
        self.seen
            .extend(statements.iter().map(|statement| statement.sql.clone()));
        statements.retain(|statement| !is_background(&statement.sql));
        statements
    }

    /// The number of transactions since the last call that wrote, without what the server does by
    /// itself.
    pub fn take_commits(&mut self) -> u64 {
        let commits = self.counters.take_commits();
        let is_of_the_server = |statements: &&Vec<String>| {
            !statements.is_empty() && statements.iter().all(|sql| is_background(sql))
        };
        let of_the_server = commits.iter().filter(is_of_the_server).count();
        (commits.len() - of_the_server) as u64
    }

    /// The statements whose plan reads a whole table, with that part of the plan. Those of
    /// [`SHORT_TABLES`] are left out.
    pub async fn scans(&self) -> Vec<(String, String)> {
        let url = format!("sqlite://{}", self.file.display());
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table'";
        let tables: Vec<String> = sqlx::query_scalar(sql)
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let mut scans = Vec::new();
        for sql in self.seen.iter().filter(|sql| has_a_plan(sql)) {
            let explain = format!("EXPLAIN QUERY PLAN {sql}");
            let plan = sqlx::raw_sql(&explain)
                .fetch_all(&mut connection)
                .await
                .unwrap_or_else(|error| panic!("{sql}: {error}"));
            for row in plan {
                let part: String = row.get("detail");
                if scanned(&part, sql, &tables).is_some_and(|table| !is_short(table)) {
                    scans.push((sql.clone(), part));
                }
            }
        }
        scans
    }
}

/// Tables that may be read as a whole, and the reason.
const SHORT_TABLES: [(&str, &str); 6] = [
    ("_sqlx_migrations", "a row for each migration"),
    ("projections", "a row for each projection"),
    (
        "damaged",
        "a row for each event that can't be read: none in a whole log",
    ),
    (
        "blobs",
        "by an index of the files that are being deleted, in pages",
    ),
    (
        "journal",
        "only turns that run or have just ended, in pages",
    ),
    ("tree_heads", "from the last row on, and only that row"),
];

fn is_short(table: &str) -> bool {
    SHORT_TABLES.iter().any(|(short, _)| *short == table)
}

/// The table that this part of a plan reads as a whole. Parts of the statement itself, such as
/// `WITH` or a list of values, are no tables.
fn scanned<'a>(part: &str, sql: &str, tables: &'a [String]) -> Option<&'a str> {
    let name = part.strip_prefix("SCAN ")?.split(' ').next()?;
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let words: Vec<&str> = sql
        .split(|c| !is_word(c))
        .filter(|word| !word.is_empty() && !word.eq_ignore_ascii_case("AS"))
        .collect();
    let is_called_so = |table: &&String| {
        table.as_str() == name || words.windows(2).any(|pair| pair == [table.as_str(), name])
    };
    tables.iter().find(is_called_so).map(String::as_str)
}

#[test]
fn a_scan_of_a_table_is_told_from_a_part_of_the_statement() {
    let tables = ["jobs", "users"].map(str::to_owned);
    let table = |part, sql| scanned(part, sql, &tables);
    assert_eq!(table("SCAN jobs", "SELECT 1 FROM jobs"), Some("jobs"));
    let aliased = "SELECT 1 FROM jobs AS j, users u";
    assert_eq!(table("SCAN j USING INDEX i", aliased), Some("jobs"));
    assert_eq!(table("SCAN u", aliased), Some("users"));
    assert_eq!(table("SEARCH u USING INDEX i (id=?)", aliased), None);
    assert_eq!(
        table("SCAN w", "WITH w AS (SELECT 1) SELECT * FROM w"),
        None
    );
    assert_eq!(table("SCAN CONSTANT ROW", "SELECT 1"), None);
}

pub fn counted(statements: &[CountedStatement], commits: u64) -> OperationCost {
    OperationCost {
        rows: statements.iter().map(|statement| statement.steps).sum(),
        statements: statements.len() as u64,
        transactions: commits,
    }
}

fn has_a_plan(sql: &str) -> bool {
    let words = ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"];
    words.iter().any(|word| sql.trim_start().starts_with(word))
}

/// Listens to sqlx, which tells of each statement at its end, on its connection's thread.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let statements =
            EndedStatements.with_filter(FilterFn::new(|event| event.target() == "sqlx::query"));
        let subscriber = tracing_subscriber::registry().with(statements);
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
}

struct EndedStatements;

impl<S: Subscriber> Layer<S> for EndedStatements {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut told = Told::default();
        event.record(&mut told);
        let sql = if told.statement.is_empty() {
            told.summary
        } else {
            told.statement
        };
        SqliteCounters::statement_ended(sql.trim());
    }
}

/// The fields of sqlx' event. A short statement is only in the summary.
#[derive(Default)]
struct Told {
    summary: String,
    statement: String,
}

impl Visit for Told {
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => value.clone_into(&mut self.summary),
            "db.statement" => value.clone_into(&mut self.statement),
            _ => {}
        }
    }
}
