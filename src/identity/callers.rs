//! The callers whom this server knows, in memory: accounts, their logins, and service keys. So a
//! request does not ask the store who is calling and whether they may.
//!
//! The memory is filled from the store on demand. It follows the log: a fact of an account or of a
//! key drops what is known of it. Logins begin and end with facts of their account.
//!
//! Invariant: memory only says yes. A caller whom it does not know to be good is looked up in the
//! store. While it is more than a second behind the log, or stopped, the store is asked each time.
//! Commands do not depend on it: the user's actor decides on the present state.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use genie_actors::{WriteError, api_keys::ApiKeys, service_keys::ServiceKeys, users::Users};
use genie_events::{
    ServiceKeyId, StreamId, StreamKind, UserId, account::Account, api_key::ApiKeyGrant,
    service_key::ServiceKey,
};
use genie_log::{KeyKind, Log, LogError, StoredRow, follow::HeadSeen, load_users::Waking};
use genie_projections::{ReadSide, accounts::AccountRow};
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

/// How far the memory may be behind the log (docs/api.md, Identity).
const MAX_LAG: Duration = Duration::from_secs(1);
/// The most bytes of accounts: some hundred thousand.
const MAX_ACCOUNT_BYTES: u64 = 64 << 20;
/// The most service keys.
const MAX_KEYS: u64 = 10_000;
/// The bytes of an entry beside its texts, the cache's own included.
const ENTRY_BYTES: usize = 400;

#[derive(Clone)]
pub struct Callers(Arc<Inner>);

struct Inner {
    log: Log,
    reads: ReadSide,
    users: Users,
    service_keys: ServiceKeys,
    api_keys: ApiKeys,
    accounts: Cache<UserId, Arc<KnownCaller>>,
    keys: Cache<ServiceKeyId, Arc<KnownKey>>,
    /// Raised before anything is dropped. What was read from the store before is not kept.
    drops: AtomicU64,
    /// The log's position that the memory has seen.
    position: AtomicU64,
    /// The memory held everything that was in the log at that moment; `None` before the first.
    current_at: Mutex<Option<Instant>>,
}

/// A key that was made.
#[derive(Debug)]
pub enum KnownKey {
    /// It may be revoked or have expired.
    Service(ServiceKey),
    /// A user's own; without a grant it was revoked. Its user may be unable to act.
    OfUser {
        user: UserId,
        grant: Option<ApiKeyGrant>,
    },
}

struct KnownCaller {
    account: Arc<AccountRow>,
    logins: Vec<Uuid>,
}

