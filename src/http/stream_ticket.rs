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
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::{
    app::App,
    http::{
        caller::{ACCOUNT_WAIT, ActingUser, account_of, app, token, user_of_account},
        directus,
        error::ApiError,
        sse::LAST_EVENT_ID,
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
}

/// The streams of jobs.
pub struct JobStreams;

impl TicketedStream for JobStreams {
    const KIND: &'static str = "job";
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
            return Ok(Self {
                user: ActingUser::extract(request).await?,
                ticket: None,
                kind: PhantomData,
            });
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

    /// Checks during a stream that its reader may still read. The time of the ticket does not matter any more.
    pub async fn check_again(&self, request: &HttpRequest) -> Result<(), ApiError> {
        match &self.ticket {
            None => ActingUser::extract(request).await.map(drop),
            Some(shown) => {
                let app = app(request)?;
                holder(&app, request, &shown.ticket).await.map(drop)
            }
        }
    }

    /// The id of an event, as its reader gets it.
    pub fn event_id(&self, id: &str) -> String {
        match &self.ticket {
            None => id.to_owned(),
            Some(shown) => format!("{id}{PROOF}{}", shown.proof),
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
        let sent_back = last.and_then(|id| id.to_str().ok()?.split_once(PROOF));
        let was_used =
            sent_back.is_some_and(|(_, sent)| sent.as_bytes().ct_eq(proof.as_bytes()).into());
        if !was_used && app.log.clock().now() >= ticket.expires_at() {
            return Err(OVER);
        }
        Ok(Self { ticket, proof })
    }
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
