//! Elects the leader: the one node that runs timers, projections and the head signer. The leader
//! holds an epoch, the number of its term.
//!
//! Invariant: every transaction of the leader checks the epoch in the store, and keeps it from
//! being raised until the transaction ends. So a node that was stopped, cut off or slow writes
//! nothing once another is elected, whatever it believes. The epoch alone gives this safety; locks,
//! heartbeats and clocks only decide how soon another node is elected.

use std::sync::Arc;

use sqlx::Row;
use tokio::{sync::watch, time::Instant};

use crate::{
    Log, LogError, StoreTransaction,
    store::{Store, Writing},
};

mod candidate;
use candidate::{Candidate, SILENT};

/// The number of a term. Each election raises it; a write of an earlier term is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(i64);

impl Epoch {
    pub fn number(self) -> i64 {
        self.0
    }
}

/// The time in which a node may believe that it leads.
#[derive(Debug, Clone, Copy)]
struct Term {
    epoch: Epoch,
    /// The end of the term, unless a heartbeat comes before. `None` on an embedded store, where no
    /// other node can be elected.
    until: Option<Instant>,
}

impl Term {
    fn at(self, now: Instant) -> Option<Epoch> {
        self.until
            .is_none_or(|until| now < until)
            .then_some(self.epoch)
    }
}

/// One node's part in the election. The node stands while any clone of this exists.
#[derive(Debug, Clone)]
pub struct Election {
    office: watch::Receiver<Option<Term>>,
    /// Keeps the channel open on an embedded store, which has no candidate's task.
    _embedded: Option<Arc<watch::Sender<Option<Term>>>>,
}

impl Election {
    /// The epoch in which this node leads now; `None` while it does not. A process that was stopped
    /// and continues learns from its own clock, before the store answers, that its term may be over.
    pub fn now(&self) -> Option<Epoch> {
        self.office
            .borrow()
            .and_then(|term| term.at(Instant::now()))
    }

    /// Waits until this node leads.
    pub async fn elected(&mut self) -> Epoch {
        self.elected_past(None).await
    }

    /// Waits until this node is elected again. For a caller that got [`LogError::Deposed`], perhaps
    /// before the node knew.
    pub async fn elected_again(&mut self, deposed: Epoch) -> Epoch {
        self.elected_past(Some(deposed)).await
    }

    async fn elected_past(&mut self, past: Option<Epoch>) -> Epoch {
        loop {
            let term = *self.office.borrow_and_update();
            let epoch = term.and_then(|term| term.at(Instant::now()));
            match epoch.filter(|epoch| Some(*epoch) > past) {
                Some(epoch) => return epoch,
                None if self.office.changed().await.is_ok() => {}
                // Nobody holds elections any more: this node shuts down.
                None => std::future::pending().await,
            }
        }
    }
}

/// The attempts to write to an embedded store at a start; each takes some seconds.
const TRIES_TO_START: u32 = 10;

/// The leader, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elected {
    pub epoch: Epoch,
    pub node: String,
}

/// The leader, and the way to stand for election. See [`Log::elections`].
#[derive(Debug, Clone)]
pub struct Elections(Log);

impl Log {
    /// The leader, and the way to stand for election.
    pub fn elections(&self) -> Elections {
        Elections(self.clone())
    }
}

impl Elections {
    /// Stands for election from now on. `node` names this process. The one process of an embedded
    /// store is elected at once.
    pub async fn stand(&self, node: &str) -> Result<Election, LogError> {
        let Some(options) = self.0.store().postgres() else {
            return self.elect_the_only_one(node).await;
        };
        let (tell, office) = watch::channel(None);
        self.0
            .store()
            .io()
            .spawn(Candidate::new(&options, node, tell).stand());
        Ok(Election {
            office,
            _embedded: None,
        })
    }

    async fn elect_the_only_one(&self, node: &str) -> Result<Election, LogError> {
        let node = node.to_owned();
        let now = self.0.clock().now();
        let raise = async move |store: Store| {
            let mut tx = store.durable().await?;
            let sql = "UPDATE elections SET epoch = epoch + 1, node = $1, elected_at = $2 WHERE name = 'genie' RETURNING epoch";
            let epoch = sqlx::query_scalar(sql)
                .bind(&node)
                .bind(now.0)
                .fetch_one(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(Epoch(epoch))
        };
        let mut tries = 1..=TRIES_TO_START;
        let epoch = loop {
            match self.0.store().run(raise.clone()).await {
                // The WAL is being emptied, and each attempt waits for seconds.
                Err(LogError::Away(_)) if tries.next().is_some() => {}
                raised => break raised?,
            }
        };
        let (tell, office) = watch::channel(Some(Term { epoch, until: None }));
        Ok(Election {
            office,
            _embedded: Some(Arc::new(tell)),
        })
    }

    /// The leader. `None` when there is none, or when it has not renewed for too long.
    pub async fn elected(&self) -> Result<Option<Elected>, LogError> {
        self.0.store()
            .run(async move |store: Store| {
                let silence = match store.writing {
                    Writing::Postgres(_) => "abs(micros_now() - renewed_at)",
                    Writing::Sqlite(..) => "0",
                };
                let sql = format!("SELECT epoch, node, {silence} AS silence FROM elections WHERE name = 'genie' AND epoch > 0");
                let Some(row) = sqlx::query(&sql).fetch_optional(store.reads()).await? else { return Ok(None) };
                let elected = Elected { epoch: Epoch(row.try_get("epoch")?), node: row.try_get("node")? };
                Ok((row.try_get::<i64, _>("silence")? <= SILENT.as_micros() as i64).then_some(elected))
            })
            .await
    }
}

impl Store {
    /// A transaction like [`Store::relaxed`], for the leader: [`LogError::Deposed`] when another
    /// node was elected since. No other node is elected until it ends, unless it takes so long that
    /// it is ended.
    pub async fn relaxed_in(&self, epoch: Epoch) -> Result<StoreTransaction, LogError> {
        self.check(self.relaxed().await?, epoch).await
    }

    /// The same for a transaction like [`Store::durable`].
    pub async fn durable_in(&self, epoch: Epoch) -> Result<StoreTransaction, LogError> {
        self.check(self.durable().await?, epoch).await
    }

    async fn check(
        &self,
        mut tx: StoreTransaction,
        epoch: Epoch,
    ) -> Result<StoreTransaction, LogError> {
        let is_present: bool = match self.writing {
            Writing::Postgres(_) => {
                sqlx::query_scalar("SELECT in_office($1)")
                    .bind(epoch.0)
                    .fetch_one(&mut *tx)
                    .await?
            }
            // On SQLite a writing transaction excludes all others, elections too.
            Writing::Sqlite(..) => {
                let sql = "SELECT 1 FROM elections WHERE name = 'genie' AND epoch = $1";
                sqlx::query(sql)
                    .bind(epoch.0)
                    .fetch_optional(&mut *tx)
                    .await?
                    .is_some()
            }
        };
        if is_present {
            Ok(tx)
        } else {
            Err(LogError::Deposed)
        }
    }
}

#[cfg(test)]
mod tests;
