//! The vault: seals secrets for the append that stores their fact, and opens them after the fact that reveals them is durable.

use std::{collections::BTreeMap, io, sync::Arc};

use genie_events::{
    CredentialId, Refusal, Timestamp, User, UserCommand, UserId,
    credential::{Credential, CredentialKind, SealedSecret},
};
use genie_log::secrets::SecretRow;
use genie_log::{
    Append, Log, LogError, UserKeys, VaultDoor, Work,
    keys::sha256_hex,
    secrets::{SecretName, VaultKey},
};
use moka::sync::Cache;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    WriteError,
    caller::Asking,
    dedupe::Lately,
    users::{Done, Plan, Users},
};

/// Shows secrets, after the fact that says so.
mod reveal;
pub use reveal::{Ask, Named, Revealed};

/// The most bytes of a profile's or a login's fields, as JSON.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;
/// The most bytes of cookies, as JSON: a browser's whole jar.
pub const MAX_COOKIE_BYTES: usize = 512 * 1024;
/// Owners of credentials that are kept in memory: some megabytes.
const MAX_OWNERS: u64 = 50_000;

/// Seals and opens. Clones share the one door.
#[derive(Debug, Clone)]
pub struct Vault {
    door: Arc<VaultDoor>,
    log: Log,
    append: Append,
    refused: Lately<reveal::Refused>,
    /// Whose credentials that were asked for are: that never changes.
    owners: Cache<CredentialId, UserId>,
}

