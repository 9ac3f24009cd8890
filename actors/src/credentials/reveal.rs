//! Reveals secrets to servers and workers. Before they get an answer, its fact is durable: that a credential was
//! revealed, or why it was refused. The fact is the owner's, or the system's when nobody owns the credential.

use std::sync::Arc;

use genie_events::{
    CredentialId, Now, PlatformName, Refusal, Timestamp, User, UserCommand, UserId, UserName,
    access::{AccessCommand, MissingOwner},
    credential::{Credential, CredentialKind, RefusedFor},
    user::{
        Recall,
        reveal::{
            CredentialSelector, RevealCriteria, RevealDenial, RevealRight, RevealableCredential,
        },
    },
};
use genie_log::{
    LogError,
    keys::KeyState,
    secrets::{Fetched, SecretName},
};
use zeroize::Zeroizing;

use super::{Credentials, Plaintext, StoreTarget, StoredCredential, secret_name};
use crate::{
    Caller, WriteError, access,
    caller::CommandContext,
    users::{Plan, PlanNote},
};

/// A credential as a server or worker names it.
#[derive(Debug, Clone)]
pub enum CredentialRef {
    Id(CredentialId),
    /// By its owner and its platform.
    For {
        user: UserId,
        platform: PlatformName,
    },
}

/// A request to reveal a credential.
#[derive(Debug, Clone)]
pub struct SecretRequest {
    pub named: CredentialRef,
    /// The kinds it may be. When a platform has several credentials, the first kind here is revealed.
    pub kinds: &'static [CredentialKind],
    /// The caller's right to it.
    pub right: RevealRight,
    /// The purpose, in the caller's words.
    pub purpose: Option<String>,
}

#[derive(Debug)]
pub struct Revealed {
    pub id: CredentialId,
    pub kind: CredentialKind,
    pub plaintext: Plaintext,
    pub platform: PlatformName,
    /// The name on the platform.
    pub platform_username: Option<UserName>,
    /// When a session is over.
    pub expires_at: Option<Timestamp>,
    /// The position of the fact.
    pub position: u64,
}

/// A refusal to a caller, so that asking again and again is one fact a minute.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct DenialKey {
    caller: String,
    what: DenialSubject,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum DenialSubject {
    Of(UserId, RevealDenial, Option<PlatformName>),
    MissingOwner(Option<CredentialId>, Option<UserId>),
}

/// A request, with its caller and the credential's owner.
#[derive(Clone, Copy)]
struct RevealTask<'a> {
    caller: &'a Caller,
    owner: UserId,
    ask: &'a SecretRequest,
}

impl Credentials {
    /// Reveals a credential. The fact comes first: the plaintext, and a refusal, leave only after the fact is
    /// durable.
    pub async fn reveal(
        &self,
        caller: &Caller,
        ask: SecretRequest,
    ) -> Result<Revealed, WriteError> {
        let owner = match self.owner(&ask.named).await? {
            Ok(owner) => owner,
            Err(nobodys) => return Err(self.refuse_nobodys(caller, &ask, nobodys).await?.into()),
        };
        match self
            .reveal_of(RevealTask {
                caller,
                owner,
                ask: &ask,
            })
            .await
        {
            // Forgotten since the owner was looked up.
            Err(WriteError::Forgotten) => Err(self
                .refuse_nobodys(caller, &ask, MissingOwner::Forgotten)
                .await?
                .into()),
            answer => answer,
        }
    }

    async fn reveal_of(&self, asked: RevealTask<'_>) -> Result<Revealed, WriteError> {
        // A credential named by id is read while the fact is written, and opened when the fact is durable.
        let ahead = async {
            match &asked.ask.named {
                CredentialRef::Id(id) => self
                    .vault
                    .door
                    .fetch(asked.owner, &id.to_string())
                    .await
                    .ok(),
                CredentialRef::For { .. } => None,
            }
        };
        let (recorded, ahead) = tokio::join!(self.put_on_record(asked, true), ahead);
        let (shown, position) = match recorded? {
            (Ok(shown), position) => (shown, position),
            (Err(refused), _) => return Err(refused.reason.refusal().into()),
        };
        let RevealableCredential {
            id,
            kind,
            platform,
            platform_username,
            version,
            expires_at,
        } = shown;
        let damage = match self
            .open(&secret_name(asked.owner, id, kind, version), ahead)
            .await
        {
            Ok(Some(plaintext)) => {
                let plaintext = Plaintext(plaintext);
                return Ok(Revealed {
                    id,
                    kind,
                    plaintext,
                    platform,
                    platform_username,
                    expires_at,
                    position,
                });
            }
            Ok(None) => format!("version {version} of the secret `{id}` is missing"),
            Err(error @ LogError::SecretDamaged { .. }) => error.to_string(),
            Err(LogError::KeyAbsent { .. }) => return Err(WriteError::Forgotten),
            Err(error) => return Err(error.into()),
        };
        if self.put_damage_on_record(asked, id, version).await? {
            return Err(WriteError::Damaged(damage));
        }
        // The credential was changed or removed between the fact and the read, so the caller may ask again.
        Err(Refusal::conflict(
            "changed_meanwhile",
            "The credential was changed meanwhile; ask again",
        )
        .into())
    }

