//! Secrets lie beside the log, each under its own key, which the user's vault key wraps. The only
//! way in is the `VaultDoor`, which opening the log hands to the write side's vault and to nobody
//! else. Vault keys are not kept in memory.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use genie_events::UserId;
use serde_json::{Value, json};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    Log, LogError, UserKeys, Work,
    append_sqlite::SqliteTx,
    clock::random_bytes,
    encryption::{CantOpen, Place, SealingKey},
};

mod fetch;
use fetch::{SecretReader, StoredSecret};

/// The way to secrets. Not `Clone`: there is one, and a reader of the log does not have it.
///
/// ```
/// # use genie_log::{Log, LogError, VaultDoor, secrets::VaultKey};
/// # use genie_events::UserId;
/// async fn key(door: &VaultDoor, user: UserId) -> Result<VaultKey, LogError> {
///     door.key(user).await
/// }
/// ```
/// ```compile_fail
/// # use genie_log::{Log, LogError, VaultDoor, secrets::VaultKey};
/// # use genie_events::UserId;
/// async fn key(log: &Log, user: UserId) -> Result<VaultKey, LogError> {
///     log.key(user).await
/// }
/// ```
#[derive(Debug)]
pub struct VaultDoor {
    log: Log,
    secrets: SecretReader,
}

/// The full name of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretName {
    pub user: UserId,
    /// A credential's id, or `password/<user>`.
    pub secret_id: String,
    /// A credential's kind, or a word such as `login password`.
    pub kind: &'static str,
    /// Raised each time the secret is stored.
    pub version: u32,
}

impl SecretName {
    /// The place that a secret and its own key are bound to. They do not open for anything else, or
    /// under another key.
    fn place(&self, part: &str, vault: &SealingKey) -> Place {
        let user = self.user.to_string();
        let version = self.version.to_string();
        let key_id = vault.id().to_string();
        Place::new(&[
            "secret v1",
            part,
            &user,
            &self.secret_id,
            self.kind,
            &version,
            &key_id,
        ])
    }
}

impl VaultDoor {
    pub(crate) fn new(log: Log) -> Self {
        Self {
            secrets: SecretReader::start(log.store().clone()),
            log,
        }
    }

    /// The vault key of a user who is not forgotten.
    pub async fn key(&self, user: UserId) -> Result<VaultKey, LogError> {
        Ok(VaultKey(
            self.log.keys().data_key(user.0).await?.vault(self),
        ))
    }

    /// Makes a new user's keys, the vault key among them, and the working row that stores them with
    /// the user's first facts.
    pub fn new_keys(&self, user: UserId) -> (Arc<UserKeys>, VaultKey, Work) {
        let (key, row) = self.log.keys().new_data_key(user);
        (Arc::new(key.payload()), VaultKey(key.vault(self)), row)
    }

    /// Opens the stored version of a secret and answers its number; `None` when there is none.
    pub async fn open_held(
        &self,
        user: UserId,
        secret_id: &str,
        kind: &'static str,
    ) -> Result<Option<(u32, Zeroizing<Vec<u8>>)>, LogError> {
        let fetched = self.fetch(user, secret_id).await?;
        let Some(version) = fetched.versions.iter().map(|stored| stored.version).max() else {
            return Ok(None);
        };
        let name = SecretName {
            user,
            secret_id: secret_id.to_owned(),
            kind,
            version,
        };
        Ok(self
            .open_fetched(&fetched, &name)?
            .map(|opened| (version, opened)))
    }

    /// Opens a secret; `None` when this version is not stored.
    pub async fn open(&self, name: &SecretName) -> Result<Option<Zeroizing<Vec<u8>>>, LogError> {
        self.open_fetched(&self.fetch(name.user, &name.secret_id).await?, name)
    }

    /// Reads a secret without opening it, for a caller that opens it a moment later, when the fact
    /// is in the log.
    pub async fn fetch(&self, user: UserId, secret_id: &str) -> Result<Fetched, LogError> {
        Ok(Fetched {
            versions: self.secrets.read(user, secret_id).await?,
        })
    }

