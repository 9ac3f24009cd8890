//! How far the projections are. Of several nodes one moves them, so what counts is the checkpoint in the store; on the elected
//! node the projections tell of it at once, elsewhere it is looked at while somebody waits.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use genie_log::{Election, Log, LogError, store::Store};
use sqlx::Row;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use crate::{ReadError, projection::read};

/// How often the checkpoints that another node moves are looked at while anybody waits: once for all who wait.
const LOOK: Duration = Duration::from_millis(15);
/// The most damaged events that a status names.
const NAMED_DAMAGE: i64 = 20;

/// How a projection is doing, whichever node moves it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// How far its stored checkpoint is.
    pub position: u64,
    /// Why it stopped, when it did.
    pub stopped: Option<String>,
    /// How many streams it left behind.
    pub damaged_streams: u64,
    /// The positions of the damaged events that it left them at, the first ones.
    pub damaged_at: Vec<u64>,
}

#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    log: Log,
    election: Election,
    /// The projections' names, by their checkpoints'.
    names: BTreeMap<String, &'static str>,
    /// The positions, as last told or looked at. Who waits is subscribed.
    told: watch::Sender<BTreeMap<&'static str, u64>>,
    /// Somebody waits now.
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

    /// A projection that runs on this node is there: also when that is behind what was told, as after a crash of the database.
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

    /// All projections.
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
            // Read tables are not flushed as they are written: a database that crashed may be behind what was told.
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

    /// Looks at the checkpoints while somebody waits for what another node does, for ever; to be spawned.
    pub async fn look(self) {
        loop {
            self.0.waiting.notified().await;
            while self.0.told.receiver_count() > 0 {
                if self.0.election.now().is_none() {
                    // When the store is away nobody is told anything, and who waits finds out in the end.
                    for (name, position) in self.positions().await.unwrap_or_default() {
                        // Only forward: this node may have been elected meanwhile, and know better.
                        self.change(name, |at| *at < position, position);
                    }
                }
                sleep(LOOK).await;
            }
        }
    }

    /// How far a projection's checkpoint is in the store.
    async fn stored(&self, name: &str) -> Result<u64, LogError> {
        let checkpoint = self
            .0
            .names
            .iter()
            .find(|(_, known)| **known == name)
            .map(|(checkpoint, _)| checkpoint.clone());
        let Some(checkpoint) = checkpoint else {
            return Ok(u64::MAX);
        }; // nobody moves it, so nobody waits for it
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

    /// How each projection is doing, as the store has it.
    pub async fn statuses(&self) -> Result<BTreeMap<&'static str, Status>, LogError> {
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
        let mut statuses: BTreeMap<_, Status> = self
            .0
            .names
            .values()
            .map(|name| (*name, Status::default()))
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

    /// The status of a checkpoint's projection; `None` for one of another release.
    fn status_of<'a>(
        &self,
        checkpoint: &str,
        all: &'a mut BTreeMap<&'static str, Status>,
    ) -> Option<&'a mut Status> {
        all.get_mut(self.0.names.get(checkpoint)?)
    }
}
