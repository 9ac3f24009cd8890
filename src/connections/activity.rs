//! What a connection does. A connection lives on one thread, so cells suffice.

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::time::Instant;

pub struct Activity {
    /// Bytes read and written. It may wrap around: only differences count.
    moved: Cell<u64>,
    /// Since when the client has not taken what is there for it.
    blocked_since: Cell<Option<Instant>>,
    /// The requests that are being answered.
    requests: Cell<usize>,
    /// When the last request was answered, or when the connection was opened.
    idle_since: Cell<Instant>,
}

impl Activity {
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            moved: Cell::new(0),
            blocked_since: Cell::new(None),
            requests: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
        })
    }

    pub fn moved(&self) -> u64 {
        self.moved.get()
    }

    pub(super) fn has_read(&self, bytes: usize) {
        self.moved.set(self.moved.get().wrapping_add(bytes as u64));
    }

    pub(super) fn has_written(&self, bytes: usize) {
        self.moved.set(self.moved.get().wrapping_add(bytes as u64));
        self.blocked_since.set(None);
    }

    /// The client takes nothing more for now.
    pub(super) fn is_blocked(&self) {
        if self.blocked_since.get().is_none() {
            self.blocked_since.set(Some(Instant::now()));
        }
    }

    /// When the connection has to end unless its client does something: reads, where an answer
    /// waits for it; sends a whole head, where no request is answered. `None`: the client waits for
    /// an answer.
    pub(super) fn due(&self, stall: Duration) -> Option<Instant> {
        let is_idle = self.requests.get() == 0;
        let since = self
            .blocked_since
            .get()
            .or_else(|| is_idle.then(|| self.idle_since.get()));
        since.map(|since| since + stall)
    }

    /// A request begins. It lasts until its answer is handed over for writing.
    pub fn begin_request(self: &Rc<Self>) -> AnsweredRequest {
        self.requests.set(self.requests.get() + 1);
        AnsweredRequest(Rc::clone(self))
    }
}

/// A request that is being answered. Dropping it ends it.
pub struct AnsweredRequest(Rc<Activity>);

impl Drop for AnsweredRequest {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
        self.0.idle_since.set(Instant::now());
    }
}
