//! The trait of every projection, and the task that drives one, on the leader only.
//!
//! Invariant: rows and checkpoint go in one transaction, which checks the term and moves the
//! checkpoint by compare-and-set. So no fact is applied twice.
//!
//! A damaged row stops its own stream in this projection and is recorded with its position; the
//! other streams go on. Any other error stops the projection until this node is elected again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use genie_events::{Event, StreamId, StreamKind, Timestamp, UserId, account::FORGOTTEN};
use genie_log::{
    Damaged, Election, Epoch, Fact, FactBody, Log, LogError, StoreTransaction, StoredRow, UserKeys,
    forgetting::UserRows,
    store::{Store, in_time},
};
use sqlx::Row;
use tracing::{error, info, warn};

use crate::progress::Progress;

/// A transaction on either store.
pub type Tx = StoreTransaction;

/// At most this many facts go in one transaction.
const BATCH: usize = 500;
/// At most this many rows of a forgotten user are deleted in one transaction.
const ERASED_AT_ONCE: i64 = 1000;
/// How often an idle projection makes sure that its rows are still there.
const RECHECK: Duration = Duration::from_secs(2);
/// The pause after the store was away.
const AWAY: Duration = Duration::from_millis(250);

pub trait Projection: Send + Sync + 'static {
    /// The table's word, such as `jobs`.
    fn name(&self) -> &'static str;

    /// True when the projection needs the facts of such streams.
    fn wants(&self, kind: StreamKind) -> bool;

    /// Where a user's rows stand. They are deleted when the user is forgotten.
    fn rows(&self) -> &'static [UserRows];

    /// Columns, as table and column, that name a user in rows that are not the user's. They are
    /// emptied when that user is forgotten.
    fn mentions(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Writes the changes of one fact.
    fn apply<'a>(
        &'a self,
        seen: Seen<'a>,
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>>;
}

/// An opened fact, as handed to a projection.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub fact: &'a Fact,
    pub event: &'a Event,
    keys: &'a UserKeys,
}

impl Seen<'_> {
    /// The owner, as stored in the read tables. The system's facts have an empty one.
    pub fn user(&self) -> String {
        self.fact
            .user
            .map(|user| user.to_string())
            .unwrap_or_default()
    }

    pub fn at(&self) -> Timestamp {
        self.fact.recorded_at
    }

    /// Seals personal text for a column (`table.column`).
    pub fn seal(&self, column: &str, text: &str) -> Vec<u8> {
        self.keys.seal_text(column, text)
    }

    pub fn seal_option(&self, column: &str, text: Option<&str>) -> Option<Vec<u8>> {
        text.map(|text| self.seal(column, text))
    }
}

pub(crate) struct Runner {
    projection: Box<dyn Projection>,
    log: Log,
    election: Election,
    progress: Progress,
    damaged: HashMap<StreamId, u64>,
}

enum Batch {
    Applied,
    /// Another node moved the checkpoint.
    Overtaken,
}

/// The name that a projection's checkpoint is stored under.
pub(crate) fn checkpoint_name(projection: &dyn Projection) -> String {
    format!("{}.v1", projection.name()) // as stores have it
}

impl Runner {
    pub fn new(
        projection: Box<dyn Projection>,
        log: Log,
        election: Election,
        progress: Progress,
    ) -> Self {
        Self {
            projection,
            log,
            election,
            progress,
            damaged: HashMap::new(),
        }
    }

    fn checkpoint_name(&self) -> String {
        checkpoint_name(self.projection.as_ref())
    }

    /// Runs for ever, and follows the log whenever this node leads. An error that a retry cannot
    /// mend stops it until this node is elected again.
    pub async fn run(mut self) {
        let name = self.projection.name();
        let mut epoch = self.election.elected().await;
        loop {
            match self.follow(epoch).await {
                Ok(()) => {}
                Err(LogError::Deposed) => {
                    info!(
                        projection = name,
                        epoch = epoch.number(),
                        "projection: another server leads and moves it"
                    );
                    epoch = self.election.elected_again(epoch).await;
                }
                Err(LogError::Away(reason)) => {
                    warn!(
                        projection = name,
                        reason, "projection: the store does not answer; trying again"
                    );
                    tokio::time::sleep(AWAY).await;
                }
                Err(error) => {
                    error!(projection = name, %error, "projection: stopped; it starts again with the next leader or after a restart");
                    self.record_stop(epoch, &error.to_string()).await;
                    epoch = self.election.elected_again(epoch).await;
                }
            }
        }
    }

