//! A user: **one state folded from all of that user's streams**, and what may be asked of it.
//!
//! Finished jobs, ended captions and old messages are left out, so that a user stays small; a finished job is read on demand
//! and handed in with [`User::recall_job`].

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{
    Now,
    account::{Account, AccountCommand, AccountEvent, Onboarding},
    caption::{Brief, Caption, CaptionCommand, Written},
    chat::{Chat, ChatCommand, Failure},
    credential::{Credential, CredentialCommand, CredentialKind, RefusedFor, SealedSecret},
    event::{Change, Event},
    ids::{BlobId, CaptionId, CredentialId, JobId, SessionId, StreamId, StreamKind, TurnId, UserId},
    job::{Job, JobCommand, JobEvent, JobSpec},
    moment::Moment,
    operation,
    refusal::Refusal,
    tier::Counter,
    usage::{Unit, Usage},
    user::allowed::counted_unit,
};

/// The most jobs of one user that have not ended: a user's state stays within memory.
pub const MAX_UNFINISHED_JOBS: usize = 5000;

/// The most credentials that a user holds beside profiles, which the tier limits: each platform's login, cookies and session.
pub const MAX_LOGINS: usize = 300;

/// What a user's tier allows, and what is counted against it.
mod allowed;
/// Onboarding and the job that does it.
pub mod onboarding;
/// Who may be shown a credential, and why not.
pub mod reveal;
/// The state as it is kept beside the log.
pub mod snapshot;

/// A user's present state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    id: UserId,
    seq: u64,
    account: Account,
    usage: Usage,
    credentials: HashMap<CredentialId, Credential>,
    jobs: HashMap<JobId, Job>,
    chats: HashMap<SessionId, Chat>,
    captions: HashMap<CaptionId, Caption>,
    #[serde(with = "snapshot::sequences")]
    sequences: HashMap<StreamId, u64>,
}

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
        /// Which: see [`User::credential_for`].
        credential: CredentialId,
        /// What kind.
        kind: CredentialKind,
        /// The platform.
        platform: String,
        /// The name there.
        platform_username: Option<String>,
        /// When a session is over.
        expires_at: Option<Moment>,
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
    /// Note that a credential was asked for and not shown: see [`User::may_be_shown`].
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
    FinishCaption(CaptionId, Result<Written, Failure>),
    /// Count what was done elsewhere; what genie counts itself is left as it is.
    CountUsage {
        /// What.
        counter: Counter,
        /// How many.
        amount: u64,
    },
}

impl UserCommand {
    /// The job that must be known to decide this: when it is not in the state, it has to be recalled first.
    pub fn job(&self) -> Option<&JobId> {
        match self {
            Self::SubmitJob(job, _) | Self::RetryJob(job) | Self::Job(job, _) => Some(job),
            _ => None,
        }
    }

    /// Ending what runs: what was asked was asked by somebody who was allowed to, so it is taken whatever they are now.
    fn is_an_ending(&self) -> bool {
        matches!(
            self,
            Self::FinishCaption(..)
                | Self::Chat(_, ChatCommand::Answer { .. })
                | Self::Job(_, JobCommand::Lapse { .. } | JobCommand::Complete { .. } | JobCommand::Fail { .. })
        )
    }
}

impl User {
    /// A user of whom nothing is known yet.
    pub fn new(id: UserId) -> Self {
        Self {
            id,
            seq: 0,
            account: Account::default(),
            usage: Usage::default(),
            credentials: HashMap::new(),
            jobs: HashMap::new(),
            chats: HashMap::new(),
            captions: HashMap::new(),
            sequences: HashMap::new(),
        }
    }

    /// Who.
    pub fn id(&self) -> UserId {
        self.id
    }

    /// How many events this user has: the fence of the next append.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// How many events a stream has.
    pub fn sequence(&self, stream: &StreamId) -> u64 {
        self.sequences.get(stream).copied().unwrap_or(0)
    }

    /// The account.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// A job that has not ended, or was recalled.
    pub fn job(&self, job: &JobId) -> Option<&Job> {
        self.jobs.get(job)
    }

    /// A credential.
    pub fn credential(&self, credential: CredentialId) -> Option<&Credential> {
        self.credentials.get(&credential)
    }

