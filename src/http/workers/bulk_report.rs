//! Reports of many jobs, and a claim, by one request. Each report is answered alone: one that is refused, or cannot be
//! read, costs neither its lease nor the others.

use std::collections::BTreeMap;

use actix_web::{Either, HttpRequest, web::Data};
use futures_util::future::join_all;
use genie_actors::jobs::{AttemptEnd, ReportedBeat, ReportedEnd};
use genie_events::{JobId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    Claim, ClaimedJob, owners,
    reports::{ReportedCode, ReportedError, ReportedMessage, ReportedProgress},
    stale_lease,
};
use crate::{
    app::App,
    http::{
        body::{Body, MAX_BODY},
        caller::{ServerCaller, WorksOnJobs},
        error::ApiError,
        files,
        input::ListItem,
        jobs::job_id,
        response::{Answer, NoFields, Written, json_size},
        words::Time,
    },
};

/// The most reports of one request.
const MAX_REPORTS: usize = 1000;
/// The most bytes of a result and its outputs: an event is not much larger.
const MAX_RESULT: usize = MAX_BODY - 4096;

#[derive(Deserialize, ToSchema)]
pub struct WorkerReport {
    #[schema(value_type = Vec<JobReport>, max_items = 1000)]
    reports: Vec<ListItem<JobReport>>,
    /// A claim beside the reports, as for `POST /api/worker/claim`.
    claim: Option<Claim>,
}

/// The report of one job: one of `complete`, `fail`, `heartbeat` and `release`.
#[derive(Deserialize, ToSchema)]
struct JobReport {
    #[serde(rename = "jobId")]
    #[schema(value_type = Uuid)]
    job: String,
    lease: String,
    complete: Option<CompleteReport>,
    fail: Option<FailReport>,
    heartbeat: Option<HeartbeatReport>,
    #[schema(value_type = Option<NoFields>)]
    release: Option<Value>,
}

#[derive(Deserialize, ToSchema)]
struct CompleteReport {
    /// The worker's result, any JSON.
    #[serde(default)]
    result: Value,
    /// Files that the worker made, kept unchanged.
    #[schema(nullable)]
    #[serde(default)]
    outputs: Vec<Value>,
}

#[derive(Deserialize, ToSchema)]
struct FailReport {
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    error: ReportedError,
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    code: ReportedCode,
    /// True by default.
    retryable: Option<bool>,
}

#[derive(Deserialize, ToSchema)]
struct HeartbeatReport {
    #[serde(default)]
    #[schema(value_type = Option<f64>)]
    progress: ReportedProgress,
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    message: ReportedMessage,
}

#[derive(Serialize, ToSchema)]
pub struct WorkerReportAnswer {
    /// One answer for each report, in the order of the request.
    reports: Vec<JobReportAnswer>,
    /// The claimed jobs.
    jobs: Vec<ClaimedJob>,
}

#[derive(Serialize, ToSchema)]
struct JobReportAnswer {
    /// Absent when the report could not be read.
    #[serde(rename = "jobId", skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    job: Option<String>,
    ok: bool,
    /// Of a refused report: stable, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    code: Option<String>,
    /// Of a refused report: a sentence for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    error: Option<String>,
    /// Of a heartbeat.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    lease_expires_at: Option<Time>,
    /// Of a heartbeat: true when the job was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    cancel: Option<bool>,
}

/// With nothing written there is no position.
type ReportWritten = Either<Written<WorkerReportAnswer>, Answer<WorkerReportAnswer>>;

/// `POST /api/worker/report`
pub async fn report(
    app: Data<App>,
    request: HttpRequest,
    server: ServerCaller<WorksOnJobs>,
    Body(body): Body<WorkerReport>,
) -> Result<ReportWritten, ApiError> {
    if body.reports.len() > MAX_REPORTS {
        let sentence = format!("`reports` must have at most {MAX_REPORTS} items");
        return Err(ApiError::field(sentence));
    }
    let claim = body.claim.map(Claim::checked).transpose()?;
    let claiming = async {
        match claim {
            Some(claim) => claim.run(&app, &request, &server).await.map(Some),
            None => Ok(None),
        }
    };
    // At the same time, so that one group commit takes the ends and the claims.
    let (answered, handed) = tokio::join!(answer_all(&app, &server, body.reports), claiming);
    let (reports, reported) = answered;
    let claimed = match handed {
        Ok(handed) => handed
            .map(genie_actors::jobs::HandedJobs::take)
            .unwrap_or_default(),
        // What was reported stands. The worker claims again.
        Err(_) if !reports.is_empty() => vec![],
        Err(error) => return Err(error),
    };
    let claims = claimed.iter().map(|claimed| claimed.position).max();
    let answer = WorkerReportAnswer {
        reports,
        jobs: claimed.into_iter().map(ClaimedJob::from).collect(),
    };
    Ok(match reported.max(claims) {
        Some(position) => Either::Left(Written(answer, position)),
        None => Either::Right(Answer(answer)),
    })
}

/// A report that could be read.
enum ReadReport {
    Beat(ReportedBeat),
    End(ReportedEnd),
}

impl JobReport {
    fn read(self) -> Result<ReadReport, ApiError> {
        let job = job_id(&self.job)?;
        let lease = self.lease;
        let end = |end| {
            Ok(ReadReport::End(ReportedEnd {
                job,
                lease: lease.clone(),
                end,
            }))
        };
        match (self.complete, self.fail, self.heartbeat, self.release) {
            (Some(done), None, None, None) => {
                let outputs = Value::Array(done.outputs);
                if json_size(&done.result)? + json_size(&outputs)? > MAX_RESULT {
                    return Err(ApiError::TooLarge(MAX_RESULT as u64));
                }
                end(AttemptEnd::Completed {
                    result: done.result,
                    outputs,
                })
            }
            (None, Some(failed), None, None) => end(AttemptEnd::Failed {
                error: failed.error.0,
                code: failed.code.0,
                retryable: failed.retryable.unwrap_or(true),
            }),
            (None, None, Some(beat), None) => Ok(ReadReport::Beat(ReportedBeat {
                job,
                lease,
                progress: beat.progress.0,
                message: beat.message.0,
            })),
            (None, None, None, Some(_)) => end(AttemptEnd::Released),
            _ => Err(ApiError::field(
                "A report must have one of `complete`, `fail`, `heartbeat` and `release`",
            )),
        }
    }
}