    /// Opens a fetched secret, if this version is in it.
    pub fn open_fetched(
        &self,
        fetched: &Fetched,
        name: &SecretName,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, LogError> {
        let Some(stored) = fetched
            .versions
            .iter()
            .find(|stored| stored.version == name.version)
        else {
            return Ok(None);
        };
        let Some(wrapped) = &stored.key else {
            return Err(LogError::KeyAbsent {
                owner: name.user.to_string(),
            });
        };
        let key = VaultKey(self.log.keys().unwrap(wrapped)?.vault(self));
        let damaged = |reason| LogError::SecretDamaged {
            secret_id: name.secret_id.clone(),
            version: name.version,
            reason,
        };
        key.open(name, &stored.sealed).map(Some).map_err(damaged)
    }
}

/// A secret as stored, still sealed.
#[derive(Debug)]
pub struct Fetched {
    versions: Vec<StoredSecret>,
}

/// The key that wraps the keys of a user's secrets. Only [`VaultDoor`] hands it out.
#[derive(Debug)]
pub struct VaultKey(SealingKey);

impl VaultKey {
    /// Seals a secret. Answers the working row to append with its fact.
    pub fn seal(&self, name: &SecretName, plaintext: &[u8]) -> Work {
        let own = Zeroizing::new(random_bytes::<32>());
        let wrapped = self.0.seal(own.as_slice(), &name.place("key", &self.0));
        let ciphertext = SealingKey::derive(Uuid::nil(), &own, "secret")
            .seal(plaintext, &name.place("secret", &self.0));
        let sealed = [
            &(wrapped.len() as u16).to_be_bytes(),
            wrapped.as_slice(),
            &ciphertext,
        ]
        .concat();
        Work::Secret(SecretRow::Put {
            user: name.user,
            secret_id: name.secret_id.clone(),
            version: name.version,
            sealed,
        })
    }

    fn open(&self, name: &SecretName, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, CantOpen> {
        let (length, rest) = sealed.split_first_chunk::<2>().ok_or(CantOpen::Form)?;
        let (wrapped, ciphertext) = rest
            .split_at_checked(usize::from(u16::from_be_bytes(*length)))
            .ok_or(CantOpen::Form)?;
        let own = self.0.open(wrapped, &name.place("key", &self.0))?;
        let own: &[u8; 32] = own.as_slice().try_into().map_err(|_| CantOpen::Form)?;
        SealingKey::derive(Uuid::nil(), own, "secret")
            .open(ciphertext, &name.place("secret", &self.0))
    }
}

/// A secret's row, in the transaction of its fact.
#[derive(Debug, Clone)]
pub enum SecretRow {
    /// A sealed secret; its older versions are deleted.
    Put {
        user: UserId,
        secret_id: String,
        version: u32,
        sealed: Vec<u8>,
    },
    /// All versions of a secret are deleted.
    Delete { secret_id: String },
}

impl SecretRow {
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Put {
                user,
                secret_id,
                version,
                sealed,
            } => json!({
                "t": "put_secret", "user_id": user, "secret_id": secret_id,
                "version": version, "sealed": BASE64.encode(sealed),
            }),
            Self::Delete { secret_id } => json!({"t": "delete_secret", "secret_id": secret_id}),
        }
    }

    pub(crate) async fn write(&self, tx: &mut SqliteTx<'_>) -> Result<(), sqlx::Error> {
        let query = match self {
            Self::Put {
                user,
                secret_id,
                version,
                sealed,
            } => {
                sqlx::query("DELETE FROM secrets WHERE secret_id = $1 AND version < $2")
                    .bind(secret_id)
                    .bind(i64::from(*version))
                    .execute(&mut **tx)
                    .await?;
                let sql = "INSERT INTO secrets (secret_id, version, user_id, sealed) VALUES ($1, $2, $3, $4)";
                sqlx::query(sql)
                    .bind(secret_id)
                    .bind(i64::from(*version))
                    .bind(user.to_string())
                    .bind(sealed)
            }
            Self::Delete { secret_id } => {
                sqlx::query("DELETE FROM secrets WHERE secret_id = $1").bind(secret_id)
            }
        };
        query.execute(&mut **tx).await.map(drop)
    }
}

#[cfg(test)]
mod tests;
