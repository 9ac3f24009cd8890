//! Many jobs by one request: one command to their user's actor, and one append.

use actix_web::{Either, HttpRequest, web::Data};
use genie_actors::jobs::{BatchAnswer, BatchRefusal};
use genie_events::{JobName, job::JobSpec};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    NewJob, SubmittedJobAnswer,
    named_files::{self, DirectusReader},
    submission,
};
use crate::{
    app::App,
    http::{
        body::Body,
        caller::ActingUser,
        error::{ApiError, SpentQuota},
        idempotency::IdempotencyKey,
        input::ListItem,
        response::{Answer, Written},
        words::{False, True},
    },
    mark_numbers,
};

/// The most jobs of a batch.
const MAX_BATCH: usize = 1000;

#[derive(Deserialize, ToSchema)]
pub struct JobBatch {
    #[schema(value_type = Vec<NewJob>, min_items = 1, max_items = 1000)]
    jobs: Vec<ListItem<NewJob>>,
    /// All jobs or none. False by default: each is queued or refused alone.
    atomic: Option<bool>,
}

/// One answer for each job, in the order of the request.
#[derive(Serialize, ToSchema)]
pub struct JobBatchAnswer {
    jobs: Vec<BatchedJob>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum BatchedJob {
    Queued(QueuedBatchItem),
    Refused(RefusedBatchItem),
}

#[derive(Serialize, ToSchema)]
struct QueuedBatchItem {
    ok: True,
    #[serde(flatten)]
    job: SubmittedJobAnswer,
}

#[derive(Serialize, ToSchema)]
struct RefusedBatchItem {
    ok: False,
    /// Stable, for programs.
    code: String,
    /// A sentence for people; of a quota refusal `tier_limit_reached`.
    error: String,
    /// The sentence of a quota refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    message: Option<String>,
    /// Of a quota refusal: used up, or never part of the tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    reason: Option<SpentQuota>,
}

/// With nothing to write there is no position.
type BatchWritten = Either<Written<JobBatchAnswer>, Answer<JobBatchAnswer>>;

/// `POST /api/queue/media/batch`
pub async fn submit(
    app: Data<App>,
    request: HttpRequest,
    idempotency_key: IdempotencyKey,
    user: ActingUser,
    Body(body): Body<JobBatch>,
) -> Result<BatchWritten, ApiError> {
    let asking = idempotency_key.asking(&app, &user.caller)?;
    let atomic = body.atomic.unwrap_or(false);
    let mut read = read_specs(&app, body)?;
    if atomic && let Some((n, error)) = take_first_error(&mut read) {
        return Err(ApiError::field(format!("`jobs[{n}]`: {}", error.words().1)));
    }
    mark_numbers::draw(&app.reads.marks, read.iter_mut().flatten()).await?;
    let specs: Vec<&JobSpec> = read.iter().filter_map(|spec| spec.as_ref().ok()).collect();
    let reader = DirectusReader::of(&request, &user)?;
    let foreign = named_files::foreign(&app, reader, &user, &specs).await?;
    let mut shown = Vec::with_capacity(read.len());
    let mut jobs = Vec::with_capacity(specs.len());
    let mut foreign = foreign.into_iter();
    for spec in read {
        shown.push(spec.map(|spec| {
            let shown = (spec.name.clone(), spec.queue.clone());
            let foreign = foreign.next().flatten();
            jobs.push(submission(&app, user.account.user, spec, foreign));
            shown
        }));
    }
    if jobs.is_empty() {
        let refused = shown.into_iter().filter_map(Result::err);
        let jobs = refused.map(|error| BatchedJob::refused(&error)).collect();
        return Ok(Either::Right(Answer(JobBatchAnswer { jobs })));
    }
    let board = &app.write.jobs;
    let done = board.submit_batch(user.account.user, jobs, atomic, asking);
    let done = done.await?;
    let answers = answers(&app, shown, done.answers)?;
    Ok(Either::Left(Written(answers, done.position)))
}

fn read_specs(app: &App, body: JobBatch) -> Result<Vec<Result<JobSpec, ApiError>>, ApiError> {
    if !(1..=MAX_BATCH).contains(&body.jobs.len()) {
        return Err(ApiError::field(format!(
            "`jobs` must have 1 to {MAX_BATCH} items"
        )));
    }
    let now = app.log.clock().now();
    let allowed = &app.config.worker.private_networks;
    let spec = |ListItem(item): ListItem<NewJob>| item.map_err(ApiError::field)?.spec(now, allowed);
    Ok(body.jobs.into_iter().map(spec).collect())
}

fn take_first_error(read: &mut Vec<Result<JobSpec, ApiError>>) -> Option<(usize, ApiError)> {
    let n = read.iter().position(Result::is_err)?;
    Some((n, read.swap_remove(n).err()?))
}

/// Puts the answers to the jobs that could be read between those that could not.
fn answers(
    app: &App,
    shown: Vec<Result<(Option<JobName>, String), ApiError>>,
    answers: Vec<BatchAnswer>,
) -> Result<JobBatchAnswer, ApiError> {
    let mut answers = answers.into_iter();
    let mut jobs = Vec::with_capacity(shown.len());
    for shown in shown {
        jobs.push(match shown {
            Err(error) => BatchedJob::refused(&error),
            Ok((name, queue)) => match answers.next() {
                Some(BatchAnswer::Queued(outcome)) => {
                    let (job, status) = (outcome.job, outcome.status);
                    BatchedJob::Queued(QueuedBatchItem {
                        ok: True,
                        job: SubmittedJobAnswer::new(app, name, queue, job, status),
                    })
                }
                Some(BatchAnswer::Refused(refusal)) => BatchedJob::refused_by_rule(refusal),
                None => return Err(ApiError::Internal("a batch has too few answers".into())),
            },
        });
    }
    Ok(JobBatchAnswer { jobs })
}

impl BatchedJob {
    fn refused(error: &ApiError) -> Self {
        let (code, sentence) = error.words();
        Self::Refused(RefusedBatchItem {
            ok: False,
            code,
            error: sentence,
            message: None,
            reason: None,
        })
    }

    fn refused_by_rule(refusal: BatchRefusal) -> Self {
        let reason = refusal.is_in_tier.map(|is_in_tier| {
            if is_in_tier {
                SpentQuota::LimitReached
            } else {
                SpentQuota::NotInTier
            }
        });
        // Quota refusals keep the original's shape.
        let (error, message) = match reason {
            Some(_) => (refusal.code.clone(), Some(refusal.sentence)),
            None => (refusal.sentence, None),
        };
        Self::Refused(RefusedBatchItem {
            ok: False,
            code: refusal.code,
            error,
            message,
            reason,
        })
    }
}
