//! Reads sealed secrets: one task takes all reads that wait, without a timer, and answers them with
//! one statement.

use std::{collections::HashMap, sync::Arc};

use genie_events::UserId;
use sqlx::{Row, any::AnyRow};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    LogError,
    keys::WrappedKey,
    log::wrapped_key,
    store::{LONGEST, Store},
};

/// The reads that may wait. Beyond that a caller is told that the store is busy.
const QUEUE: usize = 4096;
/// The most secrets that are read together.
const BATCH: usize = 128;
/// The batches that are read at the same time; the next one gathers meanwhile.
const AT_ONCE: usize = 2;

/// A secret as stored, with its owner's key unless that was destroyed.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub version: u32,
    pub sealed: Vec<u8>,
    pub key: Option<WrappedKey>,
}

/// A secret's id and its owner. It stands for all stored versions: one, or none.
type Wanted = (String, UserId);
type Answer = Result<Vec<Stored>, LogError>;

/// The queue of the task that reads secrets.
#[derive(Debug)]
pub(super) struct Fetches(mpsc::Sender<(Wanted, oneshot::Sender<Answer>)>);

impl Fetches {
    /// Starts the task on the current runtime, which must be the one that owns the store's
    /// connections.
    pub fn start(store: Store) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(read_all(store, waiting));
        Self(queue)
    }

    pub async fn read(&self, user: UserId, secret_id: &str) -> Answer {
        let (reply, answer) = oneshot::channel();
        let asked = self.0.try_send(((secret_id.to_owned(), user), reply));
        asked.map_err(|_| LogError::Away("too many secrets are read at once".into()))?;
        answer
            .await
            .unwrap_or_else(|_| Err(LogError::Away("the store was closed".into())))
    }
}

async fn read_all(store: Store, mut waiting: mpsc::Receiver<(Wanted, oneshot::Sender<Answer>)>) {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let mut batch = Vec::with_capacity(BATCH);
        if waiting.recv_many(&mut batch, BATCH).await == 0 {
            return; // The log was closed.
        }
        let store = store.clone();
        tokio::spawn(async move {
            let wanted: Vec<&str> = batch
                .iter()
                .map(|((secret, _), _)| secret.as_str())
                .collect();
            let read = match tokio::time::timeout(LONGEST, read_batch(&store, &wanted)).await {
                Ok(read) => read,
                Err(_) => Err(LogError::Away("no answer in time".into())),
            };
            for (wanted, reply) in batch {
                let answer = read
                    .as_ref()
                    .map(|stored| stored.get(&wanted).cloned().unwrap_or_default());
                let _ = reply.send(answer.map_err(LogError::clone)); // The caller may have gone.
            }
            drop(permit);
        });
    }
}

/// Reads secrets together with their owners' keys, so that a destroyed key opens nothing.
async fn read_batch(
    store: &Store,
    wanted: &[&str],
) -> Result<HashMap<Wanted, Vec<Stored>>, LogError> {
    // Padded with empty ids, so that there are few different statements.
    let size = [1, 8, 32, BATCH]
        .into_iter()
        .find(|size| *size >= wanted.len())
        .unwrap_or(BATCH);
    let places: Vec<String> = (1..=size).map(|n| format!("${n}")).collect();
    let sql = format!(
        "SELECT s.secret_id, s.user_id, s.version, s.sealed, k.key_id, k.master_id, k.wrapped, k.state \
         FROM secrets s JOIN user_keys k ON k.user_id = s.user_id WHERE s.secret_id IN ({})",
        places.join(", ")
    );
    let padded = wanted
        .iter()
        .copied()
        .chain(std::iter::repeat(""))
        .take(size);
    let query = padded.fold(sqlx::query(&sql), |query, secret| query.bind(secret));
    let mut found = HashMap::<_, Vec<_>>::with_capacity(wanted.len());
    for row in query.fetch_all(store.reads()).await? {
        let (of, stored) = read(&row)?;
        found.entry(of).or_default().push(stored);
    }
    Ok(found)
}

fn read(row: &AnyRow) -> Result<(Wanted, Stored), LogError> {
    let user: String = row.try_get("user_id")?;
    let user = user
        .parse::<UserId>()
        .map_err(|_| LogError::Statement("`secrets` holds an invalid user id".into()))?;
    let version = row.try_get::<i64, _>("version")?;
    let version = u32::try_from(version)
        .map_err(|_| LogError::Statement(format!("a secret has the version {version}")))?;
    Ok((
        (row.try_get("secret_id")?, user),
        Stored {
            version,
            sealed: row.try_get("sealed")?,
            key: wrapped_key(user.0, row)?,
        },
    ))
}
