//! What every projection is, and the task that drives one, on the elected node only. Rows and checkpoint go in one transaction,
//! which checks the epoch and moves the checkpoint by compare-and-set, so that no fact is applied twice.
//!
//! A damaged row stops its own stream in this projection, recorded with its position; the others go on. Any other error stops
//! the projection, loudly, until the next election.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use genie_events::{Event, StreamId, StreamKind, Timestamp, UserId, account::FORGOTTEN};
use genie_log::{
    Body, Election, Epoch, Fact, Log, LogError, StoredRow, UserKeys,
    forgetting::Rows,
    store::{LONGEST, Store},
};
use sqlx::{Any, Row, Transaction};
use tracing::{error, info, warn};

use crate::progress::Progress;

/// A transaction on either store.
pub type Tx = Transaction<'static, Any>;

/// Facts of one transaction.
const BATCH: usize = 500;
/// Rows of a forgotten user that are deleted in one transaction.
const ERASED_AT_ONCE: i64 = 1000;
/// While nothing happens, a projection makes sure this often that its rows are still there.
const RECHECK: Duration = Duration::from_secs(2);
/// Pause after the store was away.
const AWAY: Duration = Duration::from_millis(250);

/// A read model. Its checkpoint's name carries its version: a new version fills from the beginning.
pub trait Projection: Send + Sync + 'static {
    /// Its word, such as `jobs`.
    fn name(&self) -> &'static str;

    /// Raised when what it writes changes.
    fn version(&self) -> u32 {
        1
    }

    /// Whether facts of such streams concern it.
    fn wants(&self, kind: StreamKind) -> bool;

    /// Where a user's rows are in its tables: they go when the user was forgotten.
    fn rows(&self) -> &'static [Rows];

    /// Columns of rows that are not a user's and name one, as table and column: they are emptied then.
    fn mentions(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Writes what a fact changes.
    fn apply<'a>(
        &'a self,
        seen: Seen<'a>,
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>>;
}

/// An opened fact, as projections see it.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The fact.
    pub fact: &'a Fact,
    /// What happened.
    pub event: &'a Event,
    keys: &'a UserKeys,
}

impl Seen<'_> {
    /// The user whose fact it is, as stored; the system's have none.
    pub fn user(&self) -> String {
        self.fact
            .user
            .map(|user| user.to_string())
            .unwrap_or_default()
    }

    /// When.
    pub fn at(&self) -> Timestamp {
        self.fact.recorded_at
    }

    /// Seals personal text for a column (`table.column`).
    pub fn seal(&self, column: &str, text: &str) -> Vec<u8> {
        self.keys.seal_text(column, text)
    }

    /// The same for text that may be absent.
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

/// What a batch came to.
enum Batch {
    Applied,
    /// Somebody else moved the checkpoint.
    Overtaken,
}

