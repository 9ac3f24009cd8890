//! `credential`: a secret is stored, changed, revealed or removed. The secret itself is never here.
//! Facts carry its version and the hash of its ciphertext, which lies beside the log.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    aggregate, domain_event, platform_name::PlatformName, refusal::Refusal, timestamp::Timestamp,
    user_name::UserName,
};

/// The kind of a credential. A user holds any number of profiles, distinguished by platform and
/// name. Of each other kind a user holds one per platform.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    /// A platform that the user connected. It counts as `platforms_connected`.
    #[default]
    Profile,
    /// Name and password for downloads.
    Password,
    /// A cookie file for downloads.
    Cookies,
    /// The cookies of a browser that was logged in.
    Session,
}

impl CredentialKind {
    pub const ALL: [Self; 4] = [Self::Profile, Self::Password, Self::Cookies, Self::Session];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Profile => "profile",
            Self::Password => "password",
            Self::Cookies => "cookies",
            Self::Session => "session",
        }
    }

    fn is_profile(&self) -> bool {
        *self == Self::Profile
    }
}

/// Why a credential was not shown. The word is stored and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedFor {
    /// The owner never held it.
    NotHeld,
    Removed,
    /// It is of another kind than the route serves.
    OtherKind,
    SessionExpired,
    /// The caller claims to work on a job of the owner but does not hold it.
    StaleLease,
    /// The caller holds a job of the owner that does not name it.
    NotNamed,
    /// The caller's key lacks the scope.
    ScopeNeeded,
    /// The owner is suspended.
    Suspended,
    /// The stored secret can't be opened: it was changed, moved or lost.
    Damaged,
}

impl RefusedFor {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotHeld => "not_held",
            Self::Removed => "removed",
            Self::OtherKind => "other_kind",
            Self::SessionExpired => "session_expired",
            Self::StaleLease => "stale_lease",
            Self::NotNamed => "not_named",
            Self::ScopeNeeded => "scope_needed",
            Self::Suspended => "suspended",
            Self::Damaged => "damaged",
        }
    }

    /// The refusal that the caller gets.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::NotHeld | Self::Removed | Self::OtherKind | Self::NotNamed => {
                Refusal::not_found("credential")
            }
            Self::SessionExpired => Refusal::gone(
                "session_expired",
                "The session is over; its user has to log in on the platform and capture it again",
            ),
            Self::StaleLease => Refusal::conflict(
                "stale_lease",
                "This lease is not the present one of a job of the credential's owner",
            ),
            Self::ScopeNeeded => {
                let sentence = format!(
                    "This needs a service key with the scope `{}`",
                    crate::service_key::Scope::CredentialsReveal
                );
                Refusal::forbidden("scope_needed", sentence)
            }
            Self::Suspended => Refusal::forbidden(
                "suspended",
                "The credential's owner is suspended; ask an administrator",
            ),
            Self::Damaged => Refusal::conflict(
                "damaged",
                "The stored secret can't be opened; its owner has to store it again",
            ),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credential {
    #[default]
    Absent,
    Held {
        kind: CredentialKind,
        platform: PlatformName,
        /// The name on the platform.
        platform_username: Option<UserName>,
        /// How many times it was stored.
        version: u32,
        /// The expiry of a session.
        expires_at: Option<Timestamp>,
    },
    /// The credential was removed. Its id is not used again.
    Removed,
}

/// A secret that was sealed for one user, credential and version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecret {
    pub version: u32,
    /// SHA-256 of the ciphertext, in hexadecimal.
    pub hash: String,
}

