//! Identity by a Directus server. Logins and tokens are Directus' business: genie forwards the
//! requests, checks the tokens, and keeps an account of its own for each user whom it has seen.
//!
//! Directus alone says who may act. Each request proves it by an answer that is at most some
//! seconds old (`user_cache.rs`).

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use genie_actors::{outbound::ProxyUse, registration::Registrar};
use genie_events::{BlobId, Timestamp, UserId};
use genie_log::{Clock, Log};
use parking_lot::Mutex;
use reqwest::Method;
use secrecy::SecretString;
use serde_json::Value;
use tokio::{runtime::Handle, time::Instant};
use tracing::{Instrument, error, warn};

use crate::{
    identity::signature::{BadToken, Signature},
    limiter::Limiter,
};

/// Files that Directus holds.
mod assets;
/// Leaves a failing server alone for a while.
mod circuit;
/// The content of a token, and the check of its signature.
mod claims;
/// Makes one request to Directus for all clients that refresh with the same token.
mod refresh;
/// Registration: reserve, create, spend. A registration that broke off is completed or released.
mod registration;
/// Requests to Directus, and the ways in which they fail.
mod upstream;
/// Directus' word on users: identity, role, and whether they may act.
mod user_cache;

pub use assets::NoDirectusFile;
pub use refresh::{NoPair, RefreshBody, TokenPair, refresh_token};
pub use registration::{DirectusApplicant, NotRegistered, Registrations};
pub use upstream::{DirectusReply, DirectusTrouble, UpstreamRequest, bearer};
pub use user_cache::{Person, Standing};

use upstream::Upstream;
use user_cache::{About, Standings};

/// How many tokens in a row Directus is asked about although `DIRECTUS_SECRET` did not sign them:
/// Directus may have another secret now. Further ones are refused without asking, so that nobody
/// makes genie ask without end.
const DOUBTS_AT_ONCE: u32 = 10;
/// One more such token may come in this time.
const DOUBTS_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub struct DirectusSettings {
    pub proxies: ProxyUse,
    pub url: String,
    pub admin_token: Option<SecretString>,
    /// Directus' `SECRET`, which signs its tokens.
    pub secret: Option<SecretString>,
    /// The name of the role that a registration gives.
    pub creator_role: String,
    /// How long an invite and an address stay reserved for a registration that broke off.
    pub reservation: Duration,
}

#[derive(Clone)]
pub struct Directus(Arc<Inner>);

struct Inner {
    upstream: Arc<Upstream>,
    /// The runtime for requests: connections live on the runtime that opened them.
    io: Handle,
    clock: Clock,
    signature: Option<Signature>,
    doubts: Limiter<()>,
    /// The time when Directus was first found to sign with another secret than `DIRECTUS_SECRET`.
    other_secret: Mutex<Option<Timestamp>>,
    standings: Standings,
    refreshes: refresh::Refreshes,
    registrations: Registrations,
}

/// The holder of a good token.
#[derive(Debug, Clone)]
pub struct Authenticated {
    pub person: Arc<Person>,
    pub admin: bool,
}

/// Why a token opens nothing.
#[derive(Debug)]
pub enum NotAuthenticated {
    Expired,
    Forged,
    Invalid,
    /// The token's user is not active in Directus, or was deleted there.
    Inactive(UserId),
    /// Directus did not answer the question.
    Trouble(DirectusTrouble),
}

impl From<BadToken> for NotAuthenticated {
    fn from(bad: BadToken) -> Self {
        match bad {
            BadToken::Expired => Self::Expired,
            BadToken::Forged => Self::Forged,
            BadToken::Invalid => Self::Invalid,
        }
    }
}

impl Directus {
    /// The configured Directus, if there is one. Call it on the runtime that owns all I/O.
    pub fn open(
        settings: Option<&DirectusSettings>,
        log: &Log,
        register: Registrar,
    ) -> Result<Option<Self>, String> {
        let Some(settings) = settings else {
            return Ok(None);
        };
        if settings.admin_token.is_none() {
            warn!(
                "Directus: DIRECTUS_ADMIN_TOKEN is not set; nobody can register, and users need the right to read their own status"
            );
        }
        Self::new(settings, log.clone(), register).map(Some)
    }

