//! Opens users' keys and keeps them for a while; holds the ring of master keys that unwraps them.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use genie_events::UserId;
use moka::ops::compute::Op;
use sqlx::{Row, any::AnyRow};
use tracing::error;
use uuid::Uuid;

use super::{Log, Settings};
use crate::{
    LogError, MasterKeys, UserKeys, Work,
    encryption::CantOpen,
    keys::{DataKey, KeyState, WrappedKey},
    store::Store,
};

/// The keys of users and of the system, and the master keys that wrap them. See [`Log::keys`].
#[derive(Debug, Clone)]
pub struct Keys(Log);

impl Log {
    /// The keys of users and of the system, and the master keys that wrap them.
    pub fn keys(&self) -> Keys {
        Keys(self.clone())
    }
}

impl Keys {
    pub(crate) fn log(&self) -> &Log {
        &self.0
    }

    /// The keys of a user, or of the system for the nil UUID.
    pub async fn of(&self, owner: Uuid) -> Result<KeyState, LogError> {
        if owner.is_nil() {
            return Ok(KeyState::Live(Arc::clone(&self.0.0.system)));
        }
        if let Some(keys) = self.0.0.keys.get(&owner) {
            return Ok(keys);
        }
        match stored_key(&self.0.0.store, owner).await? {
            None => Err(LogError::KeyAbsent {
                owner: owner.to_string(),
            }),
            Some(stored) => self.opened_key(owner, stored.as_ref()),
        }
    }

    /// Opens an owner's stored key. `None` is a destroyed key.
    pub(crate) fn opened_key(
        &self,
        owner: Uuid,
        stored: Option<&WrappedKey>,
    ) -> Result<KeyState, LogError> {
        let state = match (stored, self.0.0.keys.get(&owner)) {
            (None, _) | (_, Some(KeyState::Destroyed)) => KeyState::Destroyed,
            (Some(wrapped), Some(KeyState::Live(keys)))
                if keys.payload().id() == wrapped.key_id =>
            {
                return Ok(KeyState::Live(keys));
            }
            (Some(wrapped), _) => KeyState::Live(Arc::new(self.unwrap(wrapped)?.payload())),
        };
        // A key that was read before it was destroyed, and arrives after that was noted, is not
        // kept.
        self.0.0.keys.entry(owner).and_compute_with(|kept| {
            match kept.map(|kept| kept.into_value()) {
                Some(KeyState::Destroyed) => Op::Nop,
                _ => Op::Put(state.clone()),
            }
        });
        Ok(state)
    }

    /// From now on nothing of a forgotten user can be opened on this node. Other nodes notice
    /// within `KEY_LIFE`.
    pub fn drop_of(&self, user: UserId) {
        self.0.0.keys.insert(user.0, KeyState::Destroyed);
    }

    /// True when this node knows that a user was forgotten. `false` may also mean that it has not
    /// looked lately.
    pub fn has_dropped(&self, user: UserId) -> bool {
        matches!(self.0.0.keys.get(&user.0), Some(KeyState::Destroyed))
    }

    /// The keys of a user who was not forgotten.
    pub async fn live(&self, user: UserId) -> Result<Arc<UserKeys>, LogError> {
        match self.of(user.0).await? {
            KeyState::Live(keys) => Ok(keys),
            KeyState::Destroyed => Err(LogError::Forgotten {
                owner: user.to_string(),
            }),
        }
    }

    /// Seals a text under the system's key for a column of a read table. So an event may carry the
    /// text, and readers of the event do not learn it.
    pub fn seal_system_text(&self, column: &str, text: &str) -> String {
        BASE64.encode(self.0.0.system.seal_text(column, text))
    }

    /// Opens a text that [`Keys::seal_system_text`] sealed for that column.
    pub fn open_system_text(&self, column: &str, sealed: &str) -> Result<String, LogError> {
        let sealed = BASE64.decode(sealed).map_err(|_| CantOpen::Form);
        let opened = sealed.and_then(|sealed| self.0.0.system.open_text(column, &sealed));
        opened.map_err(|reason| LogError::Statement(format!("{column} cannot be opened: {reason}")))
    }

    pub fn system(&self) -> &UserKeys {
        &self.0.0.system
    }