    /// The credential of this kind that is held for a platform, if any: of several profiles, the one of that name.
    pub fn credential_for(&self, kind: CredentialKind, platform: &str, username: Option<&str>) -> Option<CredentialId> {
        let is_it = |held: &Credential| match held {
            Credential::Held { kind: k, platform: p, platform_username: u, .. } => {
                *k == kind && p == platform && (kind != CredentialKind::Profile || u.as_deref() == username)
            }
            _ => false,
        };
        self.credentials.iter().find_map(|(id, held)| is_it(held).then_some(*id))
    }

    /// The turn under way in a session.
    pub fn running_turn(&self, session: &SessionId) -> Option<TurnId> {
        self.chats.get(session).and_then(Chat::running)
    }

    /// Hands in a finished job that was read from its stream.
    pub fn recall_job(&mut self, id: JobId, job: Job, sequence: u64) {
        self.sequences.insert(StreamId::new(StreamKind::Job, &id), sequence);
        self.jobs.insert(id, job);
    }

    /// What happens when this is asked now. Everything returned is appended together or not at all.
    pub fn decide(&self, now: Now, command: UserCommand) -> Result<Vec<Change>, Refusal> {
        // That something was refused is also a fact of the suspended, and nothing of theirs is lost in an import.
        let of_anybody = matches!(
            command,
            UserCommand::Account(_) | UserCommand::RefuseCredential { .. } | UserCommand::ImportCredential { .. }
        );
        if !command.is_an_ending() && !of_anybody {
            self.account.active()?;
        }
        match command {
            UserCommand::SignIn => self.account_changes(AccountCommand::SignIn),
            UserCommand::Account(command) => self.account_changes(command),
            UserCommand::AdvanceOnboarding { to, privileged } => {
                self.account_changes(AccountCommand::AdvanceOnboarding { to, privileged })
            }
            UserCommand::BeginOnboarding(job, file) => self.begin_onboarding(&job, file),
            UserCommand::StoreCredential { credential, kind, platform, platform_username, expires_at, sealed } => {
                let store = CredentialCommand::Store { kind, platform, platform_username, expires_at, sealed };
                self.store_credential(&now, credential, kind, store)
            }
            UserCommand::ImportCredential { credential, platform, platform_username, over, sealed } => {
                let kind = CredentialKind::Profile;
                let store = CredentialCommand::Store { kind, platform, platform_username, expires_at: None, sealed };
                self.import_credential(credential, over, store)
            }
            UserCommand::RevealCredential { credential, purpose } => {
                self.credential_changes(credential, CredentialCommand::Reveal { purpose })
            }
            UserCommand::RefuseCredential { credential, reason, platform, purpose } => {
                self.credential_changes(credential, CredentialCommand::Refuse { reason, platform, purpose })
            }
            UserCommand::RemoveCredential(credential) => self.credential_changes(credential, CredentialCommand::Remove),
            UserCommand::SubmitJob(job, spec) => self.submit_job(&now, &job, &spec),
            UserCommand::RetryJob(job) => {
                let operation = self.known_job(&job).spec().map_or("", |spec| &spec.operation);
                self.queue_job(&now, &job, operation, None, |counted| JobCommand::Retry { counted })
            }
            UserCommand::Job(job, command) => self.job_changes(&job, command),
            UserCommand::Chat(session, command) => {
                let absent = Chat::default();
                let events = self.chats.get(&session).unwrap_or(&absent).decide(command)?;
                Ok(changes(&session, events))
            }
            UserCommand::RequestCaption(caption, brief) => self.request_caption(&now, caption, brief),
            UserCommand::FinishCaption(caption, result) => self.finish_caption(caption, result),
            UserCommand::CountUsage { counter, .. } if counter.is_counted_by_genie() => Ok(vec![]),
            UserCommand::CountUsage { counter, amount } => self.can_perform(&now, counter, amount),
        }
    }

    fn account_changes(&self, command: AccountCommand) -> Result<Vec<Change>, Refusal> {
        self.account.decide(command).map(|events| changes(&self.id, events))
    }

    fn credential_changes(&self, id: CredentialId, command: CredentialCommand) -> Result<Vec<Change>, Refusal> {
        let events = self.credentials.get(&id).unwrap_or(&Credential::Absent).decide(command)?;
        Ok(changes(&id, events))
    }

