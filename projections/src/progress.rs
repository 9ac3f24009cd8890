//! How far the projections have come. The leader alone moves them, so the checkpoint in the store
//! counts. The leader's projections announce each step at once; another node polls the store while
//! somebody waits.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use genie_log::{Election, Log, LogError, store::Store};
use sqlx::Row;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use crate::{ReadError, projection::read, runner::CHECKPOINT};

/// How often a node that does not lead reads the checkpoints while anybody waits: one poll serves
/// all who wait.
const LOOK: Duration = Duration::from_millis(15);
/// Read tables are not flushed at each commit, but Postgres writes its log out within three times
/// `wal_writer_delay` (0.2 s unless it is set). What was announced this long ago, no crash takes
/// back. On SQLite a crash that takes something back ends this process, too.
const SETTLED: Duration = Duration::from_secs(5);
/// Where each projection stands: a projection without a position of its own is at the checkpoint.
const POSITIONS: &str = "SELECT p.name, coalesce(p.position, c.position) AS position FROM checkpoints c, projections p \
                         WHERE c.name = $1 AND p.name > ''";
const STATUSES: &str = "SELECT p.name, coalesce(p.position, c.position) AS position, p.stopped \
                        FROM checkpoints c, projections p WHERE c.name = $1 AND p.name > ''";
/// A status names at most this many damaged events.
const NAMED_DAMAGE: i64 = 20;

/// The state of a projection, whichever node moves it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProjectionStatus {
    /// The stored checkpoint.
    pub position: u64,
    /// The error that stopped the projection.
    pub stopped: Option<String>,
    /// The number of streams that stopped at a damaged event.
    pub damaged_streams: u64,
    /// The positions of those damaged events, lowest first, at most `NAMED_DAMAGE`.
    pub damaged_at: Vec<u64>,
}

/// A position as announced, and as it was some time ago.
#[derive(Debug, Clone, Copy)]
struct Announced {
    position: u64,
    /// Surely on the disk: announced at least [`SETTLED`] ago.
    settled: u64,
    /// The position at a time, to become the settled one.
    settling: (Instant, u64),
}

#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    log: Log,
    election: Election,
    /// The names in the store to projection names.
    names: BTreeMap<String, &'static str>,
    /// The positions, as last announced or polled. Everybody who waits is subscribed.
    told: watch::Sender<BTreeMap<&'static str, Announced>>,
    /// Wakes the poll when somebody begins to wait.
    waiting: Notify,
    /// The highest position that anybody on this node has waited for, at most the log's head then.
    wanted: watch::Sender<u64>,
}

impl Announced {
    fn nothing() -> Self {
        Self {
            position: 0,
            settled: 0,
            settling: (Instant::now(), 0),
        }
    }

    fn move_to(&mut self, position: u64) {
        self.settle();
        self.position = position;
        // A crash of the database took back what was announced.
        self.settled = self.settled.min(position);
        self.settling.1 = self.settling.1.min(position);
    }

    /// Lets time pass over the settling position.
    fn settle(&mut self) {
        let (since, settling) = self.settling;
        if since.elapsed() >= SETTLED {
            self.settled = settling;
            self.settling = (Instant::now(), self.position);
        }
    }
}

impl Progress {
    pub fn new(log: Log, election: Election, names: BTreeMap<String, &'static str>) -> Self {
        let nothing_yet = names
            .values()
            .map(|name| (*name, Announced::nothing()))
            .collect();
        let told = watch::Sender::new(nothing_yet);
        Self(Arc::new(Inner {
            log,
            election,
            names,
            told,
            waiting: Notify::new(),
            wanted: watch::Sender::new(0),
        }))
    }

    /// Announces the position of a projection that runs on this node. It may be lower than the last
    /// one, as after a crash of the database.
    pub fn tell(&self, name: &str, position: u64) {
        self.change(name, |at| at != position, position);
    }

    fn change(&self, name: &str, is_news: impl Fn(u64) -> bool, position: u64) {
        self.0
            .told
            .send_if_modified(|told| match told.get_mut(name) {
                Some(at) if is_news(at.position) => {
                    at.move_to(position);
                    true
                }
                _ => false,
            });
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.names.values().copied()
    }

