//! Everything above, as one handle that is cheap to clone.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use genie_events::{StreamId, UserId, account::FORGOTTEN};
use moka::ops::compute::Op;
use sqlx::{Row, any::AnyRow};
use tokio::sync::watch;
use tracing::error;
use uuid::Uuid;

use crate::{
    Append, AppendError, Appended, Body, Clock, Fact, LogError, MasterKeys, Owner, Remember, StoredRow, UserKeys, VaultDoor,
    Work,
    append::{Group, MAX_EVENT_BYTES, MAX_EVENTS, Request},
    health::{Health, Trouble},
    hint, idempotency, import,
    keys::{DataKey, KeyState, SystemHashes, WrappedKey, rotation},
    row::slice_of,
    scrub::Scrub,
    seal::{CantOpen, Place},
    snapshots::Snapshots,
    store::{Store, Target, Writing},
    tail::{Reading, Tail},
    wake::Wakes,
    writer::LogWriter,
};

/// How many users' keys are kept opened.
const CACHED_KEYS: u64 = 100_000;
/// How long a key is kept opened. One that was destroyed on another node is noticed by the append at once, and by reads as soon
/// as this node has seen the fact (see [`Log::drop_keys`]), at the latest within this.
const KEY_LIFE: Duration = Duration::from_secs(60);

/// What a log is opened with.
#[derive(Debug)]
pub struct Settings {
    /// Where.
    pub target: Target,
    /// The ring of master keys.
    pub masters: MasterKeys,
    /// The source of time.
    pub clock: Clock,
    /// Only reads: nothing is made or migrated, and appends fail.
    pub read_only: bool,
}

/// What opening gives: the log for everybody, and the door to secrets for the vault alone.
pub struct Opened {
    /// The log.
    pub log: Log,
    /// The only way to secrets.
    pub vault: VaultDoor,
}

/// The log.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    store: Store,
    writer: LogWriter,
    health: Health,
    tail: Arc<Tail>,
    masters: watch::Sender<MasterKeys>,
    /// The current master key, when this process does not have it.
    lacking: watch::Sender<Option<String>>,
    system: Arc<UserKeys>,
    hashes: SystemHashes,
    keys: moka::sync::Cache<Uuid, KeyState>,
    wakes: Wakes,
    snapshots: Snapshots,
    clock: Clock,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Log(head {})", self.head())
    }
}

