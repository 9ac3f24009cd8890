//! A user: **one state folded from all of that user's streams**, and the commands to it.
//!
//! Finished jobs, ended captions, chats without a running turn and removed credentials are left
//! out, so that a user stays small. A command that needs one of them names it with `Recall`; then
//! it is read from the log and handed in.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Now,
    account::{Account, AccountCommand, AccountEvent, ProfileCommand},
    api_key::ApiKeyGrant,
    caption::Caption,
    chat::{Chat, ChatCommand, ChatEvent},
    credential::{Credential, CredentialCommand, CredentialKind},
    event::{Change, Event},
    file::File,
    ids::{
        BlobId, CaptionId, CredentialId, JobId, ServiceKeyId, SessionId, StreamId, StreamKind,
        TurnId, UserId,
    },
    job::Job,
    platform_name::PlatformName,
    refusal::Refusal,
    usage::Usage,
    user_name::UserName,
};

/// Decisions about the user's own keys.
mod api_keys;
/// Decisions about captions that need more than the caption's own state.
mod captions;
mod command;
/// Decisions about credentials that need more than the credential's own state.
mod credentials;
/// Several commands, decided one after the other.
mod drafts;
/// The bound on a user's facts of a day.
pub mod facts_of_day;
/// The files of a user, all of them together.
mod files;
/// Decisions about jobs that need more than the job's own state.
mod jobs;
/// Onboarding and the job that does it.
pub mod onboarding;
/// The tier's limits and the units counted against them.
mod quota;
/// What the state leaves out, and how it comes back for a command.
mod recall;
/// Decisions about revealing a credential.
pub mod reveal;
/// The state as it is kept beside the log.
pub mod snapshot;

pub use command::UserCommand;
pub use credentials::MAX_LOGINS;
pub use files::FileTally;
pub use jobs::MAX_UNFINISHED_JOBS;
pub use quota::with_counts_together;
pub use recall::Recall;

/// The most chat sessions of one user: the list of them stays readable.
pub const MAX_SESSIONS: u32 = 10_000;

use facts_of_day::FactsOfDay;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    id: UserId,
    seq: u64,
    account: Account,
    usage: Usage,
    credentials: HashMap<CredentialId, Credential>,
    jobs: HashMap<JobId, Job>,
    chats: HashMap<SessionId, Chat>,
    /// How many chat sessions the user has.
    sessions: u32,
    captions: HashMap<CaptionId, Caption>,
    #[serde(with = "snapshot::sequences")]
    sequences: HashMap<StreamId, u64>,
    today: FactsOfDay,
    files: FileTally,
    /// The files that jobs name which were queued again and are left out.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    files_of_left_out: HashMap<JobId, Vec<BlobId>>,
    /// The user's own keys that were not revoked.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    api_keys: HashMap<ServiceKeyId, ApiKeyGrant>,
    /// A file that a command needs. The state holds no files otherwise.
    #[serde(skip)]
    recalled_file: Option<(BlobId, File)>,
    /// Those of the files that a new job names which are gone.
    #[serde(skip)]
    removed_files: HashSet<BlobId>,
}

impl User {
    /// A user without any facts yet.
    pub fn new(id: UserId) -> Self {
        Self {
            id,
            seq: 0,
            account: Account::default(),
            usage: Usage::default(),
            credentials: HashMap::new(),
            jobs: HashMap::new(),
            chats: HashMap::new(),
            sessions: 0,
            captions: HashMap::new(),
            sequences: HashMap::new(),
            today: FactsOfDay::default(),
            files: FileTally::default(),
            files_of_left_out: HashMap::new(),
            api_keys: HashMap::new(),
            recalled_file: None,
            removed_files: HashSet::new(),
        }
    }

    pub fn id(&self) -> UserId {
        self.id
    }

    /// The number of the user's events: the fence of the next append.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The number of a stream's events; 0 for a stream that is left out.
    pub fn sequence(&self, stream: &StreamId) -> u64 {
        self.sequences.get(stream).copied().unwrap_or(0)
    }

