//! Counts wrong passwords and one-time codes, and makes a guesser wait after too many.
//!
//! Passwords are counted by address and account together, so that a stranger cannot lock an owner
//! out: the owner's address has its own count. Each address also has a count over all accounts,
//! against one password tried on many accounts. One-time codes are counted by account alone (RFC
//! 4226, section 7.3): a stranger reaches them only with the password, and addresses are cheap.
//!
//! Each server counts for itself. With n servers a guesser has n times as many tries, which is
//! still few.

use std::{net::IpAddr, time::Duration};

use tokio::time::Instant;

use crate::{limiter::Limiter, network::Network};

/// The wrong tries in a row of one address on one account; then one per [`ONE_ACCOUNT_EVERY`].
const ONE_ACCOUNT: u32 = 10;
const ONE_ACCOUNT_EVERY: Duration = Duration::from_secs(30);
/// The wrong tries in a row of one address on all accounts; then one per [`ALL_ACCOUNTS_EVERY`].
/// Many people may share an address.
pub const ALL_ACCOUNTS: u32 = 100;
pub const ALL_ACCOUNTS_EVERY: Duration = Duration::from_secs(3);

#[derive(Clone)]
pub struct LoginLimiter {
    accounts: Limiter<(Option<Network>, String)>,
    addresses: Limiter<Network>,
}

/// An address, and the account that it tries.
#[derive(Debug, Clone)]
pub struct Guesser {
    /// `None` counts the tries from all addresses together.
    address: Option<Network>,
    account: String,
}

impl Guesser {
    /// `account` is the e-mail address or id that is tried, in its normal form.
    pub fn new(address: IpAddr, account: impl Into<String>) -> Self {
        Self {
            address: Some(Network::of(address)),
            account: account.into(),
        }
    }

    /// A guesser of an account's one-time codes, who knows the password.
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

impl LoginLimiter {
    pub fn new() -> Self {
        Self {
            accounts: Limiter::new(ONE_ACCOUNT, ONE_ACCOUNT_EVERY),
            addresses: Limiter::new(ALL_ACCOUNTS, ALL_ACCOUNTS_EVERY),
        }
    }

    /// The time until the guesser may try again; `None` for now.
    pub fn wait(&self, guesser: &Guesser, now: Instant) -> Option<Duration> {
        let of_account = self.accounts.wait(&guesser.key(), now);
        of_account.max(
            guesser
                .address
                .and_then(|address| self.addresses.wait(&address, now)),
        )
    }

    pub fn count(&self, guesser: &Guesser, now: Instant) {
        self.accounts.count(guesser.key(), now);
        if let Some(address) = guesser.address {
            self.addresses.count(address, now);
        }
    }

    /// Takes back a try that was counted before its check, which it passed.
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
    fn only_a_guesser_with_too_many_wrong_tries_waits() {
        let limiter = LoginLimiter::new();
        let now = Instant::now();
        let stranger = guesser("203.0.113.7", "ada");
        for n in 0..ONE_ACCOUNT {
            assert_eq!(limiter.wait(&stranger, now), None, "{n}");
            limiter.count(&stranger, now);
        }
        assert_eq!(limiter.wait(&stranger, now), Some(ONE_ACCOUNT_EVERY));
        assert_eq!(
            limiter.wait(&guesser("198.51.100.1", "ada"), now),
            None,
            "the owner"
        );
        assert_eq!(
            limiter.wait(&guesser("203.0.113.7", "bob"), now),
            None,
            "a neighbour of the stranger"
        );
        let later = now + ONE_ACCOUNT_EVERY;
        assert_eq!(limiter.wait(&stranger, later), None);
        limiter.count(&stranger, later);
        assert!(limiter.wait(&stranger, later).is_some());
    }

    #[test]
    fn codes_are_counted_over_all_addresses_and_a_right_one_is_given_back() {
        let limiter = LoginLimiter::new();
        let now = Instant::now();
        let codes = Guesser::of_codes("ada");
        for _ in 0..ONE_ACCOUNT {
            limiter.count(&codes, now);
            limiter.give_back(&codes);
        }
        assert_eq!(limiter.wait(&codes, now), None);
        for _ in 0..ONE_ACCOUNT {
            limiter.count(&codes, now);
        }
        assert!(limiter.wait(&codes, now).is_some());
        assert_eq!(
            limiter.wait(&guesser("203.0.113.7", "ada"), now),
            None,
            "passwords have a count of their own"
        );
        assert_eq!(limiter.wait(&Guesser::of_codes("bob"), now), None);
    }

    #[test]
    fn one_password_on_many_accounts_is_counted_by_network() {
        let limiter = LoginLimiter::new();
        let now = Instant::now();
        for n in 0..ALL_ACCOUNTS {
            limiter.count(
                &guesser(&format!("2001:db8:1:2::{n:x}"), &format!("user {n}")),
                now,
            );
        }
        assert!(
            limiter
                .wait(&guesser("2001:db8:1:2:ffff::1", "another"), now)
                .is_some()
        );
        assert_eq!(
            limiter.wait(&guesser("2001:db8:1:3::1", "another"), now),
            None
        );
        assert!(guesser("::ffff:192.0.2.1", "a").address == guesser("192.0.2.1", "a").address);
    }
}