impl Log {
    /// Opens the store, brings its schema up to date and reads the system's key, which is made on an empty store. A master key
    /// that is missing or wrong is found here. To be called on the runtime that is to own the connections.
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
        let scrub = if settings.read_only { Scrub::default() } else { Scrub::start(&store) };
        let (writer, written) = LogWriter::start(store.writing.clone(), Arc::clone(&tail), health.clone(), scrub);
        tokio::spawn(hint::poll(store.clone(), Arc::clone(&tail), written.clone()));
        if let Writing::Postgres(pool) = &store.writing {
            hint::start(pool, settings.clock.new_uuid(), &tail, written);
        }
        let log = Self(Arc::new(Inner {
            writer,
            health,
            tail,
            hashes: SystemHashes::of(&system),
            system: Arc::new(system.payload()),
            masters: watch::Sender::new(masters),
            lacking: watch::Sender::new(None),
            keys: moka::sync::Cache::builder().max_capacity(CACHED_KEYS).time_to_live(KEY_LIFE).build(),
            wakes: Wakes::start(store.clone()),
            snapshots: Snapshots::start(store.clone()),
            clock: settings.clock,
            store,
        }));
        Ok(Opened { vault: VaultDoor::new(log.clone()), log })
    }

    /// Whether nothing was ever sealed in a store, so that any master key will do. Brings its schema up to date.
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

    /// The source of time.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The last position that this process knows of.
    pub fn head(&self) -> u64 {
        *self.0.tail.watch_head().borrow()
    }

    /// Why the store takes no writes now; `None` when it does, as far as this process knows.
    pub fn trouble(&self) -> Option<Trouble> {
        self.0.health.trouble()
    }

    /// The first position that is missing from the log, once somebody came upon it.
    pub fn hole(&self) -> Option<u64> {
        match *self.0.tail.watch_reading().borrow() {
            Reading::Hole { missing } => Some(missing),
            Reading::UpTo(_) => None,
        }
    }

    pub(crate) fn tail(&self) -> &Tail {
        &self.0.tail
    }

    /// Wakes whenever the head rises.
    pub fn watch_head(&self) -> watch::Receiver<u64> {
        self.0.tail.watch_head()
    }

    pub(crate) fn wakes(&self) -> &Wakes {
        &self.0.wakes
    }

    pub(crate) fn snapshots(&self) -> &Snapshots {
        &self.0.snapshots
    }

    /// Keyed hashes and the token key.
    pub fn hashes(&self) -> &SystemHashes {
        &self.0.hashes
    }

    /// The keys of a user, or of the system for the nil UUID.
    pub async fn keys(&self, owner: Uuid) -> Result<KeyState, LogError> {
        if owner.is_nil() {
            return Ok(KeyState::Live(Arc::clone(&self.0.system)));
        }
        if let Some(keys) = self.0.keys.get(&owner) {
            return Ok(keys);
        }
        match stored_key(&self.0.store, owner).await? {
            None => Err(LogError::KeyAbsent { owner: owner.to_string() }),
            Some(stored) => self.opened_key(owner, stored.as_ref()),
        }
    }

    /// The keys in what the store holds for an owner, which is nothing when they were destroyed.
    pub(crate) fn opened_key(&self, owner: Uuid, stored: Option<&WrappedKey>) -> Result<KeyState, LogError> {
        let state = match (stored, self.0.keys.get(&owner)) {
            (None, _) | (_, Some(KeyState::Destroyed)) => KeyState::Destroyed,
            (Some(wrapped), Some(KeyState::Live(keys))) if keys.payload().id() == wrapped.key_id => {
                return Ok(KeyState::Live(keys));
            }
            (Some(wrapped), _) => KeyState::Live(Arc::new(self.unwrap(wrapped)?.payload())),
        };
        // A key that was read before it was destroyed, and arrives after that was noted, is not kept.
        self.0.keys.entry(owner).and_compute_with(|kept| match kept.map(|kept| kept.into_value()) {
            Some(KeyState::Destroyed) => Op::Nop,
            _ => Op::Put(state.clone()),
        });
        Ok(state)
    }

    /// Nothing of a user is opened any more from here on: they were forgotten. Who does not hear of it notices within `KEY_LIFE`.
    pub fn drop_keys(&self, user: UserId) {
        self.0.keys.insert(user.0, KeyState::Destroyed);
    }

    /// Whether this node knows that a user was forgotten; `false` may only mean that it was not asked lately.
    pub fn has_dropped_keys(&self, user: UserId) -> bool {
        matches!(self.0.keys.get(&user.0), Some(KeyState::Destroyed))
    }

    /// The keys of a user who was not forgotten.
    pub async fn live_keys(&self, user: UserId) -> Result<Arc<UserKeys>, LogError> {
        match self.keys(user.0).await? {
            KeyState::Live(keys) => Ok(keys),
            KeyState::Destroyed => Err(LogError::Forgotten { owner: user.to_string() }),
        }
    }

    /// Seals text of the system's for a column of a read table, so that an event may carry it and no reader of the event has it.
    pub fn seal_system_text(&self, column: &str, text: &str) -> String {
        BASE64.encode(self.0.system.seal_text(column, text))
    }

    /// Opens what [`Log::seal_system_text`] sealed for that column.
    pub fn open_system_text(&self, column: &str, sealed: &str) -> Result<String, LogError> {
        let sealed = BASE64.decode(sealed).map_err(|_| CantOpen::Form);
        let opened = sealed.and_then(|sealed| self.0.system.open_text(column, &sealed));
        opened.map_err(|reason| LogError::Statement(format!("{column} can't be opened: {reason}")))
    }

    /// The system's keys.
    pub fn system_keys(&self) -> &UserKeys {
        &self.0.system
    }

    /// Makes a new user's keys, and the working row that stores them with the user's first facts.
    pub fn new_keys(&self, user: UserId) -> (Arc<UserKeys>, Work) {
        let (key, row) = self.new_data_key(user);
        (Arc::new(key.payload()), row)
    }

    pub(crate) fn new_data_key(&self, user: UserId) -> (DataKey, Work) {
        let (key, wrapped) = self.masters().new_data_key(user.0, self.0.clock.new_uuid());
        (key, Work::NewKey(wrapped))
    }

    /// The data key of an owner who is not forgotten, or of the system for the nil UUID, read and opened anew.
    pub(crate) async fn data_key(&self, owner: Uuid) -> Result<DataKey, LogError> {
        match stored_key(&self.0.store, owner).await? {
            Some(Some(wrapped)) => self.unwrap(&wrapped),
            _ => Err(LogError::KeyAbsent { owner: owner.to_string() }),
        }
    }

    pub(crate) fn unwrap(&self, wrapped: &WrappedKey) -> Result<DataKey, LogError> {
        self.0.masters.borrow().unwrap(wrapped)
    }

    /// The ring of master keys, as it is now. It shows ids and no key.
    pub fn masters(&self) -> MasterKeys {
        self.0.masters.borrow().clone()
    }

    /// Exchanges the ring for what is made of it, if anything; says whether it did.
    pub(crate) fn change_masters(&self, change: impl FnOnce(&MasterKeys) -> Option<MasterKeys>) -> bool {
        self.0.masters.send_if_modified(|ring| match change(ring) {
            Some(changed) => {
                *ring = changed;
                true
            }
            None => false,
        })
    }

    /// The master key that new data keys are wrapped by on other servers, when this one does not have it.
    pub fn lacking_master(&self) -> Option<String> {
        self.0.lacking.borrow().clone()
    }

    pub(crate) fn set_lacking(&self, lacking: Option<String>) {
        self.0.lacking.send_if_modified(|known| {
            let is_news = *known != lacking;
            if let Some(id) = lacking.as_ref().filter(|_| is_news) {
                error!(master = %id, "master key `{id}` is current, and this server does not have it; add it to the ring");
            }
            *known = lacking;
            is_news
        });
    }

    /// Seals and appends. When this answers `Ok`, everything in it is durable. May be called from any runtime.
    pub async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let request = self.seal(append).await?;
        self.0.writer.append(request).await
    }

    pub(crate) async fn seal(&self, append: Append) -> Result<Request, AppendError> {
        let count: usize = append.groups.iter().map(|group| group.facts.len()).sum();
        if count == 0 || count > MAX_EVENTS {
            return Err(AppendError::TooLarge(format!("{count} events, where 1 to {MAX_EVENTS} are allowed")));
        }
        let mut rows = Vec::with_capacity(count);
        let mut system_owners = Vec::new();
        for group in append.groups {
            let ends_a_user = group.facts.iter().all(|fact| fact.event.type_name() == FORGOTTEN);
            let keys = match &group.keys {
                Some(keys) => Arc::clone(keys),
                // No key of theirs is needed, which perhaps nobody can open any more.
                None if ends_a_user => Arc::clone(&self.0.system),
                None => match self.keys(group.owner.key_owner()).await {
                    Ok(KeyState::Live(keys)) => keys,
                    Ok(KeyState::Destroyed) => return Err(AppendError::KeyNotLive),
                    Err(error) => return Err(error.into()),
                },
            };
            if matches!(group.owner, Owner::System(_)) {
                system_owners.push(group.owner.id());
            }
            self.seal_group(group, &keys, &append.metadata, &mut rows)?;
        }
        let mut work = append.work;
        if let Some(remember) = append.remember {
            work.push(Work::Remember(self.seal_outcome(remember, &rows).await?));
        }
        Ok(Request { rows, work, system_owners })
    }

    async fn seal_outcome(&self, remember: Remember, rows: &[StoredRow]) -> Result<idempotency::Outcome, AppendError> {
        let Remember { request, user, outcome } = remember;
        let keys = match self.keys(user.0).await {
            Ok(KeyState::Live(keys)) => keys,
            Ok(KeyState::Destroyed) => return Err(AppendError::KeyNotLive),
            Err(error) => return Err(error.into()),
        };
        let sealed = keys.payload().seal(outcome.to_string().as_bytes(), &idempotency::place(user, &request.key));
        let event_id = genie_events::EventId(rows.last().map(|row| row.event_id).unwrap_or_default());
        Ok(idempotency::Outcome { key: request.key, request: request.request, user, event_id, sealed })
    }

    fn seal_group(
        &self,
        group: Group,
        keys: &UserKeys,
        metadata: &genie_events::Metadata,
        rows: &mut Vec<StoredRow>,
    ) -> Result<(), AppendError> {
        let owner = group.owner.id();
        let (slice, recorded_at) = (slice_of(owner), self.0.clock.now());
        let users = keys;
        for (n, fact) in (1..).zip(group.facts) {
            let owner_seq = storable(&fact, group.after.checked_add(n))?;
            let (event_id, event_type) = (self.0.clock.new_event_id(), fact.event.type_name());
            let keys = if event_type == FORGOTTEN { &self.0.system } else { users };
            let place = Place::event(event_id, &fact.stream, fact.sequence, event_type, owner);
            let plaintext = fact.event.to_vec();
            if plaintext.len() > MAX_EVENT_BYTES {
                let (stream, bytes) = (&fact.stream, plaintext.len());
                let reason = format!("{event_type} of {stream} has {bytes} bytes, where {MAX_EVENT_BYTES} are allowed");
                return Err(AppendError::TooLarge(reason));
            }
            let metadata = genie_events::Metadata { clear: fact.event.clear(), ..metadata.clone() };
            let mut row = StoredRow {
                position: 0,
                kind: fact.stream.kind.as_str().to_owned(),
                payload: keys.payload().seal_event(event_id, &plaintext, &place),
                id: fact.stream.id,
                sequence: fact.sequence,
                event_type: event_type.to_owned(),
                event_version: fact.event.version(),
                metadata: serde_json::to_string(&metadata).map_err(|error| AppendError::Broken(error.to_string()))?,
                event_id: event_id.0,
                owner,
                owner_seq,
                slice,
                recorded_at,
                digest: Vec::new(),
            };
            row.digest = row.computed_digest().to_vec();
            rows.push(row);
        }
        Ok(())
    }

    /// Checks and opens a row.
    pub async fn open_row(&self, row: &StoredRow) -> Result<Fact, LogError> {
        let keys = self.keys(row.key_owner()).await.map_err(|error| match error {
            LogError::KeyAbsent { .. } => row.damaged("its owner's key is absent; the store is incomplete"),
            LogError::MasterKeyWrong { .. } => row.damaged(error),
            LogError::MasterKeyMissing { wanted } => {
                LogError::Locked { position: row.position, stream: format!("{}/{}", row.kind, row.id), wanted }
            }
            error => error,
        });
        let (stream, body) = match keys? {
            KeyState::Live(keys) => {
                let (stream, event) = row.open(&keys)?;
                (stream, Body::Open(event, keys))
            }
            KeyState::Destroyed => (row.verified_stream()?, Body::Forgotten),
        };
        Ok(Fact {
            position: row.position,
            event_id: genie_events::EventId(row.event_id),
            sequence: row.sequence,
            event_type: row.event_type.clone(),
            user: row.user(),
            owner_seq: row.owner_seq,
            recorded_at: row.recorded_at,
            metadata: row.metadata()?,
            stream,
            body,
        })
    }
}

