//! Hints between the nodes of one Postgres: after each batch, one NOTIFY. It has a connection of its
//! own and is never part of the append, because at commit it takes a lock of the whole server.
//!
//! Invariant: a hint only wakes, and the head is read from the store. Anybody who may connect to the
//! database can send a hint. A slow poll makes up for lost hints.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx::{
    PgPool,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::warn;
use uuid::Uuid;

use crate::{log::stored_head, store::Store, tail_cache::Tail, writer::WriterEnd};

/// The channel's name in Postgres.
const CHANNEL: &str = "genie_head";
/// How often the table is polled when no hint comes. A server whose last look is a second old trusts
/// its memory of callers no longer.
const POLL: Duration = Duration::from_millis(250);
/// The shortest time between two hints, and between two looks at the head, however many hints come.
/// The next one covers everything appended meanwhile.
const SPACING: Duration = Duration::from_millis(1);
/// How often a process that sends hints checks whether another process listens.
const COMPANY: Duration = Duration::from_secs(5);
/// The message of a process that begins to listen.
const HELLO: &str = "hello ";
/// The connections' name, before the name of their process: at most 63 bytes with it.
const NAME: &str = "genie hints ";
/// The pause after a connection was lost.
const AWAY: Duration = Duration::from_millis(500);
/// The longest time for a hint.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends hints to other nodes and listens for theirs, on the current runtime for as long as the log
/// is open. `written` is the last position that this process appended. A hint from another process
/// wakes `hinted`.
pub(crate) fn start(
    pool: &PgPool,
    node: Uuid,
    hinted: Arc<Notify>,
    written: watch::Receiver<u64>,
    end: WriterEnd,
) {
    let me = format!("{NAME}{}", node.simple());
    let options = pool
        .connect_options()
        .as_ref()
        .clone()
        .application_name(&me);
    // Each hint is a transaction of its own. Its flush must not delay the appends' flushes.
    let options = options.options([("synchronous_commit", "off")]);
    // One connection sends and one listens.
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .acquire_timeout(PATIENCE)
        .max_lifetime(None)
        .idle_timeout(None);
    let hints = Arc::new(Hints {
        pool: pool.connect_lazy_with(options),
        me,
        company: AtomicU64::new(1),
    });
    tokio::spawn(send(Arc::clone(&hints), written));
    tokio::spawn(listen(hints, hinted, end));
}

struct Hints {
    pool: PgPool,
    /// The name of this process' connections.
    me: String,
    /// 0 when no other process listens: then nobody needs a hint. A process that begins to listen
    /// says so, which raises it.
    company: AtomicU64,
}

impl Hints {
    async fn notify(&self, what: &str) -> Result<(), sqlx::Error> {
        let hint = sqlx::query("SELECT pg_notify($1, $2)")
            .bind(CHANNEL)
            .bind(what)
            .execute(&self.pool);
        tokio::time::timeout(PATIENCE, hint)
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)?
            .map(drop)
    }

    async fn look_for_company(&self) -> Result<(), sqlx::Error> {
        let sql = "SELECT count(*) FROM pg_stat_activity \
             WHERE datname = current_database() AND starts_with(application_name, $1) AND application_name <> $2";
        let others = sqlx::query_scalar(sql)
            .bind(NAME)
            .bind(&self.me)
            .fetch_one(&self.pool);
        let before = self.company.load(Ordering::SeqCst);
        let others: i64 = tokio::time::timeout(PATIENCE, others)
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)??;
        if others == 0 {
            let _ = self
                .company
                // Unchanged when another process came meanwhile.
                .compare_exchange(before, 0, Ordering::SeqCst, Ordering::SeqCst);
        }
        Ok(())
    }
}

