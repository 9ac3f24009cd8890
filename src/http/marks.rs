//! Reads invisible marks (docs/api.md, Invisible marks). A media worker does it, by a job that the server queues.

use std::time::Duration;

use actix_web::{HttpRequest, rt, web::Data};
use genie_actors::jobs::NewSubmission;
use genie_events::{
    EventId, JobId, MarkNumber, Metadata, Refusal, UserId,
    job::JobSpec,
    job_operation::{self, READ_MARK},
};
use genie_media::{
    mark_secret::MarkSecret,
    operations::{FoundMark, MARK_NOTE},
};
use genie_projections::{jobs::JobRow, marks::MarkRow};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::{Instrument, Span};
use utoipa::{IntoParams, ToSchema};

use crate::{
    app::App,
    http::{
        body::Body,
        caller::{
            ActingUser, administers_another_s, look_at_another_s, short_reason, stated_reason,
        },
        error::ApiError,
        idempotency::IdempotencyKey,
        input::Query,
        jobs::named_files::{self, DirectusReader},
        response::Written,
        words::Time,
    },
};

/// How long a request waits for a worker to read its file, in milliseconds.
const WAIT_MS: i64 = 30_000;
/// The pause between looks at a job of which the log says nothing new.
const LOOK: Duration = Duration::from_secs(2);
/// A fact of the job is shown when the read side has it; after this time it is looked at all the same.
const READ_SIDE: Duration = Duration::from_secs(2);
/// Somebody waits for the answer, so the user's other jobs wait.
const PRIORITY: i64 = 0;
const MAX_ATTEMPTS: u32 = 3;
/// In bytes.
const MAX_FILE_ID: usize = 2048;

#[derive(Deserialize, ToSchema)]
pub struct MarkRequest {
    /// A picture or film of the caller: here, or in the Directus that keeps the users. Another's is 404.
    #[schema(min_length = 1, max_length = 2048)]
    file_id: String,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct MarkQuery {
    /// `true` shows an administrator the `recipient` of another user's mark, which is null without it. That the caller
    /// read it is a fact (`access.personal_read`).
    personal: Option<bool>,
    /// With `personal=true`, of an administrator: why. It is kept on record.
    #[param(min_length = 1, max_length = 500)]
    #[serde(default, deserialize_with = "short_reason")]
    reason: Option<String>,
}

/// A mark and what its number names, or `found: false` alone: there is no mark of this server, or one that the caller
/// may not know of.
#[derive(Serialize, ToSchema)]
#[schema(as = Mark)]
pub struct MarkAnswer {
    found: bool,
    /// The number in the mark: `result.mark` of the job that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = u32)]
    mark: Option<MarkNumber>,
    /// What that job's `params.recipient` said; null when it said nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    recipient: Option<Option<String>>,
    /// When that job was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    marked_at: Option<Time>,
    /// The id of the fact that the number names: the submission of that job.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Uuid)]
    fact: Option<EventId>,
    /// That job.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Uuid)]
    job_id: Option<JobId>,
    /// That job's user. Another's only for administrators.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Uuid)]
    user_id: Option<UserId>,
    /// How clearly the file holds the number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0, maximum = 1)]
    confidence: Option<f64>,
    /// What a mark proves, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    note: Option<&'static str>,
}

impl MarkAnswer {
    const NONE: Self = Self {
        found: false,
        mark: None,
        recipient: None,
        marked_at: None,
        fact: None,
        job_id: None,
        user_id: None,
        confidence: None,
        note: None,
    };
}

/// `POST /api/media/verify-mark`
pub async fn verify(
    app: Data<App>,
    request: HttpRequest,
    idempotency_key: IdempotencyKey,
    user: ActingUser,
    Query(query): Query<MarkQuery>,
    Body(body): Body<MarkRequest>,
) -> Result<Written<MarkAnswer>, ApiError> {
    let asking = idempotency_key.asking(&app, &user.caller)?;
    let spec = body.spec()?;
    let owner = user.account.user;
    let reader = DirectusReader::of(&request, &user)?;
    let foreign = named_files::foreign(&app, reader, &user, &[&spec]).await?;
    let foreign = foreign.into_iter().flatten().next().map(|_| not_yours());
    let _open = app.streams.open(user.caller.user_id())?;
    let job = NewSubmission {
        job: JobId(app.log.clock().new_uuid()),
        spec,
        foreign,
    };
    let submitted = app.write.jobs.submit(owner, job, asking).await?;
    let reading = MarkReading {
        app: app.clone(),
        owner,
        job: submitted.job,
        metadata: user.caller.metadata(),
    };
    // On a task of its own: it ends the job when nobody has done it, also for a client that has gone away.
    let found = rt::spawn(reading.run().instrument(Span::current())).await;
    let found = found.map_err(|died| ApiError::Internal(died.to_string()))??;
    let answer = match found {
        Some(found) => named(&app, &user, found, &query).await?,
        None => MarkAnswer::NONE,
    };
    Ok(Written(answer, submitted.position))
}

impl MarkRequest {
    fn spec(self) -> Result<JobSpec, ApiError> {
        if self.file_id.is_empty() || self.file_id.len() > MAX_FILE_ID {
            return Err(ApiError::field(format!(
                "`file_id` must have 1 to {MAX_FILE_ID} bytes"
            )));
        }
        let queue = job_operation::queue_of_job(READ_MARK).expect("it is an operation of jobs");
        Ok(JobSpec {
            name: None,
            operation: READ_MARK.to_owned(),
            queue: queue.to_owned(),
            params: Value::Object(serde_json::Map::new()),
            input_file_id: Some(self.file_id),
            input_url: None,
            creator_profile_id: None,
            priority: PRIORITY,
            run_at: None,
            max_attempts: MAX_ATTEMPTS,
            mark: None,
        })
    }
}

fn not_yours() -> Refusal {
    Refusal::gone(
        "not_found",
        "`file_id` names no file of yours; check the id",
    )
}

/// A job that reads a mark, and its user who waits for it.
struct MarkReading {
    app: Data<App>,
    owner: UserId,
    job: JobId,
    metadata: Metadata,
}

impl MarkReading {
    /// What the worker found.
    async fn run(self) -> Result<Option<FoundMark>, ApiError> {
        let clock = self.app.log.clock();
        let until = clock.now().plus_millis(WAIT_MS);
        let mut is_first_look = true;
        loop {
            let news = self.app.write.jobs.news_of_job(self.job);
            let now = clock.now();
            if let Some(row) = self.app.reads.jobs.get(&self.job, now).await? {
                match row.status.as_str() {
                    "completed" => return self.opened(&row),
                    // A failure that another attempt would not mend leaves attempts over.
                    "failed" if row.attempt < row.max_attempts => return Err(unreadable(row)),
                    "failed" | "cancelled" if is_first_look => self.try_again().await?,
                    "failed" | "cancelled" => return Err(ApiError::NoWorker),
                    _ => {}
                }
                is_first_look = false;
            }
            if now >= until {
                self.give_up().await;
                return Err(ApiError::NoWorker);
            }
            tokio::select! {
                () = news => {
                    let head = self.app.log.reader().head();
                    let _ = self.app.reads.wait_briefly(&["jobs"], head, READ_SIDE).await; // or look all the same
                }
                () = clock.pause(LOOK) => {}
            }
        }
    }

