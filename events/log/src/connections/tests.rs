use std::{
    str::FromStr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use sqlx::Row;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    task::JoinSet,
};

use super::*;
use crate::{
    LogError,
    store::{Store, Target},
    testing::{Kind, TestStore, both_stores},
};

/// Stands between genie and Postgres, counts what genie sends, and can fall silent.
struct Relay {
    port: u16,
    /// Messages that ask for an answer: `Sync` and simple queries.
    asked: AtomicUsize,
    /// Connections made so far.
    connections: AtomicUsize,
    /// Connections up to this number pass nothing on.
    silent_up_to: AtomicUsize,
    refuses: AtomicBool,
}

impl Relay {
    /// A relay to the server of a URL, and the URL through the relay.
    async fn start(url: &str) -> (Arc<Self>, String) {
        let options = sqlx::postgres::PgConnectOptions::from_str(url).unwrap();
        let server = (options.get_host().to_owned(), options.get_port());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let relay = Arc::new(Self {
            port,
            asked: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            silent_up_to: AtomicUsize::new(0),
            refuses: AtomicBool::new(false),
        });
        let here = Arc::clone(&relay);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if here.refuses.load(Ordering::SeqCst) {
                    continue;
                }
                let number = here.connections.fetch_add(1, Ordering::SeqCst) + 1;
                let server = TcpStream::connect((server.0.as_str(), server.1)).await;
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.unwrap().into_split();
                tokio::spawn(Arc::clone(&here).pass(number, from_client, to_server, true));
                tokio::spawn(Arc::clone(&here).pass(number, from_server, to_client, false));
            }
        });
        let through = url.replace(
            &format!("{}:{}", options.get_host(), options.get_port()),
            &format!("127.0.0.1:{port}"),
        );
        assert!(through.contains(&relay.port.to_string()), "{through}");
        (relay, through)
    }

    async fn pass(
        self: Arc<Self>,
        number: usize,
        mut from: OwnedReadHalf,
        mut to: tokio::net::tcp::OwnedWriteHalf,
        is_client: bool,
    ) {
        let mut began = false;
        let mut bytes = vec![0; 65_536];
        let mut seen = Vec::new();
        while let Ok(n @ 1..) = from.read(&mut bytes).await {
            if is_client {
                seen.extend_from_slice(&bytes[..n]);
                self.count(&mut seen, &mut began);
            }
            while number <= self.silent_up_to.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            if to.write_all(&bytes[..n]).await.is_err() {
                return;
            }
        }
    }

    /// Counts the whole messages at the beginning of `seen`, and removes them. The first one of a
    /// connection has no letter.
    fn count(&self, seen: &mut Vec<u8>, began: &mut bool) {
        loop {
            let letter = usize::from(*began);
            let Some(length) = seen.get(letter..letter + 4) else {
                return;
            };
            let length = u32::from_be_bytes(length.try_into().unwrap()) as usize + letter;
            if seen.len() < length {
                return;
            }
            if *began && matches!(seen[0], b'S' | b'Q') {
                self.asked.fetch_add(1, Ordering::SeqCst);
            }
            // A request for TLS comes before the first message, and has no letter either.
            *began = *began || length != 8;
            seen.drain(..length);
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// The pools of a store alone, without the tasks of a log.
async fn pools(store: &TestStore) -> (Arc<Relay>, Store) {
    drop(store.open().await); // makes the schema
    let (relay, url) = Relay::start(&store.database_url().unwrap()).await;
    let pools = Store::open(&Target::Postgres(url), true).await.unwrap();
    (relay, pools)
}

async fn one(pools: &Store) -> Result<i64, LogError> {
    let row = sqlx::query("SELECT CAST($1 AS bigint) AS n")
        .bind(7_i64)
        .fetch_one(pools.reads())
        .await?;
    Ok(row.try_get("n")?)
}

/// Opens every connection of the pool of reads.
async fn open_all(pools: &Store) {
    let mut reads = JoinSet::new();
    for _ in 0..16 {
        let pools = pools.clone();
        reads.spawn(async move {
            sqlx::query("SELECT pg_sleep(0.2)")
                .execute(pools.reads())
                .await
                .unwrap();
        });
    }
    reads.join_all().await;
}

#[tokio::test]
async fn a_read_asks_once_and_a_transaction_asks_for_nothing_beside_its_statements() {
    let store = TestStore::new(Kind::Postgres).await;
    let (relay, pools) = pools(&store).await;
    one(&pools).await.unwrap();
    let before = relay.asked();
    for _ in 0..10 {
        assert_eq!(one(&pools).await.unwrap(), 7);
    }
    assert_eq!(relay.asked() - before, 10);
    let write = async || {
        let mut tx = pools.relaxed().await.unwrap();
        let sql = "UPDATE checkpoints SET position = position WHERE name = 'none'";
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    };
    write().await;
    let before = relay.asked();
    for _ in 0..10 {
        write().await;
    }
    assert_eq!(relay.asked() - before, 30, "BEGIN, UPDATE, COMMIT");
}

#[tokio::test]
async fn no_request_fails_after_all_sessions_were_ended() {
    let store = TestStore::new(Kind::Postgres).await;
    let (_relay, pools) = pools(&store).await;
    open_all(&pools).await;
    pools.durable().await.unwrap().commit().await.unwrap();
    pools.relaxed().await.unwrap().commit().await.unwrap();
    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()";
    store.try_sql(others).await.unwrap();
    for _ in 0..20 {
        assert_eq!(one(&pools).await.unwrap(), 7);
    }
    pools.durable().await.unwrap().commit().await.unwrap();
    pools.relaxed().await.unwrap().commit().await.unwrap();
}

/// The server's machine lost its power: nothing comes back, not even an error.
#[tokio::test]
async fn no_request_fails_after_the_server_vanished_without_a_word_and_came_back() {
    let store = TestStore::new(Kind::Postgres).await;
    let (relay, pools) = pools(&store).await;
    open_all(&pools).await;
    pools.durable().await.unwrap().commit().await.unwrap();
    let made = relay.connections.load(Ordering::SeqCst);
    relay.silent_up_to.store(made, Ordering::SeqCst);
    for idle in &mut *pools.reads().0.idle.lock() {
        idle.since -= RESTED * 2;
    }
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(one(&pools).await.unwrap(), 7);
    }
    assert!(
        began.elapsed() < ANSWER_AFTER_REST * 2,
        "only the first one waits: {:?}",
        began.elapsed()
    );
    pools.durable().await.unwrap().commit().await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_away_is_an_error_and_one_that_is_back_is_used_at_once() {
    let store = TestStore::new(Kind::Postgres).await;
    let (relay, pools) = pools(&store).await;
    open_all(&pools).await;
    relay.refuses.store(true, Ordering::SeqCst);
    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()";
    store.try_sql(others).await.unwrap();
    assert!(matches!(one(&pools).await, Err(LogError::Away(_))));
    relay.refuses.store(false, Ordering::SeqCst);
    assert_eq!(one(&pools).await.unwrap(), 7);
}

both_stores!(
    an_abandoned_transaction_is_undone_and_its_connection_is_lent_again,
    async |store: TestStore| {
        let log = store.open().await.log;
        let positions = async || -> i64 {
            let sql = "SELECT count(*) FROM checkpoints WHERE name = 'mine'";
            sqlx::query_scalar(sql)
                .fetch_one(log.store().reads())
                .await
                .unwrap()
        };
        for n in 0..20 {
            let mut tx = log.store().relaxed().await.unwrap();
            sqlx::query("INSERT INTO checkpoints (name, position) VALUES ('mine', $1)")
                .bind(n)
                .execute(&mut *tx)
                .await
                .unwrap();
        }
        assert_eq!(positions().await, 0);
        let mut tx = log.store().relaxed().await.unwrap();
        let refused = sqlx::query("INSERT INTO checkpoints (name) VALUES (NULL)");
        refused.execute(&mut *tx).await.unwrap_err();
        drop(tx);
        let tx = log.store().relaxed().await.unwrap();
        tx.commit().await.unwrap();
    }
);

both_stores!(
    a_closed_store_is_not_taken_for_one_that_is_away,
    async |store: TestStore| {
        let pools = store.open().await.log.store().clone();
        assert_eq!(one(&pools).await.unwrap(), 7);
        pools.close().await;
        let moment = Duration::from_millis(200);
        assert!(timeout(moment, one(&pools)).await.is_err());
        assert!(timeout(moment, pools.relaxed()).await.is_err());
    }
);
