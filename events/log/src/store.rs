//! The opened store: pools, migrations, and the runtime that owns the connections.
//!
//! Invariant: a connection is only touched on the runtime that opened it. Callers on other runtimes
//! (HTTP workers, actors) use `Store::run`, which also completes a piece of work when its caller
//! goes away.

use std::{os::unix::ffi::OsStrExt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use sqlx::{
    Connection, PgPool, SqlitePool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tracing::Instrument;

use crate::{
    LogError,
    connections::{ConnectionOptions, ConnectionSettings, Connections, StoreTransaction},
    migrations, postgres_probe,
    postgres_streams::PostgresStreams,
    write_turns::WriteTurns,
};

#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    /// An SQLite file; it and its folder are made when absent.
    Sqlite(PathBuf),
    /// The URL of a Postgres database. It may hold a password and is never printed.
    Postgres(String),
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "SQLite at {}", path.display()),
            Self::Postgres(_) => write!(f, "Postgres"),
        }
    }
}

/// Connections of the one writer, which keeps one, and of the probe that checks whether the store
/// takes writes again.
const WRITER_CONNECTIONS: u32 = 2;
const READ_CONNECTIONS: u32 = 16;
/// Pages of the log that are read at once. A page has up to a mebibyte, so it takes long, and the other
/// connections are for short reads.
const PAGES_AT_ONCE: usize = 4;
/// Connections for read tables and leases, which need no fsync of their own. The journal has one beside them.
const RELAXED_CONNECTIONS: u32 = 7;
/// Connections for working tables that must survive a power cut.
const DURABLE_CONNECTIONS: u32 = 4;
/// When no connection is free for this long, the store counts as away.
const ACQUIRE: Duration = Duration::from_secs(3);
/// The longest time for any piece of work with the store: a store that vanished silently must not
/// hold its callers.
pub const LONGEST: Duration = Duration::from_secs(20);
/// The name of the pools' connections on Postgres, by which an import knows its own. A server has
/// connections of other names, too.
pub(crate) const POOL_NAME: &str = "genie pool";
/// The longest time that a transaction on Postgres may stay open while its process sends nothing. A
/// process that was stopped within a transaction holds locks that others, even an append, may wait
/// for.
const IDLE_IN_TRANSACTION: &str = "SET idle_in_transaction_session_timeout = '3s'";
/// Settings that are off in every session on Postgres: rows are found by key and in the order of a
/// key, whatever the statistics say. A plan that was made while tables were small, or before the
/// first statistics, reads a table as a whole; made into a kept plan it does so for ever.
const BY_KEY: [&str; 5] = [
    "enable_seqscan",
    "enable_bitmapscan",
    "enable_hashjoin",
    "enable_mergejoin",
    // The plans that these settings leave look too dear, and would be compiled.
    "jit",
];
/// Pages cost next to nothing in a plan on Postgres, so that it goes by the number of rows that it looks at.
/// Otherwise a small index, whose rows are then passed over, wins over a larger one that finds the right rows.
const BY_ROWS: [(&str, &str); 2] = [("random_page_cost", "0.1"), ("seq_page_cost", "0.1")];
/// A connection that comes back to the writer's pool must answer within this time.
const COMING_BACK: Duration = Duration::from_secs(5);
/// How long SQLite waits for another writer.
const BUSY: Duration = Duration::from_secs(3);
/// A setting of the connections that write into SQLite: the pages of the write-ahead log that are gathered
/// before they go into the file (16 MiB; SQLite's own number is a quarter). Many are of the same page of an
/// index, which is then written once.
const GATHERED_PAGES: (&str, &str) = ("wal_autocheckpoint", "4000");
/// A setting of the connections that write into SQLite. What is kept to undo one statement stays in
/// memory: a file for it would be made and removed in nearly every transaction.
const UNDO_IN_MEMORY: (&str, &str) = ("temp_store", "MEMORY");

macro_rules! postgres_columns {
    ($payload:literal) => {
        concat!(
            "position, uuid_send(owner) AS owner, owner_seq, uuid_send(stream) AS stream, sequence, kind, event_type, ",
            "event_version, uuid_send(event_id) AS event_id, slice, recorded_at, digest, metadata, ",
            $payload
        )
    };
}
macro_rules! sqlite_columns {
    ($payload:literal) => {
        concat!(
            "position, owner, owner_seq, stream, sequence, kind, event_type, event_version, event_id, slice, ",
            "recorded_at, digest, metadata, ",
            $payload
        )
    };
}
/// Both stores hand out a UUID as its 16 bytes.
const POSTGRES_COLUMNS: &str = postgres_columns!("payload");
const POSTGRES_CLEAR_COLUMNS: &str = postgres_columns!("''::bytea AS payload");
const SQLITE_COLUMNS: &str = sqlite_columns!("payload");
const SQLITE_CLEAR_COLUMNS: &str = sqlite_columns!("X'' AS payload");

