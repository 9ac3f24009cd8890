//! Time, ids and chance. Only this file asks the machine for them; tests move the manual clock.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use genie_events::{EventId, Timestamp};
use rand::{Rng, RngExt};
use uuid::Uuid;

/// A source of time and ids. Clones share the same time.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    manual: Option<Arc<AtomicI64>>,
}

impl Clock {
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands still until it is moved.
    pub fn manual(at: Timestamp) -> Self {
        Self {
            manual: Some(Arc::new(AtomicI64::new(at.0))),
        }
    }

    /// Moves a manual clock; has no effect on the machine's.
    pub fn advance_millis(&self, millis: i64) {
        if let Some(manual) = &self.manual {
            manual.fetch_add(millis * 1000, Ordering::SeqCst);
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the place that the rule points to"
    )]
    pub fn now(&self) -> Timestamp {
        match &self.manual {
            Some(manual) => Timestamp(manual.load(Ordering::SeqCst)),
            None => {
                let since_1970 = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or_default();
                Timestamp(i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX))
            }
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
