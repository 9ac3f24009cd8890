//! The feed (docs/api.md, Feed): facts as CloudEvents 1.0 in JSON, in pages or live. `data` holds an event's
//! non-personal fields, by the written list of `genie_events::Event::clear`. Callers with the right may ask for all
//! fields; that they did is a fact. Facts hold no secrets.

use actix_web::{
    FromRequest, HttpRequest, HttpResponse,
    http::header::ACCEPT,
    web::{Data, Query},
};
use genie_actors::Caller;
use genie_events::{Metadata, Timestamp, UserId, service_key::Scope};
use genie_log::{FactBody, Log, LogError, StoredRow, keys::KeyState};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::{Duration, Instant, timeout_at};
use tracing::{error, warn};
use utoipa::IntoParams;

use crate::{
    app::App,
    http::{
        caller::{ActingUser, Operator, ReadsEvents},
        error::ApiError,
        read_your_writes::MinPosition,
        response, sse,
    },
};

/// One page reads at most this many rows. It may then hold fewer events than were asked for; its cursor goes on.
const SCANNED: usize = 5000;
/// A live stream ends after this time, the lifetime of a token. Its subscriber comes back with its cursor and a good
/// token.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// How often a live stream checks that its caller is still good.
const RECHECK: Duration = Duration::from_secs(10);
/// Rows that a live stream reads at once.
const LIVE: usize = 200;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FeedQuery {
    /// Events after this cursor. Without it the feed begins at the first event. Anything but a cursor is 400.
    after: Option<String>,
    /// 1 to 500, 50 by default. A live stream has no limit.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
    /// Types, separated by commas. A type that ends in `.*` stands for all types that begin so.
    #[param(example = "job.*,credential.revealed")]
    types: Option<String>,
    /// Only this user's events. Users read their own events only.
    #[param(format = Uuid)]
    user: Option<String>,
    /// Only events of these slices, a range within 0-1023. Subscribers share the work by it: all events of a user are
    /// in one slice.
    #[param(pattern = "^[0-9]+-[0-9]+$", example = "0-511")]
    slices: Option<String>,
    /// `true`: `data` holds all fields, the personal ones, too. For administrators, holders of the shared secret, and
    /// service keys with `events:read:personal`, which get them unless this is `false`. That the caller read them is
    /// a fact (`access.personal_read`), durable before the answer. It covers the same caller's next reads of the same
    /// `user` for a minute on that server.
    personal: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shows {
    /// The fields that are not personal.
    Clear,
    All,
}

struct Filter {
    /// Exact types, or prefixes that end in a dot.
    types: Vec<String>,
    user: Option<UserId>,
    slices: std::ops::RangeInclusive<u64>,
}

impl FeedQuery {
    fn filter(&self) -> Result<Filter, ApiError> {
        let types = self
            .types
            .as_deref()
            .unwrap_or("")
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty() && *word != "*");
        let types = types
            .map(|word| word.strip_suffix('*').unwrap_or(word).to_owned())
            .collect();
        let user = self.user.as_deref().map(|user| {
            user.parse()
                .map_err(|_| ApiError::field("`user` must be a user's id"))
        });
        let slices = match &self.slices {
            None => 0..=1023,
            Some(text) => {
                let range = text
                    .split_once('-')
                    .and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
                let (from, to) = range
                    .filter(|(from, to)| from <= to && *to <= 1023)
                    .ok_or_else(|| {
                        ApiError::field("`slices` must be a range such as 0-511, within 0-1023")
                    })?;
                from..=to
            }
        };
        Ok(Filter {
            types,
            user: user.transpose()?,
            slices,
        })
    }

    fn after(&self, request: &HttpRequest) -> Result<u64, ApiError> {
        let resumed = request
            .headers()
            .get("Last-Event-ID")
            .and_then(|id| id.to_str().ok());
        resumed
            .or(self.after.as_deref())
            .filter(|cursor| !cursor.is_empty())
            .map_or(Ok(0), response::position)
    }
}

