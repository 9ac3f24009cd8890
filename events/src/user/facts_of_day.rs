//! The bound on the facts that a user's own commands may add in a day (UTC), so that nobody fills
//! the log. It is counted from the facts themselves, so every node counts the same.

use serde::{Deserialize, Serialize};

use crate::{
    Now,
    event::{Change, Event},
    ids::{StreamId, UserId},
    metadata::{CallerKind, Metadata},
    refusal::Refusal,
    timestamp::Timestamp,
    user::User,
};

const DAY_SECONDS: i64 = 86_400;

/// Types that are never refused and never counted: endings of what was begun, reveals, and whatever
/// protects an account. Each of them needs an earlier fact that counts, or a right that the user
/// does not have.
const FREE: [&str; 21] = [
    "account.forget_requested",
    "account.forget_withdrawn",
    "account.forgotten",
    "account.session_ended",
    "account.session_reuse_detected",
    "account.sessions_ended",
    "api_key.revoked",
    "caption.completed",
    "caption.failed",
    "chat.answered",
    "chat.removed",
    "credential.refused",
    "credential.removed",
    "credential.revealed",
    "file.removed",
    "job.cancelled",
    "job.claimed",
    "job.completed",
    "job.failed",
    "job.lapsed",
    "job.released",
];

/// The facts of one day that count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FactsOfDay {
    /// Days since 1970.
    day: i64,
    count: u64,
}

impl FactsOfDay {
    /// A fact of an earlier day than the last one, by a clock that was set back, changes nothing.
    fn add(&mut self, at: Timestamp) {
        let day = day_of(at);
        if day > self.day {
            *self = Self { day, count: 0 };
        }
        if day == self.day {
            self.count += 1;
        }
    }

    fn on(&self, day: i64) -> u64 {
        if self.day == day { self.count } else { 0 }
    }
}

/// The days since 1970.
pub fn day_of(at: Timestamp) -> i64 {
    at.unix_seconds().div_euclid(DAY_SECONDS)
}

/// True when the fact is of a command that its owner sent, in person or by an administrator who acts
/// for them.
fn counts(owner: UserId, metadata: &Metadata, event: &Event) -> bool {
    let sent = match metadata.caller {
        CallerKind::User => metadata.by == Some(owner),
        CallerKind::Impersonator => metadata.on_behalf_of == Some(owner),
        CallerKind::SharedSecret | CallerKind::ServiceKey | CallerKind::System => false,
    };
    sent && !FREE.contains(&event.type_name())
}

impl User {
    /// Folds one stored event of this user, and counts it for its day.
    pub fn evolve_counted(
        &mut self,
        stream: &StreamId,
        sequence: u64,
        event: Event,
        metadata: &Metadata,
        recorded_at: Timestamp,
    ) {
        if counts(self.id, metadata, &event) {
            self.today.add(recorded_at);
        }
        self.evolve(stream, sequence, event);
    }

