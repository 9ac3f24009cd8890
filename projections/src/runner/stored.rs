//! What the store holds about the projections: the common checkpoint, the state of each, and the
//! streams that each left behind.

use std::collections::HashMap;

use genie_log::{Epoch, LogError, store::in_time};
use sqlx::Row;
use tracing::{error, warn};

use super::{AWAY, DamagedRow, FactBatch, ProjectionMember, Runner};
use crate::projection::Tx;

/// The name of the common checkpoint.
pub(crate) const CHECKPOINT: &str = "projections";

/// The stored state of all projections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredPositions {
    /// The position of the projections that have none of their own.
    pub checkpoint: u64,
    /// True when the store says of one of them that it stopped.
    pub some_stopped: bool,
    /// The projections that the store knows, and their own positions.
    own: HashMap<String, Option<u64>>,
}

/// The way in which a transaction moves the projections.
pub(super) enum BatchStep {
    /// All who are not behind, with the checkpoint.
    Together { clear_stops: bool },
    /// One projection, which then has its own position.
    Alone { from: Option<u64> },
    /// Nothing but the checkpoint, after each projection moved alone.
    Checkpoint,
}

impl Runner {
    /// Reads the state of each projection. One that the store does not know begins with the log.
    pub(super) async fn load(&mut self, epoch: Epoch) -> Result<StoredPositions, LogError> {
        let mut tx = self.log.store().relaxed_in(epoch).await?;
        let sql =
            "INSERT INTO checkpoints (name, position) VALUES ($1, 0) ON CONFLICT (name) DO NOTHING";
        let made = sqlx::query(sql).bind(CHECKPOINT).execute(&mut *tx).await?;
        let beginning = (made.rows_affected() == 0).then_some(0_i64);
        for member in &self.members {
            let sql = "INSERT INTO projections (name, position) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
            sqlx::query(sql)
                .bind(member.stored_name())
                .bind(beginning)
                .execute(&mut *tx)
                .await?;
        }
        let stored = read_positions(&mut tx).await?;
        tx.commit().await?;
        for member in &mut self.members {
            member.load(stored.own.get(&member.stored_name()).copied().flatten());
        }
        // After the checkpoint: no node of an earlier term adds to the damaged streams from here
        // on.
        self.read_damage().await?;
        Ok(stored)
    }

    /// True when the store still has what this node wrote last. Clears the record of a stop that is
    /// over.
    pub(super) async fn is_unchanged(
        &self,
        epoch: Epoch,
        written: &mut StoredPositions,
    ) -> Result<bool, LogError> {
        // In a transaction of the leader, so that one who was deposed learns of it without new facts.
        let mut tx = self.log.store().relaxed_in(epoch).await?;
        let stored = read_positions(&mut tx).await?;
        let is_known = self
            .members
            .iter()
            .all(|member| stored.own.get(&member.stored_name()) == Some(&member.own));
        if written.some_stopped {
            clear_stops(&mut tx).await?;
            written.some_stopped = false;
        }
        tx.commit().await?;
        Ok(is_known && stored.checkpoint == written.checkpoint)
    }

    /// Moves the checkpoint or a projection's own position; false when it is not where this node
    /// left it.
    pub(super) async fn move_to(
        &self,
        tx: &mut Tx,
        epoch: Epoch,
        members: &[usize],
        step: &BatchStep,
        batch: &FactBatch,
    ) -> Result<bool, LogError> {
        match step {
            BatchStep::Alone { from } => {
                let Some(member) = members.first().map(|n| &self.members[*n]) else {
                    return Ok(true);
                };
                let sql = "UPDATE projections SET position = $3, stopped = NULL \
                           WHERE name = $1 AND coalesce(position, -1) = $2";
                let moved = sqlx::query(sql)
                    .bind(member.stored_name())
                    .bind(from.map_or(-1, |from| from as i64))
                    .bind(batch.to.max(from.unwrap_or(0)) as i64)
                    .execute(&mut **tx)
                    .await?;
                Ok(moved.rows_affected() == 1)
            }
            BatchStep::Together { .. } | BatchStep::Checkpoint => {
                let sql = "UPDATE checkpoints SET position = $3, epoch = $4 WHERE name = $1 AND position = $2";
                let moved = sqlx::query(sql)
                    .bind(CHECKPOINT)
                    .bind(batch.from as i64)
                    .bind(batch.to as i64)
                    .bind(epoch.number())
                    .execute(&mut **tx)
                    .await?;
                self.join(tx, batch).await?;
                if let BatchStep::Together { clear_stops: true } = step {
                    clear_stops(tx).await?;
                }
                Ok(moved.rows_affected() == 1)
            }
        }
    }

