//! Jobs on their way to a worker. A claim counts once the appends of its jobs' owners have accepted it. Those of many
//! owners are made at the same time, so that one group commit takes them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use genie_events::{
    Change, Event, JobId, Metadata, Now, Refusal, StreamId, StreamKind, Timestamp, User,
    UserCommand, UserId,
    job::{JobCommand, JobEvent, JobSpec},
    user::Recall,
};
use genie_log::{
    Log, LogError, Work, clock,
    keys::sha256_hex,
    leases::{LeaseKind, LeaseRow},
    long_pages,
};
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::Instant;
use tracing::warn;

use super::{AttemptEnd, JobBoard, JobOffer, KnownClaim, ReportedEnd, operation_set::ClaimScope};
use crate::{
    WriteError,
    users::{Plan, PlanNote},
};

/// A claim hands out no further job once the `params` of its jobs have so many bytes.
const CLAIM_BYTES: usize = 1 << 20;
/// A claim that could not ask so many owners ends.
const UNANSWERED: usize = 3;
/// An owner that does not decide in this time is busy, such as one with many jobs that is being read. Jobs of others go
/// on.
const OWNER_PATIENCE: Duration = Duration::from_secs(2);
/// The jobs that are read and claimed together.
const CLAIMED_TOGETHER: usize = 32;
/// A claim that reads more jobs than this at once is made like a long page: it may open 2 MiB, and short answers would
/// wait for that.
const FEW: usize = 16;

/// A job handed to a worker.
#[derive(Debug)]
pub struct JobClaim {
    pub job: JobId,
    pub user: UserId,
    /// The work, but for its `params`.
    pub spec: JobSpec,
    /// As JSON: parsed, they may take sixteen times the room.
    pub params: Box<RawValue>,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// The lease in the clear, which the worker keeps to itself.
    pub lease: String,
    pub lease_expires_at: Timestamp,
    /// The position of the fact.
    pub position: u64,
}

/// Jobs that were claimed for a worker. Those that nobody takes go back to the queue, and their attempt does not
/// count.
pub struct HandedJobs {
    board: JobBoard,
    jobs: Vec<JobClaim>,
    metadata: Metadata,
}

impl HandedJobs {
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// The jobs, for the answer to the worker.
    pub fn take(mut self) -> Vec<JobClaim> {
        std::mem::take(&mut self.jobs)
    }
}

impl Drop for HandedJobs {
    fn drop(&mut self) {
        let untaken = std::mem::take(&mut self.jobs);
        if untaken.is_empty() {
            return;
        }
        let board = self.board.clone();
        let metadata = self.metadata.clone();
        let io = self.board.0.log.store().io().clone();
        io.spawn(async move { board.give_back(untaken, metadata).await });
    }
}

/// A job on its way, with what its claim needs.
struct ReadyClaim {
    offer: JobOffer,
    spec: JobSpec,
    params: Box<RawValue>,
    /// In the clear.
    lease: String,
}

/// What is to be done for a job: its spec, and apart from it the `params`.
type JobWork = (JobSpec, Box<RawValue>);

/// The work of these jobs, in their order. One that can't be read does not hide the others.
async fn read_work(
    log: Log,
    streams: Vec<(UserId, StreamId)>,
) -> Result<Vec<Result<JobWork, WriteError>>, WriteError> {
    let first = log.reader().first_events(&streams).await?;
    Ok(first.into_iter().map(work_of).collect())
}

fn work_of(first: Result<Option<Event>, LogError>) -> Result<JobWork, WriteError> {
    let Some(Event::Job(JobEvent::Submitted { mut spec, .. })) = first? else {
        let reason = "a job does not begin with its submission";
        return Err(WriteError::Internal(reason.into()));
    };
    let params = std::mem::take(&mut spec.params);
    let params = to_raw_value(&params).expect("a JSON value can be written");
    Ok((spec, params))
}

impl JobBoard {
    /// Hands out up to `max` jobs that the claim asks for. Waits up to `wait` for the first.
    pub async fn claim(
        &self,
        scope: ClaimScope,
        worker: String,
        max: usize,
        wait: Duration,
        metadata: Metadata,
    ) -> Result<HandedJobs, WriteError> {
        let deadline = Instant::now() + wait;
        let _known = KnownClaim::begin(self, &scope);
        loop {
            let news = self.0.news.of(scope.operations());
            let board = self.clone();
            let scope_now = scope.clone();
            let worker_now = worker.clone();
            let metadata_now = metadata.clone();
            // On a task of its own: a job taken off the board must end up somewhere even when the worker goes away.
            let handing = async move {
                board
                    .hand_out(&scope_now, &worker_now, max, metadata_now)
                    .await
            };
            let handed = self.0.users.run_to_end(handing).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            if !handed.is_empty() || left.is_zero() {
                return Ok(handed);
            }
            let _ = tokio::time::timeout(left, news).await; // in time or not: look again
        }
    }