    fn new(settings: &DirectusSettings, log: Log, register: Registrar) -> Result<Self, String> {
        let clock = log.clock().clone();
        let upstream = Arc::new(Upstream::new(
            &settings.url,
            settings.proxies,
            settings.admin_token.as_ref(),
            clock.clone(),
        )?);
        let standings = Standings::new(Arc::clone(&upstream));
        let registrations = Registrations::new(
            settings,
            Arc::clone(&upstream),
            standings.clone(),
            register,
            log.clone(),
        );
        Ok(Self(Arc::new(Inner {
            io: Handle::current(),
            clock,
            signature: settings.secret.as_ref().map(claims::signature),
            doubts: Limiter::new(DOUBTS_AT_ONCE, DOUBTS_EVERY),
            other_secret: Mutex::default(),
            standings,
            registrations,
            refreshes: refresh::Refreshes::new(Arc::clone(&upstream), log),
            upstream,
        })))
    }

    /// Forwards a request, to its end even when the client goes away.
    pub async fn ask(&self, asking: UpstreamRequest) -> Result<DirectusReply, DirectusTrouble> {
        let upstream = Arc::clone(&self.0.upstream);
        let asked = self
            .0
            .io
            .spawn(async move { upstream.ask(asking).await }.in_current_span());
        asked
            .await
            .unwrap_or(Err(DirectusTrouble::Failed("the request broke off")))
    }

    /// Drops the cached answers about a user whose data has just changed.
    pub async fn forget(&self, user: UserId, token: &str) {
        self.0.standings.forget(user, token).await;
    }

    /// Deletes a user in Directus. A user who is already gone is no error.
    pub async fn delete(&self, user: UserId) -> Result<(), DirectusTrouble> {
        let Some(admin) = self.0.upstream.admin() else {
            return Err(DirectusTrouble::Failed(
                "DIRECTUS_ADMIN_TOKEN is not set, so genie cannot delete the user there",
            ));
        };
        let asking =
            UpstreamRequest::new(Method::DELETE, format!("/users/{user}")).authorized(Some(admin));
        // Directus answers a second deletion with 204, too.
        match self.ask(asking).await? {
            reply if reply.is_ok() || reply.status == 404 => Ok(()),
            reply => {
                warn!(http.status = reply.status, code = reply.code(), user.id = %user, "Directus: deleting a user was refused");
                Err(DirectusTrouble::Failed(
                    "it refuses to delete a user for the administrator's token",
                ))
            }
        }
    }

