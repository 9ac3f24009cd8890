//! Credentials: seals secrets for the append that stores their fact, and opens them after the fact that reveals them
//! is durable.

use std::{collections::BTreeMap, io, sync::Arc};

use genie_events::{
    CredentialId, PlatformName, Refusal, Timestamp, User, UserCommand, UserId, UserName,
    credential::{Credential, CredentialKind, SealedSecret},
    user::Recall,
};
use genie_log::secrets::SecretRow;
use genie_log::{Append, Log, Work, keys::sha256_hex, secrets::SecretName};
use moka::sync::Cache;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    WriteError,
    caller::CommandContext,
    dedupe::Dedupe,
    users::{Plan, Receipt, Users},
    vault::Vault,
};

mod reveal;
pub use reveal::{CredentialRef, Revealed, SecretRequest};

/// The most bytes of a profile's or a login's fields, as JSON.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;
/// The most bytes of cookies, as JSON: a browser's whole jar.
pub const MAX_COOKIE_BYTES: usize = 512 * 1024;
/// The most owners of credentials in memory: some megabytes.
const MAX_OWNERS: u64 = 50_000;

/// The commands on credentials. Clones share one vault.
#[derive(Debug, Clone)]
pub struct Credentials {
    vault: Vault,
    log: Log,
    append: Append,
    users: Users,
    refused: Dedupe<reveal::DenialKey>,
    /// The owners of credentials that were asked for. An owner never changes.
    owners: Cache<CredentialId, UserId>,
}

