//! `credential`: that a secret is held, changed, revealed or removed. The secret itself is never here:
//! facts carry its version and the hash of its ciphertext, which lies beside the log.

use serde::{Deserialize, Serialize};

use crate::{aggregate, domain_event, refusal::Refusal};

/// What a credential is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credential {
    /// Never stored.
    #[default]
    Absent,
    /// Held.
    Held {
        /// Which platform.
        platform: String,
        /// The name there.
        platform_username: Option<String>,
        /// How many times it was stored.
        version: u32,
    },
    /// Removed; the number goes on should it be stored again.
    Removed {
        /// The last version that was held.
        version: u32,
    },
}

/// A secret that was sealed for one user, credential and version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecret {
    /// Which version it was sealed for.
    pub version: u32,
    /// SHA-256 of the ciphertext, hexadecimal.
    pub hash: String,
}

/// What may be asked of a credential.
#[derive(Debug, Clone, PartialEq)]
pub enum CredentialCommand {
    /// Hold this secret, instead of the one held, if any.
    Store {
        /// Which platform.
        platform: String,
        /// The name there; personal.
        platform_username: Option<String>,
        /// The sealed secret.
        sealed: SealedSecret,
    },
    /// Note that it is about to be shown. The plaintext may leave only after this is durable.
    Reveal {
        /// Why, in the caller's words.
        purpose: Option<String>,
    },
    /// Hold it no longer.
    Remove,
}

/// What happened to a credential.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum CredentialEvent {
    /// Stored for the first time.
    Stored {
        /// Which platform.
        platform: String,
        /// The name there; personal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        platform_username: Option<String>,
        /// Version and hash of the ciphertext.
        sealed: SealedSecret,
    },
    /// Stored anew.
    Changed {
        /// The name there; personal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        platform_username: Option<String>,
        /// Version and hash of the ciphertext.
        sealed: SealedSecret,
    },
    /// About to be shown.
    Revealed {
        /// Which version.
        version: u32,
        /// Why, in the caller's words; may be personal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        purpose: Option<String>,
    },
    /// Held no longer; the ciphertext was deleted with this fact.
    Removed,
}

domain_event!(CredentialEvent,
    Self::Stored { .. } => "credential.stored",
    Self::Changed { .. } => "credential.changed",
    Self::Revealed { .. } => "credential.revealed",
    Self::Removed => "credential.removed",
);
aggregate!(Credential, "credential", CredentialCommand, CredentialEvent);

impl Credential {
    /// The version that the next secret is to be sealed for.
    pub fn next_version(&self) -> u32 {
        match self {
            Self::Absent => 1,
            Self::Held { version, .. } | Self::Removed { version } => version.saturating_add(1),
        }
    }

    /// What happens when this is asked.
    pub fn decide(&self, command: CredentialCommand) -> Result<Vec<CredentialEvent>, Refusal> {
        match command {
            CredentialCommand::Store { platform, platform_username, sealed } => {
                if sealed.version != self.next_version() {
                    let sentence = "The credential was changed meanwhile; read it and try again";
                    return Err(Refusal::conflict("changed_meanwhile", sentence));
                }
                match self {
                    Self::Held { platform: held, .. } if *held != platform => {
                        let sentence = format!("This credential is for `{held}`; store one for `{platform}` beside it");
                        Err(Refusal::conflict("other_platform", sentence))
                    }
                    Self::Held { .. } => Ok(vec![CredentialEvent::Changed { platform_username, sealed }]),
                    _ => Ok(vec![CredentialEvent::Stored { platform, platform_username, sealed }]),
                }
            }
            CredentialCommand::Reveal { purpose } => match self {
                Self::Held { version, .. } => Ok(vec![CredentialEvent::Revealed { version: *version, purpose }]),
                _ => Err(Refusal::not_found("credential")),
            },
            CredentialCommand::Remove => match self {
                Self::Held { .. } => Ok(vec![CredentialEvent::Removed]),
                Self::Removed { .. } => Ok(vec![]),
                Self::Absent => Err(Refusal::not_found("credential")),
            },
        }
    }

    /// Folds what happened.
    pub fn evolve(&mut self, event: CredentialEvent) {
        match event {
            CredentialEvent::Stored { platform, platform_username, sealed } => {
                *self = Self::Held { platform, platform_username, version: sealed.version };
            }
            CredentialEvent::Changed { platform_username: name, sealed } => {
                if let Self::Held { platform_username, version, .. } = self {
                    *version = sealed.version;
                    *platform_username = name;
                }
            }
            CredentialEvent::Revealed { .. } => {}
            CredentialEvent::Removed => {
                if let Self::Held { version, .. } = self {
                    *self = Self::Removed { version: *version };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;

    use super::*;

    type Given = TestFramework<Credential>;

    fn sealed(version: u32) -> SealedSecret {
        SealedSecret { version, hash: "00".into() }
    }
    fn stored() -> CredentialEvent {
        CredentialEvent::Stored { platform: "x".into(), platform_username: None, sealed: sealed(1) }
    }
    fn store(version: u32) -> CredentialCommand {
        CredentialCommand::Store { platform: "x".into(), platform_username: None, sealed: sealed(version) }
    }

    #[test]
    fn storing_again_changes_and_raises_the_version() {
        Given::with(()).given_no_previous_events().when(store(1)).then_expect_events(vec![stored()]);
        Given::with(())
            .given(vec![stored()])
            .when(store(2))
            .then_expect_events(vec![CredentialEvent::Changed { platform_username: None, sealed: sealed(2) }]);
    }

    #[test]
    fn a_secret_sealed_for_another_version_is_refused() {
        let refused = Given::with(()).given(vec![stored()]).when(store(1)).inspect_result().unwrap_err();
        assert_eq!(refused.code, "changed_meanwhile");
    }

    #[test]
    fn what_is_removed_is_not_revealed_and_removing_twice_is_no_error() {
        let gone = vec![stored(), CredentialEvent::Removed];
        Given::with(()).given(gone.clone()).when(CredentialCommand::Remove).then_expect_events(vec![]);
        let refused = Given::with(()).given(gone).when(CredentialCommand::Reveal { purpose: None }).inspect_result();
        assert_eq!(refused.unwrap_err().kind, crate::RefusalKind::NotFound);
    }

    #[test]
    fn revealing_is_a_fact_with_its_purpose() {
        let reveal = CredentialCommand::Reveal { purpose: Some("publish".into()) };
        Given::with(())
            .given(vec![stored()])
            .when(reveal)
            .then_expect_events(vec![CredentialEvent::Revealed { version: 1, purpose: Some("publish".into()) }]);
    }
}
