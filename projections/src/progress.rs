//! How far the projections have come. The leader alone moves them, so the checkpoint in the store
//! counts. The leader's projections announce each step at once; another node polls the store while
//! somebody waits.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use genie_log::{Election, Log, LogError, store::Store};
use sqlx::Row;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use crate::{ReadError, projection::read};

/// How often a node that does not lead reads the checkpoints while anybody waits: one poll serves
/// all who wait.
const LOOK: Duration = Duration::from_millis(15);
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

#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    log: Log,
    election: Election,
    /// Checkpoint names to projection names.
    names: BTreeMap<String, &'static str>,
    /// The positions, as last announced or polled. Everybody who waits is subscribed.
    told: watch::Sender<BTreeMap<&'static str, u64>>,
    /// Wakes the poll when somebody begins to wait.
    waiting: Notify,
}

impl Progress {
    pub fn new(log: Log, election: Election, names: BTreeMap<String, &'static str>) -> Self {
        let nothing_yet = names.values().map(|name| (*name, 0)).collect();
        let told = watch::Sender::new(nothing_yet);
        Self(Arc::new(Inner {
            log,
            election,
            names,
            told,
            waiting: Notify::new(),
        }))
    }

    /// Announces the position of a projection that runs on this node. It may be lower than the last
    /// one, as after a crash of the database.
    pub fn tell(&self, name: &str, position: u64) {
        self.change(name, |at| *at != position, position);
    }

    fn change(&self, name: &str, is_news: impl Fn(&u64) -> bool, position: u64) {
        self.0
            .told
            .send_if_modified(|told| match told.get_mut(name) {
                Some(at) if is_news(at) => {
                    *at = position;
                    true
                }
                _ => false,
            });
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.names.values().copied()
    }

    /// Waits until a projection's stored checkpoint has reached a position.
    pub async fn wait_for(
        &self,
        name: &str,
        position: u64,
        limit: Duration,
    ) -> Result<(), ReadError> {
        let is_reached =
            |told: &BTreeMap<&'static str, u64>| told.get(name).is_none_or(|at| *at >= position);
        let is_told = is_reached(&self.0.told.borrow());
        if is_told {
            // Read tables are not flushed on commit: after a crash the database may be behind the
            // announced position.
            match self.stored(name).await? {
                at if at >= position => return Ok(()),
                at => self.change(name, |told| *told > at, at),
            }
        }
        let mut told = self.0.told.subscribe();
        self.0.waiting.notify_one();
        if timeout(limit, told.wait_for(is_reached)).await.is_ok() {
            return Ok(());
        }
        match self
            .statuses()
            .await?
            .get(name)
            .map_or(0, |status| status.position)
        {
            at if at >= position => Ok(()),
            at => Err(ReadError::Behind {
                at,
                wanted: position,
            }),
        }
    }

    /// The same without a look into the store, for a reader that accepts to be a little behind: after
    /// a crash of the database the store may be behind what was announced. Answers whether the
    /// position was reached.
    pub async fn wait_for_told(&self, name: &str, position: u64, limit: Duration) -> bool {
        let is_reached =
            |told: &BTreeMap<&'static str, u64>| told.get(name).is_none_or(|at| *at >= position);
        if is_reached(&self.0.told.borrow()) {
            return true;
        }
        let mut told = self.0.told.subscribe();
        self.0.waiting.notify_one();
        timeout(limit, told.wait_for(is_reached)).await.is_ok()
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
                        self.change(name, |at| *at < position, position);
                    }
                }
                sleep(LOOK).await;
            }
        }
    }

    /// The position of a projection's checkpoint in the store.
    pub async fn stored(&self, name: &str) -> Result<u64, LogError> {
        let checkpoint = self
            .0
            .names
            .iter()
            .find(|(_, known)| **known == name)
            .map(|(checkpoint, _)| checkpoint.clone());
        let Some(checkpoint) = checkpoint else {
            return Ok(u64::MAX);
        }; // No projection has this name, so nobody needs to wait for it.
        let position: Option<i64> = read(&self.0.log, async move |store: Store| {
            let sql = "SELECT position FROM checkpoints WHERE name = $1";
            Ok(sqlx::query_scalar(sql)
                .bind(checkpoint)
                .fetch_optional(store.reads())
                .await?)
        })
        .await?;
        Ok(position.unwrap_or(0) as u64)
    }

    async fn positions(&self) -> Result<Vec<(&'static str, u64)>, LogError> {
        let rows: Vec<(String, i64)> = read(&self.0.log, async |store: Store| {
            Ok(sqlx::query_as("SELECT name, position FROM checkpoints")
                .fetch_all(store.reads())
                .await?)
        })
        .await?;
        Ok(rows
            .iter()
            .filter_map(|(name, position)| Some((*self.0.names.get(name)?, *position as u64)))
            .collect())
    }

    /// The state of each projection, as stored.
    pub async fn statuses(&self) -> Result<BTreeMap<&'static str, ProjectionStatus>, LogError> {
        let (checkpoints, damage) = read(&self.0.log, async |store: Store| {
            let sql = "SELECT name, position, stopped FROM checkpoints";
            let checkpoints = sqlx::query(sql).fetch_all(store.reads()).await?;
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
