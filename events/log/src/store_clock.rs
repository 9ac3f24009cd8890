//! The clock that leases are judged by. On Postgres it is the database's, so that servers whose clocks differ judge
//! alike. It is read now and then, and goes on by this machine's monotonic clock between two readings. An embedded
//! store has the clock of its one process.

use std::sync::Arc;

use genie_events::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{Clock, Log, LogError, store::Store};

/// A reading that took longer says too little.
const LONGEST_READING_MICROS: i64 = 1_000_000;

#[derive(Debug, Clone)]
pub struct StoreClock {
    clock: Clock,
    reading: Arc<Mutex<Option<ClockReading>>>,
}

/// A reading of the database's clock.
#[derive(Debug, Clone, Copy)]
struct ClockReading {
    time: Timestamp,
    /// The moment of the reading, by this machine.
    at: Instant,
}

impl StoreClock {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            reading: Arc::default(),
        }
    }

    pub fn now(&self) -> Timestamp {
        match *self.reading.lock() {
            Some(reading) => {
                let since = reading.at.elapsed().as_micros();
                let since = i64::try_from(since).unwrap_or(i64::MAX);
                let moved = self.clock.moved_micros();
                Timestamp(reading.time.0.saturating_add(since).saturating_add(moved))
            }
            None => self.clock.now(),
        }
    }

    async fn read(&self, store: Store) -> Result<(), LogError> {
        let asked = Instant::now();
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let time: i64 = sqlx::query_scalar(sql).fetch_one(store.reads()).await?;
        let took = asked.elapsed();
        if took.as_micros() <= LONGEST_READING_MICROS as u128 {
            *self.reading.lock() = Some(ClockReading {
                time: Timestamp(time),
                at: asked + took / 2,
            });
        }
        Ok(())
    }
}

impl Log {
    /// Reads the database's clock anew. Call it now and then.
    pub async fn read_store_clock(&self) -> Result<(), LogError> {
        if !self.store().is_postgres() || self.clock().stands() {
            return Ok(());
        }
        let clock = self.store_clock().clone();
        let read = async move |store: Store| clock.read(store).await;
        self.store().run(read).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Kind, TestStore};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_databases_clock_goes_on_between_two_readings_and_moves_with_a_tests() {
        let store = TestStore::new(Kind::Postgres).await;
        let log = store.open().await.log;
        let clock = StoreClock::new(Clock::ahead());
        assert_eq!(clock.reading.lock().map(|reading| reading.time), None);
        clock.read(log.store().clone()).await.unwrap();
        let first = clock.now();
        let read = clock.reading.lock().map(|reading| reading.time);
        assert!(read.is_some_and(|read| read <= first));
        // Whatever this machine's own clock says.
        *clock.reading.lock() = Some(ClockReading {
            time: Timestamp(1_000_000),
            at: Instant::now(),
        });
        let early = clock.now();
        assert!((1_000_000..60_000_000).contains(&early.0), "{early:?}");
        clock.clock.advance_millis(60_000);
        assert!((61_000_000..120_000_000).contains(&clock.now().0));
        clock.read(log.store().clone()).await.unwrap();
        // Two readings differ by the time that their answers take.
        assert!(clock.now() >= first.plus_seconds(59));
    }
}
