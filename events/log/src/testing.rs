//! A fresh real store for each test: an SQLite file in its own folder, or a database on the
//! Postgres that `GENIE_TEST_POSTGRES` names (`scripts/test` starts one).

#![allow(clippy::unwrap_used)] // Only tests link it, and a test without its store must stop.

use std::path::PathBuf;

use genie_events::{
    EmailAddress, Event, InviteCode, Metadata, Timestamp, TurnId, UserId,
    account::{AccountEvent, Registration},
    tier::Tier,
};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::{
    Append, AppendError, AppendRequest, Appended, Clock, Group, Log, MasterKeys, NewFact, Opened,
    Owner, Settings,
    store::{Store, Target},
};

pub mod bulk;

/// The way to append to any log.
pub fn appender(log: &Log) -> Append {
    Append::to(log)
}

/// Appends to any log.
pub async fn append(log: &Log, request: AppendRequest) -> Result<Appended, AppendError> {
    appender(log).append(request).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    /// A database on a real Postgres.
    Postgres,
}

/// A store for one test, deleted with it.
pub struct TestStore {
    pub kind: Kind,
    pub target: Target,
    /// Stands at 2026-11-01T00:00:00Z until it is moved.
    pub clock: Clock,
    masters: String,
    folder: TempDir,
}

impl TestStore {
    pub async fn new(kind: Kind) -> Self {
        let folder = TempDir::with_prefix("genie-test").unwrap();
        let target = match kind {
            Kind::Sqlite => Target::Sqlite(folder.path().join("genie.db")),
            Kind::Postgres => Target::Postgres(fresh_database().await),
        };
        let clock = Clock::manual(Timestamp::parse_rfc3339("2026-11-01T00:00:00Z").unwrap());
        Self {
            kind,
            target,
            clock,
            masters: MasterKeys::generate().to_string(),
            folder,
        }
    }

    /// A folder that is deleted with the store.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// `DATABASE_URL` for a server on this store; `None` for the embedded one.
    pub fn database_url(&self) -> Option<String> {
        match &self.target {
            Target::Sqlite(_) => None,
            Target::Postgres(url) => Some(url.clone()),
        }
    }

    /// The store's ring of master keys.
    pub fn masters(&self) -> &str {
        &self.masters
    }

    /// Opens the store with its own master key. A second call stands for another process.
    pub async fn open(&self) -> Opened {
        self.open_with(&self.masters).await.unwrap()
    }

    /// Opens the store with other master keys.
    pub async fn open_with(&self, masters: &str) -> Result<Opened, crate::LogError> {
        Log::open(Settings {
            masters: MasterKeys::parse(masters).unwrap(),
            ..self.settings()
        })
        .await
    }

    /// Opens the store read-only, as the command line does beside a server.
    pub async fn open_to_read(&self) -> Log {
        Log::open(Settings {
            read_only: true,
            ..self.settings()
        })
        .await
        .unwrap()
        .log
    }

    /// The settings, for a test that opens the store on its own runtime.
    pub fn settings(&self) -> Settings {
        let masters = MasterKeys::parse(&self.masters).unwrap();
        Settings {
            target: self.target.clone(),
            masters,
            clock: self.clock.clone(),
            read_only: false,
        }
    }

    /// Registers a user the short way: the first fact and the key.
    pub async fn register(&self, log: &Log, name: &str) -> UserId {
        self.register_with(log, name, Tier::Studio).await
    }

    /// The same in a tier.
    pub async fn register_with(&self, log: &Log, name: &str, tier: Tier) -> UserId {
        let user = UserId(self.clock.new_uuid());
        let mailbox = name.replace(' ', "-");
        let email = EmailAddress::read(&format!("{mailbox}@example.com")).unwrap();
        let (keys, work) = log.keys().new_for(user);
        let event = Event::Account(AccountEvent::Registered(Registration {
            email: email.written().to_owned(),
            email_id: log.hashes().email(&email),
            first_name: Some(name.into()),
            invite: log.hashes().invite(&InviteCode::made("i".into())),
            tier,
            role: "creator".into(),
            admin: false,
        }));
        let facts = vec![NewFact {
            stream: genie_events::StreamId::new(event.kind(), user),
            sequence: 1,
            event,
        }];
        let group = Group {
            owner: Owner::User(user),
            after: 0,
            facts,
            keys: Some(keys),
        };
        append(
            log,
            AppendRequest {
                groups: vec![group],
                work: vec![work],
                metadata: Metadata::system(),
                remember: None,
            },
        )
        .await
        .unwrap();
        user
    }

