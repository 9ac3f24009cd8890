//! The task that moves all projections, on the leader only.
//!
//! A batch of facts is read and opened once. The rows of all projections and one checkpoint go in
//! one transaction, which checks the term and moves the checkpoint by compare-and-set. So no fact
//! is applied twice.
//!
//! When a batch fails, each projection takes it alone, in a transaction of its own. The one at
//! fault keeps its own position and stops, loudly; the others go on together. A projection that
//! stopped is tried again at the next start or election. It then catches up alone, batch by batch
//! beside the others, and joins them.
//!
//! A damaged row stops its own stream in the projections that want it, and is recorded with its
//! position; the other streams go on.

use std::{sync::Arc, time::Duration};

use genie_events::{StreamKind, UserId, account::FORGOTTEN};
use genie_log::{
    Election, Epoch, Fact, FactBody, Log, LogError, StoredRow, follow::Follower, store::in_time,
};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::{
    progress::Progress,
    projection::{Projection, Seen, Tx},
};

mod member;
mod stored;
#[cfg(test)]
mod tests;

use member::{DamagedRow, ProjectionMember};
use stored::{BatchStep, StoredPositions};

pub(crate) use member::stored_name;
pub(crate) use stored::CHECKPOINT;

/// At most this many facts go in one transaction.
const BATCH: usize = 512;
/// At most this many bytes of encrypted facts go in one transaction, or one fact.
const BATCH_BYTES: usize = 1 << 20;
/// At most this many rows of a forgotten user are deleted in one transaction.
const ERASED_AT_ONCE: i64 = 1000;
/// Batches begin at least this long after one another, so that a transaction takes the facts of many
/// commands. Nobody who waits for a fact waits for this.
const PACE: Duration = Duration::from_millis(10);
/// The same after a batch of at least `BUSY` facts: then a page of an index is written once for several.
const BUSY_PACE: Duration = Duration::from_millis(25);
const BUSY: usize = 16;
/// How often the runner makes sure that its rows are still there, and passes the time.
const RECHECK: Duration = Duration::from_secs(2);
/// The pause after the store was away.
const AWAY: Duration = Duration::from_millis(250);

pub(crate) struct Runner {
    log: Log,
    election: Election,
    progress: Progress,
    members: Vec<ProjectionMember>,
}

/// The outcome of a transaction.
enum BatchOutcome {
    Written,
    /// Another node moved the checkpoint.
    Overtaken,
}

/// Facts in order, opened once for all projections.
struct FactBatch {
    from: u64,
    to: u64,
    facts: Vec<Fact>,
    damage: Vec<DamagedRow>,
    forgotten: Vec<UserId>,
}

impl Runner {
    pub fn new(
        projections: Vec<Box<dyn Projection>>,
        log: Log,
        election: Election,
        progress: Progress,
    ) -> Self {
        let members = projections.into_iter().map(ProjectionMember::new).collect();
        Self {
            log,
            election,
            progress,
            members,
        }
    }

    /// Runs for ever, and follows the log whenever this node leads. An error that concerns all
    /// projections and that a retry cannot mend stops them until this node is elected again.
    pub async fn run(mut self) {
        let mut epoch = self.election.elected().await;
        loop {
            match self.follow(epoch).await {
                Ok(()) => {}
                Err(LogError::Deposed) => {
                    info!(
                        epoch = epoch.number(),
                        "projections: another server leads and moves them"
                    );
                    epoch = self.election.elected_again(epoch).await;
                }
                Err(LogError::Away(reason)) => {
                    warn!(
                        reason,
                        "projections: the store does not answer; trying again"
                    );
                    tokio::time::sleep(AWAY).await;
                }
                Err(error) => {
                    error!(%error, "projections: all stopped; they start again with the next leader or after a restart");
                    self.record_stop(epoch, None, &error.to_string()).await;
                    epoch = self.election.elected_again(epoch).await;
                }
            }
        }
    }

