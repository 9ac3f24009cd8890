//! Counts operations on either store.

use std::{collections::BTreeMap, time::Duration};

use genie_log::{
    sqlite_counters::CountedStatement,
    store::Target,
    testing::{Kind, TestStore},
};
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    operation_cost::OperationCost,
    postgres_log::{self, LoggedTransaction, PostgresLog},
    sqlite_statements::{self, SqliteStatements},
};

/// An operation is over when the store was left alone for this long.
const QUIET: Duration = Duration::from_millis(80);
/// Uncounted repetitions, in which connections are opened and caches filled.
const WARM_UPS: usize = 1;
/// Counted repetitions. Their median counts.
pub const REPETITIONS: usize = 3;

/// One meter on each store at a time: servers that share two cores are slower than [`QUIET`] allows.
static POSTGRES: Mutex<()> = Mutex::const_new(());
static SQLITE: Mutex<()> = Mutex::const_new(());

pub struct Meter {
    source: CountSource,
    counted: CountedStore,
    /// Of [`Meter::add`].
    repeated: BTreeMap<&'static str, Vec<OperationCost>>,
    _only: MutexGuard<'static, ()>,
}

/// What was counted on a store.
#[derive(Default)]
pub struct CountedStore {
    /// By operation, in the order of the table.
    pub counts: Vec<(&'static str, OperationCost)>,
    /// What each operation did, for the message of a failure.
    pub details: BTreeMap<&'static str, String>,
    /// The statements whose plan on SQLite reads a whole table, with that part of the plan.
    pub scans: Vec<(String, String)>,
}

enum CountSource {
    Postgres(PostgresLog),
    Sqlite(SqliteStatements),
}

/// What was done in the store.
#[derive(Debug, Clone)]
pub enum Done {
    Postgres(Vec<LoggedTransaction>),
    Sqlite(Vec<CountedStatement>, u64),
}

impl Meter {
    /// Counts what servers do that are started from now on.
    pub async fn start(store: &TestStore) -> Self {
        let only = match store.kind {
            Kind::Postgres => POSTGRES.lock().await,
            Kind::Sqlite => SQLITE.lock().await,
        };
        let source = match &store.target {
            Target::Postgres(url) => CountSource::Postgres(PostgresLog::start(url).await),
            Target::Sqlite(file) => CountSource::Sqlite(SqliteStatements::start(file.clone())),
        };
        Self {
            source,
            counted: CountedStore::default(),
            repeated: BTreeMap::new(),
            _only: only,
        }
    }

    pub async fn count(&mut self, name: &'static str, mut operation: impl AsyncFnMut()) {
        self.all_done().await;
        let mut counts = Vec::new();
        for round in 0..WARM_UPS + REPETITIONS {
            operation().await;
            let done = self.all_done().await;
            self.keep(name, round, &mut counts, &done);
        }
        let median = OperationCost::median(&counts);
        self.counted.counts.push((name, median));
    }

    /// Keeps a count, unless it is of a repetition that does not count.
    fn keep(
        &mut self,
        name: &'static str,
        round: usize,
        counts: &mut Vec<OperationCost>,
        done: &Done,
    ) {
        if round >= WARM_UPS {
            counts.push(done.counts());
            self.counted.details.insert(name, done.to_string());
        }
    }

    /// One of several repetitions of an operation. What it does by the statements that begin as those of
    /// `apart` is counted under their names.
    pub async fn add(
        &mut self,
        name: &'static str,
        apart: &[(&'static str, &str)],
        operation: impl AsyncFnOnce(),
    ) {
        self.all_done().await;
        operation().await;
        let mut done = self.all_done().await;
        for (other, start) in apart {
            let taken_out = done.take_out(start);
            self.note(other, &taken_out);
        }
        self.note(name, &done);
    }

    fn note(&mut self, name: &'static str, done: &Done) {
        self.counted.details.insert(name, done.to_string());
        self.repeated.entry(name).or_default().push(done.counts());
    }

    /// The same for an operation that needs an uncounted preparation.
    pub async fn count_after<T>(
        &mut self,
        name: &'static str,
        mut prepare: impl AsyncFnMut() -> T,
        mut operation: impl AsyncFnMut(T),
    ) {
        let mut counts = Vec::new();
        for round in 0..WARM_UPS + REPETITIONS {
            let prepared = prepare().await;
            self.all_done().await;
            operation(prepared).await;
            let done = self.all_done().await;
            self.keep(name, round, &mut counts, &done);
        }
        let median = OperationCost::median(&counts);
        self.counted.counts.push((name, median));
    }

    /// What was done since the last call, once the store is left alone.
    pub async fn all_done(&mut self) -> Done {
        let mut done = self.take().await;
        loop {
            tokio::time::sleep(QUIET).await;
            if !done.grew_by(self.take().await) {
                return done;
            }
        }
    }

    async fn take(&mut self) -> Done {
        match &mut self.source {
            CountSource::Postgres(log) => Done::Postgres(log.take().await),
            CountSource::Sqlite(statements) => {
                let commits = statements.take_commits();
                Done::Sqlite(statements.take(), commits)
            }
        }
    }

    pub async fn finish(mut self) -> CountedStore {
        for (name, counts) in std::mem::take(&mut self.repeated) {
            self.counted
                .counts
                .push((name, OperationCost::median(&counts)));
        }
        if let CountSource::Sqlite(statements) = &self.source {
            self.counted.scans = statements.scans().await;
        }
        self.counted
    }
}

impl Done {
    pub fn counts(&self) -> OperationCost {
        match self {
            Self::Postgres(transactions) => postgres_log::counted(transactions),
            Self::Sqlite(statements, commits) => sqlite_statements::counted(statements, *commits),
        }
    }

    /// Takes out what such a statement did. On Postgres it is a transaction of its own.
    fn take_out(&mut self, start: &str) -> Self {
        match self {
            Self::Postgres(transactions) => Self::Postgres(
                transactions
                    .extract_if(.., |one| {
                        one.statements.iter().any(|sql| sql.starts_with(start))
                    })
                    .collect(),
            ),
            Self::Sqlite(statements, _) => Self::Sqlite(
                statements
                    .extract_if(.., |one| one.sql.starts_with(start))
                    .collect(),
                0,
            ),
        }
    }

    fn grew_by(&mut self, more: Self) -> bool {
        match (self, more) {
            (Self::Postgres(done), Self::Postgres(more)) => {
                let grew = !more.is_empty();
                done.extend(more);
                grew
            }
            (Self::Sqlite(done, commits), Self::Sqlite(more, more_commits)) => {
                let grew = !more.is_empty() || more_commits > 0;
                done.extend(more);
                *commits += more_commits;
                grew
            }
            _ => unreachable!("one store"),
        }
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let one_line = |sql: &str| sql.split_whitespace().collect::<Vec<_>>().join(" ");
        match self {
            Self::Postgres(transactions) => {
                for transaction in transactions {
                    writeln!(f, "    transaction")?;
                    for sql in &transaction.statements {
                        writeln!(f, "      {}", one_line(sql))?;
                    }
                    for (sql, rows) in transaction.plans.iter().filter(|(_, rows)| *rows > 0) {
                        writeln!(f, "      {rows:>6} rows: {}", one_line(sql))?;
                    }
                }
                Ok(())
            }
            Self::Sqlite(statements, commits) => {
                writeln!(f, "    {commits} commits")?;
                for statement in statements {
                    let sql = one_line(&statement.sql);
                    writeln!(f, "      {:>6} steps: {sql}", statement.steps)?;
                }
                Ok(())
            }
        }
    }
}