    /// Runs SQL as somebody with full rights would, with triggers off: tests damage a store by it.
    pub async fn tamper(&self, sql: &str) {
        match &self.target {
            Target::Sqlite(path) => {
                let url = format!("sqlite://{}", path.display());
                let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
                for statement in [
                    "DROP TRIGGER IF EXISTS events_no_update",
                    "DROP TRIGGER IF EXISTS events_no_delete",
                    sql,
                ] {
                    sqlx::query(statement)
                        .execute(&mut connection)
                        .await
                        .unwrap();
                }
            }
            Target::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                sqlx::query("DROP TRIGGER IF EXISTS events_append_only ON events")
                    .execute(&mut connection)
                    .await
                    .unwrap();
                sqlx::query(sql).execute(&mut connection).await.unwrap();
            }
        }
    }

    /// True when a word stands anywhere in the store unsealed.
    pub async fn holds(&self, word: &str) -> bool {
        let hex: String = word.bytes().map(|byte| format!("{byte:02x}")).collect();
        let bytes = self.bytes().await;
        let has = |word: &str| {
            bytes
                .windows(word.len())
                .any(|window| window == word.as_bytes())
        };
        has(word) || (self.kind == Kind::Postgres && has(&hex))
    }

    /// The whole content of the store: the bytes of SQLite's files, or every column of every row on
    /// Postgres as text, bytes in hexadecimal.
    pub async fn bytes(&self) -> Vec<u8> {
        match &self.target {
            Target::Sqlite(path) => {
                let file = |suffix| {
                    std::fs::read(format!("{}{suffix}", path.display())).unwrap_or_default()
                };
                ["", "-wal", "-shm", "-journal"].map(file).concat()
            }
            Target::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                let tables: Vec<String> = sqlx::query_scalar(
                    "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'",
                )
                .fetch_all(&mut connection)
                .await
                .unwrap();
                assert!(tables.len() > 10, "{tables:?}");
                let mut bytes = Vec::new();
                for table in tables {
                    let sql = format!("SELECT t::text FROM {table} t");
                    let rows: Vec<String> = sqlx::query_scalar(&sql)
                        .fetch_all(&mut connection)
                        .await
                        .unwrap();
                    bytes.extend(rows.join("\n").into_bytes());
                }
                bytes
            }
        }
    }

    /// Runs SQL with the store's own guards on.
    pub async fn try_sql(&self, sql: &str) -> Result<u64, sqlx::Error> {
        match &self.target {
            Target::Sqlite(path) => {
                let mut connection =
                    sqlx::SqliteConnection::connect(&format!("sqlite://{}", path.display()))
                        .await?;
                Ok(sqlx::query(sql)
                    .execute(&mut connection)
                    .await?
                    .rows_affected())
            }
            Target::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await?;
                Ok(sqlx::query(sql)
                    .execute(&mut connection)
                    .await?
                    .rows_affected())
            }
        }
    }
}

/// The store of a log, for tests of working tables.
pub fn store_of(log: &Log) -> &Store {
    log.store()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the Postgres to test on is named by the environment"
)]
async fn fresh_database() -> String {
    let base = std::env::var("GENIE_TEST_POSTGRES").expect(
        "GENIE_TEST_POSTGRES names the Postgres to test on, such as postgres://postgres@127.0.0.1:5432; scripts/test starts one",
    );
    let name = format!("genie_{}", Clock::system().new_uuid().simple());
    let mut connection = PgConnection::connect(&format!("{base}/postgres"))
        .await
        .unwrap();
    sqlx::query(&format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'"
    ))
    .execute(&mut connection)
    .await
    .unwrap();
    format!("{base}/{name}")
}

/// SQL for [`TestStore::tamper`] by which a node holds the lease of a turn.
pub fn turn_lease(turn: TurnId, user: UserId, holder: &str) -> String {
    format!(
        "INSERT INTO leases (kind, id, user_id, stream_id, holder, expires_at) \
         VALUES ('turn', '{turn}', '{user}', 's', '{holder}', 9000000000000000)"
    )
}

/// One test on both stores: `name::sqlite` and `name::postgres`.
#[macro_export]
macro_rules! both_stores {
    ($(#[$meta:meta])* $name:ident, $test:expr) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            async fn run(kind: $crate::testing::Kind) {
                let test = $test;
                test($crate::testing::TestStore::new(kind).await).await;
            }

            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                run($crate::testing::Kind::Sqlite).await;
            }

            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                run($crate::testing::Kind::Postgres).await;
            }
        }
    };
}
pub use both_stores;
