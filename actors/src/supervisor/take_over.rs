//! Leases of runs: renewing those of what runs here, and taking over what dead nodes left behind.

use std::time::Duration;

use genie_events::{CaptionId, Metadata, SessionId, TurnId, UserId, chat::Chat};
use genie_log::{
    Election, Epoch, LogError, Owner,
    leases::{Lease, LeaseKind},
};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{LEASE, Supervisor, lock};

/// How often leases are renewed and the lapsed looked for.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// The most lapsed runs taken over in one look.
const TAKEN_OVER: i64 = 100;

impl Supervisor {
    /// Renews the leases of what runs here, for ever; to be spawned. What is not run is not renewed, so that whatever falls
    /// through lapses and is taken over.
    pub async fn renew(self) {
        loop {
            match self.renew_once().await {
                Ok(()) => {
                    lock(&self.0.renewing_since).get_or_insert_with(Instant::now);
                }
                Err(error) => {
                    *lock(&self.0.renewing_since) = None;
                    warn!(%error, "the leases of running answers can't be renewed; trying on");
                }
            }
            tokio::time::sleep(HEARTBEAT).await;
        }
    }

    async fn renew_once(&self) -> Result<(), LogError> {
        let ids: Vec<String> = lock(&self.0.running).keys().cloned().collect();
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
            .for_each(|id| self.heed(id, held.get(id).copied()));
        Ok(())
    }

    /// After an outage of the store every lease has lapsed, those of living nodes too: each is given a lease's time to renew.
    fn may_take_over(&self) -> bool {
        lock(&self.0.renewing_since).is_some_and(|since| since.elapsed() >= LEASE)
    }

    /// What the heartbeat said of a run: held and perhaps called off, or not held any more.
    fn heed(&self, id: &str, called_off: Option<bool>) {
        let Some(run) = lock(&self.0.running).get(id).cloned() else {
            return;
        };
        match called_off {
            Some(true) => run.cancel.cancel(),
            Some(false) => {}
            None => run.lost.cancel(), // ended a moment ago, or taken by another node
        }
    }

    /// Takes over what dead nodes left behind, for ever, whenever this node is elected; to be spawned.
    pub async fn take_over_the_lapsed(self, embedded: bool, election: Election) {
        if embedded && let Err(error) = self.0.log.leases().release_runs().await {
            warn!(%error, "what an earlier process ran can't be released yet; its leases will lapse");
        }
        loop {
            if let Some(epoch) = election.now()
                && self.may_take_over()
                && let Err(error) = self.look_for_the_lapsed(epoch).await
            {
                warn!(%error, "lapsed answers can't be looked for; trying on");
            }
            tokio::time::sleep(HEARTBEAT).await;
        }
    }

    async fn look_for_the_lapsed(&self, epoch: Epoch) -> Result<(), LogError> {
        let now = self.0.log.clock().now();
        for kind in [LeaseKind::Turn, LeaseKind::Caption] {
            for lease in self.0.log.leases().lapsed(kind, now, TAKEN_OVER).await? {
                if lock(&self.0.running).contains_key(&lease.id) {
                    continue; // ours, and about to be renewed
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
                    error!(%error, "what a dead node left behind can't be ended yet; it is tried again when the lease lapses");
                }
            }
        }
        Ok(())
    }

    /// A turn of which nothing was shown is begun anew; one that had begun ends as interrupted with what was shown of it.
    /// A caption fails, and its quota unit goes back.
    async fn take_over(&self, epoch: Epoch, kind: LeaseKind, lease: Lease) -> Result<(), LogError> {
        match kind {
            LeaseKind::Turn => {
                let Ok(turn) = lease.id.parse::<TurnId>() else {
                    return Ok(());
                };
                let session = SessionId(lease.stream_id);
                if !self.is_unanswered(turn, lease.user, &session).await? {
                    return self
                        .0
                        .log
                        .leases()
                        .remove(kind, &lease.id, &self.0.node)
                        .await;
                }
                let shown = self.0.log.journals().text(turn, lease.user).await?;
                info!(turn.id = %turn, shown.bytes = shown.len(), "turn `{turn}` was not finished by the server that began it; this one goes on");
                if shown.is_empty() {
                    self.start_turn(turn, lease.user, session, Metadata::system());
                } else {
                    self.end_turn(epoch, turn, lease.user, session);
                }
            }
            LeaseKind::Caption => {
                if let Ok(caption) = lease.id.parse::<CaptionId>() {
                    self.end_caption(epoch, caption, lease.user);
                }
            }
            LeaseKind::Job => {}
        }
        Ok(())
    }

    async fn is_unanswered(
        &self,
        turn: TurnId,
        user: UserId,
        session: &SessionId,
    ) -> Result<bool, LogError> {
        let chat = self
            .0
            .log
            .stream::<Chat>(&Owner::User(user), &session.0)
            .await?;
        Ok(chat.is_some_and(|(chat, _)| chat.running() == Some(turn)))
    }
}