/// The name under which a projection's checkpoint is stored.
pub(crate) fn checkpoint_name(projection: &dyn Projection) -> String {
    format!("{}.v{}", projection.name(), projection.version())
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

    /// Follows for ever, whenever this node is elected. An error that no other try would mend stops it until the next election.
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
                        "projection `{name}` is another node's to move"
                    );
                    epoch = self.election.elected_again(epoch).await;
                }
                Err(LogError::Away(reason)) => {
                    warn!(
                        projection = name,
                        reason, "the store is away; the projection tries on"
                    );
                    tokio::time::sleep(AWAY).await;
                }
                Err(error) => {
                    error!(projection = name, %error, "projection `{name}` stopped");
                    self.record_stop(epoch, &error.to_string()).await;
                    epoch = self.election.elected_again(epoch).await;
                }
            }
        }
    }

    /// Follows from the stored checkpoint until somebody else moves it.
    async fn follow(&mut self, epoch: Epoch) -> Result<(), LogError> {
        let mut checkpoint = in_time(self.read_checkpoint(epoch)).await?;
        in_time(self.read_damaged()).await?; // after it: from now on no other node adds to it in an earlier epoch
        self.progress.tell(self.projection.name(), checkpoint);
        let mut follower = self.log.follow(checkpoint);
        loop {
            // Read tables are not flushed as they are written: a database that crashed may have forgotten the last batches, and
            // nothing may happen for long that would show it.
            let Ok(rows) = tokio::time::timeout(RECHECK, follower.next(BATCH)).await else {
                if in_time(self.read_checkpoint(epoch)).await? != checkpoint {
                    return Ok(());
                }
                self.progress.tell(self.projection.name(), checkpoint); // a reader may have told that it was behind
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
                    error!(projection = self.projection.name(), %damaged, "a stream is left behind at a damaged event");
                    newly_damaged.push((row.kind.clone(), row.id.clone(), damaged));
                }
                Err(error) => return Err(error),
            }
        }
        // What stood before the damage is applied, wherever a batch begins and ends.
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
            // Whatever became of the stream: what is left of them goes.
            if let Some(user) = forgotten(std::slice::from_ref(fact)).next() {
                self.erase(&mut tx, user).await?;
            }
            let damaged_at = left_behind.get(&(stream.kind.as_str(), stream.id.as_str()));
            if self.damaged.contains_key(stream)
                || damaged_at.is_some_and(|damaged| fact.position > *damaged)
            {
                continue;
            }
            if let Body::Open(event, keys) = &fact.body
                && self.projection.wants(stream.kind)
            {
                self.projection
                    .apply(Seen { fact, event, keys }, &mut tx)
                    .await?;
            }
        }
        for (kind, id, damaged) in &newly_damaged {
            sqlx::query(
                "INSERT INTO damaged (projection, stream_kind, stream_id, position, reason) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT (projection, stream_kind, stream_id) DO NOTHING",
            )
            .bind(self.checkpoint_name())
            .bind(kind)
            .bind(id)
            .bind(damaged.position as i64)
            .bind(&damaged.reason)
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        for (kind, id, damaged) in newly_damaged {
            self.leave_behind(&kind, id, damaged.position);
        }
        Ok(Batch::Applied)
    }

    /// Deletes what there is of a forgotten user, some rows at a time: there may be more than one transaction should hold.
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

    /// Deletes the rest: what the facts of this very batch wrote.
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

    /// The fact in a row; `None` when it is of no concern here. A row of a kind that this release does not know counts as damaged.
    async fn open(&self, row: &StoredRow) -> Result<Option<Fact>, LogError> {
        match StreamKind::parse(&row.kind) {
            Some(kind) if !self.projection.wants(kind) && !row.is_forgotten() => Ok(None),
            _ => self.log.open_row(row).await.map(Some),
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
            let (kind, id): (String, String) =
                (row.try_get("stream_kind")?, row.try_get("stream_id")?);
            self.leave_behind(&kind, id, row.try_get::<i64, _>("position")? as u64);
        }
        Ok(())
    }

    fn leave_behind(&mut self, kind: &str, id: String, position: u64) {
        if let Some(kind) = StreamKind::parse(kind) {
            self.damaged
                .entry(StreamId::new(kind, id))
                .or_insert(position);
        }
    }

    /// For every node to show why, however long the store is away.
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
                    return warn!(projection = self.projection.name(), %error, "why it stopped can't be recorded");
                }
            }
        }
    }
}

/// Who of these facts' users was forgotten.
fn forgotten(facts: &[Fact]) -> impl Iterator<Item = UserId> {
    facts
        .iter()
        .filter(|fact| fact.event_type == FORGOTTEN)
        .filter_map(|fact| fact.user)
}

async fn in_time<T>(work: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
    match tokio::time::timeout(LONGEST, work).await {
        Ok(done) => done,
        Err(_) => Err(LogError::Away("it did not answer in time".into())),
    }
}

/// Opens a sealed column for a reader. Text that can't be opened is ours to mend, never the caller's.
pub(crate) fn open(keys: &UserKeys, column: &str, sealed: &[u8]) -> Result<String, LogError> {
    keys.open_text(column, sealed)
        .map_err(|reason| LogError::Statement(format!("{column} can't be opened: {reason}")))
}

/// The same for a column that may be empty.
pub(crate) fn open_option(
    keys: &UserKeys,
    column: &str,
    sealed: Option<Vec<u8>>,
) -> Result<Option<String>, LogError> {
    sealed.map(|sealed| open(keys, column, &sealed)).transpose()
}

/// Reads a user id that a projection wrote.
pub(crate) fn user_id(text: &str) -> Result<UserId, LogError> {
    text.parse()
        .map_err(|_| LogError::Statement("a read table holds a user id that is none".into()))
}

/// A read on the runtime that owns the store's connections.
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
