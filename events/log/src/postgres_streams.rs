//! Single streams on Postgres, read through postgres-es, which takes a pool of sqlx' own kind.

use std::{sync::Arc, time::Duration};

use cqrs_es::{
    Aggregate,
    persist::{PersistedEventRepository, PersistenceError, SerializedEvent},
};
use parking_lot::Mutex;
use postgres_es::PostgresEventRepository;
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;

use crate::LogError;

const CONNECTIONS: u32 = 4;
/// When no connection is free or can be opened for this long, the store counts as away.
const ACQUIRE: Duration = Duration::from_secs(3);
/// The longest wait for an answer of a server that may have vanished.
const ANSWER: Duration = Duration::from_secs(8);

#[derive(Debug, Clone)]
pub(crate) struct PostgresStreams(Arc<Mutex<PgPool>>);

impl PostgresStreams {
    pub fn new(options: PgConnectOptions) -> Self {
        Self(Arc::new(Mutex::new(pool(options))))
    }

    /// The events of one stream, in order. When that fails, all connections are replaced and it is
    /// tried once more: what broke one of them broke the others.
    pub async fn events<A: Aggregate>(&self, id: &str) -> Result<Vec<SerializedEvent>, LogError> {
        let present = self.0.lock().clone();
        match events_from::<A>(present.clone(), id).await {
            Err(LogError::Away(_)) => {
                let fresh = self.replace(&present);
                events_from::<A>(fresh, id).await
            }
            events => events,
        }
    }

    fn replace(&self, broken: &PgPool) -> PgPool {
        let mut present = self.0.lock();
        if !broken.is_closed() {
            *present = pool(broken.connect_options().as_ref().clone());
            let broken = broken.clone();
            tokio::spawn(async move { broken.close().await });
        }
        present.clone()
    }

    pub async fn close(&self) {
        let present = self.0.lock().clone();
        present.close().await;
    }
}

/// sqlx itself sends a bare `Sync` when a connection comes back, which is no transaction.
fn pool(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(ACQUIRE)
        .test_before_acquire(false)
        .connect_lazy_with(options)
}

async fn events_from<A: Aggregate>(
    pool: PgPool,
    id: &str,
) -> Result<Vec<SerializedEvent>, LogError> {
    // postgres-es asks for `aggregate_id = $2`, a text, which has no index. The function looks for
    // the stream's UUID, which has one.
    let repository =
        PostgresEventRepository::new(pool).with_tables("events_of_stream($2)", "no_snapshots");
    match timeout(ANSWER, repository.get_events::<A>(id)).await {
        Ok(Ok(events)) => Ok(events),
        Ok(Err(error)) => Err(unread(error)),
        Err(_) => Err(LogError::Away("no answer in time".into())),
    }
}

/// An error of postgres-es, which hides what the database said.
fn unread(error: PersistenceError) -> LogError {
    let reason = error.to_string();
    match error {
        PersistenceError::ConnectionError(_) => LogError::Away(reason),
        PersistenceError::UnknownError(error) => match error.downcast::<sqlx::Error>() {
            Ok(error) => (*error).into(),
            Err(_) => LogError::Statement(reason),
        },
        _ => LogError::Statement(reason),
    }
}