    async fn hand_out(
        &self,
        scope: &ClaimScope,
        worker: &str,
        max: usize,
        metadata: Metadata,
    ) -> Result<HandedJobs, WriteError> {
        let mut handed = HandedJobs {
            board: self.clone(),
            jobs: Vec::new(),
            metadata,
        };
        let mut bytes = 0;
        let mut unanswered = Vec::new();
        while handed.jobs.len() < max && bytes < CLAIM_BYTES && unanswered.len() < UNANSWERED {
            let most = (max - handed.jobs.len()).min(CLAIMED_TOGETHER);
            let offers = self.next_offers(scope, most);
            if offers.is_empty() {
                break;
            }
            let (ready, mut failed) = self.ready(offers, scope, CLAIM_BYTES - bytes).await;
            bytes += ready
                .iter()
                .map(|job| job.params.get().len())
                .sum::<usize>();
            for claimed in self.claim_all(ready, worker, &handed.metadata).await {
                handed.jobs.extend(claimed.jobs);
                failed.extend(claimed.failed);
            }
            for (offer, error) in failed {
                unanswered.extend(self.not_handed_out(&offer, error));
            }
        }
        match unanswered.into_iter().next() {
            Some(error) if handed.jobs.is_empty() => Err(error),
            _ => Ok(handed),
        }
    }

    /// Reads the work of these jobs, before any append: a job that is claimed and cannot be read would wait for its
    /// lease to lapse. Those beyond so many bytes of `params` go back to the board.
    async fn ready(
        &self,
        offers: Vec<JobOffer>,
        scope: &ClaimScope,
        most_bytes: usize,
    ) -> (Vec<ReadyClaim>, Vec<FailedOffer>) {
        let streams: Vec<_> = offers
            .iter()
            .map(|offer| (offer.user, StreamId::new(StreamKind::Job, offer.job)))
            .collect();
        let works = read_work(self.0.log.clone(), streams);
        let works = if offers.len() > FEW {
            long_pages::make(works).await
        } else {
            works.await
        };
        let works = match works {
            Ok(works) => works,
            Err(error) => {
                let fail = |offer| (offer, error.clone());
                return (vec![], offers.into_iter().map(fail).collect());
            }
        };
        let mut ready = Vec::with_capacity(offers.len());
        let mut failed = Vec::new();
        let mut bytes = 0;
        let mut beyond = Vec::new();
        for (offer, work) in offers.into_iter().zip(works) {
            if bytes >= most_bytes {
                beyond.push(offer);
                continue;
            }
            let (spec, params) = match work {
                Ok(work) => work,
                Err(error) => {
                    failed.push((offer, error));
                    continue;
                }
            };
            bytes += params.get().len();
            ready.push(ReadyClaim {
                offer,
                spec,
                params,
                lease: hex::encode(clock::random_bytes::<32>()),
            });
        }
        self.put_back(&beyond, scope);
        (ready, failed)
    }

    /// Puts jobs back, and wakes the next claim for them.
    fn put_back(&self, offers: &[JobOffer], scope: &ClaimScope) {
        if offers.is_empty() {
            return;
        }
        let mut board = self.lock();
        offers.iter().for_each(|offer| board.put_back(offer));
        let ready = board.ready(scope);
        drop(board);
        self.0.news.tell(ready.iter());
    }

    /// Claims these jobs by one append for each owner, all at the same time.
    async fn claim_all(
        &self,
        ready: Vec<ReadyClaim>,
        worker: &str,
        metadata: &Metadata,
    ) -> Vec<Claimed> {
        let mut by_owner: BTreeMap<UserId, Vec<ReadyClaim>> = BTreeMap::new();
        for job in ready {
            by_owner.entry(job.offer.user).or_default().push(job);
        }
        let claims = by_owner
            .into_iter()
            .map(|(user, jobs)| self.claim_of_owner(user, jobs, worker, metadata));
        join_all(claims).await
    }

