//! The queue, as workers see it (contract, section 5): claim, heartbeat, complete, fail.

use std::time::Duration;

use actix_web::{
    FromRequest, HttpRequest, HttpResponse,
    web::{Data, Path},
};
use genie_actors::jobs::{AttemptEnd, ClaimedJob};
use genie_events::{JobId, Refusal, UserId, job_operation};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    app::App,
    http::{
        body::Body,
        caller::{ServerCaller, WorksOnJobs},
        error::ApiError,
        idempotency,
        jobs::job_id,
        response,
    },
};

/// The most jobs of one claim.
const MAX_CLAIM: usize = 100;
/// The longest a claim may wait, in milliseconds.
const MAX_WAIT_MS: u64 = 30_000;
/// How often it is looked at whether a worker that waits is still a good caller: its key may be revoked meanwhile.
const RECHECK: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
pub struct Claim {
    queues: Vec<String>,
    worker_id: String,
    max: Option<usize>,
    wait_ms: Option<u64>,
}

/// `POST /api/worker/claim`
pub async fn claim(
    app: Data<App>,
    request: HttpRequest,
    server: ServerCaller<WorksOnJobs>,
    Body(body): Body<Claim>,
) -> Result<HttpResponse, ApiError> {
    let queues: Option<Vec<&'static str>> = body
        .queues
        .iter()
        .map(|queue| job_operation::queue(queue))
        .collect();
    let Some(queues) = queues.filter(|queues| !queues.is_empty()) else {
        return Err(ApiError::field(format!(
            "`queues` must name one or more of: {}",
            job_operation::QUEUES.join(", ")
        )));
    };
    if body.worker_id.is_empty() || body.worker_id.len() > 200 {
        return Err(ApiError::field("`worker_id` must have 1 to 200 bytes"));
    }
    let max = body.max.unwrap_or(1);
    if !(1..=MAX_CLAIM).contains(&max) {
        return Err(ApiError::field(format!("`max` must be 1 to {MAX_CLAIM}")));
    }
    let wait = body.wait_ms.unwrap_or(0);
    if wait > MAX_WAIT_MS {
        return Err(ApiError::field(format!(
            "`wait_ms` must be at most {MAX_WAIT_MS}"
        )));
    }
    let until = Instant::now() + Duration::from_millis(wait);
    let claimed = loop {
        let left = until.saturating_duration_since(Instant::now());
        let (queues, worker, metadata) = (
            queues.clone(),
            body.worker_id.clone(),
            server.caller.metadata(),
        );
        let claimed = app
            .write
            .jobs
            .claim(queues, worker, max, left.min(RECHECK), metadata)
            .await?;
        if !claimed.is_empty() || left <= RECHECK {
            break claimed;
        }
        ServerCaller::<WorksOnJobs>::extract(&request).await?;
    };
    let fields = json!({"jobs": claimed.iter().map(shown).collect::<Vec<_>>()});
    Ok(match claimed.iter().map(|claimed| claimed.position).max() {
        Some(position) => response::written(fields, position),
        None => response::ok(fields),
    })
}

fn shown(claimed: &ClaimedJob) -> Value {
    json!({
        "jobId": claimed.job, "userId": claimed.user, "operation": claimed.spec.operation, "params": claimed.spec.params,
        "input_file_id": claimed.spec.input_file_id, "input_url": claimed.spec.input_url,
        "creator_profile_id": claimed.spec.creator_profile_id, "attempt": claimed.attempt, "lease": claimed.lease,
        "lease_expires_at": claimed.lease_expires_at.rfc3339(),
    })
}

#[derive(Deserialize)]
pub struct Heartbeat {
    lease: String,
    progress: Option<i64>,
}

/// `POST /api/worker/jobs/{id}/heartbeat`
pub async fn heartbeat(
    app: Data<App>,
    _: ServerCaller<WorksOnJobs>,
    id: Path<String>,
    Body(body): Body<Heartbeat>,
) -> Result<HttpResponse, ApiError> {
    let job = job_id(&id)?;
    if body
        .progress
        .is_some_and(|progress| !(0..=100).contains(&progress))
    {
        return Err(ApiError::field("`progress` must be 0 to 100, in percent"));
    }
    match app
        .write
        .jobs
        .heartbeat(&job, &body.lease, body.progress)
        .await?
    {
        Some(lease) => Ok(response::ok(
            json!({"lease_expires_at": lease.expires_at.rfc3339(), "cancel": lease.cancelled}),
        )),
        None => {
            owner(&app, &job).await?; // an unknown job is 404
            Err(stale_lease())
        }
    }
}

fn stale_lease() -> ApiError {
    Refusal::conflict(
        "stale_lease",
        "This lease is not the job's present one; claim it again",
    )
    .into()
}

#[derive(Deserialize)]
pub struct Complete {
    lease: String,
    #[serde(default)]
    result: Value,
    #[serde(default)]
    outputs: Vec<Value>,
}

/// `POST /api/worker/jobs/{id}/complete`
pub async fn complete(
    app: Data<App>,
    request: HttpRequest,
    server: ServerCaller<WorksOnJobs>,
    id: Path<String>,
    Body(body): Body<Complete>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &server.caller)?;
    let job = job_id(&id)?;
    let owner = owner(&app, &job).await?;
    let end = AttemptEnd::Completed {
        result: body.result,
        outputs: Value::Array(body.outputs),
    };
    let done = app
        .write
        .jobs
        .end_attempt(owner, job.clone(), &body.lease, end, asking)
        .await?;
    Ok(response::written(
        json!({"jobId": job, "status": "completed"}),
        done.position,
    ))
}

#[derive(Deserialize)]
pub struct Fail {
    lease: String,
    error: String,
    retryable: Option<bool>,
}

/// `POST /api/worker/jobs/{id}/fail`
pub async fn fail(
    app: Data<App>,
    request: HttpRequest,
    server: ServerCaller<WorksOnJobs>,
    id: Path<String>,
    Body(body): Body<Fail>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &server.caller)?;
    let job = job_id(&id)?;
    if body.error.len() > 10_000 {
        return Err(ApiError::field("`error` must be at most 10000 bytes"));
    }
    let owner = owner(&app, &job).await?;
    let end = AttemptEnd::Failed {
        error: body.error,
        retryable: body.retryable.unwrap_or(true),
    };
    let done = app
        .write
        .jobs
        .end_attempt(owner, job.clone(), &body.lease, end, asking)
        .await?;
    Ok(response::written(json!({"jobId": job}), done.position))
}

/// Whose a job is: by its lease while it runs, else by the read side.
async fn owner(app: &App, job: &JobId) -> Result<UserId, ApiError> {
    if let Some(owner) = app.write.jobs.owner_of_running(job).await? {
        return Ok(owner);
    }
    if let Some(owner) = app.reads.jobs.owner(job).await? {
        return Ok(owner);
    }
    // Submitted a moment ago, perhaps: nobody is told "unknown" of what was acknowledged.
    app.reads
        .wait_for("jobs", app.log.head(), app.config.read_wait)
        .await?;
    app.reads
        .jobs
        .owner(job)
        .await?
        .ok_or(ApiError::NotFound("job"))
}