    pub fn account(&self) -> &Account {
        &self.account
    }

    /// A job that has not ended, or was recalled.
    pub fn job(&self, job: &JobId) -> Option<&Job> {
        self.jobs.get(job)
    }

    pub fn credential(&self, credential: CredentialId) -> Option<&Credential> {
        self.credentials.get(&credential)
    }

    /// The credential of this kind that is held for a platform; of several profiles, the one with
    /// this name.
    pub fn credential_for(
        &self,
        kind: CredentialKind,
        platform: &PlatformName,
        username: Option<&UserName>,
    ) -> Option<CredentialId> {
        let is_it = |held: &Credential| match held {
            Credential::Held {
                kind: k,
                platform: p,
                platform_username: u,
                ..
            } => {
                *k == kind
                    && p == platform
                    && (kind != CredentialKind::Profile || u.as_ref() == username)
            }
            _ => false,
        };
        self.credentials
            .iter()
            .find_map(|(id, held)| is_it(held).then_some(*id))
    }

    /// The running turn of a session.
    pub fn running_turn(&self, session: &SessionId) -> Option<TurnId> {
        self.chats.get(session).and_then(Chat::running)
    }

    /// The model of a running turn whose messages a program gave.
    pub fn prompted_model(&self, session: &SessionId, turn: TurnId) -> Option<&str> {
        self.chats.get(session)?.prompted_model(turn)
    }

    /// Decides a command. All returned changes are appended together or not at all.
    #[expect(clippy::too_many_lines, reason = "a table with a row for each command")]
    pub fn decide(&self, now: Now, command: UserCommand) -> Result<Vec<Change>, Refusal> {
        if command.needs_an_active_user() {
            self.account.active()?;
        }
        match command {
            UserCommand::SignIn => self.account_changes(ProfileCommand::SignIn),
            UserCommand::Account(command) => self.account_changes(command),
            UserCommand::AdvanceOnboarding { to, privileged } => {
                self.account_changes(ProfileCommand::AdvanceOnboarding { to, privileged })
            }
            UserCommand::BeginOnboarding(job, file) => self.begin_onboarding(&job, file),
            UserCommand::StoreCredential {
                credential,
                kind,
                platform,
                platform_username,
                expires_at,
                sealed,
            } => {
                let store = CredentialCommand::Store {
                    kind,
                    platform,
                    platform_username,
                    expires_at,
                    sealed,
                };
                self.store_credential(&now, credential, kind, store)
            }
            UserCommand::ImportCredential {
                credential,
                platform,
                platform_username,
                over,
                sealed,
            } => self.import_credential(credential, over, platform, platform_username, sealed),
            UserCommand::RevealCredential {
                credential,
                purpose,
            } => self.credential_changes(credential, CredentialCommand::Reveal { purpose }),
            UserCommand::RefuseCredential {
                credential,
                reason,
                platform,
                purpose,
            } => self.refuse_credential(credential, reason, platform, purpose),
            UserCommand::RemoveCredential(credential) => {
                self.credential_changes(credential, CredentialCommand::Remove)
            }
            UserCommand::SubmitJob(job, spec) => self.submit_job(&now, &job, &spec),
            UserCommand::RetryJob(job) => self.retry_job(&now, &job),
            UserCommand::RescheduleJob {
                job,
                priority,
                run_at,
            } => self.reschedule_job(&now, &job, priority, run_at),
            UserCommand::Job(job, command) => self.job_changes(&job, command),
            UserCommand::Chat(session, command) => self.chat_changes(&session, command),
            UserCommand::RequestCaption(caption, brief) => {
                self.request_caption(&now, caption, brief)
            }
            UserCommand::RequestCaptions(captions, brief) => {
                self.request_captions(&now, &captions, &brief)
            }
            UserCommand::FinishCaption(caption, result) => self.finish_caption(caption, result),
            UserCommand::StoreFile(file, about) => self.store_file(&now, file, about),
            UserCommand::RemoveFile(file, reason) => self.remove_file(file, reason),
            UserCommand::CreateApiKey(key, grant) => self.create_api_key(key, grant),
            UserCommand::RevokeApiKey(key) => self.revoke_api_key(key),
            UserCommand::CountUsage { counter, .. } if counter.is_counted_by_genie() => Ok(vec![]),
            UserCommand::CountUsage { counter, amount } => self.can_perform(&now, counter, amount),
        }
    }

