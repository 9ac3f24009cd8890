//! The queue, as workers see it (docs/api.md, Workers): claim, heartbeat, complete, fail.

use std::{collections::HashMap, time::Duration};

use actix_web::{
    Either, FromRequest, HttpRequest,
    web::{Data, Path},
};
use genie_actors::jobs::{
    AttemptEnd, HandedJobs, JobClaim,
    operation_set::{ClaimScope, OperationNumber},
};
use genie_events::{JobId, JobName, MarkNumber, Refusal, UserId, job_operation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use tokio::time::Instant;
use utoipa::ToSchema;

/// Reports of many jobs, and a claim, by one request.
pub mod bulk_report;
/// What workers report of themselves.
mod reports;

use crate::{
    app::App,
    http::{
        body::Body,
        caller::{ServerCaller, WorksOnJobs},
        error::ApiError,
        files,
        idempotency::IdempotencyKey,
        jobs::job_id,
        response::{Answer, Written},
        words::{self, Time},
    },
};

pub use reports::code_of;
use reports::{ReportedCode, ReportedError, ReportedMessage, ReportedProgress};

/// The most jobs of one claim.
const MAX_CLAIM: usize = 100;
/// The longest wait of a claim, in milliseconds.
const MAX_WAIT_MS: u64 = 30_000;
/// A waiting worker's caller is checked this often: its key may be revoked meanwhile.
const RECHECK: Duration = Duration::from_secs(5);

#[derive(Deserialize, ToSchema)]
pub struct Claim {
    #[schema(value_type = Vec<words::Queue>, min_items = 1)]
    queues: Vec<String>,
    /// The operations that this worker can do. Absent: all of the queues, but `verify_mark`, and those that the server
    /// runs itself.
    #[schema(value_type = Option<Vec<words::JobOperation>>, min_items = 1)]
    operations: Option<Vec<String>>,
    /// The worker's name for itself, kept with the facts. 1 to 200 bytes.
    #[schema(min_length = 1, max_length = 200)]
    worker_id: String,
    /// The most jobs, 1 by default. Fewer come when their `params` together reach 1 MiB.
    #[schema(minimum = 1, maximum = 100)]
    max: Option<usize>,
    /// The longest wait for the first job, in milliseconds. 0 by default.
    #[schema(minimum = 0, maximum = 30_000)]
    wait_ms: Option<u64>,
}

#[derive(Serialize, ToSchema)]
pub struct ClaimedJobs {
    jobs: Vec<ClaimedJob>,
}

#[derive(Serialize, ToSchema)]
pub struct ClaimedJob {
    #[serde(rename = "jobId")]
    #[schema(value_type = Uuid)]
    job: JobId,
    /// The owner's own id for the job; absent without one.
    #[serde(rename = "clientJobId", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    client_job: Option<JobName>,
    /// The job's owner.
    #[serde(rename = "userId")]
    #[schema(value_type = Uuid)]
    user: UserId,
    #[schema(value_type = words::JobOperation)]
    operation: String,
    #[schema(value_type = HashMap<String, Value>)]
    params: Box<RawValue>,
    #[schema(required)]
    input_file_id: Option<String>,
    #[schema(required)]
    input_url: Option<String>,
    #[schema(required)]
    creator_profile_id: Option<String>,
    /// The number that `apply_steganographic_watermark` puts into the file; absent for other operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    mark: Option<MarkNumber>,
    /// The number of this attempt, from 1.
    #[schema(minimum = 1)]
    attempt: u32,
    /// The worker keeps it to itself. Only this lease can end this attempt.
    lease: String,
    lease_expires_at: Time,
}

impl From<JobClaim> for ClaimedJob {
    fn from(claimed: JobClaim) -> Self {
        Self {
            job: claimed.job,
            client_job: claimed.spec.name,
            user: claimed.user,
            operation: claimed.spec.operation,
            params: claimed.params,
            input_file_id: claimed.spec.input_file_id,
            input_url: claimed.spec.input_url,
            creator_profile_id: claimed.spec.creator_profile_id,
            mark: claimed.spec.mark,
            attempt: claimed.attempt,
            lease: claimed.lease,
            lease_expires_at: claimed.lease_expires_at.into(),
        }
    }
}

impl Claim {
    fn queues(&self) -> Result<Vec<&'static str>, ApiError> {
        let queues = self.queues.iter().map(|queue| job_operation::queue(queue));
        let queues = queues.collect::<Option<Vec<_>>>();
        queues.filter(|queues| !queues.is_empty()).ok_or_else(|| {
            let known = job_operation::QUEUES.join(", ");
            ApiError::field(format!("`queues` must name one or more of: {known}"))
        })
    }

    fn scope(&self) -> Result<ClaimScope, ApiError> {
        let queues = self.queues()?;
        let Some(names) = &self.operations else {
            return Ok(ClaimScope::of_worker(&queues, None));
        };
        let numbers = names.iter().map(|name| OperationNumber::parse(name));
        let numbers = numbers.collect::<Option<Vec<_>>>();
        let numbers = numbers
            .filter(|numbers| !numbers.is_empty())
            .ok_or_else(|| {
                let known: Vec<&str> = job_operation::of_jobs().collect();
                let known = known.join(", ");
                ApiError::field(format!("`operations` must name one or more of: {known}"))
            })?;
        Ok(ClaimScope::of_worker(&queues, Some(&numbers)))
    }

    fn check_worker(&self) -> Result<(), ApiError> {
        if self.worker_id.is_empty() || self.worker_id.len() > 200 {
            return Err(ApiError::field("`worker_id` must have 1 to 200 bytes"));
        }
        Ok(())
    }

    fn max(&self) -> Result<usize, ApiError> {
        let max = self.max.unwrap_or(1);
        if !(1..=MAX_CLAIM).contains(&max) {
            return Err(ApiError::field(format!("`max` must be 1 to {MAX_CLAIM}")));
        }
        Ok(max)
    }

    fn wait(&self) -> Result<Duration, ApiError> {
        let wait = self.wait_ms.unwrap_or(0);
        if wait > MAX_WAIT_MS {
            let sentence = format!("`wait_ms` must be at most {MAX_WAIT_MS}");
            return Err(ApiError::field(sentence));
        }
        Ok(Duration::from_millis(wait))
    }
}

