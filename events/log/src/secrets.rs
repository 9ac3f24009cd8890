//! Secrets lie beside the log, each under a key of its own that is wrapped by its user's vault key. The only way in is the
//! `VaultDoor`, which opening the log hands to the write side's vault and to nobody else.

use genie_events::UserId;
use sqlx::Row;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    Log, LogError, UserKeys, Work,
    clock::random_bytes,
    seal::{CantOpen, Place, SealingKey},
    store::Store,
};

/// The way to secrets. Not `Clone`: there is one.
#[derive(Debug)]
pub struct VaultDoor {
    log: Log,
}

/// Which secret: of whom, which, what it is, and which version of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretName {
    /// Whose.
    pub user: UserId,
    /// Which: a credential's id, or `password/<user>`.
    pub secret_id: String,
    /// What it is: a credential's kind, or such as `login password`.
    pub kind: &'static str,
    /// Raised each time it is stored.
    pub version: u32,
}

impl SecretName {
    /// What a secret, and the key of its own, are bound to: opened for anything else, or under another key, they are refused.
    fn place(&self, part: &str, vault: &SealingKey) -> Place {
        let (user, version, key_id) = (self.user.to_string(), self.version.to_string(), vault.id().to_string());
        Place::new(&["secret v1", part, &user, &self.secret_id, self.kind, &version, &key_id])
    }
}

impl VaultDoor {
    pub(crate) fn new(log: Log) -> Self {
        Self { log }
    }

    /// Seals a secret: the working row to append with its fact.
    pub async fn seal(&self, name: &SecretName, plaintext: &[u8]) -> Result<Work, LogError> {
        let keys = self.log.live_keys(name.user).await?;
        Ok(self.seal_with(&keys, name, plaintext))
    }

    /// The same for a user who is only being made.
    pub fn seal_with(&self, keys: &UserKeys, name: &SecretName, plaintext: &[u8]) -> Work {
        let own = Zeroizing::new(random_bytes::<32>());
        let wrapped = keys.vault.seal(own.as_slice(), &name.place("key", &keys.vault));
        let ciphertext = SealingKey::derive(Uuid::nil(), &own, "secret").seal(plaintext, &name.place("secret", &keys.vault));
        let sealed = [&(wrapped.len() as u16).to_be_bytes(), wrapped.as_slice(), &ciphertext].concat();
        Work::PutSecret { user: name.user, secret_id: name.secret_id.clone(), version: name.version, sealed }
    }

    /// Opens the version of a secret that is held, and says which that is; `None` when there is none.
    pub async fn open_held(
        &self,
        user: UserId,
        secret_id: &str,
        kind: &'static str,
    ) -> Result<Option<(u32, Zeroizing<Vec<u8>>)>, LogError> {
        let wanted = secret_id.to_owned();
        let held: Option<i64> = self
            .log
            .store()
            .run(async move |store: Store| {
                let sql = "SELECT max(version) AS version FROM secrets WHERE secret_id = $1 AND user_id = $2";
                let row = sqlx::query(sql).bind(wanted).bind(user.to_string()).fetch_one(store.reads()).await?;
                Ok(row.try_get("version")?)
            })
            .await?;
        let Some(version) = held.and_then(|version| u32::try_from(version).ok()) else { return Ok(None) };
        let name = SecretName { user, secret_id: secret_id.to_owned(), kind, version };
        // Replaced in between, it is gone: to whoever asked, the old one is wrong by now.
        Ok(self.open(&name).await?.map(|opened| (version, opened)))
    }

    /// Opens a secret; `None` when there is no such version (any more).
    pub async fn open(&self, name: &SecretName) -> Result<Option<Zeroizing<Vec<u8>>>, LogError> {
        let keys = self.log.live_keys(name.user).await?;
        let wanted = name.clone();
        let sealed: Option<Vec<u8>> = self
            .log
            .store()
            .run(async move |store: Store| {
                let sql = "SELECT sealed FROM secrets WHERE secret_id = $1 AND version = $2 AND user_id = $3";
                let query = sqlx::query(sql).bind(wanted.secret_id).bind(i64::from(wanted.version)).bind(wanted.user.to_string());
                let row = query.fetch_optional(store.reads()).await?;
                Ok(row.map(|row| row.try_get("sealed")).transpose()?)
            })
            .await?;
        let Some(sealed) = sealed else { return Ok(None) };
        let damaged = |reason| LogError::SecretDamaged { secret_id: name.secret_id.clone(), version: name.version, reason };
        open_with(&keys, name, &sealed).map(Some).map_err(damaged)
    }
}

fn open_with(keys: &UserKeys, name: &SecretName, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, CantOpen> {
    let (length, rest) = sealed.split_first_chunk::<2>().ok_or(CantOpen::Form)?;
    let (wrapped, ciphertext) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(CantOpen::Form)?;
    let own = keys.vault.open(wrapped, &name.place("key", &keys.vault))?;
    let own: &[u8; 32] = own.as_slice().try_into().map_err(|_| CantOpen::Form)?;
    SealingKey::derive(Uuid::nil(), own, "secret").open(ciphertext, &name.place("secret", &keys.vault))
}

#[cfg(test)]
mod tests;
