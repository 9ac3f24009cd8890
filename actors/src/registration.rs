//! Registration: the user, the address and the invite are three owners of facts, and one append writes all three or
//! none. So a crash leaves neither an orphan nor a spent invite without a user. When two users race for an address or
//! an invite, one wins.

use std::sync::Arc;

use genie_events::{
    EmailAddress, InviteCode, Metadata, StreamId, StreamKind, UserId, UserName,
    account::{
        Account, AccountEvent, ExternalAccount, FIRST_PASSWORD, LifecycleCommand, Registration,
    },
    email::EmailCommand,
    invite::InviteCommand,
};
use genie_log::{Append, AppendRequest, Group, Log, NewFact, Owner, UserKeys};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    WriteError,
    emails::Emails,
    invites::Invites,
    race::Race,
    vault::{Vault, seal_password},
};

/// Registration when another identity provider makes the user.
pub mod reservation;

#[derive(Debug)]
pub struct Applicant {
    pub email: EmailAddress,
    /// The password, already hashed (Argon2id, PHC string).
    pub password_hash: SecretString,
    pub first_name: Option<UserName>,
    pub invite_code: InviteCode,
}

#[derive(Debug, Clone, Copy)]
pub struct RegisteredUser {
    pub user: UserId,
    /// The position that reads must reach to see the user.
    pub position: u64,
}

#[derive(Debug, Clone)]
pub struct Registrar {
    log: Log,
    append: Append,
    vault: Vault,
    emails: Emails,
    invites: Invites,
}

impl Registrar {
    pub fn new(append: Append, vault: Vault) -> Self {
        Self {
            emails: Emails::new(append.clone()),
            invites: Invites::new(append.clone()),
            log: append.log().clone(),
            append,
            vault,
        }
    }

    pub fn emails(&self) -> &Emails {
        &self.emails
    }

    pub fn invites(&self) -> &Invites {
        &self.invites
    }

    /// Registers a user by an invite.
    pub async fn register(
        &self,
        applicant: Applicant,
        metadata: Metadata,
    ) -> Result<RegisteredUser, WriteError> {
        let user = UserId(self.log.clock().new_uuid());
        let mut race = Race::new();
        loop {
            let request = self.decide(user, &applicant, metadata.clone()).await?;
            if let Some(at) = race.append(&self.append, request).await? {
                return Ok(RegisteredUser {
                    user,
                    position: at.last,
                });
            }
        }
    }

    async fn decide(
        &self,
        user: UserId,
        applicant: &Applicant,
        metadata: Metadata,
    ) -> Result<AppendRequest, WriteError> {
        let email = self.emails.load(&applicant.email).await?;
        let invite = self.invites.load(&applicant.invite_code).await?;
        let now = self.log.clock().now();
        let grant = invite.state.grant(now)?.clone();
        let claimed = email.state.decide(EmailCommand::Claim(user))?;
        let spent = invite.state.decide(InviteCommand::Spend { user, now })?;
        let registered = Account::Absent.decide(LifecycleCommand::Register(Registration {
            email: applicant.email.written().to_owned(),
            email_id: self.log.hashes().email(&applicant.email),
            first_name: applicant.first_name.clone().map(String::from),
            invite: self.log.hashes().invite(&applicant.invite_code),
            tier: grant.tier,
            role: grant.role,
            admin: grant.admin,
        }))?;

        let (keys, vault_key, new_key) = self.vault.new_keys(user);
        let password = seal_password(
            &vault_key,
            user,
            FIRST_PASSWORD,
            applicant.password_hash.expose_secret(),
        );
        Ok(AppendRequest {
            groups: vec![
                first_facts(user, keys, registered),
                email.group(claimed),
                invite.group(spent),
            ],
            work: vec![new_key, password],
            metadata,
            remember: None,
        })
    }

    /// Registers a user of another identity provider, under the user's id there. The address is claimed for the user
    /// when it is free. A user who is known here already stays unchanged.
    pub async fn register_external(
        &self,
        user: UserId,
        external: ExternalAccount,
        metadata: Metadata,
    ) -> Result<RegisteredUser, WriteError> {
        let mut race = Race::new();
        loop {
            if self.log.reader().user_seq(user).await? > 0 {
                return Ok(RegisteredUser {
                    user,
                    position: self.log.reader().head(),
                });
            }
            let request = self
                .decide_external(user, external.clone(), metadata.clone())
                .await?;
            if let Some(at) = race.append(&self.append, request).await? {
                return Ok(RegisteredUser {
                    user,
                    position: at.last,
                });
            }
        }
    }

    async fn decide_external(
        &self,
        user: UserId,
        mut external: ExternalAccount,
        metadata: Metadata,
    ) -> Result<AppendRequest, WriteError> {
        let mut address = None;
        external.email_id = None;
        // Another identity provider may know an address that is none here. Nobody can take it then.
        let known = external.email.as_deref().map(EmailAddress::read);
        if let Some(Ok(known)) = known {
            let email = self.emails.load(&known).await?;
            if let Ok(claimed) = email.state.decide(EmailCommand::Claim(user)) {
                external.email_id = Some(self.log.hashes().email(&known));
                address = (!claimed.is_empty()).then(|| email.group(claimed));
            }
        }
        let met = Account::Absent.decide(LifecycleCommand::Meet(external))?;
        let (keys, new_key) = self.log.keys().new_for(user);
        let mut groups = vec![first_facts(user, keys, met)];
        groups.extend(address);
        Ok(AppendRequest {
            groups,
            work: vec![new_key],
            metadata,
            remember: None,
        })
    }
}

/// The first facts of a user whose keys are made in the same append.
fn first_facts(user: UserId, keys: Arc<UserKeys>, events: Vec<AccountEvent>) -> Group {
    let stream = StreamId::new(StreamKind::Account, user);
    let numbered = (1..).zip(events);
    let facts = numbered
        .map(|(sequence, event)| NewFact {
            stream,
            sequence,
            event: event.into(),
        })
        .collect();
    Group {
        owner: Owner::User(user),
        after: 0,
        facts,
        keys: Some(keys),
    }
}
