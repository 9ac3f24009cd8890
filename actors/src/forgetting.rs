//! Forgetting. One append records it, wipes the user's key and frees the address. It is decided beside the user's
//! actor, because an address is not the user's own stream. It is small however much the user did: the events stay,
//! and nobody can read them. The rest is erased afterwards; [`genie_log::forgetting`] keeps the list of users whose
//! rest is still to be erased.

use genie_events::{
    Metadata, StreamId, StreamKind, UserId,
    account::{AccountEvent, ForgottenBy, LifecycleCommand},
    email::EmailCommand,
    ids::EmailId,
};
use genie_log::forgetting::ForgettingRow;
use genie_log::{
    Append, AppendRequest, Group, Log, LogError, NewFact, Work,
    load_users::{Awake, Waking},
};
use tracing::{Instrument, info, warn};

use crate::{
    WriteError,
    accounts::change_login::{decided, group},
    administrators::one_remains,
    emails::Emails,
    race::Race,
    users::Users,
};

#[derive(Debug, Clone)]
pub struct Forgetter {
    log: Log,
    append: Append,
    /// The actors of this process, if it has any.
    users: Option<Users>,
    emails: Emails,
}

/// The outcome of a forgetting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForgetOutcome {
    /// The user is forgotten, by this call or an earlier one.
    Yes,
    /// The time has not come, or the user withdrew the wish.
    NotYet,
}

impl Forgetter {
    pub fn new(append: Append, users: Option<Users>) -> Self {
        Self {
            log: append.log().clone(),
            emails: Emails::new(append.clone()),
            append,
            users,
        }
    }

    /// Forgets a user now. After `Ok` it is durable. Forgetting again is no error. An unknown user is not found.
    pub async fn now(
        &self,
        user: UserId,
        by: ForgottenBy,
        metadata: Metadata,
    ) -> Result<(), WriteError> {
        self.run_to_end(user, LifecycleCommand::Forget(by), None, metadata)
            .await
            .map(drop)
    }

    /// The same. If the user is an administrator, one of these must be one who stays.
    pub async fn now_unless_last(
        &self,
        user: UserId,
        by: ForgottenBy,
        others: Vec<UserId>,
        metadata: Metadata,
    ) -> Result<(), WriteError> {
        self.run_to_end(user, LifecycleCommand::Forget(by), Some(others), metadata)
            .await
            .map(drop)
    }

    /// Forgets a user whose own wish is due. Without a due wish nothing happens.
    pub async fn when_due(
        &self,
        user: UserId,
        metadata: Metadata,
    ) -> Result<ForgetOutcome, WriteError> {
        let now = self.log.clock().now();
        self.run_to_end(
            user,
            LifecycleCommand::ForgetWhenDue { now },
            None,
            metadata,
        )
        .await
    }

    /// Runs on a task of its own. So this process still drops what it holds of the user when the client goes away.
    async fn run_to_end(
        &self,
        user: UserId,
        command: LifecycleCommand,
        others: Option<Vec<UserId>>,
        metadata: Metadata,
    ) -> Result<ForgetOutcome, WriteError> {
        let this = self.clone();
        let work = async move { this.ask(user, command, others, metadata).await };
        let task = self.log.store().io().spawn(work.in_current_span());
        task.await
            .map_err(|stopped| WriteError::Internal(stopped.to_string()))?
    }

