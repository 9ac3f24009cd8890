//! The Merkle tree over the digests of all rows. A leaf's number is position - 1 and its data is
//! the digest; the crate `tlog_tiles` hashes as RFC 6962 says. This file keeps the hashes: the
//! table `tree_hashes` has them by index, and a root or a proof reads one for each level. A reader
//! that goes through the log in order needs to remember only a `Frontier`.

use std::{cell::RefCell, collections::BTreeMap};

use sqlx::Row;
use tlog_tiles::{
    Error, HashReader, stored_hash_index, stored_hashes_for_record_hash, sub_tree_index, tree_hash,
};

pub use tlog_tiles::Hash;

use crate::{LogError, connections::StoreConnection, row_chunks::row_chunks};

/// The name under which `checkpoints` holds the number of rows in the tree.
pub const CHECKPOINT: &str = "tree.v1";

pub fn leaf_hash(digest: &[u8]) -> Hash {
    tlog_tiles::record_hash(digest)
}

/// The index of the first hash that is stored with a position. The hashes of the next position
/// follow.
pub fn first_index(position: u64) -> u64 {
    stored_hash_index(0, position.saturating_sub(1))
}

/// True when the proof shows that the fact with this digest stands at this position, in the tree of
/// that size and root.
pub fn is_included(proof: &[Hash], size: u64, root: Hash, position: u64, digest: &[u8]) -> bool {
    position > 0
        && tlog_tiles::check_record(&proof.to_vec(), size, root, position - 1, leaf_hash(digest))
            .is_ok()
}

/// True when the proof shows that the tree of the first size and root only grew into the second.
pub fn is_consistent(
    proof: &[Hash],
    (old_size, old_root): (u64, Hash),
    (size, root): (u64, Hash),
) -> bool {
    tlog_tiles::check_tree(&proof.to_vec(), size, root, old_size, old_root).is_ok()
}

/// The roots of the full subtrees that make up a tree of this size, from the left: at most 64
/// hashes. The tree's root follows from them. With the leaves to come, so do the roots of all
/// larger trees.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// The frontier of a tree of this size, with the peaks stored at [`Frontier::indexes`]. `None`
    /// when their number is wrong.
    pub fn new(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (Self::indexes(size).len() == peaks.len()).then_some(Self { size, peaks })
    }

    /// The indexes at which the peaks of a tree of this size are stored.
    pub fn indexes(size: u64) -> Vec<u64> {
        sub_tree_index(0, size, vec![])
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn root(&self) -> Hash {
        tree_hash(self.size, self).expect("a root is made of the peaks, which the frontier holds")
    }

    /// Adds a leaf. Answers the hashes to be stored with it, from [`first_index`] of its position:
    /// the leaf's own and those of the subtrees that it fills.
    pub fn push(&mut self, leaf: Hash) -> Vec<Hash> {
        let hashes = stored_hashes_for_record_hash(self.size, leaf, self)
            .expect("a filled subtree is made of peaks, which the frontier holds");
        // Each filled subtree takes up a peak.
        self.peaks.truncate(self.peaks.len() + 1 - hashes.len());
        self.peaks.extend(hashes.last());
        self.size += 1;
        hashes
    }
}

impl HashReader for Frontier {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, Error> {
        let known: BTreeMap<u64, Hash> = Self::indexes(self.size)
            .into_iter()
            .zip(self.peaks.iter().copied())
            .collect();
        indexes
            .iter()
            .map(|index| known.get(index).copied().ok_or(Error::IndexesNotInTree))
            .collect()
    }
}

/// The crate's reader cannot wait for a store. So a first computation notes the hashes that it asks
/// for, they are read, and a second computation finds them.
#[derive(Default)]
struct Noting {
    known: BTreeMap<u64, Hash>,
    asked: RefCell<Vec<u64>>,
}

impl HashReader for Noting {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, Error> {
        let known: Option<Vec<Hash>> = indexes
            .iter()
            .map(|index| self.known.get(index).copied())
            .collect();
        known.ok_or_else(|| {
            self.asked.replace(indexes.to_vec());
            Error::IndexesNotInTree
        })
    }
}

