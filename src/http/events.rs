//! The feed (contract, section 9): facts as CloudEvents 1.0 in JSON, in pages or live. `data` holds an event's non-personal
//! fields, by the written list of `genie_events::Event::clear`; secrets are not in facts at all.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::ACCEPT,
    web::{Data, Query},
};
use genie_events::{Moment, UserId};
use genie_log::{Log, LogError, StoredRow, keys::KeyState};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, timeout_at};
use tracing::error;

use crate::{
    app::App,
    http::{
        answer,
        caller::{Operator, UserCaller},
        consistency,
        error::ApiError,
        sse,
    },
};

/// Rows looked at for one page; a page may hold fewer events than were asked for, its cursor goes on.
const SCANNED: usize = 5000;
/// A live stream ends after so long, as long as a token is good; its subscriber comes back with its cursor and a good token.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// Rows of one reading for a live stream.
const LIVE: usize = 200;

#[derive(Debug, Default, Deserialize)]
pub struct FeedQuery {
    after: Option<String>,
    limit: Option<u32>,
    types: Option<String>,
    user: Option<String>,
    slices: Option<String>,
}

/// Which events are wanted.
struct Filter {
    /// Exact types, or prefixes that end in a dot.
    types: Vec<String>,
    user: Option<UserId>,
    slices: std::ops::RangeInclusive<u64>,
}

impl FeedQuery {
    fn filter(&self) -> Result<Filter, ApiError> {
        let types = self.types.as_deref().unwrap_or("").split(',').map(str::trim).filter(|word| !word.is_empty() && *word != "*");
        let types = types.map(|word| word.strip_suffix('*').unwrap_or(word).to_owned()).collect();
        let user = self.user.as_deref().map(|user| user.parse().map_err(|_| ApiError::field("`user` must be a user's id")));
        let slices = match &self.slices {
            None => 0..=1023,
            Some(text) => {
                let range = text.split_once('-').and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
                let (from, to) = range
                    .filter(|(from, to)| from <= to && *to <= 1023)
                    .ok_or_else(|| ApiError::field("`slices` must be a range such as 0-511, within 0-1023"))?;
                from..=to
            }
        };
        Ok(Filter { types, user: user.transpose()?, slices })
    }

    fn after(&self, request: &HttpRequest) -> Result<u64, ApiError> {
        let resumed = request.headers().get("Last-Event-ID").and_then(|id| id.to_str().ok());
        resumed.or(self.after.as_deref()).filter(|cursor| !cursor.is_empty()).map_or(Ok(0), answer::position)
    }
}

impl Filter {
    fn wants(&self, row: &StoredRow) -> bool {
        let type_matches = |wanted: &String| match wanted.ends_with('.') {
            true => row.event_type.starts_with(wanted.as_str()),
            false => row.event_type == *wanted,
        };
        (self.types.is_empty() || self.types.iter().any(type_matches))
            && self.user.is_none_or(|user| row.user() == Some(user))
            && self.slices.contains(&row.slice)
    }
}

/// `GET /api/events`: everybody's, for operators and subscribers.
pub async fn all(app: Data<App>, request: HttpRequest, _: Operator, query: Query<FeedQuery>) -> Result<HttpResponse, ApiError> {
    let filter = query.filter()?;
    answer(&app, &request, &query, filter).await
}

/// `GET /api/me/events`: one's own.
pub async fn mine(
    app: Data<App>,
    request: HttpRequest,
    user: UserCaller,
    query: Query<FeedQuery>,
) -> Result<HttpResponse, ApiError> {
    let filter = Filter { user: Some(user.account.user), ..query.filter()? };
    answer(&app, &request, &query, filter).await
}

async fn answer(app: &Data<App>, request: &HttpRequest, query: &FeedQuery, filter: Filter) -> Result<HttpResponse, ApiError> {
    consistency::wait_for_log(app, request).await?;
    let after = query.after(request)?;
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
    match accept.contains("text/event-stream") {
        true => Ok(live(app.log.clone(), after, filter)),
        false => page(&app.log, after, answer::limit(query.limit)? as usize, &filter).await,
    }
}

