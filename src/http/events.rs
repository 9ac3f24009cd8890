//! The feed (docs/api.md, Feed): facts as CloudEvents 1.0 in JSON, in pages or live. `data` holds an event's
//! non-personal fields, by the written list of `genie_events::Event::clear`. Callers with the right may ask for all
//! fields; that they did is a fact. Facts hold no secrets.

use std::sync::Arc;

use actix_web::{
    Either, FromRequest, HttpRequest,
    http::header::ACCEPT,
    web::{Bytes, Data},
};
use genie_actors::Caller;
use genie_events::{Metadata, Timestamp, UserId, service_key::Scope};
use genie_log::{
    FactBody, Log, LogError, StoredRow,
    follow::{Follower, OwnFollower},
    keys::KeyState,
    pages::{PAGE_BYTES, PageEnd, Paged},
    read::Shown,
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use tokio::time::{Duration, Instant, timeout_at};
use tracing::{error, warn};
use utoipa::IntoParams;

use crate::{
    app::App,
    http::{
        caller::{Operator, ReadsEvents, UserCaller, short_reason, stated_reason},
        error::ApiError,
        input::Query,
        long_pages,
        read_your_writes::MinPosition,
        request::in_span,
        response::{self, Answer, RawAnswer},
        sse,
        stream_ticket::{self, EventIds, OwnFeeds, StreamReader, StreamTicketAnswer, TicketQuery},
        words::{ApplicationJson, CloudEvents1, Genie, True},
    },
    streams::OpenStream,
};

pub mod cloud_event;
use cloud_event::{CloudEvent, FeedPage, StreamNumber};

/// Rows that a filter looks through at once, and how many times for one page of the answer.
const SCANNED_AT_ONCE: usize = 500;
const PAGES: usize = 10;
/// A live stream ends after this time, the lifetime of a token. Its subscriber comes back with its cursor and a good
/// token.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// How often a live stream checks that its caller is still good.
const RECHECK: Duration = Duration::from_secs(10);
/// A live stream reads so much at once, and holds it while its client does not read.
const LIVE: PageEnd = PageEnd {
    rows: 200,
    bytes: 64 << 10,
};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FeedQuery {
    /// Events after this cursor. Without it the feed begins at the first event. Anything but a cursor is 400.
    after: Option<String>,
    /// 1 to 500, 50 by default. A live stream has no limit.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<i64>,
    /// Types, separated by commas. A type that ends in `.*` stands for all types that begin so.
    #[param(example = "job.*,credential.revealed")]
    types: Option<String>,
    /// Only this user's events. Users read their own events only.
    #[param(format = Uuid)]
    user: Option<String>,
    /// Only events of these slices, a range within 0-1023. Subscribers share the work by it: all events of a user are
    /// in one slice.
    #[param(pattern = "^[0-9]+-[0-9]+$", default = "0-1023", example = "0-511")]
    slices: Option<String>,
    /// `true`: `data` holds all fields, the personal ones, too. For administrators, holders of the shared secret, and
    /// service keys with `events:read:personal`, which get them unless this is `false`. That the caller read them is
    /// a fact (`access.personal_read`), durable before the answer. It covers the same caller's next reads of the same
    /// `user` for a minute on that server.
    personal: Option<bool>,
    /// With `personal=true`, of an administrator: why. It is kept on record.
    #[param(min_length = 1, max_length = 500)]
    #[serde(default, deserialize_with = "short_reason")]
    reason: Option<String>,
}

/// Facts as they happen.
pub enum LiveFeed {}

/// A page, or a live stream when the client accepts one.
type Feed = Either<Answer<FeedPage>, RawAnswer<LiveFeed>>;

/// The caller who reads a feed.
struct FeedReader {
    /// `None`: a server or a subscriber.
    user: Option<UserId>,
    shown: Shown,
}

/// The right by which a feed is read. A live stream checks it again and again.
enum FeedRight {
    Operator,
    Owner(Box<StreamReader<OwnFeeds>>),
}

impl FeedRight {
    async fn check_again(&self, request: &HttpRequest) -> Result<(), ApiError> {
        match self {
            Self::Operator => Operator::<ReadsEvents>::extract(request).await.map(drop),
            Self::Owner(owner) => owner.check_again(request).await,
        }
    }

    fn event_ids(&self) -> EventIds {
        match self {
            Self::Operator => EventIds::default(),
            Self::Owner(owner) => owner.event_ids(),
        }
    }
}

struct Filter {
    /// Exact types, or prefixes that end in a dot.
    types: Vec<String>,
    user: Option<UserId>,
    slices: std::ops::RangeInclusive<u16>,
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
            .get(sse::LAST_EVENT_ID)
            .and_then(|id| id.to_str().ok())
            .map(stream_ticket::without_proof)
            .filter(|cursor| !cursor.is_empty());
        resumed
            .or(self.after.as_deref())
            .map_or(Ok(0), response::position)
    }
}