async fn compute<T>(
    db: &mut StoreConnection,
    computation: impl Fn(&Noting) -> Result<T, Error>,
) -> Result<T, LogError> {
    let mut reader = Noting::default();
    if let Ok(done) = computation(&reader) {
        return Ok(done); // The computation needs no hash.
    }
    let asked = reader.asked.take();
    let hashes = read(db, &asked).await?;
    reader.known = asked.into_iter().zip(hashes).collect();
    computation(&reader).map_err(|error| LogError::Tree(error.to_string()))
}

/// The root of the tree over the first `size` rows.
pub(crate) async fn root(db: &mut StoreConnection, size: u64) -> Result<Hash, LogError> {
    compute(db, |reader| tree_hash(size, reader)).await
}

/// The proof that a position is in the tree over the first `size` rows.
pub(crate) async fn prove_inclusion(
    db: &mut StoreConnection,
    size: u64,
    position: u64,
) -> Result<Vec<Hash>, LogError> {
    compute(db, |reader| {
        tlog_tiles::prove_record(size, position - 1, reader)
    })
    .await
}

/// The proof that the tree over the first `size` rows begins with the smaller tree of `old_size`.
pub(crate) async fn prove_consistency(
    db: &mut StoreConnection,
    size: u64,
    old_size: u64,
) -> Result<Vec<Hash>, LogError> {
    compute(db, |reader| tlog_tiles::prove_tree(size, old_size, reader)).await
}

/// The hashes at these indexes, in this order. A missing hash is an error.
pub(crate) async fn read(db: &mut StoreConnection, indexes: &[u64]) -> Result<Vec<Hash>, LogError> {
    if indexes.is_empty() {
        return Ok(vec![]);
    }
    let places: Vec<String> = (1..=indexes.len()).map(|n| format!("${n}")).collect();
    let sql = format!(
        "SELECT hash_index, hash FROM tree_hashes WHERE hash_index IN ({})",
        places.join(", ")
    );
    let mut query = sqlx::query(&sql);
    for index in indexes {
        query = query.bind(*index as i64);
    }
    let mut found = BTreeMap::new();
    for row in query.fetch_all(db).await? {
        found.insert(row.try_get::<i64, _>("hash_index")? as u64, hash(&row)?);
    }
    let missing = |index: &u64| LogError::Tree(format!("hash {index} is missing"));
    indexes
        .iter()
        .map(|index| found.get(index).copied().ok_or_else(|| missing(index)))
        .collect()
}

/// All hashes stored with the positions of a range, by index. Hashes are missing where positions
/// are not sealed yet, or where somebody removed them.
pub(crate) async fn read_range(
    db: &mut StoreConnection,
    positions: std::ops::RangeInclusive<u64>,
) -> Result<BTreeMap<u64, Hash>, LogError> {
    let sql = "SELECT hash_index, hash FROM tree_hashes WHERE hash_index >= $1 AND hash_index < $2";
    let from = first_index(*positions.start());
    let to = first_index(positions.end() + 1);
    let rows = sqlx::query(sql)
        .bind(from as i64)
        .bind(to as i64)
        .fetch_all(db)
        .await?;
    rows.iter()
        .map(|row| Ok((row.try_get::<i64, _>("hash_index")? as u64, hash(row)?)))
        .collect()
}

fn hash(row: &sqlx::any::AnyRow) -> Result<Hash, LogError> {
    let bytes: Vec<u8> = row.try_get("hash")?;
    bytes
        .try_into()
        .map(Hash)
        .map_err(|_| LogError::Tree("a hash does not have 32 bytes".into()))
}

