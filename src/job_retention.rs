//! Removes jobs that ended longer ago than `JOBS_KEEP_DAYS`, as facts of their users. The projection deletes their rows.

use std::{collections::BTreeMap, time::Duration};

use genie_actors::{WriteError, WriteSide};
use genie_events::{JobId, UserId};
use genie_log::{Election, Log, LogError};
use genie_projections::{
    ReadSide,
    jobs::{ENDED_AT_ONCE, EndedJob},
};
use tracing::{info, warn};

/// How often the leader looks for old jobs.
const TICK: Duration = Duration::from_secs(15 * 60);
/// The same when one look did not find the end of them.
const NEXT: Duration = Duration::from_secs(60);
/// The pages of one look.
const PAGES: usize = 20;
/// The most jobs of one append: their user waits for it.
const AT_ONCE: usize = 100;

#[derive(Clone)]
pub struct JobRetention {
    pub log: Log,
    pub write: WriteSide,
    pub reads: ReadSide,
    pub keep: Duration,
}

/// What one look did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct RemovedJobs {
    count: usize,
    /// There are old jobs that it did not come to.
    has_more: bool,
}

#[derive(Debug, thiserror::Error)]
enum JobRetentionError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Log(#[from] LogError),
}

impl JobRetention {
    /// Removes old jobs whenever this node leads. Runs for ever; spawn it.
    pub async fn run(self, mut election: Election) {
        loop {
            election.elected().await;
            let removed = self.remove_old().await.unwrap_or_else(|error| {
                warn!(%error, "jobs: removing old jobs failed; trying again later");
                RemovedJobs::default()
            });
            if removed.count > 0 {
                info!(removed.count, "jobs: removed old jobs");
            }
            let pause = if removed.has_more { NEXT } else { TICK };
            self.log.clock().pause(pause).await;
        }
    }

    async fn remove_old(&self) -> Result<RemovedJobs, JobRetentionError> {
        let keep = i64::try_from(self.keep.as_secs()).unwrap_or(i64::MAX);
        let before = self.log.clock().now().plus_seconds(-keep);
        let mut count = 0;
        let mut after = None;
        for _ in 0..PAGES {
            let old = self.reads.jobs.ended_before(before, after).await?;
            count += self.remove(&old).await?;
            if old.len() < ENDED_AT_ONCE {
                let has_more = false;
                return Ok(RemovedJobs { count, has_more });
            }
            after = old.last().map(|job| (job.finished_at, job.id));
        }
        Ok(RemovedJobs {
            count,
            has_more: true,
        })
    }

    async fn remove(&self, old: &[EndedJob]) -> Result<usize, WriteError> {
        let mut by_owner: BTreeMap<UserId, Vec<JobId>> = BTreeMap::new();
        for job in old {
            by_owner.entry(job.user).or_default().push(job.id);
        }
        let mut count = 0;
        for (owner, jobs) in by_owner {
            for some in jobs.chunks(AT_ONCE) {
                match self.write.jobs.remove(owner, some.to_vec()).await {
                    Ok(removed) => count += removed,
                    Err(WriteError::Forgotten) => {} // forgetting deletes them
                    // One user whose facts are damaged does not keep the others' jobs.
                    Err(error @ WriteError::Internal(_)) => {
                        warn!(%error, user.id = %owner, "jobs: old jobs of a user can't be removed; others are");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(count)
    }
}