    /// The job of an earlier request with the same idempotency key came to nothing.
    async fn try_again(&self) -> Result<(), ApiError> {
        let jobs = &self.app.write.jobs;
        let retried = jobs.retry(self.owner, self.job, self.metadata.clone());
        retried.await?;
        Ok(())
    }

    /// Nobody waits for the job now. An error means that it has just ended, or that it stays for the next worker.
    async fn give_up(&self) {
        let jobs = &self.app.write.jobs;
        let _ = jobs
            .cancel(self.owner, self.job, self.metadata.clone())
            .await;
    }

    fn opened(&self, row: &JobRow) -> Result<Option<FoundMark>, ApiError> {
        let secret = MarkSecret::new(self.app.log.hashes().mark_key());
        let sealed = row.result["sealed"].as_str().unwrap_or_default();
        let opened = secret.open_reading(&self.job.to_string(), sealed);
        opened.ok_or_else(|| {
            ApiError::Internal(
                "a worker read a mark with another key; its GENIE_MARK_KEY must be what `genie mark-key` prints".into(),
            )
        })
    }
}

fn unreadable(row: JobRow) -> ApiError {
    ApiError::Invalid {
        code: "unreadable_file",
        sentence: row
            .error
            .unwrap_or_else(|| "The file can't be looked at for a mark".into()),
    }
}

/// The number with its meaning, as far as the caller may know.
async fn named(
    app: &App,
    user: &ActingUser,
    found: FoundMark,
    query: &MarkQuery,
) -> Result<MarkAnswer, ApiError> {
    let number = MarkNumber(found.number);
    let caller = user.account.user;
    let marks = app.reads.marks.named_by(number).await?;
    let own = marks.iter().find(|mark| mark.user == caller);
    let Some(mark) = own.or(marks.first()) else {
        return Ok(MarkAnswer::NONE);
    };
    let recipient = match recipient(app, user, mark, query).await {
        Err(ApiError::NotFound(_)) => return Ok(MarkAnswer::NONE),
        recipient => recipient?,
    };
    Ok(MarkAnswer {
        found: true,
        mark: Some(number),
        recipient: Some(recipient),
        marked_at: Some(mark.marked_at.into()),
        fact: Some(mark.fact),
        job_id: Some(mark.job),
        user_id: Some(mark.user),
        confidence: Some(f64::from(found.confidence)),
        note: Some(MARK_NOTE),
    })
}

/// For whom the mark was made, if the caller may read it. `NotFound` when the mark does not exist for the caller.
async fn recipient(
    app: &App,
    user: &ActingUser,
    mark: &MarkRow,
    query: &MarkQuery,
) -> Result<Option<String>, ApiError> {
    let caller = user.account.user;
    if mark.user != caller && query.personal == Some(true) {
        let reason = stated_reason(&user.caller, query.reason.as_deref())?;
        look_at_another_s(app, &user.caller, caller, mark.user, "mark", reason).await?;
    } else if mark.user != caller {
        administers_another_s(app, &user.caller, caller, mark.user, "mark").await?;
        return Ok(None);
    }
    Ok(app.reads.marks.recipient(mark).await?)
}
