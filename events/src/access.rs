//! `access`: that somebody looked at what is not theirs, or tried to be somebody, where no single owner's stream could hold it.
//! Each is a stream of its own, so that those who look never wait for each other. Who looked is in the metadata.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    aggregate, domain_event,
    ids::{CredentialId, NetworkId, UserId},
    refusal::Refusal,
};

/// Why a credential was not shown that is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingOwner {
    /// There never was one, or no such user.
    Unknown,
    /// Its owner was forgotten.
    Forgotten,
}

/// What an access is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Not there.
    #[default]
    Absent,
    /// It is on record.
    Noted,
}

/// What was shown by those who are nobody, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedCounts {
    /// Wrong shared secrets.
    pub secrets: u32,
    /// Service keys that never were one.
    pub service_keys: u32,
    /// Forged tokens, and tokens that nobody gave out; none that were good once.
    pub tokens: u32,
    /// Not looked at, after too many of the others.
    pub stopped: u32,
}

impl RefusedCounts {
    /// How many in all.
    pub fn total(&self) -> u32 {
        [self.service_keys, self.tokens, self.stopped]
            .into_iter()
            .fold(self.secrets, u32::saturating_add)
    }

    /// Counts these as well.
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

/// What may be put on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessCommand {
    /// Events are about to be read with what is personal in them.
    ReadPersonal {
        /// Of this user only; of everybody without it.
        user: Option<UserId>,
    },
    /// Secrets, keys or tokens were refused.
    NoteRefused {
        /// From where; from networks beyond those that are told one by one without it.
        network: Option<NetworkId>,
        /// How many.
        wrong: RefusedCounts,
    },
    /// A credential was asked for that is nobody's.
    RefuseCredential {
        /// Why it is nobody's.
        reason: MissingOwner,
        /// Which, when it was named.
        credential: Option<CredentialId>,
        /// Whose, when they were named.
        user: Option<UserId>,
    },
}

/// What is on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AccessEvent {
    /// Events were read with what is personal in them.
    PersonalRead {
        /// Of this user only; of everybody without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<UserId>,
    },
    /// Secrets, keys or tokens were refused, since this was last told of the same network.
    Refused {
        /// From where; from networks beyond those that are told one by one without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        network: Option<NetworkId>,
        /// How many.
        #[serde(flatten)]
        wrong: RefusedCounts,
    },
    /// A credential was asked for that is nobody's.
    CredentialRefused {
        /// Why it is nobody's.
        reason: MissingOwner,
        /// Which, when it was named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credential: Option<CredentialId>,
        /// Whose, when they were named.
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
            Self::PersonalRead { user } => json!({"user": user}),
            // Not where it came from, whose hash anybody who has the key can look for.
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
    /// What happens when this is asked.
    pub fn decide(&self, command: AccessCommand) -> Result<Vec<AccessEvent>, Refusal> {
        match (self, command) {
            (Self::Noted, _) => Ok(vec![]),
            (Self::Absent, AccessCommand::ReadPersonal { user }) => {
                Ok(vec![AccessEvent::PersonalRead { user }])
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

    /// Folds what happened.
    pub fn evolve(&mut self, _: AccessEvent) {
        *self = Self::Noted;
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;

    use super::*;

    #[test]
    fn an_access_is_noted_once() {
        let wrong = RefusedCounts {
            secrets: 2,
            stopped: 1,
            ..RefusedCounts::default()
        };
        let (reason, credential, user) = (MissingOwner::Unknown, None, None);
        for (ask, noted) in [
            (
                AccessCommand::ReadPersonal { user: None },
                AccessEvent::PersonalRead { user: None },
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
