//! What Postgres did, from its own log: each statement, its transaction, and the rows that its plan
//! looked at. Unlike the statistics views the log is complete at once, and it names the statement.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::{background::is_background, operation_cost::OperationCost, until::until};

/// The file in the data folder; `scripts/postgres` names it.
const FILE: &str = "server.log";
/// How a message with a plan begins.
const PLAN: &str = "duration: ";
/// Settings of the measured database. Plans inside functions count too.
const SETTINGS: [&str; 8] = [
    "session_preload_libraries = 'auto_explain'",
    "auto_explain.log_min_duration = 0",
    "auto_explain.log_analyze = on",
    "auto_explain.log_timing = off",
    "auto_explain.log_nested_statements = on",
    "auto_explain.log_format = 'json'",
    "log_statement = 'all'",
    // Without parameters, and without the function around a statement.
    "log_error_verbosity = 'terse'",
];

/// Reads the log of one database.
pub struct PostgresLog {
    /// Leads to another database.
    outside: PgConnection,
    database: String,
    /// The bytes that were read.
    read: i64,
}

impl PostgresLog {
    /// Has everything logged that sessions do from their next start on.
    pub async fn start(url: &str) -> Self {
        let (server, database) = url.rsplit_once('/').unwrap();
        let mut outside = PgConnection::connect(&format!("{server}/postgres"))
            .await
            .unwrap();
        for setting in SETTINGS {
            let sql = format!("ALTER DATABASE {database} SET {setting}");
            sqlx::raw_sql(&sql).execute(&mut outside).await.unwrap();
        }
        let mut log = Self {
            outside,
            database: database.to_owned(),
            read: 0,
        };
        log.skip().await;
        log
    }

    async fn skip(&mut self) {
        self.read = sqlx::query_scalar("SELECT size FROM pg_stat_file($1)")
            .bind(FILE)
            .fetch_one(&mut self.outside)
            .await
            .expect("GENIE_TEST_POSTGRES must be of scripts/postgres, whose log this reads");
    }

    /// What was done since the last call, without what the server does by itself.
    pub async fn take(&mut self) -> Vec<LoggedTransaction> {
        let bytes = until("a whole message at the end of the log", async || {
            let bytes = self.unread().await;
            ends_whole(&String::from_utf8_lossy(&bytes)).then_some(bytes)
        })
        .await;
        self.read += bytes.len() as i64;
        let mut transactions = transactions(&String::from_utf8_lossy(&bytes), &self.database);
        transactions.retain(|transaction| !transaction.is_background());
        transactions
    }

    async fn unread(&mut self) -> Vec<u8> {
        sqlx::query_scalar("SELECT pg_read_binary_file($1, $2, 1 << 29)")
            .bind(FILE)
            .bind(self.read)
            .fetch_one(&mut self.outside)
            .await
            .unwrap()
    }
}

/// A transaction in the log.
#[derive(Debug, Default, Clone)]
pub struct LoggedTransaction {
    /// As sent, without `BEGIN`, `COMMIT` and `ROLLBACK`.
    pub statements: Vec<String>,
    /// The rows that a plan looked at, with its statement, those within functions included.
    pub plans: Vec<(String, u64)>,
}

impl LoggedTransaction {
    fn is_background(&self) -> bool {
        self.statements.iter().all(|sql| is_background(sql))
    }
}

pub fn counted(transactions: &[LoggedTransaction]) -> OperationCost {
    OperationCost {
        rows: transactions
            .iter()
            .flat_map(|transaction| &transaction.plans)
            .map(|(_, rows)| rows)
            .sum(),
        statements: transactions
            .iter()
            .map(|transaction| transaction.statements.len() as u64)
            .sum(),
        transactions: transactions.len() as u64,
    }
}

/// False when the last message is still being written.
fn ends_whole(text: &str) -> bool {
    let begin = text
        .rmatch_indices('\n')
        .map(|(end, _)| end + 1)
        .find(|begin| !text[*begin..].is_empty() && !text[*begin..].starts_with('\t'));
    let last = &text[begin.unwrap_or(0)..];
    let plan = match last.split_once(PLAN) {
        Some((_, plan)) => plan.split_once('\n').map_or("", |(_, plan)| plan),
        None => return last.is_empty() || last.ends_with('\n'),
    };
    last.ends_with('\n') && serde_json::from_str::<Value>(&plan.replace('\t', " ")).is_ok()
}