    /// True when all of these have surely reached a position: no question to the store is needed.
    fn is_settled(&self, names: &[&str], position: u64) -> bool {
        let mut is_settled = true;
        self.0.told.send_if_modified(|told| {
            for name in names {
                if let Some(at) = told.get_mut(*name) {
                    at.settle();
                    is_settled &= at.settled >= position;
                }
            }
            false // nobody waits for this
        });
        is_settled
    }

    /// Waits until the stored checkpoints of these projections have reached a position.
    pub async fn wait_for(
        &self,
        names: &[&str],
        position: u64,
        limit: Duration,
    ) -> Result<(), ReadError> {
        if self.is_settled(names, position) {
            return Ok(());
        }
        if self.are_told(names, position) {
            // Read tables are not flushed on commit: after a crash the database may be behind the
            // announced position.
            let stored = self.positions().await?;
            if lowest(&stored, names) >= position {
                return Ok(());
            }
            for (name, at) in stored {
                self.change(name, |told| told > at, at);
            }
        }
        let mut told = self.0.told.subscribe();
        self.want(position);
        let reached = told.wait_for(|told| are_reached(told, names, position));
        if timeout(limit, reached).await.is_ok() {
            return Ok(());
        }
        match lowest(&self.positions().await?, names) {
            at if at >= position => Ok(()),
            at => Err(ReadError::Behind {
                at,
                wanted: position,
            }),
        }
    }

    /// True when all of these have announced a position.
    pub fn are_told(&self, names: &[&str], position: u64) -> bool {
        are_reached(&self.0.told.borrow(), names, position)
    }

    /// The same without a look into the store, for a reader that accepts to be a little behind: after
    /// a crash of the database the store may be behind what was announced. Answers whether the
    /// position was reached.
    pub async fn wait_for_told(&self, names: &[&str], position: u64, limit: Duration) -> bool {
        if self.are_told(names, position) {
            return true;
        }
        let mut told = self.0.told.subscribe();
        self.want(position);
        let reached = told.wait_for(|told| are_reached(told, names, position));
        timeout(limit, reached).await.is_ok()
    }

    /// Tells those who move the projections that somebody waits for a position.
    fn want(&self, position: u64) {
        let position = position.min(self.0.log.reader().head());
        self.0.wanted.send_if_modified(|wanted| {
            let is_higher = position > *wanted;
            *wanted = position.max(*wanted);
            is_higher
        });
        self.0.waiting.notify_one();
    }

    /// Ends as soon as somebody on this node waits for what comes after a position.
    pub async fn wanted_after(&self, position: u64) {
        let mut wanted = self.0.wanted.subscribe();
        // This keeps the channel open.
        let _ = wanted.wait_for(|wanted| *wanted > position).await;
    }

    /// The position that one projection has reached, as stored.
    pub async fn stored(&self, name: &str) -> Result<u64, LogError> {
        Ok(lowest(&self.positions().await?, &[name]))
    }

    /// Polls the checkpoints while somebody waits for what another node does. Runs for ever; spawn
    /// it.
    pub async fn look(self) {
        loop {
            self.0.waiting.notified().await;
            while self.0.told.receiver_count() > 0 {
                if self.0.election.now().is_none() {
                    // When the store is away nobody is told anything, and the waits run into their
                    // limit.
                    for (name, position) in self.positions().await.unwrap_or_default() {
                        // Only forward: this node may have become the leader meanwhile, and know
                        // better.
                        self.change(name, |at| at < position, position);
                    }
                }
                sleep(LOOK).await;
            }
        }
    }

    /// The positions in the store; a projection that the store does not know has none.
    async fn positions(&self) -> Result<Vec<(&'static str, u64)>, LogError> {
        let rows: Vec<(String, i64)> = read(&self.0.log, async |store: Store| {
            Ok(sqlx::query_as(POSITIONS)
                .bind(CHECKPOINT)
                .fetch_all(store.reads())
                .await?)
        })
        .await?;
        let stored: BTreeMap<String, i64> = rows.into_iter().collect();
        let at = |name: &str| stored.get(name).map_or(0, |at| *at as u64);
        let names = self.0.names.iter();
        Ok(names.map(|(stored, name)| (*name, at(stored))).collect())
    }

