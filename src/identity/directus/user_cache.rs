//! Who somebody is and whether they may act, as Directus says it. A good token proves neither: Directus itself takes the tokens of
//! suspended and of deleted users until they expire.
//!
//! What it said is good for `FRESH`; many requests at once ask once. When it is slow or away, its last good answer serves: the
//! caller sees to it that the token has not expired.

use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use genie_events::{UserId, account::Onboarding, tier::Tier};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use moka::{future::Cache as AskingCache, sync::Cache};
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::{runtime::Handle, task::JoinHandle};
use tracing::{error, warn};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::upstream::{Asking, Reply, Trouble, Upstream, bearer};
use crate::network::Network;

/// For how long an answer is not asked for again (contract, section 2).
const FRESH: Duration = Duration::from_secs(5);
/// For how long an answer may serve when Directus is away; a token may live no longer than that then.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Answers kept; past it the least used are asked for again.
const MOST: u64 = 50_000;
/// How long a slow answer is waited for when there is an older one.
const PATIENCE: Duration = Duration::from_secs(1);
/// Tokens that only Directus can check and that it has not taken yet, of which it is asked each second for one address: who makes
/// them up must not make genie ask without end.
const STRANGERS_A_SECOND: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// Of those, how many may come at once: many people may share an address, and all are strangers after a start.
const STRANGERS_AT_ONCE: NonZeroU32 = NonZeroU32::new(100).unwrap();
/// Longer than it takes until all of them may come again; addresses that were quiet for so long are forgotten.
const STRANGERS_KEPT: Duration = Duration::from_secs(60);
/// The most roles that are asked for.
const MOST_ROLES: &str = "1000";
/// All that a user's reader may see, and the role with its name. Directus refuses a request for a field that is not there, so what
/// may be there (`tier`, `onboarding_state`) is not asked for by name.
const FIELDS: &str = "*,role.id,role.name";

/// Somebody, as Directus says they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// Who.
    pub user: UserId,
    /// Whether they may act.
    pub active: bool,
    /// The role, if they have one.
    pub role: Option<Uuid>,
    /// Its name, where it may be read.
    pub role_name: Option<String>,
    /// Personal.
    pub email: Option<String>,
    /// Personal.
    pub first_name: Option<String>,
    /// If Directus has a field for it.
    pub tier: Option<Tier>,
    /// If Directus has a field for it.
    pub onboarding: Option<Onboarding>,
}

/// What Directus says of a user or of a token.
#[derive(Debug, Clone)]
pub enum Standing {
    /// It knows them.
    Known(Arc<Person>),
    /// It knows nobody of that id.
    Gone,
    /// It does not take this token, or does not say enough.
    NotTaken,
}

/// Whom to ask about.
#[derive(Clone)]
pub struct About {
    key: Key,
    user: UserId,
    token: Arc<Zeroizing<String>>,
    address: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    /// Of a token whose signature was found good.
    User(UserId),
    /// Of one that only Directus can check, by its hash.
    Token([u8; 32]),
}

impl About {
    /// Somebody whose token is not at hand: only the administrator's can ask.
    pub fn user(user: UserId, address: Option<IpAddr>) -> Self {
        Self::holder(user, "", address)
    }

    /// The holder of a token whose signature is good.
    pub fn holder(user: UserId, token: &str, address: Option<IpAddr>) -> Self {
        Self {
            key: Key::User(user),
            user,
            token: Arc::new(Zeroizing::new(token.to_owned())),
            address,
        }
    }

    /// A token that says it is this user's, which Directus has to confirm.
    pub fn token(user: UserId, token: &str, address: Option<IpAddr>) -> Self {
        let key = Key::Token(Sha256::digest(token.as_bytes()).into());
        Self {
            key,
            ..Self::holder(user, token, address)
        }
    }
}

