//! Removes deleted bytes from SQLite's files, too. SQLite overwrites them in their page when they
//! are deleted (`secure_delete`), but the write-ahead log keeps the page as it was until the log is
//! moved into the file and emptied. So this task empties the log whenever a secret was deleted, and
//! at each start for the bytes that a killed process left. It takes a second or two, or until
//! readers of the old page are gone.
//!
//! On Postgres a server can do nothing: a deleted row stays in the table's file until VACUUM, and
//! in the database's own log and its archives for as long as they are kept.

use std::{sync::Arc, time::Duration};

use sqlx::{Connection, Row, SqliteConnection};
use tokio::sync::Notify;
use tracing::warn;

use crate::{
    LogError,
    store::{Store, Writing},
};

/// The longest wait for readers; all writers wait meanwhile.
const PATIENCE: Duration = Duration::from_millis(100);
/// The pause after each time, so that many deletions need one emptying.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause while readers, such as an export, are in the way: the pause doubles each time.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Wakes the task after a deletion.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scrub(Arc<Notify>);

impl Scrub {
    /// Starts the task on the current runtime, which must be the one that owns the store's
    /// connections.
    pub fn start(store: &Store) -> Self {
        let scrub = Self::default();
        if let Writing::Sqlite(pool, _) = &store.writing {
            let pool = pool.clone();
            let store = store.clone();
            let wanted = scrub.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = wanted.run(store) => {}
                    // The last connection to close SQLite empties the log.
                    () = pool.close_event() => {}
                }
            });
        }
        scrub
    }

    /// Notes that bytes were deleted and must leave the files.
    pub fn deleted(&self) {
        self.0.notify_one();
    }

    async fn run(self, store: Store) {
        let mut pause = PAUSE;
        loop {
            let is_done = store.scrub().await.unwrap_or_else(|error| {
                warn!(%error, "write-ahead log: wiping deleted rows failed; trying again");
                false
            });
            if is_done {
                self.0.notified().await;
                pause = PAUSE;
            } else {
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            tokio::time::sleep(pause).await;
        }
    }
}

impl Store {
    /// Empties SQLite's write-ahead log, so that no file holds deleted bytes; `false` when readers
    /// or the writer were in the way. On Postgres it does nothing.
    pub async fn scrub(&self) -> Result<bool, LogError> {
        let Writing::Sqlite(pool, turns) = &self.writing else {
            return Ok(true);
        };
        let options = pool
            .connect_options()
            .as_ref()
            .clone()
            .create_if_missing(false)
            .busy_timeout(PATIENCE);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        // So that only readers can be in the way.
        let turn = turns.next().await?;
        let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .fetch_one(&mut connection)
            .await;
        drop(turn);
        let was_busy = row.and_then(|row| row.try_get::<i64, _>("busy"));
        connection.close().await?;
        Ok(was_busy? == 0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use genie_events::{StreamId, StreamKind, TurnId, chat::ChatEvent};
    use tokio::{task::JoinSet, time::Instant};

    use crate::{
        Log,
        testing::{Kind, TestStore, bulk::BulkLoader, store_of},
    };

    /// Those who read without a pause.
    const READERS: usize = 8;
    /// The facts that are written meanwhile.
    const FACTS: u64 = 400;
    const FACT_BYTES: usize = 200_000;
    const MIB: u64 = 1 << 20;
    /// The write-ahead log may have so many bytes: SQLite moves it into the file at 4 MiB, as soon as no reader
    /// needs it.
    const MOST: u64 = 64 * MIB;

    async fn read_for_ever(log: Log) {
        loop {
            log.reader().rows(0, 10).await.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_write_ahead_log_stays_small_and_is_emptied_while_readers_never_pause() {
        let store = TestStore::new(Kind::Sqlite).await;
        let log = store.open().await.log;
        let ada = store.register(&log, "ada").await;
        let mut reading = JoinSet::new();
        for _ in 0..READERS {
            reading.spawn(read_for_ever(log.clone()));
        }
        let file = store.folder().join("genie.db-wal");
        let size = || fs::metadata(&file).unwrap().len();
        let mut largest = 0;
        let mut loader = BulkLoader::of(&log, ada).await.unwrap();
        let session = log.hashes().session(ada, "a session");
        for sequence in 1..=FACTS {
            let asked = ChatEvent::Asked {
                turn: TurnId(log.clock().new_uuid()),
                session: "a session".into(),
                message: "x".repeat(FACT_BYTES),
            };
            let stream = StreamId::new(StreamKind::Chat, session);
            loader
                .add(stream, sequence, asked, FACT_BYTES)
                .await
                .unwrap();
            largest = largest.max(size());
        }
        loader.flush().await.unwrap();
        let began = Instant::now();
        while !store_of(&log).scrub().await.unwrap() {}
        println!(
            "{} MiB written, the write-ahead log had {} MiB at most and was emptied in {:?}",
            FACTS * FACT_BYTES as u64 / MIB,
            largest / MIB,
            began.elapsed()
        );
        assert!(largest < MOST, "{largest} bytes");
        assert_eq!(size(), 0);
        reading.shutdown().await;
    }
}