/// Stores hashes from an index on.
pub(crate) async fn insert(
    db: &mut StoreConnection,
    from: u64,
    hashes: &[Hash],
) -> Result<(), LogError> {
    let mut index = from as i64;
    let is_sqlite = db.backend_name() == "SQLite";
    for hashes in row_chunks(hashes) {
        let row = |n: usize| {
            if is_sqlite {
                "(?, ?)".to_owned() // SQLite would look for each name among the names of all
            } else {
                format!("(${}, ${})", 2 * n + 1, 2 * n + 2)
            }
        };
        let values: Vec<String> = (0..hashes.len()).map(row).collect();
        let sql = format!(
            "INSERT INTO tree_hashes (hash_index, hash) VALUES {}",
            values.join(", ")
        );
        let mut query = sqlx::query(&sql);
        for hash in hashes {
            query = query.bind(index).bind(hash.0.to_vec());
            index += 1;
        }
        query.execute(&mut *db).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Certificate Transparency's own test leaves, and the roots of the trees over the first 0 to 8
    /// of them.
    const LEAVES: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    /// The audit path of the first leaf in the tree of all eight.
    const PATH: [&str; 3] = [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ];

    fn stored(leaves: impl Iterator<Item = Hash>) -> (Noting, Vec<Frontier>) {
        let mut reader = Noting::default();
        let mut frontiers = vec![Frontier::default()];
        let mut next = 0;
        for leaf in leaves {
            let mut frontier = frontiers[frontiers.len() - 1].clone();
            assert_eq!(next, first_index(frontier.size() + 1));
            for hash in frontier.push(leaf) {
                reader.known.insert(next, hash);
                next += 1;
            }
            frontiers.push(frontier);
        }
        (reader, frontiers)
    }

    #[test]
    fn roots_and_paths_equal_those_of_certificate_transparency() {
        let (reader, frontiers) = stored(LEAVES.iter().map(|data| leaf_hash(data)));
        for (size, root) in ROOTS.iter().enumerate() {
            assert_eq!(hex::encode(frontiers[size].root().0), *root);
            assert_eq!(
                hex::encode(tree_hash(size as u64, &reader).unwrap().0),
                *root
            );
        }
        let path = tlog_tiles::prove_record(8, 0, &reader).unwrap();
        assert_eq!(
            path.iter()
                .map(|hash| hex::encode(hash.0))
                .collect::<Vec<_>>(),
            PATH
        );
        assert_eq!(tlog_tiles::prove_tree(8, 1, &reader).unwrap(), path);
    }

    #[test]
    fn a_frontier_is_restored_from_the_stored_hashes() {
        let (reader, frontiers) = stored((0..100u8).map(|n| leaf_hash(&[n])));
        for (size, frontier) in (0..).zip(&frontiers) {
            let peaks = reader.read_hashes(&Frontier::indexes(size)).unwrap();
            assert!(
                Frontier::new(size, peaks[..peaks.len().saturating_sub(1)].to_vec()).is_none()
                    || size == 0
            );
            assert_eq!(Frontier::new(size, peaks).as_ref(), Some(frontier));
        }
    }

    #[test]
    fn every_proof_holds_and_fails_with_any_flipped_bit() {
        let digests: Vec<[u8; 32]> = (0..21u8).map(|n| leaf_hash(&[n]).0).collect();
        let (reader, frontiers) = stored(digests.iter().map(|digest| leaf_hash(digest)));
        let flipped = |proof: &[Hash]| {
            let proof = proof.to_vec();
            (0..proof.len() * 256).map(move |bit| {
                let mut proof = proof.clone();
                proof[bit / 256].0[bit % 256 / 8] ^= 1 << (bit % 8);
                proof
            })
        };
        for size in 1..=digests.len() as u64 {
            let root = frontiers[size as usize].root();
            for position in 1..=size {
                let digest = &digests[position as usize - 1];
                let proof = tlog_tiles::prove_record(size, position - 1, &reader).unwrap();
                assert!(is_included(&proof, size, root, position, digest));
                assert!(
                    !is_included(&proof, size, root, position - 1, digest)
                        && !is_included(&proof, size, root, position + 1, digest)
                );
                assert!(!is_included(
                    &proof,
                    size,
                    frontiers[size as usize - 1].root(),
                    position,
                    digest
                ));
                assert!(
                    flipped(&proof).all(|proof| !is_included(&proof, size, root, position, digest))
                );

                let old = (position, frontiers[position as usize].root());
                let proof = tlog_tiles::prove_tree(size, position, &reader).unwrap();
                assert!(is_consistent(&proof, old, (size, root)));
                assert!(
                    !is_consistent(&proof, (position, leaf_hash(b"other")), (size, root))
                        || position == size
                );
                assert!(flipped(&proof).all(|proof| !is_consistent(&proof, old, (size, root))));
            }
        }
    }
}