/// The answers, in the order of the reports, and the position of the last end.
async fn answer_all(
    app: &App,
    server: &ServerCaller<WorksOnJobs>,
    reports: Vec<ListItem<JobReport>>,
) -> (Vec<JobReportAnswer>, Option<u64>) {
    let mut answers = Vec::with_capacity(reports.len());
    let mut beats = Vec::new();
    let mut ends = Vec::new();
    for (n, ListItem(report)) in reports.into_iter().enumerate() {
        let job = report.as_ref().ok().map(|report| report.job.clone());
        answers.push(JobReportAnswer::accepted(job));
        match report.map_err(ApiError::field).and_then(JobReport::read) {
            Ok(ReadReport::Beat(beat)) => beats.push((n, beat)),
            Ok(ReadReport::End(end)) => ends.push((n, end)),
            Err(error) => answers[n].refuse(&error),
        }
    }
    // A lease is not void before its attempt has ended, so the ends go first.
    let position = answer_ends(app, server, ends, &mut answers).await;
    if !beats.is_empty() {
        answer_beats(app, beats, &mut answers).await;
    }
    (answers, position)
}

async fn answer_beats(
    app: &App,
    beats: Vec<(usize, ReportedBeat)>,
    answers: &mut [JobReportAnswer],
) {
    let (places, beats): (Vec<usize>, Vec<ReportedBeat>) = beats.into_iter().unzip();
    let renewed = match app.write.jobs.heartbeats(&beats).await {
        Ok(renewed) => renewed,
        Err(error) => {
            let error = ApiError::from(error);
            places.into_iter().for_each(|n| answers[n].refuse(&error));
            return;
        }
    };
    let mut not_renewed = Vec::new();
    for ((n, beat), lease) in places.into_iter().zip(&beats).zip(renewed) {
        match lease {
            Some(lease) => {
                answers[n].lease_expires_at = Some(lease.expires_at.into());
                answers[n].cancel = Some(lease.cancelled);
            }
            None => not_renewed.push((n, beat.job)),
        }
    }
    if not_renewed.is_empty() {
        return;
    }
    let jobs: Vec<JobId> = not_renewed.iter().map(|(_, job)| *job).collect();
    let owners = owners(app, &jobs).await;
    for (n, job) in not_renewed {
        answers[n].refuse(&match &owners {
            Ok(owners) if !owners.contains_key(&job) => ApiError::NotFound("job"),
            _ => stale_lease(),
        });
    }
}

/// Ends attempts by one append for each owner, all at the same time.
async fn answer_ends(
    app: &App,
    server: &ServerCaller<WorksOnJobs>,
    ends: Vec<(usize, ReportedEnd)>,
    answers: &mut [JobReportAnswer],
) -> Option<u64> {
    let jobs: Vec<JobId> = ends.iter().map(|(_, end)| end.job).collect();
    if jobs.is_empty() {
        return None;
    }
    let owners = match owners(app, &jobs).await {
        Ok(owners) => owners,
        Err(error) => {
            ends.iter().for_each(|(n, _)| answers[*n].refuse(&error));
            return None;
        }
    };
    let mut by_owner: BTreeMap<UserId, (Vec<usize>, Vec<ReportedEnd>)> = BTreeMap::new();
    for (n, end) in ends {
        match owners.get(&end.job) {
            Some(owner) => {
                if let Err(error) = check_outputs(app, *owner, &end.end).await {
                    answers[n].refuse(&error);
                    continue;
                }
                let (places, theirs) = by_owner.entry(*owner).or_default();
                places.push(n);
                theirs.push(end);
            }
            None => answers[n].refuse(&ApiError::NotFound("job")),
        }
    }
    let ending = by_owner.into_iter().map(async |(owner, (places, theirs))| {
        let metadata = server.caller.metadata();
        let ended = app.write.jobs.end_attempts(owner, theirs, metadata).await;
        (places, ended)
    });
    let mut position = None;
    for (places, ended) in join_all(ending).await {
        match ended {
            Ok((decided, at)) => {
                position = position.max(Some(at));
                for (n, decision) in places.into_iter().zip(decided) {
                    if let Err(refusal) = decision {
                        answers[n].refuse(&refusal.into());
                    }
                }
            }
            Err(error) => {
                let error = ApiError::from(error);
                places.into_iter().for_each(|n| answers[n].refuse(&error));
            }
        }
    }
    position
}

async fn check_outputs(app: &App, owner: UserId, end: &AttemptEnd) -> Result<(), ApiError> {
    match end {
        AttemptEnd::Completed {
            outputs: Value::Array(outputs),
            ..
        } if !outputs.is_empty() => files::check_outputs(app, owner, outputs).await,
        _ => Ok(()),
    }
}

impl JobReportAnswer {
    fn accepted(job: Option<String>) -> Self {
        Self {
            job,
            ok: true,
            code: None,
            error: None,
            lease_expires_at: None,
            cancel: None,
        }
    }

    fn refuse(&mut self, error: &ApiError) {
        let (code, sentence) = error.words();
        self.ok = false;
        self.code = Some(code);
        self.error = Some(sentence);
    }
}