async fn page(log: &Log, mut after: u64, limit: usize, filter: &Filter) -> Result<HttpResponse, ApiError> {
    let (mut data, mut scanned) = (Vec::with_capacity(limit), 0);
    'reading: while scanned < SCANNED {
        let rows = log.rows(after, 500).await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            scanned += 1;
            if filter.wants(&row) {
                data.push(cloud_event(log, &row).await?);
            }
            after = row.position;
            if data.len() == limit {
                break 'reading;
            }
        }
    }
    // Always a cursor: the feed goes on for as long as facts happen.
    Ok(answer::list(data, Some(answer::opaque(after))))
}

fn live(log: Log, after: u64, filter: Filter) -> HttpResponse {
    let mut follower = log.follow(after);
    let (opened, mut sent) = (Instant::now(), Instant::now());
    let stream = async_stream::stream! {
        yield Ok::<_, actix_web::Error>(sse::retry());
        while opened.elapsed() < LONGEST {
            // Also when only others' facts were seen: the subscriber's cursor moves on with what was passed over.
            if sent.elapsed() >= sse::HEARTBEAT {
                sent = Instant::now();
                yield Ok(sse::place(&answer::opaque(follower.position())));
            }
            let rows = match timeout_at(sent + sse::HEARTBEAT, follower.next(LIVE)).await {
                Err(_) => continue,
                Ok(Ok(rows)) => rows,
                // The subscriber comes back with its cursor; nothing is skipped.
                Ok(Err(error)) => {
                    error!(%error, "a live feed ended");
                    return;
                }
            };
            for row in rows.iter().filter(|row| filter.wants(row)) {
                match cloud_event(&log, row).await {
                    Ok(event) => {
                        sent = Instant::now();
                        yield Ok(sse::event(&answer::opaque(row.position), &event));
                    }
                    Err(error) => {
                        error!(%error, "a live feed ended");
                        return;
                    }
                }
            }
        }
    };
    sse::response().streaming(stream)
}

/// Times are stored as microseconds and shown as RFC 3339.
fn shown_time((name, value): (String, Value)) -> (String, Value) {
    match value.as_i64().filter(|_| name.ends_with("_at")) {
        Some(micros) => (name, Moment(micros).rfc3339().into()),
        None => (name, value),
    }
}

/// A row as a CloudEvent (CloudEvents 1.0.2, JSON format). A damaged one is shown as such, not passed over.
async fn cloud_event(log: &Log, row: &StoredRow) -> Result<Value, LogError> {
    let mut event = json!({
        "specversion": "1.0",
        "id": row.event_id,
        "source": "/genie",
        "type": row.event_type,
        "subject": format!("{}/{}", row.kind, row.id),
        "time": row.recorded_at.rfc3339(),
        "datacontenttype": "application/json",
        "data": null,
        "cursor": answer::opaque(row.position),
        "sequence": row.sequence,
        "slice": row.slice,
    });
    if let Some(user) = row.user() {
        event["userid"] = user.to_string().into();
        event["userseq"] = row.owner_seq.into();
        if matches!(log.keys(user.0).await, Ok(KeyState::Destroyed)) {
            event["forgotten"] = true.into();
            return Ok(event);
        }
    }
    match row.verified_stream().and_then(|_| row.metadata()) {
        Ok(metadata) => {
            event["caller"] = metadata.caller.as_str().into();
            event["requestid"] = metadata.request_id.into();
            event["data"] = metadata.clear.into_iter().map(shown_time).collect::<serde_json::Map<_, _>>().into();
        }
        Err(LogError::Damaged(damaged)) => {
            error!(%damaged, "the feed shows a damaged event without its data");
            event["damaged"] = true.into();
        }
        Err(error) => return Err(error),
    }
    Ok(event)
}
