//! Tickets: the right to read one stream by its address alone. A browser's `EventSource` sends no header.
//!
//! A ticket is signed and kept nowhere. It opens its stream for a minute. The id of each event that is read by a ticket
//! carries a proof, which only that stream's reader has. `EventSource` sends the last id when it comes back with the
//! same address. So a ticket that was used in time goes on, and one that is found in an address later opens nothing.

use std::{future::Future, marker::PhantomData, pin::Pin, sync::Arc};

use actix_web::{FromRequest, HttpRequest, dev::Payload};
use genie_events::{Timestamp, UserId};
use genie_log::keys::SystemHashes;
use genie_projections::accounts::AccountRow;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    app::App,
    http::{
        caller::{ACCOUNT_WAIT, ActingUser, account_of, app, token, user_of_account},
        directus,
        error::ApiError,
        sse::LAST_EVENT_ID,
        words::Time,
    },
};

/// A ticket opens its stream for so long, in seconds. A stream that was opened ends at most so long after what it
/// shows.
pub const TICKET_SECONDS: i64 = 60;
/// The parameter of an address.
const PARAMETER: &str = "ticket";
/// Stands between the number of an event and the proof.
const PROOF: char = ':';
const OVER: ApiError =
    ApiError::Forbidden("This ticket is over, or is not one for this stream; ask for a new one");

/// A kind of streams that tickets open. A ticket for one kind opens none of another.
pub trait TicketedStream: 'static {
    const KIND: &'static str;
    /// How long a ticket is good for a stream that has no end, in seconds.
    const LASTS: Option<i64> = None;
}

/// The streams of jobs.
pub struct JobStreams;

impl TicketedStream for JobStreams {
    const KIND: &'static str = "job";
}

/// The streams of chats' turns.
pub struct TurnStreams;

impl TicketedStream for TurnStreams {
    const KIND: &'static str = "turn";
}

/// The live feeds of users' own events, each named by its user.
pub struct OwnFeeds;

impl TicketedStream for OwnFeeds {
    const KIND: &'static str = "feed";
    const LASTS: Option<i64> = Some(24 * 60 * 60);
}

/// The parameter by which a page without headers opens a stream.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TicketQuery {
    /// From the route that makes tickets for this stream, instead of a token.
    #[expect(dead_code, reason = "the caller is made from it")]
    ticket: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = StreamTicket)]
pub struct StreamTicketAnswer {
    /// For `?ticket=` of the stream. Whoever has it reads the stream.
    ticket: String,
    /// The stream must be opened before then.
    expires_at: Time,
}

impl StreamTicketAnswer {
    /// A new ticket for this stream.
    pub fn new<K: TicketedStream>(
        app: &App,
        stream: Uuid,
        user: UserId,
        login: Option<Uuid>,
    ) -> Self {
        let ticket = Ticket::new(stream, user, login, app.log.clock().now());
        Self {
            ticket: ticket.signed::<K>(app.log.hashes()),
            expires_at: ticket.expires_at().into(),
        }
    }
}

/// A ticket, as its maker signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    stream: Uuid,
    user: UserId,
    /// The login of its maker; nil where logins are not genie's own.
    login: Uuid,
    /// In seconds since 1970.
    made: i64,
}

impl Ticket {
    pub fn new(stream: Uuid, user: UserId, login: Option<Uuid>, now: Timestamp) -> Self {
        Self {
            stream,
            user,
            login: login.unwrap_or_default(),
            made: now.unix_seconds(),
        }
    }

    pub fn expires_at(&self) -> Timestamp {
        Timestamp((self.made + TICKET_SECONDS) * 1_000_000)
    }

    /// True when a ticket for a stream without an end is good no longer.
    fn is_over<K: TicketedStream>(&self, now: Timestamp) -> bool {
        K::LASTS.is_some_and(|seconds| now.unix_seconds() >= self.made + seconds)
    }

    fn unsigned(&self) -> String {
        let [stream, user, login] = [self.stream, self.user.0, self.login].map(Uuid::simple);
        format!("{stream}{user}{login}-{}", self.made)
    }

    /// The ticket for a stream of this kind, as its holder sends it.
    pub fn signed<K: TicketedStream>(&self, hashes: &SystemHashes) -> String {
        let unsigned = self.unsigned();
        format!("{unsigned}-{}", hashes.ticket(K::KIND, &unsigned))
    }

    /// Reads a ticket that genie signed for a stream of this kind.
    fn read<K: TicketedStream>(text: &str, hashes: &SystemHashes) -> Option<Self> {
        let (ids, rest) = text.split_once('-')?;
        let (made, _) = rest.split_once('-')?;
        let id = |nth: usize| ids.get(32 * nth..32 * (nth + 1))?.parse::<Uuid>().ok();
        let ticket = Self {
            stream: id(0)?,
            user: UserId(id(1)?),
            login: id(2)?,
            made: made.parse().ok()?,
        };
        let is_good: bool = ticket
            .signed::<K>(hashes)
            .as_bytes()
            .ct_eq(text.as_bytes())
            .into();
        is_good.then_some(ticket)
    }
}

/// A user in person, or an administrator who acts for a user; or the user of a ticket.
pub struct StreamReader<K> {
    pub user: ActingUser,
    ticket: Option<ShownTicket>,
    kind: PhantomData<K>,
}

