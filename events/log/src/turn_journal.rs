//! The journal: the text of running turns. A reader is shown only what is committed here. One task
//! writes for all streams, in batches of whatever waits, and without an fsync of its own: shown
//! text survives kill -9, but not a power cut.
//!
//! Invariant: a piece is written only while its node holds the turn's lease. So once another node
//! has taken the lease, the journal holds all that any reader was shown.

use std::sync::Arc;

use genie_events::{TurnId, UserId};
use serde_json::{Value, json};
use sqlx::Row;
use tokio::sync::{mpsc, oneshot};

use crate::{Epoch, Log, LogError, UserKeys, append_sqlite::SqliteTx, store::Store};

/// The task that writes.
mod writer;
use writer::JournalWriter;

/// The pieces that may wait for the journal's task; beyond that the writers wait.
const QUEUE: usize = 1024;
const COLUMN: &str = "journal.sealed";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalOutcome {
    /// The piece may be shown.
    Committed,
    /// This node does not hold the turn's lease any more: nothing was written.
    LeaseLost,
}

struct Piece {
    turn: TurnId,
    upto: u64,
    sealed: Vec<u8>,
    committed: oneshot::Sender<Result<JournalOutcome, LogError>>,
}

/// The queue of the journal's task.
#[derive(Debug, Clone)]
pub struct Journal {
    queue: mpsc::Sender<Piece>,
}

impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Piece({} up to {})", self.turn, self.upto)
    }
}

/// The text of a turn from a place on, in bytes.
#[derive(Debug)]
pub struct JournalText {
    pub begin: u64,
    pub text: String,
}

/// The journals of running turns. See [`Log::journals`].
#[derive(Debug, Clone)]
pub struct TurnJournals(Log);

impl Log {
    /// The journals of running turns.
    pub fn journals(&self) -> TurnJournals {
        TurnJournals(self.clone())
    }
}

impl TurnJournals {
    /// Starts the journal's task on the current runtime, which must be the one that owns the
    /// store's connections. It writes for turns whose lease this node holds.
    pub fn start(&self, node: &str) -> Journal {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let writer = JournalWriter::new(self.0.store().clone(), node);
        tokio::spawn(writer.run(waiting));
        Journal { queue }
    }

    /// Deletes the pieces of turns that have ended. A turn that runs has a lease.
    pub async fn drop_leftovers(&self, epoch: Epoch) -> Result<u64, LogError> {
        let delete = async move |store: Store| {
            let sql = "DELETE FROM journal WHERE NOT EXISTS ( \
                           SELECT 1 FROM leases l WHERE l.kind = 'turn' AND l.id = journal.turn_id)";
            let mut tx = store.relaxed_in(epoch).await?;
            let deleted = sqlx::query(sql).execute(&mut *tx).await?.rows_affected();
            tx.commit().await?;
            Ok(deleted)
        };
        self.0.store().run(delete).await
    }

    /// The committed text of a turn so far.
    pub async fn text(&self, turn: TurnId, user: UserId) -> Result<String, LogError> {
        Ok(self.text_after(turn, user, 0).await?.text)
    }

    /// The committed pieces that end after a place, so that a reader who goes on reads nothing twice.
    pub async fn text_after(
        &self,
        turn: TurnId,
        user: UserId,
        after: u64,
    ) -> Result<JournalText, LogError> {
        let keys = self.0.keys().live(user).await?;
        let read = async move |store: Store| {
            let sql = "SELECT upto, sealed FROM journal WHERE turn_id = $1 AND user_id = $2 AND upto > $3 ORDER BY upto";
            let rows = sqlx::query(sql)
                .bind(turn.to_string())
                .bind(user.to_string())
                .bind(i64::try_from(after).unwrap_or(i64::MAX))
                .fetch_all(store.reads())
                .await?;
            let mut text = String::new();
            let mut upto = after;
            for row in rows {
                upto = row.try_get::<i64, _>("upto")? as u64;
                let sealed: Vec<u8> = row.try_get("sealed")?;
                let damaged = |reason| {
                    LogError::Statement(format!("the journal of turn {turn} is damaged: {reason}"))
                };
                text.push_str(&keys.open_text(COLUMN, &sealed).map_err(damaged)?);
            }
            let begin = upto.saturating_sub(text.len() as u64);
            Ok(JournalText { begin, text })
        };
        self.0.store().run(read).await
    }
}