    /// Follows from the stored checkpoint until another node moves it.
    async fn follow(&mut self, epoch: Epoch) -> Result<(), LogError> {
        let mut checkpoint = in_time(self.read_checkpoint(epoch)).await?;
        // After the checkpoint: no node of an earlier term adds to the damaged streams from here
        // on.
        in_time(self.read_damaged()).await?;
        self.progress.tell(self.projection.name(), checkpoint);
        let mut follower = self.log.reader().follow(checkpoint);
        loop {
            // Read tables are not flushed on commit. After a crash the database may have lost the
            // last batches, and without new facts nothing else would show it.
            let Ok(rows) = tokio::time::timeout(RECHECK, follower.next(BATCH)).await else {
                if in_time(self.read_checkpoint(epoch)).await? != checkpoint {
                    return Ok(());
                }
                // A reader may have found it behind and lowered the announced position.
                self.progress.tell(self.projection.name(), checkpoint);
                continue;
            };
            let rows = rows?;
            match in_time(self.apply(epoch, checkpoint, follower.position(), &rows)).await? {
                Batch::Applied => {
                    checkpoint = follower.position();
                    self.progress.tell(self.projection.name(), checkpoint);
                }
                Batch::Overtaken => return Ok(()),
            }
        }
    }

    async fn apply(
        &mut self,
        epoch: Epoch,
        from: u64,
        to: u64,
        rows: &[Arc<StoredRow>],
    ) -> Result<Batch, LogError> {
        let mut facts = Vec::with_capacity(rows.len());
        let mut newly_damaged = Vec::new();
        for row in rows {
            match self.open(row).await {
                Ok(Some(fact)) => facts.push(fact),
                Ok(None) => {}
                Err(LogError::Damaged(damaged)) => {
                    error!(projection = self.projection.name(), %damaged, "projection: left a stream behind at a damaged event");
                    let (kind, id) = row.stream_words();
                    newly_damaged.push((kind, id, damaged));
                }
                Err(error) => return Err(error),
            }
        }
        // The facts before the damage are applied, wherever a batch begins and ends.
        let left_behind: HashMap<(&str, &str), u64> = newly_damaged
            .iter()
            .rev()
            .map(|(kind, id, damaged)| ((kind.as_str(), id.as_str()), damaged.position))
            .collect();
        for user in forgotten(&facts) {
            self.erase_most(epoch, user).await?;
        }
        let mut tx = self.log.store().relaxed_in(epoch).await?;
        if !self.move_checkpoint(&mut tx, epoch, from, to).await? {
            return Ok(Batch::Overtaken);
        }
        for fact in &facts {
            let stream = &fact.stream;
            // The rows of a forgotten user go, even when this stream is damaged.
            if let Some(user) = forgotten(std::slice::from_ref(fact)).next() {
                self.erase(&mut tx, user).await?;
            }
            let id = stream.id.to_string();
            let damaged_at = left_behind.get(&(stream.kind.as_str(), id.as_str()));
            if self.damaged.contains_key(stream)
                || damaged_at.is_some_and(|damaged| fact.position > *damaged)
            {
                continue;
            }
            if let FactBody::Open(event, keys) = &fact.body
                && self.projection.wants(stream.kind)
            {
                self.projection
                    .apply(Seen { fact, event, keys }, &mut tx)
                    .await?;
            }
        }
        for (kind, id, damaged) in &newly_damaged {
            self.record_damage(&mut tx, kind, id, damaged).await?;
        }
        tx.commit().await?;
        for (kind, id, damaged) in newly_damaged {
            self.leave_behind(&kind, id, damaged.position);
        }
        Ok(Batch::Applied)
    }

    async fn record_damage(
        &self,
        tx: &mut Tx,
        kind: &str,
        id: &str,
        damaged: &Damaged,
    ) -> Result<(), LogError> {
        sqlx::query(
            "INSERT INTO damaged (projection, stream_kind, stream_id, position, reason) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (projection, stream_kind, stream_id) DO NOTHING",
        )
        .bind(self.checkpoint_name())
        .bind(kind)
        .bind(id)
        .bind(damaged.position as i64)
        .bind(&damaged.reason)
        .execute(&mut **tx)
        .await?;
        Ok(())
    }

