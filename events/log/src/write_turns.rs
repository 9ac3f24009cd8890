//! The order in which those who write into an embedded store take turns. SQLite has one writer at a
//! time. Others look again and again whether it has ended, at growing intervals, so one who writes
//! without a pause would keep them out. Here they wait in the order in which they came.
//!
//! Three wait at most, because each kind of writer has one connection: appends, working tables, and
//! read tables with the journal.

use std::{sync::Arc, time::Duration};

use sqlx::Error;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// The longest wait, after which the store counts as away.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone)]
pub(crate) struct WriteTurns(Arc<Semaphore>);

/// The right to write. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct WriteTurn(#[expect(dead_code, reason = "it is held")] OwnedSemaphorePermit);

impl WriteTurns {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// Waits for a turn.
    pub async fn next(&self) -> Result<WriteTurn, Error> {
        match timeout(PATIENCE, Arc::clone(&self.0).acquire_owned()).await {
            Ok(Ok(turn)) => Ok(WriteTurn(turn)),
            Ok(Err(_)) => Err(Error::PoolClosed),
            Err(_) => Err(Error::PoolTimedOut),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::join_all;
    use genie_events::{Metadata, StreamId, StreamKind, TurnId, UserId, chat::ChatEvent};
    use tokio::time::Instant;

    use crate::{
        AppendRequest, Group, Log, NewFact,
        testing::{TestStore, append, both_stores, store_of},
    };

    /// Users who append without a pause, one fact after the other.
    const USERS: usize = 128;
    const FACT_BYTES: usize = 8000;
    /// For so long others write meanwhile.
    const MEASURED: Duration = Duration::from_secs(2);
    /// The time for a write on a busy machine. SQLite itself would give up after three seconds.
    const LONGEST: Duration = Duration::from_millis(1500);

    async fn append_for_ever(log: Log, user: UserId) {
        let session = log.hashes().session(user, "a session");
        for sequence in 1.. {
            let asked = ChatEvent::Asked {
                turn: TurnId(log.clock().new_uuid()),
                session: "a session".into(),
                message: "x".repeat(FACT_BYTES),
            };
            let fact = NewFact {
                stream: StreamId::new(StreamKind::Chat, session),
                sequence,
                event: asked.into(),
            };
            let request = AppendRequest {
                groups: vec![Group::of_user(user, sequence, vec![fact])],
                work: vec![],
                metadata: Metadata::system(),
                remember: None,
            };
            append(&log, request).await.unwrap();
        }
    }

    /// The time of a write of the read tables' kind, or of the working tables' kind.
    async fn write(log: &Log, is_durable: bool) -> Duration {
        let store = store_of(log);
        let began = Instant::now();
        let mut tx = if is_durable {
            store.durable().await.unwrap()
        } else {
            store.relaxed().await.unwrap()
        };
        let sql = "INSERT INTO checkpoints (name, position) VALUES ('a test', 1) \
                   ON CONFLICT (name) DO UPDATE SET position = checkpoints.position + 1";
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        began.elapsed()
    }

    both_stores!(
        others_write_while_appends_never_pause,
        async |store: TestStore| {
            let log = store.open().await.log;
            let mut appending = tokio::task::JoinSet::new();
            let users = join_all((0..USERS).map(|_| store.register(&log, "a user"))).await;
            for user in users {
                appending.spawn(append_for_ever(log.clone(), user));
            }
            let before = log.reader().head();
            let began = Instant::now();
            let mut times = Vec::new();
            while began.elapsed() < MEASURED {
                times.push(write(&log, false).await);
                times.push(write(&log, true).await);
            }
            let appended = log.reader().head() - before;
            times.sort();
            let (p50, longest) = (times[times.len() / 2], times[times.len() - 1]);
            println!(
                "{} writes beside {} appends in {:?}: p50 {p50:?}, longest {longest:?}",
                times.len(),
                appended,
                began.elapsed()
            );
            assert!(longest < LONGEST, "{longest:?}");
            assert!(appended > 0, "and the appends go on");
            appending.shutdown().await;
        }
    );
}