impl Journal {
    /// Writes a piece that brings the answer to `upto` bytes, and waits until it is committed.
    /// Writing the same piece again is no error.
    pub async fn write(
        &self,
        turn: TurnId,
        keys: &Arc<UserKeys>,
        upto: u64,
        text: &str,
    ) -> Result<JournalOutcome, LogError> {
        let (committed, answer) = oneshot::channel();
        let piece = Piece {
            turn,
            upto,
            sealed: keys.seal_text(COLUMN, text),
            committed,
        };
        let stopped = || LogError::Away("the journal has stopped".into());
        self.queue.send(piece).await.map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// A turn's pieces, in the transaction of a fact.
#[derive(Debug, Clone)]
pub enum JournalRow {
    /// They go: the answer is in the log now.
    Prune { turn_id: String },
}

impl JournalRow {
    pub(crate) fn json(&self) -> Value {
        let Self::Prune { turn_id } = self;
        json!({"t": "prune_journal", "turn_id": turn_id})
    }

    pub(crate) async fn write(&self, tx: &mut SqliteTx<'_>) -> Result<(), sqlx::Error> {
        let Self::Prune { turn_id } = self;
        sqlx::query("DELETE FROM journal WHERE turn_id = $1")
            .bind(turn_id)
            .execute(&mut **tx)
            .await
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        leases::LeaseKind,
        testing::{TestStore, both_stores, turn_lease},
    };

    both_stores!(
        a_journal_is_read_from_a_place_and_dropped_when_its_turn_has_no_lease,
        async |store: TestStore| {
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            let mut election = log.elections().stand("node").await.unwrap();
            let epoch = election.elected().await;
            let keys = log.keys().live(ada).await.unwrap();
            let journals = log.journals();
            let journal = journals.start("node");
            let (running, ended) = (
                TurnId(log.clock().new_uuid()),
                TurnId(log.clock().new_uuid()),
            );
            for turn in [running, ended] {
                store.tamper(&turn_lease(turn, ada, "node")).await;
                for (upto, piece) in [(3, "one"), (7, " two")] {
                    let written = journal.write(turn, &keys, upto, piece).await.unwrap();
                    assert_eq!(written, JournalOutcome::Committed);
                }
            }
            let rest = journals.text_after(running, ada, 4).await.unwrap();
            assert_eq!((rest.begin, rest.text.as_str()), (3, " two"));
            let none = journals.text_after(running, ada, 7).await.unwrap();
            assert_eq!((none.begin, none.text.as_str()), (7, ""));

            let leases = log.leases();
            leases
                .remove(LeaseKind::Turn, &ended.to_string(), "node")
                .await
                .unwrap();
            assert_eq!(journals.drop_leftovers(epoch).await.unwrap(), 2);
            assert_eq!(journals.text(running, ada).await.unwrap(), "one two");
            assert_eq!(journals.text(ended, ada).await.unwrap(), "");
        }
    );

    both_stores!(
        a_piece_is_written_only_under_the_lease_of_its_turn,
        async |store: TestStore| {
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            let keys = log.keys().live(ada).await.unwrap();
            let journals = log.journals();
            let journal = journals.start("node");
            let turns: Vec<TurnId> = (0..40).map(|_| TurnId(log.clock().new_uuid())).collect();
            for (n, turn) in turns.iter().enumerate() {
                let holder = if n % 3 == 0 { "another" } else { "node" };
                store.tamper(&turn_lease(*turn, ada, holder)).await;
            }
            // Together, so that batches hold pieces of both kinds; and twice, as after a lost answer.
            for _ in 0..2 {
                let write = |turn: &TurnId| journal.write(*turn, &keys, 3, "one");
                let written = futures_util::future::join_all(turns.iter().map(write)).await;
                for (n, written) in written.into_iter().enumerate() {
                    let expected = if n % 3 == 0 {
                        JournalOutcome::LeaseLost
                    } else {
                        JournalOutcome::Committed
                    };
                    assert_eq!(written.unwrap(), expected, "piece {n}");
                    let text = journals.text(turns[n], ada).await.unwrap();
                    assert_eq!(text.is_empty(), n % 3 == 0, "piece {n}: {text}");
                }
            }
        }
    );
}
