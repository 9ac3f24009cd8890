//! Proofs for others: that a fact stands in the log under a signed head, and that the log only grew
//! since an earlier head. Each proof is checked before it is handed out.

use uuid::Uuid;

use crate::{
    Log, LogError, StoredRow,
    connections::StoreConnection,
    merkle_tree::{self, Hash},
    signed_heads::{BadHead, PublicHeadKey, SignedHead},
    store::Store,
};

#[derive(Debug, Clone, PartialEq)]
pub struct Proof {
    pub position: u64,
    pub event_id: Uuid,
    /// The SHA-256 of the fact's row.
    pub digest: Vec<u8>,
    pub leaf: Hash,
    /// The audit path from the leaf to the head's root (RFC 6962, 2.1.1).
    pub path: Vec<Hash>,
    pub head: SignedHead,
    /// When asked for: the proof that this head's tree begins with a smaller one (RFC 6962, 2.1.2).
    pub growth: Option<Growth>,
}

/// The proof that the log only grew.
#[derive(Debug, Clone, PartialEq)]
pub struct Growth {
    pub from: u64,
    /// The root of the smaller tree, computed now. Somebody who kept a head of that size compares
    /// the two.
    pub root: Hash,
    pub proof: Vec<Hash>,
}

#[derive(Debug, thiserror::Error)]
pub enum CantProve {
    /// The log has no such position.
    #[error("There is no fact at position {position}; the log has {facts}")]
    NotThere {
        position: u64,
        /// The number of facts in the log.
        facts: u64,
    },
    /// No signed head covers the position yet.
    #[error(
        "Position {position} is not sealed yet: the newest signed head covers {signed} facts; ask again in a few seconds"
    )]
    NotSealed {
        position: u64,
        /// The number of facts that the newest head covers.
        signed: u64,
    },
    /// There was no tree of that size.
    #[error("`from` must be the size of an earlier tree, from 1 to {signed}")]
    NoSuchSize {
        /// The number of facts that the newest head covers.
        signed: u64,
    },
    /// The store is away, or the stored tree does not prove the fact.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Proofs about the log, its signed heads, and the check of the whole. See [`Log::proofs`].
#[derive(Debug, Clone)]
pub struct Proofs(Log);

impl Log {
    /// Proofs about the log, its signed heads, and the check of the whole.
    pub fn proofs(&self) -> Proofs {
        Proofs(self.clone())
    }
}

impl Proofs {
    pub(crate) fn log(&self) -> &Log {
        &self.0
    }

    /// Proves that the fact at a position is in the log, and on demand that the log only grew since
    /// it had `from` facts.
    pub async fn prove(&self, position: u64, from: Option<u64>) -> Result<Proof, CantProve> {
        let row = match position {
            0 => None,
            _ if i64::try_from(position).is_err() => None,
            _ => self
                .0
                .reader()
                .rows(position - 1, 1)
                .await?
                .into_iter()
                .next(),
        };
        let Some(row) = row else {
            return Err(CantProve::NotThere {
                position,
                facts: self.0.reader().head(),
            });
        };
        let key = self.head_key().await?.public();
        let head = self
            .newest_note()
            .await?
            .map(|note| open(&key, &note))
            .transpose()?;
        let signed = head.as_ref().map_or(0, |head| head.size);
        let Some(head) = head.filter(|head| head.size >= position) else {
            return Err(CantProve::NotSealed { position, signed });
        };
        if from.is_some_and(|from| from == 0 || from > signed) {
            return Err(CantProve::NoSuchSize { signed });
        }
        let proof = async move |store: Store| {
            let mut db = store.reads().lend().await?;
            let path = merkle_tree::prove_inclusion(&mut db, head.size, position).await?;
            let growth = match from {
                Some(from) => Some(grown(&mut db, from, head.size).await?),
                None => None,
            };
            db.give_back();
            let leaf = merkle_tree::leaf_hash(&row.digest);
            let event_id = row.event_id;
            let digest = row.digest.clone();
            check(
                Proof {
                    position,
                    event_id,
                    digest,
                    leaf,
                    path,
                    head,
                    growth,
                },
                &row,
            )
        };
        Ok(self.0.store().run(proof).await?)
    }
}

fn open(key: &PublicHeadKey, note: &str) -> Result<SignedHead, LogError> {
    key.open(note).map_err(|reason: BadHead| {
        LogError::Tree(format!("the newest signed head is invalid: {reason}"))
    })
}

async fn grown(db: &mut StoreConnection, from: u64, size: u64) -> Result<Growth, LogError> {
    Ok(Growth {
        from,
        root: merkle_tree::root(db, from).await?,
        proof: merkle_tree::prove_consistency(db, size, from).await?,
    })
}

/// A proof that does not hold is never handed out.
fn check(proof: Proof, row: &StoredRow) -> Result<Proof, LogError> {
    let Proof {
        position,
        digest,
        path,
        head,
        growth,
        ..
    } = &proof;
    if row.computed_digest()[..] != row.digest[..] {
        return Err(row.damaged("its digest does not match"));
    }
    if !merkle_tree::is_included(path, head.size, head.root, *position, digest) {
        return Err(row.damaged("it is not the fact that was sealed at this position"));
    }
    let holds = |growth: &Growth| {
        merkle_tree::is_consistent(
            &growth.proof,
            (growth.from, growth.root),
            (head.size, head.root),
        )
    };
    if !growth.as_ref().is_none_or(holds) {
        return Err(LogError::Tree(
            "the newest head did not grow out of the stored tree".into(),
        ));
    }
    Ok(proof)
}
