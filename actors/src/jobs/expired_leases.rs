//! Ends attempts whose worker is gone. The leader does it, in its epoch, by the store's clock.

use std::{sync::atomic::Ordering, time::Duration};

use genie_events::{
    JobId, Metadata, Timestamp, User,
    job::{Job, JobCommand, backoff_millis},
};
use genie_log::leases::LeaseRow;
use genie_log::{
    Election, Epoch, LogError, Work, clock,
    leases::{Lease, LeaseKind},
};
use tokio::time::Instant;
use tracing::warn;

use super::{
    JobBoard,
    renewal_watch::{ProcessMoment, RenewalWatch},
};
use crate::WriteError;

/// How often the leader looks for lapsed leases.
const TICK: Duration = Duration::from_millis(500);

/// How often the store's clock is read.
const CLOCK_READING: Duration = Duration::from_secs(5);

/// The most expired leases ended in one look.
const LAPSES: i64 = 100;

/// A lease that cannot be ended, as of a user whose events cannot be read, is tried again after this time.
const PUT_OFF: Duration = Duration::from_secs(30);

impl JobBoard {
    /// Turns time into commands for ever: on the leader, a lapsed lease ends its attempt. Spawn it.
    pub async fn tick(self, election: Election) {
        let began = Instant::now();
        let mut watch = RenewalWatch::new(self.0.lease, TICK);
        let mut clock_read = Instant::now();
        loop {
            let clock = self.0.log.clock();
            let moment = ProcessMoment {
                running: began.elapsed(),
                moved: Duration::from_micros(clock.moved_micros().unsigned_abs()),
            };
            if clock_read.elapsed() >= CLOCK_READING {
                clock_read = Instant::now();
                if let Err(error) = self.0.log.read_store_clock().await {
                    warn!(%error, "job leases: reading the store's clock failed; it goes on from the last reading");
                }
            }
            self.look_at_leases(election.now(), moment, &mut watch)
                .await;
            clock.pause(TICK).await;
        }
    }

    async fn look_at_leases(
        &self,
        epoch: Option<Epoch>,
        moment: ProcessMoment,
        watch: &mut RenewalWatch,
    ) {
        let Some(epoch) = epoch else {
            watch.broken();
            return;
        };
        let now = self.0.log.store_clock().now();
        match self.lapsed(now).await {
            Ok(lapsed) if watch.well(epoch.number(), moment) => {
                for lease in lapsed {
                    self.lapse(epoch, lease, now).await;
                }
            }
            Ok(_) => {}
            Err(error) => {
                watch.broken();
                warn!(%error, "job leases: looking for expired leases failed; trying again");
            }
        }
    }

    /// The leases that have run out. An error when the store takes no renewals.
    async fn lapsed(&self, now: Timestamp) -> Result<Vec<Lease>, LogError> {
        if let Some(trouble) = self.0.log.trouble() {
            return Err(LogError::Away(trouble.as_str().to_owned()));
        }
        if self.0.renewals_fail.swap(false, Ordering::SeqCst) {
            return Err(LogError::Away("a lease could not be renewed".into()));
        }
        let leases = self.0.log.leases();
        leases.lapsed(LeaseKind::Job, now, LAPSES).await
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
        let own_clock = self.0.log.clock().clone();
        let command = move |state: &User| {
            let attempts = state.job(&job).map_or(1, Job::attempts);
            let pause = backoff_millis(attempts, spread);
            JobCommand::Lapse {
                lease: lease.holder.clone(),
                retry_at: own_clock.now().plus_millis(pause),
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
