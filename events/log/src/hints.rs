//! Hints between processes on one Postgres: who has appended tells the others that there is more, so that they need not wait for
//! their next poll. A hint says nothing else and may get lost: what is read is the table, and the poll is the net.
//!
//! Never inside the append: NOTIFY takes a lock of the whole server when its transaction commits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

const CHANNEL: &str = "genie_head";
/// The least time between two hints of a process: what is appended meanwhile is told by the next.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a hint may take to be given; one that takes longer would say nothing that the poll does not.
const GIVING: Duration = Duration::from_secs(1);
/// Pause before listening again after the connection was lost.
const AWAY: Duration = Duration::from_secs(1);

/// This process' part in the hints; over when it goes.
pub(crate) struct Hints {
    heard: Arc<Notify>,
    /// The head as last raised by what others appended, who need not be told.
    read: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Hints {
    /// Starts telling others whenever `head` rises by this process' own appends, and hearing them. `me` names this process.
    pub fn start(options: &PgConnectOptions, me: String, head: watch::Receiver<u64>) -> Self {
        let options = options.clone().application_name("genie hints");
        let pool = PgPoolOptions::new().max_connections(2).max_lifetime(None).idle_timeout(None).connect_lazy_with(options);
        let (heard, read) = (Arc::<Notify>::default(), Arc::<AtomicU64>::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(tell(pool.clone(), me.clone(), head, Arc::clone(&read)));
        tasks.spawn(hear(pool, me, Arc::clone(&heard)));
        Self { heard, read, _tasks: tasks }
    }

    /// Waits for a hint, at most so long.
    pub async fn wait(&self, longest: Duration) {
        let _ = timeout(longest, self.heard.notified()).await; // either way: look
    }

    /// The head is raised to what was read from the store. To be called before it is told.
    pub fn was_read(&self, head: u64) {
        self.read.store(head, Ordering::SeqCst);
    }
}

async fn tell(pool: PgPool, me: String, mut head: watch::Receiver<u64>, read: Arc<AtomicU64>) {
    while head.changed().await.is_ok() {
        let is_news = *head.borrow_and_update() > read.load(Ordering::SeqCst);
        if is_news {
            let hint = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(&me);
            let _ = timeout(GIVING, hint.execute(&pool)).await; // one that was not given is made up for by the poll
            sleep(PAUSE).await;
        }
    }
}

async fn hear(pool: PgPool, me: String, heard: Arc<Notify>) {
    loop {
        if let Ok(mut listener) = PgListener::connect_with(&pool).await
            && listener.listen(CHANNEL).await.is_ok()
        {
            while let Ok(hint) = listener.recv().await {
                if hint.payload() != me {
                    heard.notify_one();
                }
            }
        }
        sleep(AWAY).await; // the poll says already that the store is away
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::testing::{Kind, TestStore};

    /// Ten polls would take two seconds: each append begins right after a look at the head.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn another_process_sees_appends_sooner_than_its_poll_would() {
        let store = TestStore::new(Kind::Postgres).await;
        let (here, there) = (store.open().await.log, store.open().await.log);
        let mut head = there.watch_head();
        store.register(&here, "first").await;
        head.wait_for(|head| *head >= 1).await.unwrap();
        let started = Instant::now();
        for n in 2..12 {
            store.register(&here, "another").await;
            head.wait_for(|head| *head >= n).await.unwrap();
        }
        assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    }
}
