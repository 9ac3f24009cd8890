//! Follows the log in order. The append gives positions in commit order, so nothing arrives behind
//! the reader. A hole is an alarm: it stops the follower for good.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    Log, LogError, StoredRow,
    tail_cache::{Found, Reading},
};

/// The state of a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Following {
    /// Reads rows that are in the table already.
    CatchingUp,
    /// At the head, woken by new rows.
    Live,
    /// A position is missing; the follower does not read past it.
    Stopped { missing: u64 },
}

#[derive(Debug)]
pub struct Follower {
    log: Log,
    after: u64,
    state: Following,
    reading: watch::Receiver<Reading>,
}

impl Log {
    /// A follower that begins after a position.
    pub fn follow(&self, after: u64) -> Follower {
        Follower {
            log: self.clone(),
            after,
            state: Following::CatchingUp,
            reading: self.tail().watch_reading(),
        }
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

    /// The next rows, at least one and at most `limit`; waits while there are none. Dropping the
    /// wait loses nothing. After a hole each call answers [`LogError::Hole`].
    pub async fn next(&mut self, limit: usize) -> Result<Vec<Arc<StoredRow>>, LogError> {
        loop {
            if let Following::Stopped { missing } = self.state {
                return Err(LogError::Hole { missing });
            }
            let reading = *self.reading.borrow_and_update();
            let rows = match self.log.tail().find(self.after, limit) {
                Found::Rows(rows) => rows,
                Found::Older => self.catch_up(limit).await?,
                Found::Nothing => {
                    self.state = match reading {
                        Reading::Hole { missing } => Following::Stopped { missing },
                        Reading::UpTo(_) => Following::Live,
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

    /// Reads from the table, which has more rows.
    async fn catch_up(&mut self, limit: usize) -> Result<Vec<Arc<StoredRow>>, LogError> {
        self.state = Following::CatchingUp;
        let missing = match self.log.rows(self.after, limit).await {
            Ok(rows) if rows.is_empty() => self.after + 1,
            Ok(rows) => return Ok(rows.into_iter().map(Arc::new).collect()),
            Err(LogError::Hole { missing }) => missing,
            Err(error) => return Err(error),
        };
        self.state = Following::Stopped { missing };
        Err(LogError::Hole { missing })
    }
}