/// A secret in the clear: a JSON object. It never prints, and is wiped when it is dropped.
pub struct Plaintext(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

impl Plaintext {
    /// Takes the secret of a client's field, if it is not too large.
    pub fn of(field: &'static str, secret: &impl Serialize, most: usize) -> Result<Self, Refusal> {
        // The buffer never moves as it grows, which would leave copies behind. In the end only the bytes in use are
        // held.
        let mut bytes = BoundedBuffer(Zeroizing::new(Vec::with_capacity(most)));
        match serde_json::to_writer(&mut bytes, secret) {
            Ok(()) => Ok(Self(Zeroizing::new(bytes.0.to_vec()))),
            Err(_) => Err(Refusal::invalid(
                field,
                format!("`{field}` must be at most {most} bytes"),
            )),
        }
    }

    /// Takes the text of a JSON object unchanged, so that no value of it is held anywhere else.
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

/// A buffer that takes as many bytes as it has room for.
struct BoundedBuffer(Zeroizing<Vec<u8>>);

impl io::Write for BoundedBuffer {
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

#[derive(Debug, Clone, Copy)]
pub struct StoredCredential {
    pub id: CredentialId,
    /// True when it replaced a credential.
    pub updated: bool,
    /// When a session is over.
    pub expires_at: Option<Timestamp>,
    /// True when the same request had stored it before.
    pub again: bool,
    /// The position that reads must have reached to see it.
    pub position: u64,
}

/// The outcome that the answer to a stored credential is made from.
#[derive(Serialize, Deserialize)]
struct StoreOutcome {
    id: CredentialId,
    updated: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

/// A credential without its secret.
#[derive(Debug, Clone)]
pub struct CredentialDetails {
    pub kind: CredentialKind,
    pub platform: PlatformName,
    /// The name on the platform. It tells several profiles apart.
    pub platform_username: Option<UserName>,
    /// When a session is over.
    pub expires_at: Option<Timestamp>,
}

/// The credential that a secret is stored as.
#[derive(Debug, Clone)]
pub enum StoreTarget {
    /// The credential of this kind and platform, and of this name if it is a profile. It is made when there is none.
    For(CredentialDetails),
    /// This profile, which must exist.
    Existing {
        id: CredentialId,
        /// The new name on the platform, if it changes.
        platform_username: Option<UserName>,
    },
    /// This credential from another system. It keeps the id that it has there.
    Imported {
        id: CredentialId,
        platform: PlatformName,
        /// The name on the platform.
        platform_username: Option<UserName>,
        /// The version that an earlier import stored. It may be replaced while it is the present one.
        over: Option<u32>,
    },
}

impl Credentials {
    pub fn new(append: Append, users: Users, vault: Vault) -> Self {
        Self {
            vault,
            log: append.log().clone(),
            append,
            users,
            refused: Dedupe::new(),
            owners: Cache::new(MAX_OWNERS),
        }
    }

    /// Stores a credential: the ciphertext and its fact in one transaction.
    pub async fn store(
        &self,
        user: UserId,
        context: impl Into<CommandContext>,
        target: StoreTarget,
        secret: Plaintext,
    ) -> Result<StoredCredential, WriteError> {
        let key = self.vault.key(user).await?.ok_or(WriteError::Forgotten)?;
        let fresh = CredentialId(self.log.clock().new_uuid());
        let recall = match &target {
            StoreTarget::Imported { id, .. } => Some(Recall::Credential(*id)),
            StoreTarget::For(_) | StoreTarget::Existing { .. } => None,
        };
        let planner = move |state: &User, now| {
            let (id, details) = place(state, &target, fresh)?;
            let expires_at = details.expires_at;
            let before = state.credential(id).unwrap_or(&Credential::Absent);
            let version = before.next_version();
            let updated = matches!(before, Credential::Held { .. });
            let work = key.seal(
                &secret_name(user, id, details.kind, version),
                secret.expose(),
            );
            let Work::Secret(SecretRow::Put { sealed, .. }) = &work else {
                unreachable!("sealing a secret makes the work that puts it");
            };
            let hash = sha256_hex(sealed);
            let sealed = SealedSecret { version, hash };
            let command = store_command(&target, id, details, sealed);
            let outcome = json!(StoreOutcome {
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
        let done = self
            .users
            .plan_recalling(
                user,
                recall.into_iter().collect(),
                context,
                Arc::new(planner),
            )
            .await?;
        let StoreOutcome {
            id,
            updated,
            expires_at,
        } = done.outcome("a stored credential")?;
        Ok(StoredCredential {
            id,
            updated,
            expires_at,
            again: done.changes.is_empty(),
            position: done.position,
        })
    }

    /// Removes a credential: the ciphertext and the fact in one transaction.
    pub async fn remove(
        &self,
        user: UserId,
        id: CredentialId,
        context: impl Into<CommandContext>,
    ) -> Result<Receipt, WriteError> {
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
        let recall = Some(Recall::Credential(id));
        self.users
            .plan_recalling(
                user,
                recall.into_iter().collect(),
                context,
                Arc::new(planner),
            )
            .await
    }
}

fn store_command(
    target: &StoreTarget,
    id: CredentialId,
    details: CredentialDetails,
    sealed: SealedSecret,
) -> UserCommand {
    let CredentialDetails {
        kind,
        platform,
        platform_username,
        expires_at,
    } = details;
    match target {
        StoreTarget::Imported { over, .. } => UserCommand::ImportCredential {
            credential: id,
            platform,
            platform_username,
            over: *over,
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

/// The id and the details of the credential to store.
fn place(
    state: &User,
    target: &StoreTarget,
    fresh: CredentialId,
) -> Result<(CredentialId, CredentialDetails), Refusal> {
    match target {
        StoreTarget::For(holding) => {
            let held = state.credential_for(
                holding.kind,
                &holding.platform,
                holding.platform_username.as_ref(),
            );
            Ok((held.unwrap_or(fresh), holding.clone()))
        }
        StoreTarget::Existing {
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
        StoreTarget::Imported {
            id,
            platform,
            platform_username,
            ..
        } => Ok((*id, profile(platform, platform_username.as_ref()))),
    }
}

fn profile(platform: &PlatformName, platform_username: Option<&UserName>) -> CredentialDetails {
    let kind = CredentialKind::Profile;
    let platform = platform.clone();
    CredentialDetails {
        kind,
        platform,
        platform_username: platform_username.cloned(),
        expires_at: None,
    }
}

#[cfg(test)]
mod tests;