/// Reads lines of the log. A message's further lines begin with a tabulator.
fn transactions(text: &str, database: &str) -> Vec<LoggedTransaction> {
    let mut found: Vec<LoggedTransaction> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mark = format!("<{database} ");
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let mut further = String::new();
        while let Some(line) = lines.next_if(|line| line.starts_with('\t')) {
            further.push('\n');
            further.push_str(line.trim_start_matches('\t'));
        }
        let Some((_, after)) = line.split_once(&mark) else {
            continue;
        };
        let Some((transaction, message)) = after.split_once("> LOG:  ") else {
            continue;
        };
        let place = *places.entry(transaction).or_insert_with(|| {
            found.push(LoggedTransaction::default());
            found.len() - 1
        });
        found[place].note(message, &further);
    }
    found
}

impl LoggedTransaction {
    fn note(&mut self, message: &str, further: &str) {
        if message.starts_with(PLAN) {
            let explained: Value = serde_json::from_str(further).unwrap();
            let sql = explained["Query Text"].as_str().unwrap_or_default();
            self.plans.push((sql.to_owned(), rows(&explained["Plan"])));
            return;
        }
        let sql = match message.split_once(": ") {
            Some(("statement", sql)) => sql,
            Some((prepared, sql)) if prepared.starts_with("execute ") => sql,
            _ => return,
        };
        if !["BEGIN", "COMMIT", "ROLLBACK"].contains(&sql.trim_end_matches(';')) {
            self.statements.push(format!("{sql}{further}"));
        }
    }
}

/// The rows of tables that a plan looked at, those included that a filter dropped.
fn rows(plan: &Value) -> u64 {
    let number = |name: &str| plan[name].as_f64().unwrap_or_default();
    let table = plan["Relation Name"].as_str();
    let is_scan =
        plan["Node Type"] != "ModifyTable" && table.is_some_and(|name| !name.starts_with("pg_"));
    let seen = number("Actual Rows")
        + number("Rows Removed by Filter")
        + number("Rows Removed by Index Recheck");
    let own = if is_scan {
        (seen * number("Actual Loops")).round() as u64
    } else {
        0
    };
    let below = plan["Plans"].as_array().into_iter().flatten().map(rows);
    own + below.sum::<u64>()
}

#[test]
fn a_log_is_read_by_database_and_transaction() {
    let text = "2026-01-01 00:00:00 UTC [7] <one 3/4> LOG:  statement: BEGIN\n\
        2026-01-01 00:00:00 UTC [7] <one 3/4> LOG:  execute sqlx_s_1: SELECT 1\n\
        \tFROM jobs\n\
        2026-01-01 00:00:00 UTC [7] <one 3/4> LOG:  duration: 0.1 ms  plan:\n\
        \t{\"Query Text\": \"SELECT 1\", \"Plan\": {\"Node Type\": \"Aggregate\", \"Actual Rows\": 1, \"Actual Loops\": 1,\n\
        \t \"Plans\": [{\"Node Type\": \"Seq Scan\", \"Relation Name\": \"jobs\", \"Actual Rows\": 5,\n\
        \t   \"Rows Removed by Filter\": 95, \"Actual Loops\": 2}]}}\n\
        2026-01-01 00:00:00 UTC [7] <two 3/5> LOG:  statement: SELECT 2\n\
        2026-01-01 00:00:00 UTC [7] <one 3/4> LOG:  statement: COMMIT\n\
        2026-01-01 00:00:00 UTC [8] LOG:  checkpoint starting: time\n\
        2026-01-01 00:00:00 UTC [7] <one 4/1> LOG:  execute <unnamed>: SELECT 3\n";
    let found = transactions(text, "one");
    assert_eq!(found[0].statements, ["SELECT 1\nFROM jobs"]);
    let counts = OperationCost {
        rows: 200,
        statements: 2,
        transactions: 2,
    };
    assert_eq!(counted(&found), counts);
}

#[test]
fn a_message_is_read_when_it_is_whole() {
    let statement = "2026 [7] <one 3/4> LOG:  statement: SELECT 1\n";
    let plan = "2026 [7] <one 3/4> LOG:  duration: 0.1 ms  plan:\n\t{\"Query Text\": \"SELECT 1\",\n\t \"Plan\": {}}\n";
    let text = [statement, plan].concat();
    for end in 0..=text.len() {
        let is_whole = [0, statement.len(), text.len()].contains(&end);
        assert_eq!(ends_whole(&text[..end]), is_whole, "{:?}", &text[..end]);
    }
    assert!(ends_whole(&[plan, statement].concat()));
}
