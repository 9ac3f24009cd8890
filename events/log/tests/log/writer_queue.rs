//! The bound of the writer's queue in bytes.

use std::time::Duration;

use genie_events::{
    EmailAddress, Event, Metadata, StreamId, StreamKind, UserId, email::EmailEvent,
};
use genie_log::{
    AppendError, AppendRequest, Appended, Group, Log, StoreTransaction, Work,
    secrets::SecretRow,
    testing::{Kind, TestStore, both_stores},
};
use sqlx::{Connection, Executor, PgConnection};

/// The lock that every append on Postgres takes.
const APPEND_LOCK: i64 = 7_340_991;
/// With the rest of its append, 127 of these fit into the queue's 128 MiB.
const SECRET_BYTES: usize = 1 << 20;
const FIT: usize = 127;
const ASKED: usize = 140;

/// Keeps every append from being written.
enum Stall {
    Sqlite(StoreTransaction),
    Postgres(PgConnection),
}

impl Stall {
    async fn of(store: &TestStore, log: &Log) -> Self {
        match store.kind {
            Kind::Sqlite => Self::Sqlite(log.store().durable().await.unwrap()),
            Kind::Postgres => {
                let url = store.database_url().unwrap();
                let mut other = PgConnection::connect(&url).await.unwrap();
                let lock = format!("SELECT pg_advisory_lock({APPEND_LOCK})");
                other.execute(lock.as_str()).await.unwrap();
                Self::Postgres(other)
            }
        }
    }

    async fn end(self) {
        match self {
            Self::Sqlite(tx) => tx.rollback().await.unwrap(),
            Self::Postgres(other) => other.close().await.unwrap(),
        }
    }
}

fn stream(log: &Log, n: usize) -> StreamId {
    let address = EmailAddress::read(&format!("{n}@example.com")).unwrap();
    StreamId::new(StreamKind::Email, log.hashes().email(&address))
}

/// Appends a fact of an owner of its own, with a large secret.
async fn append(log: &Log, n: usize) -> Result<Appended, AppendError> {
    let user = UserId(uuid::Uuid::from_u128(n as u128 + 1));
    let claimed = Event::Email(EmailEvent::Claimed { user });
    let secret = SecretRow::Put {
        user,
        secret_id: format!("secret-{n}"),
        version: 1,
        sealed: vec![0; SECRET_BYTES],
    };
    let request = AppendRequest {
        groups: vec![Group::of_system(&stream(log, n), 0, vec![claimed])],
        work: vec![Work::Secret(secret)],
        metadata: Metadata::system(),
        remember: None,
    };
    genie_log::testing::append(log, request).await
}

async fn is_written(log: &Log, n: usize) -> (bool, bool) {
    let fact = log
        .reader()
        .newest_of_system(&stream(log, n))
        .await
        .unwrap();
    let sql = "SELECT 1 FROM secrets WHERE secret_id = $1";
    let secret = sqlx::query(sql)
        .bind(format!("secret-{n}"))
        .fetch_optional(log.store().reads());
    (fact.is_some(), secret.await.unwrap().is_some())
}

both_stores!(
    appends_past_128_mebibytes_are_refused_and_change_nothing,
    async |store: TestStore| {
        let log = store.open().await.log;
        let stall = Stall::of(&store, &log).await;
        let asked: Vec<_> = (0..ASKED)
            .map(|n| {
                let log = log.clone();
                tokio::spawn(async move { append(&log, n).await })
            })
            .collect();
        // Nothing can be written, so only a refusal ends a task.
        let refused = async {
            while asked.iter().filter(|one| one.is_finished()).count() < ASKED - FIT {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(6), refused)
            .await
            .expect("the queue is bounded");
        stall.end().await;

        let mut refused = Vec::new();
        for (n, answer) in asked.into_iter().enumerate() {
            match answer.await.unwrap() {
                Ok(_) => assert_eq!(is_written(&log, n).await, (true, true), "{n}"),
                Err(AppendError::Overloaded) => refused.push(n),
                Err(AppendError::Unknown(_)) => {} // it waited too long
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(refused.len(), ASKED - FIT);
        for n in &refused {
            assert_eq!(is_written(&log, *n).await, (false, false), "{n}");
        }
        // The bytes of what has ended are free again.
        append(&log, refused[0]).await.unwrap();
        assert_eq!(is_written(&log, refused[0]).await, (true, true));
    }
);