/// The owner's number of a fact, if both stores can hold it, its stream's name and its sequence.
fn storable(fact: &crate::NewFact, owner_seq: Option<u64>) -> Result<u64, AppendError> {
    let fits = |number: u64| i64::try_from(number).is_ok();
    let refused = |reason| {
        let stream = fact.stream.to_string().replace('\0', "\u{fffd}");
        Err(AppendError::Unstorable { stream, sequence: fact.sequence, reason })
    };
    match owner_seq {
        _ if fact.stream.id.contains('\0') => refused("a stream's name must not hold a NUL"),
        Some(seq) if fits(seq) && fits(fact.sequence) => Ok(seq),
        _ => refused("its number is past what a store can count"),
    }
}

pub(crate) async fn stored_head(store: &Store) -> Result<u64, LogError> {
    let head: i64 = sqlx::query_scalar("SELECT coalesce(max(position), 0) FROM events").fetch_one(store.reads()).await?;
    Ok(head as u64)
}

/// `None` when there is no row, `Some(None)` when the key was destroyed.
async fn stored_key(store: &Store, owner: Uuid) -> Result<Option<Option<WrappedKey>>, LogError> {
    store
        .run(async move |store: Store| {
            let row = sqlx::query("SELECT key_id, master_id, wrapped, state FROM user_keys WHERE user_id = $1")
                .bind(owner.to_string())
                .fetch_optional(store.reads())
                .await?;
            Ok(row.map(|row| wrapped_key(owner, &row)).transpose()?)
        })
        .await
}

