//! Identity by a Directus server: who logs in, with which tokens, is its business; genie passes that on, checks its tokens, and keeps
//! an account of its own for everybody whom it meets.
//!
//! Who may act is said by Directus alone, and proven at each request by an answer at most some seconds old (`standing.rs`).

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use genie_actors::registration::Registrar;
use genie_events::{Timestamp, UserId};
use genie_log::{Clock, Log};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use reqwest::Method;
use secrecy::SecretString;
use tokio::runtime::Handle;
use tracing::{error, warn};

use crate::identity::signature::{BadToken, Signature};

/// A server that fails is left alone for a while.
mod circuit;
/// What a token says, and its signature.
mod claims;
/// One request to Directus for all who refresh with one token.
mod refresh;
/// Registration: reserve, create, spend; and what broke off is completed or released.
mod registration;
/// The wire.
mod upstream;
/// Who somebody is and whether they may act.
mod user_cache;

pub use refresh::{NoPair, Pair};
pub use registration::{Applicant, NotRegistered, Registrations};
pub use upstream::{Asking, Reply, Trouble, bearer};
pub use user_cache::{Person, Standing};

use upstream::Upstream;
use user_cache::{About, Standings};

/// Tokens with a signature that is not by `DIRECTUS_SECRET`, of which Directus is asked each second all the same: it may have
/// another secret now. The others are refused unasked, so that nobody makes genie ask without end.
const DOUBTS_A_SECOND: NonZeroU32 = NonZeroU32::new(10).unwrap();

/// Which Directus, and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its address.
    pub url: String,
    /// A token of an administrator.
    pub admin_token: Option<SecretString>,
    /// Its `SECRET`.
    pub secret: Option<SecretString>,
    /// The name of the role that a registration gives.
    pub creator_role: String,
    /// How long an invite and an address stay reserved for a registration that broke off.
    pub reservation: Duration,
}

/// The Directus that says who is who.
#[derive(Clone)]
pub struct Directus(Arc<Inner>);

struct Inner {
    upstream: Arc<Upstream>,
    /// Where requests are made: connections live on the runtime that opened them.
    io: Handle,
    clock: Clock,
    signature: Option<Signature>,
    doubts: DefaultDirectRateLimiter,
    /// Since when Directus is known to sign with another secret than `DIRECTUS_SECRET`.
    other_secret: Mutex<Option<Timestamp>>,
    standings: Standings,
    refreshes: refresh::Refreshes,
    registrations: Registrations,
}

/// Somebody with a good token.
#[derive(Debug, Clone)]
pub struct Authenticated {
    /// Who.
    pub person: Arc<Person>,
    /// Whether an administrator.
    pub admin: bool,
}

/// Nobody, as far as can be told.
#[derive(Debug)]
pub enum NotAuthenticated {
    /// The token was good once.
    Expired,
    /// The token is none.
    Invalid,
    /// The token is this user's, who may not act or is gone.
    Inactive(UserId),
    /// Directus did not say.
    Trouble(Trouble),
}

impl From<BadToken> for NotAuthenticated {
    fn from(bad: BadToken) -> Self {
        match bad {
            BadToken::Expired => Self::Expired,
            BadToken::Invalid => Self::Invalid,
        }
    }
}

