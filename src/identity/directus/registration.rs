//! Registration (docs/api.md, Identity). It reserves the invite and the address, has Directus
//! create the user under the reserved id, and spends both. The process may die at any point and
//! then leaves a reservation. Whoever finds it asks Directus whether the user exists: if so the
//! registration is completed, otherwise the reservation is released. The password is never kept.
//!
//! Invariant: a reservation is released only when Directus said twice, `QUIET` apart, that there is
//! no such user, and nobody can be about to ask Directus to create the user. So Directus never has
//! a user whom genie does not know.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use genie_actors::{
    WriteError,
    registration::{
        RegisteredUser, Registrar,
        reservation::{ProvidedUser, ReservedRegistration},
    },
};
use genie_events::{EmailAddress, InviteCode, Metadata, Refusal, UserId, UserName};
use genie_log::{Election, Log};
use parking_lot::{Mutex, MutexGuard};
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::time::Instant;
use tracing::{Instrument, error, info, warn};

use super::{
    DirectusSettings,
    upstream::{DirectusTrouble, Upstream, UpstreamRequest, WHOLE},
    user_cache::{About, Standing, Standings},
};

/// How long Directus may still work on a request after its client is gone. A generous bound: it
/// hashes a password and writes one row.
const QUIET: Duration = Duration::from_secs(WHOLE.as_secs() + 5);
/// How often reservations of broken-off registrations are looked for.
const SWEEP: Duration = Duration::from_secs(5);

pub struct DirectusApplicant {
    pub email: EmailAddress,
    /// Directus keeps it, genie does not.
    pub password: SecretString,
    pub first_name: Option<UserName>,
    pub invite_code: InviteCode,
}

/// The user whom Directus creates.
#[derive(Serialize)]
struct NewPersonBody<'a> {
    id: UserId,
    email: &'a str,
    password: &'a str,
    first_name: Option<&'a UserName>,
    role: &'a str,
    status: &'static str,
}

/// Why nobody was registered, or why that is not known.
#[derive(Debug, thiserror::Error)]
pub enum NotRegistered {
    #[error("DIRECTUS_ADMIN_TOKEN is not set on the server; without it nobody can register")]
    NoAdminToken,
    #[error(
        "Directus has no role of the name that a registration gives; make it there, or set DIRECTUS_CREATOR_ROLE"
    )]
    NoRole,
    #[error("Directus does not accept this e-mail address or this password")]
    NotTaken,
    /// Directus did not answer. Nothing was created, and the reservation was released.
    #[error(transparent)]
    Trouble(DirectusTrouble),
    /// Directus did not say whether it created the user.
    #[error(
        "Directus did not answer in time, so it is not known yet whether you are registered; in a few minutes try to log in, then to register again"
    )]
    Unknown,
    /// A rule refused it, or the store is away.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<Refusal> for NotRegistered {
    fn from(refusal: Refusal) -> Self {
        Self::Write(refusal.into())
    }
}

/// Registers users, and settles registrations that broke off.
#[derive(Clone)]
pub struct Registrations(Arc<Inner>);

struct Inner {
    upstream: Arc<Upstream>,
    standings: Standings,
    register: Registrar,
    log: Log,
    creator_role: String,
    reservation_seconds: i64,
    /// Reserved users whose registration in this process ended without an outcome. No task works on
    /// them.
    left: Mutex<HashSet<UserId>>,
}

impl Registrations {
    pub fn new(
        settings: &DirectusSettings,
        upstream: Arc<Upstream>,
        standings: Standings,
        register: Registrar,
        log: Log,
    ) -> Self {
        Self(Arc::new(Inner {
            upstream,
            standings,
            register,
            log,
            creator_role: settings.creator_role.clone(),
            reservation_seconds: settings.reservation.as_secs() as i64,
            left: Mutex::default(),
        }))
    }

