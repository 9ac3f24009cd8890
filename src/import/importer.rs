//! Takes lines in: opens what the original sealed and hands it to the vault, under the user's own key. The same line again is
//! found by its key and changes nothing, however often it is sent and whoever was killed meanwhile.

use genie_actors::{
    Asking, WriteError,
    users::Users,
    vault::{Plaintext, Target, Vault},
};
use genie_events::{CredentialId, Metadata, job::job_exists};
use genie_log::{Log, RequestKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::import::{line::Line, original::OriginalKey};

/// What became of a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It is held now, under this id.
    Imported {
        /// Which.
        id: CredentialId,
    },
    /// An earlier import had brought it.
    Before {
        /// Which.
        id: CredentialId,
    },
    /// It was not taken in, and won't be as it is.
    Rejected {
        /// Why, and what to do.
        reason: String,
    },
    /// Nothing can be said of it now. No lines come after it.
    Later {
        /// Why.
        reason: String,
    },
}

/// What takes lines in.
pub struct Importer<'a> {
    /// The log.
    pub log: &'a Log,
    /// Users' actors.
    pub users: &'a Users,
    /// Secrets.
    pub vault: &'a Vault,
    /// The original's key.
    pub key: &'a OriginalKey,
}

impl Importer<'_> {
    /// One outcome for each line, in order, up to the first of which nothing can be said. One line after the other: of two that
    /// are at odds, the first one counts.
    pub async fn take(&self, lines: Vec<Line>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(lines.len());
        for line in lines {
            outcomes.push(self.take_one(line).await);
            if matches!(outcomes.last(), Some(Outcome::Later { .. })) {
                break;
            }
        }
        outcomes
    }

    async fn take_one(&self, line: Line) -> Outcome {
        let secret = match self.key.open(&line.sealed).map(Plaintext::of_object) {
            Ok(Ok(secret)) => secret,
            Ok(Err(refusal)) => return Outcome::Rejected { reason: refusal.to_string() },
            Err(reason) => return Outcome::Rejected { reason: reason.to_string() },
        };
        let id = self.id_of(&line);
        let asking = Asking { metadata: Metadata::system(), key: Some(self.known_by(&line)) };
        let Line { user, platform, platform_username, .. } = line;
        let target = Target::Imported { id, platform, platform_username };
        match self.vault.store(self.users, user, asking, target, secret).await {
            Ok(stored) if stored.again => Outcome::Before { id },
            Ok(_) => Outcome::Imported { id },
            Err(WriteError::Refused(refusal)) if refusal.code == job_exists().code => {
                Outcome::Rejected { reason: "its `creatorProfileId` is that of another user's credential here".to_owned() }
            }
            Err(WriteError::Refused(refusal)) => Outcome::Rejected { reason: refusal.to_string() },
            Err(WriteError::Forgotten) => {
                let reason = "genie does not know this user, or forgot them; import the line again once they are known";
                Outcome::Rejected { reason: reason.to_owned() }
            }
            Err(error) => Outcome::Later { reason: error.to_string() },
        }
    }

    /// Old clients' reveals name the original's ids: one that is a UUID stays. Another follows from user and name, the same each
    /// time.
    fn id_of(&self, line: &Line) -> CredentialId {
        let derived = || {
            let hash = self.log.hashes().request("import", "credential", &format!("{} {}", line.user, line.id), &[]).key;
            let number = u128::from_str_radix(&hash[..32], 16).unwrap_or_default(); // a hash is hexadecimal
            CredentialId(Uuid::new_v8(number.to_be_bytes()))
        };
        line.id.parse().unwrap_or_else(|_| derived())
    }

    /// The same user, credential and sealed text are the same line.
    fn known_by(&self, line: &Line) -> RequestKey {
        self.log.hashes().request("import", "credentials", &format!("{} {} {}", line.user, line.id, line.sealed), &[])
    }
}
