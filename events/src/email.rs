//! `email`: the fence that makes an address unique. The id of its stream is a keyed hash of the
//! address in its normal form.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    aggregate, domain_event,
    ids::{InviteId, UserId},
    refusal::Refusal,
    timestamp::Timestamp,
};

mod address;
pub use address::EmailAddress;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Email {
    #[default]
    Free,
    Taken(UserId),
    /// A registration that is under way, or broke off, has reserved the address.
    Reserved(Reservation),
}

/// A registration that needs another identity provider. Address and invite are reserved for it
/// until that provider has the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The id of the future user.
    pub user: UserId,
    /// The invite that the registration uses and has reserved too.
    pub invite: InviteId,
    /// From this time on the server that reserved the address counts as gone.
    pub until: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmailCommand {
    Reserve(Reservation),
    /// Gives the address to this user.
    Claim(UserId),
    /// Takes the address from this user, who has another one now.
    Release(UserId),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EmailEvent {
    Reserved(Reservation),
    Claimed {
        user: UserId,
    },
    Released {
        /// The user who had the address, or had it reserved.
        user: UserId,
    },
}

domain_event!(EmailEvent,
    Self::Reserved(_) => "email.reserved",
    Self::Claimed { .. } => "email.claimed",
    Self::Released { .. } => "email.released",
);
aggregate!(Email, "email", EmailCommand, EmailEvent);

impl EmailEvent {
    /// The fields that are not personal and are stored readable.
    pub(crate) fn clear(&self) -> Value {
        match self {
            Self::Claimed { user } | Self::Released { user } => json!({"user": user}),
            Self::Reserved(reservation) => {
                json!({"user": reservation.user, "until": reservation.until})
            }
        }
    }
}

impl Email {
    /// The user who has the address.
    pub fn holder(&self) -> Option<UserId> {
        match self {
            Self::Free | Self::Reserved(_) => None,
            Self::Taken(user) => Some(*user),
        }
    }

    pub fn decide(&self, command: EmailCommand) -> Result<Vec<EmailEvent>, Refusal> {
        match (self, command) {
            (Self::Free, EmailCommand::Reserve(reservation)) => {
                Ok(vec![EmailEvent::Reserved(reservation)])
            }
            (Self::Free, EmailCommand::Claim(user)) => Ok(vec![EmailEvent::Claimed { user }]),
            (Self::Taken(holder), EmailCommand::Claim(user)) if *holder == user => Ok(vec![]),
            (Self::Taken(_), EmailCommand::Claim(_) | EmailCommand::Reserve(_)) => {
                Err(Refusal::conflict(
                    "email_taken",
                    "This e-mail address is registered already; log in instead",
                ))
            }
            (Self::Taken(holder), EmailCommand::Release(user)) if *holder == user => {
                Ok(vec![EmailEvent::Released { user }])
            }
            (Self::Reserved(kept), EmailCommand::Claim(user)) if kept.user == user => {
                Ok(vec![EmailEvent::Claimed { user }])
            }
            (Self::Reserved(kept), EmailCommand::Release(user)) if kept.user == user => {
                Ok(vec![EmailEvent::Released { user }])
            }
            (Self::Reserved(_), EmailCommand::Claim(_) | EmailCommand::Reserve(_)) => {
                Err(under_way())
            }
            (_, EmailCommand::Release(_)) => Ok(vec![]), // the address belongs to another user
        }
    }

    pub fn evolve(&mut self, event: EmailEvent) {
        *self = match event {
            EmailEvent::Reserved(reservation) => Self::Reserved(reservation),
            EmailEvent::Claimed { user } => Self::Taken(user),
            EmailEvent::Released { .. } => Self::Free,
        };
    }
}

/// The address or invite is reserved for another registration.
pub(crate) fn under_way() -> Refusal {
    let sentence = "A registration with this address or this invite is under way or broke off; try again in some minutes";
    Refusal::conflict("registration_under_way", sentence)
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn an_address_belongs_to_one_user() {
        let (ada, bob) = (UserId(uuid::Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let taken = vec![EmailEvent::Claimed { user: ada }];
        let refused = TestFramework::<Email>::with(())
            .given(taken)
            .when(EmailCommand::Claim(bob))
            .inspect_result();
        assert_eq!(refused.unwrap_err().code, "email_taken");
    }

    #[test]
    fn a_released_address_is_free_for_others() {
        let (ada, bob) = (UserId(uuid::Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let (claimed, released) = (
            EmailEvent::Claimed { user: ada },
            EmailEvent::Released { user: ada },
        );
        let given = |events| TestFramework::<Email>::with(()).given(events);
        given(vec![claimed.clone()])
            .when(EmailCommand::Release(ada))
            .then_expect_events(vec![released.clone()]);
        given(vec![claimed.clone()])
            .when(EmailCommand::Release(bob))
            .then_expect_events(vec![]);
        let again = vec![EmailEvent::Claimed { user: bob }];
        given(vec![claimed, released])
            .when(EmailCommand::Claim(bob))
            .then_expect_events(again);
    }

    #[test]
    fn a_reserved_address_is_only_for_its_registration() {
        let (ada, bob) = (UserId(uuid::Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let keep = |user| Reservation {
            user,
            invite: InviteId(uuid::Uuid::from_u128(1)),
            until: Timestamp(9),
        };
        let reserved = EmailEvent::Reserved(keep(ada));
        let given = |events| TestFramework::<Email>::with(()).given(events);
        given(vec![])
            .when(EmailCommand::Reserve(keep(ada)))
            .then_expect_events(vec![reserved.clone()]);
        for asked in [
            EmailCommand::Reserve(keep(bob)),
            EmailCommand::Claim(bob),
            EmailCommand::Reserve(keep(ada)),
        ] {
            let refused = given(vec![reserved.clone()]).when(asked).inspect_result();
            assert_eq!(refused.unwrap_err().code, "registration_under_way");
        }
        given(vec![reserved.clone()])
            .when(EmailCommand::Release(bob))
            .then_expect_events(vec![]);
        let claimed = EmailEvent::Claimed { user: ada };
        given(vec![reserved.clone()])
            .when(EmailCommand::Claim(ada))
            .then_expect_events(vec![claimed]);
        let released = EmailEvent::Released { user: ada };
        given(vec![reserved.clone()])
            .when(EmailCommand::Release(ada))
            .then_expect_events(vec![released.clone()]);
        let again = vec![EmailEvent::Reserved(keep(bob))];
        given(vec![reserved, released])
            .when(EmailCommand::Reserve(keep(bob)))
            .then_expect_events(again);
    }
}
