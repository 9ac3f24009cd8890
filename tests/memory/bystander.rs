use std::{
    fs, mem,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use reqwest::Client;
use tokio::task::JoinHandle;

use crate::{
    test_genie::{TestGenie, TestUser},
    until::moment_after,
};

const READS: [&str; 3] = ["/users/me", "/api/usage", "/api/jobs?limit=1"];
/// Milliseconds between two reads, so that the reads themselves don't keep the server busy.
const PAUSE: u64 = 20;

/// A user who reads again and again, one small answer after the other. Each read must succeed.
pub struct Bystander {
    task: JoinHandle<()>,
    times: Arc<Mutex<Vec<Duration>>>,
}

impl Bystander {
    pub fn start(genie: &TestGenie, user: &TestUser) -> Self {
        let times = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn({
            let times = Arc::clone(&times);
            // Each read has a connection of its own, so that they come to all the server's threads.
            let http = Client::builder().pool_max_idle_per_host(0).build().unwrap();
            let base = genie.base.clone();
            let token = user.token.clone();
            async move {
                for path in READS.into_iter().cycle() {
                    let asked = http.get(format!("{base}{path}")).bearer_auth(&token);
                    let began = Instant::now();
                    let answer = asked.send().await.unwrap();
                    assert_eq!(answer.status(), 200, "{path}");
                    answer.bytes().await.unwrap();
                    times.lock().push(began.elapsed());
                    moment_after(PAUSE).await;
                }
            }
        });
        Self { task, times }
    }

    /// The 99th percentile of the times since the last call. Every read must have succeeded.
    pub async fn p99(&mut self) -> Duration {
        if self.task.is_finished() {
            (&mut self.task).await.unwrap();
        }
        let mut times = mem::take(&mut *self.times.lock());
        times.sort();
        let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        let longest = times[times.len() - 1];
        // The machine's other work is in these times, too.
        let load = fs::read_to_string("/proc/loadavg").unwrap();
        println!(
            "  {} small reads: p50 {p50:?}, p99 {p99:?}, longest {longest:?}; load average {}",
            times.len(),
            load.split(' ').next().unwrap()
        );
        p99
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.task.abort();
    }
}
