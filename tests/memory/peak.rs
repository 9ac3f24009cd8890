use std::{
    fs,
    time::{Duration, Instant},
};

use crate::until::until_within;

/// A process that grows no more for so long is at rest.
const REST: Duration = Duration::from_secs(3);
const LONGEST: Duration = Duration::from_secs(120);

/// The most memory that a process had, as the kernel counts it, in each of several times.
pub struct MemoryPeaks {
    pid: u32,
    seen: Vec<(&'static str, u64)>,
}

impl MemoryPeaks {
    /// The first time begins with the process.
    pub fn of(pid: u32) -> Self {
        Self { pid, seen: vec![] }
    }

    /// Waits until the process asks for no more memory, then ends a time and begins the next.
    pub async fn note(&mut self, time: &'static str) {
        self.wait_for_rest().await;
        let peak = self.mib("VmHWM:");
        println!("{time}: peak {peak} MiB, now {} MiB", self.mib("VmRSS:"));
        self.seen.push((time, peak));
        fs::write(format!("/proc/{}/clear_refs", self.pid), "5").unwrap(); // forgets the peak
    }

    pub fn check(self, most_mib: u64) {
        let are_small = self.seen.iter().all(|(_, peak)| *peak < most_mib);
        assert!(are_small, "{most_mib} MiB or more: {:?}", self.seen);
    }

    async fn wait_for_rest(&self) {
        let (mut most, mut since) = (0, Instant::now());
        until_within(LONGEST, "the memory to grow no more", async || {
            let now = self.mib("VmRSS:");
            if now > most {
                (most, since) = (now, Instant::now());
            }
            (since.elapsed() > REST).then_some(())
        })
        .await;
    }

    fn mib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<u64>().unwrap() >> 10
    }
}
