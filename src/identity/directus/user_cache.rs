//! Directus' word on users: identity, role, and whether they may act. A good token proves none of
//! it: Directus itself accepts the tokens of suspended and of deleted users until they expire.
//!
//! An answer is good for `FRESH`, and many requests at once ask once. When Directus is slow or
//! away, its last good answer serves. Invariant: the caller checks that the token has not expired.

use std::{net::IpAddr, sync::Arc, time::Duration};

use genie_events::{UserId, account::Onboarding, tier::Tier};
use moka::{future::Cache as AskingCache, sync::Cache};
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::{runtime::Handle, task::JoinHandle, time::Instant};
use tracing::{Instrument, error, warn};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::upstream::{DirectusReply, DirectusTrouble, Upstream, UpstreamRequest, bearer};
use crate::{limiter::Limiter, network::Network};

/// How long an answer is not asked for again (docs/api.md, Identity).
const FRESH: Duration = Duration::from_secs(5);
/// How long an answer may serve while Directus is away.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// The most answers that are kept. Beyond that the least used are dropped.
const MOST: u64 = 50_000;
/// How long a slow answer is waited for when there is an older one.
const PATIENCE: Duration = Duration::from_secs(1);
/// The unknown tokens of one address that Directus is asked about at once: tokens that only
/// Directus can check and that it has not accepted yet. Somebody who invents tokens must not make
/// genie ask without end. Many people may share an address, and after a start all tokens are
/// unknown.
const STRANGERS_AT_ONCE: u32 = 100;
/// One more unknown token of an address may come in this time.
const STRANGERS_EVERY: Duration = Duration::from_millis(100);
const MOST_ROLES: &str = "1000";
/// Everything that a reader of the user may see, and the role with its name. Directus refuses a
/// request that names a missing field, so optional fields (`tier`, `onboarding_state`) are not
/// named.
const FIELDS: &str = "*,role.id,role.name";

/// A user, as Directus describes them.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    pub user: UserId,
    /// True when the user may act.
    pub active: bool,
    pub role: Option<Uuid>,
    /// The role's name, where it may be read.
    pub role_name: Option<String>,
    pub email: Option<String>,
    pub first_name: Option<String>,
    /// Set when Directus has a field for it.
    pub tier: Option<Tier>,
    /// Set when Directus has a field for it.
    pub onboarding: Option<Onboarding>,
}

/// Directus' word on a user or on a token.
#[derive(Debug, Clone)]
pub enum Standing {
    /// Directus knows the user.
    Known(Arc<Person>),
    /// Directus has no user of that id.
    Gone,
    /// Directus does not accept this token, or does not say enough.
    NotTaken,
}

/// The subject of a question to Directus.
#[derive(Clone)]
pub struct About {
    key: StandingKey,
    user: UserId,
    token: Arc<Zeroizing<String>>,
    address: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum StandingKey {
    /// For a token with a good signature.
    User(UserId),
    /// For a token that only Directus can check: its hash.
    Token([u8; 32]),
}

impl About {
    /// A user whose token is not at hand: only the administrator's token can ask.
    pub fn user(user: UserId, address: Option<IpAddr>) -> Self {
        Self::holder(user, "", address)
    }

    /// The holder of a token with a good signature.
    pub fn holder(user: UserId, token: &str, address: Option<IpAddr>) -> Self {
        Self {
            key: StandingKey::User(user),
            user,
            token: Arc::new(Zeroizing::new(token.to_owned())),
            address,
        }
    }

