//! A tier's limits and the units counted against them (docs/api.md, Usage and tiers).

use crate::{
    Now,
    credential::{Credential, CredentialKind},
    event::{Change, Event},
    job::Job,
    refusal::Refusal,
    tier::{Counter, Tier},
    timestamp::Timestamp,
    usage::{Unit, UsageCommand, UsageEvent},
    user::{User, changes},
};

impl User {
    /// The original's `canPerform`: checks that the tier allows this many more, and returns the
    /// facts that count them, for the same append as the allowed work. Every operation asks here,
    /// and nothing else compares with a limit. Present numbers need no fact of their own, because
    /// they follow from the state.
    pub(super) fn can_perform(
        &self,
        now: &Now,
        counter: Counter,
        amount: u64,
    ) -> Result<Vec<Change>, Refusal> {
        let allowance = now.limits.allowance(self.tier()?, counter);
        if counter.is_present_count() {
            return allowance
                .check(self.used(counter, now.moment).saturating_add(amount))
                .map(|()| vec![]);
        }
        let command = UsageCommand::Count {
            allowance,
            amount,
            month: now.moment.month(),
        };
        self.usage
            .decide(command)
            .map(|events| changes(self.id, events))
    }

    /// Gives units of work that came to nothing back to the month in which they were counted.
    pub(super) fn give_back(&self, unit: Unit) -> Result<Vec<Change>, Refusal> {
        let Unit { counter, month } = unit;
        let events = self.usage.decide(UsageCommand::GiveBack {
            counter,
            amount: 1,
            month,
        })?;
        Ok(changes(self.id, events))
    }

    /// The present count: of this month, or of the things in the state.
    pub fn used(&self, counter: Counter, now: Timestamp) -> u64 {
        let connected = |held: &&Credential| {
            matches!(
                held,
                Credential::Held {
                    kind: CredentialKind::Profile,
                    ..
                }
            )
        };
        let waits_for_its_time = |job: &&Job| job.is_scheduled(now);
        match counter {
            Counter::PlatformsConnected => {
                self.credentials.values().filter(connected).count() as u64
            }
            Counter::ScheduledQueueSize => {
                self.jobs.values().filter(waits_for_its_time).count() as u64
            }
            Counter::TeamSeats => 0, // there are no teams yet
            monthly => self.usage.count(monthly, self.usage.present(now.month())),
        }
    }

    pub fn tier(&self) -> Result<Tier, Refusal> {
        self.account.active().map(|profile| profile.tier)
    }
}

/// The same changes with one fact for each counter and month that they count, instead of one for each
/// unit.
pub fn with_counts_together(changes: Vec<Change>) -> Vec<Change> {
    let mut together: Vec<Change> = Vec::with_capacity(changes.len());
    for change in changes {
        let Event::Usage(UsageEvent::Counted {
            counter,
            amount,
            month,
        }) = &change.event
        else {
            together.push(change);
            continue;
        };
        let same = together
            .iter_mut()
            .find_map(|earlier| match &mut earlier.event {
                Event::Usage(UsageEvent::Counted {
                    counter: c,
                    amount,
                    month: m,
                }) if c == counter && m == month => Some(amount),
                _ => None,
            });
        match same {
            Some(counted) => *counted = counted.saturating_add(*amount),
            None => together.push(change),
        }
    }
    together
}

/// The unit that these changes count, if any.
pub(super) fn counted_unit(changes: &[Change]) -> Option<Unit> {
    changes.iter().find_map(|change| match &change.event {
        Event::Usage(UsageEvent::Counted { counter, month, .. }) => Some(Unit {
            counter: *counter,
            month: *month,
        }),
        _ => None,
    })
}
