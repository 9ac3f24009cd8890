//! `account`: identity, rights and onboarding of one user. The password's hash and the secret of
//! the second factor are secrets and lie beside the log. The account only says which version of
//! them counts.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
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

pub use command::{AccountCommand, AccountSync, LifecycleCommand, ProfileCommand};
pub use forgetting::{FORGOTTEN, ForgottenBy};
pub use onboarding::Onboarding;
pub use profile::{
    FIRST_PASSWORD, MAX_PERSONA, NamePart, OneTimeCode, Profile, REQUEST_EVERY, RequestAnsweredBy,
    ResetLink, TwoFactor,
};
pub use registration::{ExternalAccount, Registration};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Account {
    /// Nobody registered under this id.
    #[default]
    Absent,
    Active(Profile),
    /// The user may not act.
    Suspended(Profile),
    /// The user asked to be forgotten and may not act. Until `due` the request can be cancelled.
    Leaving {
        profile: Profile,
        /// The time from which the user may be forgotten.
        due: Timestamp,
        /// True when the user was suspended meanwhile, and stays so if the request is cancelled.
        suspended: bool,
    },
    /// No state is ever folded this far, because earlier events can't be read any more.
    Forgotten,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AccountEvent {
    Registered(Registration),
    /// A user whom another identity provider knows came for the first time.
    Met(ExternalAccount),
    SignedIn,
    OnboardingAdvanced {
        to: Onboarding,
    },
    Suspended,
    Reactivated,
    RoleChanged {
        role: String,
        admin: bool,
    },
    TierChanged {
        tier: Tier,
    },
    /// The user chose another name.
    NameChanged {
        part: NamePart,
        /// The name; personal. `None` when the user wants to have none.
        own_name: Option<String>,
    },
    /// The user told the model something about themselves.
    PersonaChanged {
        /// Personal. `None` when the user wants to have none.
        persona: Option<String>,
    },
    EmailChanged {
        /// The address as given; personal.
        email: String,
        email_id: EmailId,
    },
    /// The user set a new password and gave the old one.
    PasswordChanged {
        /// The version of the new hash.
        version: u32,
    },
    /// A one-time link to set a new password was made, by an administrator or for a mail.
    PasswordResetOffered(ResetLink),
    /// Somebody who knows the address asked for a link to set a new password.
    PasswordResetRequested {
        requested_at: Timestamp,
        /// The page that the link leads to; personal. `None` for the server's own choice.
        reset_url: Option<String>,
    },
    /// The request needs nothing any more: its link was sent.
    PasswordRequestAnswered {
        by: RequestAnsweredBy,
    },
    /// The user set a new password by the link.
    PasswordReset {
        /// The version of the new hash.
        version: u32,
    },
    /// Each login needs a one-time code from now on.
    TwoFactorEnabled {
        /// The version of the second factor's secret.
        version: u32,
        /// The time step of the code that was accepted.
        step: u64,
    },
    /// A login accepted a one-time code.
    TwoFactorUsed {
        /// The time step of the code.
        step: u64,
    },
    TwoFactorDisabled {
        /// The last time step with an accepted code.
        step: u64,
    },
    /// All logins were ended.
    SessionsEnded,
    /// A replaced refresh token came back, from a thief or a broken client, and its family was
    /// ended.
    SessionReuseDetected {
        /// The family of refresh tokens: all that follow from one login.
        family: String,
    },
    /// The user's data was handed out.
    Exported {
        /// True when the export had the user's secrets.
        secrets: bool,
    },
    /// An administrator began to act for the user.
    ImpersonationStarted {
        by: UserId,
        impersonation: Uuid,
    },
    /// One login was ended.
    SessionEnded {
        /// The family of refresh tokens: all that follow from the login.
        family: String,
    },
    /// An impersonation was ended before its time.
    ImpersonationEnded {
        /// The administrator who began it.
        by: UserId,
        impersonation: Uuid,
    },
    /// The user asked to be forgotten and may not act any more.
    ForgetRequested {
        /// The time from which the user may be forgotten.
        due: Timestamp,
    },
    /// The user is not to be forgotten after all.
    ForgetWithdrawn {
        /// True when the user may act again.
        active: bool,
    },
    /// The user was forgotten. This is the last event of every forgotten user, and nothing in it
    /// may be personal.
    Forgotten {
        by: ForgottenBy,
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
    Self::NameChanged { .. } => "account.name_changed",
    Self::PersonaChanged { .. } => "account.persona_changed",
    Self::EmailChanged { .. } => "account.email_changed",
    Self::PasswordChanged { .. } => "account.password_changed",
    Self::PasswordResetOffered(_) => "account.password_reset_offered",
    Self::PasswordResetRequested { .. } => "account.password_reset_requested",
    Self::PasswordRequestAnswered { .. } => "account.password_request_answered",
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

impl AccountEvent {
    /// The fields that are not personal and are stored readable.
    pub(crate) fn clear(&self) -> Value {
        match self {
            Self::Registered(r) => {
                json!({"tier": r.tier, "role": r.role, "admin": r.admin})
            }
            Self::OnboardingAdvanced { to } => json!({"to": to}),
            Self::Met(m) => json!({
                "tier": m.tier, "role": m.role, "admin": m.admin, "onboarding": m.onboarding, "active": m.active,
            }),
            Self::RoleChanged { role, admin } => json!({"role": role, "admin": admin}),
            Self::TierChanged { tier } => json!({"tier": tier}),
            Self::PasswordChanged { version } | Self::PasswordReset { version } => {
                json!({"version": version})
            }
            Self::PasswordResetOffered(link) => json!({"expires_at": link.expires_at}),
            Self::PasswordResetRequested { requested_at, .. } => {
                json!({"requested_at": requested_at})
            }
            Self::PasswordRequestAnswered { by } => json!({"by": by}),
            Self::NameChanged { part, .. } => json!({"part": part}),
            Self::PersonaChanged { persona } => {
                json!({"bytes": persona.as_ref().map_or(0, String::len)})
            }
            Self::Exported { secrets } => json!({"secrets": secrets}),
            Self::SessionReuseDetected { family } | Self::SessionEnded { family } => {
                json!({"family": family})
            }
            Self::ImpersonationStarted { by, impersonation }
            | Self::ImpersonationEnded { by, impersonation } => {
                json!({"by": by, "impersonation": impersonation})
            }
            Self::ForgetRequested { due } => json!({"due_at": due}),
            Self::ForgetWithdrawn { active } => json!({"active": active}),
            Self::Forgotten { by } => json!({"by": by}),
            Self::SignedIn
            | Self::Suspended
            | Self::Reactivated
            | Self::EmailChanged { .. }
            | Self::TwoFactorEnabled { .. }
            | Self::TwoFactorUsed { .. }
            | Self::TwoFactorDisabled { .. }
            | Self::SessionsEnded => json!({}),
        }
    }
}

impl Account {
    /// The profile, if the user may act.
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

    /// The profile in any status.
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

    /// The time from which the user may be forgotten, if a request is pending.
    pub fn leaves_at(&self) -> Option<Timestamp> {
        match self {
            Self::Leaving { due, .. } => Some(*due),
            _ => None,
        }
    }

    pub fn decide(&self, command: impl Into<AccountCommand>) -> Result<Vec<AccountEvent>, Refusal> {
        match command.into() {
            AccountCommand::Lifecycle(command) => self.decide_lifecycle(command),
            AccountCommand::Profile(command) => self.active()?.decide(command),
        }
    }

    fn decide_lifecycle(&self, command: LifecycleCommand) -> Result<Vec<AccountEvent>, Refusal> {
        match command {
            LifecycleCommand::Register(registration) => {
                self.begin(AccountEvent::Registered(registration))
            }
            LifecycleCommand::Meet(external) => self.begin(AccountEvent::Met(external)),
            LifecycleCommand::Sync(sync) => self.sync(sync),
            LifecycleCommand::EndImpersonation { by, impersonation } => self
                .existing()
                .map(|_| vec![AccountEvent::ImpersonationEnded { by, impersonation }]),
            LifecycleCommand::RequestForget { due } => match self {
                Self::Leaving { .. } => Ok(vec![]), // the first request stands
                _ => self
                    .active()
                    .map(|_| vec![AccountEvent::ForgetRequested { due }]),
            },
            LifecycleCommand::WithdrawForget => match self {
                Self::Leaving { suspended, .. } => {
                    Ok(vec![AccountEvent::ForgetWithdrawn { active: !suspended }])
                }
                _ => self.existing().map(|_| vec![]),
            },
            LifecycleCommand::ForgetWhenDue { now } => match self.leaves_at() {
                Some(due) if due <= now => Ok(vec![AccountEvent::Forgotten {
                    by: ForgottenBy::User,
                }]),
                _ => self.existing().map(|_| vec![]),
            },
            LifecycleCommand::Forget(by) => self
                .existing()
                .map(|_| vec![AccountEvent::Forgotten { by }]),
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

    fn existing(&self) -> Result<&Profile, Refusal> {
        self.profile().ok_or_else(|| Refusal::not_found("user"))
    }

    fn sync(&self, sync: AccountSync) -> Result<Vec<AccountEvent>, Refusal> {
        let profile = self.existing()?;
        let role = sync.role.unwrap_or_else(|| profile.role.clone());
        let admin = sync.admin.unwrap_or(profile.admin);
        let mut events = Vec::new();
        if (&role, admin) != (&profile.role, profile.admin) {
            events.push(AccountEvent::RoleChanged { role, admin });
        }
        if let Some(tier) = sync.tier.filter(|tier| *tier != profile.tier) {
            events.push(AccountEvent::TierChanged { tier });
        }
        match (self, sync.active) {
            (
                Self::Active(_)
                | Self::Leaving {
                    suspended: false, ..
                },
                Some(false),
            ) => events.push(AccountEvent::Suspended),
            // A repeated status from another system does not bring back a leaving user. Only a
            // cancellation does.
            (Self::Suspended(_), Some(true)) => events.push(AccountEvent::Reactivated),
            _ => {}
        }
        Ok(events)
    }

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