    /// A token that claims to be this user's, which Directus has to confirm.
    pub fn token(user: UserId, token: &str, address: Option<IpAddr>) -> Self {
        let key = StandingKey::Token(Sha256::digest(token.as_bytes()).into());
        Self {
            key,
            ..Self::holder(user, token, address)
        }
    }
}

/// Asks Directus, and keeps its answers.
#[derive(Clone)]
pub struct Standings {
    upstream: Arc<Upstream>,
    fresh: AskingCache<StandingKey, Standing>,
    known: Cache<StandingKey, Arc<Person>>,
    /// By the hash of an administrator's token: whether the holder still administers.
    admins: AskingCache<[u8; 32], bool>,
    /// The last answer of the same kind.
    known_admins: Cache<[u8; 32], bool>,
    strangers: Limiter<Network>,
    /// The runtime for requests. A request runs to its end even when the caller goes away, because
    /// others wait for it.
    io: Handle,
}

impl Standings {
    /// Call it on the runtime that owns all I/O.
    pub fn new(upstream: Arc<Upstream>) -> Self {
        Self {
            upstream,
            fresh: AskingCache::builder()
                .max_capacity(MOST)
                .time_to_live(FRESH)
                .build(),
            known: Cache::builder()
                .max_capacity(MOST)
                .time_to_live(KEPT)
                .build(),
            admins: AskingCache::builder()
                .max_capacity(MOST)
                .time_to_live(FRESH)
                .build(),
            known_admins: Cache::builder()
                .max_capacity(MOST)
                .time_to_live(KEPT)
                .build(),
            strangers: Limiter::new(STRANGERS_AT_ONCE, STRANGERS_EVERY),
            io: Handle::current(),
        }
    }

    /// True when an answer is at hand, however old.
    pub fn has_known(&self, about: &About) -> bool {
        self.known.contains_key(&about.key)
    }

    /// Directus' answer, or its last one when it gives none.
    pub async fn of(&self, about: About) -> Result<Standing, DirectusTrouble> {
        if let Some(standing) = self.fresh.get(&about.key).await {
            return Ok(standing);
        }
        let known = self.known.get(&about.key).map(Standing::Known);
        let this = self.clone();
        let asking = self
            .io
            .spawn(async move { this.ask_once(about).await }.in_current_span());
        or_known(asking, known).await
    }

    async fn ask_once(&self, about: About) -> Result<Standing, DirectusTrouble> {
        let key = about.key;
        let asked = self.fresh.try_get_with(key, async {
            let standing = self.ask(&about).await?;
            match &standing {
                Standing::Known(person) => self.known.insert(key, Arc::clone(person)),
                Standing::Gone | Standing::NotTaken => self.known.invalidate(&key),
            }
            Ok::<_, DirectusTrouble>(standing)
        });
        asked.await.map_err(|trouble| (*trouble).clone())
    }

    async fn ask(&self, about: &About) -> Result<Standing, DirectusTrouble> {
        // For a proven holder the administrator may always read everything; the holder perhaps not
        // even the status.
        if matches!(about.key, StandingKey::User(_)) && self.upstream.admin().is_some() {
            return self.look_up(about.user, about.address).await;
        }
        let Some(authorization) = bearer(&about.token) else {
            return Ok(Standing::NotTaken);
        };
        self.count_stranger(about)?;
        let asking = UpstreamRequest::new(Method::GET, "/users/me")
            .authorized(Some(authorization))
            .of(about.address);
        let reply = self
            .upstream
            .ask(asking.parameter("fields", FIELDS))
            .await?;
        if !reply.is_ok() {
            return Ok(Standing::NotTaken);
        }
        let data = reply.data()?;
        // Directus answers the id even to a user without rights. Another id means that the token is
        // somebody's static token that claims to be this user's.
        if data["id"].as_str().and_then(|id| id.parse().ok()) != Some(about.user) {
            return Ok(Standing::NotTaken);
        }
        match Person::read(data) {
            Some(person) => Ok(Standing::Known(Arc::new(person))),
            None if self.upstream.admin().is_some() => {
                self.look_up(about.user, about.address).await
            }
            // A deleted user looks the same: Directus goes by the token alone and finds nothing to
            // show.
            None => {
                warn!(
                    "Directus: does not tell whether a user is active; if it never does, set DIRECTUS_ADMIN_TOKEN"
                );
                Ok(Standing::NotTaken)
            }
        }
    }