    /// Opens the secret that was read ahead, or reads it again if it changed before the fact.
    async fn open(
        &self,
        name: &SecretName,
        ahead: Option<Fetched>,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, LogError> {
        if let Some(fetched) = &ahead
            && let Some(opened) = self.vault.door.open_fetched(fetched, name)?
        {
            return Ok(Some(opened));
        }
        self.vault.door.open(name).await
    }

    /// Decides whether the secret may be shown, and records the outcome: a refusal always, a reveal only if one is to
    /// follow.
    async fn put_on_record(
        &self,
        asked: RevealTask<'_>,
        is_to_be_shown: bool,
    ) -> Result<(Result<RevealableCredential, RevealDenial>, u64), WriteError> {
        let RevealTask { caller, owner, ask } = asked;
        let platform = match &ask.named {
            CredentialRef::Id(_) => None,
            CredentialRef::For { platform, .. } => Some(platform.clone()),
        };
        let wanted = RevealCriteria {
            which: selector(&ask.named),
            kinds: ask.kinds.to_vec(),
            right: ask.right.clone(),
        };
        // A credential that is held is in the state. Of a removed one the refusal says that it was removed.
        let recall = match &wanted.which {
            CredentialSelector::Id(id) => Some(Recall::Credential(*id)),
            CredentialSelector::For(_) => None,
        };
        let lately = self.refused.clone();
        let purpose = ask.purpose.clone();
        let by = caller.scope();
        let key = move |refused| DenialKey {
            caller: by.clone(),
            what: DenialSubject::Of(owner, refused, platform.clone()),
        };
        let remembered = key.clone();
        let planner = move |state: &User, now: Now| {
            let answer = state.check_reveal(now.moment, &wanted);
            let command = match &answer {
                Ok(shown) if is_to_be_shown => Some(UserCommand::RevealCredential {
                    credential: shown.id,
                    purpose: purpose.clone(),
                }),
                Err(refused) if !lately.stands(&key(*refused)) => {
                    Some(refuse(*refused, &wanted.which, &purpose))
                }
                _ => None,
            };
            let changes = command.map_or(Ok(vec![]), |command| state.decide(now, command))?;
            Ok(Plan {
                changes,
                note: PlanNote::Reveal(answer),
                ..Plan::default()
            })
        };
        let done = self
            .users
            .plan_recalling(
                owner,
                recall.into_iter().collect(),
                caller.metadata(),
                Arc::new(planner),
            )
            .await?;
        let PlanNote::Reveal(answer) = done.note else {
            return Err(WriteError::Internal("a reveal left no note".into()));
        };
        if let Err(refused) = answer {
            self.refused.remember(remembered(refused));
        }
        Ok((answer, done.position))
    }

    /// If the version that could not be opened is the present one, records that. Answers whether it is.
    async fn put_damage_on_record(
        &self,
        asked: RevealTask<'_>,
        id: CredentialId,
        version: u32,
    ) -> Result<bool, WriteError> {
        let RevealTask { caller, owner, ask } = asked;
        let refused = RevealDenial {
            id,
            reason: RefusedFor::Damaged,
        };
        let key = DenialKey {
            caller: caller.scope(),
            what: DenialSubject::Of(owner, refused, None),
        };
        let stands = self.refused.stands(&key);
        let purpose = ask.purpose.clone();
        let planner = move |state: &User, now| {
            let is_held = matches!(state.credential(id), Some(Credential::Held { version: held, .. }) if *held == version);
            let changes = if is_held && !stands {
                state.decide(now, refuse(refused, &CredentialSelector::Id(id), &purpose))?
            } else {
                vec![]
            };
            Ok(Plan {
                changes,
                outcome: is_held.into(),
                ..Plan::default()
            })
        };
        let is_held = self
            .users
            .plan(owner, None, caller.metadata(), Arc::new(planner))
            .await?
            .outcome
            == true;
        if is_held {
            self.refused.remember(key);
        }
        Ok(is_held)
    }

    /// Replaces a profile's secret for a server or worker. Refusals are recorded like those of a reveal.
    pub async fn store_for_owner(
        &self,
        caller: &Caller,
        context: CommandContext,
        id: CredentialId,
        secret: Plaintext,
    ) -> Result<StoredCredential, WriteError> {
        let named = CredentialRef::Id(id);
        let ask = SecretRequest {
            named,
            kinds: &[CredentialKind::Profile],
            right: RevealRight::Every,
            purpose: None,
        };
        let owner = match self.owner(&ask.named).await? {
            Ok(owner) => owner,
            Err(nobodys) => return Err(self.refuse_nobodys(caller, &ask, nobodys).await?.into()),
        };
        let stored = self
            .store(
                owner,
                context,
                StoreTarget::Existing {
                    id,
                    platform_username: None,
                },
                secret,
            )
            .await;
        match stored {
            Err(WriteError::Forgotten) => Err(self
                .refuse_nobodys(caller, &ask, MissingOwner::Forgotten)
                .await?
                .into()),
            Err(WriteError::Refused(refusal)) => {
                // Recorded only where a reveal would be refused, too. A refusal of the store alone does not concern
                // the owner.
                let _ = self
                    .put_on_record(
                        RevealTask {
                            caller,
                            owner,
                            ask: &ask,
                        },
                        false,
                    )
                    .await?;
                Err(refusal.into())
            }
            stored => stored,
        }
    }

    /// The owner of the named credential, or why it has none.
    async fn owner(
        &self,
        named: &CredentialRef,
    ) -> Result<Result<UserId, MissingOwner>, WriteError> {
        let user = match named {
            CredentialRef::Id(id) => self.owner_of(*id).await?,
            CredentialRef::For { user, .. } => Some(*user),
        };
        let Some(user) = user.filter(|user| !user.0.is_nil()) else {
            return Ok(Err(MissingOwner::Unknown));
        };
        match self.log.keys().of(user.0).await {
            Ok(KeyState::Live(_)) => Ok(Ok(user)),
            Ok(KeyState::Destroyed) => Ok(Err(MissingOwner::Forgotten)),
            Err(LogError::KeyAbsent { .. }) => Ok(Err(MissingOwner::Unknown)),
            Err(error) => Err(error.into()),
        }
    }

    async fn owner_of(&self, id: CredentialId) -> Result<Option<UserId>, WriteError> {
        if let Some(owner) = self.owners.get(&id) {
            return Ok(Some(owner));
        }
        let owner = self.log.lookups().owner_of(id).await?;
        if let Some(owner) = owner {
            self.owners.insert(id, owner);
        }
        Ok(owner)
    }

    /// Records that a credential without an owner was asked for. Answers the refusal for the caller.
    async fn refuse_nobodys(
        &self,
        caller: &Caller,
        ask: &SecretRequest,
        reason: MissingOwner,
    ) -> Result<Refusal, WriteError> {
        let (credential, user) = match &ask.named {
            CredentialRef::Id(id) => (Some(*id), None),
            CredentialRef::For { user, .. } => (None, Some(*user)),
        };
        let key = DenialKey {
            caller: caller.scope(),
            what: DenialSubject::MissingOwner(credential, user),
        };
        if !self.refused.stands(&key) {
            let refused = AccessCommand::RefuseCredential {
                reason,
                credential,
                user,
            };
            access::note(&self.append, vec![refused], caller.metadata()).await?;
            self.refused.remember(key);
        }
        // A caller without a right is not told what exists.
        Ok(match ask.right {
            RevealRight::None => RefusedFor::ScopeNeeded.refusal(),
            _ => RefusedFor::NotHeld.refusal(),
        })
    }
}

fn refuse(
    refused: RevealDenial,
    which: &CredentialSelector,
    purpose: &Option<String>,
) -> UserCommand {
    let platform = match which {
        CredentialSelector::Id(_) => None,
        CredentialSelector::For(platform) => Some(platform.clone()),
    };
    UserCommand::RefuseCredential {
        credential: refused.id,
        reason: refused.reason,
        platform,
        purpose: purpose.clone(),
    }
}

fn selector(named: &CredentialRef) -> CredentialSelector {
    match named {
        CredentialRef::Id(id) => CredentialSelector::Id(*id),
        CredentialRef::For { platform, .. } => CredentialSelector::For(platform.clone()),
    }
}