/// The fields that this caller is shown. A service key with the scope was made for personal fields. The shared secret
/// and administrators may read everything, so they have to ask. The fact is written before anything is answered.
async fn shows(
    app: &App,
    caller: &Caller,
    query: &FeedQuery,
    filter: &Filter,
) -> Result<Shown, ApiError> {
    let may = caller.is_admin() || caller.has_scope(Scope::EventsReadPersonal);
    let wants_all = query.personal.unwrap_or(may && caller.is_service_key());
    if !wants_all {
        return Ok(Shown::Clear);
    }
    if !may {
        return Err(ApiError::ScopeNeeded(Scope::EventsReadPersonal.as_str()));
    }
    let reason = stated_reason(caller, query.reason.as_deref())?;
    app.write
        .access
        .personal_read(caller, filter.user, reason)
        .await?;
    Ok(Shown::Whole)
}

impl Filter {
    /// True when every row that is read is wanted.
    fn takes_all(&self) -> bool {
        self.types.is_empty() && self.slices == (0..=1023)
    }

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
    Query(query): Query<FeedQuery>,
) -> Result<Feed, ApiError> {
    let filter = query.filter()?;
    let shown = shows(&app, &operator.caller, &query, &filter).await?;
    let reader = FeedReader {
        user: operator.caller.user_id(),
        shown,
    };
    let right = FeedRight::Operator;
    answer(&app, &request, &min_position, &query, filter, reader, right).await
}

/// `GET /api/me/events`: the caller's own facts.
pub async fn mine(
    app: Data<App>,
    request: HttpRequest,
    min_position: MinPosition,
    owner: StreamReader<OwnFeeds>,
    Query(query): Query<FeedQuery>,
    Query(_): Query<TicketQuery>,
) -> Result<Feed, ApiError> {
    let user = owner.user.account.user;
    owner.may_read(user.0, None, app.log.clock().now())?;
    if owner.has_ticket() && !wants_a_stream(&request) {
        return Err(ApiError::Forbidden(
            "A ticket opens the live stream alone; ask for `text/event-stream`",
        ));
    }
    let filter = Filter {
        user: Some(user),
        ..query.filter()?
    };
    let reader = FeedReader {
        user: owner.user.caller.user_id(),
        shown: Shown::Clear,
    };
    let right = FeedRight::Owner(Box::new(owner));
    answer(&app, &request, &min_position, &query, filter, reader, right).await
}

/// `POST /api/me/events/ticket`
pub async fn ticket(
    app: Data<App>,
    user: UserCaller,
) -> Result<Answer<StreamTicketAnswer>, ApiError> {
    let owner = user.account.user;
    Ok(Answer(StreamTicketAnswer::new::<OwnFeeds>(
        &app, owner.0, owner, user.login,
    )))
}

