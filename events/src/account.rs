//! `account`: who somebody is. The password's hash and the secret of the second factor are not here: they are secrets, beside
//! the log; the account only says which version of them counts.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    aggregate, domain_event,
    ids::{EmailId, UserId},
    refusal::Refusal,
    tier::Tier,
    timestamp::Timestamp,
};

mod command;
mod forgetting;
mod onboarding;
mod profile;
mod registration;

pub use command::{AccountCommand, Wanted};
pub use forgetting::{AtTheWishOf, FORGOTTEN};
pub use onboarding::Onboarding;
pub use profile::{Code, FIRST_PASSWORD, Profile, ResetLink, TwoFactor};
pub use registration::{Acquaintance, Registration};

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
    /// Asked to be forgotten, and may not act. Until it is done it can be undone.
    Leaving {
        /// What is known of them until then.
        profile: Profile,
        /// From then on it is done.
        due: Timestamp,
        /// Whether they were suspended meanwhile, and stay so should it be undone.
        suspended: bool,
    },
    /// Was forgotten. No state is ever folded that far: what came before can't be read any more.
    Forgotten,
}

/// What happened to an account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AccountEvent {
    /// Somebody registered.
    Registered(Registration),
    /// Somebody whom another identity provider knows came by for the first time.
    Met(Acquaintance),
    /// They signed in.
    SignedIn,
    /// Onboarding went on.
    OnboardingAdvanced {
        /// To this step.
        to: Onboarding,
    },
    /// They may no longer act.
    Suspended,
    /// They may act again.
    Reactivated,
    /// They have this role now.
    RoleChanged {
        /// The role's name.
        role: String,
        /// Whether they administer.
        admin: bool,
    },
    /// They have this tier now.
    TierChanged {
        /// Which.
        tier: Tier,
    },
    /// They have this address now.
    EmailChanged {
        /// The address as given; personal.
        email: String,
        /// Its stream.
        email_id: EmailId,
    },
    /// They set a new password, knowing the old one.
    PasswordChanged {
        /// The version of its hash.
        version: u32,
    },
    /// An administrator gave out a one-time link to set a new password.
    PasswordResetOffered(ResetLink),
    /// A new password was set by that link.
    PasswordReset {
        /// The version of its hash.
        version: u32,
    },
    /// A code is asked for at each login.
    TwoFactorEnabled {
        /// The version of its secret.
        version: u32,
        /// The time step of the code that was taken.
        step: u64,
    },
    /// A code was taken at a login.
    TwoFactorUsed {
        /// Its time step.
        step: u64,
    },
    /// No code is asked for any more.
    TwoFactorDisabled {
        /// The last time step of which a code was taken.
        step: u64,
    },
    /// All logins were ended.
    SessionsEnded,
    /// An old refresh token came back, which a thief or a broken client did: its family was ended.
    SessionReuseDetected {
        /// All tokens that follow from one login.
        family: String,
    },
    /// Everything held about them was handed to them.
    Exported {
        /// With the secrets that they keep here.
        secrets: bool,
    },
    /// An administrator began to act for the user.
    ImpersonationStarted {
        /// The administrator.
        by: UserId,
        /// Which impersonation.
        impersonation: Uuid,
    },
    /// One login was ended.
    SessionEnded {
        /// All tokens that follow from it.
        family: String,
    },
    /// An impersonation was ended before its time.
    ImpersonationEnded {
        /// The administrator who had begun it.
        by: UserId,
        /// Which impersonation.
        impersonation: Uuid,
    },
    /// They asked to be forgotten, and may not act any more.
    ForgetRequested {
        /// When it is to be done.
        due: Timestamp,
    },
    /// They are not to be forgotten after all.
    ForgetWithdrawn {
        /// Whether they may act again.
        active: bool,
    },
    /// They were forgotten: the last event of every user who was. Nothing personal may stand in it.
    Forgotten {
        /// At whose wish.
        by: AtTheWishOf,
    },
}

domain_event!(AccountEvent,
    Self::Registered(_) => "account.registered",
    Self::Met(_) => "account.met",
    Self::SignedIn => "account.signed_in",
    Self::OnboardingAdvanced { .. } => "account.onboarding_advanced",
    Self::Suspended => "account.suspended",
    Self::Reactivated => "account.reactivated",
    Self::RoleChanged { .. } => "account.role_changed",
    Self::TierChanged { .. } => "account.tier_changed",
    Self::EmailChanged { .. } => "account.email_changed",
    Self::PasswordChanged { .. } => "account.password_changed",
    Self::PasswordResetOffered(_) => "account.password_reset_offered",
    Self::PasswordReset { .. } => "account.password_reset",
    Self::TwoFactorEnabled { .. } => "account.two_factor_enabled",
    Self::TwoFactorUsed { .. } => "account.two_factor_used",
    Self::TwoFactorDisabled { .. } => "account.two_factor_disabled",
    Self::SessionsEnded => "account.sessions_ended",
    Self::SessionReuseDetected { .. } => "account.session_reuse_detected",
    Self::Exported { .. } => "account.exported",
    Self::ImpersonationStarted { .. } => "account.impersonation_started",
    Self::SessionEnded { .. } => "account.session_ended",
    Self::ImpersonationEnded { .. } => "account.impersonation_ended",
    Self::ForgetRequested { .. } => "account.forget_requested",
    Self::ForgetWithdrawn { .. } => "account.forget_withdrawn",
    Self::Forgotten { .. } => "account.forgotten",
);
aggregate!(Account, "account", AccountCommand, AccountEvent);