impl Directus {
    /// To be called on the runtime that owns all I/O.
    pub fn new(settings: &Settings, log: Log, register: Registrar) -> Result<Self, String> {
        let clock = log.clock().clone();
        let upstream = Arc::new(Upstream::new(
            &settings.url,
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
            doubts: RateLimiter::direct(Quota::per_second(DOUBTS_A_SECOND)),
            other_secret: Mutex::default(),
            standings,
            registrations,
            refreshes: refresh::Refreshes::new(Arc::clone(&upstream), log),
            upstream,
        })))
    }

    /// Passes something on, to its end even when the client goes away.
    pub async fn ask(&self, asking: Asking) -> Result<Reply, Trouble> {
        let upstream = Arc::clone(&self.0.upstream);
        let asked = self.0.io.spawn(async move { upstream.ask(asking).await });
        asked
            .await
            .unwrap_or(Err(Trouble::Failed("asking it broke off")))
    }

    /// Forgets what was said of somebody, who has just changed it.
    pub async fn forget(&self, user: UserId, token: &str) {
        self.0.standings.forget(user, token).await;
    }

    /// Deletes a user, who may be gone already.
    pub async fn delete(&self, user: UserId) -> Result<(), Trouble> {
        let Some(admin) = self.0.upstream.admin() else {
            return Err(Trouble::Failed(
                "DIRECTUS_ADMIN_TOKEN is not set, so nobody can be deleted there",
            ));
        };
        let asking = Asking::new(Method::DELETE, format!("/users/{user}")).authorized(Some(admin));
        // Of the second time it says 204 as of the first.
        match self.ask(asking).await? {
            reply if reply.is_ok() || reply.status == 404 => Ok(()),
            reply => {
                warn!(http.status = reply.status, code = reply.code(), user.id = %user, "Directus does not delete a user");
                Err(Trouble::Failed(
                    "it does not delete a user for the administrator's token",
                ))
            }
        }
    }

    /// Whether it answers, and whether it is asked at all and since when.
    pub async fn state(&self) -> (bool, (&'static str, Timestamp)) {
        let upstream = Arc::clone(&self.0.upstream);
        let answers = self
            .0
            .io
            .spawn(async move { upstream.ping().await.is_ok() });
        (
            answers.await.unwrap_or(false),
            self.0.upstream.circuit().state(),
        )
    }

    /// The names of all roles that it has; nothing without an administrator's token to ask with.
    pub async fn roles(&self) -> Result<Option<Vec<String>>, Trouble> {
        if self.0.upstream.admin().is_none() {
            return Ok(None);
        }
        let standings = self.0.standings.clone();
        let asked = self
            .0
            .io
            .spawn(async move { standings.roles().await.map(Some) });
        asked
            .await
            .unwrap_or(Err(Trouble::Failed("asking it broke off")))
    }

    /// Who wants to be somebody.
    pub fn registrations(&self) -> &Registrations {
        &self.0.registrations
    }

    /// A new pair of tokens for a refresh token.
    pub async fn refresh(
        &self,
        token: SecretString,
        address: Option<IpAddr>,
    ) -> Result<Pair, NoPair> {
        self.0.refreshes.refresh(token, address).await
    }

    /// Who comes with this token.
    pub async fn authenticate(
        &self,
        token: &str,
        address: Option<IpAddr>,
    ) -> Result<Authenticated, NotAuthenticated> {
        let claims = claims::read(token, self.0.clock.now())?;
        let (about, is_doubted) = match &self.0.signature {
            // A session may have ended before its token does; and once Directus is known to sign with another secret, this one
            // proves nothing: it may have been changed because somebody got hold of it.
            Some(signature) if !claims.in_session && self.other_secret_since().is_none() => {
                match signature.is_good(token) {
                    Ok(()) => (About::holder(claims.user, token, address), false),
                    Err(BadToken::Expired) => return Err(NotAuthenticated::Expired),
                    Err(BadToken::Invalid) => (About::token(claims.user, token, address), true),
                }
            }
            _ => (About::token(claims.user, token, address), false),
        };
        if is_doubted && !self.0.standings.has_known(&about) && self.0.doubts.check().is_err() {
            return Err(NotAuthenticated::Invalid);
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
            Standing::NotTaken => return Err(NotAuthenticated::Invalid),
        };
        // Who has another role than when the token was made has none of its rights to administer.
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

    /// How somebody stands whose token is not at hand. Without the administrator's nobody can ask.
    pub async fn standing(
        &self,
        user: UserId,
        address: Option<IpAddr>,
    ) -> Result<Option<Standing>, Trouble> {
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

    /// Somebody active who has not come by: as the administrator's token sees them, if there is one.
    pub async fn look_up(&self, user: UserId) -> Result<Option<Arc<Person>>, Trouble> {
        if self.0.upstream.admin().is_none() {
            return Ok(None);
        }
        match self.0.standings.of(About::user(user, None)).await? {
            Standing::Known(person) if person.active => Ok(Some(person)),
            _ => Ok(None),
        }
    }

    fn note_other_secret(&self) {
        let mut since = self
            .0
            .other_secret
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if since.is_none() {
            *since = Some(self.0.clock.now());
            error!(
                "Directus signs with another secret than DIRECTUS_SECRET; set it anew: until then it is asked about each token"
            );
        }
    }

    fn other_secret_since(&self) -> Option<Timestamp> {
        *self
            .0
            .other_secret
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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