    async fn claim_of_owner(
        &self,
        user: UserId,
        jobs: Vec<ReadyClaim>,
        worker: &str,
        metadata: &Metadata,
    ) -> Claimed {
        let mut all = Claimed::default();
        match self.append_claims(user, &jobs, worker, metadata).await {
            Ok(appended) => {
                for (job, attempt) in jobs.into_iter().zip(appended.attempts) {
                    match attempt {
                        Ok(attempt) => all.jobs.push(JobClaim {
                            job: job.offer.job,
                            user,
                            spec: job.spec,
                            params: job.params,
                            attempt,
                            lease: job.lease,
                            lease_expires_at: appended.expires_at,
                            position: appended.position,
                        }),
                        Err(refusal) => all.failed.push((job.offer, refusal.into())),
                    }
                }
            }
            Err(error) => {
                let fail = |job: ReadyClaim| (job.offer, error.clone());
                all.failed.extend(jobs.into_iter().map(fail));
            }
        }
        all
    }

    async fn append_claims(
        &self,
        user: UserId,
        jobs: &[ReadyClaim],
        worker: &str,
        metadata: &Metadata,
    ) -> Result<AppendedClaims, WriteError> {
        let expires_at = self.lease_end();
        let wanted: Vec<(JobId, String)> = jobs
            .iter()
            .map(|job| (job.offer.job, sha256_hex(job.lease.as_bytes())))
            .collect();
        let worker = worker.to_owned();
        let caused_by = metadata.clone();
        let planner = move |state: &User, now: Now| {
            let tier = state.tier()?;
            let command = |(job, lease): &(JobId, String)| {
                let claim = JobCommand::Claim {
                    worker: worker.clone(),
                    lease: lease.clone(),
                    now: now.moment,
                };
                UserCommand::Job(*job, claim)
            };
            let commands = wanted.iter().map(command).collect();
            let decided = state.decide_in_turn(&now, &caused_by, commands);
            let mut plan = Plan::default();
            let mut answers = Vec::with_capacity(wanted.len());
            for ((job, lease), decided) in wanted.iter().zip(decided) {
                let lease = Work::Lease(LeaseRow::Put {
                    kind: LeaseKind::Job,
                    id: job.to_string(),
                    user,
                    stream_id: job.to_string(),
                    holder: lease.clone(),
                    expires_at,
                });
                answers.push(decided.map(|changes| {
                    plan.changes.extend(changes);
                    plan.work.push(lease);
                }));
            }
            plan.note = PlanNote::Claims { answers, tier };
            Ok(plan)
        };
        // One that had ended and was queued again may be left out of the state.
        let recalls = jobs.iter().map(|job| Recall::Job(job.offer.job)).collect();
        let users = &self.0.users;
        let planner = Arc::new(planner);
        let done = users.plan_within(OWNER_PATIENCE, user, recalls, metadata.clone(), planner);
        let done = done.await?;
        let PlanNote::Claims { answers, tier } = done.note else {
            return Err(WriteError::Internal("claimed jobs left no note".into()));
        };
        self.lock().owner_answered(user, tier);
        let attempt = |(job, answer): (&ReadyClaim, Result<(), Refusal>)| {
            answer.map(|()| attempt_of(&done.changes, job.offer.job))
        };
        Ok(AppendedClaims {
            attempts: jobs.iter().zip(answers).map(attempt).collect(),
            expires_at,
            position: done.position,
        })
    }

    /// Gives back the jobs of a claim whose worker has gone.
    async fn give_back(&self, untaken: Vec<JobClaim>, metadata: Metadata) {
        let mut by_owner: BTreeMap<UserId, Vec<ReportedEnd>> = BTreeMap::new();
        for claim in untaken {
            by_owner.entry(claim.user).or_default().push(ReportedEnd {
                job: claim.job,
                lease: claim.lease,
                end: AttemptEnd::Released,
            });
        }
        for (owner, ends) in by_owner {
            if let Err(error) = self.end_attempts(owner, ends, metadata.clone()).await {
                warn!(%error, user.id = %owner, "job board: giving back the jobs of a worker that is gone failed; their leases lapse");
            }
        }
    }
}

/// The number of the attempt that begins for this job.
fn attempt_of(changes: &[Change], job: JobId) -> u32 {
    let stream = StreamId::new(StreamKind::Job, job);
    let begun = changes.iter().find_map(|change| match &change.event {
        Event::Job(JobEvent::Claimed { attempt, .. }) if change.stream == stream => Some(*attempt),
        _ => None,
    });
    begun.unwrap_or(1) // under a fresh lease a claim always changes something
}

/// A job that was not handed out, and why.
type FailedOffer = (JobOffer, WriteError);

/// What became of an owner's jobs.
#[derive(Default)]
struct Claimed {
    jobs: Vec<JobClaim>,
    failed: Vec<FailedOffer>,
}

/// The claims of one owner's jobs.
struct AppendedClaims {
    /// The number of each attempt, or why the job was not claimed.
    attempts: Vec<Result<u32, Refusal>>,
    expires_at: Timestamp,
    position: u64,
}
