//! `email`: the fence that makes an address unique. Its stream's id is a keyed hash of the address in its normal form.

use serde::{Deserialize, Serialize};

use crate::{aggregate, domain_event, ids::UserId, refusal::Refusal};

/// What an address is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Email {
    /// Nobody has it.
    #[default]
    Free,
    /// This user has it.
    Taken(UserId),
}

/// What may be asked of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmailCommand {
    /// Give it to this user.
    Claim(UserId),
    /// Take it from this user, who has another now.
    Release(UserId),
}

/// What happened to an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EmailEvent {
    /// A user has it now.
    Claimed {
        /// Who.
        user: UserId,
    },
    /// Nobody has it any more.
    Released {
        /// Who had it.
        user: UserId,
    },
}

domain_event!(EmailEvent,
    Self::Claimed { .. } => "email.claimed",
    Self::Released { .. } => "email.released",
);
aggregate!(Email, "email", EmailCommand, EmailEvent);

impl Email {
    /// Who has it.
    pub fn holder(&self) -> Option<UserId> {
        match self {
            Self::Free => None,
            Self::Taken(user) => Some(*user),
        }
    }

    /// What happens when this is asked.
    pub fn decide(&self, command: EmailCommand) -> Result<Vec<EmailEvent>, Refusal> {
        match (self, command) {
            (Self::Free, EmailCommand::Claim(user)) => Ok(vec![EmailEvent::Claimed { user }]),
            (Self::Taken(holder), EmailCommand::Claim(user)) if *holder == user => Ok(vec![]),
            (Self::Taken(_), EmailCommand::Claim(_)) => {
                Err(Refusal::conflict("email_taken", "This e-mail address is registered already; log in instead"))
            }
            (Self::Taken(holder), EmailCommand::Release(user)) if *holder == user => Ok(vec![EmailEvent::Released { user }]),
            (_, EmailCommand::Release(_)) => Ok(vec![]), // it is not theirs
        }
    }

    /// Folds what happened.
    pub fn evolve(&mut self, event: EmailEvent) {
        *self = match event {
            EmailEvent::Claimed { user } => Self::Taken(user),
            EmailEvent::Released { .. } => Self::Free,
        };
    }
}

/// The normal form of an address: trimmed, lower case. `None` when it is not one (one `@`, something on both sides,
/// no white space, at most 254 bytes: RFC 5321, section 4.5.3.1.3).
pub fn normalise(address: &str) -> Option<String> {
    let address = address.trim();
    let (local, domain) = address.rsplit_once('@')?;
    let plausible = !local.is_empty()
        && !domain.is_empty()
        && !local.contains('@')
        && address.len() <= 254
        && !address.chars().any(|c| c.is_whitespace() || c.is_control());
    plausible.then(|| address.to_lowercase())
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn an_address_belongs_to_one_user() {
        let (ada, bob) = (UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let taken = vec![EmailEvent::Claimed { user: ada }];
        let refused = TestFramework::<Email>::with(()).given(taken).when(EmailCommand::Claim(bob)).inspect_result();
        assert_eq!(refused.unwrap_err().code, "email_taken");
    }

    #[test]
    fn an_address_that_was_left_is_free_for_others() {
        let (ada, bob) = (UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let (claimed, released) = (EmailEvent::Claimed { user: ada }, EmailEvent::Released { user: ada });
        let given = |events| TestFramework::<Email>::with(()).given(events);
        given(vec![claimed.clone()]).when(EmailCommand::Release(ada)).then_expect_events(vec![released.clone()]);
        given(vec![claimed.clone()]).when(EmailCommand::Release(bob)).then_expect_events(vec![]);
        let again = vec![EmailEvent::Claimed { user: bob }];
        given(vec![claimed, released]).when(EmailCommand::Claim(bob)).then_expect_events(again);
    }

    #[test]
    fn addresses_have_one_normal_form() {
        assert_eq!(normalise(" Ada+Work@Example.COM "), Some("ada+work@example.com".into()));
        for bad in ["", "ada", "@example.com", "ada@", "a b@example.com", "a@b@c"] {
            assert_eq!(normalise(bad), None, "{bad}");
        }
    }
}
