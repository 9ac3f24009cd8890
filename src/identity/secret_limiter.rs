//! Counts wrong secrets, service keys and tokens by address, refuses further ones past a bound, and
//! records the refusals in the log once a minute (docs/api.md, Who is calling).
//!
//! Secrets that an address sent recently are remembered as hashes. A wrong one is refused without
//! another check and counts once, so that a server with an outdated secret is no guesser. A right
//! one is checked again however many guesses come from its address, so that a stranger behind the
//! same address cannot lock out a good caller. Such a stranger can therefore guess the shared
//! secret without this bound, so it has to be long and random, as service keys are.
//!
//! Tokens are signed. Checking one costs less than looking up whether it may be checked, and no
//! number of tries makes a signature. So only a sender of forged tokens must wait, never the holder
//! of a good one. An expired token was good, and does not count.
//!
//! Each server counts for itself. Its counts are lost when it stops, except those in the log.

use std::{
    cmp::Reverse,
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::Duration,
};

use genie_actors::access::AccessLog;
use genie_events::access::RefusedCounts;
use genie_log::Log;
use moka::sync::Cache;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tracing::warn;

use crate::{
    identity::login_limiter::{ALL_ACCOUNTS, ALL_ACCOUNTS_EVERY},
    limiter::Limiter,
    network::Network,
};

/// How long a secret is remembered after it was last sent.
const REMEMBERED: Duration = Duration::from_secs(600);
/// The most remembered secrets. Beyond that the least used are dropped.
const MOST_REMEMBERED: u64 = 100_000;
/// An address has at most one fact in this time.
const MINUTE: Duration = Duration::from_secs(60);
/// The most facts of a minute that name an address. The other addresses share one fact, so that a
/// flood of addresses does not fill the log.
const MOST_FACTS: usize = 50;
/// The most addresses that are counted separately. The others are counted together.
const MOST_ADDRESSES: usize = 10_000;
/// How often the server looks for refusals to record.
pub const TICK: Duration = Duration::from_secs(1);

/// The kinds of secrets that a request may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SecretKind {
    Secret,
    ServiceKey,
    Token,
}

/// A secret that an address sent, as a hash with a key of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShownSecret {
    address: Network,
    kind: SecretKind,
    hash: u64,
}

/// Why a secret is refused without a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoppedSecret {
    /// A recent check found it wrong.
    WasWrong,
    /// Its address sent too many wrong ones.
    TooMany { retry_after: Duration },
}

pub struct SecretLimiter {
    /// Secrets that a check found wrong.
    wrong: Limiter<(Network, SecretKind)>,
    /// Recently sent secrets, each with the result of its check.
    lately: Cache<ShownSecret, bool>,
    tally: Mutex<Tally>,
    hasher: RandomState,
}