impl Claim {
    /// The claim, if it is well formed.
    fn checked(self) -> Result<CheckedClaim, ApiError> {
        self.check_worker()?;
        Ok(CheckedClaim {
            scope: self.scope()?,
            max: self.max()?,
            wait: self.wait()?,
            worker: self.worker_id,
        })
    }
}

struct CheckedClaim {
    scope: ClaimScope,
    worker: String,
    max: usize,
    wait: Duration,
}

impl CheckedClaim {
    /// Waits for jobs. A claim that waits is counted as a stream.
    async fn run(
        self,
        app: &App,
        request: &HttpRequest,
        server: &ServerCaller<WorksOnJobs>,
    ) -> Result<HandedJobs, ApiError> {
        let is_stream = !self.wait.is_zero();
        let _open = is_stream.then(|| app.streams.open(None)).transpose()?;
        let until = Instant::now() + self.wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let (scope, worker) = (self.scope.clone(), self.worker.clone());
            let metadata = server.caller.metadata();
            let jobs = &app.write.jobs;
            let claim = jobs.claim(scope, worker, self.max, left.min(RECHECK), metadata);
            let handed = claim.await?;
            if !handed.is_empty() || left <= RECHECK {
                return Ok(handed);
            }
            ServerCaller::<WorksOnJobs>::extract(request).await?;
        }
    }
}

/// `POST /api/worker/claim`
pub async fn claim(
    app: Data<App>,
    request: HttpRequest,
    server: ServerCaller<WorksOnJobs>,
    Body(body): Body<Claim>,
) -> Result<ClaimAnswer, ApiError> {
    let handed = body.checked()?.run(&app, &request, &server).await?;
    let claimed = handed.take();
    let position = claimed.iter().map(|claimed| claimed.position).max();
    let jobs = claimed.into_iter().map(ClaimedJob::from).collect();
    let jobs = ClaimedJobs { jobs };
    Ok(match position {
        Some(position) => Either::Left(Written(jobs, position)),
        None => Either::Right(Answer(jobs)),
    })
}

/// Without jobs nothing was written, so there is no position.
type ClaimAnswer = Either<Written<ClaimedJobs>, Answer<ClaimedJobs>>;

#[derive(Deserialize, ToSchema)]
pub struct Heartbeat {
    lease: String,
    /// In percent. Rounded, and brought between 0 and 100.
    #[serde(default)]
    #[schema(value_type = Option<f64>)]
    progress: ReportedProgress,
    /// What the worker does now, shown to the owner while the job runs. Of more than 1000 bytes the middle is left out.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    message: ReportedMessage,
}

#[derive(Serialize, ToSchema)]
pub struct RenewedLease {
    lease_expires_at: Time,
    /// True when the job was cancelled: stop working on it.
    cancel: bool,
}

/// `POST /api/worker/jobs/{id}/heartbeat`
pub async fn heartbeat(
    app: Data<App>,
    _: ServerCaller<WorksOnJobs>,
    id: Path<String>,
    Body(body): Body<Heartbeat>,
) -> Result<Answer<RenewedLease>, ApiError> {
    let job = job_id(&id)?;
    match app
        .write
        .jobs
        .heartbeat(&job, &body.lease, body.progress.0, body.message.0)
        .await?
    {
        Some(lease) => Ok(Answer(RenewedLease {
            lease_expires_at: lease.expires_at.into(),
            cancel: lease.cancelled,
        })),
        None => {
            owner(&app, &job).await?; // An unknown job is 404.
            Err(stale_lease())
        }
    }
}

pub fn stale_lease() -> ApiError {
    Refusal::conflict(
        "stale_lease",
        "This lease is not the job's present one; claim the job again",
    )
    .into()
}

