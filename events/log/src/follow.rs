//! Follows the log in order. The append gives positions in commit order, so nothing arrives behind
//! the reader. A hole is an alarm: it stops the follower for good.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tracing::{error, warn};

use crate::{
    LogError, LogReader, StoredRow,
    pages::PageEnd,
    read::Shown,
    tail_cache::{NextRows, ReadTo},
};

/// Rows of one reading by a follower that never ends.
const PAGE: usize = 500;
/// Pause after the log could not be read.
const AWAY: Duration = Duration::from_millis(500);

mod own;
pub use own::OwnFollower;

/// Where a follower is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Following {
    /// ReadTo what is in the table.
    CatchingUp,
    /// At the head, woken by new rows.
    Live,
    /// A position is missing; the follower does not read past it.
    Stopped { missing: u64 },
}

/// A look at the store's head. A follower that has come so far had seen everything at that moment.
#[derive(Debug, Clone, Copy)]
pub struct HeadSeen {
    pub head: u64,
    /// When the look began.
    pub at: Instant,
}

#[derive(Debug)]
pub struct Follower {
    log: LogReader,
    after: u64,
    /// What is read of rows that are older than the cache.
    shown: Shown,
    state: Following,
    reading: watch::Receiver<ReadTo>,
}

impl LogReader {
    /// A follower that begins after a position.
    pub fn follow(&self, after: u64) -> Follower {
        self.follow_showing(after, Shown::Whole)
    }

    /// The same, for a reader that needs no more than `shown`.
    pub fn follow_showing(&self, after: u64, shown: Shown) -> Follower {
        Follower {
            log: self.clone(),
            after,
            shown,
            state: Following::CatchingUp,
            reading: self.log().tail().watch_reading(),
        }
    }
}

impl LogReader {
    /// Wakes at each look at the store's head, several times a second.
    pub fn watch_head_seen(&self) -> watch::Receiver<HeadSeen> {
        self.log().tail().watch_head_seen()
    }
}

impl Follower {
    /// The last position seen.
    pub fn position(&self) -> u64 {
        self.after
    }

    pub fn state(&self) -> Following {
        self.state
    }

    /// The next rows, at least one and up to the end of a page; waits while there are none. Dropping the
    /// wait loses nothing. After a hole each call answers [`LogError::Hole`].
    pub async fn next(&mut self, end: impl Into<PageEnd>) -> Result<Vec<Arc<StoredRow>>, LogError> {
        let end = end.into();
        loop {
            if let Following::Stopped { missing } = self.state {
                return Err(LogError::Hole { missing });
            }
            let reading = *self.reading.borrow_and_update();
            let rows = match self.log.log().tail().find(self.after, end) {
                NextRows::Rows(rows) => rows,
                NextRows::Older => self.catch_up(end).await?,
                NextRows::Nothing => {
                    self.state = match reading {
                        ReadTo::Hole { missing } => Following::Stopped { missing },
                        ReadTo::UpTo(_) => Following::Live,
                    };
                    if self.state == Following::Live && self.reading.changed().await.is_err() {
                        return Err(LogError::Away("the log was closed".into()));
                    }
                    continue;
                }
            };
            self.after = rows.last().map_or(self.after, |last| last.position);
            return Ok(rows);
        }
    }

    /// The next rows for the follower called `name`, which runs for ever: waits while the store is away. `None` ends it: there is a
    /// hole in the log.
    pub async fn next_or_end(&mut self, name: &'static str) -> Option<Vec<Arc<StoredRow>>> {
        loop {
            match self.next(PAGE).await {
                Ok(rows) => return Some(rows),
                Err(error @ LogError::Hole { .. }) => {
                    error!(follower = name, %error, "follower: stopped by a hole in the log; it starts again with the server");
                    return None;
                }
                Err(error) => {
                    warn!(
                        follower = name, position = self.after, %error,
                        "follower: reading the log failed; trying again"
                    );
                    tokio::time::sleep(AWAY).await;
                }
            }
        }
    }

    /// From the table, in which there are more rows.
    async fn catch_up(&mut self, end: PageEnd) -> Result<Vec<Arc<StoredRow>>, LogError> {
        self.state = Following::CatchingUp;
        let missing = match self.log.page(self.after, end, self.shown).await {
            Ok(page) if page.rows.is_empty() => self.after + 1,
            Ok(page) => return Ok(page.rows.into_iter().map(Arc::new).collect()),
            Err(LogError::Hole { missing }) => missing,
            Err(error) => return Err(error),
        };
        self.state = Following::Stopped { missing };
        Err(LogError::Hole { missing })
    }
}