async fn send(hints: Arc<Hints>, mut written: watch::Receiver<u64>) {
    let mut looked: Option<Instant> = None;
    while written.changed().await.is_ok() {
        if hints.company.load(Ordering::SeqCst) == 0 {
            continue;
        }
        // The next hint, or the poll, makes up for a lost one.
        match hints.notify(&hints.me).await {
            Ok(()) => tokio::time::sleep(SPACING).await,
            Err(_) => tokio::time::sleep(AWAY).await,
        }
        if looked.is_none_or(|at| at.elapsed() > COMPANY) {
            // On an error another process is assumed to listen.
            let _ = hints.look_for_company().await;
            looked = Some(Instant::now());
        }
    }
    hints.pool.close().await;
}

async fn listen(hints: Arc<Hints>, hinted: Arc<Notify>, mut end: WriterEnd) {
    loop {
        tokio::select! {
            _ = listen_once(&hints, &hinted) => {}
            () = end.reached() => return,
        }
        tokio::time::sleep(AWAY).await;
    }
}

/// Runs until the connection is lost.
async fn listen_once(hints: &Hints, hinted: &Notify) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(&hints.pool).await?;
    listener.listen(CHANNEL).await?;
    // Another process may have come while this one did not listen.
    hints.company.fetch_add(1, Ordering::SeqCst);
    let hello = format!("{HELLO}{}", hints.me);
    hints.notify(&hello).await?;
    while let Some(hint) = listener.try_recv().await? {
        let payload = hint.payload();
        if payload == hints.me || payload == hello {
            continue; // The process knows its own appends.
        }
        if payload.starts_with(HELLO) {
            hints.company.fetch_add(1, Ordering::SeqCst);
        }
        hinted.notify_one();
    }
    Ok(())
}

/// Reads the head for as long as the log is open: after a hint, and at times to make up for lost
/// ones.
pub(crate) async fn read_head(
    store: Store,
    tail: Arc<Tail>,
    hinted: Arc<Notify>,
    mut end: WriterEnd,
) {
    let mut was_away = false;
    loop {
        tokio::time::sleep(SPACING).await;
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = hinted.notified() => {}
            () = end.reached() => return,
        }
        let known = *tail.watch_head().borrow();
        let began = Instant::now();
        match tokio::time::timeout(PATIENCE, stored_head(&store)).await {
            Ok(Ok(head)) if head < known => return tail.set_back(head),
            Ok(Ok(head)) => {
                tail.see_head(head, began);
                was_away = false;
            }
            _ if was_away => {}
            Ok(Err(error)) => {
                warn!(%error, "log: reading the head failed; trying again");
                was_away = true;
            }
            Err(_) => {
                warn!("log: reading the head took too long; trying again");
                was_away = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use crate::testing::{Kind, TestStore};

    /// Each append begins right after a new head was seen, so waiting for ten polls would take ten
    /// times as long as for one.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn another_process_sees_appends_sooner_than_its_poll_would() {
        let store = TestStore::new(Kind::Postgres).await;
        let (here, there) = (store.open().await.log, store.open().await.log);
        let mut head = there.reader().watch_head();
        for n in 1..=3 {
            store.register(&here, "until they have met").await;
            head.wait_for(|head| *head >= n).await.unwrap();
        }
        let started = Instant::now();
        for n in 4..14 {
            store.register(&here, "another").await;
            head.wait_for(|head| *head >= n).await.unwrap();
        }
        assert!(
            started.elapsed() < super::POLL * 5,
            "{:?}",
            started.elapsed()
        );
    }

    /// Anybody who may connect to the database may send a hint.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_forged_hint_moves_no_head() {
        let store = TestStore::new(Kind::Postgres).await;
        let (here, there) = (store.open().await.log, store.open().await.log);
        let mut head = there.reader().watch_head();
        for n in 1..=5 {
            for forged in ["999999", "0", "hello ", "hello genie hints x", ""] {
                store
                    .try_sql(&format!("SELECT pg_notify('genie_head', '{forged}')"))
                    .await
                    .unwrap();
            }
            store.register(&here, "ada").await;
            head.wait_for(|head| *head >= n).await.unwrap();
            assert_eq!(there.reader().head(), n);
        }
        let rows = there.reader().rows(0, 10).await.unwrap();
        assert_eq!(rows.len(), 5);
    }
}
