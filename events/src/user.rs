//! A user: **one state folded from all of that user's streams**, and what may be asked of it.
//!
//! Finished jobs, ended captions and old messages are left out, so that a user stays small; a finished job is read on demand
//! and handed in with [`User::recall_job`].

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{
    account::{Account, AccountCommand, AccountEvent, Onboarding},
    caption::{Brief, Caption, CaptionCommand, Written},
    chat::{Chat, ChatCommand, Failure},
    credential::{Credential, CredentialCommand, SealedSecret},
    event::{Change, Event},
    ids::{BlobId, CaptionId, CredentialId, JobId, SessionId, StreamId, StreamKind, TurnId, UserId},
    job::{Job, JobCommand, JobEvent, JobSpec},
    moment::{Moment, Month},
    operation,
    refusal::Refusal,
    tier::{Counter, Tier},
    usage::{Usage, UsageCommand, UsageEvent},
};

/// The most jobs of one user that have not ended: a user's state stays within memory.
pub const MAX_UNFINISHED_JOBS: usize = 5000;

/// Onboarding and the job that does it.
pub mod onboarding;
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
    /// Hold a platform's credentials.
    StoreCredential {
        /// Which: see [`User::credential_for`].
        credential: CredentialId,
        /// The platform.
        platform: String,
        /// The name there.
        platform_username: Option<String>,
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
    /// Hold a credential no longer.
    RemoveCredential(CredentialId),
    /// Queue a job.
    SubmitJob(JobId, JobSpec),
    /// Something about a job that was queued.
    Job(JobId, JobCommand),
    /// Begin or end a turn.
    Chat(SessionId, ChatCommand),
    /// Write a caption.
    RequestCaption(CaptionId, Brief),
    /// A caption is written, or failed.
    FinishCaption(CaptionId, Result<Written, Failure>),
}