    /// Asks whether Directus answers; returns that, then the circuit's state and since when.
    pub async fn state(&self) -> (bool, (&'static str, Timestamp)) {
        let upstream = Arc::clone(&self.0.upstream);
        let answers = self
            .0
            .io
            .spawn(async move { upstream.ping().await.is_ok() }.in_current_span());
        (
            answers.await.unwrap_or(false),
            self.0.upstream.circuit().state(),
        )
    }

    /// The names of all roles in Directus; `None` without an administrator's token to ask with.
    pub async fn roles(&self) -> Result<Option<Vec<String>>, DirectusTrouble> {
        if self.0.upstream.admin().is_none() {
            return Ok(None);
        }
        let standings = self.0.standings.clone();
        let asked = self
            .0
            .io
            .spawn(async move { standings.roles().await.map(Some) }.in_current_span());
        asked
            .await
            .unwrap_or(Err(DirectusTrouble::Failed("the request broke off")))
    }

    /// Which of these files the holder of a token may read in Directus.
    pub async fn readable_files(
        &self,
        token: &str,
        address: Option<IpAddr>,
        files: &BTreeSet<BlobId>,
    ) -> Result<BTreeSet<BlobId>, DirectusTrouble> {
        let ids: Vec<String> = files.iter().map(BlobId::to_string).collect();
        // As a list: it holds what the token may read, and is refused when it may read no files.
        let asking = UpstreamRequest::new(Method::GET, "/files")
            .authorized(bearer(token))
            .of(address)
            .parameter("filter[id][_in]", ids.join(","))
            .parameter("fields", "id")
            .parameter("limit", ids.len().to_string());
        let reply = self.ask(asking).await?;
        if !reply.is_ok() {
            return Ok(BTreeSet::new());
        }
        let Value::Array(found) = reply.data()? else {
            return Err(DirectusTrouble::Failed("its answer is not a list of files"));
        };
        let readable = found
            .iter()
            .filter_map(|file| file["id"].as_str()?.parse().ok());
        Ok(readable.collect())
    }

    pub fn registrations(&self) -> &Registrations {
        &self.0.registrations
    }

    /// A new pair of tokens for a refresh token.
    pub async fn refresh(
        &self,
        token: SecretString,
        address: Option<IpAddr>,
    ) -> Result<TokenPair, NoPair> {
        self.0.refreshes.refresh(token, address).await
    }

    /// The holder of an access token.
    pub async fn authenticate(
        &self,
        token: &str,
        address: Option<IpAddr>,
    ) -> Result<Authenticated, NotAuthenticated> {
        let claims = match claims::read(token, self.0.clock.now()) {
            // Without the secret nobody can tell an expired token from a forged one.
            Err(BadToken::Expired) => return Err(self.expired_or_forged(token)),
            read => read?,
        };
        let (about, is_doubted) = match &self.0.signature {
            // A session may end before its token does. And once Directus is found to sign with
            // another secret, a signature by this one proves nothing: the secret may have been
            // changed because somebody got hold of it.
            Some(signature) if !claims.in_session && self.other_secret_since().is_none() => {
                match signature.is_good(token) {
                    Ok(()) => (About::holder(claims.user, token, address), false),
                    Err(BadToken::Expired) => return Err(NotAuthenticated::Expired),
                    Err(BadToken::Forged | BadToken::Invalid) => {
                        (About::token(claims.user, token, address), true)
                    }
                }
            }
            _ => (About::token(claims.user, token, address), false),
        };
        let is_new_doubt = is_doubted && !self.0.standings.has_known(&about);
        if is_new_doubt && self.0.doubts.take((), Instant::now()).is_err() {
            return Err(NotAuthenticated::Forged);
        }
        let standing = self
            .0
            .standings
            .of(about)
            .await
            .map_err(NotAuthenticated::Trouble)?;
        if is_doubted && !matches!(standing, Standing::NotTaken) {
            self.note_other_secret();
        }
        let person = match standing {
            Standing::Known(person) if person.active => person,
            Standing::Known(_) | Standing::Gone => {
                return Err(NotAuthenticated::Inactive(claims.user));
            }
            // A session that was ended, not a forgery.
            Standing::NotTaken if claims.in_session => return Err(NotAuthenticated::Invalid),
            Standing::NotTaken => return Err(NotAuthenticated::Forged),
        };
        // A role change since the token was issued removes its admin rights.
        let admin = claims.admin
            && claims.role == person.role
            && self
                .0
                .standings
                .is_admin(token, address)
                .await
                .map_err(NotAuthenticated::Trouble)?;
        Ok(Authenticated { person, admin })
    }

    fn expired_or_forged(&self, token: &str) -> NotAuthenticated {
        let checked = match &self.0.signature {
            Some(signature) if self.other_secret_since().is_none() => signature.is_good(token),
            _ => Ok(()),
        };
        match checked {
            Err(BadToken::Forged) => NotAuthenticated::Forged,
            _ => NotAuthenticated::Expired,
        }
    }

    /// The standing of a user whose token is not at hand; `None` without an administrator's token
    /// to ask with.
    pub async fn standing(
        &self,
        user: UserId,
        address: Option<IpAddr>,
    ) -> Result<Option<Standing>, DirectusTrouble> {
        match self.0.upstream.admin() {
            Some(_) => self
                .0
                .standings
                .of(About::user(user, address))
                .await
                .map(Some),
            None => Ok(None),
        }
    }

    /// An active user who has sent no token yet; `None` without an administrator's token to ask
    /// with.
    pub async fn look_up(&self, user: UserId) -> Result<Option<Arc<Person>>, DirectusTrouble> {
        if self.0.upstream.admin().is_none() {
            return Ok(None);
        }
        match self.0.standings.of(About::user(user, None)).await? {
            Standing::Known(person) if person.active => Ok(Some(person)),
            _ => Ok(None),
        }
    }

    fn note_other_secret(&self) {
        let mut since = self.0.other_secret.lock();
        if since.is_none() {
            *since = Some(self.0.clock.now());
            error!(
                "Directus: signs with another secret than DIRECTUS_SECRET; every token is looked up until it is corrected"
            );
        }
    }

    fn other_secret_since(&self) -> Option<Timestamp> {
        *self.0.other_secret.lock()
    }

    /// `unset`, `in use`, or `differs` and since when.
    pub fn secret_state(&self) -> (&'static str, Option<Timestamp>) {
        match (&self.0.signature, self.other_secret_since()) {
            (None, _) => ("unset", None),
            (Some(_), None) => ("in use", None),
            (Some(_), Some(since)) => ("differs", Some(since)),
        }
    }
}
