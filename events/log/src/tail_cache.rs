//! The newest rows of the log, in memory and read once for all followers. Rows that this process
//! appends are handed in after their commit; rows of other nodes are read from the table. Followers
//! that are further behind read the table themselves.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::watch, time::Instant};
use tracing::{error, warn};

use crate::{
    LogError, StoredRow,
    follow::HeadSeen,
    pages::PageEnd,
    read::{PAGE, read_rows},
    store::{Store, in_time},
};

const ROWS: usize = 16_384;
/// The most bytes kept of payloads and metadata.
const BYTES: usize = 32 << 20;
/// The pause after the store was away.
const AWAY: Duration = Duration::from_millis(250);

/// How far rows were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadTo {
    /// Up to this position.
    UpTo(u64),
    /// No further: a position is missing.
    Hole { missing: u64 },
}

/// The cache's answer to a follower that has seen everything up to a position.
pub(crate) enum NextRows {
    Rows(Vec<Arc<StoredRow>>),
    /// The next rows are older than the cache; the table has them.
    Older,
    /// There is no further row yet.
    Nothing,
}

pub(crate) struct Tail {
    /// The last position known to be committed.
    head: watch::Sender<u64>,
    reading: watch::Sender<ReadTo>,
    /// The last look at the store's head.
    seen: watch::Sender<HeadSeen>,
    kept: Mutex<RecentRows>,
}

/// Rows without a gap, up to and including position `end`.
struct RecentRows {
    rows: VecDeque<Arc<StoredRow>>,
    bytes: usize,
    end: u64,
}

impl Tail {
    /// A tail that begins after a position.
    pub fn after(head: u64) -> Self {
        let kept = RecentRows {
            rows: VecDeque::new(),
            bytes: 0,
            end: head,
        };
        Self {
            head: watch::Sender::new(head),
            reading: watch::Sender::new(ReadTo::UpTo(head)),
            seen: watch::Sender::new(HeadSeen {
                head,
                at: Instant::now(),
            }),
            kept: Mutex::new(kept),
        }
    }

    /// The last position that this process knows of. It never falls.
    pub fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// Wakes whenever the head rises.
    pub fn watch_head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// Wakes whenever there are more rows to be found.
    pub fn watch_reading(&self) -> watch::Receiver<ReadTo> {
        self.reading.subscribe()
    }

    /// Wakes at each look at the store's head.
    pub fn watch_head_seen(&self) -> watch::Receiver<HeadSeen> {
        self.seen.subscribe()
    }

    /// Takes a look at the store's head, which began at `at`.
    pub fn see_head(&self, head: u64, at: Instant) {
        self.raise_head(head);
        self.seen.send_replace(HeadSeen { head, at });
    }

    /// Notes that everything up to this position is committed.
    pub fn raise_head(&self, to: u64) {
        self.head.send_if_modified(|head| {
            let is_higher = to > *head;
            *head = to.max(*head);
            is_higher
        });
    }

    /// Takes rows that this process has just committed, in order. When rows of others come before
    /// them, the table is read instead.
    pub fn hand_in(&self, rows: Vec<StoredRow>) {
        let Some(last) = rows.last().map(|row| row.position) else {
            return;
        };
        let end = {
            let mut kept = self.lock();
            for row in rows {
                kept.push(row);
            }
            kept.end
        };
        self.raise_head(last);
        self.tell(end);
    }

    /// The rows after a position, up to the end of a page.
    pub fn find(&self, after: u64, end: PageEnd) -> NextRows {
        let kept = self.lock();
        if after >= kept.end {
            return NextRows::Nothing;
        }
        let first = kept.end + 1 - kept.rows.len() as u64;
        match (after + 1).checked_sub(first) {
            None => NextRows::Older,
            Some(skipped) => NextRows::Rows(page(kept.rows.iter().skip(skipped as usize), end)),
        }
    }

    /// Reads the rows that other nodes append, until a hole or the close of the log. Spawn it on the
    /// runtime that owns the store's connections.
    pub async fn read_on(self: Arc<Self>, store: Store) {
        let mut head = self.head.subscribe();
        loop {
            let end = self.lock().end;
            if head.wait_for(|head| *head > end).await.is_err() {
                return; // The log was closed.
            }
            let known = *head.borrow_and_update();
            let end = self.skip_to(known);
            if end >= known {
                continue; // The rows were handed in meanwhile.
            }
            let read = match in_time(read_rows(&store, end, PAGE)).await {
                Ok(rows) if rows.is_empty() && self.lock().end == end => {
                    Err(LogError::Hole { missing: end + 1 })
                }
                read => read,
            };
            match read {
                Ok(rows) => self.hand_in(rows),
                Err(LogError::Hole { missing }) => {
                    error!(
                        missing,
                        "log: a position is missing; all followers stop until a restart"
                    );
                    self.reading.send_replace(ReadTo::Hole { missing });
                    return;
                }
                Err(error) => {
                    warn!(%error, "log: reading new rows failed; trying again");
                    tokio::time::sleep(AWAY).await;
                }
            }
        }
    }

    /// Called when the store has a lower head than before: it was set back, to a backup or a
    /// standby that lagged. The lost rows leave the cache, and followers that have seen one of them
    /// stop.
    pub fn set_back(&self, head: u64) {
        error!(
            head,
            "log: the store was set back to an earlier position; all followers stop until a restart"
        );
        let mut kept = self.lock();
        while kept.end > head {
            match kept.rows.pop_back() {
                Some(lost) => {
                    kept.bytes -= size(&lost);
                    kept.end = lost.position - 1;
                }
                None => kept.end = head,
            }
        }
        drop(kept);
        self.reading
            .send_replace(ReadTo::Hole { missing: head + 1 });
    }

    /// When more rows came at once than the cache keeps, the first of them are left to followers
    /// that need them.
    fn skip_to(&self, head: u64) -> u64 {
        let mut kept = self.lock();
        if head - kept.end.min(head) > ROWS as u64 {
            *kept = RecentRows {
                rows: VecDeque::new(),
                bytes: 0,
                end: head - PAGE as u64,
            };
        }
        kept.end
    }

    fn tell(&self, end: u64) {
        self.reading.send_if_modified(|reading| match reading {
            ReadTo::UpTo(before) if *before < end => {
                *before = end;
                true
            }
            _ => false,
        });
    }

    fn lock(&self) -> MutexGuard<'_, RecentRows> {
        self.kept.lock()
    }
}

impl RecentRows {
    /// Keeps the next row; any other is known already, or comes again when those before it were read.
    fn push(&mut self, row: StoredRow) {
        if row.position != self.end + 1 {
            return;
        }
        self.end = row.position;
        self.bytes += size(&row);
        self.rows.push_back(Arc::new(row));
        while self.rows.len() > ROWS || (self.bytes > BYTES && self.rows.len() > 1) {
            if let Some(oldest) = self.rows.pop_front() {
                self.bytes -= size(&oldest);
            }
        }
    }
}

/// The first of these rows.
fn page<'a>(rows: impl Iterator<Item = &'a Arc<StoredRow>>, end: PageEnd) -> Vec<Arc<StoredRow>> {
    let mut bytes = 0;
    let mut page = Vec::new();
    for row in rows.take(end.rows) {
        bytes += size(row);
        if bytes > end.bytes as usize && !page.is_empty() {
            break;
        }
        page.push(Arc::clone(row));
    }
    page
}

fn size(row: &StoredRow) -> usize {
    row.payload.len() + row.metadata.len() + size_of::<StoredRow>()
}
