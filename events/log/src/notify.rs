//! Hints between the nodes of one Postgres: after each batch, one NOTIFY with the head, on a connection of its own and never in
//! the append (at commit it takes a lock of the whole server). A hint only wakes; a slow poll is the net under it.

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
use tokio::{sync::watch, time::Instant};
use tracing::warn;
use uuid::Uuid;

use crate::{log::stored_head, store::Store, tail_cache::Tail};

/// As Postgres knows it.
const CHANNEL: &str = "genie_head";
/// The net: how often the table is looked at when no hint comes.
const POLL: Duration = Duration::from_secs(1);
/// The shortest time between two hints; what is appended meanwhile goes with the next.
const SPACING: Duration = Duration::from_millis(1);
/// How often a process that sends hints looks whether anybody is left to be told.
const COMPANY: Duration = Duration::from_secs(5);
/// What a process says when it begins to listen.
const HELLO: &str = "hello ";
/// What the connections are called, before the name of their process: at most 63 bytes with it.
const NAME: &str = "genie hints ";
/// Pause after a connection was lost.
const AWAY: Duration = Duration::from_millis(500);
/// How long a hint may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends hints to other nodes and listens for theirs, on the current runtime for as long as the log is open.
/// `written` is the last position that this process appended.
pub(crate) fn start(pool: &PgPool, node: Uuid, tail: &Arc<Tail>, written: watch::Receiver<u64>) {
    let me = format!("{NAME}{}", node.simple());
    let options = pool
        .connect_options()
        .as_ref()
        .clone()
        .application_name(&me);
    // A hint has a transaction of its own, which must not make the appends' flushes wait for its own.
    let options = options.options([("synchronous_commit", "off")]);
    // One that sends and one that listens.
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
    tokio::spawn(send(Arc::clone(&hints), written.clone()));
    tokio::spawn(listen(hints, Arc::clone(tail), written));
}

struct Hints {
    pool: PgPool,
    /// What this process' connections are called.
    me: String,
    /// 0 when no other process listens: then nobody needs a hint. Whoever begins to listen says so, which raises it.
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
                .compare_exchange(before, 0, Ordering::SeqCst, Ordering::SeqCst); // else somebody came meanwhile
        }
        Ok(())
    }
}

async fn send(hints: Arc<Hints>, mut written: watch::Receiver<u64>) {
    let mut looked: Option<Instant> = None;
    while written.changed().await.is_ok() {
        let head = written.borrow_and_update().to_string();
        if hints.company.load(Ordering::SeqCst) == 0 {
            continue;
        }
        // One that is lost is made up for by the next, or by the net.
        match hints.notify(&head).await {
            Ok(()) => tokio::time::sleep(SPACING).await,
            Err(_) => tokio::time::sleep(AWAY).await,
        }
        if looked.is_none_or(|at| at.elapsed() > COMPANY) {
            let _ = hints.look_for_company().await; // else it is supposed to be there
            looked = Some(Instant::now());
        }
    }
    hints.pool.close().await;
}

async fn listen(hints: Arc<Hints>, tail: Arc<Tail>, mut written: watch::Receiver<u64>) {
    loop {
        tokio::select! {
            _ = listen_once(&hints, &tail) => {}
            () = closed(&mut written) => return,
        }
        tokio::time::sleep(AWAY).await;
    }
}

/// Until the connection is lost.
async fn listen_once(hints: &Hints, tail: &Tail) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(&hints.pool).await?;
    listener.listen(CHANNEL).await?;
    hints.company.fetch_add(1, Ordering::SeqCst); // whoever came while nothing was heard
    let hello = format!("{HELLO}{}", hints.me);
    hints.notify(&hello).await?;
    while let Some(hint) = listener.try_recv().await? {
        if let Ok(head) = hint.payload().parse() {
            tail.raise_head(head);
        } else if hint.payload().starts_with(HELLO) && hint.payload() != hello {
            hints.company.fetch_add(1, Ordering::SeqCst);
        }
    }
    Ok(())
}

/// The net: looks for what no hint told, for as long as the log is open.
pub(crate) async fn poll(store: Store, tail: Arc<Tail>, mut written: watch::Receiver<u64>) {
    let mut was_away = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = closed(&mut written) => return,
        }
        let known = *tail.watch_head().borrow();
        match tokio::time::timeout(PATIENCE, stored_head(&store)).await {
            Ok(Ok(head)) if head < known => return tail.set_back(head),
            Ok(Ok(head)) => {
                tail.raise_head(head);
                was_away = false;
            }
            _ if was_away => {}
            Ok(Err(error)) => {
                warn!(%error, "the head of the log can't be read; trying on");
                was_away = true;
            }
            Err(_) => {
                warn!("the head of the log can't be read in time; trying on");
                was_away = true;
            }
        }
    }
}

/// Ends when the writer is gone, and with it the log.
async fn closed(written: &mut watch::Receiver<u64>) {
    while written.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use crate::testing::{Kind, TestStore};

    /// Each append begins right after a look at the head, so that ten polls would take ten times as long as one.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn another_process_sees_appends_sooner_than_its_poll_would() {
        let store = TestStore::new(Kind::Postgres).await;
        let (here, there) = (store.open().await.log, store.open().await.log);
        let mut head = there.watch_head();
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
}
