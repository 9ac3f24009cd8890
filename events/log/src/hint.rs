//! Hints between the nodes of one Postgres: after each batch, one NOTIFY with the head, on a connection of its own and never in
//! the append (at commit it takes a lock of the whole server). A hint only wakes; a slow poll is the net under it.

use std::{sync::Arc, time::Duration};

use sqlx::{
    PgPool,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::{sync::watch, time::Instant};
use tracing::warn;
use uuid::Uuid;

use crate::{log::stored_head, store::Store, tail::Tail};

/// As Postgres knows it.
const CHANNEL: &str = "genie_head";
/// The net: how often the table is looked at when no hint comes.
const POLL: Duration = Duration::from_secs(1);
/// The shortest time between two hints; what is appended meanwhile goes with the next.
const SPACING: Duration = Duration::from_millis(3);
/// How often a process that appends looks whether there is another to be told; one that came meanwhile has the net.
const COMPANY: Duration = Duration::from_secs(1);
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
    let options = pool.connect_options().as_ref().clone().application_name(&me);
    // A hint has a transaction of its own, which must not make the appends' flushes wait for its own.
    let options = options.options([("synchronous_commit", "off")]);
    // One that sends and one that listens.
    let hints = PgPoolOptions::new().max_connections(2).acquire_timeout(PATIENCE).max_lifetime(None).idle_timeout(None);
    let hints = hints.connect_lazy_with(options);
    tokio::spawn(send(hints.clone(), me, written.clone()));
    tokio::spawn(listen(hints, Arc::clone(tail), written));
}

async fn send(hints: PgPool, me: String, mut written: watch::Receiver<u64>) {
    let mut asked: Option<Instant> = None;
    let mut is_alone = false;
    while written.changed().await.is_ok() {
        if asked.is_none_or(|at| at.elapsed() > COMPANY) {
            is_alone = tokio::time::timeout(PATIENCE, nobody_else(&hints, &me)).await.is_ok_and(|alone| alone.unwrap_or(false));
            asked = Some(Instant::now());
        }
        let head = written.borrow_and_update().to_string();
        if is_alone {
            continue;
        }
        let hint = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(head).execute(&hints);
        // One that is lost is made up for by the next, or by the net.
        match tokio::time::timeout(PATIENCE, hint).await {
            Ok(Ok(_)) => tokio::time::sleep(SPACING).await,
            _ => tokio::time::sleep(AWAY).await,
        }
    }
    hints.close().await;
}

/// Whether no other process listens: then nobody needs a hint.
async fn nobody_else(hints: &PgPool, me: &str) -> Result<bool, sqlx::Error> {
    let sql = "SELECT count(*) FROM pg_stat_activity \
         WHERE datname = current_database() AND starts_with(application_name, $1) AND application_name <> $2";
    let others: i64 = sqlx::query_scalar(sql).bind(NAME).bind(me).fetch_one(hints).await?;
    Ok(others == 0)
}

async fn listen(hints: PgPool, tail: Arc<Tail>, mut written: watch::Receiver<u64>) {
    loop {
        tokio::select! {
            () = listen_once(&hints, &tail) => {}
            () = closed(&mut written) => return,
        }
        tokio::time::sleep(AWAY).await;
    }
}

/// Until the connection is lost.
async fn listen_once(hints: &PgPool, tail: &Tail) {
    let Ok(mut listener) = PgListener::connect_with(hints).await else { return };
    if listener.listen(CHANNEL).await.is_err() {
        return;
    }
    while let Ok(Some(hint)) = listener.try_recv().await {
        if let Ok(head) = hint.payload().parse() {
            tail.raise_head(head);
        }
    }
}

/// The net: looks for what no hint told, for as long as the log is open.
pub(crate) async fn poll(store: Store, tail: Arc<Tail>, mut written: watch::Receiver<u64>) {
    let mut was_away = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = closed(&mut written) => return,
        }
        match tokio::time::timeout(PATIENCE, stored_head(&store)).await {
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
        tokio::time::sleep(super::COMPANY + super::POLL).await; // until they have met
        for n in 1..=3 {
            store.register(&here, "first").await;
            head.wait_for(|head| *head >= n).await.unwrap();
        }
        let started = Instant::now();
        for n in 4..14 {
            store.register(&here, "another").await;
            head.wait_for(|head| *head >= n).await.unwrap();
        }
        assert!(started.elapsed() < super::POLL * 5, "{:?}", started.elapsed());
    }
}
