//! Secrets lie beside the log, each under a key of its own that is wrapped by its user's vault key. The only way in is the
//! `VaultDoor`, which opening the log hands to the write side's vault and to nobody else. Vault keys are not kept in memory.

use std::sync::Arc;

use genie_events::UserId;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    Log, LogError, UserKeys, Work,
    clock::random_bytes,
    seal::{CantOpen, Place, SealingKey},
};

mod fetch;
use fetch::{Fetches, Stored};

/// The way to secrets. Not `Clone`: there is one, and whoever reads the log has it not.
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
    fetches: Fetches,
}

/// Which secret: of whom, which, and which version of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretName {
    /// Whose.
    pub user: UserId,
    /// Which: a credential's id, or `password/<user>`.
    pub secret_id: String,
    /// Raised each time it is stored.
    pub version: u32,
}

impl SecretName {
    fn place(&self, part: &str) -> Place {
        Place::new(&["secret v1", part, &self.user.to_string(), &self.secret_id, &self.version.to_string()])
    }
}

impl VaultDoor {
    pub(crate) fn new(log: Log) -> Self {
        Self { fetches: Fetches::start(log.store().clone()), log }
    }

    /// The vault key of a user who is not forgotten.
    pub async fn key(&self, user: UserId) -> Result<VaultKey, LogError> {
        Ok(VaultKey(self.log.data_key(user.0).await?.vault(self)))
    }

    /// Makes a new user's keys, the one for secrets too, and the working row that stores them with the user's first facts.
    pub fn new_keys(&self, user: UserId) -> (Arc<UserKeys>, VaultKey, Work) {
        let (key, row) = self.log.new_data_key(user);
        (Arc::new(key.payload()), VaultKey(key.vault(self)), row)
    }

    /// Opens the version of a secret that is held, and says which that is; `None` when there is none.
    pub async fn open_held(&self, user: UserId, secret_id: &str) -> Result<Option<(u32, Zeroizing<Vec<u8>>)>, LogError> {
        let fetched = self.fetch(user, secret_id).await?;
        let Some(version) = fetched.versions.iter().map(|stored| stored.version).max() else { return Ok(None) };
        let name = SecretName { user, secret_id: secret_id.to_owned(), version };
        Ok(self.open_fetched(&fetched, &name)?.map(|opened| (version, opened)))
    }

    /// Opens a secret; `None` when there is no such version (any more).
    pub async fn open(&self, name: &SecretName) -> Result<Option<Zeroizing<Vec<u8>>>, LogError> {
        self.open_fetched(&self.fetch(name.user, &name.secret_id).await?, name)
    }

    /// Reads a secret without opening it: for whoever may open it a moment later, when that is on record.
    pub async fn fetch(&self, user: UserId, secret_id: &str) -> Result<Fetched, LogError> {
        Ok(Fetched { versions: self.fetches.read(user, secret_id).await? })
    }

    /// Opens what was fetched, if it is that version.
    pub fn open_fetched(&self, fetched: &Fetched, name: &SecretName) -> Result<Option<Zeroizing<Vec<u8>>>, LogError> {
        let Some(stored) = fetched.versions.iter().find(|stored| stored.version == name.version) else { return Ok(None) };
        let Some(wrapped) = &stored.key else { return Err(LogError::KeyAbsent { owner: name.user.to_string() }) };
        let key = VaultKey(self.log.unwrap(wrapped)?.vault(self));
        let damaged = |reason| LogError::Statement(format!("the secret {} is damaged: {reason}", name.secret_id));
        key.open(name, &stored.sealed).map(Some).map_err(damaged)
    }
}

/// A secret as it is stored: nobody can read it.
#[derive(Debug)]
pub struct Fetched {
    versions: Vec<Stored>,
}

/// The key that a user's secrets' own keys are wrapped by. Only [`VaultDoor`] gives it out.
#[derive(Debug)]
pub struct VaultKey(SealingKey);

impl VaultKey {
    /// Seals a secret: the working row to append with its fact.
    pub fn seal(&self, name: &SecretName, plaintext: &[u8]) -> Work {
        let own = Zeroizing::new(random_bytes::<32>());
        let wrapped = self.0.seal(own.as_slice(), &name.place("key"));
        let ciphertext = SealingKey::derive(Uuid::nil(), &own, "secret").seal(plaintext, &name.place("secret"));
        let sealed = [&(wrapped.len() as u16).to_be_bytes(), wrapped.as_slice(), &ciphertext].concat();
        Work::PutSecret { user: name.user, secret_id: name.secret_id.clone(), version: name.version, sealed }
    }