impl KnownCaller {
    fn bytes(&self) -> u32 {
        let account = &self.account;
        let texts = [
            &account.status,
            &account.role,
            &account.tier,
            &account.onboarding,
        ];
        let optional = [&account.email, &account.first_name, &account.last_name];
        let bytes = texts.iter().map(|text| text.len()).sum::<usize>()
            + optional
                .iter()
                .map(|text| text.as_ref().map_or(0, String::len))
                .sum::<usize>()
            + self.logins.len() * size_of::<Uuid>()
            + ENTRY_BYTES;
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

impl Callers {
    pub fn new(log: Log, reads: ReadSide, users: Users, service_keys: ServiceKeys) -> Self {
        let api_keys = ApiKeys::new(log.clone(), users.clone());
        let accounts = Cache::builder()
            .max_capacity(MAX_ACCOUNT_BYTES)
            .weigher(|_, known: &Arc<KnownCaller>| known.bytes())
            .build();
        Self(Arc::new(Inner {
            position: AtomicU64::new(log.reader().head()),
            log,
            reads,
            users,
            service_keys,
            api_keys,
            accounts,
            keys: Cache::new(MAX_KEYS),
            drops: AtomicU64::new(0),
            current_at: Mutex::new(None),
        }))
    }

    /// An account; `None` when the user is unknown or forgotten.
    pub async fn account(&self, user: UserId) -> Result<Option<Arc<AccountRow>>, LogError> {
        self.account_at(user, 0).await
    }

    /// The same, as it was at this position of the log or later.
    pub async fn account_at(
        &self,
        user: UserId,
        position: u64,
    ) -> Result<Option<Arc<AccountRow>>, LogError> {
        let has_seen = self.0.position.load(Ordering::SeqCst) >= position;
        match has_seen.then(|| self.known(user)).flatten() {
            Some(known) if known.account.status == "active" => Ok(Some(Arc::clone(&known.account))),
            _ => Ok(self
                .look_up(user)
                .await?
                .map(|known| Arc::clone(&known.account))),
        }
    }

    /// The account of a user, while this login of theirs lasts.
    pub async fn login(
        &self,
        user: UserId,
        login: Uuid,
    ) -> Result<Option<Arc<AccountRow>>, LogError> {
        let lasts = |known: &Arc<KnownCaller>| known.logins.contains(&login);
        let known = match self.known(user).filter(lasts) {
            Some(known) if known.account.status == "active" => Some(known),
            _ => self.look_up(user).await?.filter(lasts),
        };
        Ok(known.map(|known| Arc::clone(&known.account)))
    }

    /// A key that was made; `None` for any other.
    pub async fn key(
        &self,
        key: &str,
    ) -> Result<Option<(ServiceKeyId, Arc<KnownKey>)>, WriteError> {
        let Some(id) = self.0.service_keys.id_of(key) else {
            return Ok(None);
        };
        if self.is_current()
            && let Some(state) = self.0.keys.get(&id)
        {
            return Ok(Some((id, state)));
        }
        let drops = self.0.drops.load(Ordering::SeqCst);
        let Some(state) = self.find_key(&id).await?.map(Arc::new) else {
            return Ok(None);
        };
        self.0.keys.insert(id, Arc::clone(&state));
        if self.0.drops.load(Ordering::SeqCst) != drops {
            self.0.keys.invalidate(&id); // it may be the one that was dropped meanwhile
        }
        Ok(Some((id, state)))
    }

    async fn find_key(&self, id: &ServiceKeyId) -> Result<Option<KnownKey>, WriteError> {
        let Inner {
            log,
            service_keys,
            api_keys,
            ..
        } = &*self.0;
        Ok(match log.lookups().key_kind(*id).await? {
            None => None,
            Some(KeyKind::Service) => service_keys.find(id).await?.map(KnownKey::Service),
            Some(KeyKind::OfUser(user)) => {
                let grant = api_keys.find(user, id).await?;
                Some(KnownKey::OfUser { user, grant })
            }
        })
    }

    /// Call this after a key was changed on this server, which need not wait for its own follower.
    pub fn drop_key(&self, id: &ServiceKeyId) {
        self.0.drops.fetch_add(1, Ordering::SeqCst);
        self.0.keys.invalidate(id);
    }

    fn known(&self, user: UserId) -> Option<Arc<KnownCaller>> {
        let has_seen_own_writes = self
            .0
            .users
            .account_written(user)
            .is_none_or(|written| written <= self.0.position.load(Ordering::SeqCst));
        (has_seen_own_writes && self.is_current() && !self.0.log.keys().has_dropped(user))
            .then(|| self.0.accounts.get(&user))?
    }

    fn is_current(&self) -> bool {
        let current_at = *self.0.current_at.lock();
        current_at.is_some_and(|at| at.elapsed() <= MAX_LAG)
    }

    /// Asks the store, and keeps the answer if it is the log's present state.
    async fn look_up(&self, user: UserId) -> Result<Option<Arc<KnownCaller>>, LogError> {
        let Inner { log, reads, .. } = &*self.0;
        if log.keys().has_dropped(user) {
            return Ok(None); // forgotten
        }
        let drops = self.0.drops.load(Ordering::SeqCst);
        // In this order: a row that was read later than its checkpoint, and has no later fact, is
        // the present state.
        let reached = reads.stored_position("accounts").await?;
        let Some(mut account) = reads.accounts.get(user).await? else {
            return Ok(None);
        };
        let last = log
            .lookups()
            .last_position(StreamId::new(StreamKind::Account, user))
            .await?;
        let is_present = last.is_none_or(|last| last <= reached);
        if !is_present && !overlay(log, user, &mut account).await? {
            return Ok(None);
        }
        let now = log.clock().now();
        let known = Arc::new(KnownCaller {
            account: Arc::new(account),
            logins: log.sessions().families_of(user, now).await?,
        });
        if is_present {
            self.0.accounts.insert(user, Arc::clone(&known));
            if self.0.drops.load(Ordering::SeqCst) != drops {
                self.0.accounts.invalidate(&user); // it may be the one that was dropped meanwhile
            }
        }
        Ok(Some(known))
    }

    /// Follows the log and drops what has new facts. Runs for ever; spawn it on the runtime that
    /// owns the store's connections.
    pub async fn follow(self) {
        let mut follower = self.0.log.reader().follow(self.0.log.reader().head());
        let mut head = self.0.log.reader().watch_head_seen();
        loop {
            tokio::select! {
                rows = follower.next_or_end("callers") => match rows {
                    Some(rows) => self.drop_changed(&rows),
                    None => return, // the store is asked from now on
                },
                seen = head.changed() => if seen.is_err() { return },
            }
            self.0.position.store(follower.position(), Ordering::SeqCst);
            let HeadSeen { head, at } = *head.borrow_and_update();
            if follower.position() >= head {
                *self.0.current_at.lock() = Some(at);
            }
        }
    }

    fn drop_changed(&self, rows: &[Arc<StoredRow>]) {
        let of_kind = |kind: StreamKind| rows.iter().filter(move |row| row.kind == kind.code());
        let users: HashSet<UserId> = of_kind(StreamKind::Account)
            .map(|row| UserId(row.owner))
            .collect();
        let keys: HashSet<ServiceKeyId> = of_kind(StreamKind::ServiceKey)
            .chain(of_kind(StreamKind::ApiKey))
            .map(|row| ServiceKeyId(row.stream))
            .collect();
        if users.is_empty() && keys.is_empty() {
            return;
        }
        self.0.drops.fetch_add(1, Ordering::SeqCst);
        users
            .iter()
            .for_each(|user| self.0.accounts.invalidate(user));
        keys.iter().for_each(|key| self.0.keys.invalidate(key));
    }
}

/// Puts the log's present state over a row that is behind it. False when the user is gone.
async fn overlay(log: &Log, user: UserId, row: &mut AccountRow) -> Result<bool, LogError> {
    let Waking::Awake(awake) = log.users().wake(user).await? else {
        return Ok(false);
    };
    let account = awake.user.account();
    let Some(profile) = account.profile() else {
        return Ok(false);
    };
    let status = match account {
        Account::Active(_) => "active",
        Account::Leaving { .. } => "leaving",
        _ => "suspended",
    };
    status.clone_into(&mut row.status);
    row.role.clone_from(&profile.role);
    row.admin = profile.admin;
    profile.tier.as_str().clone_into(&mut row.tier);
    profile.onboarding.as_str().clone_into(&mut row.onboarding);
    row.two_factor = profile.two_factor.on;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use genie_events::{
        Limits, Metadata, UserCommand,
        account::{AccountSync, LifecycleCommand},
    };
    use genie_log::testing::{TestStore, appender, both_stores};

    use super::*;

    /// A thread that actors live on, as a node has them.
    fn arbiter() -> actix::ArbiterHandle {
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            actix::System::new().block_on(async move {
                let arbiter = actix::Arbiter::new();
                tell.send(arbiter.handle()).unwrap();
                std::future::pending::<()>().await;
            });
        });
        told.recv().unwrap()
    }

