use std::time::Duration;

use genie_events::{Event, Metadata, StreamId, StreamKind, UserId, account::AccountEvent};
use sqlx::{Connection, PgConnection};

use super::*;
use crate::{
    AppendError, AppendRequest, Appended, Group, NewFact, Work,
    testing::{Kind, TestStore, both_stores},
};

/// The longest time without a leader.
const IN_TIME: Duration = Duration::from_secs(5);

async fn in_time<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(IN_TIME, wait)
        .await
        .expect("within five seconds")
}

async fn append(
    log: &Log,
    user: UserId,
    after: u64,
    epoch: Epoch,
) -> Result<Appended, AppendError> {
    let event = Event::Account(AccountEvent::SignedIn);
    let facts = vec![NewFact {
        stream: StreamId::new(StreamKind::Account, user),
        sequence: after + 1,
        event,
    }];
    let groups = vec![Group::of_user(user, after, facts)];
    crate::testing::append(
        log,
        AppendRequest {
            groups,
            work: vec![Work::OnlyInEpoch(epoch)],
            metadata: Metadata::system(),
            remember: None,
        },
    )
    .await
}

both_stores!(a_deposed_leader_writes_nothing, async |store: TestStore| {
    let (one, other) = (store.open().await.log, store.open().await.log);
    assert_eq!(one.elections().elected().await.unwrap(), None);
    let ada = store.register(&one, "ada").await;
    let mut election = one.elections().stand("one").await.unwrap();
    let first = in_time(election.elected()).await;
    assert_eq!(election.now(), Some(first));
    append(&one, ada, 1, first).await.unwrap();
    one.store()
        .relaxed_in(first)
        .await
        .unwrap()
        .commit()
        .await
        .unwrap();
    one.store()
        .durable_in(first)
        .await
        .unwrap()
        .commit()
        .await
        .unwrap();

    drop(election);
    let mut election = other.elections().stand("other").await.unwrap();
    let second = in_time(election.elected()).await;
    assert!(second > first);
    assert_eq!(
        one.elections().elected().await.unwrap(),
        Some(Elected {
            epoch: second,
            node: "other".into()
        })
    );
    assert!(matches!(
        one.store().relaxed_in(first).await,
        Err(LogError::Deposed)
    ));
    assert!(matches!(
        one.store().durable_in(first).await,
        Err(LogError::Deposed)
    ));
    assert!(matches!(
        append(&one, ada, 2, first).await,
        Err(AppendError::Deposed)
    ));
    assert_eq!(
        other.reader().rows(0, 10).await.unwrap().len(),
        2,
        "nothing was written"
    );
    append(&other, ada, 2, second).await.unwrap();
});

#[test]
fn a_term_is_over_when_no_heartbeat_came_in_time() {
    let now = Instant::now();
    let until = now + Duration::from_secs(2);
    let term = Term {
        epoch: Epoch(7),
        until: Some(until),
    };
    assert_eq!((term.at(now), term.at(until)), (Some(Epoch(7)), None));
    let for_ever = Term {
        epoch: Epoch(7),
        until: None,
    };
    assert_eq!(for_ever.at(until), Some(Epoch(7)));
}

/// Two nodes on one Postgres, and a connection to look into it.
struct Two {
    store: TestStore,
    one: Log,
    other: Log,
}

impl Two {
    async fn new() -> Self {
        let store = TestStore::new(Kind::Postgres).await;
        let (one, other) = (store.open().await.log, store.open().await.log);
        Self { store, one, other }
    }

    async fn connection(&self) -> PgConnection {
        PgConnection::connect(&self.store.database_url().unwrap())
            .await
            .unwrap()
    }

    /// Waits until a query answers true.
    async fn until(&self, condition: &str) {
        let mut connection = self.connection().await;
        let sql = format!("SELECT {condition}");
        in_time(async {
            while !sqlx::query_scalar::<_, bool>(&sql)
                .fetch_one(&mut connection)
                .await
                .unwrap()
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_nodes_is_elected_and_the_other_when_that_one_goes() {
    let two = Two::new().await;
    let mut one = two.one.elections().stand("one").await.unwrap();
    let mut other = two.other.elections().stand("other").await.unwrap();
    let (first, winner) = tokio::select! {
        first = one.elected() => (first, "one"),
        first = other.elected() => (first, "other"),
    };
    let (goes, mut stays) = if winner == "one" {
        (one, other)
    } else {
        (other, one)
    };
    // A heartbeat was sent, so the other node had time to try the lock again.
    two.until("renewed_at > elected_at FROM elections").await;
    assert_eq!((goes.now(), stays.now()), (Some(first), None));
    drop(goes);
    assert!(in_time(stays.elected()).await > first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_loses_its_connection_leads_again_only_after_an_election() {
    let two = Two::new().await;
    let mut election = two.one.elections().stand("one").await.unwrap();
    let first = in_time(election.elected()).await;
    two.until("pg_terminate_backend(backend::int) FROM elections")
        .await;
    let second = in_time(election.elected_again(first)).await;
    assert_eq!(second.number(), first.number() + 1);
}

/// A stopped process holds its connections and sends nothing. Here they are connections that nobody
/// uses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_stopped_in_the_middle_of_a_transaction_is_deposed_in_time() {
    let two = Two::new().await;
    let (mut held, mut in_the_middle) = (two.connection().await, two.connection().await);
    let won: bool = sqlx::query_scalar("SELECT won FROM try_election(0)")
        .fetch_one(&mut held)
        .await
        .unwrap();
    assert!(won);
    let epoch: i64 = sqlx::query_scalar("SELECT raise_epoch('stopped', 100)")
        .fetch_one(&mut held)
        .await
        .unwrap();
    let mut tx = in_the_middle.begin().await.unwrap();
    let in_office: bool = sqlx::query_scalar("SELECT in_office($1)")
        .bind(epoch)
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    assert!(in_office);
    sqlx::query("INSERT INTO checkpoints (name, position) VALUES ('late', 1)")
        .execute(&mut *tx)
        .await
        .unwrap();

    let mut election = two.other.elections().stand("other").await.unwrap();
    let next = in_time(election.elected()).await;
    assert_eq!(next.number(), epoch + 1);
    tx.commit().await.unwrap_err();
    two.until("NOT EXISTS (SELECT FROM checkpoints WHERE name = 'late')")
        .await;
    sqlx::query("SELECT 1")
        .execute(&mut held)
        .await
        .unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_transactions_of_the_leader_delay_an_election_but_no_heartbeat() {
    let two = Two::new().await;
    let mut election = two.one.elections().stand("one").await.unwrap();
    let epoch = in_time(election.elected()).await;
    let tx = two.one.store().relaxed_in(epoch).await.unwrap();
    let beside = two.one.store().relaxed_in(epoch).await.unwrap();
    two.until("renewed_at > elected_at FROM elections").await;
    assert_eq!(election.now(), Some(epoch));

    let mut candidate = two.connection().await;
    let raising = tokio::spawn(async move {
        sqlx::query_scalar::<_, i64>("SELECT raise_epoch('candidate', 4000)")
            .fetch_one(&mut candidate)
            .await
            .unwrap()
    });
    two.until("EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 7340993 AND NOT granted)").await;
    assert!(!raising.is_finished());
    beside.commit().await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(in_time(raising).await.unwrap(), epoch.number() + 1);
    assert!(matches!(
        two.one.store().relaxed_in(epoch).await,
        Err(LogError::Deposed)
    ));
    assert!(
        in_time(election.elected_again(epoch)).await.number() > epoch.number() + 1,
        "the node noticed, and stood again"
    );
}