    fn left(&self) -> MutexGuard<'_, HashSet<UserId>> {
        self.0.left.lock()
    }

    /// Registers a user, to its end even when the client goes away.
    pub async fn register(
        &self,
        applicant: DirectusApplicant,
        metadata: Metadata,
        address: Option<IpAddr>,
    ) -> Result<RegisteredUser, NotRegistered> {
        let this = self.clone();
        let work = self.0.log.store().io().spawn(
            async move { this.register_to_the_end(applicant, metadata, address).await }
                .in_current_span(),
        );
        work.await.unwrap_or(Err(NotRegistered::Unknown))
    }

    async fn register_to_the_end(
        &self,
        applicant: DirectusApplicant,
        metadata: Metadata,
        address: Option<IpAddr>,
    ) -> Result<RegisteredUser, NotRegistered> {
        let inner = &self.0;
        if inner.upstream.admin().is_none() {
            return Err(NotRegistered::NoAdminToken);
        }
        // Everything that can be refused is refused before anything is reserved.
        let grant = inner
            .register
            .invites()
            .grant(&applicant.invite_code)
            .await?;
        let role = if grant.role == "creator" {
            inner.creator_role.clone()
        } else {
            grant.role
        };
        let role_id = self.role(&role, address).await?;
        let reserved = self.reserve(&applicant, &metadata, address).await?;
        let user = reserved.reservation.user;
        let made = ProvidedUser {
            email: applicant.email.written().to_owned(),
            first_name: applicant.first_name.clone().map(String::from),
            role,
        };
        let outcome = match self.make(user, &applicant, &role_id, address).await {
            Ok(()) => self.spend(&reserved, &made, metadata).await,
            Err(Unmade::Surely(why)) => match inner.register.release(&reserved, metadata).await {
                Ok(()) => return Err(why),
                Err(error) => Err(error.into()),
            },
            Err(Unmade::Perhaps) => Err(NotRegistered::Unknown),
        };
        if outcome.is_err() {
            self.left().insert(user); // The sweep continues the registration.
        }
        outcome
    }

    /// Reserves the invite and the address. Tries again when the address's holder was deleted in
    /// Directus meanwhile.
    async fn reserve(
        &self,
        applicant: &DirectusApplicant,
        metadata: &Metadata,
        address: Option<IpAddr>,
    ) -> Result<ReservedRegistration, NotRegistered> {
        let register = &self.0.register;
        let email = &applicant.email;
        let reserve = || {
            register.reserve(
                email,
                &applicant.invite_code,
                self.0.reservation_seconds,
                metadata.clone(),
            )
        };
        match reserve().await {
            Err(WriteError::Refused(refusal)) if refusal.code == "email_taken" => {
                let is_free = match register.emails().holder(email).await? {
                    Some(holder) => self.free_if_gone_now(email, holder, address).await?,
                    None => true,
                };
                if is_free {
                    Ok(reserve().await?)
                } else {
                    Err(refusal.into())
                }
            }
            reserved => Ok(reserved?),
        }
    }

    /// Frees an address of a user who was deleted in Directus, by an answer that may be some
    /// seconds old. So it may be called at each request.
    pub async fn free_of_the_gone(&self, email: &EmailAddress) -> Result<(), NotRegistered> {
        let Some(holder) = self.0.register.emails().holder(email).await? else {
            return Ok(());
        };
        let standing = self
            .0
            .standings
            .of(About::user(holder, None))
            .await
            .map_err(NotRegistered::Trouble)?;
        if matches!(standing, Standing::Gone) {
            self.free(email, holder, Metadata::system()).await?;
        }
        Ok(())
    }

    /// Frees an address for this user, if its holder was deleted in Directus.
    pub async fn free_for(&self, email: &EmailAddress, user: UserId) -> Result<(), NotRegistered> {
        match self.0.register.emails().holder(email).await? {
            Some(holder) if holder != user => {
                self.free_if_gone_now(email, holder, None).await.map(drop)
            }
            // The address is free, or the user's own: several requests may see a new user at once.
            _ => Ok(()),
        }
    }

    /// Frees an address if Directus no longer has its holder, by a fresh answer. Answers whether
    /// the address is free.
    async fn free_if_gone_now(
        &self,
        email: &EmailAddress,
        holder: UserId,
        address: Option<IpAddr>,
    ) -> Result<bool, NotRegistered> {
        let standings = self.0.standings.clone();
        let asked = self
            .0
            .log
            .store()
            .io()
            .spawn(async move { standings.look_up(holder, address).await }.in_current_span());
        let standing = asked
            .await
            .map_err(|_| NotRegistered::Unknown)?
            .map_err(NotRegistered::Trouble)?;
        let is_gone = matches!(standing, Standing::Gone);
        if is_gone {
            self.free(email, holder, Metadata::system()).await?;
        }
        Ok(is_gone)
    }

    async fn free(
        &self,
        email: &EmailAddress,
        holder: UserId,
        metadata: Metadata,
    ) -> Result<(), NotRegistered> {
        self.0
            .register
            .emails()
            .release(email, holder, metadata)
            .await?;
        info!(user.id = %holder, "Directus: freed the address of a user who was deleted there");
        Ok(())
    }

    /// The id of a role.
    async fn role(&self, name: &str, address: Option<IpAddr>) -> Result<String, NotRegistered> {
        let asking = UpstreamRequest::new(Method::GET, "/roles")
            .authorized(self.0.upstream.admin())
            .of(address);
        let asking = asking
            .parameter("filter[name][_eq]", name)
            .parameter("fields", "id")
            .parameter("limit", "1");
        let reply = self
            .0
            .upstream
            .ask(asking)
            .await
            .map_err(NotRegistered::Trouble)?;
        self.0
            .standings
            .expect_admin(&reply)
            .map_err(NotRegistered::Trouble)?;
        let found = reply.data().map_err(NotRegistered::Trouble)?;
        match found[0]["id"].as_str() {
            Some(id) => Ok(id.to_owned()),
            None => {
                error!(
                    role = name,
                    "Directus: a role is missing; nobody can register with it"
                );
                Err(NotRegistered::NoRole)
            }
        }
    }

    /// Has Directus create the user.
    async fn make(
        &self,
        user: UserId,
        who: &DirectusApplicant,
        role: &str,
        address: Option<IpAddr>,
    ) -> Result<(), Unmade> {
        let body = NewPersonBody {
            id: user,
            email: who.email.written(),
            password: who.password.expose_secret(),
            first_name: who.first_name.as_ref(),
            role,
            status: "active",
        };
        let asking = UpstreamRequest::new(Method::POST, "/users")
            .authorized(self.0.upstream.admin())
            .of(address)
            .json(&body);
        // Only the id is asked back: Directus would otherwise answer everything that it knows of
        // the user.
        let reply = match self.0.upstream.ask(asking.parameter("fields", "id")).await {
            Ok(reply) => reply,
            Err(trouble) if trouble.is_unsent() => {
                return Err(Unmade::Surely(NotRegistered::Trouble(trouble)));
            }
            Err(_) => {
                // Directus may still work on it: a user who is missing now may exist later.
                let found = self.0.standings.look_up(user, address).await;
                return if matches!(found, Ok(Standing::Known(_))) {
                    Ok(())
                } else {
                    Err(Unmade::Perhaps)
                };
            }
        };
        if reply.is_ok() {
            return Ok(());
        }
        Err(Unmade::Surely(match reply.code().as_str() {
            "RECORD_NOT_UNIQUE" => Refusal::conflict(
                "email_taken",
                "This e-mail address is registered already; log in instead",
            )
            .into(),
            "FAILED_VALIDATION" | "INVALID_PAYLOAD" => NotRegistered::NotTaken,
            code => {
                error!(
                    http.status = reply.status,
                    code, "Directus: DIRECTUS_ADMIN_TOKEN may not create users; registrations fail"
                );
                NotRegistered::Trouble(DirectusTrouble::Failed(
                    "it refuses to create users for the administrator's token",
                ))
            }
        }))
    }

    async fn spend(
        &self,
        reserved: &ReservedRegistration,
        made: &ProvidedUser,
        metadata: Metadata,
    ) -> Result<RegisteredUser, NotRegistered> {
        match self.0.register.spend(reserved, made, metadata).await {
            // Another process released the reservation, because it could not know that this process
            // was only slow. So Directus must not keep the user.
            Err(WriteError::Refused(refusal)) if refusal.code == "reservation_gone" => {
                self.unmake(reserved.reservation.user).await;
                Err(refusal.into())
            }
            spent => Ok(spent?),
        }
    }

    async fn unmake(&self, user: UserId) {
        let asking = UpstreamRequest::new(Method::DELETE, format!("/users/{user}"))
            .authorized(self.0.upstream.admin());
        let gone = matches!(self.0.upstream.ask(asking).await, Ok(reply) if reply.is_ok());
        if gone {
            warn!(user.id = %user, "registration: deleted a user in Directus whose registration was given up")
        } else {
            error!(user.id = %user, "registration: a user whose registration was given up remains in Directus; delete it there")
        }
    }

    /// Completes the unfinished registration of a user who exists in Directus, if there is one.
    pub async fn complete_for(
        &self,
        user: UserId,
        address: &EmailAddress,
        made: &ProvidedUser,
    ) -> Result<(), WriteError> {
        match self.0.register.reserved_for(user, address).await? {
            Some(reserved) => self
                .0
                .register
                .spend(&reserved, made, Metadata::system())
                .await
                .map(drop),
            None => Ok(()),
        }
    }

    /// Settles registrations that broke off. Runs for ever; spawn it. With `embedded` no other
    /// process uses this store, so reservations from before this process belong to nobody. The
    /// leader settles for all nodes; each node settles what it left itself.
    pub async fn settle(self, election: Election, embedded: bool) {
        let may_settle = self.0.upstream.admin().is_some();
        let began_at = self.0.log.reader().head();
        let mut settled = 0;
        let mut absent = HashMap::new();
        loop {
            if may_settle && (election.now().is_some() || !self.left().is_empty()) {
                let dead_before = if embedded { began_at } else { 0 };
                if let Err(error) = self
                    .settle_all(&mut settled, &mut absent, dead_before)
                    .await
                {
                    warn!(%error, "registration: looking for unfinished registrations failed; trying again");
                }
            }
            if election.now().is_some()
                && let Err(error) = self
                    .0
                    .log
                    .directus_refreshes()
                    .prune(self.0.log.clock().now())
                    .await
            {
                warn!(%error, "Directus: removing old refreshes failed; trying again");
            }
            self.0.log.clock().pause(SWEEP).await;
        }
    }

    /// No reservation stands up to `settled`. `absent` has the time since when Directus says that a
    /// user is missing.
    async fn settle_all(
        &self,
        settled: &mut u64,
        absent: &mut HashMap<UserId, Instant>,
        dead_before: u64,
    ) -> Result<(), WriteError> {
        let head = self.0.log.reader().head();
        let reserved = self.0.register.reserved(*settled).await?;
        *settled = reserved.first().map_or(head, |first| first.position - 1);
        absent.retain(|user, _| reserved.iter().any(|one| one.reservation.user == *user));
        self.left()
            .retain(|user| reserved.iter().any(|one| one.reservation.user == *user));
        for one in reserved {
            let user = one.reservation.user;
            let is_nobodys = one.position <= dead_before
                || self.left().contains(&user)
                || one.reservation.until <= self.0.log.clock().now();
            // A reservation that cannot be settled must not hold up the others.
            if is_nobodys && let Err(error) = self.settle_one(&one, absent).await {
                warn!(user.id = %user, %error, "registration: settling an unfinished registration failed; trying again");
            }
        }
        Ok(())
    }

    async fn settle_one(
        &self,
        one: &ReservedRegistration,
        absent: &mut HashMap<UserId, Instant>,
    ) -> Result<(), WriteError> {
        let user = one.reservation.user;
        match self.0.standings.look_up(user, None).await {
            Ok(Standing::Known(person)) => {
                let email = person.email.clone().unwrap_or_default();
                let made = ProvidedUser {
                    email,
                    first_name: person.first_name.clone(),
                    role: person.role_word(),
                };
                self.0
                    .register
                    .spend(one, &made, Metadata::system())
                    .await?;
                info!(user.id = %user, "registration: completed an unfinished registration");
            }
            Ok(_) => {
                let since = *absent.entry(user).or_insert_with(Instant::now);
                if since.elapsed() >= QUIET {
                    self.0.register.release(one, Metadata::system()).await?;
                    info!(user.id = %user, "registration: gave up an unfinished registration; its invite and address are free");
                }
            }
            // Nothing is known, so the quiet time begins anew.
            Err(_) => drop(absent.remove(&user)),
        }
        Ok(())
    }
}

enum Unmade {
    /// And Directus will not create the user later.
    Surely(NotRegistered),
    /// The user may still be created.
    Perhaps,
}
