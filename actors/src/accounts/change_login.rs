//! A new password, a new address, or both, in one append. An address is claimed in its own stream, and the old one is
//! released in the same append. So of two users who race for an address one wins, and nobody holds two.
//!
//! Addresses are not the user's own streams. So the change is decided beside the user's actor, and the fence makes
//! the actor load again, as when another node wrote.

use genie_events::{
    Change, EmailAddress, Metadata, Now, Refusal, User, UserId,
    account::{AccountCommand, Profile, ProfileCommand},
    email::EmailCommand,
    ids::EmailId,
};
use genie_log::sessions::SessionRow;
use genie_log::{
    AppendRequest, Group, NewFact, Work,
    load_users::{Awake, SNAPSHOT_EVERY, Waking},
};
use secrecy::{ExposeSecret, SecretString};

use super::{Accounts, NameChange};
use crate::{WriteError, race::Race, vault::seal_password};

/// The wanted change. Its user gave the right password.
#[derive(Debug, Default)]
pub struct LoginChange {
    /// The version of the hash that the given password matched.
    pub from: u32,
    /// The new password, already hashed (Argon2id, PHC string).
    pub password_hash: Option<SecretString>,
    pub email: Option<EmailAddress>,
    /// Other names, changed with it.
    pub names: Vec<NameChange>,
    /// The login that goes on; all others end.
    pub keep: Option<String>,
}

impl Accounts {
    /// Changes the password, the address or both. Answers the position that reads must reach to see it.
    pub async fn change_login(
        &self,
        user: UserId,
        change: &LoginChange,
        metadata: Metadata,
    ) -> Result<u64, WriteError> {
        let mut race = Race::new();
        loop {
            let awake = match self.log.users().wake(user).await? {
                Waking::Awake(awake) => awake,
                Waking::Forgotten => return Err(Refusal::not_found("user").into()),
            };
            if awake.user.seq() >= awake.snapshot_seq + SNAPSHOT_EVERY {
                // No actor does it for somebody who changes nothing else.
                let users = self.log.users();
                users.keep_snapshot(&awake.user, awake.position).await;
            }
            let Some(append) = self.decide_login(&awake, change, metadata.clone()).await? else {
                return Ok(awake.position); // everything is so already
            };
            if let Some(at) = race.append(&self.append, append).await? {
                return Ok(at.last);
            }
        }
    }

    /// The append; `None` when everything is so already.
    async fn decide_login(
        &self,
        awake: &Awake,
        change: &LoginChange,
        metadata: Metadata,
    ) -> Result<Option<AppendRequest>, WriteError> {
        let state = &awake.user;
        let user = state.id();
        let profile = state.account().active()?;
        if change.from != profile.password {
            return Err(Refusal::forbidden("wrong_password", "The old password is wrong").into());
        }
        let mut changes = vec![];
        let mut groups = vec![];
        let mut work = vec![];
        if let Some(hash) = &change.password_hash {
            let key = self.vault_key(user).await?;
            let hash = hash.expose_secret();
            changes.extend(decided(
                state,
                ProfileCommand::ChangePassword { from: change.from },
            )?);
            work.push(seal_password(&key, user, profile.password + 1, hash));
        }
        if let Some(address) = &change.email {
            let email_id = self.log.hashes().email(address);
            groups = self.decide_address(user, profile, &email_id).await?;
            let command = ProfileCommand::ChangeEmail {
                email: address.written().to_owned(),
                email_id,
            };
            changes.extend(decided(state, command)?);
        }
        if changes.is_empty() {
            return Ok(None);
        }
        for name in change.names.iter().cloned() {
            changes.extend(decided(state, ProfileCommand::from(name))?);
        }
        let now = Now {
            moment: self.log.clock().now(),
            limits: self.users.limits(),
        };
        state.check_day(&now, &metadata, &changes)?;
        work.push(Work::Session(SessionRow::EndAll {
            user,
            but: change.keep.clone(),
        }));
        groups.insert(0, group(state, changes));
        Ok(Some(AppendRequest {
            groups,
            work,
            metadata,
            remember: None,
        }))
    }

    /// The facts of the new address and the old one.
    async fn decide_address(
        &self,
        user: UserId,
        profile: &Profile,
        address: &EmailId,
    ) -> Result<Vec<Group>, WriteError> {
        if profile.email.as_ref() == Some(address) {
            return Ok(vec![]);
        }
        let claim = EmailCommand::Claim(user);
        let mut groups: Vec<Group> = self.emails.ask(address, claim).await?.into_iter().collect();
        if let Some(old) = &profile.email {
            groups.extend(self.emails.ask(old, EmailCommand::Release(user)).await?);
        }
        Ok(groups)
    }
}

/// The account's changes from a command.
pub(crate) fn decided(
    state: &User,
    command: impl Into<AccountCommand>,
) -> Result<Vec<Change>, Refusal> {
    Ok(state
        .account()
        .decide(command)?
        .into_iter()
        .map(|event| Change::new(state.id(), event))
        .collect())
}

/// The account's changes, numbered after the facts it has.
pub(crate) fn group(state: &User, changes: Vec<Change>) -> Group {
    let facts = changes.into_iter().zip(1..).map(|(change, n)| NewFact {
        sequence: state.sequence(&change.stream) + n,
        stream: change.stream,
        event: change.event,
    });
    Group::of_user(state.id(), state.seq(), facts.collect())
}
