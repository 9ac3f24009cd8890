//! The queue, as users see it (docs/api.md, Jobs).

use std::{collections::BTreeMap, fmt};

use actix_web::{
    HttpRequest,
    web::{Data, Path},
};
use genie_actors::{
    CommandContext, WriteError,
    jobs::{
        ChangedJob, NewSubmission,
        queues::{JobTimes, TimeSpread},
    },
};
use genie_events::{
    JobId, JobName, Refusal, RefusalKind, Timestamp, UserId, job::JobSpec, job_operation,
};
use genie_log::{
    LogError,
    leases::{LeaseKind, MESSAGE},
};
use genie_media::{
    fetch::{self, PrivateNetworks},
    operations::{Input, MediaOperation},
};
use genie_projections::jobs::{JobFilter, JobRow, QueueStats};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Unexpected, Visitor},
};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::{
    app::App,
    http::{
        body::{Body, PatchBody},
        caller::{
            ActingUser, NoScope, Operator, Somebody, administers_another_s, look_at_another_s,
            short_reason, stated_reason,
        },
        error::ApiError,
        idempotency::IdempotencyKey,
        input::{self, Query},
        long_pages,
        read_your_writes::MinPosition,
        recent::Recent,
        response::{Answer, ListPage, PageQuery, Written, json_size},
        words::{self, JOB_STATUSES, Time},
        workers,
    },
    mark_numbers,
};

/// Many jobs by one request.
pub mod batch;
pub mod named_files;
pub mod stream;
mod waiting;
use named_files::DirectusReader;
use waiting::{WaitsBecause, waits_because};

/// Lower runs sooner.
const DEFAULT_PRIORITY: i64 = 10;
const DEFAULT_ATTEMPTS: u32 = 3;
/// In bytes, as JSON.
const MAX_PARAMS: usize = 64 * 1024;
/// In bytes.
const MAX_URL: usize = 2048;
/// A job may wait for 100 years.
const MAX_DELAY_SECONDS: i64 = 36_525 * 86_400;

#[derive(Deserialize, ToSchema)]
pub struct NewJob {
    /// The caller's own id for the job: a whole number from 0, or 1 to 100 of the characters `A-Z a-z 0-9 . _ -`.
    #[serde(rename = "jobId")]
    job: Option<AnnouncedName>,
    #[schema(value_type = words::Operation)]
    operation: String,
    /// A file of the caller: here, or in the Directus that keeps the users. Another's is 404.
    #[schema(min_length = 1, max_length = 2048)]
    input_file_id: Option<String>,
    /// Begins with http:// or https://.
    #[schema(min_length = 1, max_length = 2048)]
    input_url: Option<String>,
    /// As the operation takes them: one that is wrong is 400 and named. An unknown one is ignored. At most 65536 bytes
    /// as JSON.
    #[schema(nullable)]
    #[serde(default)]
    params: Map<String, Value>,
    /// A profile of the caller. Another's is 404.
    #[schema(min_length = 1, max_length = 2048)]
    creator_profile_id: Option<String>,
    /// Lower runs sooner. 10 by default.
    #[schema(minimum = 0, maximum = 1_000_000)]
    priority: Option<i64>,
    /// The job does not run before this time. RFC 3339 with any offset, at most 100 years ahead. A past time is now.
    #[schema(format = DateTime)]
    run_at: Option<String>,
    /// 3 by default.
    #[schema(minimum = 1, maximum = 20)]
    max_attempts: Option<u32>,
}

/// Text or a number: clients of the original send both.
#[derive(ToSchema)]
#[serde(untagged)]
enum AnnouncedName {
    Text(String),
    Number(u64),
}

impl<'de> Deserialize<'de> for AnnouncedName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnnouncedNameVisitor)
    }
}

struct AnnouncedNameVisitor;

