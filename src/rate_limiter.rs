//! Limits the requests of a key by a rate, counted by governor's GCRA. Each server counts for
//! itself.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    num::NonZeroU32,
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::StateInformationMiddleware,
    state::keyed::DashMapStateStore,
};

/// The most keys with their own count. Further ones share as many counts, by their hash, so that a
/// flood of addresses costs some tens of megabytes at most.
const MAX_KEYS: usize = 200_000;
/// The largest number in a rate. Instead of a larger one, a setting can be `off`.
const MAX_REQUESTS: u32 = 1_000_000;
/// The longest time of a rate.
const MAX_SECONDS: u32 = 24 * 60 * 60;

/// A number of requests per number of seconds. All of them may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    requests: NonZeroU32,
    seconds: NonZeroU32,
}

impl Rate {
    /// Reads a rate in the form of the settings: `300/1m`, with `s`, `m` or `h`.
    pub fn read(text: &str) -> Option<Self> {
        let (requests, time) = text.split_once('/')?;
        let (count, unit) = time.split_at_checked(time.len().checked_sub(1)?)?;
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return None,
        };
        let requests = NonZeroU32::new(requests.parse().ok()?)
            .filter(|requests| requests.get() <= MAX_REQUESTS)?;
        let seconds = NonZeroU32::new(count.parse::<u32>().ok()?.checked_mul(unit)?)
            .filter(|s| s.get() <= MAX_SECONDS)?;
        Some(Self { requests, seconds })
    }

    /// The time between two requests at a steady pace.
    fn interval(self) -> Duration {
        Duration::from_secs(self.seconds.get().into()) / self.requests.get()
    }
}

pub struct RequestLimiter {
    /// The rate's name in the headers of answers.
    name: &'static str,
    rate: Rate,
    counts: RateLimiter<u64, DashMapStateStore<u64>, MonotonicClock, StateInformationMiddleware>,
    hasher: RandomState,
}

/// A key's count after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateStanding {
    name: &'static str,
    rate: Rate,
    remaining: u32,
    /// The time until another try; `None` when this request is allowed.
    pub retry_after: Option<Duration>,
}

impl RequestLimiter {
    pub fn new(name: &'static str, rate: Rate) -> Self {
        // The interval is at least a microsecond: a million requests per second.
        let quota = Quota::with_period(rate.interval())
            .expect("a rate's interval is not zero")
            .allow_burst(rate.requests);
        let counts = RateLimiter::dashmap_with_clock(quota, MonotonicClock).with_middleware();
        Self {
            name,
            rate,
            counts,
            hasher: RandomState::new(),
        }
    }

    /// Counts a request of a key.
    pub fn count(&self, key: impl Hash) -> RateStanding {
        let mut key = self.hasher.hash_one(key);
        if self.counts.len() >= MAX_KEYS {
            key %= MAX_KEYS as u64;
        }
        let (remaining, retry_after) = match self.counts.check_key(&key) {
            Ok(state) => (state.remaining_burst_capacity(), None),
            Err(not_until) => (0, Some(not_until.wait_time_from(MonotonicClock.now()))),
        };
        RateStanding {
            name: self.name,
            rate: self.rate,
            remaining,
            retry_after,
        }
    }

    /// Drops keys that have their whole rate again. Call it now and then.
    pub fn forget_idle(&self) {
        self.counts.retain_recent();
        self.counts.shrink_to_fit();
    }
}

impl RateStanding {
    /// The value of `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10).
    pub fn policy(&self) -> String {
        format!(
            "\"{}\";q={};w={}",
            self.name, self.rate.requests, self.rate.seconds
        )
    }

    /// The value of `RateLimit` (the same draft): the remaining requests, and the seconds until the
    /// whole rate is available again.
    pub fn limit(&self) -> String {
        let used = self.rate.requests.get().saturating_sub(self.remaining);
        let whole_again = (self.rate.interval() * used).as_secs_f64().ceil();
        format!("\"{}\";r={};t={whole_again}", self.name, self.remaining)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_in_the_form_of_the_settings() {
        let rate = |requests, seconds| {
            Some(Rate {
                requests: NonZeroU32::new(requests).unwrap(),
                seconds: NonZeroU32::new(seconds).unwrap(),
            })
        };
        assert_eq!(Rate::read("300/1m"), rate(300, 60));
        assert_eq!(Rate::read("1/10s"), rate(1, 10));
        assert_eq!(Rate::read("1000000/1s"), rate(1_000_000, 1));
        for bad in [
            "",
            "300",
            "300/m",
            "0/1m",
            "300/0s",
            "300/1d",
            "-1/1s",
            "300/1m1",
            "1000001/1s",
            "1/25h",
            "1/ü",
            "9/99999999h",
        ] {
            assert_eq!(Rate::read(bad), None, "{bad}");
        }
        assert_eq!(
            RequestLimiter::new("user", Rate::read("1000000/1s").unwrap())
                .count("a key")
                .retry_after,
            None
        );
    }

    #[test]
    fn each_key_has_its_own_count_and_learns_what_remains() {
        let limiter = RequestLimiter::new("user", Rate::read("3/1h").unwrap());
        let told: Vec<_> = (0..3).map(|_| limiter.count("ada")).collect();
        assert!(told.iter().all(|standing| standing.retry_after.is_none()));
        assert_eq!(
            (told[0].policy().as_str(), told[0].limit().as_str()),
            (r#""user";q=3;w=3600"#, r#""user";r=2;t=1200"#)
        );
        let refused = limiter.count("ada");
        assert_eq!(refused.limit(), r#""user";r=0;t=3600"#);
        assert!(refused.retry_after.is_some_and(
            |wait| wait > Duration::from_secs(1190) && wait <= Duration::from_secs(1200)
        ));
        assert_eq!(limiter.count("bob").retry_after, None);
    }

    #[test]
    fn a_flood_of_keys_is_bounded() {
        let limiter = RequestLimiter::new("address", Rate::read("3/1h").unwrap());
        let refused = (0..MAX_KEYS * 3)
            .filter(|n| limiter.count(n).retry_after.is_some())
            .count();
        assert!(refused > 0, "beyond the bound, keys share counts");
        assert!(
            limiter.counts.len() <= MAX_KEYS * 2,
            "{}",
            limiter.counts.len()
        );
        let quick = RequestLimiter::new("address", Rate::read("1000000/1s").unwrap());
        assert!((0..1000).all(|n| quick.count(n).retry_after.is_none()));
        while !quick.counts.is_empty() {
            quick.forget_idle(); // each has its rate again within a microsecond or so
        }
    }
}
