//! Checks the whole log: positions, digests, owners' counters, the tree and its signed heads. A
//! `Verifier` takes rows in their order, wherever they come from. It needs no user's key, so it
//! also works on the facts of forgotten users.
//!
//! It remembers the tree's frontier and the last event of each owner, for up to a million owners.
//! It counts the rows whose owner it could not follow beyond these.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::{
    StoredRow,
    merkle_tree::{self, Frontier, Hash},
    signed_heads::SignedHead,
};

mod stored;
pub use stored::CantVerify;

/// The most owners whose counters are followed: some 50 MB.
const OWNERS: usize = 1 << 20;

/// The first fault: at one position, or somewhere in a range where nothing narrows it down further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Finding {
    /// The first position that may be bad.
    pub first: u64,
    /// The last position that may be the first bad one.
    pub last: u64,
    /// A sentence about the fault.
    pub wrong: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last {
            write!(f, "position {}: {}", self.first, self.wrong)
        } else {
            write!(
                f,
                "between positions {} and {}: {}",
                self.first, self.last, self.wrong
            )
        }
    }
}

impl Finding {
    fn at(position: u64, wrong: impl Into<String>) -> Self {
        Self::between(position, position, wrong)
    }

    fn between(first: u64, last: u64, wrong: impl Into<String>) -> Self {
        Self {
            first: first.min(last),
            last,
            wrong: wrong.into(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// In the store, beside the tree.
    InStore,
    /// Outside, out of reach of whoever holds the store.
    Outside,
}

/// The counts of a check that found everything good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// The rows, from position 1 on.
    pub facts: u64,
    /// The store's signed heads.
    pub heads: u64,
    /// The signed heads that were kept outside.
    pub pinned: u64,
    /// The number of rows that a signed head covers.
    pub covered: u64,
    /// The rows whose owner's counter was not followed, for lack of memory.
    pub uncounted: u64,
}

/// Checks rows and heads in the order of positions.
#[derive(Debug, Default)]
pub struct Verifier {
    frontier: Frontier,
    owners: HashMap<Uuid, u64>,
    /// Heads that are ahead of the rows so far.
    expected: BTreeMap<u64, Vec<(SignedHead, Kept)>>,
    verified: Verified,
}

impl Verifier {
    pub fn new() -> Self {
        Self::default()
    }

    /// The last good position.
    pub fn position(&self) -> u64 {
        self.frontier.size()
    }

    /// Checks the next row. `stored` has the tree's stored hashes from [`merkle_tree::first_index`]
    /// of the row's position on; none where the row is not sealed, or where only rows and heads are
    /// at hand.
    pub fn row(&mut self, row: &StoredRow, stored: &[Option<Hash>]) -> Result<(), Finding> {
        let position = self.position() + 1;
        if row.position > position {
            return Err(Finding::at(
                position,
                "the row is missing; rows were removed",
            ));
        }
        if row.position < position {
            return Err(Finding::at(
                row.position,
                "a second row stands here, or a row before the first position",
            ));
        }
        let stream = format!("the fact {} of {}", row.sequence, row.subject());
        if row.computed_digest()[..] != row.digest[..] {
            return Err(Finding::at(
                position,
                format!("{stream} was changed: its digest does not match"),
            ));
        }
        let hashes = self.frontier.push(merkle_tree::leaf_hash(&row.digest));
        if let Some(Some(leaf)) = stored.first()
            && *leaf != hashes[0]
        {
            let wrong = format!(
                "{stream} is not the fact that was sealed here: the fact was moved, or changed with its digest, or the stored leaf was changed"
            );
            return Err(Finding::at(position, wrong));
        }
        self.count(row)?;
        for (level, (hash, stored)) in hashes.iter().zip(stored).enumerate().skip(1) {
            if stored.is_some_and(|stored| stored != *hash) {
                let first = position + 1 - (1 << level);
                let wrong = "the tree's stored hash over these rows is another: the hash was changed, or the rows and their leaves were";
                return Err(Finding::between(first, position, wrong));
            }
        }
        self.verified.facts = position;
        self.expected
            .remove(&position)
            .unwrap_or_default()
            .iter()
            .try_for_each(|(head, kept)| self.meet(head, *kept))
    }

    /// Takes a head with a good signature, and compares it when the rows have come that far. Heads
    /// come in the order of their sizes, and never for fewer rows than were checked so far.
    pub fn head(&mut self, head: SignedHead, kept: Kept) -> Result<(), Finding> {
        if head.size < self.position() || head.size == 0 {
            let wrong = format!(
                "a head over {} facts comes too late: heads must be in their order",
                head.size
            );
            return Err(Finding::at(self.position(), wrong));
        }
        if head.size == self.position() {
            return self.meet(&head, kept);
        }
        self.expected
            .entry(head.size)
            .or_default()
            .push((head, kept));
        Ok(())
    }

    /// True when a head covers more rows than there were so far.
    pub fn awaits_rows(&self) -> bool {
        !self.expected.is_empty()
    }

    /// Ends the check: there are no further rows.
    pub fn finish(self) -> Result<Verified, Finding> {
        match self.expected.first_key_value() {
            None => Ok(self.verified),
            Some((size, _)) => {
                let wrong = format!(
                    "the row is missing: a head over {size} facts was signed, and the log ends before"
                );
                Err(Finding::at(self.position() + 1, wrong))
            }
        }
    }

    /// Compares a head over all rows so far.
    fn meet(&mut self, head: &SignedHead, kept: Kept) -> Result<(), Finding> {
        if head.root != self.frontier.root() {
            let head_name = match kept {
                Kept::InStore => "the signed head",
                Kept::Outside => "the signed head kept outside",
            };
            let wrong = format!(
                "{head_name} over {} facts has another root: facts were changed after it was signed",
                head.size
            );
            return Err(Finding::between(
                self.verified.covered + 1,
                head.size,
                wrong,
            ));
        }
        self.verified.covered = head.size;
        match kept {
            Kept::InStore => self.verified.heads += 1,
            Kept::Outside => self.verified.pinned += 1,
        }
        Ok(())
    }

    /// Invariant: each owner's events are numbered from 1 without a gap.
    fn count(&mut self, row: &StoredRow) -> Result<(), Finding> {
        let known = self.owners.get(&row.owner).copied();
        if known.is_none() && self.owners.len() >= OWNERS {
            self.verified.uncounted += 1;
            return Ok(());
        }
        let expected = known.unwrap_or(0) + 1;
        if row.owner_seq != expected {
            let wrong = format!(
                "the row is event {} of its owner, where {expected} is the next",
                row.owner_seq
            );
            return Err(Finding::at(row.position, wrong));
        }
        self.owners.insert(row.owner, expected);
        Ok(())
    }
}
