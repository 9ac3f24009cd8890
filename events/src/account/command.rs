//! The commands of an account.

use uuid::Uuid;

use super::{
    ExternalAccount, ForgottenBy, NamePart, Onboarding, OneTimeCode, Registration, ResetLink,
};
use crate::{
    ids::{EmailId, UserId},
    tier::Tier,
    timestamp::Timestamp,
    user_name::UserName,
};

/// The commands of an account. There are two enums, so that a command that needs an active account
/// cannot be mistaken for one that is allowed in any status.
#[derive(Debug, Clone, PartialEq)]
pub enum AccountCommand {
    Lifecycle(LifecycleCommand),
    Profile(ProfileCommand),
}

impl From<LifecycleCommand> for AccountCommand {
    fn from(command: LifecycleCommand) -> Self {
        Self::Lifecycle(command)
    }
}

impl From<ProfileCommand> for AccountCommand {
    fn from(command: ProfileCommand) -> Self {
        Self::Profile(command)
    }
}

/// Commands that create, change or end an account. The status decides what each of them does.
#[derive(Debug, Clone, PartialEq)]
pub enum LifecycleCommand {
    /// Creates the account of a new user.
    Register(Registration),
    /// Creates the account of a user whom another identity provider already knows.
    Meet(ExternalAccount),
    /// Makes the account what another system says it is. Allowed in any status.
    Sync(AccountSync),
    /// Records that an impersonation ended before its time. Allowed in any status.
    EndImpersonation {
        /// The administrator who began it.
        by: UserId,
        impersonation: Uuid,
    },
    /// Asks for the account to be forgotten at `due`. Until then the account may not act.
    RequestForget { due: Timestamp },
    /// Cancels a pending deletion. Allowed in any status.
    WithdrawForget,
    /// Forgets the account if its requested time has come. Allowed in any status; too early, nothing happens.
    ForgetWhenDue { now: Timestamp },
    /// Forgets the account now. Allowed in any status.
    Forget(ForgottenBy),
}

/// Commands that only an active account takes.
#[derive(Debug, Clone, PartialEq)]
pub enum ProfileCommand {
    /// Records a login, whatever it was proved by.
    SignIn,
    /// Signs in by a password, and by a one-time code when the second factor is on.
    SignInByPassword {
        /// The version of the hash that the password matched.
        password: u32,
        /// The code that matched, if one was given.
        code: Option<OneTimeCode>,
    },
    /// Moves onboarding to another step.
    AdvanceOnboarding {
        to: Onboarding,
        /// True when genie or an administrator asks; only they may complete onboarding.
        privileged: bool,
    },
    ChangeEmail {
        /// The address as given; personal.
        email: String,
        /// The stream of the address.
        email_id: EmailId,
    },
    ChangePassword {
        /// The version of the hash that the old password matched.
        from: u32,
    },
    /// Asks for a link to set a new password. Soon after another request nothing happens.
    RequestPasswordReset {
        now: Timestamp,
        /// The page that the link is to lead to; personal.
        reset_url: Option<String>,
    },
    /// Issues a one-time link to set a new password. An earlier link becomes void, and a request is answered.
    OfferPasswordReset(ResetLink),
    /// The same for a mail that is about to be sent. Without a request nothing happens. Until it is sent the request
    /// stays open, so that it is sent again after a crash.
    MailPasswordReset(ResetLink),
    /// Records that the mail was sent.
    NotePasswordMailSent,
    /// Changes a name, or removes it.
    ChangeName {
        part: NamePart,
        name: Option<UserName>,
    },
    /// Changes what the model is told about the user, or removes it.
    ChangePersona {
        /// Personal.
        persona: Option<String>,
    },
    /// Sets a new password by that link.
    ResetPassword {
        /// SHA-256 of the link's token.
        token_hash: String,
        now: Timestamp,
    },
    /// Requires a one-time code at each login from now on.
    EnableTwoFactor {
        /// The time step of the code that proved the user holds the secret.
        step: u64,
    },
    /// Stops requiring a one-time code.
    DisableTwoFactor(OneTimeCode),
    /// Stops requiring a one-time code because an administrator says the authenticator is lost.
    RemoveTwoFactor,
    /// Records that all logins ended.
    EndSessions,
    /// Records that one login ended.
    EndSession {
        /// The family of refresh tokens that the login opened.
        family: String,
    },
    /// Records that an old refresh token came back and that its family was ended.
    NoteReuse { family: String },
    /// Records that everything held about the user is about to be handed out.
    Export {
        /// True when the export holds the user's secrets.
        secrets: bool,
    },
    /// Records that an administrator begins to act for the user.
    StartImpersonation {
        /// The administrator.
        by: UserId,
        impersonation: Uuid,
    },
}

/// An account as another system describes it. A missing field stays as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AccountSync {
    pub role: Option<String>,
    pub admin: Option<bool>,
    pub tier: Option<Tier>,
    /// True when the account may act.
    pub active: Option<bool>,
}
