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

/// The longest wait for readers and the writer; the log's writer waits meanwhile.
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
        if let Writing::Sqlite(pool) = &store.writing {
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
        let Writing::Sqlite(pool) = &self.writing else {
            return Ok(true);
        };
        let options = pool
            .connect_options()
            .as_ref()
            .clone()
            .create_if_missing(false)
            .busy_timeout(PATIENCE);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .fetch_one(&mut connection)
            .await;
        let was_busy = row.and_then(|row| row.try_get::<i64, _>("busy"));
        connection.close().await?;
        Ok(was_busy? == 0)
    }
}