/// The good ticket of a request.
struct ShownTicket {
    ticket: Ticket,
    /// Goes with the id of each event.
    proof: String,
}

impl<K: TicketedStream> FromRequest for StreamReader<K> {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { Self::admit(&request).await })
    }
}

impl<K: TicketedStream> StreamReader<K> {
    async fn admit(request: &HttpRequest) -> Result<Self, ApiError> {
        let Some(text) = shown(request) else {
            return ActingUser::extract(request).await.map(Self::in_person);
        };
        let app = app(request)?;
        let shown = ShownTicket::read::<K>(&app, request, &text)?;
        let user = holder(&app, request, &shown.ticket).await?;
        Ok(Self {
            user,
            ticket: Some(shown),
            kind: PhantomData,
        })
    }

    /// A reader with a token.
    pub fn in_person(user: ActingUser) -> Self {
        Self {
            user,
            ticket: None,
            kind: PhantomData,
        }
    }

    pub fn has_ticket(&self) -> bool {
        self.ticket.is_some()
    }

    /// Refuses a ticket that is not for this stream. `ended` is the time at which what the stream shows has ended.
    pub fn may_read(
        &self,
        stream: Uuid,
        ended: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let Some(shown) = &self.ticket else {
            return Ok(());
        };
        let is_over = ended.is_some_and(|ended| ended.plus_seconds(TICKET_SECONDS) < now);
        if shown.ticket.stream != stream || is_over {
            return Err(OVER);
        }
        Ok(())
    }

    /// Checks during a stream that its reader may still read. The time of the ticket matters only for a stream that has no
    /// end.
    pub async fn check_again(&self, request: &HttpRequest) -> Result<(), ApiError> {
        match &self.ticket {
            None => ActingUser::extract(request).await.map(drop),
            Some(shown) => {
                let app = app(request)?;
                if shown.ticket.is_over::<K>(app.log.clock().now()) {
                    return Err(OVER);
                }
                holder(&app, request, &shown.ticket).await.map(drop)
            }
        }
    }

    /// The id of an event, as its reader gets it.
    pub fn event_id(&self, id: &str) -> String {
        self.event_ids().of(id)
    }

    /// The form of the ids of events.
    pub fn event_ids(&self) -> EventIds {
        EventIds {
            proof: self.ticket.as_ref().map(|shown| shown.proof.clone()),
        }
    }
}

/// The form of the ids of a stream's events: with the proof of a ticket, if one opened the stream.
#[derive(Debug, Clone, Default)]
pub struct EventIds {
    proof: Option<String>,
}

impl EventIds {
    pub fn of(&self, id: &str) -> String {
        match &self.proof {
            None => id.to_owned(),
            Some(proof) => format!("{id}{PROOF}{proof}"),
        }
    }
}

impl ShownTicket {
    fn read<K: TicketedStream>(
        app: &App,
        request: &HttpRequest,
        text: &str,
    ) -> Result<Self, ApiError> {
        let hashes = app.log.hashes();
        let ticket = Ticket::read::<K>(text, hashes).ok_or(OVER)?;
        let proof = hashes.ticket_proof(text);
        let last = request.headers().get(LAST_EVENT_ID);
        let sent_back = last.and_then(|id| id.to_str().ok()?.rsplit_once(PROOF));
        let was_used =
            sent_back.is_some_and(|(_, sent)| sent.as_bytes().ct_eq(proof.as_bytes()).into());
        let now = app.log.clock().now();
        let is_late = !was_used && now >= ticket.expires_at();
        if is_late || ticket.is_over::<K>(now) {
            return Err(OVER);
        }
        Ok(Self { ticket, proof })
    }
}

/// The id of a feed's event without the proof of a ticket.
pub fn without_proof(id: &str) -> &str {
    id.split_once(PROOF).map_or(id, |(id, _)| id)
}

/// The ticket in a request's address. Beside a token in the header it is not looked at.
fn shown(request: &HttpRequest) -> Option<String> {
    let has_token = token(request).is_ok_and(|token| token.is_some());
    let mut query = form_urlencoded::parse(request.query_string().as_bytes());
    let found = query.find(|(name, value)| name == PARAMETER && !value.is_empty());
    found
        .filter(|_| !has_token)
        .map(|(_, value)| value.into_owned())
}

/// The user of a ticket, whose login must last.
async fn holder(app: &App, request: &HttpRequest, ticket: &Ticket) -> Result<ActingUser, ApiError> {
    let account = account(app, request, ticket).await?;
    let user = user_of_account(app, request, account, None)?;
    Ok(ActingUser {
        caller: user.caller,
        account: user.account,
    })
}

async fn account(
    app: &App,
    request: &HttpRequest,
    ticket: &Ticket,
) -> Result<Arc<AccountRow>, ApiError> {
    if !ticket.login.is_nil() {
        let account = app.callers.login(ticket.user, ticket.login).await?;
        return account.ok_or(ApiError::NoCaller);
    }
    let account = account_of(app, ticket.user, ACCOUNT_WAIT).await?;
    let account = account.ok_or(ApiError::NoCaller)?;
    directus::expect_unchanged(app, request, &account).await?;
    Ok(account)
}
