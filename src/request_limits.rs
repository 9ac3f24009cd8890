//! The two rates of requests: one by user, one by network.

use std::{net::IpAddr, sync::Arc, time::Duration};

use genie_events::UserId;

use crate::{
    config::Config,
    network::Network,
    rate_limiter::{RateStanding, RequestLimiter},
};

/// How often idle counts are dropped.
const SWEEP: Duration = Duration::from_secs(30);

/// Counts requests. A rate that is `off` counts nothing.
#[derive(Clone)]
pub struct RequestLimits {
    users: Option<Arc<RequestLimiter>>,
    addresses: Option<Arc<RequestLimiter>>,
}

impl RequestLimits {
    pub fn new(config: &Config) -> Self {
        let limiter = |name, rate| Arc::new(RequestLimiter::new(name, rate));
        Self {
            users: config.rate_limit_user.map(|rate| limiter("user", rate)),
            addresses: config
                .rate_limit_address
                .map(|rate| limiter("address", rate)),
        }
    }

    /// Counts a request of a user; `None` when the rate is off.
    pub fn count_user(&self, user: UserId) -> Option<RateStanding> {
        self.users.as_ref().map(|users| users.count(user))
    }

    /// Counts a request from an address; `None` when the rate is off.
    pub fn count_address(&self, address: IpAddr) -> Option<RateStanding> {
        self.addresses
            .as_ref()
            .map(|addresses| addresses.count(Network::of(address)))
    }

    /// Drops idle counts. Runs for ever; spawn it.
    pub async fn forget_idle(self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            for limiter in self.users.iter().chain(&self.addresses) {
                limiter.forget_idle();
            }
        }
    }
}