fn wants_a_stream(request: &HttpRequest) -> bool {
    let accept = request.headers().get(ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
}

async fn answer(
    app: &Data<App>,
    request: &HttpRequest,
    min_position: &MinPosition,
    query: &FeedQuery,
    filter: Filter,
    reader: FeedReader,
    right: FeedRight,
) -> Result<Feed, ApiError> {
    min_position.wait_for_log(app).await?;
    let after = query.after(request)?;
    if wants_a_stream(request) {
        let open = app.streams.open(reader.user)?;
        let log = app.log.clone();
        let follower = FeedFollower::begin(&log, filter.user, after, reader.shown).await?;
        let request = request.clone();
        return Ok(Either::Right(live(
            log,
            request,
            follower,
            filter,
            reader.shown,
            right,
            open,
        )));
    }
    let limit = response::limit(query.limit)?;
    let log = app.log.clone();
    let page = async move { page(&log, after, limit as usize, &filter, reader.shown).await };
    let page = if limit > long_pages::SHORT {
        long_pages::make(page).await
    } else {
        page.await
    };
    page.map(Either::Left)
}

/// The place of a reader of pages.
enum FeedPlace {
    /// In the whole log: the last position seen.
    Everybody(u64),
    /// Among one user's events, which have an index of their own.
    Own { user: UserId, seen: u64 },
}

impl FeedPlace {
    async fn at(log: &Log, user: Option<UserId>, after: u64) -> Result<Self, LogError> {
        Ok(match user {
            None => Self::Everybody(after),
            Some(user) => Self::Own {
                user,
                seen: log.reader().user_seq_at(user, after).await?,
            },
        })
    }

    async fn read(
        &self,
        log: &Log,
        limit: usize,
        shown: Shown,
    ) -> Result<Paged<StoredRow>, LogError> {
        match *self {
            Self::Everybody(after) => log.reader().page(after, limit, shown).await,
            Self::Own { user, seen } => log.reader().user_page(user, seen, limit, shown).await,
        }
    }

    fn pass(&mut self, row: &StoredRow) {
        match self {
            Self::Everybody(after) => *after = row.position,
            Self::Own { seen, .. } => *seen = row.owner_seq,
        }
    }
}

/// Reads pages until one page of the answer is full. It may then hold fewer events than were asked for: its cursor goes
/// on, and `has_more` says whether there is anything behind it.
async fn page(
    log: &Log,
    mut after: u64,
    limit: usize,
    filter: &Filter,
    shown: Shown,
) -> Result<Answer<FeedPage>, ApiError> {
    let mut place = FeedPlace::at(log, filter.user, after).await?;
    let at_once = if filter.takes_all() {
        limit
    } else {
        SCANNED_AT_ONCE
    };
    let mut data: Vec<Box<RawValue>> = Vec::new();
    let mut bytes = 0;
    let mut has_more = true;
    'reading: for _ in 0..PAGES {
        let rows = place.read(log, at_once, shown).await?;
        for row in &rows.rows {
            if filter.wants(row) {
                if data.len() == limit {
                    break 'reading;
                }
                let event = response::json(&cloud_event(log, row, shown).await?)?;
                bytes += event.get().len();
                if bytes > PAGE_BYTES as usize && !data.is_empty() {
                    break 'reading;
                }
                data.push(event);
            }
            place.pass(row);
            after = row.position;
        }
        has_more = rows.has_more;
        if !has_more || data.len() == limit {
            break;
        }
    }
    // Always a cursor: the feed goes on for as long as facts happen.
    Ok(Answer(FeedPage {
        data,
        has_more,
        next_cursor: response::opaque(after),
    }))
}

/// The rows of a live stream.
enum FeedFollower {
    Everybody(Follower),
    Own(OwnFollower),
}

impl FeedFollower {
    async fn begin(
        log: &Log,
        user: Option<UserId>,
        after: u64,
        shown: Shown,
    ) -> Result<Self, LogError> {
        let reader = log.reader();
        Ok(match user {
            None => Self::Everybody(reader.follow_showing(after, shown)),
            Some(user) => Self::Own(reader.follow_own(user, after, shown).await?),
        })
    }

    fn position(&self) -> u64 {
        match self {
            Self::Everybody(follower) => follower.position(),
            Self::Own(follower) => follower.position(),
        }
    }

    async fn next(&mut self) -> Result<Vec<Arc<StoredRow>>, LogError> {
        match self {
            Self::Everybody(follower) => follower.next(LIVE).await,
            Self::Own(follower) => follower.next(LIVE).await,
        }
    }
}

/// A live stream. It ends when its caller is no longer good for the route.
fn live(
    log: Log,
    request: HttpRequest,
    mut follower: FeedFollower,
    filter: Filter,
    shown: Shown,
    right: FeedRight,
    open: OpenStream,
) -> RawAnswer<LiveFeed> {
    let ids = right.event_ids();
    let opened = Instant::now();
    let mut sent = opened;
    let mut checked = opened;
    let stream = async_stream::stream! {
        let _open = open;
        yield Ok::<_, actix_web::Error>(sse::retry());
        while opened.elapsed() < LONGEST {
            if checked.elapsed() >= RECHECK {
                checked = Instant::now();
                if right.check_again(&request).await.is_err() {
                    return;
                }
            }
            // The cursor moves on past events that the filter left out, too.
            if sent.elapsed() >= sse::HEARTBEAT {
                sent = Instant::now();
                yield Ok(sse::place(&ids.of(&response::opaque(follower.position()))));
            }
            let mut rows = match timeout_at((sent + sse::HEARTBEAT).min(checked + RECHECK), follower.next()).await {
                Err(_) => continue,
                Ok(Ok(rows)) => rows,
                // The subscriber comes back with its cursor; nothing is skipped.
                Ok(Err(error)) => {
                    warn!(%error, "feed: ended; the subscriber resumes at its cursor");
                    return;
                }
            };
            rows.retain(|row| filter.wants(row));
            let events = match on_the_wire(&log, rows, shown, &ids).await {
                Ok(events) => events,
                Err(error) => {
                    warn!(%error, "feed: ended; the subscriber resumes at its cursor");
                    return;
                }
            };
            for event in events {
                sent = Instant::now();
                yield Ok(event);
            }
        }
    };
    RawAnswer::new(sse::response().streaming(in_span(stream)))
}

