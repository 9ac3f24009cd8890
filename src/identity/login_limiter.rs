//! Wrong passwords are counted, and who gave too many from one address waits. They are counted by address and account together,
//! so that a stranger can't lock anybody out: the owner's own address has a count of its own. Each address has a count over all
//! accounts as well, for those who try one password on many. One-time codes are counted by account alone (RFC 4226, section 7.3):
//! only who knows the password gets to try one, so that no stranger locks anybody out, and addresses are cheap.
//!
//! Only wrong ones count, which is why this is not one of the limiters that count requests. It is each node's own: with n nodes a
//! guesser has n times as many tries, which is still few.

use std::{hash::Hash, net::IpAddr, time::Duration};

use moka::{Expiry, sync::Cache};
use tokio::time::Instant;

use crate::network::Network;

/// Wrong ones in a row of one address on one account; then one in [`ONE_ACCOUNT_EVERY`].
const ONE_ACCOUNT: u32 = 10;
const ONE_ACCOUNT_EVERY: Duration = Duration::from_secs(30);
/// Wrong ones in a row of one address on all accounts; then one in [`ALL_ACCOUNTS_EVERY`]. Many people may share an address.
pub const ALL_ACCOUNTS: u32 = 100;
pub const ALL_ACCOUNTS_EVERY: Duration = Duration::from_secs(3);
/// Counts that are kept; past it the least used are forgotten.
const COUNTS: u64 = 100_000;

/// Counts wrong passwords and codes.
#[derive(Clone)]
pub struct Throttle {
    accounts: Counts<(Option<Network>, String)>,
    addresses: Counts<Network>,
}

/// Counts of wrong ones by key: so many in a row, then one in a while. Each count is one moment: when it would be empty again. A
/// wrong one puts it off; as long as it lies no more than a whole burst ahead, there is room for another.
#[derive(Clone)]
pub struct Counts<K> {
    burst: u32,
    every: Duration,
    empty_at: Cache<K, Instant>,
}

/// A count that is empty is forgotten, and no other, however long nobody asks for it.
struct WhenEmpty;

impl<K> Expiry<K, Instant> for WhenEmpty {
    fn expire_after_create(
        &self,
        _: &K,
        empty_at: &Instant,
        now: std::time::Instant,
    ) -> Option<Duration> {
        Some(empty_at.into_std().saturating_duration_since(now))
    }

    fn expire_after_update(
        &self,
        _: &K,
        empty_at: &Instant,
        now: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(empty_at.into_std().saturating_duration_since(now))
    }
}

impl<K: Hash + Eq + Send + Sync + 'static> Counts<K> {
    /// Allows `burst` in a row, then one in `every`.
    pub fn new(burst: u32, every: Duration) -> Self {
        Self {
            burst,
            every,
            empty_at: Cache::builder()
                .max_capacity(COUNTS)
                .expire_after(WhenEmpty)
                .build(),
        }
    }

    /// How long until there is room for another; nothing when there is.
    pub fn wait(&self, key: &K, now: Instant) -> Option<Duration> {
        let ahead = self.empty_at.get(key)?.saturating_duration_since(now);
        ahead
            .checked_sub(self.every * (self.burst - 1))
            .filter(|left| !left.is_zero())
    }

    /// One more.
    pub fn count(&self, key: K, now: Instant) {
        self.empty_at.entry(key).and_upsert_with(|entry| {
            entry.map_or(now, |entry| entry.into_value()).max(now) + self.every
        });
    }

    /// One less.
    pub fn give_back(&self, key: K) {
        if let Some(empty_at) = self.empty_at.get(&key) {
            self.empty_at
                .insert(key, empty_at.checked_sub(self.every).unwrap_or(empty_at));
        }
    }
}

/// Who tries: an address, and the account that it tries.
#[derive(Debug, Clone)]
pub struct Guesser {
    /// Wherever from, without it.
    address: Option<Network>,
    account: String,
}

impl Guesser {
    /// `account` is the address or id that is tried, in its normal form.
    pub fn new(address: IpAddr, account: impl Into<String>) -> Self {
        Self {
            address: Some(Network::of(address)),
            account: account.into(),
        }
    }

    /// Who tries the one-time codes of an account whose password they know.
    pub fn of_codes(account: impl Into<String>) -> Self {
        Self {
            address: None,
            account: account.into(),
        }
    }

