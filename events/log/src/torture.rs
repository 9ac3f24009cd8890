//! What `genie torture` does to a Postgres behind the servers' backs: it makes a database of its own, holds the append's lock or
//! an old snapshot, and ends back ends. Each piece of mischief takes a connection of its own, so that a fault never waits for
//! another, and none outlives its fault.

use std::{str::FromStr, time::Duration};

use sqlx::{
    ConnectOptions, Connection, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};

use crate::LogError;

/// The lock that the function `append` takes (`0001_log.sql`).
const APPEND_LOCK: i64 = 7_340_991;
/// How these connections are told from the servers' own.
const NAME: &str = "genie-torture";
/// How long a connection, and any one statement, may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long making or dropping a database may take: Postgres writes out everything that is not yet on disk, of all databases.
const WHOLE_DATABASE: Duration = Duration::from_secs(180);

/// A database made to be tormented.
#[derive(Debug, Clone)]
pub struct Tormented {
    server: PgConnectOptions,
    own: PgConnectOptions,
    database: String,
}

impl Tormented {
    /// Makes an empty database of that name on the server that a URL names. The role must be allowed to.
    pub async fn create(url: &str, database: &str) -> Result<Self, LogError> {
        let unreadable = |_| {
            LogError::Statement(
                "the Postgres URL can't be read; it looks like postgres://USER@HOST:PORT".into(),
            )
        };
        let server = PgConnectOptions::from_str(url)
            .map_err(unreadable)?
            .application_name(NAME);
        let tormented = Self {
            own: server.clone().database(database),
            server,
            database: database.to_owned(),
        };
        let create = format!("CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8'");
        let made = async {
            sqlx::query(&create)
                .execute(&mut tormented.server.connect().await?)
                .await
        };
        in_time(WHOLE_DATABASE, made).await?;
        Ok(tormented)
    }

    /// Its name.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Where its server listens.
    pub fn address(&self) -> (String, u16) {
        (self.own.get_host().to_owned(), self.own.get_port())
    }

    /// The way there; holds the password.
    pub fn url(&self) -> String {
        self.own.to_url_lossy().to_string()
    }

    /// The way there through a relay on this machine, in the clear unless the URL insists on TLS, so that the relay can read along.
    pub fn url_through(&self, port: u16) -> String {
        let through = self.own.clone().host("127.0.0.1").port(port);
        let through = match self.own.get_ssl_mode() {
            PgSslMode::Allow | PgSslMode::Prefer => through.ssl_mode(PgSslMode::Disable),
            _ => through,
        };
        through.to_url_lossy().to_string()
    }

    /// Removes it with everything in it.
    pub async fn drop_database(&self) -> Result<(), LogError> {
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.database);
        let dropped = async {
            sqlx::query(&drop)
                .execute(&mut self.server.connect().await?)
                .await
        };
        in_time(WHOLE_DATABASE, dropped).await.map(|_| ())
    }

    /// Takes the append's lock: until it is let go, no append commits.
    pub async fn hold_append_lock(&self) -> Result<Held, LogError> {
        within(async {
            let mut connection = self.own.connect().await?;
            sqlx::query("SELECT pg_advisory_lock($1)")
                .bind(APPEND_LOCK)
                .execute(&mut connection)
                .await?;
            Ok(Held(connection))
        })
        .await
    }

    /// Holds a snapshot of the whole log and a transaction that has written, on a table that nobody else uses.
    pub async fn hold_snapshot(&self) -> Result<Held, LogError> {
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
            Ok(Held(connection))
        })
        .await
    }

    /// The clients' ports of the back ends that wait for an advisory lock now, as this Postgres sees them.
    pub async fn waiting_for_the_append_lock(&self) -> Result<Vec<u16>, LogError> {
        within(async {
            let sql = "SELECT client_port FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock' \
                       AND wait_event = 'advisory' AND client_port IS NOT NULL";
            let mut connection = self.own.connect().await?;
            let ports: Vec<i32> = sqlx::query_scalar(sql).bind(&self.database).fetch_all(&mut connection).await?;
            Ok(ports.into_iter().filter_map(|port| u16::try_from(port).ok()).collect())
        })
        .await
    }

    /// Ends up to `most` of the servers' back ends, chosen by chance; answers how many.
    pub async fn end_back_ends(&self, most: u32) -> Result<usize, LogError> {
        within(async {
            let sql = "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE datname = $1 \
                       AND application_name <> $2 AND pid <> pg_backend_pid() ORDER BY random() LIMIT $3) AS chosen";
            let mut connection = self.own.connect().await?;
            let query = sqlx::query(sql).bind(&self.database).bind(NAME).bind(i64::from(most));
            Ok(query.fetch_all(&mut connection).await?.len())
        })
        .await
    }

    /// Whether it answers.
    pub async fn ping(&self) -> Result<(), LogError> {
        within(async { self.own.connect().await?.ping().await }).await
    }
}

/// Something held against the servers, until it is let go or the connection goes.
pub struct Held(PgConnection);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Held")
    }
}

impl Held {
    /// Lets go. A connection that is gone already has let go by itself.
    pub async fn let_go(self) {
        let _ = tokio::time::timeout(LIMIT, self.0.close()).await;
    }
}

async fn within<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, LogError> {
    in_time(LIMIT, work).await
}

async fn in_time<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, LogError> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(LogError::Away("it did not answer in time".into())),
    }
}

#[cfg(test)]
mod tests {
    use genie_events::{Event, Metadata, StreamId, StreamKind, account::AccountEvent};

    use super::*;
    use crate::{
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
        let tormented = Tormented::create(&url, &name).await.unwrap();
        store.target = Target::Postgres(tormented.url());
        let opened = store.open().await;
        let ada = store.register(&opened.log, "ada").await;
        assert_eq!(
            tormented.waiting_for_the_append_lock().await.unwrap(),
            [0; 0]
        );

        let held = tormented.hold_append_lock().await.unwrap();
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
        let log = opened.log.clone();
        let appended = tokio::spawn(async move { crate::testing::append(&log, append).await });
        while tormented
            .waiting_for_the_append_lock()
            .await
            .unwrap()
            .is_empty()
        {}
        assert!(
            tormented.end_back_ends(100).await.unwrap() > 0,
            "the one that waits, too"
        );
        held.let_go().await;
        assert_eq!(
            appended.await.unwrap().unwrap().last,
            2,
            "the same rows were appended again, and once"
        );
        assert_eq!(opened.log.rows(0, 10).await.unwrap().len(), 2);

        let snapshot = tormented.hold_snapshot().await.unwrap();
        snapshot.let_go().await;
        tormented.ping().await.unwrap();
        opened.log.store().close().await;
        tormented.drop_database().await.unwrap();
        assert!(tormented.ping().await.is_err());
    }
}
