//! The state of the store: whether it takes writes. The writer reports what it meets. While the
//! store is in trouble, a probe finds out when it is over, so that nobody has to send a command or
//! restart.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::watch;
use tracing::{info, warn};

use crate::store::{LONGEST, Writing};

/// How often a store in trouble is probed.
const PROBE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Away,
    /// The store answers but takes no writes: it is a standby, or its operator made it read-only.
    ReadOnly,
    Full,
}

impl Trouble {
    /// The word that operators see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::ReadOnly => "read-only",
            Self::Full => "full",
        }
    }

    /// The trouble behind an error; `None` when the same statement would fail again.
    ///
    /// Postgres: SQLSTATE 25006 (read-only), 53100 (disk full), classes 08 (connection), 53 (resources), 57P0x (shutdown),
    /// 40 (rolled back), and 25P03 (a transaction left open), 55P03 (lock), 57014 (time-out). SQLite: READONLY, FULL, BUSY, LOCKED, IOERR, CANTOPEN.
    pub fn of(error: &sqlx::Error) -> Option<Self> {
        match error {
            sqlx::Error::Database(database) => of_code(&database.code().unwrap_or_default()),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Some(Self::Away),
            _ => None,
        }
    }
}

fn of_code(code: &str) -> Option<Trouble> {
    // SQLite's codes are short numbers with the primary code in the lowest byte; an SQLSTATE has
    // five characters.
    if let (Ok(number), 1..=4) = (code.parse::<u32>(), code.len()) {
        return match number & 0xff {
            8 => Some(Trouble::ReadOnly),
            13 => Some(Trouble::Full),
            5 | 6 | 10 | 14 => Some(Trouble::Away),
            _ => None,
        };
    }
    match code {
        "25006" => Some(Trouble::ReadOnly),
        "53100" => Some(Trouble::Full),
        "25P03" | "55P03" | "57014" => Some(Trouble::Away),
        _ => ["08", "53", "57P0", "40"]
            .iter()
            .any(|class| code.starts_with(class))
            .then_some(Trouble::Away),
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Health(Arc<watch::Sender<Option<Trouble>>>);

impl Health {
    /// A healthy store, and a probe for when it is not. The probe runs on the current runtime for
    /// as long as the log is open.
    pub fn start(writing: Writing) -> Self {
        let known = Arc::new(watch::Sender::new(None));
        tokio::spawn(probe(Arc::downgrade(&known), known.subscribe(), writing));
        Self(known)
    }

    /// Takes the writer's report.
    pub fn tell(&self, trouble: Option<Trouble>) {
        tell(&self.0, trouble);
    }

    /// Why the store takes no writes now; `None` when it does, as far as is known.
    pub fn trouble(&self) -> Option<Trouble> {
        *self.0.borrow()
    }
}

fn tell(health: &watch::Sender<Option<Trouble>>, trouble: Option<Trouble>) {
    health.send_if_modified(|known| {
        let is_news = *known != trouble;
        match trouble {
            Some(trouble) if is_news => warn!(
                state = trouble.as_str(),
                "store: takes no writes; looking again each second"
            ),
            None if is_news => info!("store: takes writes again"),
            _ => {}
        }
        *known = trouble;
        is_news
    });
}

/// While the store is in trouble, tries to write until it succeeds.
async fn probe(
    health: Weak<watch::Sender<Option<Trouble>>>,
    mut known: watch::Receiver<Option<Trouble>>,
    writing: Writing,
) {
    while known.wait_for(Option::is_some).await.is_ok() {
        tokio::time::sleep(PROBE).await;
        let wrote = tokio::time::timeout(LONGEST, write(&writing)).await;
        let Some(health) = health.upgrade() else {
            return;
        };
        match wrote {
            Ok(Ok(())) => tell(&health, None),
            Ok(Err(error)) => tell(&health, Some(Trouble::of(&error).unwrap_or(Trouble::Away))),
            Err(_) => tell(&health, Some(Trouble::Away)),
        }
    }
}

async fn write(writing: &Writing) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO checkpoints (name, position) VALUES ('store.probe', 1) \
         ON CONFLICT (name) DO UPDATE SET position = checkpoints.position + 1";
    match writing {
        Writing::Sqlite(pool, turns) => {
            let _turn = turns.next().await?;
            sqlx::query(sql).execute(pool).await.map(drop)
        }
        Writing::Postgres(pool) => {
            let mut connection = pool.acquire().await?;
            let wrote = sqlx::query(sql).execute(&mut *connection).await.map(drop);
            if wrote.is_err() {
                // A session may be read-only although its server no longer is.
                connection.close_on_drop();
            }
            wrote
        }
    }
}

#[cfg(test)]
mod tests {
    use genie_events::{Event, Metadata, StreamId, StreamKind, account::AccountEvent};
    use sqlx::{ConnectOptions, Connection, SqliteConnection, postgres::PgConnectOptions};

    use super::*;
    use crate::{
        AppendError, AppendRequest, Group, NewFact,
        testing::{Kind, TestStore},
    };

    #[test]
    fn codes_name_the_trouble() {
        for (code, trouble) in [
            ("25006", Some(Trouble::ReadOnly)),
            ("53100", Some(Trouble::Full)),
            ("53300", Some(Trouble::Away)),
            ("57P01", Some(Trouble::Away)),
            ("57014", Some(Trouble::Away)),
            ("08006", Some(Trouble::Away)),
            ("23505", None),
            ("8", Some(Trouble::ReadOnly)),
            ("1032", Some(Trouble::ReadOnly)),
            ("13", Some(Trouble::Full)),
            ("5", Some(Trouble::Away)),
            ("778", Some(Trouble::Away)),
            ("2067", None),
        ] {
            assert_eq!(of_code(code), trouble, "{code}");
        }
    }

    #[tokio::test]
    async fn a_full_sqlite_differs_from_one_that_is_away() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        for sql in ["CREATE TABLE t (x)", "PRAGMA max_page_count = 3"] {
            sqlx::query(sql).execute(&mut connection).await.unwrap();
        }
        let full = sqlx::query("INSERT INTO t VALUES (randomblob(100000))")
            .execute(&mut connection)
            .await
            .unwrap_err();
        assert_eq!(Trouble::of(&full), Some(Trouble::Full));
    }

    /// Only Postgres: a standby or an operator can make it read-only. SQLite's file cannot be made
    /// read-only under an open writer.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_read_only_store_is_recognised_and_recovered_from_without_a_command() {
        let store = TestStore::new(Kind::Postgres).await;
        let log = store.open().await.log;
        let ada = store.register(&log, "ada").await;
        let sign_in = |after| {
            let event = Event::Account(AccountEvent::SignedIn);
            let fact = NewFact {
                stream: StreamId::new(StreamKind::Account, ada),
                sequence: after + 1,
                event,
            };
            let groups = vec![Group::of_user(ada, after, vec![fact])];
            crate::testing::append(
                &log,
                AppendRequest {
                    groups,
                    work: vec![],
                    metadata: Metadata::system(),
                    remember: None,
                },
            )
        };
        let name: String = store
            .database_url()
            .unwrap()
            .rsplit_once('/')
            .unwrap()
            .1
            .to_owned();
        let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()";
        store
            .try_sql(&format!(
                "ALTER DATABASE {name} SET default_transaction_read_only = on"
            ))
            .await
            .unwrap();
        store.try_sql(others).await.unwrap();
        assert!(matches!(sign_in(1).await, Err(AppendError::Unknown(_))));
        assert_eq!(log.trouble(), Some(Trouble::ReadOnly));
        let options: PgConnectOptions = store.database_url().unwrap().parse().unwrap();
        let mut operator = options
            .options([("default_transaction_read_only", "off")])
            .connect()
            .await
            .unwrap();
        let reset = format!("ALTER DATABASE {name} RESET default_transaction_read_only");
        sqlx::query(&reset).execute(&mut operator).await.unwrap();
        while log.trouble().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(sign_in(1).await.unwrap().last, 2);
    }
}