    fn open(&self, name: &SecretName, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, CantOpen> {
        let (length, rest) = sealed.split_first_chunk::<2>().ok_or(CantOpen::Form)?;
        let (wrapped, ciphertext) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(CantOpen::Form)?;
        let own = self.0.open(wrapped, &name.place("key"))?;
        let own: &[u8; 32] = own.as_slice().try_into().map_err(|_| CantOpen::Form)?;
        SealingKey::derive(Uuid::nil(), own, "secret").open(ciphertext, &name.place("secret"))
    }
}

#[cfg(test)]
mod tests {
    use genie_events::{Event, Metadata, StreamId, StreamKind, account::AccountEvent};

    use super::*;
    use crate::{
        Append, Group, NewFact, Opened,
        testing::{TestStore, both_stores},
    };

    both_stores!(a_secret_opens_for_its_own_name_only, async |store: TestStore| {
        let opened = store.open().await;
        let user = store.register(&opened.log, "ada").await;
        let name = SecretName { user, secret_id: "s".into(), version: 1 };
        let key = opened.vault.key(user).await.unwrap();
        let Work::PutSecret { sealed, .. } = key.seal(&name, b"hunter2") else { panic!() };
        assert_eq!(key.open(&name, &sealed).unwrap().as_slice(), b"hunter2");
        for other in [
            SecretName { version: 2, ..name.clone() },
            SecretName { secret_id: "t".into(), ..name.clone() },
            SecretName { user: UserId(Uuid::nil()), ..name.clone() },
        ] {
            assert!(key.open(&other, &sealed).is_err());
        }
        for length in 0..sealed.len() {
            assert!(key.open(&name, &sealed[..length]).is_err());
        }
        assert!(opened.vault.open(&name).await.unwrap().is_none(), "it was sealed and not yet appended");
    });

    both_stores!(many_are_read_together_and_each_opens_as_itself, async |store: TestStore| {
        let Opened { log, vault } = store.open().await;
        let mut names = Vec::new();
        for n in 0..40 {
            let user = store.register(&log, &format!("u{n}")).await;
            for version in 1..=2 {
                let name = SecretName { user, secret_id: format!("secret-{n}"), version };
                let work = vec![vault.key(user).await.unwrap().seal(&name, format!("{n}/{version}").as_bytes())];
                let event = Event::Account(AccountEvent::SignedIn);
                let sequence = u64::from(version) + 1;
                let fact = NewFact { stream: StreamId::new(StreamKind::Account, user), sequence, event };
                let groups = vec![Group::of_user(user, sequence - 1, vec![fact])];
                log.append(Append { groups, work, metadata: Metadata::system(), remember: None }).await.unwrap();
            }
            names.push(SecretName { user, secret_id: format!("secret-{n}"), version: 2 });
        }
        let vault = Arc::new(vault);
        // Each twice at once, and as many that are not there: of another user, of an old version.
        let others = names.iter().map(|name| SecretName { user: names[0].user, ..name.clone() }).skip(1);
        let old = names.iter().map(|name| SecretName { version: 1, ..name.clone() });
        let wrong: Vec<_> = others.chain(old).collect();
        let mut opening = tokio::task::JoinSet::new();
        for (n, name) in names.iter().chain(&wrong).chain(&names).cloned().enumerate() {
            let vault = Arc::clone(&vault);
            opening.spawn(async move { (n, vault.open(&name).await.unwrap()) });
        }
        for (n, opened) in opening.join_all().await {
            let n = n.checked_sub(names.len() + wrong.len()).unwrap_or(n);
            let wanted = (n < names.len()).then(|| format!("{n}/2").into_bytes());
            assert_eq!(opened.map(|opened| opened.to_vec()), wanted);
        }
        let (user, secret) = (names[7].user, "secret-7");
        assert_eq!(vault.open_held(user, secret).await.unwrap().map(|(version, _)| version), Some(2));

        // What was fetched before its owner was forgotten is nothing to those who fetch it after.
        store
            .try_sql(&format!("UPDATE user_keys SET state = 'destroyed', wrapped = NULL WHERE user_id = '{user}'"))
            .await
            .unwrap();
        assert!(matches!(vault.open(&names[7]).await, Err(LogError::KeyAbsent { .. })));
        assert!(matches!(vault.key(user).await, Err(LogError::KeyAbsent { .. })));
    });
}