#[derive(Deserialize, ToSchema)]
pub struct Complete {
    lease: String,
    /// The worker's result, any JSON.
    #[serde(default)]
    result: Value,
    /// Files that the worker made, kept unchanged. By convention each is `{file_id | url, name, mime, bytes}`.
    #[schema(nullable)]
    #[serde(default)]
    outputs: Vec<Value>,
}

#[derive(Serialize, ToSchema)]
pub struct CompletedJob {
    #[serde(rename = "jobId")]
    #[schema(value_type = Uuid)]
    job: JobId,
    #[schema(value_type = words::JobStatus)]
    status: &'static str,
}

/// `POST /api/worker/jobs/{id}/complete`
pub async fn complete(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    server: ServerCaller<WorksOnJobs>,
    id: Path<String>,
    Body(body): Body<Complete>,
) -> Result<Written<CompletedJob>, ApiError> {
    let asking = idempotency_key.asking(&app, &server.caller)?;
    let job = job_id(&id)?;
    let owner = owner(&app, &job).await?;
    files::check_outputs(&app, owner, &body.outputs).await?;
    let end = AttemptEnd::Completed {
        result: body.result,
        outputs: Value::Array(body.outputs),
    };
    let done = app
        .write
        .jobs
        .end_attempt(owner, job, &body.lease, end, asking)
        .await?;
    let job = CompletedJob {
        job,
        status: "completed",
    };
    Ok(Written(job, done.position))
}

#[derive(Deserialize, ToSchema)]
pub struct Fail {
    lease: String,
    /// The reason, shown to the owner. Of more than 10000 bytes the middle is left out.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    error: ReportedError,
    /// A word for programs, by which failures can be told apart. It is kept in clear: nothing personal belongs in it.
    /// Brought into the form `[a-z0-9_.-]{1,64}`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    code: ReportedCode,
    /// False when another attempt makes no sense. True by default.
    retryable: Option<bool>,
}

#[derive(Serialize, ToSchema)]
pub struct FailedAttempt {
    #[serde(rename = "jobId")]
    #[schema(value_type = Uuid)]
    job: JobId,
}

/// `POST /api/worker/jobs/{id}/fail`
pub async fn fail(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    server: ServerCaller<WorksOnJobs>,
    id: Path<String>,
    Body(body): Body<Fail>,
) -> Result<Written<FailedAttempt>, ApiError> {
    let asking = idempotency_key.asking(&app, &server.caller)?;
    let job = job_id(&id)?;
    let owner = owner(&app, &job).await?;
    let end = AttemptEnd::Failed {
        error: body.error.0,
        code: body.code.0,
        retryable: body.retryable.unwrap_or(true),
    };
    let done = app
        .write
        .jobs
        .end_attempt(owner, job, &body.lease, end, asking)
        .await?;
    Ok(Written(FailedAttempt { job }, done.position))
}

#[derive(Deserialize, ToSchema)]
pub struct Release {
    lease: String,
}

#[derive(Serialize, ToSchema)]
pub struct ReleasedJob {
    #[serde(rename = "jobId")]
    #[schema(value_type = Uuid)]
    job: JobId,
    #[schema(value_type = words::JobStatus)]
    status: &'static str,
}

/// `POST /api/worker/jobs/{id}/release`
pub async fn release(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    server: ServerCaller<WorksOnJobs>,
    id: Path<String>,
    Body(body): Body<Release>,
) -> Result<Written<ReleasedJob>, ApiError> {
    let asking = idempotency_key.asking(&app, &server.caller)?;
    let job = job_id(&id)?;
    let owner = owner(&app, &job).await?;
    let jobs = &app.write.jobs;
    let ended = jobs.end_attempt(owner, job, &body.lease, AttemptEnd::Released, asking);
    let done = ended.await?;
    let job = ReleasedJob {
        job,
        status: "queued",
    };
    Ok(Written(job, done.position))
}

/// A job's owner: from its lease while it runs, else from the read side.
pub async fn owner(app: &App, job: &JobId) -> Result<UserId, ApiError> {
    let owners = owners(app, &[*job]).await?;
    owners.get(job).copied().ok_or(ApiError::NotFound("job"))
}

/// The owners of jobs. One without an owner does not exist.
async fn owners(app: &App, jobs: &[JobId]) -> Result<HashMap<JobId, UserId>, ApiError> {
    let running = app.write.jobs.owners_of_running(jobs).await?;
    let mut owners: HashMap<JobId, UserId> = running.into_iter().collect();
    find_owners(app, jobs, &mut owners).await?;
    if jobs.iter().any(|job| !owners.contains_key(job)) {
        // The job may have been submitted a moment ago. An acknowledged job must not be answered with 404.
        let head = app.log.reader().head();
        app.reads
            .wait_for("jobs", head, app.config.read_wait)
            .await?;
        find_owners(app, jobs, &mut owners).await?;
    }
    Ok(owners)
}

async fn find_owners(
    app: &App,
    jobs: &[JobId],
    owners: &mut HashMap<JobId, UserId>,
) -> Result<(), ApiError> {
    for job in jobs {
        if !owners.contains_key(job)
            && let Some(owner) = app.reads.jobs.owner(job).await?
        {
            owners.insert(*job, owner);
        }
    }
    Ok(())
}