    /// Deletes a forgotten user's rows, some at a time: there may be more than one transaction
    /// should hold.
    async fn erase_most(&self, epoch: Epoch, user: UserId) -> Result<(), LogError> {
        for rows in self.projection.rows() {
            loop {
                let mut tx = self.log.store().relaxed_in(epoch).await?;
                let erased = rows.erase(&mut tx, user, ERASED_AT_ONCE).await?;
                tx.commit().await?;
                if erased < ERASED_AT_ONCE as u64 {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Deletes the rest, which the facts of this very batch wrote.
    async fn erase(&self, tx: &mut Tx, user: UserId) -> Result<(), LogError> {
        for rows in self.projection.rows() {
            rows.erase(tx, user, i64::MAX).await?;
        }
        for (table, column) in self.projection.mentions() {
            let sql = format!("UPDATE {table} SET {column} = NULL WHERE {column} = $1");
            sqlx::query(&sql)
                .bind(user.to_string())
                .execute(&mut **tx)
                .await?;
        }
        Ok(())
    }

    /// The fact in a row; `None` when it is of no concern here. A row of an unknown kind counts as
    /// damaged.
    async fn open(&self, row: &StoredRow) -> Result<Option<Fact>, LogError> {
        match StreamKind::of_code(row.kind) {
            Some(kind) if !self.projection.wants(kind) && !row.is_forgotten() => Ok(None),
            _ => self.log.reader().open_row(row).await.map(Some),
        }
    }

    async fn move_checkpoint(
        &self,
        tx: &mut Tx,
        epoch: Epoch,
        from: u64,
        to: u64,
    ) -> Result<bool, LogError> {
        let sql = "UPDATE checkpoints SET position = $3, epoch = $4, stopped = NULL WHERE name = $1 AND position = $2";
        let moved = sqlx::query(sql)
            .bind(self.checkpoint_name())
            .bind(from as i64)
            .bind(to as i64)
            .bind(epoch.number())
            .execute(&mut **tx)
            .await?;
        Ok(moved.rows_affected() == 1)
    }

    async fn read_checkpoint(&self, epoch: Epoch) -> Result<u64, LogError> {
        let mut tx = self.log.store().relaxed_in(epoch).await?;
        sqlx::query(
            "INSERT INTO checkpoints (name, position) VALUES ($1, 0) ON CONFLICT (name) DO NOTHING",
        )
        .bind(self.checkpoint_name())
        .execute(&mut *tx)
        .await?;
        let position: i64 = sqlx::query_scalar("SELECT position FROM checkpoints WHERE name = $1")
            .bind(self.checkpoint_name())
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(position as u64)
    }

    async fn read_damaged(&mut self) -> Result<(), LogError> {
        let rows = sqlx::query(
            "SELECT stream_kind, stream_id, position FROM damaged WHERE projection = $1",
        )
        .bind(self.checkpoint_name())
        .fetch_all(self.log.store().reads())
        .await?;
        for row in rows {
            let kind: String = row.try_get("stream_kind")?;
            let id: String = row.try_get("stream_id")?;
            self.leave_behind(&kind, id, row.try_get::<i64, _>("position")? as u64);
        }
        Ok(())
    }

    fn leave_behind(&mut self, kind: &str, id: String, position: u64) {
        if let (Some(kind), Ok(id)) = (StreamKind::parse(kind), id.parse::<uuid::Uuid>()) {
            self.damaged
                .entry(StreamId::new(kind, id))
                .or_insert(position);
        }
    }

    /// Stores the reason, so that every node can show it. Tries until the store answers.
    async fn record_stop(&self, epoch: Epoch, reason: &str) {
        let record = async || -> Result<(), LogError> {
            let mut tx = self.log.store().relaxed_in(epoch).await?;
            let stop = sqlx::query("UPDATE checkpoints SET stopped = $2 WHERE name = $1")
                .bind(self.checkpoint_name())
                .bind(reason);
            stop.execute(&mut *tx).await?;
            Ok(tx.commit().await?)
        };
        while let Err(error) = in_time(record()).await {
            match error {
                LogError::Away(_) => tokio::time::sleep(AWAY).await,
                error => {
                    return warn!(projection = self.projection.name(), %error, "projection: recording why it stopped failed");
                }
            }
        }
    }
}

/// The forgotten users among the owners of these facts.
fn forgotten(facts: &[Fact]) -> impl Iterator<Item = UserId> {
    facts
        .iter()
        .filter(|fact| fact.event_type == FORGOTTEN)
        .filter_map(|fact| fact.user)
}

/// Opens a sealed column for a reader. A failure is the server's fault, never the caller's.
pub(crate) fn open(keys: &UserKeys, column: &str, sealed: &[u8]) -> Result<String, LogError> {
    keys.open_text(column, sealed)
        .map_err(|reason| LogError::Statement(format!("{column} cannot be opened: {reason}")))
}

pub(crate) fn open_option(
    keys: &UserKeys,
    column: &str,
    sealed: Option<Vec<u8>>,
) -> Result<Option<String>, LogError> {
    sealed.map(|sealed| open(keys, column, &sealed)).transpose()
}

pub(crate) fn user_id(text: &str) -> Result<UserId, LogError> {
    text.parse()
        .map_err(|_| LogError::Statement("a read table holds an invalid user id".into()))
}

/// Runs a read on the runtime that owns the store's connections.
pub(crate) async fn read<T, W>(
    log: &Log,
    work: impl FnOnce(Store) -> W + Send + 'static,
) -> Result<T, LogError>
where
    T: Send + 'static,
    W: Future<Output = Result<T, LogError>> + Send + 'static,
{
    log.store().run(work).await
}
