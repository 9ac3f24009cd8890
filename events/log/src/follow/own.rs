//! Follows one user's events: by their own index until the end, then those among the newest rows. So it reads no rows of
//! others from the table.

use std::sync::Arc;

use genie_events::UserId;
use tokio::sync::watch;

use crate::{
    LogError, LogReader, StoredRow,
    pages::PageEnd,
    read::Shown,
    tail_cache::{NextRows, ReadTo},
};

/// Rows of the newest that are looked through at once.
const LOOKED_THROUGH: usize = 500;

#[derive(Debug)]
pub struct OwnFollower {
    log: LogReader,
    user: UserId,
    shown: Shown,
    /// The number of the user's last event seen.
    seen: u64,
    /// Everything of the user up to this position was seen.
    position: u64,
    is_live: bool,
    reading: watch::Receiver<ReadTo>,
}

impl LogReader {
    /// A follower of a user's events after a position.
    pub async fn follow_own(
        &self,
        user: UserId,
        after: u64,
        shown: Shown,
    ) -> Result<OwnFollower, LogError> {
        Ok(OwnFollower {
            log: self.clone(),
            user,
            shown,
            seen: self.user_seq_at(user, after).await?,
            position: after,
            is_live: false,
            reading: self.log().tail().watch_reading(),
        })
    }
}

impl OwnFollower {
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The user's next rows, at least one and up to the end of a page; waits while there are none.
    /// Dropping the wait loses nothing.
    pub async fn next(&mut self, end: impl Into<PageEnd>) -> Result<Vec<Arc<StoredRow>>, LogError> {
        let end = end.into();
        loop {
            let rows = if self.is_live {
                self.look(end)
            } else {
                self.read(end).await?
            };
            if let Some(last) = rows.last() {
                self.seen = last.owner_seq;
                self.position = self.position.max(last.position);
                return Ok(rows);
            }
            if !self.is_live {
                continue;
            }
            let reading = *self.reading.borrow_and_update();
            match reading {
                ReadTo::Hole { missing } => return Err(LogError::Hole { missing }),
                ReadTo::UpTo(end) if end > self.position => {}
                ReadTo::UpTo(_) if self.reading.changed().await.is_err() => {
                    return Err(LogError::Away("the log was closed".into()));
                }
                ReadTo::UpTo(_) => {}
            }
        }
    }

    /// From the index. At its end the follower is live: the index then held everything up to the head known before.
    async fn read(&mut self, end: PageEnd) -> Result<Vec<Arc<StoredRow>>, LogError> {
        let head = self.log.head();
        let page = self
            .log
            .user_page(self.user, self.seen, end, self.shown)
            .await?;
        if page.rows.is_empty() {
            self.position = self.position.max(head);
            self.is_live = true;
        }
        Ok(page.rows.into_iter().map(Arc::new).collect())
    }

    /// Among the newest rows. A follower that fell behind them goes back to the index.
    fn look(&mut self, end: PageEnd) -> Vec<Arc<StoredRow>> {
        let looked_through = PageEnd {
            rows: LOOKED_THROUGH,
            ..end
        };
        let newest = match self.log.log().tail().find(self.position, looked_through) {
            NextRows::Rows(rows) => rows,
            NextRows::Older => {
                self.is_live = false;
                return vec![];
            }
            NextRows::Nothing => return vec![],
        };
        let mut own = Vec::new();
        for row in newest {
            let is_next = row.user() == Some(self.user) && row.owner_seq > self.seen;
            if is_next && own.len() == end.rows {
                break;
            }
            self.position = row.position;
            if is_next {
                own.push(row);
            }
        }
        own
    }
}
