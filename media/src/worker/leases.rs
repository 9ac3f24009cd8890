//! The leases of all jobs that run. One task renews them together, and tells an attempt when its lease is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::server::{JobServer, LeaseAfterBeat, LeaseBeat, ServerError, WorkerJob};

/// A cancelled job is told by the next heartbeat, and its program is to end within a second.
const HEARTBEAT: Duration = Duration::from_millis(700);

#[derive(Default)]
pub(super) struct LeaseKeeper {
    held: Mutex<Vec<Arc<HeldLease>>>,
    more: Notify,
}

struct HeldLease {
    job: String,
    lease: String,
    /// In percent, as the bits of an `f64`.
    progress: AtomicU64,
    lost: CancellationToken,
}

/// A lease that is renewed until this is dropped.
pub(super) struct KeptLease<'a> {
    leases: &'a LeaseKeeper,
    held: Arc<HeldLease>,
}

impl LeaseKeeper {
    /// Renews the job's lease from now on.
    pub fn keep(&self, job: &WorkerJob) -> KeptLease<'_> {
        let held = Arc::new(HeldLease {
            job: job.id.clone(),
            lease: job.lease().to_owned(),
            progress: AtomicU64::new(0),
            lost: CancellationToken::new(),
        });
        self.held.lock().push(Arc::clone(&held));
        self.more.notify_one();
        KeptLease { leases: self, held }
    }

    /// Renews leases until it is dropped.
    pub async fn renew(&self, server: &JobServer) {
        loop {
            sleep(HEARTBEAT).await;
            let held = self.held.lock().clone();
            if held.is_empty() {
                self.more.notified().await;
                continue;
            }
            let beats = held.iter().map(|one| LeaseBeat {
                job: &one.job,
                lease: &one.lease,
                progress: f64::from_bits(one.progress.load(Ordering::Relaxed)),
            });
            let beats: Vec<LeaseBeat<'_>> = beats.collect();
            match server.heartbeats(&beats).await {
                Ok(renewed) => {
                    for (one, lease) in held.iter().zip(renewed) {
                        one.take(lease);
                    }
                }
                // The server takes nothing of this worker any more.
                Err(error @ ServerError::Refused { .. }) => {
                    warn!(%error, "media worker: the server refuses its heartbeats; its jobs stop");
                    held.iter().for_each(|one| one.lost.cancel());
                }
                // The server says when it is over.
                Err(error) => {
                    warn!(%error, "media worker: heartbeats not answered; trying again");
                }
            }
        }
    }
}

impl HeldLease {
    fn take(&self, renewed: LeaseAfterBeat) {
        match renewed {
            LeaseAfterBeat::Kept => {}
            LeaseAfterBeat::Lost => self.lost.cancel(),
            LeaseAfterBeat::Unknown(why) => {
                info!(
                    job = self.job,
                    why, "media worker: a lease was not renewed; trying again"
                );
            }
        }
    }
}

impl KeptLease<'_> {
    /// Returns when somebody else has the job, it was cancelled, or it is gone.
    pub async fn lost(&self) {
        self.held.lost.cancelled().await;
    }

    pub fn set_progress(&self, percent: f64) {
        let bits = percent.to_bits();
        self.held.progress.store(bits, Ordering::Relaxed);
    }
}

impl Drop for KeptLease<'_> {
    fn drop(&mut self) {
        let mut held = self.leases.held.lock();
        held.retain(|one| !Arc::ptr_eq(one, &self.held));
    }
}
