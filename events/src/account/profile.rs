//! The state of a user's account, and the commands of an active account.

use serde::{Deserialize, Serialize};

use super::{AccountEvent, ExternalAccount, Onboarding, ProfileCommand};
use crate::{ids::EmailId, refusal::Refusal, tier::Tier, timestamp::Timestamp};

/// The longest persona, in bytes.
pub const MAX_PERSONA: usize = 4096;
/// The version of the password's hash at registration.
pub const FIRST_PASSWORD: u32 = 1;
/// In seconds. Within it a second request for a new password is the same request.
pub const REQUEST_EVERY: i64 = 5 * 60;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// The tier decides the limits.
    pub tier: Tier,
    pub role: String,
    pub admin: bool,
    pub onboarding: Onboarding,
    /// The stream of the user's address; `None` if the user has none or another user holds it.
    pub email: Option<EmailId>,
    /// The version of the password's hash that counts. Each change raises it.
    pub password: u32,
    pub two_factor: TwoFactor,
    /// The last issued link to set a new password, until it is used.
    pub reset: Option<ResetLink>,
    /// When a link to set a new password was asked for, until one was sent or the password changed.
    pub requested: Option<Timestamp>,
    /// The last family of refresh tokens that was ended because an old token came back.
    pub reused: Option<String>,
    /// What the model is told about the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persona: Option<String>,
}

/// The second factor: one-time codes by time (TOTP, RFC 6238).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwoFactor {
    /// The version of the secret that was enabled last; 0 if none ever was.
    pub version: u32,
    /// True when logins need a code.
    pub on: bool,
    /// The last time step with an accepted code. Codes of this step or an earlier one are refused
    /// (RFC 6238, section 5.2).
    pub last_step: u64,
}

/// A one-time code that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OneTimeCode {
    /// The version of the secret that the code matched.
    pub version: u32,
    pub step: u64,
}

/// The two names that a user may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamePart {
    First,
    Last,
}

/// How a request for a new password was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestAnsweredBy {
    /// The mail server took the mail.
    Mail,
    /// An administrator has a link to hand on.
    Administrator,
}

/// A one-time link to set a new password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetLink {
    /// SHA-256 of the link's token.
    pub token_hash: String,
    /// The link can't be used from this time on.
    pub expires_at: Timestamp,
}

impl Profile {
    pub(super) fn new(who: ExternalAccount) -> Self {
        Self {
            tier: who.tier,
            role: who.role,
            admin: who.admin,
            onboarding: who.onboarding,
            email: who.email_id,
            password: FIRST_PASSWORD,
            two_factor: TwoFactor::default(),
            reset: None,
            requested: None,
            reused: None,
            persona: None,
        }
    }

