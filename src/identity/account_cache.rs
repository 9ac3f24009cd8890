//! Accounts that were read a moment ago, so that not every request looks its caller up in the store.
//!
//! Invariant: an account is given out for at most as long as the read side takes to follow. A fact of an account makes it
//! forgotten when it is seen, and again when the read side has it; so does whatever the user's own actor on this server wrote;
//! and nothing is kept for longer than `FRESH`. Commands do not depend on it: the user's actor decides, on the present state.

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

/// How long an account may be given out without another look (docs/api.md, Identity).
const FRESH: Duration = Duration::from_secs(5);
/// The most accounts kept: some tens of megabytes.
const MOST: u64 = 50_000;
/// The accounts, known or looked up.
#[derive(Clone)]
pub struct AccountCache(Arc<Inner>);

struct Inner {
    log: Log,
    reads: ReadSide,
    users: Users,
    known: Cache<UserId, CachedAccount>,
    /// Raised before accounts are forgotten: what was read before that is not kept.
    forgotten: AtomicU64,
}

#[derive(Clone)]
struct CachedAccount {
    account: AccountRow,
    /// The latest position that was written for the user on this server when it was read.
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

    /// An account; `None` when the read side has nobody with that id.
    pub async fn get(&self, user: UserId) -> Result<Option<AccountRow>, LogError> {
        let Inner {
            reads,
            users,
            known,
            forgotten,
            ..
        } = &*self.0;
        if self.0.log.has_dropped_keys(user) {
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
        // Read before something was forgotten, and kept after it: perhaps the very thing.
        if forgotten.load(Ordering::SeqCst) != before {
            known.invalidate(&user);
        }
        Ok(Some(account))
    }

    /// Follows the log for ever, and forgets accounts of which there is news; to be spawned on the runtime that owns the store's
    /// connections.
    pub async fn follow(self) {
        let Inner { log, reads, .. } = &*self.0;
        let mut follower = log.follow(log.head());
        while let Some(rows) = follower.next_or_end("account cache").await {
            let news = rows
                .iter()
                .filter(|row| row.kind == StreamKind::Account.as_str());
            let users: HashSet<UserId> = news.map(|row| UserId(row.owner)).collect();
            if users.is_empty() {
                continue;
            }
            self.forget(&users);
            // Not in time: what is kept meanwhile is old for as long as the read side is, and for `FRESH` at most.
            let _ = reads.wait_for("accounts", follower.position(), FRESH).await;
            self.forget(&users);
        }
    }

    fn forget(&self, users: &HashSet<UserId>) {
        self.0.forgotten.fetch_add(1, Ordering::SeqCst);
        users.iter().for_each(|user| self.0.known.invalidate(user));
    }
}
