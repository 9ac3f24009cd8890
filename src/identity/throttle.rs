//! Wrong passwords are counted, and who gave too many from one address waits. They are counted by address and account together,
//! so that a stranger can't lock anybody out: the owner's own address has a count of its own. Each address has a count over all
//! accounts as well, for those who try one password on many. One-time codes are counted by account alone (RFC 4226, section 7.3):
//! only who knows the password gets to try one, so that no stranger locks anybody out, and addresses are cheap.
//!
//! Only wrong ones count, which is why this is not one of the limiters that count requests. It is each node's own: with n nodes a
//! guesser has n times as many tries, which is still few.

use std::{net::IpAddr, time::Duration};

use moka::sync::Cache;
use tokio::time::Instant;

/// Wrong ones in a row of one address on one account; then one in [`ONE_ACCOUNT_EVERY`].
const ONE_ACCOUNT: u32 = 10;
const ONE_ACCOUNT_EVERY: Duration = Duration::from_secs(30);
/// Wrong ones in a row of one address on all accounts; then one in [`ALL_ACCOUNTS_EVERY`]. Many people may share an address.
const ALL_ACCOUNTS: u32 = 100;
const ALL_ACCOUNTS_EVERY: Duration = Duration::from_secs(3);
/// Counts that are kept; past it the least used are forgotten.
const COUNTS: u64 = 100_000;

/// Counts wrong passwords and codes.
#[derive(Clone)]
pub struct Throttle {
    accounts: Cache<(Option<Address>, String), Instant>,
    addresses: Cache<Address, Instant>,
}

/// Who tries: an address, and the account that it tries.
#[derive(Debug, Clone)]
pub struct Guesser {
    /// Wherever from, without it.
    address: Option<Address>,
    account: String,
}

/// Where somebody is: an IPv4 address, or the 64 bits of an IPv6 one that are one network's (RFC 6177).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address(IpAddr);

impl Address {
    /// Of a client.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & (u128::MAX << 64)).into()),
            v4 => v4,
        })
    }
}

impl Guesser {
    /// `account` is the address or id that is tried, in its normal form.
    pub fn new(address: IpAddr, account: impl Into<String>) -> Self {
        Self { address: Some(Address::of(address)), account: account.into() }
    }

    /// Who tries the one-time codes of an account whose password they know.
    pub fn of_codes(account: impl Into<String>) -> Self {
        Self { address: None, account: account.into() }
    }
}

/// Each count is one moment: when it would be empty again. A wrong one puts it off; as long as it lies no more than a whole
/// burst ahead, there is room for another.
impl Throttle {
    pub fn new() -> Self {
        fn cache<K: std::hash::Hash + Eq + Send + Sync + 'static>(burst: u32, every: Duration) -> Cache<K, Instant> {
            Cache::builder().max_capacity(COUNTS).time_to_idle(every * burst).build()
        }
        Self { accounts: cache(ONE_ACCOUNT, ONE_ACCOUNT_EVERY), addresses: cache(ALL_ACCOUNTS, ALL_ACCOUNTS_EVERY) }
    }

    /// How long they have to wait before another try; nothing when they may.
    pub fn wait(&self, guesser: &Guesser, now: Instant) -> Option<Duration> {
        let left = |empty_at: Option<Instant>, burst: u32, every: Duration| {
            let room_in = empty_at?.saturating_duration_since(now).checked_sub(every * (burst - 1))?;
            Some(room_in).filter(|left| !left.is_zero())
        };
        let account = self.accounts.get(&(guesser.address, guesser.account.clone()));
        let of_account = left(account, ONE_ACCOUNT, ONE_ACCOUNT_EVERY);
        let of_address = guesser.address.and_then(|address| self.addresses.get(&address));
        of_account.max(left(of_address, ALL_ACCOUNTS, ALL_ACCOUNTS_EVERY))
    }

    /// They were wrong.
    pub fn count(&self, guesser: &Guesser, now: Instant) {
        let put_off = |empty_at: Option<Instant>, every: Duration| empty_at.unwrap_or(now).max(now) + every;
        self.accounts
            .entry((guesser.address, guesser.account.clone()))
            .and_upsert_with(|entry| put_off(entry.map(|entry| entry.into_value()), ONE_ACCOUNT_EVERY));
        let Some(address) = guesser.address else { return };
        self.addresses.entry(address).and_upsert_with(|entry| put_off(entry.map(|entry| entry.into_value()), ALL_ACCOUNTS_EVERY));
    }

    /// A try that was counted before it was looked at was right after all.
    pub fn give_back(&self, guesser: &Guesser) {
        let sooner = |empty_at: Instant, every: Duration| empty_at.checked_sub(every).unwrap_or(empty_at);
        let key = (guesser.address, guesser.account.clone());
        if let Some(empty_at) = self.accounts.get(&key) {
            self.accounts.insert(key, sooner(empty_at, ONE_ACCOUNT_EVERY));
        }
        if let Some((address, empty_at)) = guesser.address.and_then(|one| Some((one, self.addresses.get(&one)?))) {
            self.addresses.insert(address, sooner(empty_at, ALL_ACCOUNTS_EVERY));
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
        assert_eq!(throttle.wait(&guesser("198.51.100.1", "ada"), now), None, "the owner");
        assert_eq!(throttle.wait(&guesser("203.0.113.7", "bob"), now), None, "a neighbour of the stranger");
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
        assert_eq!(throttle.wait(&guesser("203.0.113.7", "ada"), now), None, "passwords have a count of their own");
        assert_eq!(throttle.wait(&Guesser::of_codes("bob"), now), None);
    }

    #[test]
    fn one_password_on_many_accounts_is_counted_by_network() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        for n in 0..ALL_ACCOUNTS {
            throttle.count(&guesser(&format!("2001:db8:1:2::{n:x}"), &format!("user {n}")), now);
        }
        assert!(throttle.wait(&guesser("2001:db8:1:2:ffff::1", "another"), now).is_some());
        assert_eq!(throttle.wait(&guesser("2001:db8:1:3::1", "another"), now), None);
        assert!(guesser("::ffff:192.0.2.1", "a").address == guesser("192.0.2.1", "a").address);
    }
}
