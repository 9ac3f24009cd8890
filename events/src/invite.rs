//! `invite`: a code that lets one person register. The id of its stream is a keyed hash of the
//! code.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    aggregate, domain_event, email::under_way, ids::UserId, refusal::Refusal, tier::Tier,
    timestamp::Timestamp,
};

mod code;
pub use code::InviteCode;

/// The column of the read table for which codes are sealed.
pub const CODE_COLUMN: &str = "invites.code";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invite {
    #[default]
    Absent,
    Open(Grant),
    /// A registration that is under way, or broke off, has reserved the invite.
    Reserved {
        grant: Grant,
        /// The id of the future user.
        user: UserId,
    },
    Spent,
    /// An administrator revoked the invite before anybody used it.
    Revoked,
}

/// The rights of the user who registers with the invite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    pub tier: Tier,
    pub role: String,
    /// True when the user becomes an administrator.
    pub admin: bool,
    /// The invite can't be used from this time on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum InviteCommand {
    Create {
        grant: Grant,
        sealed_code: String,
    },
    Reserve {
        /// The id of the future user.
        user: UserId,
        now: Timestamp,
    },
    /// Gives the invite back if it is reserved for this user.
    Release(UserId),
    Spend {
        user: UserId,
        now: Timestamp,
    },
    Revoke,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum InviteEvent {
    Created {
        #[serde(flatten)]
        grant: Grant,
        /// The code for administrators' lists. It is sealed a second time, so that a reader of this
        /// event can't register with it. The first invites that were made have none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sealed_code: Option<String>,
    },
    Reserved {
        /// The id of the future user.
        user: UserId,
    },
    /// The registration came to nothing.
    Released {
        /// The id for which the invite was reserved.
        user: UserId,
    },
    Spent {
        user: UserId,
    },
    Revoked,
}

domain_event!(InviteEvent,
    Self::Created { .. } => "invite.created",
    Self::Reserved { .. } => "invite.reserved",
    Self::Released { .. } => "invite.released",
    Self::Spent { .. } => "invite.spent",
    Self::Revoked => "invite.revoked",
);
aggregate!(Invite, "invite", InviteCommand, InviteEvent);

impl InviteEvent {
    /// The fields that are not personal and are stored readable.
    pub(crate) fn clear(&self) -> Value {
        match self {
            Self::Created { grant, .. } => {
                json!({"tier": grant.tier, "role": grant.role, "admin": grant.admin})
            }
            Self::Reserved { user } | Self::Released { user } | Self::Spent { user } => {
                json!({"user": user})
            }
            Self::Revoked => json!({}),
        }
    }
}

impl Invite {
    /// The rights that the invite gives, if it may be used.
    pub fn grant(&self, now: Timestamp) -> Result<&Grant, Refusal> {
        match self {
            Self::Open(grant) if grant.expires_at.is_none_or(|at| now < at) => Ok(grant),
            Self::Open(_) => Err(Refusal::invalid(
                "inviteCode",
                "This invite has expired; ask for another",
            )),
            Self::Reserved { .. } => Err(under_way()),
            Self::Spent => Err(Refusal::invalid(
                "inviteCode",
                "This invite was used already; ask for another",
            )),
            Self::Revoked => Err(Refusal::invalid(
                "inviteCode",
                "This invite was revoked; ask for another",
            )),
            Self::Absent => Err(Refusal::invalid(
                "inviteCode",
                "There is no such invite; check `inviteCode`",
            )),
        }
    }

    pub fn decide(&self, command: InviteCommand) -> Result<Vec<InviteEvent>, Refusal> {
        match command {
            InviteCommand::Create { grant, sealed_code } => match self {
                Self::Absent => Ok(vec![InviteEvent::Created {
                    grant,
                    sealed_code: Some(sealed_code),
                }]),
                _ => Ok(vec![]),
            },
            InviteCommand::Reserve { user, now } => self
                .grant(now)
                .map(|_| vec![InviteEvent::Reserved { user }]),
            InviteCommand::Release(user) => match self {
                Self::Reserved { user: kept, .. } if *kept == user => {
                    Ok(vec![InviteEvent::Released { user }])
                }
                _ => Ok(vec![]), // the invite is not reserved for this user
            },
            InviteCommand::Spend { user, now } => match self {
                // The invite had not expired when it was reserved.
                Self::Reserved { user: kept, .. } if *kept == user => {
                    Ok(vec![InviteEvent::Spent { user }])
                }
                _ => self.grant(now).map(|_| vec![InviteEvent::Spent { user }]),
            },
            InviteCommand::Revoke => match self {
                Self::Open(_) => Ok(vec![InviteEvent::Revoked]),
                Self::Revoked => Ok(vec![]),
                Self::Reserved { .. } => Err(under_way()),
                Self::Spent => Err(Refusal::conflict(
                    "invite_spent",
                    "This invite was used already; its user is there",
                )),
                Self::Absent => Err(Refusal::not_found("invite")),
            },
        }
    }

