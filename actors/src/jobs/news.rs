//! Wakes claims that wait: for each new job one claim that asks for such jobs, the one that has waited longest.
//!
//! A woken claim that leaves jobs behind wakes the next one, so no job waits while a claim for it does.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use futures_util::future::select_all;
use genie_events::JobId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::operation_set::{OperationNumber, OperationSet};

#[derive(Debug)]
pub struct BoardNews {
    /// By the number of the operation. A claim that is gone hands its waking on.
    of_operation: Vec<Notify>,
    /// Something may come due sooner than was known.
    sooner: Notify,
    /// The jobs that somebody watches. An entry without watchers is dropped when others are looked for.
    watched: Mutex<HashMap<JobId, Weak<Notify>>>,
}

/// Jobs are looked through for those that nobody watches any longer when so many have come.
const LOOKED_THROUGH: usize = 1024;

impl BoardNews {
    pub fn new() -> Self {
        Self {
            of_operation: OperationNumber::all().map(|_| Notify::new()).collect(),
            sooner: Notify::new(),
            watched: Mutex::default(),
        }
    }

    /// Ends when there is something new with one of these operations, from now on.
    pub fn of(&self, operations: OperationSet) -> impl Future<Output = ()> + Send {
        let waiting: Vec<_> = operations
            .iter()
            .map(|operation| Box::pin(self.of_operation[operation.index()].notified()))
            .collect();
        async move {
            if waiting.is_empty() {
                return std::future::pending().await;
            }
            select_all(waiting).await;
        }
    }

    /// Wakes one claim for each of these jobs, which have these operations.
    pub fn tell(&self, jobs: impl IntoIterator<Item = OperationNumber>) {
        for operation in jobs {
            self.of_operation[operation.index()].notify_one();
        }
    }

    /// A job or an owner comes back at a time that was not known before.
    pub fn tell_of_later(&self) {
        self.sooner.notify_one();
    }

    pub fn tell_all(&self) {
        self.of_operation.iter().for_each(Notify::notify_waiters);
        self.sooner.notify_one();
    }

    /// Ends when something may come due sooner than was known.
    pub async fn sooner(&self) {
        self.sooner.notified().await;
    }

    /// Ends when the log says something new of this job, from now on.
    pub fn of_job(&self, job: JobId) -> impl Future<Output = ()> + Send + use<> {
        let mut watched = self.watched.lock();
        if watched.len() >= LOOKED_THROUGH {
            watched.retain(|_, watchers| watchers.strong_count() > 0);
        }
        let watchers = watched
            .get(&job)
            .and_then(Weak::upgrade)
            .unwrap_or_default();
        watched.insert(job, Arc::downgrade(&watchers));
        drop(watched);
        watchers.notified_owned()
    }

    pub fn tell_of_job(&self, job: &JobId) {
        let mut watched = self.watched.lock();
        let Some(watchers) = watched.get(job) else {
            return;
        };
        match watchers.upgrade() {
            Some(watchers) => watchers.notify_waiters(),
            None => _ = watched.remove(job),
        }
    }
}
