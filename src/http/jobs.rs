//! The queue, as users see it (contract, section 5).

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path, Query},
};
use genie_events::{JobId, Timestamp, UserId, job::JobSpec, job_operation, user::onboarding};
use genie_log::leases::LeaseKind;
use genie_projections::jobs::{JobFilter, JobRow, QueueStats};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    app::App,
    http::{
        body::Body,
        caller::{ActingUser, Somebody},
        error::ApiError,
        idempotency, read_your_writes,
        response::{self, PageQuery},
    },
};

/// Lower runs sooner.
const DEFAULT_PRIORITY: i64 = 10;
const DEFAULT_ATTEMPTS: u32 = 3;
/// The largest `params`, as JSON.
const MAX_PARAMS: usize = 64 * 1024;
/// The longest address to fetch from.
const MAX_URL: usize = 2048;

#[derive(Deserialize)]
pub struct NewJob {
    #[serde(rename = "jobId")]
    job: Option<AnnouncedId>,
    operation: String,
    input_file_id: Option<String>,
    input_url: Option<String>,
    #[serde(default)]
    params: Map<String, Value>,
    creator_profile_id: Option<String>,
    priority: Option<i64>,
    run_at: Option<String>,
    max_attempts: Option<u32>,
}

/// Clients of the original announce a UUID or the number of a record, as text or as a number.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a UUID or a number")]
enum AnnouncedId {
    Text(String),
    Number(u64),
}

impl NewJob {
    fn id(&self) -> Result<Option<JobId>, ApiError> {
        let text = match &self.job {
            None => return Ok(None),
            Some(AnnouncedId::Text(text)) => text.clone(),
            Some(AnnouncedId::Number(number)) => number.to_string(),
        };
        text.parse()
            .map(Some)
            .map_err(|error: genie_events::ids::NotAnId| ApiError::field(error.to_string()))
    }

    fn spec(self) -> Result<JobSpec, ApiError> {
        let Some(queue) = job_operation::queue_of(&self.operation) else {
            return Err(unknown_operation());
        };
        let run_at = match &self.run_at {
            None => None,
            Some(text) => Some(
                Timestamp::parse_rfc3339(text)
                    .ok_or_else(|| ApiError::field("`run_at` must be an RFC 3339 time"))?,
            ),
        };
        if Value::Object(self.params.clone()).to_string().len() > MAX_PARAMS {
            return Err(ApiError::field(format!(
                "`params` must be at most {MAX_PARAMS} bytes; upload what is larger"
            )));
        }
        let priority = self.priority.unwrap_or(DEFAULT_PRIORITY);
        if !(0..=1_000_000).contains(&priority) {
            return Err(ApiError::field(
                "`priority` must be 0 to 1000000; lower runs sooner",
            ));
        }
        let max_attempts = self.max_attempts.unwrap_or(DEFAULT_ATTEMPTS);
        if !(1..=20).contains(&max_attempts) {
            return Err(ApiError::field("`max_attempts` must be 1 to 20"));
        }
        for (name, text) in [
            ("input_file_id", &self.input_file_id),
            ("input_url", &self.input_url),
            ("creator_profile_id", &self.creator_profile_id),
        ] {
            if text
                .as_ref()
                .is_some_and(|text| text.is_empty() || text.len() > MAX_URL)
            {
                return Err(ApiError::field(format!(
                    "`{name}` must have 1 to {MAX_URL} bytes"
                )));
            }
        }
        if let Some(url) = &self.input_url
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            return Err(ApiError::field(
                "`input_url` must begin with http:// or https://",
            ));
        }
        Ok(JobSpec {
            operation: self.operation,
            queue: queue.to_owned(),
            params: Value::Object(self.params),
            input_file_id: self.input_file_id,
            input_url: self.input_url,
            creator_profile_id: self.creator_profile_id,
            priority,
            run_at,
            max_attempts,
        })
    }
}

fn unknown_operation() -> ApiError {
    let all: Vec<&str> = job_operation::all().collect();
    ApiError::field(format!("`operation` must be one of: {}", all.join(", ")))
}

/// `POST /api/queue/media`
pub async fn submit(
    app: Data<App>,
    request: HttpRequest,
    user: ActingUser,
    Body(body): Body<NewJob>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &user.caller)?;
    let job = body
        .id()?
        .unwrap_or_else(|| JobId::new(app.log.clock().new_uuid()));
    let spec = body.spec()?;
    let queue = spec.queue.clone();
    let submitted = app
        .write
        .jobs
        .submit(user.account.user, job, spec, asking)
        .await?;
    let place = app.write.jobs.waiting(&queue).max(1);
    let fields = json!({
        "jobId": submitted.job, "bullJobId": submitted.job.to_string(), "queue": queue, "status": submitted.status,
        "queue_position": place,
    });
    Ok(response::written(fields, submitted.position))
}

/// `POST /api/queue/retry/{id}`
pub async fn retry(
    app: Data<App>,
    request: HttpRequest,
    user: ActingUser,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &user.caller)?;
    let job = job_id(&id)?;
    let done = app
        .write
        .jobs
        .retry(user.account.user, job.clone(), asking)
        .await?;
    Ok(response::written(
        json!({"jobId": job, "bullJobId": job.to_string(), "status": "queued"}),
        done.position,
    ))
}