/// A secret in the clear: a JSON object. It never shows itself, and is wiped when it goes.
pub struct Plaintext(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

impl Plaintext {
    /// Takes what a client sent in a field, if it is not too large.
    pub fn of(field: &'static str, secret: &impl Serialize, most: usize) -> Result<Self, Refusal> {
        // Never moved as it grows, which would leave copies behind; then only what it takes is held.
        let mut bytes = Bounded(Zeroizing::new(Vec::with_capacity(most)));
        match serde_json::to_writer(&mut bytes, secret) {
            Ok(()) => Ok(Self(Zeroizing::new(bytes.0.to_vec()))),
            Err(_) => Err(Refusal::invalid(
                field,
                format!("`{field}` must be at most {most} bytes"),
            )),
        }
    }

    /// Takes the text of a JSON object as it is: no value of it is held anywhere else.
    pub fn of_object(text: Zeroizing<Vec<u8>>) -> Result<Self, Refusal> {
        let refused = |sentence: String| Err(Refusal::invalid("credentials", sentence));
        match serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(&text) {
            _ if text.len() > MAX_SECRET_BYTES => refused(format!(
                "`credentials` must be at most {MAX_SECRET_BYTES} bytes"
            )),
            Ok(fields) if !fields.is_empty() => Ok(Self(text)),
            _ => refused("`credentials` must be a JSON object with at least one field".to_owned()),
        }
    }

    /// The bytes, for the answer that reveals them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// Takes as many bytes as there is room for.
struct Bounded(Zeroizing<Vec<u8>>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > self.0.capacity() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stored credential.
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    /// Which.
    pub id: CredentialId,
    /// Whether it replaced one.
    pub updated: bool,
    /// When a session is over.
    pub expires_at: Option<Timestamp>,
    /// Whether the same request had stored it before.
    pub again: bool,
    /// The position that reads must have reached to see it.
    pub position: u64,
}

/// What the answer to a stored credential is made from.
#[derive(Serialize, Deserialize)]
struct Kept {
    id: CredentialId,
    updated: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

/// What a credential is, beside its secret.
#[derive(Debug, Clone)]
pub struct Holding {
    /// What kind.
    pub kind: CredentialKind,
    /// The platform.
    pub platform: String,
    /// The name there; of several profiles it tells which.
    pub platform_username: Option<String>,
    /// When a session is over.
    pub expires_at: Option<Timestamp>,
}

/// Which credential is to be stored.
#[derive(Debug, Clone)]
pub enum Target {
    /// The one of this kind and platform, and of this name if it is a profile; made when there is none.
    For(Holding),
    /// This profile, which must be there.
    Existing {
        /// Which.
        id: CredentialId,
        /// A new name there, when given.
        platform_username: Option<String>,
    },
    /// This one, brought in from another system: made under its id there.
    Imported {
        /// Which.
        id: CredentialId,
        /// The platform.
        platform: String,
        /// The name there.
        platform_username: Option<String>,
        /// The version that was brought in earlier, and may be replaced while it is the one that is held.
        over: Option<u32>,
    },
}

impl Vault {
    /// Behind that door.
    pub fn new(append: Append, door: VaultDoor) -> Self {
        Self {
            door: Arc::new(door),
            log: append.log().clone(),
            append,
            refused: Lately::new(),
            owners: Cache::new(MAX_OWNERS),
        }
    }

    /// The key for a user's secrets; `None` for somebody who is not there or was forgotten.
    pub(crate) async fn key(&self, user: UserId) -> Result<Option<VaultKey>, WriteError> {
        held(self.door.key(user).await.map(Some))
    }

    /// Makes a new user's keys, and the row that goes with the user's first facts.
    pub(crate) fn new_keys(&self, user: UserId) -> (Arc<UserKeys>, VaultKey, Work) {
        self.door.new_keys(user)
    }

    /// The hash of a user's password, and which version it is.
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

    /// The secret of a user's second factor while it is on, and which version it is.
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

    /// Stores a credential: the ciphertext and its fact in one transaction.
    pub async fn store(
        &self,
        users: &Users,
        user: UserId,
        asking: impl Into<Asking>,
        target: Target,
        secret: Plaintext,
    ) -> Result<Stored, WriteError> {
        let key = self.key(user).await?.ok_or(WriteError::Forgotten)?;
        let fresh = CredentialId(self.log.clock().new_uuid());
        let planner = move |state: &User, now| {
            let (
                id,
                Holding {
                    kind,
                    platform,
                    platform_username,
                    expires_at,
                },
            ) = place(state, &target, fresh)?;
            let before = state.credential(id).unwrap_or(&Credential::Absent);
            let (version, updated) = (
                before.next_version(),
                matches!(before, Credential::Held { .. }),
            );
            let work = key.seal(&secret_name(user, id, kind, version), secret.expose());
            let Work::Secret(SecretRow::Put { sealed, .. }) = &work else {
                unreachable!("sealing a secret makes the work that puts it");
            };
            let hash = sha256_hex(sealed);
            let sealed = SealedSecret { version, hash };
            let command = match target {
                Target::Imported { over, .. } => UserCommand::ImportCredential {
                    credential: id,
                    platform,
                    platform_username,
                    over,
                    sealed,
                },
                _ => UserCommand::StoreCredential {
                    credential: id,
                    kind,
                    platform,
                    platform_username,
                    expires_at,
                    sealed,
                },
            };
            let outcome = json!(Kept {
                id,
                updated,
                expires_at
            });
            Ok(Plan {
                changes: state.decide(now, command)?,
                work: vec![work],
                outcome,
                ..Plan::default()
            })
        };
        let done = users.plan(user, None, asking, Arc::new(planner)).await?;
        let Kept {
            id,
            updated,
            expires_at,
        } = serde_json::from_value(done.outcome).map_err(|error| {
            WriteError::Internal(format!("a stored credential has no outcome: {error}"))
        })?;
        Ok(Stored {
            id,
            updated,
            expires_at,
            again: done.changes.is_empty(),
            position: done.position,
        })
    }

    /// Removes a credential: the ciphertext goes with the fact.
    pub async fn remove(
        &self,
        users: &Users,
        user: UserId,
        id: CredentialId,
        asking: impl Into<Asking>,
    ) -> Result<Done, WriteError> {
        let planner = move |state: &User, now| {
            let changes = state.decide(now, UserCommand::RemoveCredential(id))?;
            Ok(Plan {
                changes,
                work: vec![Work::Secret(SecretRow::Delete {
                    secret_id: id.to_string(),
                })],
                ..Plan::default()
            })
        };
        users.plan(user, None, asking, Arc::new(planner)).await
    }
}

/// What secrets of accounts are, beside those of credentials.
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

/// Who was forgotten holds nothing.
fn held<T>(opened: Result<Option<T>, LogError>) -> Result<Option<T>, WriteError> {
    match opened {
        Err(LogError::KeyAbsent { .. } | LogError::Forgotten { .. }) => Ok(None),
        opened => Ok(opened?),
    }
}

fn secret_name(user: UserId, id: CredentialId, kind: CredentialKind, version: u32) -> SecretName {
    SecretName {
        user,
        secret_id: id.to_string(),
        kind: kind.as_str(),
        version,
    }
}

/// Which credential it is to be, and what.
fn place(
    state: &User,
    target: &Target,
    fresh: CredentialId,
) -> Result<(CredentialId, Holding), Refusal> {
    match target {
        Target::For(holding) => {
            let held = state.credential_for(
                holding.kind,
                &holding.platform,
                holding.platform_username.as_deref(),
            );
            Ok((held.unwrap_or(fresh), holding.clone()))
        }
        Target::Existing {
            id,
            platform_username,
        } => match state.credential(*id) {
            Some(Credential::Held {
                kind: CredentialKind::Profile,
                platform,
                platform_username: before,
                ..
            }) => Ok((
                *id,
                profile(platform, platform_username.as_ref().or(before.as_ref())),
            )),
            _ => Err(Refusal::not_found("credential")),
        },
        Target::Imported {
            id,
            platform,
            platform_username,
            ..
        } => Ok((*id, profile(platform, platform_username.as_ref()))),
    }
}

fn profile(platform: &str, platform_username: Option<&String>) -> Holding {
    let (kind, platform) = (CredentialKind::Profile, platform.to_owned());
    Holding {
        kind,
        platform,
        platform_username: platform_username.cloned(),
        expires_at: None,
    }
}

#[cfg(test)]
mod tests;
