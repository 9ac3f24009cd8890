//! `invite`: a code that opens the door once. Its stream's id is a keyed hash of the code.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    aggregate, domain_event, email::under_way, ids::UserId, refusal::Refusal, tier::Tier,
    timestamp::Timestamp,
};

/// The column of the read table that codes are sealed for.
pub const CODE_COLUMN: &str = "invites.code";

/// What an invite is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invite {
    /// Never made.
    #[default]
    Absent,
    /// May be used.
    Open(Grant),
    /// Is kept for a registration that is under way, or broke off.
    Reserved {
        /// What its user becomes.
        grant: Grant,
        /// Who it will be.
        user: UserId,
    },
    /// Was used.
    Spent,
    /// Was taken back before anybody used it.
    Revoked,
}

/// What its user becomes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// The tier.
    pub tier: Tier,
    /// The role's name.
    pub role: String,
    /// Whether an administrator.
    pub admin: bool,
    /// Not usable from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// What may be asked of an invite.
#[derive(Debug, Clone, PartialEq)]
pub enum InviteCommand {
    /// Make it.
    Create {
        /// What its user becomes.
        grant: Grant,
        /// The code, sealed.
        sealed_code: String,
    },
    /// Keep it for a registration.
    Reserve {
        /// Who it will be.
        user: UserId,
        /// Now.
        now: Timestamp,
    },
    /// Keep it no longer for this user.
    Release(UserId),
    /// Use it.
    Spend {
        /// Who.
        user: UserId,
        /// Now.
        now: Timestamp,
    },
    /// Take it back.
    Revoke,
}

/// What happened to an invite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum InviteEvent {
    /// Made.
    Created {
        /// What its user becomes.
        #[serde(flatten)]
        grant: Grant,
        /// The code, for administrators' lists: sealed once more, so that nobody who reads this event has a way in. Absent in
        /// the first ones that were made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sealed_code: Option<String>,
    },
    /// Kept for a registration.
    Reserved {
        /// Who it will be.
        user: UserId,
    },
    /// Kept no longer: the registration came to nothing.
    Released {
        /// For whom it was kept.
        user: UserId,
    },
    /// Used.
    Spent {
        /// By whom.
        user: UserId,
    },
    /// Taken back.
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
    /// What its user becomes, if it may be used.
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
                "This invite was taken back; ask for another",
            )),
            Self::Absent => Err(Refusal::invalid(
                "inviteCode",
                "There is no such invite; check `inviteCode`",
            )),
        }
    }

    /// What happens when this is asked.
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
                _ => Ok(vec![]), // it is not kept for them
            },
            InviteCommand::Spend { user, now } => match self {
                // In time when it was reserved.
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

    /// Folds what happened.
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
            (vec![created(None), InviteEvent::Revoked], "taken back"),
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
    fn a_kept_invite_is_only_for_whom_it_is_kept_and_may_be_given_back() {
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
            "it has expired"
        );
        let spent = InviteEvent::Spent { user: ada };
        given(kept.clone())
            .when(spend(ada))
            .then_expect_events(vec![spent]); // although it has expired meanwhile
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
