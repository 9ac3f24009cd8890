//! Election of the one node that runs timers, projections and the sealer: who is elected holds an epoch, and every transaction
//! it writes in that office checks the epoch in the store, so that a node that was stopped and wakes up writes nothing.

use sqlx::{Any, Transaction};
use tokio::sync::watch;

use crate::{Log, LogError, store::Store};

/// A term of office. Each election raises it; what is written in an earlier one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(u64);

/// One node's part in the election.
#[derive(Debug, Clone)]
pub struct Election {
    office: watch::Receiver<Option<Epoch>>,
}

impl Election {
    /// The epoch in which this node is elected now; `None` while another is.
    pub fn now(&self) -> Option<Epoch> {
        *self.office.borrow()
    }

    /// Waits until this node is elected.
    pub async fn elected(&mut self) -> Epoch {
        loop {
            if let Some(epoch) = *self.office.borrow_and_update() {
                return epoch;
            }
            if self.office.changed().await.is_err() {
                std::future::pending::<()>().await; // nobody holds elections any more: this node shuts down
            }
        }
    }
}

impl Log {
    /// Stands for election from now on, for as long as the log is open. `node` names this process.
    pub async fn stand_for_election(&self, node: &str) -> Result<Election, LogError> {
        let mut tx = self.store().durable().await?;
        let sql = "INSERT INTO elections (name, epoch, node, elected_at) VALUES ('genie', 1, $1, $2) \
             ON CONFLICT (name) DO UPDATE SET epoch = elections.epoch + 1, node = excluded.node, elected_at = excluded.elected_at \
             RETURNING epoch";
        let epoch: i64 = sqlx::query_scalar(sql).bind(node).bind(self.clock().now().0).fetch_one(&mut *tx).await?;
        tx.commit().await?;
        let (tell, office) = watch::channel(Some(Epoch(epoch as u64)));
        std::mem::forget(tell);
        Ok(Election { office })
    }
}

impl Store {
    /// A transaction like [`Store::relaxed`] of the elected node: [`LogError::Deposed`] when another was elected since. Until it
    /// ends no other node can be elected.
    pub async fn relaxed_in(&self, epoch: Epoch) -> Result<Transaction<'static, Any>, LogError> {
        check(self.relaxed().await?, epoch).await
    }

    /// The same for a transaction like [`Store::durable`].
    pub async fn durable_in(&self, epoch: Epoch) -> Result<Transaction<'static, Any>, LogError> {
        check(self.durable().await?, epoch).await
    }
}

async fn check(mut tx: Transaction<'static, Any>, epoch: Epoch) -> Result<Transaction<'static, Any>, LogError> {
    let sql = "SELECT epoch FROM elections WHERE name = 'genie'";
    let stored: Option<i64> = sqlx::query_scalar(sql).fetch_optional(&mut *tx).await?;
    match stored == Some(epoch.0 as i64) {
        true => Ok(tx),
        false => Err(LogError::Deposed),
    }
}