    fn key(&self) -> (Option<Network>, String) {
        (self.address, self.account.clone())
    }
}

impl Throttle {
    pub fn new() -> Self {
        let accounts = Counts::new(ONE_ACCOUNT, ONE_ACCOUNT_EVERY);
        Self {
            accounts,
            addresses: Counts::new(ALL_ACCOUNTS, ALL_ACCOUNTS_EVERY),
        }
    }

    /// How long they have to wait before another try; nothing when they may.
    pub fn wait(&self, guesser: &Guesser, now: Instant) -> Option<Duration> {
        let of_account = self.accounts.wait(&guesser.key(), now);
        of_account.max(
            guesser
                .address
                .and_then(|address| self.addresses.wait(&address, now)),
        )
    }

    /// They were wrong.
    pub fn count(&self, guesser: &Guesser, now: Instant) {
        self.accounts.count(guesser.key(), now);
        if let Some(address) = guesser.address {
            self.addresses.count(address, now);
        }
    }

    /// A try that was counted before it was looked at was right after all.
    pub fn give_back(&self, guesser: &Guesser) {
        self.accounts.give_back(guesser.key());
        if let Some(address) = guesser.address {
            self.addresses.give_back(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guesser(address: &str, account: &str) -> Guesser {
        Guesser::new(address.parse().unwrap(), account)
    }

    #[test]
    fn who_was_wrong_too_often_waits_and_nobody_else_does() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        let stranger = guesser("203.0.113.7", "ada");
        for n in 0..ONE_ACCOUNT {
            assert_eq!(throttle.wait(&stranger, now), None, "{n}");
            throttle.count(&stranger, now);
        }
        assert_eq!(throttle.wait(&stranger, now), Some(ONE_ACCOUNT_EVERY));
        assert_eq!(
            throttle.wait(&guesser("198.51.100.1", "ada"), now),
            None,
            "the owner"
        );
        assert_eq!(
            throttle.wait(&guesser("203.0.113.7", "bob"), now),
            None,
            "a neighbour of the stranger"
        );
        let later = now + ONE_ACCOUNT_EVERY;
        assert_eq!(throttle.wait(&stranger, later), None);
        throttle.count(&stranger, later);
        assert!(throttle.wait(&stranger, later).is_some());
    }

    #[test]
    fn codes_are_counted_wherever_they_come_from_and_a_right_one_is_given_back() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        let codes = Guesser::of_codes("ada");
        for _ in 0..ONE_ACCOUNT {
            throttle.count(&codes, now);
            throttle.give_back(&codes);
        }
        assert_eq!(throttle.wait(&codes, now), None);
        for _ in 0..ONE_ACCOUNT {
            throttle.count(&codes, now);
        }
        assert!(throttle.wait(&codes, now).is_some());
        assert_eq!(
            throttle.wait(&guesser("203.0.113.7", "ada"), now),
            None,
            "passwords have a count of their own"
        );
        assert_eq!(throttle.wait(&Guesser::of_codes("bob"), now), None);
    }

    #[test]
    fn a_count_is_kept_until_it_is_empty_and_no_longer() {
        let (counts, now) = (Counts::new(2, Duration::from_secs(3600)), Instant::now());
        (0..1000).for_each(|_| counts.count("many at once", now));
        assert_eq!(
            counts.wait(&"many at once", now),
            Some(Duration::from_secs(3600) * 999),
            "nothing is forgiven"
        );
        let brief = Counts::new(2, Duration::from_nanos(1));
        brief.count("a moment ago", now);
        while brief.empty_at.entry_count() > 0 {
            brief.empty_at.run_pending_tasks(); // what is empty takes no room
        }
    }

    #[test]
    fn one_password_on_many_accounts_is_counted_by_network() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        for n in 0..ALL_ACCOUNTS {
            throttle.count(
                &guesser(&format!("2001:db8:1:2::{n:x}"), &format!("user {n}")),
                now,
            );
        }
        assert!(
            throttle
                .wait(&guesser("2001:db8:1:2:ffff::1", "another"), now)
                .is_some()
        );
        assert_eq!(
            throttle.wait(&guesser("2001:db8:1:3::1", "another"), now),
            None
        );
        assert!(guesser("::ffff:192.0.2.1", "a").address == guesser("192.0.2.1", "a").address);
    }
}
