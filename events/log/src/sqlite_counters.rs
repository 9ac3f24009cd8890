//! Counts what SQLite does in a store's file, for tests of what an operation costs.
//!
//! SQLite runs a statement as a program of its virtual machine. Each row that is looked at takes
//! the machine some steps, whether or not the row is returned. So steps show what rows returned
//! hide: a count over many rows, or a filter that drops most of them.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use parking_lot::Mutex;
use sqlx::{SqliteConnection, sqlite::SqliteConnectOptions};

/// The counted files.
static FILES: LazyLock<Mutex<HashMap<PathBuf, Arc<SqliteCounters>>>> =
    LazyLock::new(Mutex::default);

thread_local! {
    /// The file of this thread's connection. sqlx gives each connection a thread of its own.
    static FILE: RefCell<Option<Arc<SqliteCounters>>> = const { RefCell::new(None) };
    /// The steps on this thread since its last statement ended.
    static STEPS: Cell<u64> = const { Cell::new(0) };
    /// The statements on this thread since its last commit.
    static UNCOMMITTED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// What all connections to a file did.
#[derive(Debug, Default)]
pub struct SqliteCounters {
    statements: Mutex<Vec<CountedStatement>>,
    commits: Mutex<Vec<Vec<String>>>,
}

/// A statement that ran.
#[derive(Debug, Clone)]
pub struct CountedStatement {
    pub sql: String,
    /// The steps of the virtual machine, from the end of the connection's statement before: a
    /// `BEGIN` or `COMMIT` between them is included.
    pub steps: u64,
}

impl SqliteCounters {
    /// Counts in this file from now on, on connections that are opened later.
    pub fn of(file: &Path) -> Arc<Self> {
        Arc::clone(FILES.lock().entry(file.to_owned()).or_default())
    }

    /// To be called on the connection's thread, at the end of each statement. sqlx tells of it by a
    /// `tracing` event.
    pub fn statement_ended(sql: &str) {
        let steps = STEPS.take();
        FILE.with_borrow(|file| {
            if let Some(file) = file {
                file.statements.lock().push(CountedStatement {
                    sql: sql.to_owned(),
                    steps,
                });
                UNCOMMITTED.with_borrow_mut(|statements| statements.push(sql.to_owned()));
            }
        });
    }

    /// The statements that ended since the last call.
    pub fn take_statements(&self) -> Vec<CountedStatement> {
        std::mem::take(&mut *self.statements.lock())
    }

    /// The transactions since the last call that wrote: the statements of each. One that was no part
    /// of a greater transaction ends after its commit, and is missing.
    pub fn take_commits(&self) -> Vec<Vec<String>> {
        std::mem::take(&mut *self.commits.lock())
    }
}

/// A fresh connection that is counted, if its file is.
pub(crate) async fn counted(
    mut connection: SqliteConnection,
    options: &SqliteConnectOptions,
) -> Result<SqliteConnection, sqlx::Error> {
    count(&mut connection, options.get_filename()).await?;
    Ok(connection)
}

/// Counts on a fresh connection, if its file is counted.
pub(crate) async fn count(
    connection: &mut SqliteConnection,
    file: &Path,
) -> Result<(), sqlx::Error> {
    let counters = FILES.lock().get(file).cloned();
    let Some(counters) = counters else {
        return Ok(());
    };
    // SQLite reads the schema for the first statement, whose steps would be many more than its own.
    sqlx::query("SELECT 1 FROM sqlite_schema LIMIT 1")
        .execute(&mut *connection)
        .await?;
    let committed = Arc::clone(&counters);
    let mut handle = connection.lock_handle().await?;
    handle.set_progress_handler(1, move || {
        FILE.with_borrow_mut(|file| {
            file.get_or_insert_with(|| Arc::clone(&counters));
        });
        STEPS.set(STEPS.get() + 1);
        true
    });
    handle.set_commit_hook(move || {
        committed.commits.lock().push(UNCOMMITTED.take());
        true
    });
    Ok(())
}