#[derive(Debug, Clone, PartialEq)]
pub enum CredentialCommand {
    /// Stores this secret and replaces the one held, if any.
    Store {
        kind: CredentialKind,
        platform: PlatformName,
        /// The name on the platform; personal.
        platform_username: Option<UserName>,
        /// The expiry of a session.
        expires_at: Option<Timestamp>,
        sealed: SealedSecret,
    },
    /// Records that the secret is about to be shown. The plaintext may leave only after this is
    /// durable.
    Reveal {
        /// The purpose in the caller's words.
        purpose: Option<String>,
    },
    /// Records that a caller asked for the secret and did not get it.
    Refuse {
        reason: RefusedFor,
        /// The platform, if the request named one.
        platform: Option<PlatformName>,
        /// The purpose in the caller's words.
        purpose: Option<String>,
    },
    Remove,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum CredentialEvent {
    Stored {
        /// A fact without a kind is of a profile.
        #[serde(default, skip_serializing_if = "CredentialKind::is_profile")]
        kind: CredentialKind,
        platform: PlatformName,
        /// The name on the platform; personal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        platform_username: Option<UserName>,
        /// The expiry of a session.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
        sealed: SealedSecret,
    },
    Changed {
        /// The name on the platform; personal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        platform_username: Option<UserName>,
        /// The expiry of a session.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
        sealed: SealedSecret,
    },
    /// The secret is about to be shown.
    Revealed {
        version: u32,
        /// The purpose in the caller's words; may be personal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        purpose: Option<String>,
    },
    /// A caller asked for the secret and did not get it.
    Refused {
        reason: RefusedFor,
        /// The platform, if the request named one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        platform: Option<PlatformName>,
        /// The purpose in the caller's words; may be personal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        purpose: Option<String>,
    },
    /// The same append deleted the ciphertext.
    Removed,
}

domain_event!(CredentialEvent,
    Self::Stored { .. } => "credential.stored",
    Self::Changed { .. } => "credential.changed",
    Self::Revealed { .. } => "credential.revealed",
    Self::Refused { .. } => "credential.refused",
    Self::Removed => "credential.removed",
);
aggregate!(Credential, "credential", CredentialCommand, CredentialEvent);

impl CredentialEvent {
    /// The fields that are not personal and are stored readable.
    pub(crate) fn clear(&self) -> Value {
        match self {
            Self::Stored {
                kind,
                platform,
                expires_at,
                sealed,
                ..
            } => {
                json!({"kind": kind, "platform": platform, "version": sealed.version, "expires_at": expires_at})
            }
            Self::Changed {
                expires_at, sealed, ..
            } => {
                json!({"version": sealed.version, "expires_at": expires_at})
            }
            Self::Revealed { version, .. } => json!({"version": version}),
            Self::Refused { reason, .. } => json!({"reason": reason}),
            Self::Removed => json!({}),
        }
    }
}

impl Credential {
    /// The version for which the next secret has to be sealed.
    pub fn next_version(&self) -> u32 {
        match self {
            Self::Absent | Self::Removed => 1,
            Self::Held { version, .. } => version.saturating_add(1),
        }
    }

    pub fn decide(&self, command: CredentialCommand) -> Result<Vec<CredentialEvent>, Refusal> {
        match command {
            CredentialCommand::Store {
                kind,
                platform,
                platform_username,
                expires_at,
                sealed,
            } => self.store(kind, platform, platform_username, expires_at, sealed),
            CredentialCommand::Reveal { purpose } => match self {
                Self::Held { version, .. } => Ok(vec![CredentialEvent::Revealed {
                    version: *version,
                    purpose,
                }]),
                _ => Err(Refusal::not_found("credential")),
            },
            CredentialCommand::Refuse {
                reason,
                platform,
                purpose,
            } => Ok(vec![CredentialEvent::Refused {
                reason,
                platform,
                purpose,
            }]),
            CredentialCommand::Remove => match self {
                Self::Held { .. } => Ok(vec![CredentialEvent::Removed]),
                Self::Removed => Ok(vec![]),
                Self::Absent => Err(Refusal::not_found("credential")),
            },
        }
    }

    fn store(
        &self,
        kind: CredentialKind,
        platform: PlatformName,
        platform_username: Option<UserName>,
        expires_at: Option<Timestamp>,
        sealed: SealedSecret,
    ) -> Result<Vec<CredentialEvent>, Refusal> {
        if *self == Self::Removed {
            let sentence = "This credential was removed; store a new one";
            return Err(Refusal::conflict("removed", sentence));
        }
        if sealed.version != self.next_version() {
            let sentence = "The credential was changed meanwhile; read it and try again";
            return Err(Refusal::conflict("changed_meanwhile", sentence));
        }
        match self {
            Self::Held { kind: held, .. } if *held != kind => {
                let held = held.as_str();
                let wanted = kind.as_str();
                let sentence =
                    format!("This credential is a `{held}`; store a `{wanted}` beside it");
                Err(Refusal::conflict("other_kind", sentence))
            }
            Self::Held { platform: held, .. } if *held != platform => {
                let sentence = format!(
                    "This credential is for `{held}`; store one for `{platform}` beside it"
                );
                Err(Refusal::conflict("other_platform", sentence))
            }
            Self::Held { .. } => Ok(vec![CredentialEvent::Changed {
                platform_username,
                expires_at,
                sealed,
            }]),
            _ => Ok(vec![CredentialEvent::Stored {
                kind,
                platform,
                platform_username,
                expires_at,
                sealed,
            }]),
        }
    }