/// A key as a row of `user_keys` holds it; `None` when it was destroyed.
pub(crate) fn wrapped_key(owner: Uuid, row: &AnyRow) -> Result<Option<WrappedKey>, sqlx::Error> {
    let sealed: Option<Vec<u8>> = row.try_get("wrapped")?;
    let (state, key_id): (String, String) = (row.try_get("state")?, row.try_get("key_id")?);
    let master_id = row.try_get("master_id")?;
    let key_id = Uuid::try_parse(&key_id).unwrap_or_default(); // one that is no UUID then fails to unwrap
    Ok(sealed.filter(|_| state == "live").map(|sealed| WrappedKey { owner, key_id, master_id, sealed }))
}

/// The system's data key, and the ring with the master key as current that it is wrapped by.
async fn system_key(store: &Store, settings: &Settings) -> Result<(DataKey, MasterKeys), LogError> {
    if stored_key(store, Uuid::nil()).await?.is_none() && !settings.read_only {
        let (_, wrapped) = settings.masters.new_data_key(Uuid::nil(), settings.clock.new_uuid());
        let mut tx = store.durable().await?;
        // Another node may have made it meanwhile: the first one stands.
        sqlx::query(
            "INSERT INTO user_keys (user_id, key_id, master_id, wrapped, state) VALUES ($1, $2, $3, $4, 'live') \
             ON CONFLICT (user_id) DO NOTHING",
        )
        .bind(Uuid::nil().to_string())
        .bind(wrapped.key_id.to_string())
        .bind(wrapped.master_id)
        .bind(wrapped.sealed)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
    }
    match stored_key(store, Uuid::nil()).await? {
        Some(Some(wrapped)) => {
            let system = settings.masters.unwrap(&wrapped)?;
            let masters = settings.masters.with_current(&wrapped.master_id);
            Ok((system, masters.ok_or(LogError::MasterKeyMissing { wanted: wrapped.master_id })?))
        }
        _ => Err(LogError::KeyAbsent { owner: "the system".into() }),
    }
}

impl Group {
    /// Facts of a user, who had `after` events before.
    pub fn of_user(user: UserId, after: u64, facts: Vec<crate::NewFact>) -> Self {
        Self { owner: Owner::User(user), after, facts, keys: None }
    }

    /// Facts of one of the system's streams, which had `after` events before.
    pub fn of_system(stream: &StreamId, after: u64, events: Vec<genie_events::Event>) -> Self {
        let facts = (after + 1..)
            .zip(events)
            .map(|(sequence, event)| crate::NewFact { stream: stream.clone(), sequence, event })
            .collect();
        Self { owner: Owner::System(stream.clone()), after, facts, keys: None }
    }
}