/// Asks Directus, and remembers what it said.
#[derive(Clone)]
pub struct Standings {
    upstream: Arc<Upstream>,
    fresh: AskingCache<Key, Standing>,
    known: Cache<Key, Arc<Person>>,
    /// Whether a token of an administrator still is one, by the token's hash.
    admins: AskingCache<[u8; 32], bool>,
    /// What was said of that last.
    known_admins: Cache<[u8; 32], bool>,
    strangers: Cache<Network, Arc<DefaultDirectRateLimiter>>,
    /// Requests are made here, and so end even when who asked goes away: others wait for them.
    io: Handle,
}

impl Standings {
    /// Of this Directus. To be called on the runtime that owns all I/O.
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
            strangers: Cache::builder()
                .max_capacity(MOST)
                .time_to_idle(STRANGERS_KEPT)
                .build(),
            io: Handle::current(),
        }
    }

    /// Whether an answer about this one is at hand, however old.
    pub fn has_known(&self, about: &About) -> bool {
        self.known.contains_key(&about.key)
    }

    /// What Directus says, or said last when it says nothing.
    pub async fn of(&self, about: About) -> Result<Standing, Trouble> {
        if let Some(standing) = self.fresh.get(&about.key).await {
            return Ok(standing);
        }
        let known = self.known.get(&about.key).map(Standing::Known);
        let this = self.clone();
        let asking = self.io.spawn(async move { this.ask_once(about).await });
        or_known(asking, known).await
    }

    async fn ask_once(&self, about: About) -> Result<Standing, Trouble> {
        let key = about.key;
        let asked = self.fresh.try_get_with(key, async {
            let standing = self.ask(&about).await?;
            match &standing {
                Standing::Known(person) => self.known.insert(key, Arc::clone(person)),
                Standing::Gone | Standing::NotTaken => self.known.invalidate(&key),
            }
            Ok::<_, Trouble>(standing)
        });
        asked.await.map_err(|trouble| (*trouble).clone())
    }

    async fn ask(&self, about: &About) -> Result<Standing, Trouble> {
        // Of a proven holder the administrator may always read all; the holder perhaps not even the status.
        if matches!(about.key, Key::User(_)) && self.upstream.admin().is_some() {
            return self.look_up(about.user, about.address).await;
        }
        let Some(authorization) = bearer(&about.token) else {
            return Ok(Standing::NotTaken);
        };
        self.count_stranger(about)?;
        let asking = Asking::new(Method::GET, "/users/me")
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
        // The id is told even to who may read nothing. With another it is somebody's static token, which says that it is this user's.
        if data["id"].as_str().and_then(|id| id.parse().ok()) != Some(about.user) {
            return Ok(Standing::NotTaken);
        }
        match Person::read(data) {
            Some(person) => Ok(Standing::Known(Arc::new(person))),
            None if self.upstream.admin().is_some() => {
                self.look_up(about.user, about.address).await
            }
            // Somebody who was deleted looks the same: Directus goes by the token alone and finds nothing to show.
            None => {
                warn!(
                    "Directus does not say whether a user is active: if it never does, set DIRECTUS_ADMIN_TOKEN"
                );
                Ok(Standing::NotTaken)
            }
        }
    }

    /// Counts a token that only Directus can check, for its address; one that it took before is not counted.
    fn count_stranger(&self, about: &About) -> Result<(), Trouble> {
        let (Some(address), Key::Token(_), false) =
            (about.address, about.key, self.has_known(about))
        else {
            return Ok(());
        };
        let quota = Quota::per_second(STRANGERS_A_SECOND).allow_burst(STRANGERS_AT_ONCE);
        let limiter = self.strangers.get_with(Network::of(address), || {
            Arc::new(RateLimiter::direct(quota))
        });
        limiter
            .check()
            .map_err(|_| Trouble::TooMany(Duration::from_secs(1)))
    }

    /// Somebody, by the administrator's token.
    pub async fn look_up(
        &self,
        user: UserId,
        address: Option<IpAddr>,
    ) -> Result<Standing, Trouble> {
        // As a list: it is empty when nobody has that id, and refused when the token may not read users, which would be the same
        // answer if one were asked for.
        let asking = Asking::new(Method::GET, "/users")
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
            _ => return Err(Trouble::Failed("its answer is no list of users")),
        };
        let Some(found) = found else {
            return Ok(Standing::Gone);
        };
        match Person::read(found) {
            Some(person) if person.user == user => Ok(Standing::Known(Arc::new(person))),
            _ => Err(Trouble::Failed("it does not tell who is active")),
        }
    }

    /// The names of all roles, by the administrator's token.
    pub async fn roles(&self) -> Result<Vec<String>, Trouble> {
        let asking = Asking::new(Method::GET, "/roles").authorized(self.upstream.admin());
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
            return Err(Trouble::Failed("its answer is no list of roles"));
        };
        Ok(roles
            .iter()
            .filter_map(|role| role["name"].as_str())
            .map(str::to_owned)
            .collect())
    }

    /// That an answer to the administrator's token is no refusal.
    pub fn expect_admin(&self, reply: &Reply) -> Result<(), Trouble> {
        match reply.is_ok() {
            true => Ok(()),
            false => {
                let (status, code) = (reply.status, reply.code());
                error!(
                    http.status = status,
                    code,
                    "Directus refuses DIRECTUS_ADMIN_TOKEN what an administrator may do; check it"
                );
                Err(Trouble::Failed("it refuses the administrator's token"))
            }
        }
    }

    /// Whether the holder of an administrator's token is one still, or was when Directus said so last: the token only says that
    /// they were when they got it.
    pub async fn is_admin(&self, token: &str, address: Option<IpAddr>) -> Result<bool, Trouble> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let (this, authorization) = (self.clone(), bearer(token));
        let asking = self.io.spawn(async move {
            let asked = this.admins.try_get_with(key, async {
                let asking = Asking::new(Method::GET, "/policies/me/globals")
                    .authorized(authorization)
                    .of(address);
                let reply = this.upstream.ask(asking).await?;
                let is_admin = match reply.status {
                    404 => true, // before Directus 11 the token alone tells
                    _ => reply.is_ok() && reply.data()?["admin_access"] == Value::Bool(true),
                };
                this.known_admins.insert(key, is_admin);
                Ok::<_, Trouble>(is_admin)
            });
            asked.await.map_err(|trouble| (*trouble).clone())
        });
        or_known(asking, self.known_admins.get(&key)).await
    }

    /// Forgets what was said of somebody, who has just changed it.
    pub async fn forget(&self, user: UserId, token: &str) {
        for key in [Key::User(user), About::token(user, token, None).key] {
            self.fresh.invalidate(&key).await;
        }
    }
}