impl UserCommand {
    /// The job that must be known to decide this: when it is not in the state, it has to be recalled first.
    pub fn job(&self) -> Option<&JobId> {
        match self {
            Self::SubmitJob(job, _) | Self::Job(job, _) => Some(job),
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

    /// The credential held for this platform and name, if any.
    pub fn credential_for(&self, platform: &str, username: Option<&str>) -> Option<CredentialId> {
        self.credentials.iter().find_map(|(id, credential)| match credential {
            Credential::Held { platform: p, platform_username: u, .. } if p == platform && u.as_deref() == username => Some(*id),
            _ => None,
        })
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

    /// What happens when this is asked at `now`. Everything returned is appended together or not at all.
    pub fn decide(&self, now: Moment, command: UserCommand) -> Result<Vec<Change>, Refusal> {
        if !command.is_an_ending() && !matches!(command, UserCommand::Account(_)) {
            self.account.active()?;
        }
        match command {
            UserCommand::SignIn => self.account_changes(AccountCommand::SignIn),
            UserCommand::Account(command) => self.account_changes(command),
            UserCommand::AdvanceOnboarding { to, privileged } => {
                self.account_changes(AccountCommand::AdvanceOnboarding { to, privileged })
            }
            UserCommand::BeginOnboarding(job, file) => self.begin_onboarding(&job, file),
            UserCommand::StoreCredential { credential, platform, platform_username, sealed } => {
                self.store_credential(credential, CredentialCommand::Store { platform, platform_username, sealed })
            }
            UserCommand::RevealCredential { credential, purpose } => {
                self.credential_changes(credential, CredentialCommand::Reveal { purpose })
            }
            UserCommand::RemoveCredential(credential) => self.credential_changes(credential, CredentialCommand::Remove),
            UserCommand::SubmitJob(job, spec) => self.submit_job(now, job, spec),
            UserCommand::Job(job, command) => {
                if command == JobCommand::Retry {
                    self.check_room_for_a_job()?;
                }
                let before = self.jobs.get(&job).unwrap_or(&Job::Absent);
                let events = before.decide(command)?;
                let onboarding = self.onboarding_after(before, &events)?;
                Ok([changes(&job, events), onboarding].concat())
            }
            UserCommand::Chat(session, command) => {
                let absent = Chat::default();
                let events = self.chats.get(&session).unwrap_or(&absent).decide(command)?;
                Ok(changes(&session, events))
            }
            UserCommand::RequestCaption(caption, brief) => self.request_caption(now, caption, brief),
            UserCommand::FinishCaption(caption, result) => self.finish_caption(caption, result),
        }
    }

    fn account_changes(&self, command: AccountCommand) -> Result<Vec<Change>, Refusal> {
        self.account.decide(command).map(|events| changes(&self.id, events))
    }

    fn credential_changes(&self, id: CredentialId, command: CredentialCommand) -> Result<Vec<Change>, Refusal> {
        let events = self.credentials.get(&id).unwrap_or(&Credential::Absent).decide(command)?;
        Ok(changes(&id, events))
    }

    fn store_credential(&self, id: CredentialId, command: CredentialCommand) -> Result<Vec<Change>, Refusal> {
        let held = self.credentials.values().filter(|credential| matches!(credential, Credential::Held { .. })).count() as u64;
        let is_new = !matches!(self.credentials.get(&id), Some(Credential::Held { .. }));
        if is_new {
            self.check_present(Counter::PlatformsConnected, held)?;
        }
        self.credential_changes(id, command)
    }

    fn submit_job(&self, now: Moment, job: JobId, spec: JobSpec) -> Result<Vec<Change>, Refusal> {
        let counter = operation::counter_of(&spec.operation);
        let scheduled = spec.run_at.is_some_and(|at| at > now);
        let submitted = self.jobs.get(&job).unwrap_or(&Job::Absent).decide(JobCommand::Submit(spec))?;
        if submitted.is_empty() {
            return Ok(vec![]);
        }
        self.check_room_for_a_job()?;
        if scheduled {
            let waiting = self.jobs.values().filter(|job| is_scheduled(job, now)).count() as u64;
            self.check_present(Counter::ScheduledQueueSize, waiting)?;
        }
        let mut all = match counter {
            Some(counter) => self.count(counter, now.month())?,
            None => vec![],
        };
        all.extend(changes(&job, submitted));
        Ok(all)
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

    fn request_caption(&self, now: Moment, caption: CaptionId, brief: Brief) -> Result<Vec<Change>, Refusal> {
        if self.captions.contains_key(&caption) {
            return Ok(vec![]);
        }
        let mut all = self.count(Counter::PostsAiAssisted, now.month())?;
        // The month that was counted in, which a clock that jumped back does not change.
        let month = all.iter().find_map(counted_month).unwrap_or(now.month());
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
            let back = UsageCommand::GiveBack { counter: Counter::PostsAiAssisted, amount: 1, month: *month };
            all.extend(changes(&self.id, self.usage.decide(back)?));
        }
        Ok(all)
    }

    fn tier(&self) -> Result<Tier, Refusal> {
        self.account.active().map(|profile| profile.tier)
    }

    fn count(&self, counter: Counter, month: Month) -> Result<Vec<Change>, Refusal> {
        let command = UsageCommand::Count { counter, amount: 1, month, tier: self.tier()? };
        self.usage.decide(command).map(|events| changes(&self.id, events))
    }

    fn check_present(&self, counter: Counter, present: u64) -> Result<(), Refusal> {
        let tier = self.tier()?;
        match counter.limit(tier) {
            Some(limit) if present >= limit => Err(Refusal::quota(counter, limit > 0, tier.as_str())),
            _ => Ok(()),
        }
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
            None if matches!(event, JobEvent::Submitted(_)) => self.jobs.entry(id).or_default().evolve(event),
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

fn is_scheduled(job: &Job, now: Moment) -> bool {
    matches!(job, Job::Waiting { attempts: 0, not_before: Some(at), .. } if *at > now)
}

fn counted_month(change: &Change) -> Option<Month> {
    match &change.event {
        Event::Usage(UsageEvent::Counted { month, .. }) => Some(*month),
        _ => None,
    }
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
