//! Time, ids and chance. Only this file asks the machine for them; tests move their clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use genie_events::{EventId, Timestamp};
use rand::{Rng, RngExt};
use tokio::sync::Notify;
use uuid::Uuid;

/// A source of time and ids. Clones share the same time.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    moved: Option<Arc<Moved>>,
}

/// The changes that a test made to a clock.
#[derive(Debug)]
struct Moved {
    /// Where the clock stands; `None` when it goes with the machine's.
    stands_at: Option<Timestamp>,
    /// How far it was moved, in microseconds.
    by: AtomicI64,
    /// Wakes the tasks in `pause`.
    again: Notify,
}

impl Clock {
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands still until it is moved.
    pub fn manual(at: Timestamp) -> Self {
        Self::movable(Some(at))
    }

    /// A clock that runs as the machine's does, ahead of it by as much as it was moved.
    pub fn ahead() -> Self {
        Self::movable(None)
    }

    fn movable(stands_at: Option<Timestamp>) -> Self {
        let moved = Moved {
            stands_at,
            by: AtomicI64::new(0),
            again: Notify::new(),
        };
        Self {
            moved: Some(Arc::new(moved)),
        }
    }

    /// Moves a test's clock; has no effect on the machine's.
    pub fn advance_millis(&self, millis: i64) {
        if let Some(moved) = &self.moved {
            moved.by.fetch_add(millis * 1000, Ordering::SeqCst);
            moved.again.notify_waiters();
        }
    }

    pub fn now(&self) -> Timestamp {
        let Some(moved) = &self.moved else {
            return machine_time();
        };
        let from = moved.stands_at.unwrap_or_else(machine_time);
        Timestamp(from.0 + moved.by.load(Ordering::SeqCst))
    }

    /// How far a test moved it, in microseconds.
    pub fn moved_micros(&self) -> i64 {
        let moved = self.moved.as_ref();
        moved.map_or(0, |moved| moved.by.load(Ordering::SeqCst))
    }

    /// True for a test's clock that does not go by itself.
    pub(crate) fn stands(&self) -> bool {
        let moved = self.moved.as_ref();
        moved.is_some_and(|moved| moved.stands_at.is_some())
    }

    /// Waits between two looks at the time: so long, or until a test moves the clock.
    pub async fn pause(&self, duration: Duration) {
        let time = tokio::time::sleep(duration);
        let Some(moved) = &self.moved else {
            return time.await;
        };
        tokio::select! {
            () = time => {}
            () = moved.again.notified() => {}
        }
    }

    /// A new UUIDv7 (RFC 9562, section 5.7) with the present time.
    pub fn new_uuid(&self) -> Uuid {
        let mut chance = [0; 10];
        rand::rng().fill_bytes(&mut chance);
        let millis = u64::try_from(self.now().unix_millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &chance).into_uuid()
    }

    pub fn new_event_id(&self) -> EventId {
        EventId(self.new_uuid())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the place that the rule points to"
)]
fn machine_time() -> Timestamp {
    let since_1970 = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX))
}

/// Bytes that nobody can guess, from a cryptographic generator seeded by the operating system.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

/// A number in 0..1, to spread retries.
pub fn chance() -> f64 {
    rand::rng().random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pause_ends_when_the_clock_is_moved() {
        let clock = Clock::ahead();
        let before = clock.now();
        let hour = Duration::from_secs(60 * 60);
        tokio::join!(clock.pause(hour), async { clock.advance_millis(60_000) });
        assert!(clock.now() >= before.plus_seconds(60));
    }
}
