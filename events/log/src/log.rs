//! The log as one handle that is cheap to clone.

use std::{sync::Arc, time::Duration};

use genie_events::{StreamId, Timestamp, UserId};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::{
    AppendError, AppendRequest, Appended, Clock, LogError, MasterKeys, Owner, UserKeys, VaultDoor,
    append::Group,
    health::{Health, Trouble},
    import,
    keys::{KeyState, SystemHashes, rotation},
    load_users::{self, UserLoader},
    notify,
    snapshots::Snapshots,
    store::{Store, Target, Writing},
    store_clock::StoreClock,
    tail_cache::Tail,
    wal_scrub::Scrub,
    writer::LogWriter,
};

/// Seals facts for the store, and opens them again.
mod encrypt;
/// Opens users' keys and keeps them for a while; holds the ring that unwraps them.
mod keys;

pub use keys::Keys;
pub(crate) use keys::wrapped_key;
use keys::{stored_key, system_key};

const CACHED_KEYS: u64 = 100_000;
/// How long an opened key is kept. When another node destroys a key, an append notices at once, and
/// a read when this node has seen the fact (see [`Keys::drop_of`]), at the latest after this time.
const KEY_LIFE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Settings {
    pub target: Target,
    pub masters: MasterKeys,
    pub clock: Clock,
    /// Only reads: nothing is made or migrated, and appends fail.
    pub read_only: bool,
}

/// The result of opening: the log for everybody, and the doors that only the write side is handed.
pub struct Opened {
    /// The log, for everybody who reads.
    pub log: Log,
    /// The only way to append.
    pub append: Append,
    /// The only way to secrets.
    pub vault: VaultDoor,
}

#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    store: Store,
    writer: LogWriter,
    health: Health,
    tail: Arc<Tail>,
    masters: watch::Sender<MasterKeys>,
    /// The id of the current master key, when this process does not have that key.
    lacking: watch::Sender<Option<String>>,
    system: Arc<UserKeys>,
    hashes: SystemHashes,
    keys: moka::sync::Cache<Uuid, KeyState>,
    users: UserLoader,
    snapshots: Snapshots,
    store_clock: StoreClock,
    clock: Clock,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Log(head {})", self.reader().head())
    }
}

impl Log {
    /// Opens the store, brings its schema up to date and reads the system's key, which is made on
    /// an empty store. Fails when a master key is missing or wrong. Call it on the runtime that is
    /// to own the connections.
    pub async fn open(settings: Settings) -> Result<Opened, LogError> {
        let store = Store::open(&settings.target, settings.read_only).await?;
        if !settings.read_only && import::is_unfinished(&store).await? {
            return Err(LogError::ImportUnfinished);
        }
        if !settings.read_only {
            rotation::check(&store, &settings.masters).await?;
        }
        let (system, masters) = system_key(&store, &settings).await?;
        let tail = Arc::new(Tail::after(stored_head(&store).await?));
        tokio::spawn(Arc::clone(&tail).read_on(store.clone()));
        let health = Health::start(store.writing.clone());
        let scrub = if settings.read_only {
            Scrub::default()
        } else {
            Scrub::start(&store)
        };
        let (writer, written, end) = LogWriter::start(
            store.writing.clone(),
            Arc::clone(&tail),
            health.clone(),
            scrub,
        );
        let hinted = Arc::new(Notify::new());
        tokio::spawn(notify::read_head(
            store.clone(),
            Arc::clone(&tail),
            Arc::clone(&hinted),
            end.clone(),
        ));
        if let Writing::Postgres(pool) = &store.writing {
            notify::start(pool, settings.clock.new_uuid(), hinted, written, end);
        }
        let log = Self(Arc::new(Inner {
            writer,
            health,
            tail,
            hashes: SystemHashes::of(&system),
            system: Arc::new(system.payload()),
            masters: watch::Sender::new(masters),
            lacking: watch::Sender::new(None),
            keys: moka::sync::Cache::builder()
                .max_capacity(CACHED_KEYS)
                .time_to_live(KEY_LIFE)
                .build(),
            users: load_users::start(store.clone()),
            snapshots: Snapshots::start(store.clone()),
            store_clock: StoreClock::new(settings.clock.clone()),
            clock: settings.clock,
            store,
        }));
        log.read_store_clock().await?;
        Ok(Opened {
            vault: VaultDoor::new(log.clone()),
            append: Append(log.clone()),
            log,
        })
    }

