//! `account`: who somebody is. The password's hash is not here: it is a secret, beside the log.

use serde::{Deserialize, Serialize};

use crate::{aggregate, domain_event, ids::EmailId, ids::InviteId, refusal::Refusal, tier::Tier};

/// What an account is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Account {
    /// Nobody registered under this id.
    #[default]
    Absent,
    /// May act.
    Active(Profile),
    /// Is there, and may not act.
    Suspended(Profile),
}

/// What is known of somebody.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Limits come from it.
    pub tier: Tier,
    /// The role's name.
    pub role: String,
    /// Whether they administer.
    pub admin: bool,
    /// How far onboarding is.
    pub onboarding: Onboarding,
}

/// The steps of onboarding, in order (contract, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Onboarding {
    /// The browser extension is to be installed.
    #[default]
    ExtensionInstall,
    /// Data is to be uploaded.
    DataCollection,
    /// Data is being read in.
    Processing,
    /// Done.
    Complete,
}

impl Onboarding {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExtensionInstall => "EXTENSION_INSTALL",
            Self::DataCollection => "DATA_COLLECTION",
            Self::Processing => "PROCESSING",
            Self::Complete => "COMPLETE",
        }
    }

    /// The stored word back.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::ExtensionInstall, Self::DataCollection, Self::Processing, Self::Complete]
            .into_iter()
            .find(|state| state.as_str() == word)
    }

    /// Whether chat must first tell the user what to do next.
    pub fn gates_chat(self) -> bool {
        matches!(self, Self::ExtensionInstall | Self::DataCollection)
    }
}

/// What may be asked of an account.
#[derive(Debug, Clone, PartialEq)]
pub enum AccountCommand {
    /// Come into being.
    Register(Registration),
    /// Note that the user signed in.
    SignIn,
    /// Go to another step of onboarding.
    AdvanceOnboarding {
        /// Where to.
        to: Onboarding,
        /// Whether genie or an administrator asks, who may also complete it.
        privileged: bool,
    },
}

/// What a registration says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// The address as given; personal.
    pub email: String,
    /// The address's stream.
    pub email_id: EmailId,
    /// As given; personal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_name: Option<String>,
    /// The invite that was spent.
    pub invite: InviteId,
    /// The invite's tier.
    pub tier: Tier,
    /// The invite's role.
    pub role: String,
    /// Whether the invite makes an administrator.
    pub admin: bool,
}

/// What happened to an account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AccountEvent {
    /// Somebody registered.
    Registered(Registration),
    /// They signed in.
    SignedIn,
    /// Onboarding went on.
    OnboardingAdvanced {
        /// To this step.
        to: Onboarding,
    },
    /// They may no longer act.
    Suspended,
}

domain_event!(AccountEvent,
    Self::Registered(_) => "account.registered",
    Self::SignedIn => "account.signed_in",
    Self::OnboardingAdvanced { .. } => "account.onboarding_advanced",
    Self::Suspended => "account.suspended",
);
aggregate!(Account, "account", AccountCommand, AccountEvent);

impl Account {
    /// The profile of somebody who may act.
    pub fn active(&self) -> Result<&Profile, Refusal> {
        match self {
            Self::Active(profile) => Ok(profile),
            Self::Suspended(_) => Err(Refusal::forbidden("suspended", "This account is suspended; ask an administrator")),
            Self::Absent => Err(Refusal::not_found("user")),
        }
    }

    /// How far onboarding is, of somebody who may act or may again.
    pub fn onboarding(&self) -> Option<Onboarding> {
        match self {
            Self::Active(profile) | Self::Suspended(profile) => Some(profile.onboarding),
            Self::Absent => None,
        }
    }

    /// What happens when this is asked.
    pub fn decide(&self, command: AccountCommand) -> Result<Vec<AccountEvent>, Refusal> {
        match command {
            AccountCommand::Register(registration) => match self {
                Self::Absent => Ok(vec![AccountEvent::Registered(registration)]),
                _ => Err(Refusal::conflict("already_registered", "This user is registered already")),
            },
            AccountCommand::SignIn => {
                self.active()?;
                Ok(vec![AccountEvent::SignedIn])
            }
            AccountCommand::AdvanceOnboarding { to, privileged } => self.advance(to, privileged),
        }
    }

