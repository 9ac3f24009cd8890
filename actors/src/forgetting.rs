//! Forgetting. That a user is forgotten, that their key is wiped and that their address is free again is one append, decided beside
//! the user's actor (an address is not the user's own stream), and small however much the user did: the events stay as they are,
//! and nobody can read them. What else is left of the user is erased afterwards; [`genie_log::forgetting`] keeps for whom.

use genie_events::{
    Metadata, StreamId, StreamKind, UserId,
    account::{AccountEvent, ForgottenBy, LifecycleCommand},
    email::{Email, EmailCommand},
};
use genie_log::forgetting::ForgettingRow;
use genie_log::{
    Append, AppendError, AppendRequest, Group, Log, LogError, NewFact, Work, clock,
    load_users::{Awake, Waking},
};
use tracing::{info, warn};

use crate::{
    WriteError,
    accounts::change_login::{decided, group},
    system_stream,
    users::Users,
};

/// How often a race is tried again before the caller is told to come back.
const TRIES: u32 = 8;
/// The pause before that; spread by chance.
const RACE_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

/// Forgets users.
#[derive(Debug, Clone)]
pub struct Forget {
    log: Log,
    append: Append,
    /// The actors of this process, where it has some.
    users: Option<Users>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgotten {
    /// They were forgotten, by this or before.
    Yes,
    /// It is not time yet, or they took it back.
    NotYet,
}

impl Forget {
    /// On this log, and of these actors.
    pub fn new(append: Append, users: Option<Users>) -> Self {
        Self {
            log: append.log().clone(),
            append,
            users,
        }
    }

    /// Forgets somebody now. When this answers `Ok`, it is durable; once more is no error. Somebody who never was is not found.
    pub async fn now(
        &self,
        user: UserId,
        by: ForgottenBy,
        metadata: Metadata,
    ) -> Result<(), WriteError> {
        self.to_the_end(user, LifecycleCommand::Forget(by), metadata)
            .await
            .map(drop)
    }

    /// Forgets somebody whose own wish is due; if it is not, or not any more, nothing happens.
    pub async fn when_due(
        &self,
        user: UserId,
        metadata: Metadata,
    ) -> Result<Forgotten, WriteError> {
        let now = self.log.clock().now();
        self.to_the_end(user, LifecycleCommand::ForgetWhenDue { now }, metadata)
            .await
    }

    /// On a task of its own: when whoever asked goes away, this process still lets go of what it holds of the user.
    async fn to_the_end(
        &self,
        user: UserId,
        command: LifecycleCommand,
        metadata: Metadata,
    ) -> Result<Forgotten, WriteError> {
        let this = self.clone();
        let work = self
            .log
            .store()
            .io()
            .spawn(async move { this.ask(user, command, metadata).await });
        work.await
            .map_err(|stopped| WriteError::Internal(stopped.to_string()))?
    }

    async fn ask(
        &self,
        user: UserId,
        command: LifecycleCommand,
        metadata: Metadata,
    ) -> Result<Forgotten, WriteError> {
        for _ in 0..TRIES {
            let append = match self.log.wake(user).await {
                Ok(Waking::Awake(awake)) => {
                    self.plan(&awake, command.clone(), metadata.clone()).await?
                }
                Ok(Waking::Forgotten) => {
                    self.log
                        .forgettings()
                        .forget_restored_key(user, self.log.clock().now())
                        .await?;
                    return Ok(Forgotten::Yes);
                }
                Err(LogError::Away(reason)) => return Err(WriteError::Away(reason)),
                Err(error) => Some(
                    self.plan_unread(user, &command, metadata.clone(), &error)
                        .await?,
                ),
            };
            let Some(append) = append else {
                return Ok(Forgotten::NotYet);
            };
            match self.append.append(append).await {
                Ok(at) => {
                    self.let_go(user);
                    info!(user.id = %user, position = at.last, "user `{user}` was forgotten");
                    return Ok(Forgotten::Yes);
                }
                // They did something else, somebody was at their address, or somebody else forgot them: decide on what is left.
                Err(AppendError::Stale) => {
                    tokio::time::sleep(RACE_PAUSE.mul_f64(clock::chance())).await
                }
                Err(AppendError::KeyNotLive) => self.let_go(user),
                Err(error) => return Err(error.into()),
            }
        }
        Err(WriteError::Busy)
    }

    /// What is to be appended; `None` when nothing happens.
    async fn plan(
        &self,
        awake: &Awake,
        command: LifecycleCommand,
        metadata: Metadata,
    ) -> Result<Option<AppendRequest>, WriteError> {
        let state = &awake.user;
        let changes = decided(state, command)?;
        if changes.is_empty() {
            return Ok(None);
        }
        let mut groups = vec![group(state, changes)];
        if let Some(address) = state
            .account()
            .profile()
            .and_then(|profile| profile.email.as_ref())
        {
            match system_stream::load::<Email>(&self.log, StreamKind::Email, &address.0).await {
                Ok((email, stream, count)) => {
                    let released: Vec<_> = email
                        .decide(EmailCommand::Release(state.id()))?
                        .into_iter()
                        .map(Into::into)
                        .collect();
                    if !released.is_empty() {
                        groups.push(Group::of_system(&stream, count, released));
                    }
                }
                Err(error @ WriteError::Away(_)) => return Err(error),
                // Damage there is no reason to keep anybody.
                Err(error) => {
                    warn!(user.id = %state.id(), %error, "a user is forgotten whose address can't be read; it is not free again");
                }
            }
        }
        let work = vec![Work::Forgetting(ForgettingRow::Forget {
            user: state.id(),
            at: self.log.clock().now(),
        })];
        Ok(Some(AppendRequest {
            groups,
            work,
            metadata,
            remember: None,
        }))
    }

    /// Of somebody whose events can't be read, because one is damaged or the master key is gone: whoever may forget anybody may
    /// forget them, too. Which address they had is not known, so it stays taken.
    async fn plan_unread(
        &self,
        user: UserId,
        command: &LifecycleCommand,
        metadata: Metadata,
        error: &LogError,
    ) -> Result<AppendRequest, WriteError> {
        let (LifecycleCommand::Forget(by), (after, of_account @ 1..)) =
            (command, self.log.forgettings().counts_of(user).await?)
        else {
            return Err(error.clone().into());
        };
        warn!(user.id = %user, %error, "a user is forgotten whose events can't be read; their address is not free again");
        let event = AccountEvent::Forgotten { by: *by }.into();
        let fact = NewFact {
            stream: StreamId::new(StreamKind::Account, user),
            sequence: of_account + 1,
            event,
        };
        let work = vec![Work::Forgetting(ForgettingRow::Forget {
            user,
            at: self.log.clock().now(),
        })];
        Ok(AppendRequest {
            groups: vec![Group::of_user(user, after, vec![fact])],
            work,
            metadata,
            remember: None,
        })
    }

    fn let_go(&self, user: UserId) {
        match &self.users {
            Some(users) => users.let_go(user),
            None => self.log.drop_keys(user),
        }
    }
}
