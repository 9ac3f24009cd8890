//! One task reads for many: it takes whatever waits, without a timer, and reads all of it together. While it does, the next batch
//! gathers by itself.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    LogError,
    store::{Store, in_time},
};

/// The most keys of one batch.
pub const MOST_TOGETHER: usize = 128;
/// Batches are padded to one of these sizes, so that there are few different statements.
const SIZES: [usize; 4] = [1, 8, 32, MOST_TOGETHER];

/// How much a batcher takes on.
#[derive(Debug, Clone, Copy)]
pub struct BatchBounds {
    /// Keys that may wait; one more is told that the store is busy.
    pub waiting: usize,
    /// Batches that are read at the same time.
    pub at_once: usize,
    /// The message for a caller when too many wait.
    pub overload: &'static str,
}

type ReadReply<V> = oneshot::Sender<Result<V, LogError>>;

/// The way to the task. What is not found for a key is the value's default.
pub struct ReadBatcher<K, V> {
    queue: mpsc::Sender<(K, ReadReply<V>)>,
    overload: &'static str,
}

impl<K, V> std::fmt::Debug for ReadBatcher<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReadBatcher({} more may wait)", self.queue.capacity())
    }
}

impl<K, V> Clone for ReadBatcher<K, V> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            overload: self.overload,
        }
    }
}

impl<K, V> ReadBatcher<K, V>
where
    K: Clone + Eq + Ord + Hash + Send + Sync + 'static,
    V: Clone + Default + Send + Sync + 'static,
{
    /// Starts the task on the current runtime, which must be the one that owns the store's connections. `read` is given at most
    /// [`MOST_TOGETHER`] keys, each once.
    pub fn start<F>(
        store: Store,
        bounds: BatchBounds,
        read: impl Fn(Store, Vec<K>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<HashMap<K, V>, LogError>> + Send + 'static,
    {
        let (queue, waiting) = mpsc::channel(bounds.waiting);
        tokio::spawn(run(store, bounds.at_once, waiting, read));
        Self {
            queue,
            overload: bounds.overload,
        }
    }

    pub async fn read(&self, key: K) -> Result<V, LogError> {
        let (reply, answer) = oneshot::channel();
        self.queue
            .try_send((key, reply))
            .map_err(|_| LogError::Away(self.overload.into()))?;
        answer
            .await
            .unwrap_or_else(|_| Err(LogError::Away("the store was closed".into())))
    }
}

async fn run<K, V, F>(
    store: Store,
    at_once: usize,
    mut waiting: mpsc::Receiver<(K, ReadReply<V>)>,
    read: impl Fn(Store, Vec<K>) -> F,
) where
    K: Clone + Eq + Ord + Hash + Send + Sync + 'static,
    V: Clone + Default + Send + Sync + 'static,
    F: Future<Output = Result<HashMap<K, V>, LogError>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(at_once));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let mut batch = Vec::with_capacity(MOST_TOGETHER);
        if waiting.recv_many(&mut batch, MOST_TOGETHER).await == 0 {
            return; // the log was closed
        }
        let mut keys: Vec<K> = batch.iter().map(|(key, _)| key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        let reading = read(store.clone(), keys);
        tokio::spawn(async move {
            let found = in_time(reading).await;
            answer(batch, &found);
            drop(permit);
        });
    }
}

fn answer<K: Eq + Hash, V: Clone + Default>(
    batch: Vec<(K, ReadReply<V>)>,
    found: &Result<HashMap<K, V>, LogError>,
) {
    for (key, reply) in batch {
        let value = match found {
            Ok(found) => Ok(found.get(&key).cloned().unwrap_or_default()),
            Err(error) => Err(error.clone()),
        };
        let _ = reply.send(value); // its caller may have gone
    }
}

/// The size of the statement for so many keys.
pub fn padded_size(keys: usize) -> usize {
    SIZES
        .into_iter()
        .find(|size| *size >= keys)
        .unwrap_or(MOST_TOGETHER)
}
