//! Following the log in order. A notification only wakes; what is read is the table, after the last position seen.
//! Positions are given in commit order by the append, so nothing arrives behind the reader's back, and a hole is an alarm.

use std::time::Duration;

use crate::{Log, LogError, StoredRow};

/// Where a follower is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Following {
    /// Reading what is there.
    CatchingUp,
    /// At the head, waiting for more.
    Live,
}

/// The net: without any wake-up, the table is looked at this often.
const NET: Duration = Duration::from_secs(2);

/// One reader of the log.
#[derive(Debug)]
pub struct Follower {
    log: Log,
    after: u64,
    state: Following,
}

impl Log {
    /// Follows from after a position.
    pub fn follow(&self, after: u64) -> Follower {
        Follower { log: self.clone(), after, state: Following::CatchingUp }
    }
}

impl Follower {
    /// The last position seen.
    pub fn position(&self) -> u64 {
        self.after
    }

    /// Whether it is at the head.
    pub fn state(&self) -> Following {
        self.state
    }

    /// The next rows, at least one and at most `limit`; waits while there are none. Dropping the wait loses nothing.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<StoredRow>, LogError> {
        let mut head = self.log.watch_head();
        loop {
            let rows = self.log.rows(self.after, limit).await?;
            if let Some(last) = rows.last() {
                self.after = last.position;
                self.state = if rows.len() < limit { Following::Live } else { Following::CatchingUp };
                return Ok(rows);
            }
            self.state = Following::Live;
            let after = self.after;
            // An elapsed net and a closed watch both mean: look again.
            let _ = tokio::time::timeout(NET, head.wait_for(|head| *head > after)).await;
        }
    }
}