#[derive(Debug, Clone)]
pub(crate) enum Writing {
    Postgres(PgPool),
    Sqlite(SqlitePool, WriteTurns),
}

#[derive(Debug, Clone)]
pub struct Store {
    io: Handle,
    /// Reads, in SQL that both stores speak.
    reads: Connections,
    pages: Arc<Semaphore>,
    /// Writes that a power cut may take back, but not a crash of the process: read tables, journal,
    /// heartbeats of leases.
    relaxed: Connections,
    /// Writes of working tables that must survive a power cut.
    durable: Connections,
    pub(crate) writing: Writing,
    /// Single streams, read through postgres-es; `None` on SQLite.
    postgres_streams: Option<PostgresStreams>,
}

impl Store {
    /// Connects, and brings the schema up to date unless `read_only`. Call it on the runtime that
    /// is to own the connections.
    pub async fn open(target: &Target, read_only: bool) -> Result<Self, LogError> {
        sqlx::any::install_default_drivers();
        match target {
            Target::Postgres(url) => Self::open_postgres(url, read_only).await,
            Target::Sqlite(path) => Self::open_sqlite(path, read_only).await,
        }
    }

    async fn open_postgres(url: &str, read_only: bool) -> Result<Self, LogError> {
        let options = PgConnectOptions::from_str(url).map_err(hide_url)?;
        if !read_only {
            postgres_probe::check(&options).await?;
        }
        let options = options.options([
            ("statement_timeout", "10s"),
            ("client_connection_check_interval", "2s"),
            ("synchronous_commit", "on"),
            ("application_name", "genie"),
        ]);
        let options = options.options(BY_KEY.map(|setting| (setting, "off")));
        let options = options.options(BY_ROWS);
        let appending = options
            .clone()
            .options([("plan_cache_mode", "force_generic_plan")]);
        let writer = PgPoolOptions::new()
            .max_connections(WRITER_CONNECTIONS)
            .acquire_timeout(ACQUIRE);
        let writer = writer.after_release(|connection, _| Box::pin(is_sound(connection)));
        let writer = writer.connect_with(appending).await?;
        if !read_only {
            Migrator::new(migrations::POSTGRES)
                .await
                .map_err(migration)?
                .run(&writer)
                .await
                .map_err(migration)?;
        }
        let of_pools = options.clone().application_name(POOL_NAME);
        let pool = |most, setting: &str| {
            Connections::new(ConnectionSettings {
                options: ConnectionOptions::Postgres(of_pools.clone()),
                first: [setting, IDLE_IN_TRANSACTION].map(str::to_owned).into(),
                most,
                begin: "BEGIN",
                turns: None,
                may_vanish: true,
            })
        };
        Ok(Self {
            io: Handle::current(),
            pages: Arc::new(Semaphore::new(PAGES_AT_ONCE)),
            reads: pool(READ_CONNECTIONS, "SET default_transaction_read_only = on"),
            relaxed: pool(RELAXED_CONNECTIONS, "SET synchronous_commit = off"),
            durable: pool(DURABLE_CONNECTIONS, "SET synchronous_commit = on"),
            writing: Writing::Postgres(writer),
            postgres_streams: Some(PostgresStreams::new(options)),
        })
    }