    /// True when the store is empty of keys, so that any master key will do. Brings the schema up
    /// to date.
    pub async fn is_new(target: &Target) -> Result<bool, LogError> {
        let store = Store::open(target, false).await?;
        let is_new = stored_key(&store, Uuid::nil()).await?.is_none();
        store.close().await;
        Ok(is_new)
    }

    /// The store beneath, for working tables and projections.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The clock that leases are judged by.
    pub fn store_clock(&self) -> &StoreClock {
        &self.0.store_clock
    }

    /// Why the store takes no writes now; `None` when it does, as far as this process knows.
    pub fn trouble(&self) -> Option<Trouble> {
        self.0.health.trouble()
    }

    pub(crate) fn tail(&self) -> &Tail {
        &self.0.tail
    }

    pub(crate) fn user_loader(&self) -> &UserLoader {
        &self.0.users
    }

    pub(crate) fn snapshots(&self) -> &Snapshots {
        &self.0.snapshots
    }

    pub fn hashes(&self) -> &SystemHashes {
        &self.0.hashes
    }
}

/// The way to append. Opening the log gives it out, for the actors alone: a [`Log`] cannot append.
///
/// ```
/// # use genie_log::{Append, AppendError, AppendRequest, Appended};
/// async fn append(append: &Append, request: AppendRequest) -> Result<Appended, AppendError> {
///     append.append(request).await
/// }
/// ```
/// ```compile_fail
/// # use genie_log::{AppendError, AppendRequest, Appended, Log};
/// async fn append(log: &Log, request: AppendRequest) -> Result<Appended, AppendError> {
///     log.append(request).await
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Append(Log);

impl Append {
    /// For tests, which may append to any log.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn to(log: &Log) -> Self {
        Self(log.clone())
    }

    /// The log that is appended to.
    pub fn log(&self) -> &Log {
        &self.0
    }

    /// Seals and appends. When this answers `Ok`, everything in it is durable. May be called from any runtime.
    pub async fn append(&self, request: AppendRequest) -> Result<Appended, AppendError> {
        Ok(self.append_timed(request).await?.0)
    }

    /// The same, with the time that the first fact carries.
    pub async fn append_timed(
        &self,
        request: AppendRequest,
    ) -> Result<(Appended, Timestamp), AppendError> {
        let request = self.0.seal(request).await?;
        let recorded_at = request
            .rows
            .first()
            .map_or_else(|| self.0.clock().now(), |row| row.recorded_at);
        let at = self.0.0.writer.append(request).await?;
        Ok((at, recorded_at))
    }
}

pub(crate) async fn stored_head(store: &Store) -> Result<u64, LogError> {
    let head: i64 = sqlx::query_scalar("SELECT coalesce(max(position), 0) FROM events")
        .fetch_one(store.reads())
        .await?;
    Ok(head as u64)
}

impl Group {
    /// Facts of a user who had `after` events before.
    pub fn of_user(user: UserId, after: u64, facts: Vec<crate::NewFact>) -> Self {
        Self {
            owner: Owner::User(user),
            after,
            facts,
            keys: None,
        }
    }

    /// Facts of a stream of the system, which had `after` events before.
    pub fn of_system(stream: &StreamId, after: u64, events: Vec<genie_events::Event>) -> Self {
        let facts = (after + 1..)
            .zip(events)
            .map(|(sequence, event)| crate::NewFact {
                stream: *stream,
                sequence,
                event,
            })
            .collect();
        Self {
            owner: Owner::System(*stream),
            after,
            facts,
            keys: None,
        }
    }
}
