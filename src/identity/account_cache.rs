//! Caches accounts, so that not every request looks its caller up in the store.
//!
//! Invariant: a cached account lags behind the log no longer than the read side does, and is
//! dropped after `FRESH`. A new fact of an account drops it from the cache, once when the fact is
//! seen and again when the read side has it. A write by the user's actor on this server makes the
//! cached account unusable too. Commands do not depend on the cache: the user's actor decides on
//! the present state.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use genie_actors::users::Users;
use genie_events::{StreamKind, UserId};
use genie_log::{Log, LogError};
use genie_projections::{ReadSide, accounts::AccountRow};
use moka::sync::Cache;

/// How long a cached account may be used (docs/api.md, Identity).
const FRESH: Duration = Duration::from_secs(5);
/// The most cached accounts: some tens of megabytes.
const MOST: u64 = 50_000;

#[derive(Clone)]
pub struct AccountCache(Arc<Inner>);

struct Inner {
    log: Log,
    reads: ReadSide,
    users: Users,
    known: Cache<UserId, CachedAccount>,
    /// Raised before accounts are dropped. An account that was read before is not cached.
    forgotten: AtomicU64,
}

#[derive(Clone)]
struct CachedAccount {
    account: AccountRow,
    /// The user's last write on this server at the time of reading.
    written: Option<u64>,
}

impl AccountCache {
    pub fn new(log: Log, reads: ReadSide, users: Users) -> Self {
        let known = Cache::builder()
            .max_capacity(MOST)
            .time_to_live(FRESH)
            .build();
        Self(Arc::new(Inner {
            log,
            reads,
            users,
            known,
            forgotten: AtomicU64::new(0),
        }))
    }

    /// An account; `None` when the read side has no user with that id.
    pub async fn get(&self, user: UserId) -> Result<Option<AccountRow>, LogError> {
        let Inner {
            reads,
            users,
            known,
            forgotten,
            ..
        } = &*self.0;
        if self.0.log.keys().has_dropped(user) {
            return Ok(None); // forgotten
        }
        let written = users.last_written(user);
        if let Some(kept) = known.get(&user).filter(|kept| kept.written == written) {
            return Ok(Some(kept.account));
        }
        let before = forgotten.load(Ordering::SeqCst);
        let Some(account) = reads.accounts.get(user).await? else {
            return Ok(None);
        };
        known.insert(
            user,
            CachedAccount {
                account: account.clone(),
                written,
            },
        );
        // An account was dropped between the read and the insert; it may be this one.
        if forgotten.load(Ordering::SeqCst) != before {
            known.invalidate(&user);
        }
        Ok(Some(account))
    }

    /// Follows the log and drops accounts that have new facts. Runs for ever; spawn it on the
    /// runtime that owns the store's connections.
    pub async fn follow(self) {
        let Inner { log, reads, .. } = &*self.0;
        let mut follower = log.reader().follow(log.reader().head());
        while let Some(rows) = follower.next_or_end("account cache").await {
            let news = rows
                .iter()
                .filter(|row| row.kind == StreamKind::Account.code());
            let users: HashSet<UserId> = news.map(|row| UserId(row.owner)).collect();
            if users.is_empty() {
                continue;
            }
            self.forget(&users);
            // If the read side is late, cached accounts are as old as the read side, and drop after
            // `FRESH`.
            let _ = reads.wait_for("accounts", follower.position(), FRESH).await;
            self.forget(&users);
        }
    }

    fn forget(&self, users: &HashSet<UserId>) {
        self.0.forgotten.fetch_add(1, Ordering::SeqCst);
        users.iter().for_each(|user| self.0.known.invalidate(user));
    }
}