    /// Follows from the stored checkpoint until another node moves it.
    async fn follow(&mut self, epoch: Epoch) -> Result<(), LogError> {
        let mut stored = in_time(self.load(epoch)).await?;
        self.tell(stored.checkpoint);
        let mut follower = self.log.reader().follow(stored.checkpoint);
        let mut waiting: Vec<Arc<StoredRow>> = Vec::new();
        let mut checked = Instant::now();
        let mut next_batch = checked;
        loop {
            if waiting.is_empty() {
                let wanted = self.progress.wanted_after(stored.checkpoint);
                let _ = tokio::time::timeout_at(next_batch, wanted).await; // either way it is time
                waiting = self.next_rows(&mut follower).await?;
            }
            let rows = first_rows(&mut waiting);
            if let Some(last) = rows.last() {
                next_batch = Instant::now() + pause_after(rows.len());
                let to = last.position;
                let batch = self.open(stored.checkpoint, to, &rows).await?;
                match self.apply(epoch, &mut stored, batch).await? {
                    BatchOutcome::Written => self.tell(to),
                    BatchOutcome::Overtaken => return Ok(()),
                }
            }
            if let BatchOutcome::Overtaken = self.catch_up(epoch, &stored).await? {
                return Ok(());
            }
            if checked.elapsed() >= RECHECK {
                checked = Instant::now();
                if !in_time(self.is_unchanged(epoch, &mut stored)).await? {
                    return Ok(());
                }
                self.pass_time(epoch).await?;
                // A reader may have found it behind and lowered the announced position.
                self.tell(stored.checkpoint);
            }
        }
    }

    /// The next rows for all. None when none come for a while, or when a projection has to catch up
    /// meanwhile.
    async fn next_rows(&self, follower: &mut Follower) -> Result<Vec<Arc<StoredRow>>, LogError> {
        let checkpoint = follower.position();
        let some_catch_up = self.members.iter().any(|one| one.is_behind(checkpoint));
        if some_catch_up && self.log.reader().head() <= checkpoint {
            return Ok(Vec::new());
        }
        // Read tables are not flushed on commit. After a crash of the database its last batches may
        // be lost, and without new facts nothing else would show it.
        match tokio::time::timeout(RECHECK, follower.next(BATCH)).await {
            Ok(rows) => rows,
            Err(_) => Ok(Vec::new()),
        }
    }

    /// Opens the rows that some projection wants.
    async fn open(
        &self,
        from: u64,
        to: u64,
        rows: &[Arc<StoredRow>],
    ) -> Result<FactBatch, LogError> {
        let mut batch = FactBatch {
            from,
            to,
            facts: Vec::with_capacity(rows.len()),
            damage: Vec::new(),
            forgotten: Vec::new(),
        };
        for row in rows {
            let kind = StreamKind::of_code(row.kind);
            let is_wanted = |kind| self.members.iter().any(|one| one.projection.wants(kind));
            // A row of an unknown kind counts as damaged.
            if !kind.is_none_or(is_wanted) && !row.is_forgotten() {
                continue;
            }
            match self.log.reader().open_row(row).await {
                Ok(fact) => {
                    let is_forgotten = fact.event_type == FORGOTTEN;
                    batch.forgotten.extend(fact.user.filter(|_| is_forgotten));
                    batch.facts.push(fact);
                }
                Err(LogError::Damaged(damaged)) => batch.damage.push(DamagedRow {
                    kind: row.stream_words().0,
                    id: row.stream_words().1,
                    position: damaged.position,
                    reason: damaged.reason,
                }),
                Err(error) => return Err(error),
            }
        }
        Ok(batch)
    }

