//! The live stream of one job. Each event's data is what `GET /api/jobs/{id}` says then, to the job's end.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Bytes, Data, Path},
};
use futures_util::Stream;
use genie_events::JobId;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::{Insight, JobAnswer, JobSight, find};
use crate::{
    app::App,
    http::{
        caller::{ActingUser, UserCaller},
        error::ApiError,
        input::Query,
        read_your_writes::MinPosition,
        request::in_span,
        response::{self, Answer, RawAnswer},
        sse,
        stream_ticket::{JobStreams, StreamReader, StreamTicketAnswer, TicketQuery},
    },
    streams::OpenStream,
};

/// The pauses between looks at a job of which the log says nothing new: one that runs reports its progress to a
/// table, and the place of one that waits changes with other jobs.
const RUNNING_LOOK: Duration = Duration::from_secs(1);
const WAITING_LOOK: Duration = Duration::from_secs(2);
/// A fact of the job is shown when the read side has it; after this time the stream looks all the same.
const READ_SIDE: Duration = Duration::from_secs(2);
/// How often the stream checks that its caller is still good.
const RECHECK: Duration = Duration::from_secs(10);
/// The id of the last event. A client that comes back with it has seen the end.
const END: &str = "end";

/// The events of [`stream`].
pub enum JobEvents {}

struct JobStream {
    app: Data<App>,
    request: HttpRequest,
    reader: StreamReader<JobStreams>,
    job: JobId,
    sight: JobSight,
    /// The last data sent.
    told: Option<Box<RawValue>>,
    /// The number of the last event.
    number: u64,
    sent: Instant,
    checked: Instant,
    _open: OpenStream,
}

/// A look at the job.
struct JobLook {
    data: Box<RawValue>,
    /// The time until the next look; `None` when the job has ended.
    next: Option<Duration>,
}

/// `POST /api/jobs/{id}/ticket`
pub async fn ticket(
    app: Data<App>,
    min_position: MinPosition,
    user: UserCaller,
    id: Path<String>,
) -> Result<Answer<StreamTicketAnswer>, ApiError> {
    let login = user.login;
    let user = ActingUser {
        caller: user.caller,
        account: user.account,
    };
    min_position
        .wait(&app, "jobs", Some(user.account.user))
        .await?;
    let (row, _) = find(&app, &user, &id, &Insight::default()).await?;
    let owner = user.account.user;
    Ok(Answer(StreamTicketAnswer::new::<JobStreams>(
        &app, row.id.0, owner, login,
    )))
}

/// `GET /api/jobs/{id}/stream`
pub async fn stream(
    app: Data<App>,
    request: HttpRequest,
    min_position: MinPosition,
    reader: StreamReader<JobStreams>,
    id: Path<String>,
    Query(insight): Query<Insight>,
    Query(_): Query<TicketQuery>,
) -> Result<RawAnswer<JobEvents>, ApiError> {
    let user = &reader.user;
    let caller = user.account.user;
    min_position.wait(&app, "jobs", Some(caller)).await?;
    let (row, sight) = find(&app, user, &id, &insight).await?;
    reader.may_read(row.id.0, row.finished_at, app.log.clock().now())?;
    let last = request.headers().get(sse::LAST_EVENT_ID);
    let end = reader.event_id(END);
    if row.finished_at.is_some() && last.is_some_and(|last| *last == *end) {
        return Ok(RawAnswer::new(HttpResponse::NoContent().finish()));
    }
    let open = app.streams.open(user.caller.user_id())?;
    let now = Instant::now();
    let stream = JobStream {
        app,
        request,
        reader,
        job: row.id,
        sight,
        told: None,
        number: 0,
        sent: now,
        checked: now,
        _open: open,
    };
    let events = in_span(stream.events());
    Ok(RawAnswer::new(sse::response().streaming(events)))
}

impl JobStream {
    fn events(mut self) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
        async_stream::stream! {
            yield Ok(sse::retry());
            while self.caller_is_good().await {
                let news = self.app.write.jobs.news_of_job(self.job);
                let look = match self.look().await {
                    Ok(Some(look)) => look,
                    Ok(None) => return, // the job's owner was forgotten
                    Err(error) => {
                        warn!(%error, job.id = %self.job, "job stream: ended; its reader comes back");
                        return;
                    }
                };
                if let Some(event) = self.event(&look) {
                    yield Ok(event);
                } else if self.sent.elapsed() >= sse::HEARTBEAT {
                    self.sent = Instant::now();
                    yield Ok(sse::comment());
                }
                let Some(pause) = look.next else {
                    return;
                };
                if timeout(pause, news).await.is_ok() {
                    let head = self.app.log.reader().head();
                    let _ = self.app.reads.wait_briefly(&["jobs"], head, READ_SIDE).await; // or look all the same
                }
            }
        }
    }

    async fn caller_is_good(&mut self) -> bool {
        if self.checked.elapsed() < RECHECK {
            return true;
        }
        self.checked = Instant::now();
        self.reader.check_again(&self.request).await.is_ok()
    }

    async fn look(&self) -> Result<Option<JobLook>, ApiError> {
        let now = self.app.log.clock().now();
        let Some(row) = self.app.reads.jobs.get(&self.job, now).await? else {
            return Ok(None);
        };
        let row = self.sight.of(row);
        let next = match row.status.as_str() {
            "processing" => Some(RUNNING_LOOK),
            "queued" | "delayed" => Some(WAITING_LOOK),
            _ => None,
        };
        let answer = JobAnswer::of_one(&self.app, &row, self.sight).await?;
        let data = response::flagged_json(&answer)?;
        Ok(Some(JobLook { data, next }))
    }

    /// The event for the reader; `None` when nothing has changed.
    fn event(&mut self, look: &JobLook) -> Option<Bytes> {
        let is_told = self
            .told
            .as_ref()
            .is_some_and(|told| told.get() == look.data.get());
        if is_told {
            return None;
        }
        self.told = Some(look.data.clone());
        self.number += 1;
        self.sent = Instant::now();
        let id = match look.next {
            Some(_) => self.number.to_string(),
            None => END.to_owned(),
        };
        Some(sse::event(&self.reader.event_id(&id), &look.data))
    }
}
