//! Counts requests for a new password. By address, so that nobody asks for many accounts; that is told. By account over all
//! addresses, so that nobody fills a mailbox; that is not told, because the answer must not say which accounts there are.
//! Each server counts for itself.

use std::{net::IpAddr, time::Duration};

use tokio::time::Instant;

use crate::{limiter::Limiter, network::Network};

/// The requests of an address in a row; then one per [`ONE_ADDRESS_EVERY`].
const ONE_ADDRESS: u32 = 20;
const ONE_ADDRESS_EVERY: Duration = Duration::from_secs(30);
/// The requests for an account in a row; then one per [`ONE_ACCOUNT_EVERY`].
const ONE_ACCOUNT: u32 = 3;
const ONE_ACCOUNT_EVERY: Duration = Duration::from_secs(3600);

#[derive(Clone)]
pub struct ResetLimiter {
    addresses: Limiter<Network>,
    accounts: Limiter<String>,
}

impl ResetLimiter {
    pub fn new() -> Self {
        Self {
            addresses: Limiter::new(ONE_ADDRESS, ONE_ADDRESS_EVERY),
            accounts: Limiter::new(ONE_ACCOUNT, ONE_ACCOUNT_EVERY),
        }
    }

    /// Counts a request of an address. The error is the time until the next is looked at.
    pub fn take_address(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        self.addresses.take(Network::of(address), now)
    }

    /// Counts a request for an account, whether it exists or not. False when there were too many.
    pub fn take_account(&self, account: String, now: Instant) -> bool {
        self.accounts.take(account, now).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_gets_few_mails_and_an_address_asks_for_few_accounts() {
        let limiter = ResetLimiter::new();
        let now = Instant::now();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for _ in 0..ONE_ACCOUNT {
            assert!(limiter.take_account("ada".into(), now));
        }
        assert!(!limiter.take_account("ada".into(), now));
        assert!(limiter.take_account("bob".into(), now));
        assert!(limiter.take_account("ada".into(), now + ONE_ACCOUNT_EVERY));
        for _ in 0..ONE_ADDRESS {
            assert!(limiter.take_address(address("203.0.113.7"), now).is_ok());
        }
        let wait = limiter
            .take_address(address("203.0.113.7"), now)
            .unwrap_err();
        assert!(wait <= ONE_ADDRESS_EVERY, "{wait:?}");
        assert!(limiter.take_address(address("198.51.100.1"), now).is_ok());
    }
}