    /// Makes a new user's keys, and the working row that stores them with the user's first facts.
    pub fn new_for(&self, user: UserId) -> (Arc<UserKeys>, Work) {
        let (key, row) = self.new_data_key(user);
        (Arc::new(key.payload()), row)
    }

    pub(crate) fn new_data_key(&self, user: UserId) -> (DataKey, Work) {
        let (key, wrapped) = self
            .masters()
            .new_data_key(user.0, self.0.0.clock.new_uuid());
        (key, Work::NewKey(wrapped))
    }

    /// The data key of an owner who is not forgotten, or of the system for the nil UUID, read and
    /// opened anew.
    pub(crate) async fn data_key(&self, owner: Uuid) -> Result<DataKey, LogError> {
        match stored_key(&self.0.0.store, owner).await? {
            Some(Some(wrapped)) => self.unwrap(&wrapped),
            _ => Err(LogError::KeyAbsent {
                owner: owner.to_string(),
            }),
        }
    }

    pub(crate) fn unwrap(&self, wrapped: &WrappedKey) -> Result<DataKey, LogError> {
        self.0.0.masters.borrow().unwrap(wrapped)
    }

    /// The present ring of master keys. It shows ids and no key.
    pub fn masters(&self) -> MasterKeys {
        self.0.0.masters.borrow().clone()
    }

    /// Replaces the ring, unless `change` answers `None`. Answers whether it did.
    pub(crate) fn change_masters(
        &self,
        change: impl FnOnce(&MasterKeys) -> Option<MasterKeys>,
    ) -> bool {
        self.0
            .0
            .masters
            .send_if_modified(|ring| match change(ring) {
                Some(changed) => {
                    *ring = changed;
                    true
                }
                None => false,
            })
    }

    /// The current master key, which other servers wrap by, when this server does not have it.
    pub fn lacking_master(&self) -> Option<String> {
        self.0.0.lacking.borrow().clone()
    }

    pub(crate) fn set_lacking(&self, lacking: Option<String>) {
        self.0.0.lacking.send_if_modified(|known| {
            let is_news = *known != lacking;
            if let Some(id) = lacking.as_ref().filter(|_| is_news) {
                error!(master = %id, "master keys: this server lacks the current key; add it to its ring");
            }
            *known = lacking;
            is_news
        });
    }
}

/// `None` when there is no row, `Some(None)` when the key was destroyed.
pub(super) async fn stored_key(
    store: &Store,
    owner: Uuid,
) -> Result<Option<Option<WrappedKey>>, LogError> {
    store
        .run(async move |store: Store| {
            let row = sqlx::query(
                "SELECT key_id, master_id, wrapped, state FROM user_keys WHERE user_id = $1",
            )
            .bind(owner.to_string())
            .fetch_optional(store.reads())
            .await?;
            Ok(row.map(|row| wrapped_key(owner, &row)).transpose()?)
        })
        .await
}

/// The key in a row of `user_keys`; `None` when it was destroyed.
pub(crate) fn wrapped_key(owner: Uuid, row: &AnyRow) -> Result<Option<WrappedKey>, sqlx::Error> {
    let sealed: Option<Vec<u8>> = row.try_get("wrapped")?;
    let state: String = row.try_get("state")?;
    let key_id: String = row.try_get("key_id")?;
    let master_id = row.try_get("master_id")?;
    // An invalid UUID fails to unwrap later.
    let key_id = Uuid::try_parse(&key_id).unwrap_or_default();
    Ok(sealed.filter(|_| state == "live").map(|sealed| WrappedKey {
        owner,
        key_id,
        master_id,
        sealed,
    }))
}

/// The system's data key, and the ring in which the key that wraps it is the current one.
pub(super) async fn system_key(
    store: &Store,
    settings: &Settings,
) -> Result<(DataKey, MasterKeys), LogError> {
    if stored_key(store, Uuid::nil()).await?.is_none() && !settings.read_only {
        let (_, wrapped) = settings
            .masters
            .new_data_key(Uuid::nil(), settings.clock.new_uuid());
        let mut tx = store.durable().await?;
        // Another node may have made the key meanwhile: the first one stands.
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
            Ok((
                system,
                masters.ok_or(LogError::MasterKeyMissing {
                    wanted: wrapped.master_id,
                })?,
            ))
        }
        _ => Err(LogError::KeyAbsent {
            owner: "the system".into(),
        }),
    }
}