    /// Counts a token that only Directus can check, for its address. A token that Directus accepted
    /// before is not counted.
    fn count_stranger(&self, about: &About) -> Result<(), DirectusTrouble> {
        let (Some(address), StandingKey::Token(_), false) =
            (about.address, about.key, self.has_known(about))
        else {
            return Ok(());
        };
        self.strangers
            .take(Network::of(address), Instant::now())
            .map_err(|_| DirectusTrouble::TooMany(Duration::from_secs(1)))
    }

    /// A user, by the administrator's token.
    pub async fn look_up(
        &self,
        user: UserId,
        address: Option<IpAddr>,
    ) -> Result<Standing, DirectusTrouble> {
        // As a list: it is empty when nobody has that id, and refused when the token may not read
        // users. A request for the single user would answer both alike.
        let asking = UpstreamRequest::new(Method::GET, "/users")
            .authorized(self.upstream.admin())
            .of(address);
        let asking = asking
            .parameter("filter[id][_eq]", user.to_string())
            .parameter("limit", "1")
            .parameter("fields", FIELDS);
        let reply = self.upstream.ask(asking).await?;
        self.expect_admin(&reply)?;
        let found = match reply.data()? {
            Value::Array(found) => found.into_iter().next(),
            _ => return Err(DirectusTrouble::Failed("its answer is not a list of users")),
        };
        let Some(found) = found else {
            return Ok(Standing::Gone);
        };
        match Person::read(found) {
            Some(person) if person.user == user => Ok(Standing::Known(Arc::new(person))),
            _ => Err(DirectusTrouble::Failed(
                "it does not say whether the user is active",
            )),
        }
    }

    /// The names of all roles, by the administrator's token.
    pub async fn roles(&self) -> Result<Vec<String>, DirectusTrouble> {
        let asking = UpstreamRequest::new(Method::GET, "/roles").authorized(self.upstream.admin());
        let reply = self
            .upstream
            .ask(
                asking
                    .parameter("fields", "name")
                    .parameter("limit", MOST_ROLES),
            )
            .await?;
        self.expect_admin(&reply)?;
        let Value::Array(roles) = reply.data()? else {
            return Err(DirectusTrouble::Failed("its answer is not a list of roles"));
        };
        Ok(roles
            .iter()
            .filter_map(|role| role["name"].as_str())
            .map(str::to_owned)
            .collect())
    }

    /// Fails when an answer to the administrator's token is a refusal.
    pub fn expect_admin(&self, reply: &DirectusReply) -> Result<(), DirectusTrouble> {
        if reply.is_ok() {
            Ok(())
        } else {
            let status = reply.status;
            let code = reply.code();
            error!(
                http.status = status,
                code,
                "Directus: DIRECTUS_ADMIN_TOKEN lacks an administrator's rights; users can't be looked up"
            );
            Err(DirectusTrouble::Failed(
                "it refuses the administrator's token",
            ))
        }
    }

    /// True when the holder of an administrator's token still administers, or did when Directus
    /// last said so. The token only says that the holder did at issue time.
    pub async fn is_admin(
        &self,
        token: &str,
        address: Option<IpAddr>,
    ) -> Result<bool, DirectusTrouble> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let this = self.clone();
        let authorization = bearer(token);
        let asking = async move {
            let asked = this.admins.try_get_with(key, async {
                let asking = UpstreamRequest::new(Method::GET, "/policies/me/globals")
                    .authorized(authorization)
                    .of(address);
                let reply = this.upstream.ask(asking).await?;
                let is_admin = match reply.status {
                    404 => true, // Before Directus 11 only the token says it.
                    _ => reply.is_ok() && reply.data()?["admin_access"] == Value::Bool(true),
                };
                this.known_admins.insert(key, is_admin);
                Ok::<_, DirectusTrouble>(is_admin)
            });
            asked.await.map_err(|trouble| (*trouble).clone())
        };
        let asking = self.io.spawn(asking.in_current_span());
        or_known(asking, self.known_admins.get(&key)).await
    }