/// `POST /api/queue/cancel/{id}`
pub async fn cancel(
    app: Data<App>,
    request: HttpRequest,
    user: ActingUser,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &user.caller)?;
    let job = job_id(&id)?;
    let done = app
        .write
        .jobs
        .cancel(user.account.user, job.clone(), asking)
        .await?;
    Ok(response::written(
        json!({"jobId": job, "status": "cancelled"}),
        done.position,
    ))
}

/// `GET /api/queue/stats`
pub async fn stats(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    if !app.config.queue_stats_public {
        <Somebody as actix_web::FromRequest>::extract(&request).await?;
    }
    read_your_writes::wait(&app, &request, "jobs", None).await?;
    let queues = app.reads.jobs.stats(app.log.clock().now()).await?;
    let all = queues
        .values()
        .fold(QueueStats::default(), |all, one| QueueStats {
            waiting: all.waiting + one.waiting,
            active: all.active + one.active,
            completed: all.completed + one.completed,
            failed: all.failed + one.failed,
            delayed: all.delayed + one.delayed,
        });
    let mut stats = counts(&all);
    for (queue, one) in &queues {
        stats[*queue] = counts(one);
    }
    // The original's cache of the taxonomy; genie asks nobody for it, so it is always empty.
    Ok(response::ok(
        json!({"stats": stats, "taxonomy_cache": {"size": 0, "hits": 0, "misses": 0}}),
    ))
}

fn counts(stats: &QueueStats) -> Value {
    json!({
        "waiting": stats.waiting, "active": stats.active, "completed": stats.completed,
        "failed": stats.failed, "delayed": stats.delayed,
    })
}

#[derive(Deserialize)]
pub struct Wanted {
    status: Option<String>,
    queue: Option<String>,
    operation: Option<String>,
}

/// `GET /api/jobs`
pub async fn list(
    app: Data<App>,
    request: HttpRequest,
    user: ActingUser,
    wanted: Query<Wanted>,
    page: Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let (id, limit) = (user.account.user, page.limit()?);
    let Wanted {
        status,
        queue,
        operation,
    } = wanted.into_inner();
    let known = [
        "queued",
        "delayed",
        "processing",
        "completed",
        "failed",
        "cancelled",
    ];
    if status
        .as_ref()
        .is_some_and(|status| !known.contains(&status.as_str()))
    {
        return Err(ApiError::field(format!(
            "`status` must be one of: {}",
            known.join(", ")
        )));
    }
    if queue
        .as_ref()
        .is_some_and(|queue| job_operation::queue(queue).is_none())
    {
        return Err(ApiError::field(format!(
            "`queue` must be one of: {}",
            job_operation::QUEUES.join(", ")
        )));
    }
    let is_known = |operation: &String| {
        job_operation::queue_of(operation).is_some() || operation == onboarding::OPERATION
    };
    if operation
        .as_ref()
        .is_some_and(|operation| !is_known(operation))
    {
        return Err(unknown_operation());
    }
    read_your_writes::wait(&app, &request, "jobs", Some(id)).await?;
    let filter = JobFilter {
        status,
        queue,
        operation,
    };
    let rows = app
        .reads
        .jobs
        .list(
            id,
            filter,
            page.after_number()?,
            limit,
            app.log.clock().now(),
        )
        .await?;
    let next = response::next_cursor(&rows, limit, |row| row.position.to_string());
    Ok(response::list(
        rows.iter().map(|row| shown(row, None)).collect(),
        next,
    ))
}

/// `GET /api/jobs/{id}`
pub async fn show(
    app: Data<App>,
    request: HttpRequest,
    user: ActingUser,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let job = job_id(&id)?;
    read_your_writes::wait(&app, &request, "jobs", Some(user.account.user)).await?;
    let row = app.reads.jobs.get(&job, app.log.clock().now()).await?;
    let row = row
        .filter(|row| may_see(&user, row.user))
        .ok_or(ApiError::NotFound("job"))?;
    let lease = match row.status.as_str() {
        "processing" => app.log.lease(LeaseKind::Job, job.as_str()).await?,
        _ => None,
    };
    Ok(response::ok(shown(
        &row,
        lease.and_then(|lease| lease.progress),
    )))
}

fn may_see(user: &ActingUser, owner: UserId) -> bool {
    user.account.user == owner || user.caller.is_admin()
}

/// An id of no possible job is that of no job.
pub fn job_id(text: &str) -> Result<JobId, ApiError> {
    text.parse().map_err(|_| ApiError::NotFound("job"))
}

/// As its owner sees it.
pub fn shown(row: &JobRow, progress: Option<i64>) -> Value {
    let time = |at: Option<Timestamp>| at.map(Timestamp::rfc3339);
    let progress = if row.status == "completed" {
        Some(100)
    } else {
        progress
    };
    json!({
        "jobId": row.id, "queue": row.queue, "operation": row.operation, "status": row.status, "priority": row.priority,
        "progress": progress, "attempt": row.attempt, "max_attempts": row.max_attempts, "error": row.error,
        "result": row.result, "outputs": row.outputs, "created_at": row.created_at.rfc3339(), "run_at": time(row.run_at),
        "started_at": time(row.started_at), "finished_at": time(row.finished_at),
    })
}
