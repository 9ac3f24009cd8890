//! `access`: records that somebody read another user's data, or showed a wrong secret, where no
//! single owner's stream could hold the fact. Each record is a stream of its own, so that callers
//! never wait for each other. The metadata names the caller.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    aggregate, domain_event,
    ids::{CredentialId, NetworkId, UserId},
    refusal::Refusal,
};

/// Why a credential that was asked for has no owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingOwner {
    /// There never was such a credential or user.
    Unknown,
    /// The owner was forgotten.
    Forgotten,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    #[default]
    Absent,
    Noted,
}

/// Numbers of refused secrets, keys and tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedCounts {
    pub secrets: u32,
    /// Service keys that never existed.
    pub service_keys: u32,
    /// Forged tokens and tokens that genie never issued. Expired tokens do not count.
    pub tokens: u32,
    /// Attempts that were not checked, because too many failed before.
    pub stopped: u32,
}

impl RefusedCounts {
    pub fn total(&self) -> u32 {
        [self.service_keys, self.tokens, self.stopped]
            .into_iter()
            .fold(self.secrets, u32::saturating_add)
    }

    pub fn add(&mut self, more: Self) {
        for (count, more) in [
            (&mut self.secrets, more.secrets),
            (&mut self.service_keys, more.service_keys),
            (&mut self.tokens, more.tokens),
            (&mut self.stopped, more.stopped),
        ] {
            *count = count.saturating_add(more);
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessCommand {
    /// Records that personal data are about to be read.
    ReadPersonal {
        /// The user whose data are read; `None` for all users.
        user: Option<UserId>,
        /// The reader's words.
        reason: Option<String>,
    },
    /// Records that secrets, keys or tokens were refused.
    NoteRefused {
        /// The caller's network; `None` for the sum of networks beyond those recorded one by one.
        network: Option<NetworkId>,
        wrong: RefusedCounts,
    },
    /// Records that a credential without an owner was asked for.
    RefuseCredential {
        reason: MissingOwner,
        /// The credential, if the request named it.
        credential: Option<CredentialId>,
        /// The user, if the request named one.
        user: Option<UserId>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AccessEvent {
    /// Personal data were read.
    PersonalRead {
        /// The user whose data were read; `None` for all users.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<UserId>,
        /// The reader's words; personal. Servers and keys state none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stated_reason: Option<String>,
    },
    /// Secrets, keys or tokens were refused since the last such fact about the same network.
    Refused {
        /// The caller's network; `None` for the sum of networks beyond those recorded one by one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        network: Option<NetworkId>,
        #[serde(flatten)]
        wrong: RefusedCounts,
    },
    /// A credential without an owner was asked for.
    CredentialRefused {
        reason: MissingOwner,
        /// The credential, if the request named it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credential: Option<CredentialId>,
        /// The user, if the request named one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<UserId>,
    },
}

domain_event!(
    AccessEvent,
    Self::PersonalRead { .. } => "access.personal_read",
    Self::Refused { .. } => "access.refused",
    Self::CredentialRefused { .. } => "access.credential_refused",
);
aggregate!(Access, "access", AccessCommand, AccessEvent);

impl AccessEvent {
    /// The fields that are not personal and are stored readable.
    pub(crate) fn clear(&self) -> Value {
        match self {
            Self::PersonalRead { user, .. } => json!({"user": user}),
            // The network is left out: anybody who has the key could look for its hash.
            Self::Refused { wrong, .. } => json!(wrong),
            Self::CredentialRefused {
                reason,
                credential,
                user,
            } => {
                json!({"reason": reason, "credential": credential, "user": user})
            }
        }
    }
}

impl Access {
    pub fn decide(&self, command: AccessCommand) -> Result<Vec<AccessEvent>, Refusal> {
        match (self, command) {
            (Self::Noted, _) => Ok(vec![]),
            (Self::Absent, AccessCommand::ReadPersonal { user, reason }) => {
                Ok(vec![AccessEvent::PersonalRead {
                    user,
                    stated_reason: reason,
                }])
            }
            (Self::Absent, AccessCommand::NoteRefused { wrong, .. }) if wrong.total() == 0 => {
                Ok(vec![])
            }
            (Self::Absent, AccessCommand::NoteRefused { network, wrong }) => {
                Ok(vec![AccessEvent::Refused { network, wrong }])
            }
            (
                Self::Absent,
                AccessCommand::RefuseCredential {
                    reason,
                    credential,
                    user,
                },
            ) => Ok(vec![AccessEvent::CredentialRefused {
                reason,
                credential,
                user,
            }]),
        }
    }

    pub fn evolve(&mut self, _: AccessEvent) {
        *self = Self::Noted;
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;

    use super::*;

    #[test]
    fn an_access_is_recorded_once() {
        let wrong = RefusedCounts {
            secrets: 2,
            stopped: 1,
            ..RefusedCounts::default()
        };
        let reason = MissingOwner::Unknown;
        let credential = None;
        let user = None;
        for (ask, noted) in [
            (
                AccessCommand::ReadPersonal {
                    user: None,
                    reason: Some("a complaint".into()),
                },
                AccessEvent::PersonalRead {
                    user: None,
                    stated_reason: Some("a complaint".into()),
                },
            ),
            (
                AccessCommand::RefuseCredential {
                    reason,
                    credential,
                    user,
                },
                AccessEvent::CredentialRefused {
                    reason,
                    credential,
                    user,
                },
            ),
            (
                AccessCommand::NoteRefused {
                    network: None,
                    wrong,
                },
                AccessEvent::Refused {
                    network: None,
                    wrong,
                },
            ),
        ] {
            let access = TestFramework::<Access>::with(());
            access
                .given_no_previous_events()
                .when(ask.clone())
                .then_expect_events(vec![noted.clone()]);
            TestFramework::<Access>::with(())
                .given(vec![noted])
                .when(ask)
                .then_expect_events(vec![]);
        }
        let nothing = AccessCommand::NoteRefused {
            network: None,
            wrong: RefusedCounts::default(),
        };
        TestFramework::<Access>::with(())
            .given_no_previous_events()
            .when(nothing)
            .then_expect_events(vec![]);
    }
}
