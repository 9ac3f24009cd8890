//! `access`: that somebody looked at what is not theirs, where no single owner's stream could hold it. Each is a stream of its
//! own, so that those who look never wait for each other. Who looked is in the metadata.

use serde::{Deserialize, Serialize};

use crate::{
    aggregate, domain_event,
    ids::{CredentialId, UserId},
    refusal::Refusal,
};

/// Why a credential was not shown that is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nobodys {
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

/// What may be put on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessCommand {
    /// Events are about to be read with what is personal in them.
    ReadPersonal {
        /// Of this user only; of everybody without it.
        user: Option<UserId>,
    },
    /// A credential was asked for that is nobody's.
    RefuseCredential {
        /// Why it is nobody's.
        reason: Nobodys,
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
    /// A credential was asked for that is nobody's.
    CredentialRefused {
        /// Why it is nobody's.
        reason: Nobodys,
        /// Which, when it was named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credential: Option<CredentialId>,
        /// Whose, when they were named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<UserId>,
    },
}

domain_event!(AccessEvent,
    Self::PersonalRead { .. } => "access.personal_read",
    Self::CredentialRefused { .. } => "access.credential_refused",
);
aggregate!(Access, "access", AccessCommand, AccessEvent);

impl Access {
    /// What happens when this is asked.
    pub fn decide(&self, command: AccessCommand) -> Result<Vec<AccessEvent>, Refusal> {
        if *self == Self::Noted {
            return Ok(vec![]);
        }
        Ok(vec![match command {
            AccessCommand::ReadPersonal { user } => AccessEvent::PersonalRead { user },
            AccessCommand::RefuseCredential { reason, credential, user } => {
                AccessEvent::CredentialRefused { reason, credential, user }
            }
        }])
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
        let read = AccessEvent::PersonalRead { user: None };
        let ask = AccessCommand::ReadPersonal { user: None };
        TestFramework::<Access>::with(()).given_no_previous_events().when(ask).then_expect_events(vec![read.clone()]);
        TestFramework::<Access>::with(()).given(vec![read]).when(ask).then_expect_events(vec![]);
    }
}