/// What Directus says, or said last when it is slow or away. Not when its limit of requests is reached: that is counted by address,
/// so somebody could see to it themselves and stay what they were.
async fn or_known<T>(
    asking: JoinHandle<Result<T, Trouble>>,
    known: Option<T>,
) -> Result<T, Trouble> {
    let Some(known) = known else {
        return asking
            .await
            .unwrap_or(Err(Trouble::Failed("asking it broke off")));
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(Ok(said))) => Ok(said),
        Ok(Ok(Err(trouble @ Trouble::TooMany(_)))) => Err(trouble),
        _ => Ok(known),
    }
}

#[derive(Deserialize)]
struct Wire {
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
    /// The role as an account names it: its name, or its id where that may not be read.
    pub fn role_word(&self) -> String {
        let id = || {
            self.role
                .map_or_else(|| "none".to_owned(), |id| id.to_string())
        };
        self.role_name.clone().unwrap_or_else(id)
    }

    /// `None` when it does not say who is meant and whether they are active.
    fn read(data: Value) -> Option<Self> {
        let wire: Wire = serde_json::from_value(data).ok()?;
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
            // Words that genie does not know leave the default in force.
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
    fn a_person_is_only_who_has_a_status() {
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
    fn a_role_is_an_id_or_more_and_unknown_words_are_left_out() {
        let (id, role) = (Uuid::from_u128(7), Uuid::from_u128(9));
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
