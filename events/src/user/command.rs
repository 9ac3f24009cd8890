//! What may be asked of a user.

use crate::{
    account::{AccountCommand, Onboarding},
    caption::{Brief, WrittenCaption},
    chat::{ChatCommand, Failure},
    credential::{CredentialKind, RefusedFor, SealedSecret},
    ids::{BlobId, CaptionId, CredentialId, JobId, SessionId},
    job::{JobCommand, JobSpec},
    tier::Counter,
    timestamp::Timestamp,
};

/// What may be asked of a user.
#[derive(Debug, Clone)]
pub enum UserCommand {
    /// Note that the user signed in.
    SignIn,
    /// Go to another step of onboarding.
    AdvanceOnboarding {
        /// Where to.
        to: Onboarding,
        /// Whether genie or an administrator asks.
        privileged: bool,
    },
    /// Read in an uploaded file: a job of this id does it.
    BeginOnboarding(JobId, BlobId),
    /// Anything else about the account.
    Account(AccountCommand),
    /// Hold a credential.
    StoreCredential {
        /// Which: see [`super::User::credential_for`].
        credential: CredentialId,
        /// What kind.
        kind: CredentialKind,
        /// The platform.
        platform: String,
        /// The name there.
        platform_username: Option<String>,
        /// When a session is over.
        expires_at: Option<Timestamp>,
        /// The sealed secret.
        sealed: SealedSecret,
    },
    /// Hold a platform's credentials that another system held for the user. It was allowed there: they are counted, but no limit
    /// stops them, nor does a suspension. What is or was here gives way to them only if it was brought in, too.
    ImportCredential {
        /// Which, as the other system calls it.
        credential: CredentialId,
        /// The platform.
        platform: String,
        /// The name there.
        platform_username: Option<String>,
        /// The version that was brought in earlier, and may be replaced while it is the one that is held.
        over: Option<u32>,
        /// The sealed secret.
        sealed: SealedSecret,
    },
    /// Note that a credential is about to be shown.
    RevealCredential {
        /// Which.
        credential: CredentialId,
        /// Why.
        purpose: Option<String>,
    },
    /// Note that a credential was asked for and not shown: see [`super::User::check_reveal`].
    RefuseCredential {
        /// Which.
        credential: CredentialId,
        /// Why not.
        reason: RefusedFor,
        /// For which platform, when that was asked.
        platform: Option<String>,
        /// What for.
        purpose: Option<String>,
    },
    /// Hold a credential no longer.
    RemoveCredential(CredentialId),
    /// Queue a job.
    SubmitJob(JobId, JobSpec),
    /// Queue a job again that failed or was called off.
    RetryJob(JobId),
    /// Something about a job that was queued.
    Job(JobId, JobCommand),
    /// Begin or end a turn.
    Chat(SessionId, ChatCommand),
    /// Write a caption.
    RequestCaption(CaptionId, Brief),
    /// A caption is written, or failed.
    FinishCaption(CaptionId, Result<WrittenCaption, Failure>),
    /// Count what was done elsewhere; what genie counts itself is left as it is.
    CountUsage {
        /// What.
        counter: Counter,
        /// How many.
        amount: u64,
    },
}

impl UserCommand {
    pub fn account(command: impl Into<AccountCommand>) -> Self {
        Self::Account(command.into())
    }

    /// The job that must be known to decide this: when it is not in the state, it has to be recalled first.
    pub fn job(&self) -> Option<&JobId> {
        match self {
            Self::SubmitJob(job, _) | Self::RetryJob(job) | Self::Job(job, _) => Some(job),
            _ => None,
        }
    }

    /// Ending what runs: what was asked was asked by somebody who was allowed to, so it is taken whatever they are now.
    pub(super) fn is_an_ending(&self) -> bool {
        matches!(
            self,
            Self::FinishCaption(..)
                | Self::Chat(_, ChatCommand::Answer { .. })
                | Self::Job(
                    _,
                    JobCommand::Lapse { .. }
                        | JobCommand::Complete { .. }
                        | JobCommand::Fail { .. }
                )
        )
    }
}