    /// Drops the cached answers about a user whose data has just changed.
    pub async fn forget(&self, user: UserId, token: &str) {
        for key in [StandingKey::User(user), About::token(user, token, None).key] {
            self.fresh.invalidate(&key).await;
        }
    }
}

/// Directus' answer, or its last one when it is slow or away. Not when its rate limit is reached:
/// it counts by address, so a user could reach it on purpose to keep a right.
async fn or_known<T>(
    asking: JoinHandle<Result<T, DirectusTrouble>>,
    known: Option<T>,
) -> Result<T, DirectusTrouble> {
    let Some(known) = known else {
        return asking
            .await
            .unwrap_or(Err(DirectusTrouble::Failed("the request broke off")));
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(Ok(said))) => Ok(said),
        Ok(Ok(Err(trouble @ DirectusTrouble::TooMany(_)))) => Err(trouble),
        _ => Ok(known),
    }
}

#[derive(Deserialize)]
struct PersonJson {
    id: Uuid,
    status: Option<String>,
    email: Option<String>,
    first_name: Option<String>,
    role: Option<WireRole>,
    tier: Option<Value>,
    onboarding_state: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WireRole {
    Id(Uuid),
    Whole {
        id: Option<Uuid>,
        name: Option<String>,
    },
}

impl Person {
    /// The role as an account names it: its name, or its id where the name may not be read.
    pub fn role_word(&self) -> String {
        let id = || {
            self.role
                .map_or_else(|| "none".to_owned(), |id| id.to_string())
        };
        self.role_name.clone().unwrap_or_else(id)
    }

    /// `None` when the answer does not say who the user is and whether they are active.
    fn read(data: Value) -> Option<Self> {
        let wire: PersonJson = serde_json::from_value(data).ok()?;
        let (role, role_name) = match wire.role {
            None => (None, None),
            Some(WireRole::Id(id)) => (Some(id), None),
            Some(WireRole::Whole { id, name }) => (id, name),
        };
        Some(Self {
            user: UserId(wire.id),
            active: wire.status? == "active",
            role,
            role_name,
            email: wire.email,
            first_name: wire.first_name,
            // A word that genie does not know leaves the default in force.
            tier: wire
                .tier
                .as_ref()
                .and_then(Value::as_str)
                .and_then(Tier::parse),
            onboarding: wire
                .onboarding_state
                .as_ref()
                .and_then(Value::as_str)
                .and_then(Onboarding::parse),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_person_needs_an_id_and_a_status() {
        let id = Uuid::from_u128(7);
        assert_eq!(Person::read(json!({"id": id})), None);
        assert_eq!(Person::read(json!({"status": "active"})), None);
        for (status, active) in [
            ("active", true),
            ("suspended", false),
            ("invited", false),
            ("Active", false),
        ] {
            assert_eq!(
                Person::read(json!({"id": id, "status": status}))
                    .unwrap()
                    .active,
                active,
                "{status}"
            );
        }
    }

    #[test]
    fn a_role_is_an_id_or_an_object_and_unknown_words_are_left_out() {
        let id = Uuid::from_u128(7);
        let role = Uuid::from_u128(9);
        let read = |role: Value| {
            let person = json!({"id": id, "status": "active", "role": role, "tier": "pro", "onboarding_state": 7});
            let person = Person::read(person).unwrap();
            (
                person.role,
                person.role_name,
                person.tier,
                person.onboarding,
            )
        };
        assert_eq!(read(json!(null)), (None, None, Some(Tier::Pro), None));
        assert_eq!(read(json!(role)), (Some(role), None, Some(Tier::Pro), None));
        let name = Some("creator".to_owned());
        assert_eq!(
            read(json!({"id": role, "name": "creator"})),
            (Some(role), name, Some(Tier::Pro), None)
        );
    }
}
