//! The line between a worker and the servers: a relay, so that the network between them can be cut, and connections of its
//! own, which end with the worker as those of a killed process do.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use crate::{relay::TcpRelay, servers::ServerProcess};

pub struct WorkerLine {
    relay: TcpRelay,
    killed: Notify,
    /// The number of jobs that the worker holds.
    held: AtomicUsize,
}

/// The connections of one worker's life.
pub struct WorkerConnections {
    pub http: reqwest::Client,
    pub base: String,
}

/// A job that the worker holds. The count goes down when the job, or the worker, has ended.
pub struct HeldMark(Arc<WorkerLine>);

impl Drop for HeldMark {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

impl WorkerLine {
    /// Each connection goes to the next server that runs.
    pub async fn start(nodes: Vec<Arc<ServerProcess>>) -> io::Result<Self> {
        let turn = AtomicUsize::new(0);
        let relay = TcpRelay::start(move || {
            let up: Vec<String> = nodes.iter().filter_map(|node| node.base()).collect();
            let next = turn.fetch_add(1, Ordering::Relaxed) % up.len().max(1);
            let (host, port) = up.get(next)?.strip_prefix("http://")?.rsplit_once(':')?;
            Some((host.to_owned(), port.parse().ok()?))
        });
        Ok(Self {
            relay: relay.await?,
            killed: Notify::new(),
            held: AtomicUsize::new(0),
        })
    }

    pub fn connections(&self) -> WorkerConnections {
        WorkerConnections {
            http: reqwest::Client::new(),
            base: format!("http://127.0.0.1:{}", self.relay.port),
        }
    }

    pub fn hold(self: &Arc<Self>) -> HeldMark {
        self.held.fetch_add(1, Ordering::Relaxed);
        HeldMark(Arc::clone(self))
    }

    pub fn holds_a_job(&self) -> bool {
        self.held.load(Ordering::Relaxed) > 0
    }

    /// Ends the worker wherever it is. Its connections close at once, without a word.
    pub fn kill(&self) {
        self.killed.notify_one();
        self.relay.cut_all();
    }

    /// Waits until the worker is killed.
    pub async fn killed(&self) {
        self.killed.notified().await;
    }

    /// Passes nothing on, without an error, until told otherwise.
    pub fn cut(&self, is_cut: bool) {
        self.relay.stall(is_cut);
    }
}
