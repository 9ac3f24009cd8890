//! Takes lines in: opens what the original sealed and hands it to the vault, under the user's own key. The same line again is
//! found by its key and changes nothing, however often it is sent and whoever was killed meanwhile.

use genie_actors::{
    CommandContext, WriteError,
    credentials::{Credentials, Plaintext, StoreTarget, StoredCredential},
};
use genie_events::{
    CallerKind, CredentialId, Metadata, Refusal, StreamId, StreamKind, job::job_exists,
};
use genie_log::{Log, LogError, RequestKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::credential_import::{line::CredentialLine, original::OriginalKey};

/// The outcome of a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum LineOutcome {
    /// It is held now, under this id.
    Imported { id: CredentialId },
    /// An earlier import had brought it.
    Before { id: CredentialId },
    /// It was not taken in, and won't be as it is.
    Rejected {
        /// Why, and what to do.
        reason: String,
    },
    /// Nothing can be said of it now. No lines come after it.
    Later { reason: String },
}

/// Imports lines.
pub struct Importer<'a> {
    pub log: &'a Log,
    pub credentials: &'a Credentials,
    pub key: &'a OriginalKey,
}

impl Importer<'_> {
    /// One outcome for each line, in order, up to the first of which nothing can be said. One line after the other: of two that
    /// are at odds, the first one counts.
    pub async fn take(&self, lines: Vec<CredentialLine>) -> Vec<LineOutcome> {
        let mut outcomes = Vec::with_capacity(lines.len());
        for line in lines {
            outcomes.push(self.take_one(line).await);
            if matches!(outcomes.last(), Some(LineOutcome::Later { .. })) {
                break;
            }
        }
        outcomes
    }

    async fn take_one(&self, line: CredentialLine) -> LineOutcome {
        let id = self.id_of(&line);
        let refused = match self.store(&line, id, None).await {
            Err(WriteError::Refused(refusal)) if refusal.code == "not_imported" => refusal,
            stored => return outcome(stored, id),
        };
        // A later copy of the original may tell of what an earlier one brought, and nobody changed since.
        match self.brought_in(id).await {
            Ok(None) => LineOutcome::Rejected {
                reason: refused.to_string(),
            },
            Ok(over) => outcome(self.store(&line, id, over).await, id),
            Err(error) => LineOutcome::Later {
                reason: error.to_string(),
            },
        }
    }

    async fn store(
        &self,
        line: &CredentialLine,
        id: CredentialId,
        over: Option<u32>,
    ) -> Result<StoredCredential, WriteError> {
        let opened = self
            .key
            .open(&line.sealed)
            .map_err(|reason| Refusal::invalid("credentials", reason.to_string()))?;
        let secret = Plaintext::of_object(opened)?;
        let asking = CommandContext {
            metadata: Metadata::system(),
            key: Some(self.known_by(line)),
        };
        let platform = line.platform.clone();
        let platform_username = line.platform_username.clone();
        let target = StoreTarget::Imported {
            id,
            platform,
            platform_username,
            over,
        };
        self.credentials
            .store(line.user, asking, target, secret)
            .await
    }

    /// The version that is held, if an import brought it: nothing else stores credentials as the system.
    async fn brought_in(&self, id: CredentialId) -> Result<Option<u32>, LogError> {
        let mut last = None;
        for stored in ["credential.stored", "credential.changed"] {
            if let Some(asked) = self
                .log
                .last_asked(StreamId::new(StreamKind::Credential, id), stored)
                .await?
            {
                let version = asked.clear.get("version").and_then(Value::as_u64);
                last =
                    last.max(version.map(|version| (version, asked.caller == CallerKind::System)));
            }
        }
        Ok(last
            .filter(|(_, by_import)| *by_import)
            .and_then(|(version, _)| u32::try_from(version).ok()))
    }

    /// Old clients' reveals name the original's ids: one that is a UUID stays. Another follows from user and name, the same each
    /// time.
    fn id_of(&self, line: &CredentialLine) -> CredentialId {
        let derived = || {
            let hash = self
                .log
                .hashes()
                .request(
                    "import",
                    "credential",
                    &format!("{} {}", line.user, line.id),
                    &[],
                )
                .key;
            let number = u128::from_str_radix(&hash[..32], 16).unwrap_or_default(); // a hash is hexadecimal
            CredentialId(Uuid::new_v8(number.to_be_bytes()))
        };
        line.id.parse().unwrap_or_else(|_| derived())
    }

    /// Two lines that say the same of one user's credential are the same line.
    fn known_by(&self, line: &CredentialLine) -> RequestKey {
        let name = line.platform_username.as_deref().unwrap_or_default();
        let said =
            serde_json::json!([line.user, line.id, line.platform, name, line.sealed]).to_string();
        self.log
            .hashes()
            .request("import", "credentials", &said, &[])
    }
}

fn outcome(stored: Result<StoredCredential, WriteError>, id: CredentialId) -> LineOutcome {
    match stored {
        Ok(stored) if stored.again => LineOutcome::Before { id },
        Ok(_) => LineOutcome::Imported { id },
        Err(WriteError::Refused(refusal)) if refusal.code == job_exists().code => {
            LineOutcome::Rejected {
                reason: "its `creatorProfileId` is that of another user's credential here"
                    .to_owned(),
            }
        }
        Err(WriteError::Refused(refusal)) => LineOutcome::Rejected {
            reason: refusal.to_string(),
        },
        Err(WriteError::Forgotten) => {
            let reason = "genie does not know this user, or forgot them; import the line again once they are known";
            LineOutcome::Rejected {
                reason: reason.to_owned(),
            }
        }
        Err(error) => LineOutcome::Later {
            reason: error.to_string(),
        },
    }
}
