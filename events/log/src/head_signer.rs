//! The head signer: the leader's task that follows the log, checks each row's digest, keeps the
//! tree and signs its heads.
//!
//! Invariant: the hashes of a batch and the checkpoint go in one transaction, which checks the
//! term. A head is signed only when the stored tree has that root and grew out of the last head. So
//! a crash or a repeated step leaves nothing to repair. Anything that does not fit stops the head
//! signer until the server restarts, and the earlier heads remain as evidence.

use std::{convert::Infallible, time::Duration};

use sqlx::Row;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{error, info, warn};

use crate::{
    Log, LogError, StoreTransaction, StoredRow,
    election::{Election, Epoch},
    merkle_tree::{self, Frontier},
    signed_heads::{self, HeadKey, PublicHeadKey, SignedHead},
    store::in_time,
};

/// The rows of one transaction.
const BATCH: usize = 500;
/// The pause after the store was away or another node became the leader.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadSignerState {
    /// Another node leads.
    Waiting,
    /// The head signer follows the log.
    Sealing,
    /// A fault stopped the head signer. The sentence names the position and the stream where it
    /// can.
    Stopped(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadSignerStatus {
    pub state: HeadSignerState,
    /// The number of rows in the tree; 0 on a node that never led.
    pub sealed: u64,
    /// The number of rows that the newest signed head covers.
    pub signed: u64,
}

/// A running head signer, as others see it.
#[derive(Debug, Clone)]
pub struct Sealing {
    pub status: watch::Receiver<HeadSignerStatus>,
    /// The newest head that this node found or signed while it led. Each head covers those before
    /// it, so a slow reader misses nothing.
    pub heads: watch::Receiver<Option<SignedHead>>,
}

/// Starts the head signer on the runtime that owns the store's connections. It signs a head
/// whenever there are new rows, at most once in `every`, and when a long catching up is done.
pub async fn start(log: &Log, election: Election, every: Duration) -> Result<Sealing, LogError> {
    let key = log.proofs().head_key().await?;
    let (status, told_status) = watch::channel(HeadSignerStatus {
        state: HeadSignerState::Waiting,
        sealed: 0,
        signed: 0,
    });
    let (heads, told_heads) = watch::channel(None);
    let signer = HeadSigner {
        log: log.clone(),
        public: key.public(),
        key,
        every,
        status: status.clone(),
        heads,
    };
    let running = log.store().io().spawn(signer.run(election));
    log.store().io().spawn(async move {
        if let Err(stopped) = running.await {
            error!(%stopped, "head signer: panicked; no head is signed until a restart");
            status.send_modify(|status| {
                status.state = HeadSignerState::Stopped("a panic; see the server's log".into())
            });
        }
    });
    Ok(Sealing {
        status: told_status,
        heads: told_heads,
    })
}

struct HeadSigner {
    log: Log,
    key: HeadKey,
    public: PublicHeadKey,
    every: Duration,
    status: watch::Sender<HeadSignerStatus>,
    heads: watch::Sender<Option<SignedHead>>,
}

impl HeadSigner {
    /// Serves whenever this node leads, until something does not fit.
    async fn run(self, mut election: Election) {
        loop {
            let epoch = election.elected().await;
            let Err(ended) = self.serve(epoch).await;
            match ended {
                LogError::Deposed => {
                    info!("head signer: another server leads and continues the tree");
                    self.status
                        .send_modify(|status| status.state = HeadSignerState::Waiting);
                }
                LogError::Away(reason) => {
                    warn!(
                        reason,
                        "head signer: the store does not answer; trying again"
                    )
                }
                error => {
                    error!(%error, "head signer: the log does not fit its tree; no head is signed until a restart");
                    self.status.send_modify(|status| {
                        status.state = HeadSignerState::Stopped(error.to_string())
                    });
                    return;
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Seals until another node leads or an error occurs.
    async fn serve(&self, epoch: Epoch) -> Result<Infallible, LogError> {
        let mut frontier = in_time(self.resume(epoch)).await?;
        let mut follower = self.log.reader().follow(frontier.size());
        let mut signed_at = Instant::now();
        loop {
            self.status.send_modify(|status| {
                status.state = HeadSignerState::Sealing;
                status.sealed = frontier.size();
            });
            let is_at_head = frontier.size() >= self.log.reader().head();
            let has_news = frontier.size() > self.status.borrow().signed;
            if has_news && (is_at_head || signed_at.elapsed() >= self.every) {
                let head = in_time(self.sign(epoch, &frontier)).await?;
                self.tell(head);
                signed_at = Instant::now();
                if is_at_head {
                    // The next head covers what happens meanwhile, with few transactions for all of
                    // it.
                    sleep(self.every).await;
                }
            }
            let rows = follower.next(BATCH).await?;
            let mut grown = frontier.clone();
            let mut hashes = Vec::with_capacity(2 * rows.len());
            for row in &rows {
                hashes.extend(grown.push(checked_leaf(row, grown.size() + 1)?));
            }
            in_time(self.store(epoch, frontier.size(), grown.size(), &hashes)).await?;
            frontier = grown;
        }
    }

    fn tell(&self, head: SignedHead) {
        self.status.send_modify(|status| status.signed = head.size);
        self.heads.send_replace(Some(head));
    }

    /// The tree's frontier, checked against the log and the last head.
    async fn resume(&self, epoch: Epoch) -> Result<Frontier, LogError> {
        let mut tx = self.log.store().relaxed_in(epoch).await?;
        sqlx::query(
            "INSERT INTO checkpoints (name, position) VALUES ($1, 0) ON CONFLICT (name) DO NOTHING",
        )
        .bind(merkle_tree::CHECKPOINT)
        .execute(&mut *tx)
        .await?;
        let size: i64 = sqlx::query_scalar("SELECT position FROM checkpoints WHERE name = $1")
            .bind(merkle_tree::CHECKPOINT)
            .fetch_one(&mut *tx)
            .await?;
        let size = size as u64;
        let peaks = merkle_tree::read(&mut tx, &Frontier::indexes(size)).await?;
        let leaf = match size {
            0 => None,
            _ => merkle_tree::read(&mut tx, &[merkle_tree::first_index(size)])
                .await?
                .pop(),
        };
        let head = self.newest_head(&mut tx).await?;
        tx.commit().await?;
        // Without this check, a log that was cut off or set back would grow again over sealed
        // positions, unnoticed.
        if let Some(leaf) = leaf {
            match self.log.reader().rows(size - 1, 1).await?.first() {
                Some(row) if checked_leaf(row, size)? == leaf => {}
                Some(row) => return Err(row.damaged("it is not the one that was sealed there")),
                None => {
                    return Err(LogError::Tree(format!(
                        "position {size} was sealed and is gone from the log"
                    )));
                }
            }
        }
        if let Some(head) = head {
            if head.size > size {
                let reason = format!(
                    "a head over {} facts was signed, but only {size} are in the tree",
                    head.size
                );
                return Err(LogError::Tree(reason));
            }
            self.tell(head);
        }
        Frontier::new(size, peaks)
            .ok_or_else(|| LogError::Tree("the tree has another size than its checkpoint".into()))
    }

    async fn store(
        &self,
        epoch: Epoch,
        from: u64,
        to: u64,
        hashes: &[merkle_tree::Hash],
    ) -> Result<(), LogError> {
        let mut tx = self.log.store().relaxed_in(epoch).await?;
        let moved = sqlx::query(
            "UPDATE checkpoints SET position = $3, epoch = $4 WHERE name = $1 AND position = $2",
        )
        .bind(merkle_tree::CHECKPOINT)
        .bind(from as i64)
        .bind(to as i64)
        .bind(epoch.number())
        .execute(&mut *tx)
        .await?;
        if moved.rows_affected() != 1 {
            // An earlier attempt of this node timed out and was carried out after all.
            return Err(LogError::Away(
                "the tree's checkpoint moved meanwhile".into(),
            ));
        }
        merkle_tree::insert(&mut tx, merkle_tree::first_index(from + 1), hashes).await?;
        Ok(tx.commit().await?)
    }

    /// Signs the head of the whole tree, once the tree is known to have grown out of the last head.
    async fn sign(&self, epoch: Epoch, frontier: &Frontier) -> Result<SignedHead, LogError> {
        let size = frontier.size();
        let root = frontier.root();
        let mut tx = self.log.store().durable_in(epoch).await?;
        if merkle_tree::root(&mut tx, size).await? != root {
            return Err(LogError::Tree(format!(
                "the stored hashes over {size} facts have another root than the facts"
            )));
        }
        if let Some(last) = self.newest_head(&mut tx).await? {
            if last.size == size && last.root == root {
                return Ok(last); // An earlier attempt timed out and was carried out after all.
            }
            let grew = last.size < size && {
                let proof = merkle_tree::prove_consistency(&mut tx, size, last.size).await?;
                merkle_tree::is_consistent(&proof, (last.size, last.root), (size, root))
            };
            if !grew {
                let reason = format!(
                    "the tree over {size} facts did not grow out of the signed head over {}",
                    last.size
                );
                return Err(LogError::Tree(reason));
            }
        }
        let unsigned = |error| {
            LogError::Tree(format!(
                "the head over {size} facts cannot be signed: {error}"
            ))
        };
        let head = self.key.sign(size, root).map_err(unsigned)?;
        let signed =
            sqlx::query("INSERT INTO tree_heads (size, note, signed_at) VALUES ($1, $2, $3) ON CONFLICT (size) DO NOTHING")
                .bind(size as i64)
                .bind(&head.note)
                .bind(self.log.clock().now().0)
                .execute(&mut *tx)
                .await?;
        if signed.rows_affected() != 1 {
            return Err(LogError::Away(
                "an earlier attempt to sign timed out and ended only now".into(),
            ));
        }
        tx.commit().await?;
        Ok(head)
    }

    async fn newest_head(&self, tx: &mut StoreTransaction) -> Result<Option<SignedHead>, LogError> {
        let Some(row) = sqlx::query(signed_heads::NEWEST)
            .fetch_optional(&mut **tx)
            .await?
        else {
            return Ok(None);
        };
        let note: String = row.try_get("note")?;
        let bad = |reason| LogError::Tree(format!("the newest signed head is invalid: {reason}"));
        self.public.open(&note).map(Some).map_err(bad)
    }
}

/// The leaf of a row, after a check of its position and digest.
fn checked_leaf(row: &StoredRow, expected: u64) -> Result<merkle_tree::Hash, LogError> {
    if row.position != expected {
        return Err(LogError::Hole { missing: expected });
    }
    if !row.has_its_digest() {
        return Err(row.damaged("its digest does not match"));
    }
    Ok(merkle_tree::leaf_hash(&row.digest))
}
