//! The model servers as the queue sees them: their free places, what each has loaded, and which are away.

use std::time::Duration;

use tokio::time::Instant;

/// The pause of a server that failed, doubled with each failure in a row.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct ModelServers {
    /// Answers at once on each.
    places: usize,
    all: Vec<ServerState>,
}

#[derive(Debug, Default)]
struct ServerState {
    running: usize,
    /// The model of the last answer, which is probably loaded.
    model: Option<String>,
    /// Failures in a row.
    failures: u32,
    away_until: Option<Instant>,
}

impl ServerState {
    fn is_away(&self, now: Instant) -> bool {
        self.away_until.is_some_and(|until| now < until)
    }
}

impl ModelServers {
    pub fn new(servers: usize, places: usize) -> Self {
        Self {
            places: places.max(1),
            all: (0..servers.max(1))
                .map(|_| ServerState::default())
                .collect(),
        }
    }

    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Answers at once on all servers.
    pub fn places(&self) -> usize {
        self.places * self.all.len()
    }

    pub fn running(&self) -> usize {
        self.all.iter().map(|server| server.running).sum()
    }

    /// A server with a free place that is not one of `tried`. One that has the model loaded goes before one that is less
    /// busy. Servers that are away are asked only when all are: then the answer fails soon, and says why.
    pub fn free_for(&self, model: &str, tried: &[usize], now: Instant) -> Option<usize> {
        let allowed = || {
            let all = self.all.iter().enumerate();
            all.filter(|(index, _)| !tried.contains(index))
        };
        let all_are_away = allowed().all(|(_, server)| server.is_away(now));
        let free = allowed().filter(|(_, server)| {
            server.running < self.places && (all_are_away || !server.is_away(now))
        });
        let best = free.min_by_key(|(_, server)| {
            let is_loaded = server.model.as_deref() == Some(model);
            (server.away_until, !is_loaded, server.running)
        });
        best.map(|(index, _)| index)
    }

    pub fn model(&self, server: usize) -> Option<&str> {
        self.all[server].model.as_deref()
    }

    pub fn begin(&mut self, server: usize, model: &str) {
        let server = &mut self.all[server];
        server.running += 1;
        if server.model.as_deref() != Some(model) {
            server.model = Some(model.to_owned());
        }
    }

    pub fn end(&mut self, server: usize) {
        let server = &mut self.all[server];
        server.running = server.running.saturating_sub(1);
    }

    /// A token came.
    pub fn answered(&mut self, server: usize) {
        let server = &mut self.all[server];
        server.failures = 0;
        server.away_until = None;
    }

    /// It failed before the first token.
    pub fn failed(&mut self, server: usize, now: Instant) {
        let server = &mut self.all[server];
        let pause = FIRST_PAUSE * 2_u32.pow(server.failures.min(5));
        server.failures = server.failures.saturating_add(1);
        server.away_until = Some(now + pause.min(LONGEST_PAUSE));
        server.model = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaded_model_the_least_busy_and_the_healthy_come_first() {
        let now = Instant::now();
        let mut servers = ModelServers::new(3, 2);
        servers.begin(0, "a");
        servers.begin(1, "b");
        assert_eq!(servers.free_for("b", &[], now), Some(1));
        assert_eq!(servers.free_for("c", &[], now), Some(2), "the least busy");
        assert_eq!(
            servers.free_for("b", &[1], now),
            Some(2),
            "not one that was tried"
        );
        servers.begin(1, "b");
        assert_eq!(
            servers.free_for("b", &[], now),
            Some(2),
            "the other is full"
        );
        servers.failed(2, now);
        assert_eq!(servers.free_for("b", &[], now), Some(0));
        servers.begin(0, "a");
        assert_eq!(
            servers.free_for("b", &[], now),
            None,
            "the only free one is away"
        );
        assert_eq!(servers.free_for("b", &[], now + FIRST_PAUSE), Some(2));
        servers.failed(0, now);
        servers.failed(1, now);
        servers.end(1);
        assert!(servers.free_for("b", &[], now).is_some(), "all are away");
        servers.answered(2);
        assert_eq!(servers.free_for("b", &[], now), Some(2));
    }

    #[test]
    fn the_pause_doubles_up_to_a_limit() {
        let now = Instant::now();
        let mut servers = ModelServers::new(1, 1);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            servers.failed(0, now);
            let until = servers.all[0].away_until.unwrap();
            assert_eq!(until - now, Duration::from_secs(seconds));
        }
    }
}
