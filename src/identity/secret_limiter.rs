//! Counts wrong secrets, service keys and tokens by address, refuses more past a bound, and puts the refusals on record once a
//! minute (docs/api.md, Who is calling).
//!
//! Secrets that an address showed lately are remembered as hashes. A wrong one is refused without another check and counts once, so
//! that a server with last month's secret is no guesser. A right one is checked again however many guesses come from the same
//! address, so that no stranger behind it locks out a good caller. It follows that a stranger who shares an address with a holder of
//! the shared secret may guess without this bound: the secret has to be long and random, as service keys are.
//!
//! Tokens are signed: checking one costs less than looking up whether it may be checked, and no number of tries makes a signature.
//! So only a sender of forged tokens is told to wait, never a holder of a good one. An expired token was good, and does not count.
//!
//! Each server counts for itself, and forgets when it stops, except what is on record by then.

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

/// For how long what was shown is remembered, after it was shown last.
const REMEMBERED: Duration = Duration::from_secs(600);
/// The most that is remembered; past it the least used is forgotten.
const MOST_REMEMBERED: u64 = 100_000;
/// An address has at most one fact in so long.
const MINUTE: Duration = Duration::from_secs(60);
/// The most facts of a minute that name an address; the rest share one, so that no flood of addresses fills the log.
const MOST_FACTS: usize = 50;
/// The most addresses that are counted apart; the rest are counted together.
const MOST_ADDRESSES: usize = 10_000;
/// How often it is looked at whether something is to be put on record.
pub const TICK: Duration = Duration::from_secs(1);

/// The secrets that a request may show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SecretKind {
    Secret,
    ServiceKey,
    Token,
}

/// Something that was shown from somewhere, known by a hash with this process' own key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShownSecret {
    address: Network,
    kind: SecretKind,
    hash: u64,
}

/// Why something is refused before it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoppedSecret {
    /// It was looked at a moment ago, and wrong.
    WasWrong,
    /// There were too many wrong ones.
    TooMany { retry_after: Duration },
}

/// Counts what is refused.
pub struct SecretLimiter {
    /// Wrong ones that were looked at.
    wrong: Limiter<(Network, SecretKind)>,
    /// Secrets that were shown lately, each with whether it was right.
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

    /// This, shown from there.
    pub fn shown(&self, kind: SecretKind, address: IpAddr, text: &[u8]) -> ShownSecret {
        ShownSecret {
            address: Network::of(address),
            kind,
            hash: self.hasher.hash_one(text),
        }
    }

    /// To be asked before it is looked at whether a secret or key is right.
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

    /// Remembers a right secret.
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

    /// A token was forged, or is one that nobody gave out: whether its sender has to wait.
    pub fn was_forged(&self, address: IpAddr, now: Instant) -> Result<(), StoppedSecret> {
        let address = Network::of(address);
        self.has_room(address, SecretKind::Token, now)?;
        self.count(address, SecretKind::Token, now);
        Ok(())
    }

    /// Counts no more than there is room for, even of many that were checked at once: else those who come later would wait long.
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

    /// Puts on record what is due by now, or all there is. What the store does not take is told of a minute later.
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

/// Refusals that are not on record yet.
#[derive(Default)]
struct Tally {
    addresses: HashMap<Network, Unrecorded>,
    /// Refusals of the networks past [`MOST_ADDRESSES`] or [`MOST_FACTS`], together.
    others: Unrecorded,
    /// When this minute began, and how many facts of it named an address.
    minute: Option<(Instant, usize)>,
}

#[derive(Default)]
struct Unrecorded {
    wrong: RefusedCounts,
    /// The time when some of it was put on record last.
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

    /// Without saying that it was told longer ago than it was.
    fn put_back(&mut self, address: Option<Network>, wrong: RefusedCounts) {
        match address {
            Some(address) => self.add(address, wrong),
            None => self.others.wrong.add(wrong),
        }
    }

    /// Takes what is due: the networks with the most refusals, and all others together.
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
    fn guesses_are_stopped_and_neither_stale_secrets_nor_right_ones_are() {
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
                "the stale one counted once, the right one not: {n}"
            );
            refused.was_wrong(secret(n), now);
        }
        (0..1000).for_each(|n| refused.was_wrong(secret(2_000_000 + n), now)); // looked at when there still was room
        assert_eq!(
            refused.may_be_right(&next, now),
            Err(StoppedSecret::TooMany {
                retry_after: ALL_ACCOUNTS_EVERY
            })
        );
        assert_eq!(
            refused.may_be_right(&right, now),
            Ok(()),
            "who was right lately"
        );
        assert_eq!(
            refused.may_be_right(&refused.shown(SecretKind::ServiceKey, at(1), b"gk_"), now),
            Ok(()),
            "each kind by itself"
        );
        assert_eq!(
            refused.may_be_right(&refused.shown(SecretKind::Secret, at(2), b"another"), now),
            Ok(()),
            "another address"
        );
        assert_eq!(
            refused.may_be_right(&next, now + ALL_ACCOUNTS_EVERY),
            Ok(()),
            "soon again"
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
    fn an_address_is_told_of_at_once_and_then_once_a_minute() {
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
    fn a_flood_of_addresses_takes_a_bounded_place_here_and_in_the_log() {
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
            "this minute's facts are told"
        );
        let later: u32 = tally
            .take(now + MINUTE, false)
            .iter()
            .map(|(_, wrong)| wrong.total())
            .sum();
        assert_eq!(later, sent);
    }
}