    /// The state of each projection, as stored.
    pub async fn statuses(&self) -> Result<BTreeMap<&'static str, ProjectionStatus>, LogError> {
        let (checkpoints, damage) = read(&self.0.log, async |store: Store| {
            let checkpoints = sqlx::query(STATUSES)
                .bind(CHECKPOINT)
                .fetch_all(store.reads())
                .await?;
            let sql = "SELECT projection, position, total FROM ( \
                     SELECT projection, position, count(*) OVER (PARTITION BY projection) AS total, \
                            row_number() OVER (PARTITION BY projection ORDER BY position) AS nth \
                     FROM damaged) AS d \
                 WHERE nth <= $1 ORDER BY position";
            Ok((checkpoints, sqlx::query(sql).bind(NAMED_DAMAGE).fetch_all(store.reads()).await?))
        })
        .await?;
        let mut statuses: BTreeMap<_, ProjectionStatus> = self
            .0
            .names
            .values()
            .map(|name| (*name, ProjectionStatus::default()))
            .collect();
        for row in checkpoints {
            if let Some(status) = self.status_of(row.try_get("name")?, &mut statuses) {
                status.position = row.try_get::<i64, _>("position")? as u64;
                status.stopped = row.try_get("stopped")?;
            }
        }
        for row in damage {
            if let Some(status) = self.status_of(row.try_get("projection")?, &mut statuses) {
                status.damaged_streams = row.try_get::<i64, _>("total")? as u64;
                status
                    .damaged_at
                    .push(row.try_get::<i64, _>("position")? as u64);
            }
        }
        Ok(statuses)
    }

    /// The status of a checkpoint's projection; `None` for a projection of another release.
    fn status_of<'a>(
        &self,
        checkpoint: &str,
        all: &'a mut BTreeMap<&'static str, ProjectionStatus>,
    ) -> Option<&'a mut ProjectionStatus> {
        all.get_mut(self.0.names.get(checkpoint)?)
    }
}

/// True when all of these projections have announced a position. One that is not known has.
fn are_reached(told: &BTreeMap<&'static str, Announced>, names: &[&str], position: u64) -> bool {
    let at = |name: &str| told.get(name).map_or(u64::MAX, |at| at.position);
    names.iter().all(|name| at(name) >= position)
}

/// The position of the projection that is furthest behind.
fn lowest(positions: &[(&'static str, u64)], names: &[&str]) -> u64 {
    let wanted = positions.iter().filter(|(name, _)| names.contains(name));
    wanted.map(|(_, at)| *at).min().unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) fn statements() -> Vec<String> {
    vec![POSITIONS.into()]
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use genie_log::testing::{TestStore, both_stores};

    use super::*;

    const MOMENT: Duration = Duration::from_millis(20);

    both_stores!(
        who_moves_the_projections_hears_of_those_who_wait,
        async |store: TestStore| {
            let log = store.open().await.log;
            let election = log.elections().stand("test").await.unwrap();
            let names = BTreeMap::from([("jobs.v1".to_owned(), "jobs")]);
            let progress = Progress::new(log.clone(), election, names);
            store.register(&log, "ada").await;
            let head = log.reader().head();
            let is_wanted = |position| progress.wanted_after(position).now_or_never().is_some();
            assert!(!is_wanted(0), "nobody waits");
            let waits = progress.wait_for_told(&["jobs"], head, MOMENT);
            let hears = timeout(MOMENT, progress.wanted_after(head - 1));
            let (is_reached, heard) = tokio::join!(waits, hears);
            assert!(!is_reached && heard.is_ok() && !is_wanted(head));
            // What is not in the log yet can't be hurried.
            assert!(!progress.wait_for_told(&["jobs"], head + 9, MOMENT).await);
            assert!(!is_wanted(head));
            progress.tell("jobs", head);
            assert!(progress.wait_for_told(&["jobs"], head, MOMENT).await);
        }
    );
}