    /// Writes a batch for all who stand at the checkpoint: together, or each alone when that fails.
    async fn apply(
        &mut self,
        epoch: Epoch,
        stored: &mut StoredPositions,
        batch: FactBatch,
    ) -> Result<BatchOutcome, LogError> {
        let together: Vec<usize> = (0..self.members.len())
            .filter(|n| self.members[*n].is_with_others(batch.from))
            .collect();
        let step = BatchStep::Together {
            clear_stops: stored.some_stopped,
        };
        match in_time(self.write(epoch, &together, &step, &batch)).await {
            Ok(BatchOutcome::Written) => {
                stored.some_stopped = false;
            }
            Ok(BatchOutcome::Overtaken) => return Ok(BatchOutcome::Overtaken),
            Err(error @ (LogError::Away(_) | LogError::Deposed)) => return Err(error),
            Err(error) => {
                warn!(%error, position = batch.from, "projections: a batch failed; each projection takes it alone");
                for n in &together {
                    if let BatchOutcome::Overtaken = self.apply_alone(epoch, *n, &batch).await? {
                        return Ok(BatchOutcome::Overtaken);
                    }
                }
                let moved = in_time(self.write(epoch, &[], &BatchStep::Checkpoint, &batch)).await?;
                if let BatchOutcome::Overtaken = moved {
                    return Ok(BatchOutcome::Overtaken);
                }
            }
        }
        stored.checkpoint = batch.to;
        for member in &mut self.members {
            if member.joins(batch.from, batch.to) {
                member.own = None;
            }
        }
        Ok(BatchOutcome::Written)
    }

    /// Writes a batch for one projection, with a position of its own. A projection that cannot take
    /// it stops.
    async fn apply_alone(
        &mut self,
        epoch: Epoch,
        n: usize,
        batch: &FactBatch,
    ) -> Result<BatchOutcome, LogError> {
        let from = self.members[n].own;
        match in_time(self.write(epoch, &[n], &BatchStep::Alone { from }, batch)).await {
            Ok(BatchOutcome::Written) => {
                self.members[n].own = Some(batch.to.max(from.unwrap_or(0)));
                Ok(BatchOutcome::Written)
            }
            Err(error) if !matches!(error, LogError::Away(_) | LogError::Deposed) => {
                let projection = self.members[n].projection.name();
                let at = from.unwrap_or(batch.from);
                error!(projection, %error, position = at, "projection: stopped; it starts again with the next leader or after a restart");
                self.record_stop(epoch, Some((n, at)), &error.to_string())
                    .await;
                self.members[n].stop(at);
                self.progress.tell(projection, at);
                Ok(BatchOutcome::Written)
            }
            other => other,
        }
    }

    /// Lets each projection that is behind take one batch, up to the checkpoint at most.
    async fn catch_up(
        &mut self,
        epoch: Epoch,
        stored: &StoredPositions,
    ) -> Result<BatchOutcome, LogError> {
        for n in 0..self.members.len() {
            if !self.members[n].is_behind(stored.checkpoint) {
                continue;
            }
            let from = self.members[n].own.unwrap_or(0);
            let mut rows = self.log.reader().follow(from).next(BATCH).await?;
            rows.retain(|row| row.position <= stored.checkpoint);
            let rows = first_rows(&mut rows);
            let to = rows.last().map_or(from, |last| last.position);
            let batch = self.open(from, to, &rows).await?;
            if let BatchOutcome::Overtaken = self.apply_alone(epoch, n, &batch).await? {
                return Ok(BatchOutcome::Overtaken);
            }
            let member = &self.members[n];
            if let (Some(at), false) = (member.own, member.is_stopped) {
                self.progress.tell(member.projection.name(), at);
            }
        }
        Ok(BatchOutcome::Written)
    }

