//! Tells whether a task woke itself while it was polled. Such a wake is kept back, for the poller to
//! pass on when it likes. Any other is passed on at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Wake, Waker},
};

use futures_util::task::AtomicWaker;

const AT_REST: u8 = 0;
const POLLED: u8 = 1;
const WOKEN: u8 = 2;

/// Invariant: a wake is either passed on or seen by `end_poll`, because one atomic step decides.
pub struct SelfWakes {
    state: AtomicU8,
    task: AtomicWaker,
}

impl SelfWakes {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU8::new(AT_REST),
            task: AtomicWaker::new(),
        })
    }

    /// Call it before the task is polled with this waker.
    pub fn begin_poll(&self, task: &Waker) {
        self.task.register(task);
        self.state.store(POLLED, Ordering::SeqCst);
    }

    /// Call it after the poll. True when the task was woken meanwhile.
    pub fn end_poll(&self) -> bool {
        self.state.swap(AT_REST, Ordering::SeqCst) == WOKEN
    }
}

impl Wake for SelfWakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let kept_back =
            self.state
                .compare_exchange(POLLED, WOKEN, Ordering::SeqCst, Ordering::SeqCst);
        if kept_back == Err(AT_REST) {
            self.task.wake();
        }
    }
}