impl SecretLimiter {
    pub fn new() -> Self {
        Self {
            wrong: Limiter::new(ALL_ACCOUNTS, ALL_ACCOUNTS_EVERY),
            lately: Cache::builder()
                .max_capacity(MOST_REMEMBERED)
                .time_to_idle(REMEMBERED)
                .build(),
            tally: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    /// A secret that an address sent.
    pub fn shown(&self, kind: SecretKind, address: IpAddr, text: &[u8]) -> ShownSecret {
        ShownSecret {
            address: Network::of(address),
            kind,
            hash: self.hasher.hash_one(text),
        }
    }

    /// Refuses a secret or key that must not be checked now. Call it before the check.
    pub fn may_be_right(&self, shown: &ShownSecret, now: Instant) -> Result<(), StoppedSecret> {
        match self.lately.get(shown) {
            Some(true) => Ok(()),
            Some(false) => {
                self.tally().add(shown.address, one(shown.kind));
                Err(StoppedSecret::WasWrong)
            }
            None => self.has_room(shown.address, shown.kind, now),
        }
    }

    pub fn was_right(&self, shown: ShownSecret) {
        if self.lately.get(&shown) != Some(true) {
            self.lately.insert(shown, true);
        }
    }

    /// Counts a wrong secret.
    pub fn was_wrong(&self, shown: ShownSecret, now: Instant) {
        self.lately.insert(shown, false);
        self.count(shown.address, shown.kind, now);
    }

    /// Counts a forged token. An error makes its sender wait.
    pub fn was_forged(&self, address: IpAddr, now: Instant) -> Result<(), StoppedSecret> {
        let address = Network::of(address);
        self.has_room(address, SecretKind::Token, now)?;
        self.count(address, SecretKind::Token, now);
        Ok(())
    }

    /// Counts no further than the bound, even when many were checked at once. Otherwise later
    /// callers would wait long.
    fn count(&self, address: Network, kind: SecretKind, now: Instant) {
        let _ = self.wrong.take((address, kind), now);
        self.tally().add(address, one(kind));
    }

    fn has_room(
        &self,
        address: Network,
        kind: SecretKind,
        now: Instant,
    ) -> Result<(), StoppedSecret> {
        let Some(retry_after) = self.wrong.wait(&(address, kind), now) else {
            return Ok(());
        };
        self.tally().add(
            address,
            RefusedCounts {
                stopped: 1,
                ..RefusedCounts::default()
            },
        );
        Err(StoppedSecret::TooMany { retry_after })
    }

    /// Records the due refusals, or all of them. Refusals that the store does not take are recorded
    /// a minute later.
    pub async fn put_on_record(&self, log: &Log, access: &AccessLog, all: bool) {
        let due = self.tally().take(Instant::now(), all);
        if due.is_empty() {
            return;
        }
        for (network, wrong) in due
            .iter()
            .filter_map(|(address, wrong)| Some((address.as_ref()?, wrong)))
        {
            let RefusedCounts {
                secrets,
                service_keys,
                tokens,
                stopped,
            } = *wrong;
            warn!(%network, secrets, service_keys, tokens, stopped, "wrong secrets: a network sent wrong secrets, keys or tokens");
        }
        let known_by = |address: &Network| log.hashes().network(&address.to_string());
        let facts = due
            .iter()
            .map(|(address, wrong)| (address.as_ref().map(known_by), *wrong))
            .collect();
        let noted = access.refused(facts).await;
        if let Err(error) = noted {
            warn!(%error, "wrong secrets: recording them failed; trying again in a minute");
            due.into_iter()
                .for_each(|(address, wrong)| self.tally().put_back(address, wrong));
        }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock()
    }
}

fn one(kind: SecretKind) -> RefusedCounts {
    let none = RefusedCounts::default();
    match kind {
        SecretKind::Secret => RefusedCounts { secrets: 1, ..none },
        SecretKind::ServiceKey => RefusedCounts {
            service_keys: 1,
            ..none
        },
        SecretKind::Token => RefusedCounts { tokens: 1, ..none },
    }
}

/// Refusals that are not in the log yet.
#[derive(Default)]
struct Tally {
    addresses: HashMap<Network, Unrecorded>,
    /// The sum over the networks beyond [`MOST_ADDRESSES`] or [`MOST_FACTS`].
    others: Unrecorded,
    /// The beginning of this minute, and the number of its facts that name an address.
    minute: Option<(Instant, usize)>,
}

#[derive(Default)]
struct Unrecorded {
    wrong: RefusedCounts,
    /// The time of the last record.
    told_at: Option<Instant>,
}

impl Unrecorded {
    fn take(&mut self, now: Instant, all: bool) -> Option<RefusedCounts> {
        let is_due = all
            || self
                .told_at
                .is_none_or(|at| now.duration_since(at) >= MINUTE);
        if self.wrong.total() == 0 || !is_due {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.wrong))
    }
}

impl Tally {
    fn add(&mut self, address: Network, wrong: RefusedCounts) {
        let is_known = self.addresses.contains_key(&address);
        let waiting = if is_known || self.addresses.len() < MOST_ADDRESSES {
            self.addresses.entry(address).or_default()
        } else {
            &mut self.others
        };
        waiting.wrong.add(wrong);
    }

    /// Adds refusals that the store did not take. The time of the last record stays, so that the
    /// next try comes a minute later.
    fn put_back(&mut self, address: Option<Network>, wrong: RefusedCounts) {
        match address {
            Some(address) => self.add(address, wrong),
            None => self.others.wrong.add(wrong),
        }
    }