    /// The callers of a node that does not follow the log yet, and a user whom its reads know.
    async fn callers(store: &TestStore) -> (Callers, UserId) {
        let log = store.open().await.log;
        let ada = store.register(&log, "ada").await;
        let election = log.elections().stand("a node").await.unwrap();
        let reads = ReadSide::start(log.clone(), election);
        let head = log.reader().head();
        reads
            .wait_for("accounts", head, Duration::from_secs(20))
            .await
            .unwrap();
        let users = Users::new(appender(&log), Limits::built_in(), vec![arbiter()]);
        let service_keys = ServiceKeys::new(appender(&log));
        (Callers::new(log, reads, users, service_keys), ada)
    }

    /// Another node suspends the user: no actor of this one knows.
    async fn suspend(callers: &Callers, user: UserId) {
        let append = appender(&callers.0.log);
        let others = Users::new(append, Limits::built_in(), vec![arbiter()]);
        let sync = LifecycleCommand::Sync(AccountSync {
            active: Some(false),
            ..AccountSync::default()
        });
        let command = UserCommand::account(sync);
        others.ask(user, Metadata::system(), command).await.unwrap();
    }

    async fn status(callers: &Callers, user: UserId) -> String {
        let account = callers.account(user).await.unwrap().unwrap();
        account.status.clone()
    }

    /// Asks until the answer comes from memory.
    async fn until_known(callers: &Callers, user: UserId) {
        let known = async {
            while callers.known(user).is_none() {
                status(callers, user).await;
                tokio::task::yield_now().await;
            }
        };
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, known).await.expect("in time");
    }

    both_stores!(
        a_memory_that_does_not_follow_the_log_is_not_believed,
        async |store: TestStore| {
            let (callers, ada) = callers(&store).await;
            assert_eq!(status(&callers, ada).await, "active");
            assert!(callers.0.accounts.get(&ada).is_some(), "it is kept");
            assert!(callers.known(ada).is_none(), "and not used");
            suspend(&callers, ada).await;
            assert_eq!(status(&callers, ada).await, "suspended", "at once");

            let follow = tokio::spawn(callers.clone().follow());
            while !callers.is_current() {
                tokio::task::yield_now().await;
            }
            follow.abort();
            let late = || *callers.0.current_at.lock() = Some(Instant::now() - MAX_LAG * 2);
            late();
            assert!(!callers.is_current(), "two seconds behind");
        }
    );

    both_stores!(
        a_memory_that_follows_the_log_drops_what_changed,
        async |store: TestStore| {
            let (callers, ada) = callers(&store).await;
            tokio::spawn(callers.clone().follow());
            until_known(&callers, ada).await;
            suspend(&callers, ada).await;
            let dropped = async {
                while callers.known(ada).is_some() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(MAX_LAG, dropped)
                .await
                .expect("in time");
            assert_eq!(status(&callers, ada).await, "suspended");
        }
    );
}