    async fn open_sqlite(path: &PathBuf, read_only: bool) -> Result<Self, LogError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(!read_only)
            .read_only(read_only)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .pragma("secure_delete", "ON")
            .pragma(UNDO_IN_MEMORY.0, UNDO_IN_MEMORY.1)
            .pragma(GATHERED_PAGES.0, GATHERED_PAGES.1)
            .busy_timeout(BUSY);
        let writer = SqlitePoolOptions::new()
            .max_connections(WRITER_CONNECTIONS)
            .acquire_timeout(ACQUIRE);
        let writer = writer.after_release(|connection, _| Box::pin(is_sound(connection)));
        #[cfg(any(test, feature = "testing"))]
        let writer = count(writer, path);
        let writer = writer.connect_with(options).await?;
        if !read_only {
            let migrator = Migrator::new(migrations::SQLITE).await;
            let run = migrator.map_err(migration)?.run(&writer).await;
            run.map_err(migration)?;
        }
        let url = format!(
            "sqlite://{}?mode={}",
            percent_encode(path.as_os_str().as_bytes(), IN_PATH),
            if read_only { "ro" } else { "rw" }
        );
        let plain = SqliteConnectOptions::from_str(&url).map_err(hide_url)?;
        let turns = WriteTurns::new();
        let pool = |most, begin, turns, settings: &[(&str, &str)]| {
            let busy = BUSY.as_millis().to_string();
            // Deleted bytes are overwritten. Each connection has this setting for itself.
            let all = [("busy_timeout", busy.as_str()), ("secure_delete", "ON")];
            let settings = all.iter().chain(settings);
            Connections::new(ConnectionSettings {
                options: ConnectionOptions::Sqlite(plain.clone()),
                first: settings
                    .map(|(name, value)| format!("PRAGMA {name} = {value}"))
                    .collect(),
                most,
                begin,
                turns,
                may_vanish: false,
            })
        };
        // One connection each: SQLite has one writer at a time anyway.
        let one_writer = |synchronous| {
            let settings = [UNDO_IN_MEMORY, GATHERED_PAGES, ("synchronous", synchronous)];
            pool(1, "BEGIN IMMEDIATE", Some(turns.clone()), &settings)
        };
        Ok(Self {
            io: Handle::current(),
            pages: Arc::new(Semaphore::new(PAGES_AT_ONCE)),
            reads: pool(READ_CONNECTIONS, "BEGIN", None, &[("query_only", "ON")]),
            relaxed: one_writer("NORMAL"),
            durable: one_writer("FULL"),
            writing: Writing::Sqlite(writer, turns),
            postgres_streams: None,
        })
    }

    /// Runs a piece of work on the runtime that owns the connections. It runs to its end even when
    /// the caller goes away.
    pub async fn run<T, W>(
        &self,
        work: impl FnOnce(Self) -> W + Send + 'static,
    ) -> Result<T, LogError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, LogError>> + Send + 'static,
    {
        let work = in_time(work(self.clone()));
        let task = self.io.spawn(work.in_current_span());
        task.await.unwrap_or_else(|stopped| {
            Err(LogError::Statement(format!("a read stopped: {stopped}")))
        })
    }

    pub fn io(&self) -> &Handle {
        &self.io
    }

    /// Runs single statements that change nothing.
    pub fn reads(&self) -> &Connections {
        &self.reads
    }

    /// Waits for a turn to read a page of the log. Move it into the reading.
    pub(crate) async fn page_turn(&self) -> OwnedSemaphorePermit {
        let turn = Arc::clone(&self.pages).acquire_owned();
        turn.await.expect("nobody closes it")
    }

    pub fn is_postgres(&self) -> bool {
        matches!(self.writing, Writing::Postgres(_))
    }

    /// The columns that [`StoredRow::read`](crate::StoredRow::read) reads.
    pub(crate) fn columns(&self) -> &'static str {
        match self.writing {
            Writing::Postgres(_) => POSTGRES_COLUMNS,
            Writing::Sqlite(..) => SQLITE_COLUMNS,
        }
    }

    /// The same without the payload, for readers that show only what is clear.
    pub(crate) fn clear_columns(&self) -> &'static str {
        match self.writing {
            Writing::Postgres(_) => POSTGRES_CLEAR_COLUMNS,
            Writing::Sqlite(..) => SQLITE_CLEAR_COLUMNS,
        }
    }

    pub(crate) fn postgres_streams(&self) -> Option<&PostgresStreams> {
        self.postgres_streams.as_ref()
    }

    /// The options for a Postgres connection outside any pool; `None` on SQLite.
    pub(crate) fn postgres(&self) -> Option<Arc<PgConnectOptions>> {
        match &self.writing {
            // They hold a password, so no `Debug` of this crate may print them.
            Writing::Postgres(pool) => Some(pool.connect_options()),
            Writing::Sqlite(..) => None,
        }
    }

    /// A writing transaction without an fsync of its own. On SQLite it holds the write lock from
    /// its beginning.
    pub async fn relaxed(&self) -> Result<StoreTransaction, LogError> {
        Ok(self.relaxed.begin().await?)
    }

    /// A writing transaction that is flushed at its commit.
    pub async fn durable(&self) -> Result<StoreTransaction, LogError> {
        Ok(self.durable.begin().await?)
    }

    /// Answers `Ok` when the store answers a query.
    pub async fn ping(&self) -> Result<(), LogError> {
        self.run(async |store: Self| {
            Ok(sqlx::query("SELECT 1")
                .execute(store.reads())
                .await
                .map(drop)?)
        })
        .await
    }

    /// Closes the connections, so that SQLite leaves no write-ahead log behind.
    pub async fn close(&self) {
        self.reads.close().await;
        self.relaxed.close().await;
        self.durable.close().await;
        if let Some(streams) = &self.postgres_streams {
            streams.close().await;
        }
        match &self.writing {
            Writing::Postgres(pool) => pool.close().await,
            Writing::Sqlite(pool, _) => pool.close().await,
        }
    }
}

