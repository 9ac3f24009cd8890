//! Registration: the user, the address and the invite are three owners of facts, and one append writes all three or none.
//! So a crash at any point leaves neither an orphan nor a spent invite without a user, and of two who race for an address or
//! an invite one wins.

use std::sync::Arc;

use genie_events::{
    Metadata, Refusal, StreamId, StreamKind, UserId,
    account::{
        Account, AccountEvent, ExternalAccount, FIRST_PASSWORD, LifecycleCommand, Registration,
    },
    email::{self, Email, EmailCommand},
    invite::{CODE_COLUMN, Grant, Invite, InviteCommand},
    tier::Tier,
};
use genie_log::{Append, AppendError, AppendRequest, Group, Log, NewFact, Owner, UserKeys, clock};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    WriteError,
    caller::Asking,
    credentials::{Vault, seal_password},
    system_stream,
};

/// Where another identity provider makes the user.
pub mod reservation;
/// Where another identity provider changes an address.
mod synced_email;

/// How often a race is tried again before the caller is told to come back.
const TRIES: u32 = 5;
/// The pause before that; spread by chance.
const RACE_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

/// Somebody who wants to register.
#[derive(Debug)]
pub struct Applicant {
    /// The address as given.
    pub email: String,
    /// The password, already hashed (Argon2id, PHC string).
    pub password_hash: SecretString,
    /// As given.
    pub first_name: Option<String>,
    /// As given.
    pub invite_code: String,
}

/// A registered user.
#[derive(Debug, Clone, Copy)]
pub struct Registered {
    /// Who.
    pub user: UserId,
    /// The position that reads must have reached to see them.
    pub position: u64,
}

/// Invites that were made.
#[derive(Clone)]
pub struct NewInvites {
    /// The codes.
    pub codes: Vec<String>,
    /// The position of the last.
    pub position: u64,
}

/// Takes registrations.
#[derive(Debug, Clone)]
pub struct Register {
    log: Log,
    append: Append,
    vault: Vault,
}

impl Register {
    /// On this log.
    pub fn new(append: Append, vault: Vault) -> Self {
        Self {
            log: append.log().clone(),
            append,
            vault,
        }
    }

    /// Who has an address; `None` when nobody.
    pub async fn holder(&self, address: &str) -> Result<Option<UserId>, WriteError> {
        let Some(normal) = email::normalise(address) else {
            return Ok(None);
        };
        let (email, _, _) = self.load_email(&normal).await?;
        Ok(email.holder())
    }