    #[expect(clippy::too_many_lines, reason = "a table with a row for each command")]
    pub(super) fn decide(&self, command: ProfileCommand) -> Result<Vec<AccountEvent>, Refusal> {
        match command {
            ProfileCommand::SignIn => Ok(vec![AccountEvent::SignedIn]),
            ProfileCommand::SignInByPassword { password, code } => self.sign_in(password, code),
            ProfileCommand::AdvanceOnboarding { to, privileged } => self.advance(to, privileged),
            ProfileCommand::ChangeEmail { email, email_id } => {
                Ok(vec![AccountEvent::EmailChanged { email, email_id }])
            }
            ProfileCommand::ChangePassword { from } => {
                self.check_password(from)?;
                Ok(vec![AccountEvent::PasswordChanged {
                    version: self.password + 1,
                }])
            }
            ProfileCommand::RequestPasswordReset { now, reset_url } => {
                Ok(self.request_reset(now, reset_url).into_iter().collect())
            }
            ProfileCommand::OfferPasswordReset(link) => {
                let answered = self.request_answered(RequestAnsweredBy::Administrator);
                let offered = [AccountEvent::PasswordResetOffered(link)];
                Ok(offered.into_iter().chain(answered).collect())
            }
            ProfileCommand::MailPasswordReset(link) => {
                let offered = AccountEvent::PasswordResetOffered(link);
                Ok(self.requested.map(|_| offered).into_iter().collect())
            }
            ProfileCommand::NotePasswordMailSent => {
                let answered = self.request_answered(RequestAnsweredBy::Mail);
                Ok(answered.into_iter().collect())
            }
            ProfileCommand::ChangeName { part, name } => {
                let own_name = name.map(String::from);
                Ok(vec![AccountEvent::NameChanged { part, own_name }])
            }
            ProfileCommand::ChangePersona { persona } if persona == self.persona => Ok(vec![]),
            ProfileCommand::ChangePersona { persona } => {
                Ok(vec![AccountEvent::PersonaChanged { persona }])
            }
            ProfileCommand::ResetPassword { token_hash, now } => {
                self.reset_password(&token_hash, now)
            }
            ProfileCommand::EnableTwoFactor { step } => self.enable_two_factor(step),
            ProfileCommand::DisableTwoFactor(code) => {
                let step = self.check_code(Some(code))?;
                Ok(vec![AccountEvent::TwoFactorDisabled { step }])
            }
            ProfileCommand::RemoveTwoFactor => Ok(self.remove_two_factor().into_iter().collect()),
            ProfileCommand::EndSessions => Ok(vec![AccountEvent::SessionsEnded]),
            ProfileCommand::EndSession { family } => {
                Ok(vec![AccountEvent::SessionEnded { family }])
            }
            ProfileCommand::NoteReuse { family } => {
                Ok(self.note_reuse(family).into_iter().collect())
            }
            ProfileCommand::Export { secrets } => Ok(vec![AccountEvent::Exported { secrets }]),
            ProfileCommand::StartImpersonation { .. } if self.admin => Err(Refusal::forbidden(
                "forbidden",
                "Nobody may act in an administrator's name",
            )),
            ProfileCommand::StartImpersonation { by, impersonation } => {
                let started = AccountEvent::ImpersonationStarted { by, impersonation };
                Ok(vec![started])
            }
        }
    }

    /// A request too soon after the last one changes nothing.
    fn request_reset(&self, now: Timestamp, reset_url: Option<String>) -> Option<AccountEvent> {
        let last = self.requested;
        if last.is_some_and(|last| now < last.plus_seconds(REQUEST_EVERY)) {
            return None;
        }
        Some(AccountEvent::PasswordResetRequested {
            requested_at: now,
            reset_url,
        })
    }

    fn remove_two_factor(&self) -> Option<AccountEvent> {
        let step = self.two_factor.last_step;
        let is_on = self.two_factor.on;
        is_on.then_some(AccountEvent::TwoFactorDisabled { step })
    }

    /// The same family is noted once.
    fn note_reuse(&self, family: String) -> Option<AccountEvent> {
        let is_new = self.reused.as_ref() != Some(&family);
        is_new.then_some(AccountEvent::SessionReuseDetected { family })
    }

    fn enable_two_factor(&self, step: u64) -> Result<Vec<AccountEvent>, Refusal> {
        if self.two_factor.on {
            return Err(Refusal::conflict(
                "two_factor_on",
                "Two-factor login is on already; disable it first",
            ));
        }
        let version = self.two_factor.version + 1;
        Ok(vec![AccountEvent::TwoFactorEnabled { version, step }])
    }

    fn request_answered(&self, by: RequestAnsweredBy) -> Option<AccountEvent> {
        self.requested
            .map(|_| AccountEvent::PasswordRequestAnswered { by })
    }

    fn sign_in(
        &self,
        password: u32,
        code: Option<OneTimeCode>,
    ) -> Result<Vec<AccountEvent>, Refusal> {
        self.check_password(password)?;
        if !self.two_factor.on {
            return Ok(vec![AccountEvent::SignedIn]);
        }
        let step = self.check_code(code)?;
        Ok(vec![
            AccountEvent::TwoFactorUsed { step },
            AccountEvent::SignedIn,
        ])
    }

    /// A password that was changed after it was checked is wrong.
    fn check_password(&self, version: u32) -> Result<(), Refusal> {
        if version == self.password {
            return Ok(());
        }
        Err(Refusal::forbidden(
            "wrong_password",
            "The password is wrong; it was changed a moment ago",
        ))
    }