    fn account_changes(&self, command: impl Into<AccountCommand>) -> Result<Vec<Change>, Refusal> {
        self.account
            .decide(command)
            .map(|events| changes(self.id, events))
    }

    fn chat_changes(
        &self,
        session: &SessionId,
        command: ChatCommand,
    ) -> Result<Vec<Change>, Refusal> {
        let absent = Chat::default();
        let chat = self.chats.get(session).unwrap_or(&absent);
        let stream = StreamId::new(StreamKind::Chat, session);
        let is_begun = self.sequence(&stream) > 0;
        match &command {
            ChatCommand::Ask { .. } | ChatCommand::Prompt { .. }
                if !is_begun || chat.is_removed() =>
            {
                self.check_room_for_a_session()?;
            }
            ChatCommand::Rename { .. } | ChatCommand::Remove if !is_begun => {
                return Err(Refusal::not_found("session"));
            }
            ChatCommand::Continue { .. } if !is_begun || chat.is_removed() => {
                return Err(Refusal::not_found("turn"));
            }
            _ => {}
        }
        let mut events = chat.decide(command)?;
        if chat.is_removed() && !events.is_empty() {
            events.insert(0, ChatEvent::Reopened);
        }
        Ok(changes(session, events))
    }

    fn check_room_for_a_session(&self) -> Result<(), Refusal> {
        if self.sessions < MAX_SESSIONS {
            return Ok(());
        }
        let sentence =
            format!("You have {MAX_SESSIONS} chat sessions; go on in one of them, or delete some");
        Err(Refusal::conflict("too_many_sessions", sentence))
    }

    /// Folds one stored event of this user, as [`User::evolve_counted`] does, without counting it for
    /// its day.
    pub fn evolve(&mut self, stream: &StreamId, sequence: u64, event: Event) {
        self.seq += 1;
        self.sequences.insert(*stream, sequence);
        match event {
            Event::Account(event) => self.account.evolve(event),
            Event::Usage(event) => self.usage.evolve(event),
            Event::Credential(event) => {
                self.evolve_credential(stream, sequence, CredentialId(stream.id), event);
            }
            Event::Job(event) => self.evolve_job(stream, JobId(stream.id), event),
            Event::Chat(event) => {
                match &event {
                    ChatEvent::Removed { .. } => self.sessions = self.sessions.saturating_sub(1),
                    ChatEvent::Reopened => self.sessions += 1,
                    _ => self.sessions += u32::from(sequence == 1),
                }
                let session = SessionId(stream.id);
                self.chats.entry(session).or_default().evolve(event);
            }
            Event::Caption(event) => {
                let caption = CaptionId(stream.id);
                self.captions.entry(caption).or_default().evolve(event);
            }
            Event::File(event) => self.evolve_file(event),
            Event::ApiKey(event) => self.evolve_api_key(ServiceKeyId(stream.id), event),
            Event::Email(_) | Event::Invite(_) | Event::ServiceKey(_) | Event::Access(_) => {}
        }
        self.leave_out_the_finished(stream);
    }
}

fn changes<E: Into<Event>>(id: impl Into<Uuid>, events: Vec<E>) -> Vec<Change> {
    let id = id.into();
    events
        .into_iter()
        .map(|event| Change::new(id, event))
        .collect()
}

/// The first fact of a user, which is decided before there is a state.
pub fn registered(id: UserId, event: AccountEvent) -> Change {
    Change::new(id, event)
}

#[cfg(test)]
mod tests;