/// The fields that this caller is shown. A service key with the scope was made for personal fields. The shared secret
/// and administrators may read everything, so they have to ask. The fact is written before anything is answered.
async fn shows(
    app: &App,
    caller: &Caller,
    asked: Option<bool>,
    filter: &Filter,
) -> Result<Shows, ApiError> {
    let may = caller.is_admin() || caller.has_scope(Scope::EventsReadPersonal);
    let wants_all = asked.unwrap_or(may && caller.is_service_key());
    if !wants_all {
        return Ok(Shows::Clear);
    }
    if !may {
        return Err(ApiError::ScopeNeeded(Scope::EventsReadPersonal));
    }
    app.write.access.personal_read(caller, filter.user).await?;
    Ok(Shows::All)
}

impl Filter {
    fn wants(&self, row: &StoredRow) -> bool {
        let type_matches = |wanted: &String| {
            let is_prefix = wanted.ends_with('.') && row.event_type.starts_with(wanted.as_str());
            is_prefix || row.event_type == *wanted
        };
        (self.types.is_empty() || self.types.iter().any(type_matches))
            && self.user.is_none_or(|user| row.user() == Some(user))
            && self.slices.contains(&row.slice)
    }
}

/// `GET /api/events`: everybody's facts, for operators and subscribers.
pub async fn all(
    app: Data<App>,
    request: HttpRequest,
    min_position: MinPosition,
    operator: Operator<ReadsEvents>,
    query: Query<FeedQuery>,
) -> Result<HttpResponse, ApiError> {
    let filter = query.filter()?;
    let shows = shows(&app, &operator.caller, query.personal, &filter).await?;
    answer::<Operator<ReadsEvents>>(&app, &request, &min_position, &query, filter, shows).await
}

/// `GET /api/me/events`: the caller's own facts.
pub async fn mine(
    app: Data<App>,
    request: HttpRequest,
    min_position: MinPosition,
    user: ActingUser,
    query: Query<FeedQuery>,
) -> Result<HttpResponse, ApiError> {
    let filter = Filter {
        user: Some(user.account.user),
        ..query.filter()?
    };
    answer::<ActingUser>(&app, &request, &min_position, &query, filter, Shows::Clear).await
}

async fn answer<C: FromRequest + 'static>(
    app: &Data<App>,
    request: &HttpRequest,
    min_position: &MinPosition,
    query: &FeedQuery,
    filter: Filter,
    shows: Shows,
) -> Result<HttpResponse, ApiError> {
    min_position.wait_for_log(app).await?;
    let after = query.after(request)?;
    let accept = request
        .headers()
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .unwrap_or("");
    if accept.contains("text/event-stream") {
        let log = app.log.clone();
        return Ok(live::<C>(log, request.clone(), after, filter, shows));
    }
    let limit = response::limit(query.limit)? as usize;
    page(&app.log, after, limit, &filter, shows).await
}

async fn page(
    log: &Log,
    mut after: u64,
    limit: usize,
    filter: &Filter,
    shows: Shows,
) -> Result<HttpResponse, ApiError> {
    let mut data = Vec::with_capacity(limit);
    let mut scanned = 0;
    'reading: while scanned < SCANNED {
        let rows = log.reader().rows(after, 500).await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            scanned += 1;
            if filter.wants(&row) {
                data.push(cloud_event(log, &row, shows).await?);
            }
            after = row.position;
            if data.len() == limit {
                break 'reading;
            }
        }
    }
    // Always a cursor: the feed goes on for as long as facts happen.
    Ok(response::list(data, Some(response::opaque(after))))
}