    pub fn evolve(&mut self, event: CredentialEvent) {
        match event {
            CredentialEvent::Stored {
                kind,
                platform,
                platform_username,
                expires_at,
                sealed,
            } => {
                *self = Self::Held {
                    kind,
                    platform,
                    platform_username,
                    version: sealed.version,
                    expires_at,
                };
            }
            CredentialEvent::Changed {
                platform_username: name,
                expires_at: end,
                sealed,
            } => {
                if let Self::Held {
                    platform_username,
                    version,
                    expires_at,
                    ..
                } = self
                {
                    *version = sealed.version;
                    *platform_username = name;
                    *expires_at = end;
                }
            }
            CredentialEvent::Revealed { .. } | CredentialEvent::Refused { .. } => {}
            CredentialEvent::Removed => {
                *self = Self::Removed;
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
        SealedSecret {
            version,
            hash: "00".into(),
        }
    }
    fn stored() -> CredentialEvent {
        let kind = CredentialKind::Profile;
        let platform = PlatformName::read("x").unwrap();
        CredentialEvent::Stored {
            kind,
            platform,
            platform_username: None,
            expires_at: None,
            sealed: sealed(1),
        }
    }
    fn store(version: u32) -> CredentialCommand {
        let kind = CredentialKind::Profile;
        let platform = PlatformName::read("x").unwrap();
        CredentialCommand::Store {
            kind,
            platform,
            platform_username: None,
            expires_at: None,
            sealed: sealed(version),
        }
    }

    #[test]
    fn storing_again_changes_and_raises_the_version() {
        Given::with(())
            .given_no_previous_events()
            .when(store(1))
            .then_expect_events(vec![stored()]);
        Given::with(())
            .given(vec![stored()])
            .when(store(2))
            .then_expect_events(vec![CredentialEvent::Changed {
                platform_username: None,
                expires_at: None,
                sealed: sealed(2),
            }]);
    }

    #[test]
    fn a_credential_stays_of_its_kind_and_platform() {
        let CredentialCommand::Store {
            platform_username,
            expires_at,
            sealed,
            ..
        } = store(2)
        else {
            panic!()
        };
        for (kind, platform, code) in [
            (CredentialKind::Session, "x", "other_kind"),
            (CredentialKind::Profile, "reddit", "other_platform"),
        ] {
            let platform_username = platform_username.clone();
            let sealed = sealed.clone();
            let command = CredentialCommand::Store {
                kind,
                platform: PlatformName::read(platform).unwrap(),
                platform_username,
                expires_at,
                sealed,
            };
            let refused = Given::with(())
                .given(vec![stored()])
                .when(command)
                .inspect_result()
                .unwrap_err();
            assert_eq!(refused.code, code);
        }
    }

    #[test]
    fn a_refusal_is_a_fact_for_every_credential() {
        let refused = CredentialEvent::Refused {
            reason: RefusedFor::Removed,
            platform: None,
            purpose: None,
        };
        let refuse = CredentialCommand::Refuse {
            reason: RefusedFor::Removed,
            platform: None,
            purpose: None,
        };
        for given in [
            vec![],
            vec![stored()],
            vec![stored(), CredentialEvent::Removed],
        ] {
            Given::with(())
                .given(given)
                .when(refuse.clone())
                .then_expect_events(vec![refused.clone()]);
        }
        let mut removed = Credential::Removed;
        removed.evolve(refused);
        assert_eq!(removed, Credential::Removed, "a refusal changes nothing");
    }

    #[test]
    fn words_are_the_same_stored_and_shown() {
        for kind in CredentialKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        for reason in [
            RefusedFor::NotHeld,
            RefusedFor::Removed,
            RefusedFor::OtherKind,
            RefusedFor::SessionExpired,
            RefusedFor::StaleLease,
            RefusedFor::ScopeNeeded,
            RefusedFor::Suspended,
            RefusedFor::Damaged,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    #[test]
    fn a_secret_sealed_for_another_version_is_refused() {
        let refused = Given::with(())
            .given(vec![stored()])
            .when(store(1))
            .inspect_result()
            .unwrap_err();
        assert_eq!(refused.code, "changed_meanwhile");
    }

    #[test]
    fn a_removed_credential_stays_removed_and_removing_twice_is_no_error() {
        let gone = vec![stored(), CredentialEvent::Removed];
        let again = Given::with(())
            .given(gone.clone())
            .when(store(1))
            .inspect_result();
        assert_eq!(again.unwrap_err().code, "removed");
        Given::with(())
            .given(gone.clone())
            .when(CredentialCommand::Remove)
            .then_expect_events(vec![]);
        let refused = Given::with(())
            .given(gone)
            .when(CredentialCommand::Reveal { purpose: None })
            .inspect_result();
        assert_eq!(refused.unwrap_err().kind, crate::RefusalKind::NotFound);
    }

    #[test]
    fn revealing_is_a_fact_with_its_purpose() {
        let reveal = CredentialCommand::Reveal {
            purpose: Some("publish".into()),
        };
        Given::with(())
            .given(vec![stored()])
            .when(reveal)
            .then_expect_events(vec![CredentialEvent::Revealed {
                version: 1,
                purpose: Some("publish".into()),
            }]);
    }
}