    async fn ask(
        &self,
        user: UserId,
        command: LifecycleCommand,
        others: Option<Vec<UserId>>,
        metadata: Metadata,
    ) -> Result<ForgetOutcome, WriteError> {
        let others = others.as_deref();
        let mut race = Race::new();
        loop {
            let append = match self.log.users().wake(user).await {
                Ok(Waking::Awake(awake)) => {
                    self.decide(&awake, command.clone(), others, metadata.clone())
                        .await?
                }
                Ok(Waking::Forgotten) => {
                    let now = self.log.clock().now();
                    self.log
                        .forgettings()
                        .forget_restored_key(user, now)
                        .await?;
                    return Ok(ForgetOutcome::Yes);
                }
                Err(LogError::Away(reason)) => return Err(WriteError::Away(reason)),
                Err(error) => Some(
                    self.decide_unread(user, &command, others, metadata.clone(), &error)
                        .await?,
                ),
            };
            let Some(append) = append else {
                return Ok(ForgetOutcome::NotYet);
            };
            match race.append(&self.append, append).await {
                Ok(Some(at)) => {
                    self.drop_user(user);
                    info!(user.id = %user, position = at.last, "forgetting: user forgotten");
                    return Ok(ForgetOutcome::Yes);
                }
                Ok(None) => {}
                // Another node forgot the user: the next try finds that.
                Err(WriteError::Forgotten) if !race.is_over() => self.drop_user(user),
                Err(error) => return Err(error),
            }
        }
    }

    /// The append; `None` when nothing happens.
    async fn decide(
        &self,
        awake: &Awake,
        command: LifecycleCommand,
        others: Option<&[UserId]>,
        metadata: Metadata,
    ) -> Result<Option<AppendRequest>, WriteError> {
        let state = &awake.user;
        let changes = decided(state, command)?;
        if changes.is_empty() {
            return Ok(None);
        }
        let mut groups = vec![group(state, changes)];
        if let Some(address) = state.account().profile().and_then(|p| p.email.as_ref()) {
            groups.extend(self.release_address(state.id(), address).await?);
        }
        let mut work = vec![Work::Forgetting(ForgettingRow::Forget {
            user: state.id(),
            at: self.log.clock().now(),
        })];
        let is_admin = state.account().profile().is_some_and(|one| one.admin);
        if let Some(others) = others.filter(|_| is_admin) {
            work.push(one_remains(&self.log, state.id(), others).await?);
        }
        Ok(Some(AppendRequest {
            groups,
            work,
            metadata,
            remember: None,
        }))
    }

    /// The facts that free the user's address. A damaged address is no reason to keep the user.
    async fn release_address(
        &self,
        user: UserId,
        address: &EmailId,
    ) -> Result<Option<Group>, WriteError> {
        match self.emails.ask(address, EmailCommand::Release(user)).await {
            Err(error) if !matches!(error, WriteError::Away(_) | WriteError::Refused(_)) => {
                warn!(user.id = %user, %error, "forgetting: the user's address can't be read; it stays taken");
                Ok(None)
            }
            released => released,
        }
    }

    /// Forgets a user whose events cannot be read, because one is damaged or the master key is gone. Only
    /// administrators and the operator may: a user's own wish could not be read either. The address is unknown, so it
    /// stays taken. The user may be an administrator.
    async fn decide_unread(
        &self,
        user: UserId,
        command: &LifecycleCommand,
        others: Option<&[UserId]>,
        metadata: Metadata,
        error: &LogError,
    ) -> Result<AppendRequest, WriteError> {
        let (LifecycleCommand::Forget(by), (after, of_account @ 1..)) =
            (command, self.log.forgettings().counts_of(user).await?)
        else {
            return Err(error.clone().into());
        };
        warn!(user.id = %user, %error, "forgetting: the user's events can't be read; their address stays taken");
        let event = AccountEvent::Forgotten { by: *by }.into();
        let fact = NewFact {
            stream: StreamId::new(StreamKind::Account, user),
            sequence: of_account + 1,
            event,
        };
        let mut work = vec![Work::Forgetting(ForgettingRow::Forget {
            user,
            at: self.log.clock().now(),
        })];
        if let Some(others) = others {
            work.push(one_remains(&self.log, user, others).await?);
        }
        Ok(AppendRequest {
            groups: vec![Group::of_user(user, after, vec![fact])],
            work,
            metadata,
            remember: None,
        })
    }

    fn drop_user(&self, user: UserId) {
        match &self.users {
            Some(users) => users.drop_user(user),
            None => self.log.keys().drop_of(user),
        }
    }
}