    /// A code counts once, and only for the secret that is enabled now.
    fn check_code(&self, code: Option<OneTimeCode>) -> Result<u64, Refusal> {
        let TwoFactor {
            version,
            on,
            last_step,
        } = self.two_factor;
        match code {
            Some(code) if on && code.version == version && code.step > last_step => Ok(code.step),
            _ => Err(Refusal::forbidden(
                "invalid_otp",
                "The one-time code is missing, wrong, or was used before; wait for the next",
            )),
        }
    }

    fn reset_password(
        &self,
        token_hash: &str,
        now: Timestamp,
    ) -> Result<Vec<AccountEvent>, Refusal> {
        match &self.reset {
            Some(link) if link.token_hash == token_hash && now < link.expires_at => {
                Ok(vec![AccountEvent::PasswordReset {
                    version: self.password + 1,
                }])
            }
            _ => Err(Refusal::invalid(
                "token",
                "This link was used or has expired; ask an administrator for another",
            )),
        }
    }

    fn advance(&self, to: Onboarding, privileged: bool) -> Result<Vec<AccountEvent>, Refusal> {
        let from = self.onboarding;
        let users_step = matches!(
            (from, to),
            (Onboarding::ExtensionInstall, Onboarding::DataCollection)
                | (Onboarding::DataCollection, Onboarding::Processing)
        );
        let systems_step =
            privileged && (from, to) == (Onboarding::Processing, Onboarding::Complete);
        if from == to {
            Ok(vec![])
        } else if users_step || systems_step {
            Ok(vec![AccountEvent::OnboardingAdvanced { to }])
        } else {
            let sentence = format!(
                "Onboarding can't go from {} to {}",
                from.as_str(),
                to.as_str()
            );
            Err(Refusal::conflict("onboarding_order", sentence))
        }
    }

    pub(super) fn evolve(&mut self, event: AccountEvent) {
        match event {
            AccountEvent::OnboardingAdvanced { to } => self.onboarding = to,
            AccountEvent::RoleChanged { role, admin } => (self.role, self.admin) = (role, admin),
            AccountEvent::TierChanged { tier } => self.tier = tier,
            AccountEvent::EmailChanged { email_id, .. } => self.email = Some(email_id),
            AccountEvent::PasswordChanged { version } | AccountEvent::PasswordReset { version } => {
                self.password = version;
                self.reset = None; // a user with the old password needs no link
                self.requested = None;
            }
            AccountEvent::PasswordResetOffered(link) => self.reset = Some(link),
            AccountEvent::PasswordResetRequested { requested_at, .. } => {
                self.requested = Some(requested_at);
            }
            AccountEvent::PasswordRequestAnswered { .. } => self.requested = None,
            AccountEvent::TwoFactorEnabled { version, step } => {
                self.two_factor = TwoFactor {
                    version,
                    on: true,
                    last_step: step,
                };
            }
            AccountEvent::TwoFactorUsed { step } => self.two_factor.last_step = step,
            AccountEvent::TwoFactorDisabled { step } => {
                self.two_factor.on = false;
                self.two_factor.last_step = step;
            }
            AccountEvent::SessionReuseDetected { family } => self.reused = Some(family),
            AccountEvent::PersonaChanged { persona } => self.persona = persona,
            AccountEvent::SignedIn
            | AccountEvent::NameChanged { .. }
            | AccountEvent::SessionsEnded
            | AccountEvent::Exported { .. }
            | AccountEvent::SessionEnded { .. }
            | AccountEvent::ImpersonationStarted { .. }
            | AccountEvent::ImpersonationEnded { .. }
            | AccountEvent::Registered(_)
            | AccountEvent::Met(_)
            | AccountEvent::Suspended
            | AccountEvent::Reactivated
            | AccountEvent::ForgetRequested { .. }
            | AccountEvent::ForgetWithdrawn { .. }
            | AccountEvent::Forgotten { .. } => {}
        }
    }
}
