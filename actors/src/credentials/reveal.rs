//! Shows secrets to servers and workers. Whatever they are answered is a fact before they hear it: that a credential was
//! revealed, or why it was not. The fact is the owner's; of what is nobody's, the system's.

use std::sync::Arc;

use genie_events::{
    CredentialId, Now, Refusal, Timestamp, User, UserCommand, UserId,
    access::{AccessCommand, MissingOwner},
    credential::{Credential, CredentialKind, RefusedFor},
    user::reveal::{
        CredentialSelector, RevealCriteria, RevealDenial, RevealRight, RevealableCredential,
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

/// Which credential a server or worker names.
#[derive(Debug, Clone)]
pub enum CredentialRef {
    /// By its id.
    Id(CredentialId),
    /// By its owner and its platform.
    For {
        /// Whose.
        user: UserId,
        /// For which platform.
        platform: String,
    },
}

/// What a server or worker asks to be shown.
#[derive(Debug, Clone)]
pub struct SecretRequest {
    /// Which credential.
    pub named: CredentialRef,
    /// Of which kinds it may be; of those held for a platform, the first is shown.
    pub kinds: &'static [CredentialKind],
    /// By what right.
    pub right: RevealRight,
    /// What for, in the caller's words.
    pub purpose: Option<String>,
}

/// A revealed credential.
#[derive(Debug)]
pub struct Revealed {
    /// Which.
    pub id: CredentialId,
    /// What kind.
    pub kind: CredentialKind,
    /// The secret.
    pub plaintext: Plaintext,
    /// For which platform.
    pub platform: String,
    /// The name there.
    pub platform_username: Option<String>,
    /// When a session is over.
    pub expires_at: Option<Timestamp>,
    /// The position of the fact.
    pub position: u64,
}

/// What was refused to whom, so that asking again and again is one fact a minute.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct DenialKey {
    caller: String,
    what: DenialSubject,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum DenialSubject {
    Of(UserId, RevealDenial, Option<String>),
    MissingOwner(Option<CredentialId>, Option<UserId>),
}

/// Who asks what of whom.
#[derive(Clone, Copy)]
struct RevealTask<'a> {
    caller: &'a Caller,
    owner: UserId,
    ask: &'a SecretRequest,
}

impl Credentials {
    /// Reveals a credential. Commits first: the plaintext leaves only after the fact is durable, and so does a refusal.
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
            // Since the owner was looked up.
            Err(WriteError::Forgotten) => Err(self
                .refuse_nobodys(caller, &ask, MissingOwner::Forgotten)
                .await?
                .into()),
            answer => answer,
        }
    }

    async fn reveal_of(&self, asked: RevealTask<'_>) -> Result<Revealed, WriteError> {
        // What is named is read while the fact is written, and opened when that is durable.
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
        // It was changed or removed after the fact and before it was read: the asker may ask again.
        Err(Refusal::conflict(
            "changed_meanwhile",
            "The credential was changed meanwhile; ask again",
        )
        .into())
    }

    /// From what was read ahead, unless it was changed before the fact.
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

    /// Decides whether it may be shown, and puts on record what came of it: a refusal always, that it is shown when it is to be.
    async fn put_on_record(
        &self,
        asked: RevealTask<'_>,
        is_to_be_shown: bool,
    ) -> Result<(Result<RevealableCredential, RevealDenial>, u64), WriteError> {
        let RevealTask { caller, owner, ask } = asked;
        let (which, platform) = match &ask.named {
            CredentialRef::Id(id) => (CredentialSelector::Id(*id), None),
            CredentialRef::For { platform, .. } => (
                CredentialSelector::For(platform.clone()),
                Some(platform.clone()),
            ),
        };
        let wanted = RevealCriteria {
            which,
            kinds: ask.kinds.to_vec(),
            right: ask.right.clone(),
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
            .plan(owner, None, caller.metadata(), Arc::new(planner))
            .await?;
        let PlanNote::Reveal(answer) = done.note else {
            return Err(WriteError::Internal("a reveal left no note".into()));
        };
        if let Err(refused) = answer {
            self.refused.remember(remembered(refused));
        }
        Ok((answer, done.position))
    }

    /// If the version that could not be opened is the one that should be there, puts that on record; answers whether it is.
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

    /// Replaces a profile's secret for a server or worker; what they are refused is on record as a reveal's refusal is.
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
                // Where a reveal would be refused too; what is refused as a store alone is no concern of the owner's.
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

    /// Whose credential is named; or why it is nobody's.
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
        match self.log.keys(user.0).await {
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
        let owner = self.log.owner_of(id).await?;
        if let Some(owner) = owner {
            self.owners.insert(id, owner);
        }
        Ok(owner)
    }

    /// Puts on record that something was asked for that is nobody's, and gives what the caller is told.
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
        // Who has no right is not told what there is.
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