    /// Takes the due refusals: the networks with the most refusals, and the sum of all others.
    fn take(&mut self, now: Instant, all: bool) -> Vec<(Option<Network>, RefusedCounts)> {
        let (began, told) = self
            .minute
            .filter(|(began, _)| now.duration_since(*began) < MINUTE)
            .unwrap_or((now, 0));
        let addresses = self.addresses.iter_mut();
        let mut due: Vec<_> = addresses
            .filter_map(|(at, waiting)| Some((Some(*at), waiting.take(now, all)?)))
            .collect();
        due.sort_by_key(|(_, wrong)| Reverse(wrong.total()));
        let room = MOST_FACTS - told;
        for (_, wrong) in due.drain(room.min(due.len())..) {
            self.others.wrong.add(wrong);
        }
        self.minute = Some((began, told + due.len()));
        due.extend(self.others.take(now, all).map(|wrong| (None, wrong)));
        self.addresses.retain(|_, waiting| {
            waiting.wrong.total() > 0
                || waiting
                    .told_at
                    .is_some_and(|at| now.duration_since(at) < MINUTE)
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u32) -> IpAddr {
        IpAddr::from(0x0a00_0000_u32.wrapping_add(n).to_be_bytes())
    }

    #[test]
    fn guesses_are_stopped_while_outdated_and_right_secrets_are_not() {
        let refused = SecretLimiter::new();
        let now = Instant::now();
        let secret = |n: u32| refused.shown(SecretKind::Secret, at(1), &n.to_be_bytes());
        let right = secret(7_000_000);
        let next = secret(1_000_000);
        assert_eq!(refused.may_be_right(&right, now), Ok(()));
        refused.was_right(right);
        assert_eq!(refused.may_be_right(&secret(0), now), Ok(()));
        refused.was_wrong(secret(0), now);
        for _ in 1..1000 {
            assert_eq!(
                refused.may_be_right(&secret(0), now),
                Err(StoppedSecret::WasWrong)
            );
        }
        for n in 1..ALL_ACCOUNTS {
            assert_eq!(
                refused.may_be_right(&secret(n), now),
                Ok(()),
                "the outdated one counted once, the right one not: {n}"
            );
            refused.was_wrong(secret(n), now);
        }
        (0..1000).for_each(|n| refused.was_wrong(secret(2_000_000 + n), now)); // checked while there was room
        assert_eq!(
            refused.may_be_right(&next, now),
            Err(StoppedSecret::TooMany {
                retry_after: ALL_ACCOUNTS_EVERY
            })
        );
        assert_eq!(
            refused.may_be_right(&right, now),
            Ok(()),
            "a caller who was right recently"
        );
        assert_eq!(
            refused.may_be_right(&refused.shown(SecretKind::ServiceKey, at(1), b"gk_"), now),
            Ok(()),
            "each kind has its own count"
        );
        assert_eq!(
            refused.may_be_right(&refused.shown(SecretKind::Secret, at(2), b"another"), now),
            Ok(()),
            "another address"
        );
        assert_eq!(
            refused.may_be_right(&next, now + ALL_ACCOUNTS_EVERY),
            Ok(()),
            "after a while"
        );
        let told = refused.tally().take(now, false);
        let wrong = RefusedCounts {
            secrets: ALL_ACCOUNTS + 1999,
            stopped: 1,
            ..RefusedCounts::default()
        };
        assert_eq!(told, [(Some(Network::of(at(1))), wrong)]);
    }

    #[test]
    fn an_address_is_recorded_at_once_and_then_once_a_minute() {
        let mut tally = Tally::default();
        let now = Instant::now();
        let address = Network::of(at(1));
        let one = one(SecretKind::Token);
        tally.add(address, one);
        assert_eq!(tally.take(now, false), [(Some(address), one)]);
        for seconds in 1..60 {
            tally.add(address, one);
            assert_eq!(tally.take(now + Duration::from_secs(seconds), false), []);
        }
        let rest = RefusedCounts {
            tokens: 59,
            ..RefusedCounts::default()
        };
        assert_eq!(tally.take(now + MINUTE, false), [(Some(address), rest)]);
        tally.put_back(Some(address), rest);
        assert_eq!(tally.take(now + MINUTE, false), [], "the store was away");
        assert_eq!(tally.take(now + MINUTE * 2, false), [(Some(address), rest)]);
        tally.add(address, one);
        assert_eq!(
            tally.take(now + MINUTE * 2, true),
            [(Some(address), one)],
            "before a stop"
        );
        assert_eq!(tally.take(now + MINUTE * 3, false), []);
        assert!(tally.addresses.is_empty(), "forgotten");
    }

    #[test]
    fn a_flood_of_addresses_takes_bounded_memory_and_bounded_facts() {
        let mut tally = Tally::default();
        let now = Instant::now();
        let sent = MOST_ADDRESSES as u32 * 3;
        (0..sent).for_each(|n| tally.add(Network::of(at(n)), one(SecretKind::Secret)));
        (0..9).for_each(|_| tally.add(Network::of(at(0)), one(SecretKind::Secret)));
        assert_eq!(tally.addresses.len(), MOST_ADDRESSES);
        let told = tally.take(now, false);
        assert_eq!(told.len(), MOST_FACTS + 1);
        assert_eq!(
            told[0],
            (
                Some(Network::of(at(0))),
                RefusedCounts {
                    secrets: 10,
                    ..RefusedCounts::default()
                }
            ),
            "the worst first"
        );
        assert_eq!(
            told.iter().map(|(_, wrong)| wrong.total()).sum::<u32>(),
            sent + 9,
            "all are counted"
        );
        (0..sent).for_each(|n| tally.add(Network::of(at(n + sent)), one(SecretKind::Secret)));
        assert_eq!(
            tally.take(now + TICK, false),
            [],
            "this minute's facts are written"
        );
        let later: u32 = tally
            .take(now + MINUTE, false)
            .iter()
            .map(|(_, wrong)| wrong.total())
            .sum();
        assert_eq!(later, sent);
    }
}