    /// Writes the rows of a batch for these projections, and where they stand then.
    async fn write(
        &mut self,
        epoch: Epoch,
        members: &[usize],
        step: &BatchStep,
        batch: &FactBatch,
    ) -> Result<BatchOutcome, LogError> {
        for user in &batch.forgotten {
            for n in members {
                self.erase_most(epoch, *n, *user).await?;
            }
        }
        let mut tx = self.log.store().relaxed_in(epoch).await?;
        if !self.move_to(&mut tx, epoch, members, step, batch).await? {
            return Ok(BatchOutcome::Overtaken);
        }
        for n in members {
            let member = &self.members[*n];
            let facts = member.facts(batch);
            if !facts.is_empty() {
                member.projection.apply(&facts, &mut tx).await?;
            }
            for user in &batch.forgotten {
                erase(&mut tx, member.projection.as_ref(), *user).await?;
            }
            self.record_damage(&mut tx, member, &batch.damage).await?;
        }
        tx.commit().await?;
        for n in members {
            self.members[*n].leave_behind(&batch.damage);
        }
        Ok(BatchOutcome::Written)
    }

    /// Deletes a forgotten user's rows, some at a time: there may be more than one transaction
    /// should hold.
    async fn erase_most(&self, epoch: Epoch, n: usize, user: UserId) -> Result<(), LogError> {
        loop {
            let mut tx = self.log.store().relaxed_in(epoch).await?;
            let projection = &self.members[n].projection;
            let erased = projection.erase(user, ERASED_AT_ONCE, &mut tx).await?;
            if erased > 0 {
                tx.commit().await?;
            }
            if erased < ERASED_AT_ONCE as u64 {
                return Ok(());
            }
        }
    }

    /// Brings counts that depend on the time up to now.
    async fn pass_time(&self, epoch: Epoch) -> Result<(), LogError> {
        let now = self.log.clock().now();
        for member in &self.members {
            let projection = &member.projection;
            let pass = async || -> Result<(), LogError> {
                if projection.is_due(now, self.log.store()).await? {
                    let mut tx = self.log.store().relaxed_in(epoch).await?;
                    projection.pass_time(now, &mut tx).await?;
                    tx.commit().await?;
                }
                Ok(())
            };
            match in_time(pass()).await {
                Err(error @ (LogError::Away(_) | LogError::Deposed)) => return Err(error),
                // Readers count what was not passed themselves.
                Err(error) => {
                    let projection = projection.name();
                    warn!(projection, %error, "projection: passing the time failed; trying again");
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn tell(&self, checkpoint: u64) {
        for member in &self.members {
            let at = member.own.unwrap_or(checkpoint);
            self.progress.tell(member.projection.name(), at);
        }
    }
}

/// Deletes the rest of a forgotten user's rows, which the facts of this very batch wrote, and the
/// user's id in the rows of others.
async fn erase(tx: &mut Tx, projection: &dyn Projection, user: UserId) -> Result<(), LogError> {
    projection.erase(user, i64::MAX, tx).await?;
    for (table, column) in projection.mentions() {
        let sql = format!("UPDATE {table} SET {column} = NULL WHERE {column} = $1");
        sqlx::query(&sql)
            .bind(user.to_string())
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// The time from the beginning of a batch of so many facts to that of the next.
fn pause_after(facts: usize) -> Duration {
    match facts {
        BATCH.. => Duration::ZERO, // there are more
        BUSY.. => BUSY_PACE,
        _ => PACE,
    }
}

/// Takes the first rows, as many as go in one transaction.
fn first_rows(rows: &mut Vec<Arc<StoredRow>>) -> Vec<Arc<StoredRow>> {
    let mut bytes = 0;
    let fits = |row: &&Arc<StoredRow>| {
        bytes += row.payload.len();
        bytes <= BATCH_BYTES
    };
    let count = rows.iter().take_while(fits).count().max(1).min(rows.len());
    let rest = rows.split_off(count);
    std::mem::replace(rows, rest)
}

impl FactBatch {
    fn seen(fact: &Fact) -> Option<Seen<'_>> {
        match &fact.body {
            FactBody::Open(event, keys) => Some(Seen { fact, event, keys }),
            FactBody::Forgotten => None,
        }
    }
}
