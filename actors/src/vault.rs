//! The vault: seals secrets for the append that stores their fact, and opens them after the fact that reveals them is durable.

use std::sync::Arc;

use genie_events::{
    CredentialId, JobId, Metadata, Refusal, User, UserCommand, UserId,
    credential::{Credential, SealedSecret},
    job::Job,
};
use genie_log::{
    Log, LogError, UserKeys, VaultDoor, Work,
    keys::sha256_hex,
    secrets::{SecretName, VaultKey},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::{
    WriteError,
    caller::Asking,
    users::{Done, Note, Plan, Users},
};

/// The most bytes of one credential.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

/// Seals and opens. Clones share the one door.
#[derive(Debug, Clone)]
pub struct Vault {
    door: Arc<VaultDoor>,
    log: Log,
}

/// A secret in the clear. It never shows itself, and is wiped when it goes.
pub struct Plaintext(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

impl Plaintext {
    /// Takes the fields of a credential.
    pub fn of_fields(fields: &Map<String, Value>) -> Result<Self, Refusal> {
        // Text, numbers and maps with text keys always serialize.
        let bytes = Zeroizing::new(serde_json::to_vec(fields).unwrap_or_default());
        match bytes.len() {
            0..=MAX_SECRET_BYTES => Ok(Self(bytes)),
            _ => Err(Refusal::invalid("credentials", format!("`credentials` must be at most {MAX_SECRET_BYTES} bytes"))),
        }
    }

    /// The bytes, for the answer that reveals them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// A stored credential.
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    /// Which.
    pub id: CredentialId,
    /// Whether it replaced one.
    pub updated: bool,
    /// The position that reads must have reached to see it.
    pub position: u64,
}

/// What the answer to a stored credential is made from.
#[derive(Serialize, Deserialize)]
struct Kept {
    id: CredentialId,
    updated: bool,
}

/// Which credential is to be stored.
#[derive(Debug, Clone)]
pub enum Target {
    /// The one of this platform and name; made when there is none.
    Profile {
        /// The platform.
        platform: String,
        /// The name there.
        platform_username: Option<String>,
    },
    /// This one, which must be there.
    Existing {
        /// Which.
        id: CredentialId,
        /// A new name there, when given.
        platform_username: Option<String>,
    },
}

/// A job of the owner's that somebody says they work on: to them a credential is revealed only while they do.
#[derive(Debug, Clone)]
pub struct HeldJob {
    /// Which.
    pub job: JobId,
    /// Their lease.
    pub lease: String,
}

impl HeldJob {
    fn check(&self, state: &User) -> Result<(), Refusal> {
        match state.job(&self.job) {
            Some(Job::Running { lease, .. }) if *lease == sha256_hex(self.lease.as_bytes()) => Ok(()),
            _ => Err(Refusal::conflict("stale_lease", "This lease is not the present one of a job of the credential's owner")),
        }
    }
}

/// A revealed credential.
#[derive(Debug)]
pub struct Revealed {
    /// The secret.
    pub plaintext: Plaintext,
    /// For which platform.
    pub platform: String,
    /// The name there.
    pub platform_username: Option<String>,
    /// The position of the fact.
    pub position: u64,
}

impl Vault {
    /// Behind that door.
    pub fn new(log: Log, door: VaultDoor) -> Self {
        Self { door: Arc::new(door), log }
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
    pub async fn password_hash(&self, user: UserId) -> Result<Option<(u32, Zeroizing<Vec<u8>>)>, WriteError> {
        held(self.door.open_held(user, &password_id(user)).await)
    }

    /// The secret of a user's second factor while it is on, and which version it is.
    pub async fn two_factor_secret(&self, user: UserId) -> Result<Option<(u32, Zeroizing<Vec<u8>>)>, WriteError> {
        held(self.door.open_held(user, &two_factor_id(user)).await)
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
            let (id, platform, platform_username) = place(state, &target, fresh)?;
            let version = state.credential(id).unwrap_or(&Credential::Absent).next_version();
            let work = key.seal(&secret_name(user, id, version), secret.expose());
            let hash = match &work {
                Work::PutSecret { sealed, .. } => sha256_hex(sealed),
                _ => String::new(),
            };
            let command = UserCommand::StoreCredential {
                credential: id,
                platform: platform.clone(),
                platform_username: platform_username.clone(),
                sealed: SealedSecret { version, hash },
            };
            let outcome = json!(Kept { id, updated: id != fresh });
            Ok(Plan { changes: state.decide(now, command)?, work: vec![work], outcome, ..Plan::default() })
        };
        let done = users.plan(user, None, asking, Arc::new(planner)).await?;
        let Kept { id, updated } = serde_json::from_value(done.outcome)
            .map_err(|error| WriteError::Internal(format!("a stored credential has no outcome: {error}")))?;
        Ok(Stored { id, updated, position: done.position })
    }

    /// Reveals a credential of `owner`, only for a job that runs when there has to be one. Commits first: the plaintext leaves
    /// only after the fact is durable.
    pub async fn reveal(
        &self,
        users: &Users,
        owner: UserId,
        id: CredentialId,
        purpose: Option<String>,
        only_for: Option<HeldJob>,
        metadata: Metadata,
    ) -> Result<Revealed, WriteError> {
        let planner = move |state: &User, now| {
            only_for.as_ref().map_or(Ok(()), |held| held.check(state))?;
            let changes = state.decide(now, UserCommand::RevealCredential { credential: id, purpose: purpose.clone() })?;
            let note = match state.credential(id) {
                Some(Credential::Held { platform, platform_username, version }) => Note::Credential {
                    id,
                    platform: platform.clone(),
                    platform_username: platform_username.clone(),
                    version: *version,
                },
                _ => Note::Nothing,
            };
            Ok(Plan { changes, note, ..Plan::default() })
        };
        // Read while the fact is written, opened after it is durable.
        let secret_id = id.to_string();
        let (done, fetched) =
            tokio::join!(users.plan(owner, None, metadata, Arc::new(planner)), self.door.fetch(owner, &secret_id));
        let done = done?;
        let Note::Credential { platform, platform_username, version, .. } = done.note else {
            return Err(WriteError::Internal("a revealed credential left no note".into()));
        };
        let name = secret_name(owner, id, version);
        let opened = match fetched {
            Ok(fetched) => self.door.open_fetched(&fetched, &name)?,
            Err(_) => None,
        };
        let opened = match opened {
            Some(plaintext) => Some(plaintext),
            None => self.door.open(&name).await?, // changed before the fact
        };
        match opened {
            Some(plaintext) => {
                Ok(Revealed { plaintext: Plaintext(plaintext), platform, platform_username, position: done.position })
            }
            // It was changed or removed after the fact and before it was read: the asker may ask again.
            None => Err(Refusal::conflict("changed_meanwhile", "The credential was changed meanwhile; ask again").into()),
        }
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
            Ok(Plan { changes, work: vec![Work::DeleteSecret { secret_id: id.to_string() }], ..Plan::default() })
        };
        users.plan(user, None, asking, Arc::new(planner)).await
    }
}

/// Seals a version of the hash of a user's password.
pub(crate) fn seal_password(key: &VaultKey, user: UserId, version: u32, hash: &str) -> Work {
    key.seal(&SecretName { user, secret_id: password_id(user), version }, hash.as_bytes())
}

/// Seals a version of the secret of a user's second factor.
pub(crate) fn seal_two_factor(key: &VaultKey, user: UserId, version: u32, secret: &[u8]) -> Work {
    key.seal(&SecretName { user, secret_id: two_factor_id(user), version }, secret)
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
        Err(LogError::KeyAbsent { .. }) => Ok(None),
        opened => Ok(opened?),
    }
}

fn secret_name(user: UserId, id: CredentialId, version: u32) -> SecretName {
    SecretName { user, secret_id: id.to_string(), version }
}

/// Which credential it is to be, for which platform and name.
fn place(state: &User, target: &Target, fresh: CredentialId) -> Result<(CredentialId, String, Option<String>), Refusal> {
    match target {
        Target::Profile { platform, platform_username } => {
            let id = state.credential_for(platform, platform_username.as_deref()).unwrap_or(fresh);
            Ok((id, platform.clone(), platform_username.clone()))
        }
        Target::Existing { id, platform_username } => match state.credential(*id) {
            Some(Credential::Held { platform, platform_username: before, .. }) => {
                Ok((*id, platform.clone(), platform_username.clone().or_else(|| before.clone())))
            }
            _ => Err(Refusal::not_found("credential")),
        },
    }
}
