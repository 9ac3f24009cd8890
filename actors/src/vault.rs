//! Seals and opens users' secrets. Nothing here decides: a secret is sealed for the append that stores its fact, and
//! a revealed one is opened after its fact is durable.

use std::sync::Arc;

use genie_events::UserId;
use genie_log::{
    LogError, UserKeys, VaultDoor, Work,
    secrets::{SecretName, VaultKey},
};
use zeroize::Zeroizing;

use crate::WriteError;

/// The access to the secrets. Clones share one door.
#[derive(Debug, Clone)]
pub struct Vault {
    pub(crate) door: Arc<VaultDoor>,
}

impl Vault {
    pub fn new(door: VaultDoor) -> Self {
        Self {
            door: Arc::new(door),
        }
    }

    /// The key for a user's secrets; `None` for an unknown or forgotten user.
    pub(crate) async fn key(&self, user: UserId) -> Result<Option<VaultKey>, WriteError> {
        held(self.door.key(user).await.map(Some))
    }

    /// Makes a new user's keys, and the row that goes with the user's first facts.
    pub(crate) fn new_keys(&self, user: UserId) -> (Arc<UserKeys>, VaultKey, Work) {
        self.door.new_keys(user)
    }

    /// The hash of a user's password, with its version.
    pub async fn password_hash(
        &self,
        user: UserId,
    ) -> Result<Option<(u32, Zeroizing<Vec<u8>>)>, WriteError> {
        held(
            self.door
                .open_held(user, &password_id(user), LOGIN_PASSWORD)
                .await,
        )
    }

    /// The secret of a user's second factor while it is on, with its version.
    pub async fn two_factor_secret(
        &self,
        user: UserId,
    ) -> Result<Option<(u32, Zeroizing<Vec<u8>>)>, WriteError> {
        held(
            self.door
                .open_held(user, &two_factor_id(user), TWO_FACTOR)
                .await,
        )
    }
}

/// The kinds of secrets of accounts, beside those of credentials.
const LOGIN_PASSWORD: &str = "login password";
const TWO_FACTOR: &str = "two-factor";

/// Seals a version of the hash of a user's password.
pub(crate) fn seal_password(key: &VaultKey, user: UserId, version: u32, hash: &str) -> Work {
    key.seal(
        &SecretName {
            user,
            secret_id: password_id(user),
            kind: LOGIN_PASSWORD,
            version,
        },
        hash.as_bytes(),
    )
}

/// Seals a version of the secret of a user's second factor.
pub(crate) fn seal_two_factor(key: &VaultKey, user: UserId, version: u32, secret: &[u8]) -> Work {
    key.seal(
        &SecretName {
            user,
            secret_id: two_factor_id(user),
            kind: TWO_FACTOR,
            version,
        },
        secret,
    )
}

fn password_id(user: UserId) -> String {
    format!("password/{user}")
}

pub(crate) fn two_factor_id(user: UserId) -> String {
    format!("two-factor/{user}")
}

/// A forgotten user holds nothing.
fn held<T>(opened: Result<Option<T>, LogError>) -> Result<Option<T>, WriteError> {
    match opened {
        Err(LogError::KeyAbsent { .. } | LogError::Forgotten { .. }) => Ok(None),
        opened => Ok(opened?),
    }
}
