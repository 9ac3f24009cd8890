//! A new password, a new address, or both: what the user asks of their own account, in one append. An address is claimed in its
//! own stream and the old one released in the same append, so that of two who race for it one wins, and nobody holds two.
//!
//! Addresses are not the user's own streams, so this is not asked of the user's actor: it is decided beside it, and the fence
//! makes the actor look again, as when another node wrote.

use genie_events::{
    Change, Metadata, Refusal, StreamId, StreamKind, User, UserId,
    account::{AccountCommand, ProfileCommand},
    email::{self, Email, EmailCommand},
    ids::EmailId,
};
use genie_log::sessions::SessionRow;
use genie_log::{
    AppendError, AppendRequest, Group, NewFact, Owner, Work, clock,
    load_users::{Awake, Waking},
};
use secrecy::{ExposeSecret, SecretString};

use super::Accounts;
use crate::{WriteError, credentials::seal_password};

/// How often a race is tried again before the caller is told to come back.
const TRIES: u32 = 8;
/// The pause before that; spread by chance.
const RACE_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

/// What is to be changed, by somebody who gave the right password.
#[derive(Debug, Default)]
pub struct Revision {
    /// The version of the hash that the given password was right for.
    pub from: u32,
    /// The new password, already hashed (Argon2id, PHC string).
    pub password_hash: Option<SecretString>,
    /// The new address as given.
    pub email: Option<String>,
    /// The login that goes on; all others end.
    pub keep: Option<String>,
}

impl Accounts {
    /// Changes the password, the address or both. Answers the position.
    pub async fn revise(
        &self,
        user: UserId,
        revision: &Revision,
        metadata: Metadata,
    ) -> Result<u64, WriteError> {
        for _ in 0..TRIES {
            let awake = match self.log.wake(user).await? {
                Waking::Awake(awake) => awake,
                Waking::Forgotten => return Err(Refusal::not_found("user").into()),
            };
            let Some(append) = self.revision(&awake, revision, metadata.clone()).await? else {
                return Ok(awake.position);
            };
            match self.append.append(append).await {
                Ok(at) => return Ok(at.last),
                // The user did something else, or somebody was at one of the addresses: decide on what they left.
                Err(AppendError::Stale) => {
                    tokio::time::sleep(RACE_PAUSE.mul_f64(clock::chance())).await
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(WriteError::Busy)
    }

    /// What is to be appended; `None` when it is so already.
    async fn revision(
        &self,
        awake: &Awake,
        revision: &Revision,
        metadata: Metadata,
    ) -> Result<Option<AppendRequest>, WriteError> {
        let state = &awake.user;
        let user = state.id();
        let profile = state.account().active()?;
        if revision.from != profile.password {
            return Err(Refusal::forbidden("wrong_password", "The old password is wrong").into());
        }
        let (mut changes, mut groups, mut work) = (vec![], vec![], vec![]);
        if let Some(hash) = &revision.password_hash {
            let key = self.vault_key(user).await?;
            let command = ProfileCommand::ChangePassword {
                from: revision.from,
            };
            changes.extend(decided(state, command)?);
            work.push(seal_password(
                &key,
                user,
                profile.password + 1,
                hash.expose_secret(),
            ));
        }
        if let Some(address) = &revision.email {
            let normal = email::normalise(address)
                .ok_or_else(|| Refusal::invalid("email", "`email` must be an e-mail address"))?;
            let email_id = self.log.hashes().email(&normal);
            if profile.email.as_ref() != Some(&email_id) {
                groups.extend(
                    self.at_address(&email_id, EmailCommand::Claim(user))
                        .await?,
                );
                if let Some(old) = &profile.email {
                    groups.extend(self.at_address(old, EmailCommand::Release(user)).await?);
                }
            }
            let command = ProfileCommand::ChangeEmail {
                email: address.trim().to_owned(),
                email_id,
            };
            changes.extend(decided(state, command)?);
        }
        if changes.is_empty() {
            return Ok(None);
        }
        work.push(Work::Session(SessionRow::EndAll {
            user,
            but: revision.keep.clone(),
        }));
        groups.insert(0, group(state, changes));
        Ok(Some(AppendRequest {
            groups,
            work,
            metadata,
            remember: None,
        }))
    }

    /// What happens to an address, if anything.
    async fn at_address(
        &self,
        address: &EmailId,
        command: EmailCommand,
    ) -> Result<Option<Group>, WriteError> {
        let stream = StreamId::new(StreamKind::Email, address);
        let owner = Owner::System(stream.clone());
        let (email, count) = self
            .log
            .stream::<Email>(&owner, &stream.id)
            .await?
            .unwrap_or_default();
        let events: Vec<_> = email.decide(command)?.into_iter().map(Into::into).collect();
        Ok((!events.is_empty()).then(|| Group::of_system(&stream, count, events)))
    }
}

/// What a command does to the account.
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

/// The account's changes, numbered after what it has.
pub(crate) fn group(state: &User, changes: Vec<Change>) -> Group {
    let facts = changes.into_iter().zip(1..).map(|(change, n)| NewFact {
        sequence: state.sequence(&change.stream) + n,
        stream: change.stream,
        event: change.event,
    });
    Group::of_user(state.id(), state.seq(), facts.collect())
}
