//! Feeds a verifier from the store: rows, the tree's hashes and heads in pages, while others may
//! write.

use std::collections::BTreeMap;

use sqlx::Row;

use crate::{
    LogError, Proofs, StoredRow,
    export::{Export, TransferError},
    merkle_tree::{self, Hash},
    signed_heads::{PublicHeadKey, SignedHead, stored_note},
    store::Store,
    verify::{Finding, Kept, Verified, Verifier},
};

/// The rows of one page; each may have some megabytes.
const PAGE: i64 = 200;

/// Why a verification failed.
#[derive(Debug, thiserror::Error)]
pub enum CantVerify {
    #[error("{0}")]
    Found(#[from] Finding),
    /// A head is invalid, wherever it was kept.
    #[error("{place}: {reason}")]
    Head { place: String, reason: String },
    /// The store cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A file of an export cannot be read, or was changed.
    #[error(transparent)]
    Export(#[from] TransferError),
}

/// Heads that were kept outside, with one read ahead.
struct Pinned<I> {
    notes: I,
    read: u64,
    largest: u64,
    next: Option<SignedHead>,
}

impl<I: Iterator<Item = std::io::Result<String>>> Pinned<I> {
    /// The next head, if it covers at most this many facts.
    fn upto(&mut self, size: u64, key: &PublicHeadKey) -> Result<Option<SignedHead>, CantVerify> {
        if self.next.is_none()
            && let Some(note) = self.notes.next()
        {
            self.read += 1;
            let bad = |reason: String| CantVerify::Head {
                place: format!("pinned head {}", self.read),
                reason,
            };
            let note = note.map_err(|error| bad(error.to_string()))?;
            let head = key.open(&note).map_err(|error| bad(error.to_string()))?;
            if head.size < self.largest {
                return Err(bad(
                    "it covers fewer facts than an earlier head; heads must be in their order"
                        .into(),
                ));
            }
            self.largest = head.size;
            self.next = Some(head);
        }
        Ok(self.next.take_if(|head| head.size <= size))
    }
}

/// One page: rows, the tree's hashes for their positions, and the notes of heads by the last
/// position that they cover.
struct Page {
    rows: Vec<StoredRow>,
    hashes: BTreeMap<u64, Hash>,
    heads: BTreeMap<u64, String>,
}

impl Export {
    /// Checks the rows of an export, and heads that were kept outside, as far as the export goes.
    /// `key` is the log's. It reads files as it goes, so do not call it on a thread that others
    /// wait for.
    pub fn verify(
        &self,
        pinned: impl Iterator<Item = std::io::Result<String>>,
        key: Option<&PublicHeadKey>,
    ) -> Result<Verified, CantVerify> {
        let mut pinned = Pinned {
            notes: pinned,
            read: 0,
            largest: 0,
            next: None,
        };
        let mut verifier = Verifier::new();
        for row in self.rows(0) {
            let row = row?;
            while let Some(key) = key
                && let Some(head) = pinned.upto(row.position, key)?
            {
                verifier.head(head, Kept::Outside)?;
            }
            verifier.row(&row, &[])?;
        }
        Ok(verifier.finish()?)
    }
}

impl Proofs {
    /// Checks everything that is stored, and that the heads kept outside belong to this log. Rows
    /// that are written meanwhile may be checked or not.
    pub async fn verify(
        &self,
        pinned: impl Iterator<Item = std::io::Result<String>>,
    ) -> Result<Verified, CantVerify> {
        let key = self.head_key().await?.public();
        let mut pinned = Pinned {
            notes: pinned,
            read: 0,
            largest: 0,
            next: None,
        };
        let mut verifier = Verifier::new();
        // Read before the rows: whatever is sealed or signed by now must be there when the rows
        // end.
        let (sealed, signed) = self.log().store().run(ends).await?;
        let mut after = i64::MIN; // A row before the first position is a fault, too.
        loop {
            let page = self
                .log()
                .store()
                .run(async move |store: Store| page(&store, after).await)
                .await?;
            if let Some(last) = page.rows.last() {
                after = last.position as i64;
                check(&mut verifier, &page, sealed, &key, &mut pinned)?;
            } else if verifier.awaits_rows() {
                break; // The rows were looked for once more.
            } else {
                // A head kept since the rows were read covers rows that are in the store by now.
                match pinned.upto(u64::MAX, &key)? {
                    Some(head) => verifier.head(head, Kept::Outside)?,
                    None => break,
                }
            }
        }
        let facts = verifier.position();
        if sealed.max(signed) > facts {
            let wrong = format!(
                "the row is missing: {} facts were sealed, and the log ends before",
                sealed.max(signed)
            );
            return Err(Finding {
                first: facts + 1,
                last: facts + 1,
                wrong,
            }
            .into());
        }
        Ok(verifier.finish()?)
    }
}

fn check<I: Iterator<Item = std::io::Result<String>>>(
    verifier: &mut Verifier,
    page: &Page,
    sealed: u64,
    key: &PublicHeadKey,
    pinned: &mut Pinned<I>,
) -> Result<(), CantVerify> {
    for row in &page.rows {
        let indexes = merkle_tree::first_index(row.position)
            ..merkle_tree::first_index(row.position.saturating_add(1));
        let stored: Vec<Option<Hash>> = indexes
            .map(|index| page.hashes.get(&index).copied())
            .collect();
        while let Some(head) = pinned.upto(row.position, key)? {
            verifier.head(head, Kept::Outside)?;
        }
        verifier.row(row, &stored)?;
        if row.position <= sealed && stored.contains(&None) {
            let wrong = "the row was sealed, and hashes of the tree are missing for it".to_owned();
            return Err(Finding {
                first: row.position,
                last: row.position,
                wrong,
            }
            .into());
        }
        if let Some(note) = page.heads.get(&row.position) {
            let place = format!("the signed head over {} facts", row.position);
            let bad = |reason: String| CantVerify::Head { place, reason };
            match key.open(note) {
                Ok(head) if head.size == row.position => verifier.head(head, Kept::InStore)?,
                Ok(head) => return Err(bad(format!("it is over {} facts", head.size))),
                Err(error) => return Err(bad(error.to_string())),
            }
        }
    }
    Ok(())
}

/// The number of rows in the tree, and the number that the newest head covers.
async fn ends(store: Store) -> Result<(u64, u64), LogError> {
    let sql = "SELECT coalesce((SELECT position FROM checkpoints WHERE name = $1), 0) AS sealed, \
         coalesce((SELECT max(size) FROM tree_heads), 0) AS signed";
    let row = sqlx::query(sql)
        .bind(merkle_tree::CHECKPOINT)
        .fetch_one(store.reads())
        .await?;
    Ok((
        row.try_get::<i64, _>("sealed")? as u64,
        row.try_get::<i64, _>("signed")? as u64,
    ))
}

/// The rows after a position; holes are no error here.
async fn page(store: &Store, after: i64) -> Result<Page, LogError> {
    let columns = store.columns();
    let sql =
        format!("SELECT {columns} FROM events WHERE position > $1 ORDER BY position LIMIT {PAGE}");
    let rows = sqlx::query(&sql)
        .bind(after)
        .fetch_all(store.reads())
        .await?;
    let rows = rows
        .iter()
        .map(StoredRow::read)
        .collect::<Result<Vec<_>, _>>()?;
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return Ok(Page {
            rows,
            hashes: BTreeMap::new(),
            heads: BTreeMap::new(),
        });
    };
    let first = first.position;
    let last = last.position;
    let mut db = store.reads().lend().await?;
    let hashes = merkle_tree::read_range(&mut db, first.max(1)..=last).await?;
    let sql = "SELECT size, note FROM tree_heads WHERE size >= $1 AND size <= $2";
    let heads = sqlx::query(sql)
        .bind(first as i64)
        .bind(last as i64)
        .fetch_all(&mut *db)
        .await?;
    let heads = heads
        .iter()
        .map(|row| Ok((row.try_get::<i64, _>("size")? as u64, stored_note(row)?)));
    let heads = heads.collect::<Result<BTreeMap<_, _>, sqlx::Error>>()?;
    db.give_back();
    Ok(Page {
        rows,
        hashes,
        heads,
    })
}
