use crate::{
    account::{AccountCommand, Onboarding},
    api_key::ApiKeyGrant,
    caption::{Brief, WrittenCaption},
    chat::{ChatCommand, Failure},
    credential::{CredentialKind, RefusedFor, SealedSecret},
    file::{NewFile, RemovedBecause},
    ids::{BlobId, CaptionId, CredentialId, JobId, ServiceKeyId, SessionId},
    job::{JobCommand, JobSpec},
    platform_name::PlatformName,
    tier::Counter,
    timestamp::Timestamp,
    user::Recall,
    user_name::UserName,
};

/// The commands of a user.
#[derive(Debug, Clone)]
pub enum UserCommand {
    SignIn,
    /// Moves onboarding to another step.
    AdvanceOnboarding {
        to: Onboarding,
        /// True when genie or an administrator asks.
        privileged: bool,
    },
    /// Imports an uploaded file, by a job with this id.
    BeginOnboarding(JobId, BlobId),
    /// Any other command of the account.
    Account(AccountCommand),
    StoreCredential {
        /// See [`super::User::credential_for`].
        credential: CredentialId,
        kind: CredentialKind,
        platform: PlatformName,
        platform_username: Option<UserName>,
        /// The expiry of a session.
        expires_at: Option<Timestamp>,
        sealed: SealedSecret,
    },
    /// Stores a platform's credentials that another system held for the user. They were allowed
    /// there, so they are counted, but neither a limit nor a suspension stops them. They replace a
    /// credential here only if that was imported too.
    ImportCredential {
        /// The other system's id.
        credential: CredentialId,
        platform: PlatformName,
        platform_username: Option<UserName>,
        /// The version that was imported earlier. It may be replaced as long as it is the present
        /// one.
        over: Option<u32>,
        sealed: SealedSecret,
    },
    /// Records that a credential is about to be shown.
    RevealCredential {
        credential: CredentialId,
        /// The caller's words.
        purpose: Option<String>,
    },
    /// Records that a credential was asked for and not shown; see [`super::User::check_reveal`].
    RefuseCredential {
        credential: CredentialId,
        reason: RefusedFor,
        /// The platform, if the request named one.
        platform: Option<PlatformName>,
        /// The caller's words.
        purpose: Option<String>,
    },
    RemoveCredential(CredentialId),
    SubmitJob(JobId, JobSpec),
    /// Queues a failed or cancelled job again.
    RetryJob(JobId),
    /// Changes the priority or the time of a job that waits. What is absent stays.
    RescheduleJob {
        job: JobId,
        priority: Option<i64>,
        /// The earliest time at which a worker may get the job; a past one is now.
        run_at: Option<Timestamp>,
    },
    /// Any command of a job that was queued.
    Job(JobId, JobCommand),
    Chat(SessionId, ChatCommand),
    RequestCaption(CaptionId, Brief),
    /// Several captions of one brief, each counted: all or none.
    RequestCaptions(Vec<CaptionId>, Brief),
    FinishCaption(CaptionId, Result<WrittenCaption, Failure>),
    /// Makes whole bytes a file of the user.
    StoreFile(BlobId, NewFile),
    RemoveFile(BlobId, RemovedBecause),
    /// Makes a key of the user's own, whose hash is this.
    CreateApiKey(ServiceKeyId, ApiKeyGrant),
    RevokeApiKey(ServiceKeyId),
    /// Counts work that was done elsewhere. Counters that genie counts itself are not changed.
    CountUsage {
        counter: Counter,
        amount: u64,
    },
}

impl UserCommand {
    pub fn account(command: impl Into<AccountCommand>) -> Self {
        Self::Account(command.into())
    }

    /// The thing that the decision needs. If it is not in the state, it has to be recalled first.
    pub fn recall(&self) -> Option<Recall> {
        match self {
            Self::SubmitJob(job, _)
            | Self::RetryJob(job)
            | Self::RescheduleJob { job, .. }
            | Self::Job(job, _) => Some(Recall::Job(*job)),
            Self::Chat(
                session,
                ChatCommand::Ask { .. }
                | ChatCommand::Prompt { .. }
                | ChatCommand::Rename { .. }
                | ChatCommand::Remove,
            ) => Some(Recall::Session(*session)),
            Self::Chat(session, ChatCommand::Continue { .. }) => Some(Recall::LastTurn(*session)),
            Self::ImportCredential { credential, .. }
            | Self::RevealCredential { credential, .. }
            | Self::RefuseCredential { credential, .. }
            | Self::RemoveCredential(credential) => Some(Recall::Credential(*credential)),
            Self::StoreFile(file, _) | Self::RemoveFile(file, _) => Some(Recall::File(*file)),
            Self::RevokeApiKey(key) => Some(Recall::ApiKey(*key)),
            _ => None,
        }
    }

    /// A refused reveal is a fact even of a suspended user, an import must lose nothing of such a
    /// user, and a key must not open again with its user.
    pub(super) fn needs_an_active_user(&self) -> bool {
        let is_for_anybody = matches!(
            self,
            Self::Account(_)
                | Self::RefuseCredential { .. }
                | Self::ImportCredential { .. }
                | Self::RevokeApiKey(_)
        );
        !is_for_anybody && !self.is_an_ending()
    }

    /// True when the command ends running work. Its user was allowed to begin it, so it is accepted
    /// whatever the user's status is now.
    fn is_an_ending(&self) -> bool {
        matches!(
            self,
            Self::FinishCaption(..)
                | Self::Chat(_, ChatCommand::Answer { .. })
                | Self::Job(
                    _,
                    JobCommand::Lapse { .. }
                        | JobCommand::Complete { .. }
                        | JobCommand::Fail { .. }
                        | JobCommand::Release { .. }
                        | JobCommand::Remove
                )
        )
    }
}