    async fn join(&self, tx: &mut Tx, batch: &FactBatch) -> Result<(), LogError> {
        let joins = |member: &&ProjectionMember| member.joins(batch.from, batch.to);
        for member in self.members.iter().filter(joins) {
            let sql = "UPDATE projections SET position = NULL, stopped = NULL WHERE name = $1";
            sqlx::query(sql)
                .bind(member.stored_name())
                .execute(&mut **tx)
                .await?;
        }
        Ok(())
    }

    pub(super) async fn record_damage(
        &self,
        tx: &mut Tx,
        member: &ProjectionMember,
        damage: &[DamagedRow],
    ) -> Result<(), LogError> {
        for one in damage.iter().filter(|one| member.wants(one)) {
            error!(
                projection = member.projection.name(),
                position = one.position,
                reason = one.reason,
                "projection: left a stream behind at a damaged event"
            );
            sqlx::query(
                "INSERT INTO damaged (projection, stream_kind, stream_id, position, reason) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT (projection, stream_kind, stream_id) DO NOTHING",
            )
            .bind(member.stored_name())
            .bind(&one.kind)
            .bind(&one.id)
            .bind(one.position as i64)
            .bind(&one.reason)
            .execute(&mut **tx)
            .await?;
        }
        Ok(())
    }

    async fn read_damage(&mut self) -> Result<(), LogError> {
        for member in &mut self.members {
            let sql = "SELECT stream_kind, stream_id, position, reason FROM damaged WHERE projection = $1";
            let rows = sqlx::query(sql)
                .bind(member.stored_name())
                .fetch_all(self.log.store().reads())
                .await?;
            for row in rows {
                member.leave_behind(&[DamagedRow {
                    kind: row.try_get("stream_kind")?,
                    id: row.try_get("stream_id")?,
                    position: row.try_get::<i64, _>("position")? as u64,
                    reason: row.try_get("reason")?,
                }]);
            }
        }
        Ok(())
    }

    /// Stores why a projection stopped and where, or why all did, so that every node can show it.
    /// Tries until the store answers.
    pub(super) async fn record_stop(
        &self,
        epoch: Epoch,
        stopped: Option<(usize, u64)>,
        reason: &str,
    ) {
        let record = async || -> Result<(), LogError> {
            let mut tx = self.log.store().relaxed_in(epoch).await?;
            let query = match stopped {
                Some((n, at)) => sqlx::query(
                    "UPDATE projections SET stopped = $1, position = $3 WHERE name = $2",
                )
                .bind(reason)
                .bind(self.members[n].stored_name())
                .bind(at as i64),
                None => sqlx::query("UPDATE projections SET stopped = $1 WHERE stopped IS NULL")
                    .bind(reason),
            };
            query.execute(&mut *tx).await?;
            Ok(tx.commit().await?)
        };
        while let Err(error) = in_time(record()).await {
            match error {
                LogError::Away(_) => tokio::time::sleep(AWAY).await,
                error => {
                    return warn!(%error, "projections: recording why one stopped failed");
                }
            }
        }
    }
}

/// The record of a stop that is over, of a projection that goes with the others.
async fn clear_stops(tx: &mut Tx) -> Result<(), LogError> {
    let sql =
        "UPDATE projections SET stopped = NULL WHERE position IS NULL AND stopped IS NOT NULL";
    sqlx::query(sql).execute(&mut **tx).await?;
    Ok(())
}

async fn read_positions(tx: &mut Tx) -> Result<StoredPositions, LogError> {
    // One statement, so that checkpoint and positions are of the same moment.
    let sql = "SELECT p.name, p.position, p.stopped, c.position AS checkpoint FROM projections p, checkpoints c \
               WHERE c.name = $1";
    let rows = sqlx::query(sql)
        .bind(CHECKPOINT)
        .fetch_all(&mut **tx)
        .await?;
    let mut stored = StoredPositions {
        checkpoint: 0,
        some_stopped: false,
        own: HashMap::new(),
    };
    for row in rows {
        stored.checkpoint = row.try_get::<i64, _>("checkpoint")? as u64;
        let stopped: Option<String> = row.try_get("stopped")?;
        let own: Option<i64> = row.try_get("position")?;
        stored.some_stopped |= own.is_none() && stopped.is_some();
        stored
            .own
            .insert(row.try_get("name")?, own.map(|own| own as u64));
    }
    Ok(stored)
}