    fn store_credential(
        &self,
        now: &Now,
        id: CredentialId,
        kind: CredentialKind,
        command: CredentialCommand,
    ) -> Result<Vec<Change>, Refusal> {
        let is_new = !matches!(self.credentials.get(&id), Some(Credential::Held { .. }));
        match kind {
            _ if !is_new => {}
            CredentialKind::Profile => drop(self.can_perform(now, Counter::PlatformsConnected, 1)?),
            CredentialKind::Password | CredentialKind::Cookies | CredentialKind::Session => self.check_room_for_a_login()?,
        }
        self.credential_changes(id, command)
    }

    fn check_room_for_a_login(&self) -> Result<(), Refusal> {
        let is_login = |held: &&Credential| matches!(held, Credential::Held { kind, .. } if *kind != CredentialKind::Profile);
        match self.credentials.values().filter(is_login).count() < MAX_LOGINS {
            true => Ok(()),
            false => {
                let sentence = format!("You hold {MAX_LOGINS} logins, cookie files and sessions; remove some");
                Err(Refusal::conflict("too_many_credentials", sentence))
            }
        }
    }

    fn import_credential(&self, id: CredentialId, over: Option<u32>, command: CredentialCommand) -> Result<Vec<Change>, Refusal> {
        self.account.profile().ok_or_else(|| Refusal::not_found("user"))?;
        let refused = |sentence: String| Err(Refusal::conflict("not_imported", sentence));
        if let CredentialCommand::Store { platform, platform_username, .. } = &command
            && let Some(other) =
                self.credential_for(CredentialKind::Profile, platform, platform_username.as_deref()).filter(|other| *other != id)
        {
            return refused(format!("The user's credentials for this platform and name are held under the id {other} already"));
        }
        match self.credentials.get(&id) {
            None | Some(Credential::Absent) => self.credential_changes(id, command),
            Some(Credential::Held { version, .. }) if over == Some(*version) => self.credential_changes(id, command),
            Some(Credential::Held { .. }) => refused("This credential was changed here, and stays so".to_owned()),
            Some(Credential::Removed { .. }) => refused("This credential was removed here, and stays so".to_owned()),
        }
    }

    fn submit_job(&self, now: &Now, job: &JobId, spec: &JobSpec) -> Result<Vec<Change>, Refusal> {
        self.queue_job(now, job, &spec.operation, spec.run_at, |counted| JobCommand::Submit { spec: spec.clone(), counted })
    }

    /// Queues a job, for the first time or again: each time it is allowed and counted, in the same append.
    fn queue_job(
        &self,
        now: &Now,
        id: &JobId,
        operation: &str,
        run_at: Option<Moment>,
        command: impl Fn(Option<Unit>) -> JobCommand,
    ) -> Result<Vec<Change>, Refusal> {
        let job = self.known_job(id);
        if job.decide(command(None))?.is_empty() {
            return Ok(vec![]); // asked twice, counted once
        }
        self.check_room_for_a_job()?;
        if run_at.is_some_and(|at| at > now.moment) {
            self.can_perform(now, Counter::ScheduledQueueSize, 1)?;
        }
        let mut all = match operation::counter_of(operation) {
            Some(counter) => self.can_perform(now, counter, 1)?,
            None => vec![],
        };
        let queued = job.decide(command(counted_unit(&all)))?;
        let onboarding = self.onboarding_after(job, &queued)?;
        all.extend(changes(id, queued));
        all.extend(onboarding);
        Ok(all)
    }

    /// Something about a job that was queued; what was counted for it goes back when it comes to nothing.
    fn job_changes(&self, id: &JobId, command: JobCommand) -> Result<Vec<Change>, Refusal> {
        let job = self.known_job(id);
        let events = job.decide(command)?;
        let back: Vec<Unit> = events.iter().filter_map(|event| job.gives_back(event)).collect();
        let onboarding = self.onboarding_after(job, &events)?;
        let mut all = changes(id, events);
        all.extend(onboarding);
        for unit in back {
            all.extend(self.give_back(unit)?);
        }
        Ok(all)
    }

    fn known_job(&self, job: &JobId) -> &Job {
        self.jobs.get(job).unwrap_or(&Job::Absent)
    }

    fn check_room_for_a_job(&self) -> Result<(), Refusal> {
        let unfinished = self.jobs.values().filter(|job| !matches!(job, Job::Finished { .. })).count();
        match unfinished < MAX_UNFINISHED_JOBS {
            true => Ok(()),
            false => {
                let sentence =
                    format!("You have {MAX_UNFINISHED_JOBS} jobs that have not ended; wait for some to end, or cancel some");
                Err(Refusal::conflict("too_many_jobs", sentence))
            }
        }
    }