/// A live stream. It ends when its caller is no longer good for the route.
fn live<C: FromRequest + 'static>(
    log: Log,
    request: HttpRequest,
    after: u64,
    filter: Filter,
    shows: Shows,
) -> HttpResponse {
    let mut follower = log.reader().follow(after);
    let opened = Instant::now();
    let mut sent = opened;
    let mut checked = opened;
    let stream = async_stream::stream! {
        yield Ok::<_, actix_web::Error>(sse::retry());
        while opened.elapsed() < LONGEST {
            if checked.elapsed() >= RECHECK {
                checked = Instant::now();
                if C::extract(&request).await.is_err() {
                    return;
                }
            }
            // The cursor moves on past events that the filter left out, too.
            if sent.elapsed() >= sse::HEARTBEAT {
                sent = Instant::now();
                yield Ok(sse::place(&response::opaque(follower.position())));
            }
            let rows = match timeout_at((sent + sse::HEARTBEAT).min(checked + RECHECK), follower.next(LIVE)).await {
                Err(_) => continue,
                Ok(Ok(rows)) => rows,
                // The subscriber comes back with its cursor; nothing is skipped.
                Ok(Err(error)) => {
                    warn!(%error, "feed: ended; the subscriber resumes at its cursor");
                    return;
                }
            };
            for row in rows.iter().filter(|row| filter.wants(row)) {
                match cloud_event(&log, row, shows).await {
                    Ok(event) => {
                        sent = Instant::now();
                        yield Ok(sse::event(&response::opaque(row.position), &event));
                    }
                    Err(error) => {
                        warn!(%error, "feed: ended; the subscriber resumes at its cursor");
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
        Some(micros) => (name, Timestamp(micros).rfc3339().into()),
        None => (name, value),
    }
}

/// A fact with all its fields, for its own user.
pub async fn whole(log: &Log, row: &StoredRow) -> Result<Value, LogError> {
    cloud_event(log, row, Shows::All).await
}

/// A row as a CloudEvent (CloudEvents 1.0.2, JSON format). A damaged row is marked as damaged, not left out.
async fn cloud_event(log: &Log, row: &StoredRow, shows: Shows) -> Result<Value, LogError> {
    let mut event = json!({
        "specversion": "1.0",
        "id": row.event_id,
        "source": "/genie",
        "type": row.event_type,
        "subject": format!("{}/{}", row.kind, row.id),
        "time": row.recorded_at.rfc3339(),
        "datacontenttype": "application/json",
        "data": null,
        "cursor": response::opaque(row.position),
        "sequence": row.sequence,
        "slice": row.slice,
    });
    if let Some(user) = row.user() {
        event["userid"] = user.to_string().into();
        event["userseq"] = row.owner_seq.into();
        if matches!(log.keys().of(user.0).await, Ok(KeyState::Destroyed)) {
            event["forgotten"] = true.into();
            if !row.is_forgotten() {
                return Ok(event); // of a forgotten user's facts only `account.forgotten` has data
            }
        }
    }
    match said(log, row, shows).await {
        Ok((metadata, fields)) => {
            event["caller"] = metadata.caller.as_str().into();
            if let Some(by) = metadata
                .by
                .map(|by| by.to_string())
                .or(metadata.key.map(|key| key.0))
            {
                event["callerid"] = by.into();
            }
            if let Some(user) = metadata.on_behalf_of {
                event["onbehalfof"] = user.to_string().into();
            }
            event["requestid"] = metadata.request_id.into();
            event["data"] = fields
                .into_iter()
                .map(shown_time)
                .collect::<Map<_, _>>()
                .into();
        }
        Err(LogError::Damaged(damaged)) => {
            error!(%damaged, "feed: a damaged event is shown without its data");
            event["damaged"] = true.into();
        }
        Err(error) => return Err(error),
    }
    Ok(event)
}

/// The metadata, and the fields that are shown.
async fn said(
    log: &Log,
    row: &StoredRow,
    shows: Shows,
) -> Result<(Metadata, Map<String, Value>), LogError> {
    match shows {
        Shows::Clear => {
            row.verified_stream()?;
            let mut metadata = row.metadata()?;
            let fields = std::mem::take(&mut metadata.clear).into_iter().collect();
            Ok((metadata, fields))
        }
        Shows::All => {
            let fact = log.reader().open_row(row).await?;
            let fields = match fact.body {
                FactBody::Open(event, _) => fields_of(event.to_json()),
                FactBody::Forgotten => Map::new(),
            };
            Ok((fact.metadata, fields))
        }
    }
}

/// The event's fields, without its name.
fn fields_of(event: Value) -> Map<String, Value> {
    match event {
        Value::Object(mut fields) => {
            fields.remove("event");
            fields
        }
        _ => Map::new(),
    }
}