    /// Refuses changes that would exceed the day's bound.
    pub fn check_day(
        &self,
        now: &Now,
        metadata: &Metadata,
        changes: &[Change],
    ) -> Result<(), Refusal> {
        let counted = changes
            .iter()
            .filter(|change| counts(self.id, metadata, &change.event))
            .count() as u64;
        let today = day_of(now.moment);
        let most = now.limits.facts_per_day();
        if counted == 0 || self.today.on(today).saturating_add(counted) <= most {
            return Ok(());
        }
        let midnight = (today + 1) * DAY_SECONDS;
        let seconds = u64::try_from(midnight - now.moment.unix_seconds()).unwrap_or(1);
        Err(Refusal::too_many_facts(most, seconds.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Limits,
        account::AccountEvent,
        ids::{JobId, ServiceKeyId, StreamKind},
        job::JobEvent,
    };

    const NOON: i64 = 20_000 * DAY_SECONDS + DAY_SECONDS / 2;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    fn ada() -> UserId {
        UserId(uuid::Uuid::from_u128(1))
    }

    fn admin() -> UserId {
        UserId(uuid::Uuid::from_u128(2))
    }

    fn now(seconds: i64) -> Now {
        Now {
            moment: at(seconds),
            limits: Limits::built_in().with_facts_per_day(3),
        }
    }

    fn signed_in() -> Change {
        Change::new(ada(), AccountEvent::SignedIn)
    }

    fn with_facts(facts: &[(Metadata, AccountEvent, i64)]) -> User {
        let mut user = User::new(ada());
        let stream = StreamId::new(StreamKind::Account, ada());
        for (sequence, (metadata, event, seconds)) in (1..).zip(facts) {
            let event = Event::Account(event.clone());
            user.evolve_counted(&stream, sequence, event, metadata, at(*seconds));
        }
        user
    }

    fn own(seconds: i64) -> (Metadata, AccountEvent, i64) {
        (Metadata::user(ada(), "r"), AccountEvent::SignedIn, seconds)
    }

    #[test]
    fn the_day_is_full_after_its_facts_and_empty_again_at_midnight() {
        let me = Metadata::user(ada(), "r");
        let user = with_facts(&[own(NOON), own(NOON), own(NOON + 1)]);
        let user = User::from_snapshot(&user.to_snapshot()).unwrap();
        let refusal = user
            .check_day(&now(NOON + 2), &me, &[signed_in()])
            .unwrap_err();
        assert_eq!(refusal.code, "too_many_facts");
        let seconds = DAY_SECONDS / 2 - 2;
        assert_eq!(
            refusal.kind,
            crate::RefusalKind::TooMany {
                retry_seconds: seconds as u64
            }
        );
        let midnight = NOON + DAY_SECONDS / 2;
        assert!(
            user.check_day(&now(midnight - 1), &me, &[signed_in()])
                .is_err()
        );
        assert!(user.check_day(&now(midnight), &me, &[signed_in()]).is_ok());
        let three = [signed_in(), signed_in(), signed_in()];
        assert!(user.check_day(&now(midnight), &me, &three).is_ok());
        let four = [&three[..], &[signed_in()]].concat();
        assert!(user.check_day(&now(midnight), &me, &four).is_err());
    }

    #[test]
    fn only_what_the_user_sends_counts() {
        let me = Metadata::user(ada(), "r");
        let others = [
            Metadata::system(),
            Metadata::shared_secret("r"),
            Metadata::service_key(ServiceKeyId(uuid::Uuid::from_u128(1)), "r"),
            Metadata::user(admin(), "r"),
        ];
        let facts: Vec<_> = others
            .iter()
            .cycle()
            .take(20)
            .map(|metadata| (metadata.clone(), AccountEvent::SignedIn, NOON))
            .collect();
        let user = with_facts(&facts);
        assert!(user.check_day(&now(NOON), &me, &[signed_in()]).is_ok());

        let full = with_facts(&[
            own(NOON),
            own(NOON),
            (
                Metadata::impersonator(admin(), ada(), "r"),
                AccountEvent::SignedIn,
                NOON,
            ),
        ]);
        for metadata in &others {
            assert!(full.check_day(&now(NOON), metadata, &[signed_in()]).is_ok());
        }
        for metadata in [me, Metadata::impersonator(admin(), ada(), "r")] {
            assert!(
                full.check_day(&now(NOON), &metadata, &[signed_in()])
                    .is_err()
            );
        }
    }

    #[test]
    fn endings_are_neither_refused_nor_counted() {
        let me = Metadata::user(ada(), "r");
        let log_out = AccountEvent::SessionsEnded;
        let user = with_facts(&vec![(me.clone(), log_out.clone(), NOON); 20]);
        assert!(user.check_day(&now(NOON), &me, &[signed_in()]).is_ok());
        let full = with_facts(&[own(NOON), own(NOON), own(NOON)]);
        let job: JobId = uuid::Uuid::from_u128(3).to_string().parse().unwrap();
        for ending in [
            Change::new(ada(), log_out),
            Change::new(job, JobEvent::Cancelled),
        ] {
            assert!(full.check_day(&now(NOON), &me, &[ending]).is_ok());
        }
    }

    #[test]
    fn a_clock_that_was_set_back_gives_no_new_day() {
        let me = Metadata::user(ada(), "r");
        let user = with_facts(&[own(NOON), own(NOON), own(NOON - DAY_SECONDS), own(NOON)]);
        assert!(user.check_day(&now(NOON), &me, &[signed_in()]).is_err());
    }

    #[test]
    fn every_free_type_exists() {
        let types = Event::all_types();
        for free in FREE {
            assert!(types.contains(&free), "{free}");
        }
    }
}
