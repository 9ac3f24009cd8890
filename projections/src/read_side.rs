//! All projections, started, and the reads that wait for them.

use std::{collections::BTreeMap, time::Duration};

use genie_log::{Log, LogError};
use sqlx::Row;
use tokio::{sync::watch, time::Instant};

use crate::{
    accounts::Accounts,
    audit::Audit,
    captions::Captions,
    chats::Chats,
    credentials::Credentials,
    jobs::Jobs,
    projection::{Projection, Runner, Status, read},
    usage::UsageCounts,
};

/// A read failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The asked position was not reached in time.
    #[error("the read side is at position {at} and was asked to be at {wanted}; try again")]
    Behind {
        /// How far it is.
        at: u64,
        /// How far it was asked to be.
        wanted: u64,
    },
    /// The store is away, or a row can't be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// How often a checkpoint that another node moves is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// The read side.
#[derive(Debug, Clone)]
pub struct ReadSide {
    log: Log,
    statuses: BTreeMap<&'static str, watch::Receiver<Status>>,
    /// Who is registered.
    pub accounts: Accounts,
    /// What was counted.
    pub usage: UsageCounts,
    /// Which credentials are held.
    pub credentials: Credentials,
    /// Jobs.
    pub jobs: Jobs,
    /// Chats.
    pub chats: Chats,
    /// Captions.
    pub captions: Captions,
}

impl ReadSide {
    /// Starts all projections. To be called on the runtime that owns the store's connections.
    pub fn start(log: Log) -> Self {
        let projections: [Box<dyn Projection>; 7] = [
            Box::new(crate::accounts::Projector),
            Box::new(crate::usage::Projector),
            Box::new(crate::credentials::Projector),
            Box::new(crate::jobs::Projector),
            Box::new(crate::chats::Projector),
            Box::new(crate::captions::Projector),
            Box::new(Audit),
        ];
        let mut statuses = BTreeMap::new();
        for projection in projections {
            let name = projection.name();
            let (runner, status) = Runner::new(projection, log.clone());
            tokio::spawn(runner.run());
            statuses.insert(name, status);
        }
        Self {
            statuses,
            accounts: Accounts::new(log.clone()),
            usage: UsageCounts::new(log.clone()),
            credentials: Credentials::new(log.clone()),
            jobs: Jobs::new(log.clone()),
            chats: Chats::new(log.clone()),
            captions: Captions::new(log.clone()),
            log,
        }
    }

    /// How each projection is doing.
    pub fn statuses(&self) -> BTreeMap<&'static str, Status> {
        self.statuses.iter().map(|(name, status)| (*name, status.borrow().clone())).collect()
    }

    /// Waits until a projection's stored checkpoint has reached a position.
    pub async fn wait_for(&self, name: &str, position: u64, limit: Duration) -> Result<(), ReadError> {
        let Some(status) = self.statuses.get(name) else { return Ok(()) };
        let mut status = status.clone();
        let deadline = Instant::now() + limit;
        loop {
            let at = status.borrow_and_update().position;
            if at >= position || self.stored_checkpoint(name, position).await? {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ReadError::Behind { at, wanted: position });
            }
            let _ = tokio::time::timeout(left.min(LOOK), status.changed()).await; // either way: look again
        }
    }

    /// Whether the checkpoint in the store is that far: another node may have moved it.
    async fn stored_checkpoint(&self, name: &str, position: u64) -> Result<bool, LogError> {
        let pattern = format!("{name}.v%");
        read(&self.log, async move |store: genie_log::store::Store| {
            let sql = "SELECT coalesce(max(position), 0) AS at FROM checkpoints WHERE name LIKE $1";
            let row = sqlx::query(sql).bind(pattern).fetch_one(store.reads()).await?;
            Ok(row.try_get::<i64, _>("at")? as u64 >= position)
        })
        .await
    }
}