/// Counts what the writer's connections do, for tests.
#[cfg(any(test, feature = "testing"))]
fn count(writer: SqlitePoolOptions, file: &std::path::Path) -> SqlitePoolOptions {
    let file = file.to_owned();
    writer.after_connect(move |connection, _| {
        let file = file.clone();
        Box::pin(async move { crate::sqlite_counters::count(connection, &file).await })
    })
}

/// Ends work with the store that takes longer than [`LONGEST`].
pub async fn in_time<T, E: From<LogError>>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let late = || LogError::Away("no answer in time".into()).into();
    in_time_or(LONGEST, work, late).await
}

/// Ends work that takes longer than `limit`, with the error that `late` makes.
pub async fn in_time_or<T, F, E: From<F>>(
    limit: Duration,
    work: impl Future<Output = Result<T, F>>,
    late: impl FnOnce() -> E,
) -> Result<T, E> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(late()),
    }
}

/// True when a connection that comes back to the writer's pool may be lent again; between appends
/// the writer keeps it. A connection to a server that vanished
/// silently may not: it would occupy its place for as long as TCP tries. A connection whose
/// transaction SQLite itself ended, because its disk is full, may not either: sqlx' count of open
/// transactions never learns of that.
async fn is_sound<C: Connection>(connection: &mut C) -> Result<bool, sqlx::Error> {
    match tokio::time::timeout(COMING_BACK, connection.ping()).await {
        Ok(answered) => answered.map(|()| !connection.is_in_transaction()),
        Err(_) => Err(sqlx::Error::PoolTimedOut),
    }
}

/// An unreadable URL may hold a password: the error must not repeat it.
fn hide_url(_: sqlx::Error) -> LogError {
    LogError::Statement(
        "DATABASE_URL cannot be read; it must look like postgres://USER:PASSWORD@HOST:PORT/DATABASE"
            .into(),
    )
}

fn migration(error: sqlx::migrate::MigrateError) -> LogError {
    match error {
        sqlx::migrate::MigrateError::VersionMissing(version) => LogError::Statement(format!(
            "the store was written by a newer genie (its migration {version} is unknown here); start that release instead"
        )),
        sqlx::migrate::MigrateError::Execute(error) => error.into(),
        other => LogError::Statement(format!("the schema cannot be brought up to date: {other}")),
    }
}

/// Letters, digits and these characters stand for themselves in the path of a URL.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'.')
    .remove(b'-')
    .remove(b'_');

#[cfg(test)]
mod tests {
    use sqlx::{Connection, PgConnection};

    use super::*;
    use crate::testing::{Kind, TestStore};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_transaction_that_a_process_left_open_is_ended() {
        let store = TestStore::new(Kind::Postgres).await;
        let log = store.open().await.log;
        let mut left_open = log.store().relaxed().await.unwrap();
        sqlx::query("LOCK TABLE leases")
            .execute(&mut *left_open)
            .await
            .unwrap();
        let mut other = PgConnection::connect(&store.database_url().unwrap())
            .await
            .unwrap();
        let waiting = tokio::time::timeout(
            Duration::from_secs(8),
            sqlx::query("SELECT 1 FROM leases").execute(&mut other),
        );
        waiting.await.expect("in time").unwrap();
        let ended = sqlx::query("SELECT 1")
            .execute(&mut *left_open)
            .await
            .map_err(LogError::from);
        assert!(matches!(ended, Err(LogError::Away(_))), "{ended:?}");
    }

    /// SQLite does this by itself when the disk is full: it ends the transaction, and rolling back
    /// then fails.
    #[tokio::test]
    async fn a_connection_whose_transaction_was_ended_behind_its_back_is_not_lent_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&Target::Sqlite(folder.path().join("genie.db")), false)
            .await
            .unwrap();
        let Writing::Sqlite(writer, _) = &store.writing else {
            panic!("opened as SQLite")
        };
        for _ in 0..2 * WRITER_CONNECTIONS {
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await.unwrap();
            sqlx::query("ROLLBACK").execute(&mut *tx).await.unwrap();
        }
    }
}
