//! The database of a run, and the faults that torture causes there behind the servers' backs: it
//! holds the append's lock or an old snapshot, and ends back ends. Every fault has its own
//! connection, so that none waits for another or outlives itself.

use std::{str::FromStr, time::Duration};

use genie_log::store::in_time_or;
use sqlx::{
    ConnectOptions, Connection, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};

/// The database could not be reached, or refused a statement.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error("the Postgres URL can't be read; it looks like postgres://USER@HOST:PORT")]
    Url,
    #[error("Postgres did not answer in time")]
    TooLate,
    #[error(transparent)]
    Statement(#[from] sqlx::Error),
}

/// The lock that the function `append` takes (`0001_log.sql`).
const APPEND_LOCK: i64 = 7_340_991;
/// Tells these connections from the servers' own.
const APPLICATION_NAME: &str = "genie-torture";
/// The time limit of connecting, and of each statement.
const LIMIT: Duration = Duration::from_secs(10);
/// The time limit of making or dropping a database: Postgres then writes all databases to disk.
const WHOLE_DATABASE: Duration = Duration::from_secs(180);

/// A database that is made for one run and dropped after it.
#[derive(Debug, Clone)]
pub struct ScratchDatabase {
    server: PgConnectOptions,
    own: PgConnectOptions,
    name: String,
}

impl ScratchDatabase {
    /// Makes an empty database on the server that the URL names. The URL's role needs the right to create databases.
    pub async fn create(url: &str, name: &str) -> Result<Self, DatabaseError> {
        let server = PgConnectOptions::from_str(url)
            .map_err(|_| DatabaseError::Url)?
            .application_name(APPLICATION_NAME);
        let scratch = Self {
            own: server.clone().database(name),
            server,
            name: name.to_owned(),
        };
        let create = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'");
        let made = async {
            sqlx::query(&create)
                .execute(&mut scratch.server.connect().await?)
                .await
        };
        in_time_or(WHOLE_DATABASE, made, too_late).await?;
        Ok(scratch)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host and port of the Postgres server.
    pub fn address(&self) -> (String, u16) {
        (self.own.get_host().to_owned(), self.own.get_port())
    }

    /// The URL contains the password.
    pub fn url(&self) -> String {
        self.own.to_url_lossy().to_string()
    }

    /// The URL through a relay on this machine. Without TLS, unless the URL insists on it, so that the relay can read the traffic.
    pub fn url_through(&self, port: u16) -> String {
        let through = self.own.clone().host("127.0.0.1").port(port);
        let through = match self.own.get_ssl_mode() {
            PgSslMode::Allow | PgSslMode::Prefer => through.ssl_mode(PgSslMode::Disable),
            _ => through,
        };
        through.to_url_lossy().to_string()
    }

    pub async fn drop_database(&self) -> Result<(), DatabaseError> {
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let dropped = async {
            sqlx::query(&drop)
                .execute(&mut self.server.connect().await?)
                .await
        };
        in_time_or(WHOLE_DATABASE, dropped, too_late)
            .await
            .map(|_| ())
    }

    /// Takes the append's lock. No append commits until it is released.
    pub async fn hold_append_lock(&self) -> Result<HeldConnection, DatabaseError> {
        within(async {
            let mut connection = self.own.connect().await?;
            sqlx::query("SELECT pg_advisory_lock($1)")
                .bind(APPEND_LOCK)
                .execute(&mut connection)
                .await?;
            Ok(HeldConnection(connection))
        })
        .await
    }

    /// Holds a snapshot of the whole log and a transaction that has written, on a table that nobody else uses.
    pub async fn hold_snapshot(&self) -> Result<HeldConnection, DatabaseError> {
        within(async {
            let mut connection = self.own.connect().await?;
            for statement in [
                "CREATE TABLE IF NOT EXISTS torture_scratch (n bigint)",
                "BEGIN ISOLATION LEVEL REPEATABLE READ",
                "SELECT count(*) FROM events",
                "INSERT INTO torture_scratch VALUES (1)",
            ] {
                sqlx::query(statement).execute(&mut connection).await?;
            }
            Ok(HeldConnection(connection))
        })
        .await
    }

    /// The client ports, as Postgres sees them, of the back ends that wait for an advisory lock now.
    pub async fn waiting_for_the_append_lock(&self) -> Result<Vec<u16>, DatabaseError> {
        within(async {
            let sql = "SELECT client_port FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock' \
                       AND wait_event = 'advisory' AND client_port IS NOT NULL";
            let mut connection = self.own.connect().await?;
            let ports: Vec<i32> = sqlx::query_scalar(sql).bind(&self.name).fetch_all(&mut connection).await?;
            Ok(ports.into_iter().filter_map(|port| u16::try_from(port).ok()).collect())
        })
        .await
    }

    /// Ends up to `most` of the servers' back ends, chosen at random. Returns how many.
    pub async fn end_back_ends(&self, most: u32) -> Result<usize, DatabaseError> {
        within(async {
            let sql = "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE datname = $1 \
                       AND application_name <> $2 AND pid <> pg_backend_pid() ORDER BY random() LIMIT $3) AS chosen";
            let mut connection = self.own.connect().await?;
            let query = sqlx::query(sql).bind(&self.name).bind(APPLICATION_NAME).bind(i64::from(most));
            Ok(query.fetch_all(&mut connection).await?.len())
        })
        .await
    }

    pub async fn ping(&self) -> Result<(), DatabaseError> {
        within(async { self.own.connect().await?.ping().await }).await
    }
}

/// Holds a lock or a snapshot until it is released or its connection ends.
pub struct HeldConnection(PgConnection);

impl std::fmt::Debug for HeldConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeldConnection")
    }
}