    pub fn evolve(&mut self, event: InviteEvent) {
        match event {
            InviteEvent::Created { grant, .. } => *self = Self::Open(grant),
            InviteEvent::Reserved { user } => {
                if let Self::Open(grant) = self {
                    *self = Self::Reserved {
                        grant: grant.clone(),
                        user,
                    };
                }
            }
            InviteEvent::Released { .. } => {
                if let Self::Reserved { grant, .. } = self {
                    *self = Self::Open(grant.clone());
                }
            }
            InviteEvent::Spent { .. } => *self = Self::Spent,
            InviteEvent::Revoked => *self = Self::Revoked,
        }
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;
    use uuid::Uuid;

    use super::*;

    fn created(expires_at: Option<Timestamp>) -> InviteEvent {
        let grant = Grant {
            tier: Tier::Starter,
            role: "creator".into(),
            admin: false,
            expires_at,
        };
        InviteEvent::Created {
            grant,
            sealed_code: Some("sealed".into()),
        }
    }

    #[test]
    fn an_invite_is_used_once_and_in_time() {
        let user = UserId(Uuid::from_u128(1));
        let spend = || InviteCommand::Spend {
            user,
            now: Timestamp(10),
        };
        let spent = InviteEvent::Spent { user };
        let given = |events| TestFramework::<Invite>::with(()).given(events);
        given(vec![created(None)])
            .when(spend())
            .then_expect_events(vec![spent.clone()]);
        for (history, sentence) in [
            (vec![created(Some(Timestamp(10)))], "expired"),
            (vec![created(None), spent.clone()], "used already"),
            (vec![created(None), InviteEvent::Revoked], "revoked"),
            (vec![], "no such invite"),
        ] {
            let refused = given(history).when(spend()).inspect_result().unwrap_err();
            assert!(refused.sentence.contains(sentence), "{refused}");
        }
        given(vec![created(Some(Timestamp(10)))])
            .when(InviteCommand::Revoke)
            .then_expect_events(vec![InviteEvent::Revoked]);
        given(vec![created(None), InviteEvent::Revoked])
            .when(InviteCommand::Revoke)
            .then_expect_events(vec![]);
        for (history, code) in [
            (vec![created(None), spent], "invite_spent"),
            (vec![], "not_found"),
        ] {
            let refused = given(history)
                .when(InviteCommand::Revoke)
                .inspect_result()
                .unwrap_err();
            assert_eq!(refused.code, code);
        }
    }

    #[test]
    fn a_reserved_invite_is_only_for_its_registration_and_may_be_given_back() {
        let (ada, bob) = (UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let spend = |user| InviteCommand::Spend {
            user,
            now: Timestamp(10),
        };
        let kept = vec![
            created(Some(Timestamp(5))),
            InviteEvent::Reserved { user: ada },
        ];
        let given = |events| TestFramework::<Invite>::with(()).given(events);
        let reserve = |now| InviteCommand::Reserve {
            user: ada,
            now: Timestamp(now),
        };
        given(vec![created(Some(Timestamp(5)))])
            .when(reserve(4))
            .then_expect_events(vec![InviteEvent::Reserved { user: ada }]);
        assert!(
            given(vec![created(Some(Timestamp(5)))])
                .when(reserve(5))
                .inspect_result()
                .is_err(),
            "the invite has expired"
        );
        let spent = InviteEvent::Spent { user: ada };
        given(kept.clone())
            .when(spend(ada))
            .then_expect_events(vec![spent]); // although the invite has expired meanwhile
        assert_eq!(
            given(kept.clone())
                .when(spend(bob))
                .inspect_result()
                .unwrap_err()
                .code,
            "registration_under_way"
        );
        given(kept.clone())
            .when(InviteCommand::Release(bob))
            .then_expect_events(vec![]);
        assert_eq!(
            given(kept.clone())
                .when(InviteCommand::Revoke)
                .inspect_result()
                .unwrap_err()
                .code,
            "registration_under_way"
        );
        let released = InviteEvent::Released { user: ada };
        given(kept.clone())
            .when(InviteCommand::Release(ada))
            .then_expect_events(vec![released.clone()]);
        let again = given([kept, vec![released]].concat())
            .when(spend(bob))
            .inspect_result()
            .unwrap_err();
        assert!(again.sentence.contains("expired"), "{again}");
    }
}
