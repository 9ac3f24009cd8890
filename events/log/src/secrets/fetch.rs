//! Reads sealed secrets: one task takes all reads that wait, without a timer, and answers them with
//! one statement.

use std::collections::HashMap;

use genie_events::UserId;
use sqlx::{Row, any::AnyRow};

use crate::{
    LogError,
    keys::WrappedKey,
    log::wrapped_key,
    read_batcher::{BatchBounds, ReadBatcher, padded_size},
    store::Store,
};

/// The reads that may wait. Beyond that a caller is told that the store is busy.
const QUEUE: usize = 4096;
/// Batches read at the same time; while they are, the next gathers.
const AT_ONCE: usize = 2;

/// A secret as stored, with its owner's key unless that was destroyed.
#[derive(Debug, Clone)]
pub(super) struct StoredSecret {
    pub version: u32,
    pub sealed: Vec<u8>,
    pub key: Option<WrappedKey>,
}

/// A secret's id, and whose it is.
type SecretOwner = (String, UserId);

/// The way to the task that reads secrets: all versions that are held, which is one, or none.
#[derive(Debug)]
pub(super) struct SecretReader(ReadBatcher<SecretOwner, Vec<StoredSecret>>);

impl SecretReader {
    /// Starts the task on the current runtime, which must be the one that owns the store's connections.
    pub fn start(store: Store) -> Self {
        let bounds = BatchBounds {
            waiting: QUEUE,
            at_once: AT_ONCE,
            overload: "too many secrets are read at once",
        };
        Self(ReadBatcher::start(store, bounds, read_secrets))
    }

    pub async fn read(&self, user: UserId, secret_id: &str) -> Result<Vec<StoredSecret>, LogError> {
        self.0.read((secret_id.to_owned(), user)).await
    }
}

/// Secrets with their owners' keys, read together, so that a key that was destroyed opens nothing.
async fn read_secrets(
    store: Store,
    secrets: Vec<SecretOwner>,
) -> Result<HashMap<SecretOwner, Vec<StoredSecret>>, LogError> {
    let size = padded_size(secrets.len());
    let places: Vec<String> = (1..=size).map(|n| format!("${n}")).collect();
    let sql = format!(
        "SELECT s.secret_id, s.user_id, s.version, s.sealed, k.key_id, k.master_id, k.wrapped, k.state \
         FROM secrets s JOIN user_keys k ON k.user_id = s.user_id WHERE s.secret_id IN ({})",
        places.join(", ")
    );
    let padded = secrets
        .iter()
        .map(|(secret, _)| secret.as_str())
        .chain(std::iter::repeat(""))
        .take(size);
    let query = padded.fold(sqlx::query(&sql), |query, secret| query.bind(secret));
    let mut found = HashMap::<_, Vec<_>>::with_capacity(secrets.len());
    for row in query.fetch_all(store.reads()).await? {
        let (of, stored) = read(&row)?;
        found.entry(of).or_default().push(stored);
    }
    Ok(found)
}

fn read(row: &AnyRow) -> Result<(SecretOwner, StoredSecret), LogError> {
    let user: String = row.try_get("user_id")?;
    let user = user
        .parse::<UserId>()
        .map_err(|_| LogError::Statement("`secrets` holds an invalid user id".into()))?;
    let version = row.try_get::<i64, _>("version")?;
    let version = u32::try_from(version)
        .map_err(|_| LogError::Statement(format!("a secret has the version {version}")))?;
    Ok((
        (row.try_get("secret_id")?, user),
        StoredSecret {
            version,
            sealed: row.try_get("sealed")?,
            key: wrapped_key(user.0, row)?,
        },
    ))
}
