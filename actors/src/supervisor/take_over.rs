//! Leases of runs: renews those of the runs on this node, and takes over the runs of dead nodes.

use std::time::Duration;

use genie_events::{CaptionId, Metadata, SessionId, TurnId, User, UserId};
use genie_log::{
    Election, Epoch, LogError,
    leases::{Lease, LeaseKind},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{LEASE, Supervisor};
use crate::{WriteError, captions, chats};

/// How often leases are renewed, and lapsed ones looked for.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How often pieces that a turn's end left in the journal are looked for.
const LEFTOVERS: Duration = Duration::from_secs(300);
/// The most lapsed runs taken over in one look.
const TAKEN_OVER: i64 = 100;

/// A turn whose answer is not written.
#[derive(Serialize, Deserialize)]
enum UnansweredTurn {
    Asked,
    /// A program gave its messages.
    Prompted {
        model: String,
    },
}

impl Supervisor {
    /// Renews the leases of the runs on this node for ever. Spawn it. A lease without a run is not renewed, so that
    /// it lapses and is taken over.
    pub async fn renew(self) {
        loop {
            match self.renew_once().await {
                Ok(()) => {
                    self.0
                        .renewing_since
                        .lock()
                        .get_or_insert_with(Instant::now);
                }
                Err(error) => {
                    *self.0.renewing_since.lock() = None;
                    warn!(%error, "supervisor: renewing the leases of running answers failed; trying again");
                }
            }
            tokio::time::sleep(HEARTBEAT).await;
        }
    }

    async fn renew_once(&self) -> Result<(), LogError> {
        let ids: Vec<String> = self.0.running.lock().keys().cloned().collect();
        if ids.is_empty() {
            return self.0.log.store().ping().await;
        }
        let held = self
            .0
            .log
            .leases()
            .renew_runs(&self.0.node, ids.clone(), self.lease_end())
            .await?;
        ids.iter()
            .for_each(|id| self.apply_heartbeat(id, held.get(id).copied()));
        Ok(())
    }

    /// After an outage of the store every lease has lapsed, even those of living nodes. Each node gets a lease's time
    /// to renew.
    fn may_take_over(&self) -> bool {
        self.0
            .renewing_since
            .lock()
            .is_some_and(|since| since.elapsed() >= LEASE)
    }

    /// Applies a heartbeat to a run: its lease is held and perhaps called off, or it is lost.
    fn apply_heartbeat(&self, id: &str, called_off: Option<bool>) {
        let Some(run) = self.0.running.lock().get(id).cloned() else {
            return;
        };
        match called_off {
            Some(true) => run.cancel.cancel(),
            Some(false) => {}
            None => run.lost.cancel(), // ended a moment ago, or taken by another node
        }
    }

    /// Takes over the runs of dead nodes for ever, whenever this node is the leader. Spawn it.
    pub async fn take_over_expired(self, embedded: bool, election: Election) {
        if embedded && let Err(error) = self.0.log.leases().release_runs().await {
            warn!(%error, "supervisor: releasing the leases of an earlier process failed; they expire by themselves");
        }
        let mut swept = Instant::now();
        loop {
            if let Some(epoch) = election.now()
                && self.may_take_over()
            {
                if let Err(error) = self.take_over_once(epoch).await {
                    warn!(%error, "supervisor: looking for expired leases failed; trying again");
                }
                if swept.elapsed() >= LEFTOVERS {
                    swept = Instant::now();
                    self.drop_leftovers(epoch).await;
                }
            }
            tokio::time::sleep(HEARTBEAT).await;
        }
    }

    /// A piece whose commit was slow may come after the end of its turn.
    async fn drop_leftovers(&self, epoch: Epoch) {
        if let Err(error) = self.0.log.journals().drop_leftovers(epoch).await {
            warn!(%error, "supervisor: dropping pieces of ended turns failed; trying again later");
        }
    }

    async fn take_over_once(&self, epoch: Epoch) -> Result<(), WriteError> {
        let now = self.0.log.clock().now();
        for kind in [LeaseKind::Turn, LeaseKind::Caption] {
            for lease in self.0.log.leases().lapsed(kind, now, TAKEN_OVER).await? {
                if self.0.running.lock().contains_key(&lease.id) {
                    continue; // this node's, and about to be renewed
                }
                let taken = self
                    .0
                    .log
                    .leases()
                    .take(epoch, kind, &lease.id, &self.0.node, now, self.lease_end())
                    .await?;
                if let Some(lease) = taken
                    && let Err(error) = self.take_over(epoch, kind, lease).await
                {
                    warn!(%error, "supervisor: taking over an answer failed; trying again when its lease expires");
                }
            }
        }
        Ok(())
    }

    async fn take_over(
        &self,
        epoch: Epoch,
        kind: LeaseKind,
        lease: Lease,
    ) -> Result<(), WriteError> {
        match kind {
            LeaseKind::Turn => self.take_over_turn(epoch, lease).await,
            LeaseKind::Caption => {
                // Its quota unit goes back with the failure.
                if let Ok(caption) = lease.id.parse::<CaptionId>() {
                    captions::task::end_orphan(self, epoch, caption, lease.user);
                }
                Ok(())
            }
            LeaseKind::Job => Ok(()),
        }
    }

    /// Takes over a turn. One that has shown nothing starts anew; one that has ends as interrupted, with the text
    /// that was shown. So does one whose messages a program gave: only its node had them.
    async fn take_over_turn(&self, epoch: Epoch, lease: Lease) -> Result<(), WriteError> {
        let (Ok(turn), Ok(session)) = (lease.id.parse::<TurnId>(), lease.stream_id.parse()) else {
            return Ok(());
        };
        let Some(unanswered) = self.unanswered(turn, lease.user, session).await? else {
            let leases = self.0.log.leases();
            return Ok(leases
                .remove(LeaseKind::Turn, &lease.id, &self.0.node)
                .await?);
        };
        let shown = self.0.log.journals().text(turn, lease.user).await?;
        info!(turn.id = %turn, shown.bytes = shown.len(), "supervisor: going on with a turn that another server left unfinished");
        let model = match unanswered {
            UnansweredTurn::Asked if shown.is_empty() => {
                chats::turn::start(self, turn, lease.user, session, Metadata::system());
                return Ok(());
            }
            UnansweredTurn::Asked => self.0.settings.chat_model.clone(),
            UnansweredTurn::Prompted { model } => model,
        };
        chats::turn::end_orphan(self, epoch, turn, lease.user, session, model);
        Ok(())
    }

    /// Whether a turn runs is in its user's state.
    async fn unanswered(
        &self,
        turn: TurnId,
        user: UserId,
        session: SessionId,
    ) -> Result<Option<UnansweredTurn>, WriteError> {
        let look = move |state: &User| {
            let prompted = state.prompted_model(&session, turn);
            let prompted = prompted.map(|model| UnansweredTurn::Prompted {
                model: model.to_owned(),
            });
            let is_asked = state.running_turn(&session) == Some(turn);
            json!(prompted.or(is_asked.then_some(UnansweredTurn::Asked)))
        };
        match self.0.users.look(user, look).await {
            Ok(seen) => serde_json::from_value(seen)
                .map_err(|error| WriteError::Internal(error.to_string())),
            Err(WriteError::Forgotten) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