    fn advance(&self, to: Onboarding, privileged: bool) -> Result<Vec<AccountEvent>, Refusal> {
        let from = self.active()?.onboarding;
        let users_step = matches!(
            (from, to),
            (Onboarding::ExtensionInstall, Onboarding::DataCollection) | (Onboarding::DataCollection, Onboarding::Processing)
        );
        let systems_step = privileged && (from, to) == (Onboarding::Processing, Onboarding::Complete);
        if from == to {
            Ok(vec![])
        } else if users_step || systems_step {
            Ok(vec![AccountEvent::OnboardingAdvanced { to }])
        } else {
            let sentence = format!("Onboarding can't go from {} to {}", from.as_str(), to.as_str());
            Err(Refusal::conflict("onboarding_order", sentence))
        }
    }

    /// Folds what happened.
    pub fn evolve(&mut self, event: AccountEvent) {
        match event {
            AccountEvent::Registered(r) => {
                *self = Self::Active(Profile { tier: r.tier, role: r.role, admin: r.admin, onboarding: Onboarding::default() });
            }
            AccountEvent::SignedIn => {}
            AccountEvent::OnboardingAdvanced { to } => {
                if let Self::Active(profile) | Self::Suspended(profile) = self {
                    profile.onboarding = to;
                }
            }
            AccountEvent::Suspended => {
                if let Self::Active(profile) = self {
                    *self = Self::Suspended(profile.clone());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;

    use super::*;

    type Given = TestFramework<Account>;

    fn ada() -> Registration {
        Registration {
            email: "ada@example.com".into(),
            email_id: EmailId("e".into()),
            first_name: None,
            invite: InviteId("i".into()),
            tier: Tier::Starter,
            role: "creator".into(),
            admin: false,
        }
    }
    fn advance(to: Onboarding, privileged: bool) -> AccountCommand {
        AccountCommand::AdvanceOnboarding { to, privileged }
    }

    #[test]
    fn somebody_registers_once() {
        let registered = AccountEvent::Registered(ada());
        Given::with(())
            .given_no_previous_events()
            .when(AccountCommand::Register(ada()))
            .then_expect_events(vec![registered.clone()]);
        let again = Given::with(()).given(vec![registered]).when(AccountCommand::Register(ada())).inspect_result();
        assert_eq!(again.unwrap_err().code, "already_registered");
    }

    #[test]
    fn onboarding_goes_one_step_forward_and_only_genie_completes_it() {
        let registered = AccountEvent::Registered(ada());
        Given::with(())
            .given(vec![registered.clone()])
            .when(advance(Onboarding::DataCollection, false))
            .then_expect_events(vec![AccountEvent::OnboardingAdvanced { to: Onboarding::DataCollection }]);
        let jump = Given::with(()).given(vec![registered.clone()]).when(advance(Onboarding::Complete, false)).inspect_result();
        assert_eq!(jump.unwrap_err().code, "onboarding_order");
        let processing = vec![registered, AccountEvent::OnboardingAdvanced { to: Onboarding::Processing }];
        let user = Given::with(()).given(processing.clone()).when(advance(Onboarding::Complete, false)).inspect_result();
        assert_eq!(user.unwrap_err().code, "onboarding_order");
        Given::with(())
            .given(processing)
            .when(advance(Onboarding::Complete, true))
            .then_expect_events(vec![AccountEvent::OnboardingAdvanced { to: Onboarding::Complete }]);
    }

    #[test]
    fn the_suspended_may_not_act() {
        let given = vec![AccountEvent::Registered(ada()), AccountEvent::Suspended];
        let refused = Given::with(()).given(given).when(AccountCommand::SignIn).inspect_result();
        assert_eq!(refused.unwrap_err().code, "suspended");
    }
}
