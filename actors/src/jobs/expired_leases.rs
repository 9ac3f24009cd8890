//! Ends attempts whose worker is gone. The leader does it, in its epoch.

use std::time::Duration;

use genie_events::{
    JobId, Metadata, Timestamp, User,
    job::{Job, JobCommand, backoff_millis},
};
use genie_log::leases::LeaseRow;
use genie_log::{
    Election, Epoch, Work, clock,
    leases::{Lease, LeaseKind},
};
use tracing::warn;

use super::JobBoard;
use crate::WriteError;

/// How often the leader looks for lapsed leases.
const TICK: Duration = Duration::from_millis(500);

/// The most expired leases ended in one look.
const LAPSES: i64 = 100;

/// A lease that cannot be ended, as of a user whose events cannot be read, is tried again after this time.
const PUT_OFF: Duration = Duration::from_secs(30);

impl JobBoard {
    /// Turns time into commands for ever: on the leader, a lapsed lease ends its attempt. Spawn it.
    pub async fn tick(self, election: Election) {
        loop {
            self.0.log.clock().pause(TICK).await;
            let now = self.0.log.clock().now();
            if let Some(epoch) = election.now() {
                self.lapse_all(epoch, now).await;
            }
        }
    }

    async fn lapse_all(&self, epoch: Epoch, now: Timestamp) {
        match self
            .0
            .log
            .leases()
            .lapsed(LeaseKind::Job, now, LAPSES)
            .await
        {
            Ok(lapsed) => {
                for lease in lapsed {
                    self.lapse(epoch, lease, now).await;
                }
            }
            Err(error) => {
                warn!(%error, "job leases: looking for expired leases failed; trying again")
            }
        }
    }

    async fn lapse(&self, epoch: Epoch, lease: Lease, now: Timestamp) {
        let Ok(job) = lease.id.parse::<JobId>() else {
            return;
        };
        let lease_id = lease.id.clone();
        let holder = lease.holder.clone();
        let has_lapsed = Work::Lease(LeaseRow::OnlyIfLapsed {
            kind: LeaseKind::Job,
            id: lease.id.clone(),
            holder: lease.holder.clone(),
            now,
        });
        let conditions = vec![Work::OnlyInEpoch(epoch), has_lapsed];
        let spread = clock::chance();
        let command = move |state: &User| {
            let attempts = state.job(&job).map_or(1, Job::attempts);
            JobCommand::Lapse {
                lease: lease.holder.clone(),
                retry_at: now.plus_millis(backoff_millis(attempts, spread)),
            }
        };
        let ended = self
            .end(lease.user, job, Metadata::system(), conditions, command)
            .await;
        let leases = self.0.log.leases();
        match ended {
            Ok(_) => {}
            // The job no longer runs under this lease, so the row says nothing. Any node may drop it, leader or not.
            Err(WriteError::Refused(_) | WriteError::Forgotten) => {
                let removed = leases.remove(LeaseKind::Job, &lease_id, &holder).await;
                if let Err(error) = removed {
                    warn!(%error, job.id = %job, "job leases: dropping a used lease failed; trying again");
                }
            }
            // Another server was elected and looks after it.
            Err(WriteError::Deposed) => {}
            Err(error @ (WriteError::Busy | WriteError::Away(_))) => {
                warn!(%error, job.id = %job, "job leases: ending an expired lease failed; trying again");
            }
            Err(error) => {
                warn!(%error, job.id = %job, "job leases: ending an expired lease failed; trying again in 30 s");
                let later = now.plus_millis(PUT_OFF.as_millis() as i64);
                let put_off = leases.put_off(LeaseKind::Job, &lease_id, &holder, later);
                if let Err(error) = put_off.await {
                    warn!(%error, job.id = %job, "job leases: putting off an expired lease failed; trying it again now");
                }
            }
        }
    }
}