impl HeldConnection {
    pub async fn release(self) {
        // A connection that is gone has released everything by itself.
        let _ = tokio::time::timeout(LIMIT, self.0.close()).await;
    }
}

async fn within<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, DatabaseError> {
    in_time_or(LIMIT, work, too_late).await
}

fn too_late() -> DatabaseError {
    DatabaseError::TooLate
}

#[cfg(test)]
mod tests {
    use genie_events::{Event, Metadata, StreamId, StreamKind, account::AccountEvent};

    use super::*;
    use genie_log::{
        AppendRequest, Group, NewFact,
        store::Target,
        testing::{Kind, TestStore},
    };

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_held_lock_makes_appends_wait_and_is_seen() {
        let mut store = TestStore::new(Kind::Postgres).await;
        let Target::Postgres(url) = store.target.clone() else {
            panic!("a Postgres")
        };
        let name = format!("genie_torture_{}", store.clock.new_uuid().simple());
        let database = ScratchDatabase::create(&url, &name).await.unwrap();
        store.target = Target::Postgres(database.url());
        let opened = store.open().await;
        let ada = store.register(&opened.log, "ada").await;
        assert_eq!(
            database.waiting_for_the_append_lock().await.unwrap(),
            [0; 0]
        );

        let held = database.hold_append_lock().await.unwrap();
        let event = Event::Account(AccountEvent::SignedIn);
        let fact = NewFact {
            stream: StreamId::new(StreamKind::Account, ada),
            sequence: 2,
            event,
        };
        let append = AppendRequest {
            groups: vec![Group::of_user(ada, 1, vec![fact])],
            work: vec![],
            metadata: Metadata::system(),
            remember: None,
        };
        let door = opened.append.clone();
        let appended = tokio::spawn(async move { door.append(append).await });
        while database
            .waiting_for_the_append_lock()
            .await
            .unwrap()
            .is_empty()
        {}
        assert!(
            database.end_back_ends(100).await.unwrap() > 0,
            "the one that waits, too"
        );
        held.release().await;
        assert_eq!(
            appended.await.unwrap().unwrap().last,
            2,
            "the same rows were appended again, and once"
        );
        assert_eq!(opened.log.reader().rows(0, 10).await.unwrap().len(), 2);

        let snapshot = database.hold_snapshot().await.unwrap();
        snapshot.release().await;
        database.ping().await.unwrap();
        opened.log.store().close().await;
        database.drop_database().await.unwrap();
        assert!(database.ping().await.is_err());
    }
}
