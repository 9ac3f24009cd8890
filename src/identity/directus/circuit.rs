//! A circuit breaker. After several failures in a row the server is left alone for a while, so that
//! requests fail at once instead of queueing. Then one request tries the server.

use std::{sync::Arc, time::Duration};

use genie_events::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

/// The failures in a row that open the circuit.
const FAILURES: u32 = 5;
/// How long the circuit stays open before one request may try.
const OPEN: Duration = Duration::from_secs(3);

#[derive(Debug, Clone)]
pub struct Circuit(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    /// How long the circuit stays open.
    open: Duration,
    state: CircuitState,
    /// When the state began.
    since: Timestamp,
}

#[derive(Debug, Clone, Copy)]
enum CircuitState {
    Closed {
        /// In a row.
        failures: u32,
    },
    Open {
        until: Instant,
    },
    /// One request tries the server; all others fail at once.
    HalfOpen,
}

/// Permission for one request. Report its outcome, otherwise the request counts as not made.
#[must_use]
pub struct Leave {
    circuit: Circuit,
    is_told: bool,
}

impl Circuit {
    pub fn new(now: Timestamp) -> Self {
        Self::open_for(OPEN, now)
    }

    fn open_for(open: Duration, now: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            open,
            state: CircuitState::Closed { failures: 0 },
            since: now,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock()
    }

    /// Permission to send a request, or the time to wait.
    pub fn enter(&self, now: Timestamp) -> Result<Leave, Duration> {
        let mut inner = self.lock();
        match inner.state {
            CircuitState::Closed { .. } => {}
            CircuitState::Open { until } => match until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => inner.turn(CircuitState::HalfOpen, now),
                left => return Err(left),
            },
            CircuitState::HalfOpen => return Err(inner.open),
        }
        Ok(Leave {
            circuit: self.clone(),
            is_told: false,
        })
    }

    /// `closed`, `open` or `half_open`, and since when.
    pub fn state(&self) -> (&'static str, Timestamp) {
        let inner = self.lock();
        let word = match inner.state {
            CircuitState::Closed { .. } => "closed",
            CircuitState::Open { .. } => "open",
            CircuitState::HalfOpen => "half_open",
        };
        (word, inner.since)
    }
}

impl Inner {
    fn turn(&mut self, state: CircuitState, now: Timestamp) {
        self.state = state;
        self.since = now;
    }
}

impl Leave {
    /// Reports that the server answered.
    pub fn answered(mut self, now: Timestamp) {
        self.is_told = true;
        let mut inner = self.circuit.lock();
        match &mut inner.state {
            CircuitState::Closed { failures } => *failures = 0,
            CircuitState::Open { .. } | CircuitState::HalfOpen => {
                inner.turn(CircuitState::Closed { failures: 0 }, now)
            }
        }
    }

    /// Reports that the server did not answer, or failed.
    pub fn failed(mut self, now: Timestamp) {
        self.is_told = true;
        let mut inner = self.circuit.lock();
        let open = CircuitState::Open {
            until: Instant::now() + inner.open,
        };
        match inner.state {
            CircuitState::Closed { failures } if failures + 1 < FAILURES => {
                inner.state = CircuitState::Closed {
                    failures: failures + 1,
                }
            }
            CircuitState::Closed { .. } | CircuitState::HalfOpen => inner.turn(open, now),
            CircuitState::Open { .. } => {} // This request was running when the circuit opened.
        }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if !self.is_told {
            let mut inner = self.circuit.lock();
            if matches!(inner.state, CircuitState::HalfOpen) {
                inner.state = CircuitState::Open {
                    until: Instant::now(),
                }; // The next request may try.
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(circuit: &Circuit, times: u32) {
        for _ in 0..times {
            circuit
                .enter(Timestamp(0))
                .unwrap_or_else(|_| panic!("the circuit is not closed"))
                .failed(Timestamp(1));
        }
    }

    #[test]
    fn failures_in_a_row_open_the_circuit() {
        let circuit = Circuit::new(Timestamp(0));
        fail(&circuit, FAILURES - 1);
        circuit
            .enter(Timestamp(0))
            .ok()
            .unwrap()
            .answered(Timestamp(2));
        fail(&circuit, FAILURES - 1);
        assert_eq!(circuit.state(), ("closed", Timestamp(0)));
        fail(&circuit, 1);
        assert_eq!(circuit.state(), ("open", Timestamp(1)));
        assert!(circuit.enter(Timestamp(3)).is_err());
    }

    #[test]
    fn one_request_tries_the_server_when_the_open_time_is_over() {
        let circuit = Circuit::open_for(Duration::ZERO, Timestamp(0));
        fail(&circuit, FAILURES);
        let probe = circuit.enter(Timestamp(4)).ok().unwrap();
        assert_eq!(circuit.state(), ("half_open", Timestamp(4)));
        assert!(
            circuit.enter(Timestamp(4)).is_err(),
            "only one request tries"
        );
        probe.failed(Timestamp(5));
        assert_eq!(circuit.state(), ("open", Timestamp(5)));
        // The request was never made: the next one may try.
        drop(circuit.enter(Timestamp(6)).ok().unwrap());
        circuit
            .enter(Timestamp(7))
            .ok()
            .unwrap()
            .answered(Timestamp(8));
        assert_eq!(circuit.state(), ("closed", Timestamp(8)));
    }
}