    fn request_caption(&self, now: &Now, caption: CaptionId, brief: Brief) -> Result<Vec<Change>, Refusal> {
        if self.captions.contains_key(&caption) {
            return Ok(vec![]);
        }
        let mut all = self.can_perform(now, Counter::PostsAiAssisted, 1)?;
        // The month that was counted in, which a clock that jumped back does not change.
        let month = counted_unit(&all).map_or(now.moment.month(), |unit| unit.month);
        let events = Caption::Absent.decide(CaptionCommand::Request { brief, month })?;
        all.extend(changes(&caption, events));
        Ok(all)
    }

    fn finish_caption(&self, id: CaptionId, result: Result<Written, Failure>) -> Result<Vec<Change>, Refusal> {
        let Some(Caption::Requested { month }) = self.captions.get(&id) else {
            return Ok(vec![]); // it ended before, and ended captions are left out of the state
        };
        let failed = result.is_err();
        let events = Caption::Requested { month: *month }.decide(CaptionCommand::Finish(result))?;
        let mut all = changes(&id, events);
        if failed {
            all.extend(self.give_back(Unit { counter: Counter::PostsAiAssisted, month: *month })?);
        }
        Ok(all)
    }

    /// Folds one stored event of this user. `id` is the stream's id as stored; one that is no id of its kind is left alone.
    pub fn evolve(&mut self, stream: &StreamId, sequence: u64, event: Event) {
        self.seq += 1;
        self.sequences.insert(stream.clone(), sequence);
        match event {
            Event::Account(event) => self.account.evolve(event),
            Event::Usage(event) => self.usage.evolve(event),
            Event::Credential(event) => {
                if let Ok(id) = stream.id.parse() {
                    self.credentials.entry(id).or_default().evolve(event);
                }
            }
            Event::Job(event) => {
                if let Ok(id) = stream.id.parse() {
                    self.evolve_job(stream, id, event);
                }
            }
            Event::Chat(event) => self.chats.entry(SessionId(stream.id.clone())).or_default().evolve(event),
            Event::Caption(event) => {
                if let Ok(id) = stream.id.parse() {
                    self.captions.entry(id).or_default().evolve(event);
                }
            }
            Event::Email(_) | Event::Invite(_) | Event::ServiceKey(_) | Event::Access(_) => {}
        }
        self.leave_out_the_finished(stream);
    }

    /// A job that was left out when it finished and was queued again since stays out until it is recalled: what it is, only its
    /// stream knows. A state that took it for absent would refuse its worker, and its lease.
    fn evolve_job(&mut self, stream: &StreamId, id: JobId, event: JobEvent) {
        match self.jobs.get_mut(&id) {
            Some(job) => job.evolve(event),
            None if matches!(event, JobEvent::Submitted { .. }) => self.jobs.entry(id).or_default().evolve(event),
            None => drop(self.sequences.remove(stream)),
        }
    }

    /// A finished job or caption leaves the state; its stream stays.
    fn leave_out_the_finished(&mut self, stream: &StreamId) {
        let finished = match stream.kind {
            StreamKind::Job => {
                stream.id.parse().is_ok_and(|id| remove_if(&mut self.jobs, &id, |job| matches!(job, Job::Finished { .. })))
            }
            StreamKind::Caption => {
                stream.id.parse().is_ok_and(|id| remove_if(&mut self.captions, &id, |caption| *caption == Caption::Ended))
            }
            _ => false,
        };
        if finished {
            self.sequences.remove(stream);
        }
    }

    /// Forgets jobs that were recalled for a command which then changed nothing.
    pub fn drop_recalled(&mut self, job: &JobId) {
        if remove_if(&mut self.jobs, job, |job| matches!(job, Job::Finished { .. })) {
            self.sequences.remove(&StreamId::new(StreamKind::Job, job));
        }
    }
}

fn remove_if<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, key: &K, is_finished: impl Fn(&V) -> bool) -> bool {
    let finished = map.get(key).is_some_and(is_finished);
    if finished {
        map.remove(key);
    }
    finished
}

fn changes<E: Into<Event>>(id: &impl ToString, events: Vec<E>) -> Vec<Change> {
    events.into_iter().map(|event| Change::new(id.to_string(), event)).collect()
}

/// The first fact of a user, which is decided before there is a state to ask.
pub fn registered(id: UserId, event: AccountEvent) -> Change {
    Change::new(id, event)
}

#[cfg(test)]
mod tests;