impl Visitor<'_> for AnnouncedNameVisitor {
    type Value = AnnouncedName;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a whole number from 0")
    }

    fn visit_str<E>(self, text: &str) -> Result<AnnouncedName, E> {
        Ok(AnnouncedName::Text(text.to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<AnnouncedName, E> {
        Ok(AnnouncedName::Number(number))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<AnnouncedName, E> {
        match input::whole_of(number).map(u64::try_from) {
            Some(Ok(number)) => Ok(AnnouncedName::Number(number)),
            _ => Err(E::invalid_type(Unexpected::Float(number), &self)),
        }
    }
}

/// A job as its owner sees it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Job)]
pub struct JobAnswer {
    /// The owner's own id for the job; without one, `id`.
    job_id: String,
    #[schema(value_type = Uuid)]
    id: JobId,
    #[schema(value_type = words::Queue)]
    queue: String,
    #[schema(value_type = words::JobOperation)]
    operation: String,
    #[schema(value_type = words::JobStatus)]
    status: String,
    /// Lower runs sooner.
    priority: i64,
    /// In percent, as the worker reported it. 100 when completed.
    #[schema(required, minimum = 0, maximum = 100)]
    progress: Option<i64>,
    /// What the worker says of its work. Null unless the job runs, and in lists.
    #[schema(required)]
    message: Option<String>,
    /// The attempt that runs or was the last. 0 before the first.
    #[schema(minimum = 0)]
    attempt: i64,
    #[serde(rename = "max_attempts")]
    #[schema(minimum = 1)]
    max_attempts: i64,
    /// The last failure, in the worker's words. Null once the job completed.
    #[schema(required)]
    error: Option<String>,
    /// The word for it, for programs. `lease_lapsed`: the worker was gone.
    #[schema(required, pattern = "^[a-z0-9_.-]{1,64}$")]
    code: Option<String>,
    /// Any JSON. Null until the job completed.
    result: Value,
    /// Files that the worker made. Null until the job completed.
    #[schema(required, value_type = Option<Vec<Value>>)]
    outputs: Value,
    #[serde(rename = "created_at")]
    created_at: Time,
    /// The job does not run before this time: the one asked for, or that of the next attempt.
    #[serde(rename = "run_at")]
    #[schema(required)]
    run_at: Option<Time>,
    /// When the job was first claimed.
    #[serde(rename = "started_at")]
    #[schema(required)]
    started_at: Option<Time>,
    #[serde(rename = "finished_at")]
    #[schema(required)]
    finished_at: Option<Time>,
    /// Of one job that waits. Lists leave it out.
    #[serde(rename = "waits_because", skip_serializing_if = "Option::is_none")]
    waits_because: Option<WaitsBecause>,
}

impl JobAnswer {
    pub fn new(row: &JobRow) -> Self {
        let is_completed = row.status == "completed";
        Self {
            job_id: row.name.clone().unwrap_or_else(|| row.id.to_string()),
            id: row.id,
            queue: row.queue.clone(),
            operation: row.operation.clone(),
            status: row.status.clone(),
            priority: row.priority,
            progress: is_completed.then_some(100),
            message: None,
            attempt: row.attempt,
            max_attempts: row.max_attempts,
            error: row.error.clone(),
            code: row.code.clone(),
            result: row.result.clone(),
            outputs: row.outputs.clone(),
            created_at: row.created_at.into(),
            run_at: row.run_at.map(Time::from),
            started_at: row.started_at.map(Time::from),
            finished_at: row.finished_at.map(Time::from),
            waits_because: None,
        }
    }

    /// The answer about one job: with what its worker tells, and why it waits.
    async fn of_one(app: &App, row: &JobRow, sight: JobSight) -> Result<Self, ApiError> {
        let mut answer = Self::new(row);
        if row.status == "processing" {
            let leases = app.log.leases();
            let lease = leases.get(LeaseKind::Job, &row.id.to_string()).await?;
            answer.progress = lease.as_ref().and_then(|lease| lease.progress);
            answer.message = match lease.and_then(|lease| lease.message) {
                Some(sealed) if sight.shows_personal() => {
                    let keys = app.log.keys().live(row.user).await?;
                    Some(keys.open_text(MESSAGE, &sealed).map_err(|reason| {
                        LogError::Statement(format!("{MESSAGE} cannot be opened: {reason}"))
                    })?)
                }
                _ => None,
            };
        }
        answer.waits_because = waits_because(app, row);
        Ok(answer)
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SubmittedJob)]
pub struct SubmittedJobAnswer {
    /// The caller's own id for the job; without one, `id`.
    job_id: String,
    #[schema(value_type = Uuid)]
    id: JobId,
    /// The same as `jobId`.
    bull_job_id: String,
    #[schema(value_type = words::Queue)]
    queue: String,
    /// The job's present status. A new job is `queued`, or `delayed` when `run_at` lies ahead.
    #[schema(value_type = words::JobStatus)]
    status: String,
    /// The number of jobs that wait in the queue now, at least 1.
    #[serde(rename = "queue_position")]
    #[schema(minimum = 1)]
    queue_position: u64,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetriedJob {
    /// The owner's own id for the job; without one, `id`.
    job_id: String,
    #[schema(value_type = Uuid)]
    id: JobId,
    /// The same as `jobId`.
    bull_job_id: String,
    #[schema(value_type = words::JobStatus)]
    status: &'static str,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CancelledJob {
    /// The owner's own id for the job; without one, `id`.
    job_id: String,
    #[schema(value_type = Uuid)]
    id: JobId,
    #[schema(value_type = words::JobStatus)]
    status: &'static str,
}

#[derive(Clone, Copy, Default, Serialize, ToSchema)]
pub struct QueueCounts {
    /// Jobs that a worker may claim now.
    waiting: u64,
    /// Jobs that a worker holds.
    active: u64,
    completed: u64,
    /// Jobs that failed for good.
    failed: u64,
    /// Jobs whose time has not come.
    delayed: u64,
}

/// All queues together, and each queue.
#[derive(Clone, Serialize, ToSchema)]
pub struct Stats {
    #[serde(flatten)]
    all: QueueCounts,
    #[serde(flatten)]
    #[schema(value_type = words::EachQueue)]
    each: BTreeMap<&'static str, QueueCounts>,
}

/// The original's taxonomy cache. genie has no such cache, so the numbers are always 0.
#[derive(Clone, Default, Serialize, ToSchema)]
pub struct TaxonomyCache {
    size: u64,
    hits: u64,
    misses: u64,
}

/// How long something took, in milliseconds. Both are null when `count` is 0.
#[derive(Clone, Copy, Serialize, ToSchema)]
pub struct Durations {
    count: u64,
    /// Half took at most this long.
    #[schema(required)]
    p50_ms: Option<u64>,
    /// 99 of 100 took at most this long.
    #[schema(required)]
    p99_ms: Option<u64>,
}

/// The jobs of a queue in the last 5 to 10 minutes, as the answering server saw them.
#[derive(Clone, Copy, Serialize, ToSchema)]
pub struct QueueDurations {
    /// From the moment at which a job might go until a worker had it.
    wait: Durations,
    /// From then until the worker said that it had done or failed.
    run: Durations,
}

impl From<TimeSpread> for Durations {
    fn from(spread: TimeSpread) -> Self {
        let known = |figure| (spread.count > 0).then_some(figure);
        Self {
            count: spread.count,
            p50_ms: known(spread.p50),
            p99_ms: known(spread.p99),
        }
    }
}

#[derive(Clone, Serialize, ToSchema)]
pub struct QueueStatsAnswer {
    stats: Stats,
    /// By queue.
    times: BTreeMap<&'static str, QueueDurations>,
    taxonomy_cache: TaxonomyCache,
}

/// A name is judged by the worker, which alone asks for its addresses.
fn judge_url(url: &str, allowed: &PrivateNetworks) -> Result<(), ApiError> {
    fetch::judge_url(url, allowed)
        .map(drop)
        .map_err(|why| ApiError::field(format!("`input_url` can't be taken: {why}")))
}

impl NewJob {
    fn name(&self) -> Result<Option<JobName>, ApiError> {
        let text = match &self.job {
            None => return Ok(None),
            Some(AnnouncedName::Text(text)) => text.clone(),
            Some(AnnouncedName::Number(number)) => number.to_string(),
        };
        text.parse()
            .map(Some)
            .map_err(|error: genie_events::ids::NotAnId| ApiError::field(error.to_string()))
    }

    fn spec(self, now: Timestamp, allowed: &PrivateNetworks) -> Result<JobSpec, ApiError> {
        let name = self.name()?;
        let Some(queue) = job_operation::queue_of(&self.operation) else {
            return Err(unknown_operation());
        };
        let run_at = self.run_at.as_deref().map(|text| run_at(text, now));
        let run_at = run_at.transpose()?;
        if json_size(&self.params)? > MAX_PARAMS {
            return Err(ApiError::field(format!(
                "`params` must be at most {MAX_PARAMS} bytes; upload what is larger"
            )));
        }
        let priority = priority(self.priority.unwrap_or(DEFAULT_PRIORITY))?;
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
        if let Some(url) = &self.input_url {
            judge_url(url, allowed)?;
        }
        let input = Input {
            file_id: self.input_file_id.as_deref(),
            url: self.input_url.as_deref(),
        };
        // The worker reads it by the same code.
        MediaOperation::read(&self.operation, input, &self.params)
            .map_err(|wrong| ApiError::field(wrong.sentence))?;
        Ok(JobSpec {
            name,
            operation: self.operation,
            queue: queue.to_owned(),
            params: Value::Object(self.params),
            input_file_id: self.input_file_id,
            input_url: self.input_url,
            creator_profile_id: self.creator_profile_id,
            priority,
            run_at,
            max_attempts,
            mark: None,
        })
    }
}

fn priority(priority: i64) -> Result<i64, ApiError> {
    if !(0..=1_000_000).contains(&priority) {
        let sentence = "`priority` must be 0 to 1000000; lower runs sooner";
        return Err(ApiError::field(sentence));
    }
    Ok(priority)
}

/// A time at which a job may begin. A past one is now.
fn run_at(text: &str, now: Timestamp) -> Result<Timestamp, ApiError> {
    let at = Timestamp::parse_rfc3339(text)
        .ok_or_else(|| ApiError::field("`run_at` must be an RFC 3339 time"))?;
    if at > now.plus_seconds(MAX_DELAY_SECONDS) {
        return Err(ApiError::field(
            "`run_at` must be at most 100 years ahead; a past time is now",
        ));
    }
    Ok(at)
}

fn unknown_operation() -> ApiError {
    let all: Vec<&str> = job_operation::all().collect();
    ApiError::field(format!("`operation` must be one of: {}", all.join(", ")))
}

/// `POST /api/queue/media`
pub async fn submit(
    app: Data<App>,
    request: HttpRequest,
    idempotency_key: IdempotencyKey,
    user: ActingUser,
    Body(body): Body<NewJob>,
) -> Result<Written<SubmittedJobAnswer>, ApiError> {
    let asking = idempotency_key.asking(&app, &user.caller)?;
    let reader = DirectusReader::of(&request, &user)?;
    submit_for(&app, &user, reader, body, asking).await
}

/// Queues a job of this user.
pub async fn submit_for(
    app: &App,
    user: &ActingUser,
    reader: Option<DirectusReader<'_>>,
    job: NewJob,
    asking: CommandContext,
) -> Result<Written<SubmittedJobAnswer>, ApiError> {
    let owner = user.account.user;
    let mut spec = job.spec(app.log.clock().now(), &app.config.worker.private_networks)?;
    mark_numbers::draw(&app.reads.marks, [&mut spec]).await?;
    let mut foreign = named_files::foreign(app, reader, user, &[&spec]).await?;
    let queue = spec.queue.clone();
    let name = spec.name.clone();
    let job = submission(app, owner, spec, foreign.pop().flatten());
    let submitted = app.write.jobs.submit(owner, job, asking).await?;
    let job = SubmittedJobAnswer::new(app, name, queue, submitted.job, submitted.status);
    Ok(Written(job, submitted.position))
}

/// The job with its id: a fresh one, or the one that follows from its name.
fn submission(app: &App, user: UserId, spec: JobSpec, foreign: Option<Refusal>) -> NewSubmission {
    let job = match &spec.name {
        Some(name) => app.log.hashes().job(user, name),
        None => JobId(app.log.clock().new_uuid()),
    };
    NewSubmission { job, spec, foreign }
}

impl SubmittedJobAnswer {
    fn new(app: &App, name: Option<JobName>, queue: String, id: JobId, status: String) -> Self {
        let job_id = name.map_or_else(|| id.to_string(), |name| name.to_string());
        Self {
            bull_job_id: job_id.clone(),
            job_id,
            id,
            queue_position: app.write.jobs.waiting(&queue).max(1) as u64,
            queue,
            status,
        }
    }
}

/// `POST /api/queue/retry/{id}`
pub async fn retry(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    user: ActingUser,
    id: Path<String>,
) -> Result<Written<RetriedJob>, ApiError> {
    let asking = idempotency_key.asking(&app, &user.caller)?;
    let jobs = &app.write.jobs;
    let changed = change(&app, &user, &id, |owner, job| {
        jobs.retry(owner, job, asking.clone())
    });
    let (job_id, done) = changed.await?;
    let job = RetriedJob {
        bull_job_id: job_id.clone(),
        job_id,
        id: done.job,
        status: "queued",
    };
    Ok(Written(job, done.position))
}

/// `POST /api/queue/cancel/{id}`
pub async fn cancel(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    user: ActingUser,
    id: Path<String>,
) -> Result<Written<CancelledJob>, ApiError> {
    let asking = idempotency_key.asking(&app, &user.caller)?;
    cancel_for(&app, &user, &id, asking).await
}

/// Cancels a job that this user may cancel.
pub async fn cancel_for(
    app: &App,
    user: &ActingUser,
    id: &str,
    asking: CommandContext,
) -> Result<Written<CancelledJob>, ApiError> {
    let jobs = &app.write.jobs;
    let changed = change(app, user, id, |owner, job| {
        jobs.cancel(owner, job, asking.clone())
    });
    let (job_id, done) = changed.await?;
    let job = CancelledJob {
        job_id,
        id: done.job,
        status: "cancelled",
    };
    Ok(Written(job, done.position))
}

#[derive(Deserialize, ToSchema)]
pub struct RescheduleRequest {
    /// Lower runs sooner. Null is 10.
    #[schema(minimum = 0, maximum = 1_000_000, nullable)]
    priority: Option<i64>,
    /// The job does not run before this time. RFC 3339 with any offset, at most 100 years ahead. A past time, and
    /// null, is now.
    #[schema(format = DateTime, nullable)]
    run_at: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RescheduledJob {
    /// The owner's own id for the job; without one, `id`.
    job_id: String,
    #[schema(value_type = Uuid)]
    id: JobId,
}

/// `PATCH /api/jobs/{id}`
pub async fn reschedule(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    user: ActingUser,
    id: Path<String>,
    PatchBody { body, cleared }: PatchBody<RescheduleRequest>,
) -> Result<Written<RescheduledJob>, ApiError> {
    let asking = idempotency_key.asking(&app, &user.caller)?;
    let now = app.log.clock().now();
    let is_cleared = |field: &str| cleared.iter().any(|cleared| cleared == field);
    let default = is_cleared("priority").then_some(DEFAULT_PRIORITY);
    let new_priority = body.priority.or(default).map(priority).transpose()?;
    let new_time = body.run_at.as_deref().map(|text| run_at(text, now));
    let new_time = match new_time.transpose()? {
        None if is_cleared("run_at") => Some(now),
        time => time,
    };
    if new_priority.is_none() && new_time.is_none() {
        return Err(ApiError::field(
            "`priority` or `run_at` must be there; nothing else of a job can be changed",
        ));
    }
    let jobs = &app.write.jobs;
    let changed = change(&app, &user, &id, |owner, job| {
        jobs.reschedule(owner, job, new_priority, new_time, asking.clone())
    });
    let (job_id, done) = changed.await?;
    let job = RescheduledJob {
        job_id,
        id: done.job,
    };
    Ok(Written(job, done.position))
}

/// `GET /api/queue/stats`
pub async fn stats(
    app: Data<App>,
    recent: Data<Recent<QueueStatsAnswer>>,
    request: HttpRequest,
    min_position: MinPosition,
) -> Result<Answer<QueueStatsAnswer>, ApiError> {
    if !app.config.queue_stats_public {
        <Somebody as actix_web::FromRequest>::extract(&request).await?;
    }
    min_position.wait(&app, "jobs", None).await?;
    let asked = min_position.asked()?.unwrap_or(0);
    let stats = recent.get(asked, count_jobs(&app)).await?;
    Ok(Answer(stats))
}

/// The original's answer to an emptied cache.
#[derive(Serialize, ToSchema)]
pub struct InvalidatedTaxonomy {
    /// The entries that were dropped: 0, because genie has no such cache.
    cleared: u64,
}

/// `POST /api/queue/taxonomy/invalidate`, for clients of the original. genie has no taxonomy cache, so nothing is
/// dropped.
pub async fn invalidate_taxonomy(
    _: Operator<NoScope>,
) -> Result<Answer<InvalidatedTaxonomy>, ApiError> {
    let cleared = TaxonomyCache::default().size;
    Ok(Answer(InvalidatedTaxonomy { cleared }))
}

async fn count_jobs(app: &App) -> Result<QueueStatsAnswer, ApiError> {
    let queues = app.reads.jobs.stats(app.log.clock().now()).await?;
    let mut all = QueueCounts::default();
    let mut each = BTreeMap::new();
    for (queue, stats) in &queues {
        all.add(stats);
        let mut counts = QueueCounts::default();
        counts.add(stats);
        each.insert(*queue, counts);
    }
    let durations = |times: JobTimes| QueueDurations {
        wait: times.wait.into(),
        run: times.run.into(),
    };
    let times = app.write.jobs.times().into_iter();
    Ok(QueueStatsAnswer {
        stats: Stats { all, each },
        times: times
            .map(|(queue, times)| (queue, durations(times)))
            .collect(),
        taxonomy_cache: TaxonomyCache::default(),
    })
}

impl QueueCounts {
    fn add(&mut self, stats: &QueueStats) {
        self.waiting += stats.waiting;
        self.active += stats.active;
        self.completed += stats.completed;
        self.failed += stats.failed;
        self.delayed += stats.delayed;
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct JobQuery {
    /// Only jobs with this status.
    #[param(value_type = Option<words::JobStatus>)]
    status: Option<String>,
    /// Only jobs of this queue. An unknown queue is 400.
    #[param(value_type = Option<words::Queue>)]
    queue: Option<String>,
    /// Only jobs with this operation. An unknown operation is 400.
    #[param(value_type = Option<words::JobOperation>)]
    operation: Option<String>,
    /// Only jobs whose last failure has this code. Read as a worker's code is: capitals are small letters, and so on.
    code: Option<String>,
}

impl JobQuery {
    pub fn filter(self) -> Result<JobFilter, ApiError> {
        let Self {
            status,
            queue,
            operation,
            code,
        } = self;
        let is_status = |status: &String| JOB_STATUSES.contains(&status.as_str());
        if !status.as_ref().is_none_or(is_status) {
            let known = JOB_STATUSES.join(", ");
            return Err(ApiError::field(format!("`status` must be one of: {known}")));
        }
        let is_queue = |queue: &String| job_operation::queue(queue).is_some();
        if !queue.as_ref().is_none_or(is_queue) {
            let known = job_operation::QUEUES.join(", ");
            return Err(ApiError::field(format!("`queue` must be one of: {known}")));
        }
        let is_operation = |operation: &String| job_operation::queue_of_job(operation).is_some();
        if !operation.as_ref().is_none_or(is_operation) {
            return Err(unknown_operation());
        }
        let code = code.map(|code| {
            let sentence = "`code` must have a letter or a digit";
            workers::code_of(&code).ok_or_else(|| ApiError::field(sentence))
        });
        Ok(JobFilter {
            status,
            queue,
            operation,
            code: code.transpose()?,
        })
    }
}

/// `GET /api/jobs`
pub async fn list(
    app: Data<App>,
    min_position: MinPosition,
    user: ActingUser,
    Query(query): Query<JobQuery>,
    Query(page): Query<PageQuery>,
) -> Result<ListPage<JobAnswer>, ApiError> {
    let id = user.account.user;
    let filter = query.filter()?;
    page.limit()?;
    min_position.wait(&app, "jobs", Some(id)).await?;
    list_for(&app, id, filter, page).await
}

/// A page of this user's jobs.
pub async fn list_for(
    app: &App,
    id: UserId,
    filter: JobFilter,
    page: PageQuery,
) -> Result<ListPage<JobAnswer>, ApiError> {
    let limit = page.limit()?;
    let now = app.log.clock().now();
    let before = page.after_number()?;
    let jobs = app.reads.jobs.clone();
    let listed = async move {
        let jobs = jobs.list(id, filter, before, limit, now).await?;
        let page = ListPage::of(&jobs.page, |row| row.position.to_string(), JobAnswer::new)?;
        Ok(page.going_on_from(jobs.floor.map(|position| position.to_string())))
    };
    if limit > long_pages::SHORT {
        long_pages::make(listed).await
    } else {
        listed.await
    }
}

/// `GET /api/jobs/{id}`
pub async fn show(
    app: Data<App>,
    min_position: MinPosition,
    user: ActingUser,
    id: Path<String>,
    Query(insight): Query<Insight>,
) -> Result<Answer<JobAnswer>, ApiError> {
    let caller = user.account.user;
    min_position.wait(&app, "jobs", Some(caller)).await?;
    show_for(&app, &user, &id, &insight).await.map(Answer)
}

/// A job that this user may see.
pub async fn show_for(
    app: &App,
    user: &ActingUser,
    id: &str,
    insight: &Insight,
) -> Result<JobAnswer, ApiError> {
    let (row, sight) = find(app, user, id, insight).await?;
    JobAnswer::of_one(app, &row, sight).await
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Insight {
    /// `true` shows an administrator `error`, `message`, `result` and `outputs` of another user's job, which are null
    /// without it.
    /// That the caller read them is a fact (`access.personal_read`).
    personal: Option<bool>,
    /// With `personal=true`, of an administrator: why. It is kept on record.
    #[param(min_length = 1, max_length = 500)]
    #[serde(default, deserialize_with = "short_reason")]
    reason: Option<String>,
}

/// How much of a job its reader sees.
#[derive(Clone, Copy)]
enum JobSight {
    Own,
    /// Of another's job: all but its name, which is its owner's.
    Personal,
    /// Of another's job: what is not personal.
    Clear,
}

impl JobSight {
    fn shows_personal(self) -> bool {
        matches!(self, Self::Own | Self::Personal)
    }

    fn of(self, row: JobRow) -> JobRow {
        match self {
            Self::Own => row,
            Self::Personal => JobRow { name: None, ..row },
            Self::Clear => JobRow {
                name: None,
                error: None,
                result: Value::Null,
                outputs: Value::Null,
                ..row
            },
        }
    }
}

/// The job that the caller means. That an administrator reads what is personal of another user's job is a fact.
async fn find(
    app: &App,
    user: &ActingUser,
    text: &str,
    insight: &Insight,
) -> Result<(JobRow, JobSight), ApiError> {
    let caller = user.account.user;
    let now = app.log.clock().now();
    for job in meant(app, caller, text) {
        let Some(row) = app.reads.jobs.get(&job, now).await? else {
            continue;
        };
        if row.user == caller {
            return Ok((row, JobSight::Own));
        }
        let is_personal = insight.personal.unwrap_or(false);
        let (sight, looked) = if is_personal {
            let reason = stated_reason(&user.caller, insight.reason.as_deref())?;
            let look = look_at_another_s(app, &user.caller, caller, row.user, "job", reason);
            (JobSight::Personal, look.await)
        } else {
            let look = administers_another_s(app, &user.caller, caller, row.user, "job");
            (JobSight::Clear, look.await)
        };
        match looked {
            Err(ApiError::NotFound(_)) => {}
            Err(error) => return Err(error),
            Ok(()) => return Ok((sight.of(row), sight)),
        }
    }
    Err(ApiError::NotFound("job"))
}

/// The jobs that a user may mean: the job with this UUID, then the job that has this name.
fn meant(app: &App, user: UserId, text: &str) -> impl Iterator<Item = JobId> {
    let by_id = text.parse::<JobId>().ok();
    let name = text.parse::<JobName>().ok();
    let by_name = name.map(|name| app.log.hashes().job(user, &name));
    by_id.into_iter().chain(by_name)
}

/// Changes the first of the caller's own jobs that the text may mean; for an administrator also another user's job.
/// Answers the job's id as the caller knows it, too.
async fn change<F: Future<Output = Result<ChangedJob, WriteError>>>(
    app: &App,
    user: &ActingUser,
    text: &str,
    act: impl Fn(UserId, JobId) -> F,
) -> Result<(String, ChangedJob), ApiError> {
    let caller = user.account.user;
    for job in meant(app, caller, text) {
        match act(caller, job).await {
            Err(WriteError::Refused(refusal)) if refusal.kind == RefusalKind::NotFound => {}
            done => {
                let done = done?;
                return Ok((own_id(app, caller, done.job, text).await?, done));
            }
        }
    }
    if !user.caller.is_admin() {
        return Err(ApiError::NotFound("job"));
    }
    let job = job_id(text)?;
    let owner = workers::owner(app, &job).await?;
    let done = act(owner, job).await?;
    // Its name is its owner's.
    Ok((done.job.to_string(), done))
}

/// The owner's own id for a job that was asked for by this text.
async fn own_id(app: &App, owner: UserId, job: JobId, text: &str) -> Result<String, ApiError> {
    let is_named = job.0.get_version() == Some(uuid::Version::Custom);
    if !is_named || text.parse::<JobId>() != Ok(job) {
        return Ok(text.to_owned());
    }
    let name = app.write.jobs.name(owner, job).await?;
    Ok(name.map_or_else(|| job.to_string(), |name| name.to_string()))
}

/// An impossible id is an unknown one: 404, not 400.
pub fn job_id(text: &str) -> Result<JobId, ApiError> {
    text.parse().map_err(|_| ApiError::NotFound("job"))
}