/// The events of a live stream.
async fn on_the_wire(
    log: &Log,
    rows: Vec<Arc<StoredRow>>,
    shown: Shown,
    ids: &EventIds,
) -> Result<Vec<Bytes>, LogError> {
    let log = log.clone();
    let ids = ids.clone();
    long_pages::make(async move {
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            let event = cloud_event(&log, &row, shown).await?;
            let id = ids.of(&response::opaque(row.position));
            events.push(sse::event(&id, &event));
        }
        Ok(events)
    })
    .await
}

/// Times are stored as microseconds and shown as RFC 3339.
fn shown_time((name, value): (String, Value)) -> (String, Value) {
    match value.as_i64().filter(|_| name.ends_with("_at")) {
        Some(micros) => (name, Timestamp(micros).rfc3339().into()),
        None => (name, value),
    }
}

/// A fact with all its fields, for its own user.
pub async fn whole(log: &Log, row: &StoredRow) -> Result<CloudEvent, LogError> {
    cloud_event(log, row, Shown::Whole).await
}

/// A row as a CloudEvent (CloudEvents 1.0.2, JSON format). A damaged row is marked as damaged, not left out.
async fn cloud_event(log: &Log, row: &StoredRow, shown: Shown) -> Result<CloudEvent, LogError> {
    let mut event = CloudEvent {
        agent: None,
        callerkey: None,
        caller: None,
        callerid: None,
        cursor: response::opaque(row.position),
        damaged: None,
        data: None,
        datacontenttype: ApplicationJson,
        forgotten: None,
        id: row.event_id,
        onbehalfof: None,
        requestid: None,
        sequence: StreamNumber(row.sequence),
        slice: row.slice,
        source: Genie,
        specversion: CloudEvents1,
        subject: row.subject(),
        time: row.recorded_at.into(),
        r#type: row.event_type.clone().into_owned(),
        userid: None,
        userseq: None,
    };
    if let Some(user) = row.user() {
        event.userid = Some(user.to_string());
        event.userseq = Some(row.owner_seq);
        if matches!(log.keys().of(user.0).await, Ok(KeyState::Destroyed)) {
            event.forgotten = Some(True);
            if !row.is_forgotten() {
                return Ok(event); // of a forgotten user's facts only `account.forgotten` has data
            }
        }
    }
    match said(log, row, shown).await {
        Ok((metadata, fields)) => {
            event.caller = Some(metadata.caller.as_str());
            let key = metadata.key.map(|key| key.to_string());
            event.agent = metadata.agent;
            (event.callerid, event.callerkey) = match metadata.by {
                Some(by) => (Some(by.to_string()), key),
                None => (key, None),
            };
            event.onbehalfof = metadata.on_behalf_of.map(|user| user.to_string());
            event.requestid = metadata.request_id;
            event.data = Some(fields.into_iter().map(shown_time).collect());
        }
        Err(LogError::Damaged(damaged)) => {
            error!(%damaged, "feed: a damaged event is shown without its data");
            event.damaged = Some(True);
        }
        Err(error) => return Err(error),
    }
    Ok(event)
}

/// The metadata, and the fields that are shown.
async fn said(
    log: &Log,
    row: &StoredRow,
    shown: Shown,
) -> Result<(Metadata, Map<String, Value>), LogError> {
    match shown {
        Shown::Clear => {
            // A row of the table comes without its payload here, so its digest cannot be checked.
            if row.is_whole() {
                row.verified_stream()?;
            }
            let mut metadata = row.metadata()?;
            let fields = std::mem::take(&mut metadata.clear).into_iter().collect();
            Ok((metadata, fields))
        }
        Shown::Whole => {
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