    /// Registers somebody.
    pub async fn register(
        &self,
        applicant: Applicant,
        metadata: Metadata,
    ) -> Result<Registered, WriteError> {
        let Some(normal) = email::normalise(&applicant.email) else {
            return Err(Refusal::invalid("email", "`email` must be an e-mail address").into());
        };
        let user = UserId(self.log.clock().new_uuid());
        for _ in 0..TRIES {
            let append = self
                .decide(user, &normal, &applicant, metadata.clone())
                .await?;
            match self.append.append(append).await {
                Ok(at) => {
                    return Ok(Registered {
                        user,
                        position: at.last,
                    });
                }
                // Somebody else was at the address or the invite: decide on what they left.
                Err(AppendError::Stale) => {
                    tokio::time::sleep(RACE_PAUSE.mul_f64(clock::chance())).await
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(WriteError::Busy)
    }

    async fn decide(
        &self,
        user: UserId,
        normal: &str,
        applicant: &Applicant,
        metadata: Metadata,
    ) -> Result<AppendRequest, WriteError> {
        let (email, email_stream, emails) = self.load_email(normal).await?;
        let (invite, invite_stream, invites) = self.load_invite(&applicant.invite_code).await?;
        let now = self.log.clock().now();
        let grant = invite.grant(now)?.clone();
        let claimed = email.decide(EmailCommand::Claim(user))?;
        let spent = invite.decide(InviteCommand::Spend { user, now })?;
        let registered = Account::Absent.decide(LifecycleCommand::Register(Registration {
            email: applicant.email.trim().to_owned(),
            email_id: self.log.hashes().email(normal),
            first_name: applicant.first_name.clone(),
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
        let groups = vec![
            first_facts(user, keys, registered),
            Group::of_system(
                &email_stream,
                emails,
                claimed.into_iter().map(Into::into).collect(),
            ),
            Group::of_system(
                &invite_stream,
                invites,
                spent.into_iter().map(Into::into).collect(),
            ),
        ];
        Ok(AppendRequest {
            groups,
            work: vec![new_key, password],
            metadata,
            remember: None,
        })
    }

    /// Meets somebody whom another identity provider knows, under the id that they have there. Their address is claimed for them
    /// when it is free. Somebody who was met before stays as they are.
    pub async fn meet(
        &self,
        user: UserId,
        who: ExternalAccount,
        metadata: Metadata,
    ) -> Result<Registered, WriteError> {
        for _ in 0..TRIES {
            if self.log.user_seq(user).await? > 0 {
                return Ok(Registered {
                    user,
                    position: self.log.head(),
                });
            }
            let append = self.meeting(user, who.clone(), metadata.clone()).await?;
            match self.append.append(append).await {
                Ok(at) => {
                    return Ok(Registered {
                        user,
                        position: at.last,
                    });
                }
                // Somebody else met them, or was at the address.
                Err(AppendError::Stale) => {
                    tokio::time::sleep(RACE_PAUSE.mul_f64(clock::chance())).await
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(WriteError::Busy)
    }

    async fn meeting(
        &self,
        user: UserId,
        mut who: ExternalAccount,
        metadata: Metadata,
    ) -> Result<AppendRequest, WriteError> {
        let mut groups = Vec::with_capacity(2);
        who.email_id = None;
        if let Some(normal) = who.email.as_deref().and_then(email::normalise) {
            let (email, stream, count) = self.load_email(&normal).await?;
            if let Ok(claimed) = email.decide(EmailCommand::Claim(user)) {
                who.email_id = Some(self.log.hashes().email(&normal));
                groups.extend(
                    claimed
                        .into_iter()
                        .map(|event| Group::of_system(&stream, count, vec![event.into()])),
                );
            }
        }
        let met = Account::Absent.decide(LifecycleCommand::Meet(who))?;
        let (keys, new_key) = self.log.new_keys(user);
        groups.insert(0, first_facts(user, keys, met));
        Ok(AppendRequest {
            groups,
            work: vec![new_key],
            metadata,
            remember: None,
        })
    }

    /// Makes invites, all or none.
    pub async fn make_invites(
        &self,
        count: usize,
        grant: Grant,
        metadata: Metadata,
    ) -> Result<NewInvites, WriteError> {
        let codes: Vec<String> = (0..count)
            .map(|_| hex::encode(clock::random_bytes::<10>()))
            .collect();
        let mut groups = Vec::with_capacity(count);
        for code in &codes {
            let stream = StreamId::new(StreamKind::Invite, self.log.hashes().invite(code));
            let created = Invite::Absent.decide(self.create(code, grant.clone()))?;
            groups.push(Group::of_system(
                &stream,
                0,
                created.into_iter().map(Into::into).collect(),
            ));
        }
        let at = self
            .append
            .append(AppendRequest {
                groups,
                work: vec![],
                metadata,
                remember: None,
            })
            .await?;
        Ok(NewInvites {
            codes,
            position: at.last,
        })
    }

    fn create(&self, code: &str, grant: Grant) -> InviteCommand {
        InviteCommand::Create {
            grant,
            sealed_code: self.log.seal_system_text(CODE_COLUMN, code),
        }
    }

    /// Takes an invite back that nobody used; answers the position that reads must have reached to see it.
    pub async fn revoke_invite(
        &self,
        code: &str,
        asking: impl Into<Asking>,
    ) -> Result<u64, WriteError> {
        let id = self.log.hashes().invite(code);
        let revoke = |invite: &Invite| invite.decide(InviteCommand::Revoke);
        system_stream::ask(
            &self.append,
            StreamKind::Invite,
            &id.0,
            asking.into(),
            revoke,
        )
        .await
    }

    /// Makes the first invite, whose user becomes administrator, unless it was made before. Answers its code while it is unspent.
    pub async fn first_invite(
        &self,
        fixed: Option<&SecretString>,
    ) -> Result<Option<String>, WriteError> {
        let code = fixed.map_or_else(
            || self.log.hashes().first_invite_code(),
            |code| code.expose_secret().to_owned(),
        );
        if self.log.head() == 0 {
            let grant = Grant {
                tier: Tier::Studio,
                role: "administrator".into(),
                admin: true,
                expires_at: None,
            };
            let stream = StreamId::new(StreamKind::Invite, self.log.hashes().invite(&code));
            let created = Invite::Absent
                .decide(self.create(&code, grant))?
                .into_iter()
                .map(Into::into)
                .collect();
            let group = Group::of_system(&stream, 0, created);
            let append = AppendRequest {
                groups: vec![group],
                work: vec![],
                metadata: Metadata::system(),
                remember: None,
            };
            match self.append.append(append).await {
                Ok(_) | Err(AppendError::Stale) => {} // stale: another node made it meanwhile
                Err(error) => return Err(error.into()),
            }
        }
        let (invite, _, _) = self.load_invite(&code).await?;
        Ok(invite.grant(self.log.clock().now()).is_ok().then_some(code))
    }

    pub(crate) async fn load_email(
        &self,
        normal: &str,
    ) -> Result<(Email, StreamId, u64), WriteError> {
        let stream = StreamId::new(StreamKind::Email, self.log.hashes().email(normal));
        let (email, count) = self
            .log
            .stream(&Owner::System(stream.clone()), &stream.id)
            .await?
            .unwrap_or_default();
        Ok((email, stream, count))
    }

    async fn load_invite(&self, code: &str) -> Result<(Invite, StreamId, u64), WriteError> {
        let stream = StreamId::new(StreamKind::Invite, self.log.hashes().invite(code));
        let (invite, count) = self
            .log
            .stream(&Owner::System(stream.clone()), &stream.id)
            .await?
            .unwrap_or_default();
        Ok((invite, stream, count))
    }
}

/// The first facts of a user whose keys are made in the same append.
fn first_facts(user: UserId, keys: Arc<UserKeys>, events: Vec<AccountEvent>) -> Group {
    let stream = StreamId::new(StreamKind::Account, user);
    let numbered = (1..).zip(events);
    let facts = numbered
        .map(|(sequence, event)| NewFact {
            stream: stream.clone(),
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
