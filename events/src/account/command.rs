//! What may be asked of an account.

use uuid::Uuid;

use super::{Acquaintance, AtTheWishOf, Code, Onboarding, Registration, ResetLink};
use crate::{
    ids::{EmailId, UserId},
    tier::Tier,
    timestamp::Timestamp,
};

/// What may be asked of an account.
#[derive(Debug, Clone, PartialEq)]
pub enum AccountCommand {
    /// Come into being.
    Register(Registration),
    /// Come into being as somebody whom another identity provider knows already.
    Meet(Acquaintance),
    /// Note that the user signed in, by whatever proof the asker had.
    SignIn,
    /// Sign in by a password, and by a code when the second factor is on.
    SignInByPassword {
        /// The version of the hash that the password was right for.
        password: u32,
        /// The code that was right, if one was given.
        code: Option<Code>,
    },
    /// Go to another step of onboarding.
    AdvanceOnboarding {
        /// Where to.
        to: Onboarding,
        /// Whether genie or an administrator asks, who may also complete it.
        privileged: bool,
    },
    /// Become what another system says that this account is. Taken in any status.
    Sync(Wanted),
    /// Have another address.
    ChangeEmail {
        /// The address as given; personal.
        email: String,
        /// Its stream.
        email_id: EmailId,
    },
    /// Have another password.
    ChangePassword {
        /// The version of the hash that the old password was right for.
        from: u32,
    },
    /// Give out a one-time link to set a new password; one given out before is void.
    OfferPasswordReset(ResetLink),
    /// Set a new password by that link.
    ResetPassword {
        /// SHA-256 of the link's token.
        token_hash: String,
        /// Now.
        now: Timestamp,
    },
    /// Ask for a code at each login from now on.
    EnableTwoFactor {
        /// The time step of the code that proved the secret to be in the user's hands.
        step: u64,
    },
    /// Ask for a code no longer.
    DisableTwoFactor(Code),
    /// Ask for a code no longer, by an administrator's word: the authenticator is lost.
    RemoveTwoFactor,
    /// Note that all logins were ended.
    EndSessions,
    /// Note that one login was ended.
    EndSession {
        /// Which family.
        family: String,
    },
    /// Note that an old refresh token came back, and its family was ended.
    NoteReuse {
        /// Which family.
        family: String,
    },
    /// Note that everything held about the user is about to be handed to them.
    Export {
        /// With the secrets that they keep here.
        secrets: bool,
    },
    /// Note that an administrator begins to act for the user.
    StartImpersonation {
        /// The administrator.
        by: UserId,
        /// Which impersonation.
        impersonation: Uuid,
    },
    /// Note that an impersonation was ended before its time.
    EndImpersonation {
        /// The administrator who had begun it.
        by: UserId,
        /// Which impersonation.
        impersonation: Uuid,
    },
    /// Be forgotten when that time has come, and not act any more from now on.
    RequestForget {
        /// When.
        due: Timestamp,
    },
    /// Be forgotten after all not. Taken in any status.
    WithdrawForget,
    /// Be forgotten, because the time that the user asked for has come; before that, nothing happens. Taken in any status.
    ForgetWhenDue {
        /// Now.
        now: Timestamp,
    },
    /// Be forgotten now. Taken in any status.
    Forget(AtTheWishOf),
}

/// What another system says that an account is; what it leaves out stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wanted {
    /// The role's name.
    pub role: Option<String>,
    /// Whether they administer.
    pub admin: Option<bool>,
    /// The tier.
    pub tier: Option<Tier>,
    /// Whether they may act.
    pub active: Option<bool>,
}
