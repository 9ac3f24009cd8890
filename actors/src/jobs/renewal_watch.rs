//! Since when workers could renew their leases without a break. A lease may lapse only after its worker had the time of
//! a whole lease to renew it: a server or a store that was away must cost no job.

use std::time::Duration;

/// A break this short costs no renewal: a worker beats several times within a lease. At least so long, because a busy
/// machine is late, too.
const LATE: Duration = Duration::from_secs(2);

/// A moment of this process, whatever the machine's time of day says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProcessMoment {
    /// Since the process began, by the monotonic clock.
    pub running: Duration,
    /// How far a test moved the clock.
    pub moved: Duration,
}

impl ProcessMoment {
    fn all(self) -> Duration {
        self.running + self.moved
    }
}

/// The time in which renewals were taken, as the leader sees it.
#[derive(Debug)]
pub(super) struct RenewalWatch {
    lease: Duration,
    /// The longest time between two looks.
    longest_pause: Duration,
    /// The present term, and the time since which renewals were taken in it.
    since: Option<(i64, ProcessMoment)>,
    last_look: Option<ProcessMoment>,
}

impl RenewalWatch {
    /// `pause` is the time between two looks.
    pub fn new(lease: Duration, pause: Duration) -> Self {
        Self {
            lease,
            longest_pause: pause + LATE.max(lease / 4),
            since: None,
            last_look: None,
        }
    }

    /// A look at `now` in this term, at a store that takes renewals. True when a lease that has run out may lapse. A
    /// process that did not look for long was stopped, and took no renewals.
    pub fn well(&mut self, term: i64, now: ProcessMoment) -> bool {
        let was_stopped = self
            .last_look
            .is_some_and(|last| now.running.saturating_sub(last.running) > self.longest_pause);
        self.last_look = Some(now);
        match self.since {
            Some((present, since)) if present == term && !was_stopped => {
                now.all().saturating_sub(since.all()) >= self.lease
            }
            _ => {
                self.since = Some((term, now));
                false
            }
        }
    }

    /// A look at a store that takes no renewals, or by a node that does not lead.
    pub fn broken(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(500);

    struct Looks(RenewalWatch);

    impl Looks {
        fn new() -> Self {
            Self(RenewalWatch::new(Duration::from_secs(30), PAUSE))
        }

        /// Looks each half second from one second to another, and answers the first at which leases may lapse.
        fn well(&mut self, term: i64, seconds: std::ops::Range<u64>) -> Option<u64> {
            let looks = (seconds.start * 2)..(seconds.end * 2);
            looks
                .into_iter()
                .map(Duration::from_secs)
                .find_map(|doubled| {
                    let now = ProcessMoment {
                        running: doubled / 2,
                        moved: Duration::ZERO,
                    };
                    self.0.well(term, now).then_some(now.running.as_secs())
                })
        }
    }

    #[test]
    fn a_lease_lapses_after_a_whole_lease_since_the_start() {
        assert_eq!(Looks::new().well(1, 0..100), Some(30));
        assert_eq!(Looks::new().well(1, 7..100), Some(37));
    }

    #[test]
    fn an_election_an_outage_and_a_stop_begin_anew() {
        let mut looks = Looks::new();
        assert_eq!(looks.well(1, 0..29), None);
        assert_eq!(looks.well(2, 29..100), Some(59), "another term");
        let mut looks = Looks::new();
        assert_eq!(looks.well(1, 0..29), None);
        looks.0.broken();
        assert_eq!(looks.well(1, 29..100), Some(59), "the store was away");
        let mut looks = Looks::new();
        assert_eq!(looks.well(1, 0..40), Some(30));
        assert_eq!(looks.well(1, 71..200), Some(101), "the process was stopped");
        let mut looks = Looks::new();
        assert_eq!(looks.well(1, 0..20), None);
        assert_eq!(looks.well(1, 27..200), Some(30), "it was late for a moment");
    }

    #[test]
    fn a_tests_clock_counts_as_time_but_not_as_a_stop() {
        let mut watch = RenewalWatch::new(Duration::from_secs(30), PAUSE);
        let moved = |moved| ProcessMoment {
            running: PAUSE,
            moved: Duration::from_secs(moved),
        };
        assert!(!watch.well(1, moved(0)));
        assert!(watch.well(1, moved(3600)));
    }
}