impl Account {
    /// The profile of somebody who may act.
    pub fn active(&self) -> Result<&Profile, Refusal> {
        match self {
            Self::Active(profile) => Ok(profile),
            Self::Suspended(_) => Err(Refusal::forbidden(
                "suspended",
                "This account is suspended; ask an administrator",
            )),
            Self::Leaving { .. } => Err(Refusal::forbidden(
                "leaving",
                "This account is about to be forgotten; an administrator can still undo that",
            )),
            Self::Absent | Self::Forgotten => Err(Refusal::not_found("user")),
        }
    }

    /// The profile, whatever the status.
    pub fn profile(&self) -> Option<&Profile> {
        match self {
            Self::Active(profile) | Self::Suspended(profile) | Self::Leaving { profile, .. } => {
                Some(profile)
            }
            Self::Absent | Self::Forgotten => None,
        }
    }

    fn profile_mut(&mut self) -> Option<&mut Profile> {
        match self {
            Self::Active(profile) | Self::Suspended(profile) | Self::Leaving { profile, .. } => {
                Some(profile)
            }
            Self::Absent | Self::Forgotten => None,
        }
    }

    /// When they are to be forgotten, if they asked to be.
    pub fn leaves_at(&self) -> Option<Timestamp> {
        match self {
            Self::Leaving { due, .. } => Some(*due),
            _ => None,
        }
    }

    /// What happens when this is asked.
    pub fn decide(&self, command: AccountCommand) -> Result<Vec<AccountEvent>, Refusal> {
        match command {
            AccountCommand::Register(registration) => {
                self.begin(AccountEvent::Registered(registration))
            }
            AccountCommand::Meet(acquaintance) => self.begin(AccountEvent::Met(acquaintance)),
            AccountCommand::Sync(wanted) => self.sync(wanted),
            // Also of somebody who was suspended meanwhile.
            AccountCommand::EndImpersonation { by, impersonation } => self
                .known()
                .map(|_| vec![AccountEvent::ImpersonationEnded { by, impersonation }]),
            AccountCommand::RequestForget { due } => match self {
                Self::Leaving { .. } => Ok(vec![]), // the first time stands
                _ => self
                    .active()
                    .map(|_| vec![AccountEvent::ForgetRequested { due }]),
            },
            AccountCommand::WithdrawForget => match self {
                Self::Leaving { suspended, .. } => {
                    Ok(vec![AccountEvent::ForgetWithdrawn { active: !suspended }])
                }
                _ => self.known().map(|_| vec![]),
            },
            AccountCommand::ForgetWhenDue { now } => match self.leaves_at() {
                Some(due) if due <= now => Ok(vec![AccountEvent::Forgotten {
                    by: AtTheWishOf::User,
                }]),
                _ => self.known().map(|_| vec![]),
            },
            AccountCommand::Forget(by) => {
                self.known().map(|_| vec![AccountEvent::Forgotten { by }])
            }
            command => self.active()?.decide(command),
        }
    }

    fn begin(&self, event: AccountEvent) -> Result<Vec<AccountEvent>, Refusal> {
        match self {
            Self::Absent => Ok(vec![event]),
            _ => Err(Refusal::conflict(
                "already_registered",
                "This user is registered already",
            )),
        }
    }

    fn known(&self) -> Result<&Profile, Refusal> {
        self.profile().ok_or_else(|| Refusal::not_found("user"))
    }

    fn sync(&self, wanted: Wanted) -> Result<Vec<AccountEvent>, Refusal> {
        let profile = self.known()?;
        let role = wanted.role.unwrap_or_else(|| profile.role.clone());
        let admin = wanted.admin.unwrap_or(profile.admin);
        let mut events = Vec::new();
        if (&role, admin) != (&profile.role, profile.admin) {
            events.push(AccountEvent::RoleChanged { role, admin });
        }
        if let Some(tier) = wanted.tier.filter(|tier| *tier != profile.tier) {
            events.push(AccountEvent::TierChanged { tier });
        }
        match (self, wanted.active) {
            (
                Self::Active(_)
                | Self::Leaving {
                    suspended: false, ..
                },
                Some(false),
            ) => events.push(AccountEvent::Suspended),
            // Who leaves is not brought back by a status that another system repeats: only by undoing it.
            (Self::Suspended(_), Some(true)) => events.push(AccountEvent::Reactivated),
            _ => {}
        }
        Ok(events)
    }

    /// Folds what happened.
    pub fn evolve(&mut self, event: AccountEvent) {
        match event {
            AccountEvent::Registered(registration) => {
                self.evolve(AccountEvent::Met(registration.into()))
            }
            AccountEvent::Met(who) => {
                let is_active = who.active;
                *self = if is_active {
                    Self::Active(Profile::new(who))
                } else {
                    Self::Suspended(Profile::new(who))
                };
            }
            AccountEvent::Suspended => match self {
                Self::Active(profile) => *self = Self::Suspended(profile.clone()),
                Self::Leaving { suspended, .. } => *suspended = true,
                _ => {}
            },
            AccountEvent::Reactivated => {
                if let Self::Suspended(profile) = self {
                    *self = Self::Active(profile.clone());
                }
            }
            AccountEvent::ForgetRequested { due } => {
                if let Self::Active(profile) = self {
                    *self = Self::Leaving {
                        profile: profile.clone(),
                        due,
                        suspended: false,
                    };
                }
            }
            AccountEvent::ForgetWithdrawn { active } => {
                if let Self::Leaving { profile, .. } = self {
                    let profile = profile.clone();
                    *self = if active {
                        Self::Active(profile)
                    } else {
                        Self::Suspended(profile)
                    };
                }
            }
            AccountEvent::Forgotten { .. } => *self = Self::Forgotten,
            event => {
                if let Some(profile) = self.profile_mut() {
                    profile.evolve(event);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
