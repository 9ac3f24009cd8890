//! Imports lines: opens the values that the original encrypted and hands them to the vault, which
//! encrypts them under the user's key. A repeated line is recognized by its request key and changes
//! nothing, even after a crash.

use genie_actors::{
    CommandContext, WriteError,
    credentials::{Credentials, Plaintext, StoreTarget, StoredCredential},
};
use genie_events::{
    CallerKind, CredentialId, Metadata, Refusal, StreamId, StreamKind, UserName, job::job_exists,
};
use genie_log::{Log, LogError, RequestKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::credential_import::{line::CredentialLine, original::OriginalKey};

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum LineOutcome {
    Imported {
        id: CredentialId,
    },
    /// An earlier import stored this line.
    Before {
        id: CredentialId,
    },
    /// The line cannot be imported as it is. The reason says what to do.
    Rejected {
        reason: String,
    },
    /// The outcome is unknown, so no later line is tried.
    Later {
        reason: String,
    },
}

pub struct Importer<'a> {
    pub log: &'a Log,
    pub credentials: &'a Credentials,
    pub key: &'a OriginalKey,
}

impl Importer<'_> {
    /// Returns one outcome per line, in order, up to the first unknown one. It imports one line
    /// after the other, so that the first of two conflicting lines counts.
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
        // A later copy of the original may replace a credential that an earlier copy brought, as
        // long as nobody else has changed it.
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
            bytes: line.sealed.len(),
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

    /// The stored version, if an import stored it. Only an import stores credentials as the system.
    async fn brought_in(&self, id: CredentialId) -> Result<Option<u32>, LogError> {
        let mut last = None;
        for stored in ["credential.stored", "credential.changed"] {
            if let Some(asked) = self
                .log
                .lookups()
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

    /// Old clients reveal credentials by the original's ids, so an id that is a UUID stays. Any
    /// other id is replaced by a hash of user and id, the same each time.
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
            let number = u128::from_str_radix(&hash[..32], 16)
                .expect("32 hexadecimal digits are a number of 128 bits");
            CredentialId(Uuid::new_v8(number.to_be_bytes()))
        };
        line.id.parse().unwrap_or_else(|_| derived())
    }

    /// The request key. Two lines with the same content are the same line.
    fn known_by(&self, line: &CredentialLine) -> RequestKey {
        let name = line.platform_username.as_ref().map_or("", UserName::as_str);
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
                reason: "its `creatorProfileId` belongs to another user's credential here"
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
