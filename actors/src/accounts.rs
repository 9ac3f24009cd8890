//! Accounts after they began. Commands go through the user's actor, and logins and secrets are written in the same
//! append. [`crate::accounts::change_login`] has the changes that touch an address, too.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use genie_events::{
    EmailAddress, Event, Metadata, Now, Refusal, StreamId, StreamKind, Timestamp, User,
    UserCommand, UserId, UserName,
    account::{
        AccountCommand, AccountEvent, AccountSync, LifecycleCommand, NamePart, OneTimeCode,
        ProfileCommand, ResetLink, TwoFactor,
    },
    typed_text,
};
use genie_log::forgetting::ForgettingRow;
use genie_log::secrets::SecretRow;
use genie_log::sessions::SessionRow;
use genie_log::{
    Append, AppendRequest, Election, Group, Log, LogError, NewFact, UserKeys, Work,
    clock::random_bytes,
    keys::{KeyState, sha256_hex},
    secrets::VaultKey,
    sessions::{NewSession, Refresh, Refreshed},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::warn;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    WriteError,
    accounts::change_login::decided,
    administrators::one_remains,
    caller::CommandContext,
    emails::Emails,
    race::Race,
    users::{Plan, Receipt, Users},
    vault::{Vault, seal_password, seal_two_factor, two_factor_id},
};

pub mod change_login;

/// The lifetime of a link to set a new password, in seconds.
pub const RESET_SECONDS: i64 = 60 * 60;
/// How often the sweep deletes expired logins.
const SWEEP: Duration = Duration::from_secs(600);
/// The types of facts that say whether a user may act. The first one says no.
const STATUSES: [&str; 2] = ["account.suspended", "account.reactivated"];
/// How many facts of an account that can't be read are looked through for one of them.
const STATUS_WITHIN: usize = 200;
/// In characters. A longer client name is cut.
const MAX_AGENT: usize = 200;
/// The tries of an administrator to leave, while those who stay are busy.
const FORGET_TRIES: u32 = 5;

/// The commands on accounts.
#[derive(Debug, Clone)]
pub struct Accounts {
    log: Log,
    append: Append,
    users: Users,
    vault: Vault,
    emails: Emails,
}

/// The proof of a login.
#[derive(Debug, Clone, Copy)]
pub struct LoginProof {
    /// The version of the hash that the password matched.
    pub password: u32,
    /// The one-time code, already checked.
    pub code: Option<OneTimeCode>,
}

/// The family of tokens that a login opens.
#[derive(Debug)]
pub struct NewFamily {
    pub family: Uuid,
    /// SHA-256 of the family's first token.
    pub token_hash: String,
    /// The client's name for itself.
    pub agent: Option<String>,
    /// The lifetime without a refresh, in seconds.
    pub seconds: i64,
}

/// The outcome of a command that may change nothing, as it is kept with its request.
#[derive(Serialize, Deserialize)]
struct ChangeOutcome {
    changed: bool,
}

/// The wish for another name; `None` removes it.
#[derive(Debug, Clone)]
pub struct NameChange {
    pub part: NamePart,
    pub name: Option<UserName>,
}

impl From<NameChange> for ProfileCommand {
    fn from(NameChange { part, name }: NameChange) -> Self {
        Self::ChangeName { part, name }
    }
}

/// A link to set a new password, shown once.
pub struct NewResetLink {
    pub token: SecretString,
    /// The part that is kept.
    pub link: ResetLink,
    /// The position of the fact.
    pub position: u64,
}

impl Accounts {
    pub fn new(append: Append, users: Users, vault: Vault) -> Self {
        Self {
            log: append.log().clone(),
            emails: Emails::new(append.clone()),
            append,
            users,
            vault,
        }
    }

    /// Makes an account what another system says it is. Suspending the user ends all logins in the same append.
    /// Answers whether anything changed, and the position that reads must reach to see it.
    pub async fn sync(
        &self,
        user: UserId,
        sync: AccountSync,
        context: impl Into<CommandContext>,
    ) -> Result<(bool, u64), WriteError> {
        let context = context.into();
        let metadata = context.metadata.clone();
        let suspends = sync.active == Some(false);
        let planned = self
            .plan(user, context, move |state, now| {
                let sync = UserCommand::account(LifecycleCommand::Sync(sync.clone()));
                let changes = state.decide(now, sync)?;
                let suspended = Event::Account(AccountEvent::Suspended);
                let work = if changes.iter().any(|change| change.event == suspended) {
                    vec![Work::Session(SessionRow::EndAll { user, but: None })]
                } else {
                    vec![]
                };
                let synced = ChangeOutcome {
                    changed: !changes.is_empty(),
                };
                Ok(Plan {
                    changes,
                    work,
                    outcome: json!(synced),
                    ..Plan::default()
                })
            })
            .await;
        let receipt = match planned {
            Err(WriteError::Internal(reason)) if suspends => {
                return self.suspend_unread(user, metadata, reason).await;
            }
            planned => planned?,
        };
        let synced: ChangeOutcome = receipt.outcome("a synced account")?;
        Ok((synced.changed, receipt.position))
    }

    /// Suspends a user whose events cannot be read, because one is damaged. Nothing else of the sync is done. `reason`
    /// is what the user's actor said.
    async fn suspend_unread(
        &self,
        user: UserId,
        metadata: Metadata,
        reason: String,
    ) -> Result<(bool, u64), WriteError> {
        match self.log.users().wake(user).await {
            Ok(_) => return Err(WriteError::Internal(reason)),
            Err(LogError::Away(away)) => return Err(WriteError::Away(away)),
            Err(error) => {
                warn!(user.id = %user, %error, "accounts: the user's events can't be read; the user is suspended all the same");
            }
        }
        let stream = StreamId::new(StreamKind::Account, user);
        let mut race = Race::new();
        loop {
            let (after, of_account) = self.log.forgettings().counts_of(user).await?;
            if of_account == 0 {
                return Err(WriteError::Internal(reason));
            }
            let reader = self.log.reader();
            let newest = reader.newest_types(user, stream, STATUS_WITHIN).await?;
            let status = newest.iter().find(|one| STATUSES.contains(&one.as_str()));
            if status.is_some_and(|status| status == STATUSES[0]) {
                return Ok((false, reader.head()));
            }
            let fact = NewFact {
                stream,
                sequence: of_account + 1,
                event: AccountEvent::Suspended.into(),
            };
            let request = AppendRequest {
                groups: vec![Group::of_user(user, after, vec![fact])],
                work: vec![Work::Session(SessionRow::EndAll { user, but: None })],
                metadata: metadata.clone(),
                remember: None,
            };
            if let Some(at) = race.append(&self.append, request).await? {
                return Ok((true, at.last));
            }
        }
    }

    /// The hash of a user's password, with its version.
    pub async fn password_hash(
        &self,
        user: UserId,
    ) -> Result<Option<(u32, Zeroizing<Vec<u8>>)>, WriteError> {
        self.vault.password_hash(user).await
    }

    /// The secret of a user's second factor while it is on, with its version.
    pub async fn two_factor_secret(
        &self,
        user: UserId,
    ) -> Result<Option<(u32, Zeroizing<Vec<u8>>)>, WriteError> {
        self.vault.two_factor_secret(user).await
    }

    /// Replaces a refresh token by its successor. A token that was used before gets none.
    pub async fn refresh_session(&self, refresh: Refresh) -> Result<Refreshed, WriteError> {
        Ok(self.log.sessions().refresh(refresh).await?)
    }

    /// Ends the login of a refresh token. A fact says so, because every server must hear of it. Answers its position;
    /// `None` when the login was over already.
    pub async fn log_out(&self, family: Uuid, request_id: &str) -> Result<Option<u64>, WriteError> {
        let family = family.to_string();
        let Some(user) = self.log.sessions().user_of(&family).await? else {
            return Ok(None);
        };
        let work = vec![Work::Session(SessionRow::End {
            family: family.clone(),
        })];
        let end = ProfileCommand::EndSession { family };
        match self
            .account(user, end, work, Metadata::user(user, request_id))
            .await
        {
            Ok(receipt) => Ok(Some(receipt.position)),
            // A user who may not act has no logins left.
            Err(WriteError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Records that everything held about a user is about to be handed out.
    pub async fn export(
        &self,
        user: UserId,
        secrets: bool,
        context: impl Into<CommandContext>,
    ) -> Result<Receipt, WriteError> {
        let export = UserCommand::account(ProfileCommand::Export { secrets });
        self.users.ask(user, context, export).await
    }

    /// Logs in a user whose proof was checked. Refused when the proof no longer holds or the user may not act.
    pub async fn sign_in(
        &self,
        user: UserId,
        proof: LoginProof,
        family: NewFamily,
        context: impl Into<CommandContext>,
    ) -> Result<Receipt, WriteError> {
        let keys = self.keys(user).await?;
        let now = self.log.clock().now();
        let agent = family.agent.map(|agent| {
            agent
                .chars()
                .filter(|c| !c.is_control())
                .take(MAX_AGENT)
                .collect::<String>()
        });
        let session = Work::Session(SessionRow::Open(NewSession {
            user,
            family: family.family.to_string(),
            token_hash: family.token_hash,
            agent_sealed: agent.map(|agent| keys.seal_text("sessions.agent", &agent)),
            now,
            expires_at: now.plus_seconds(family.seconds),
        }));
        self.plan(user, context, move |state, now| {
            let LoginProof { password, code } = proof;
            let command = UserCommand::account(ProfileCommand::SignInByPassword { password, code });
            Ok(Plan {
                changes: state.decide(now, command)?,
                work: vec![session.clone()],
                ..Plan::default()
            })
        })
        .await
    }

    /// Records that a user wants to be forgotten at that time. The user may not act from now on, and all logins end.
    /// With `others`, one of these must be an administrator who stays.
    pub async fn request_forget(
        &self,
        user: UserId,
        due: Timestamp,
        others: Option<&[UserId]>,
        context: impl Into<CommandContext>,
    ) -> Result<Receipt, WriteError> {
        let context = context.into();
        let request = LifecycleCommand::RequestForget { due };
        let mut tries = FORGET_TRIES;
        loop {
            tries -= 1;
            let mut work = vec![
                Work::Forgetting(ForgettingRow::Await { user, due }),
                Work::Session(SessionRow::EndAll { user, but: None }),
            ];
            if let Some(others) = others {
                work.push(one_remains(&self.log, user, others).await?);
            }
            let asked = self.account(user, request.clone(), work, context.clone());
            match asked.await {
                // The administrator who was to stay did something meanwhile, perhaps left.
                Err(WriteError::Busy) if others.is_some() && tries > 0 => {}
                done => return done,
            }
        }
    }

    /// Cancels a pending forgetting.
    pub async fn withdraw_forget(
        &self,
        user: UserId,
        context: impl Into<CommandContext>,
    ) -> Result<Receipt, WriteError> {
        self.account(
            user,
            LifecycleCommand::WithdrawForget,
            vec![Work::Forgetting(ForgettingRow::Stay { user })],
            context,
        )
        .await
    }

    pub async fn end_sessions(
        &self,
        user: UserId,
        context: impl Into<CommandContext>,
    ) -> Result<Receipt, WriteError> {
        let work = vec![Work::Session(SessionRow::EndAll { user, but: None })];
        self.account(user, ProfileCommand::EndSessions, work, context)
            .await
    }

    pub async fn end_session(
        &self,
        user: UserId,
        login: Uuid,
        context: impl Into<CommandContext>,
    ) -> Result<Receipt, WriteError> {
        let family = login.to_string();
        let sessions = self
            .log
            .sessions()
            .of_user(user, self.log.clock().now())
            .await?;
        let is_theirs = sessions.iter().any(|session| session.family == family);
        self.plan(user, context, move |state, now| {
            if !is_theirs {
                return Err(Refusal::not_found("session"));
            }
            let end = ProfileCommand::EndSession {
                family: family.clone(),
            };
            let changes = state.decide(now, UserCommand::account(end))?;
            Ok(Plan {
                changes,
                work: vec![Work::Session(SessionRow::End {
                    family: family.clone(),
                })],
                ..Plan::default()
            })
        })
        .await
    }

    /// Ends a login whose old token came back, and records that. Both are one append, so that after a crash the token
    /// is noticed again.
    pub async fn end_reused(
        &self,
        user: UserId,
        family: String,
        context: impl Into<CommandContext>,
    ) -> Result<(), WriteError> {
        let work = vec![Work::Session(SessionRow::End {
            family: family.clone(),
        })];
        match self
            .account(user, ProfileCommand::NoteReuse { family }, work, context)
            .await
        {
            // A user who may not act has no logins left.
            Ok(_) | Err(WriteError::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes a one-time link to set a new password. An earlier link becomes void.
    pub async fn offer_reset(
        &self,
        user: UserId,
        context: impl Into<CommandContext>,
    ) -> Result<NewResetLink, WriteError> {
        let (token, link) = self.draw_link(user);
        let offer = ProfileCommand::OfferPasswordReset(link.clone());
        let done = self.account(user, offer, vec![], context).await?;
        Ok(NewResetLink {
            token,
            link,
            position: done.position,
        })
    }

    fn draw_link(&self, user: UserId) -> (SecretString, ResetLink) {
        let bytes = Zeroizing::new([user.0.as_bytes().as_slice(), &random_bytes::<32>()].concat());
        let token = SecretString::from(BASE64.encode(&*bytes));
        let link = ResetLink {
            token_hash: sha256_hex(token.expose_secret().as_bytes()),
            expires_at: self.log.clock().now().plus_seconds(RESET_SECONDS),
        };
        (token, link)
    }

    /// Records that somebody asked for a link to set a new password. `None` when nothing is recorded: nobody holds the
    /// address, the holder may not act, or a request was recorded moments ago.
    pub async fn request_reset(
        &self,
        address: &EmailAddress,
        reset_url: Option<String>,
        metadata: Metadata,
    ) -> Result<Option<u64>, WriteError> {
        let Some(user) = self.emails.holder(address).await? else {
            return Ok(None);
        };
        let request = ProfileCommand::RequestPasswordReset {
            now: self.log.clock().now(),
            reset_url,
        };
        match self.change(user, request, metadata).await {
            Ok(changed) => Ok(changed),
            Err(WriteError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a link for a mail that is about to be sent; `None` when no request is open any more.
    pub async fn reset_for_mail(&self, user: UserId) -> Result<Option<NewResetLink>, WriteError> {
        let (token, link) = self.draw_link(user);
        let offer = ProfileCommand::MailPasswordReset(link.clone());
        let offered = self.change(user, offer, Metadata::system()).await?;
        Ok(offered.map(|position| NewResetLink {
            token,
            link,
            position,
        }))
    }

    /// Records that the mail with the link was sent.
    pub async fn note_mail_sent(&self, user: UserId) -> Result<Receipt, WriteError> {
        let sent = ProfileCommand::NotePasswordMailSent;
        self.account(user, sent, vec![], Metadata::system()).await
    }

    /// Changes names; `None` removes one.
    pub async fn change_names(
        &self,
        user: UserId,
        names: Vec<NameChange>,
        context: impl Into<CommandContext>,
    ) -> Result<Receipt, WriteError> {
        self.plan(user, context, move |state, _| {
            let mut changes = vec![];
            for name in names.iter().cloned() {
                changes.extend(decided(state, ProfileCommand::from(name))?);
            }
            Ok(Plan {
                changes,
                ..Plan::default()
            })
        })
        .await
    }

    /// Changes what the model is told about the user, or removes it.
    pub async fn change_persona(
        &self,
        user: UserId,
        persona: Option<String>,
        context: impl Into<CommandContext>,
    ) -> Result<Receipt, WriteError> {
        let change = UserCommand::account(ProfileCommand::ChangePersona { persona });
        self.users.ask(user, context, change).await
    }

    /// What the model is told about the user.
    pub async fn persona(&self, user: UserId) -> Result<Option<String>, WriteError> {
        persona(&self.users, user).await
    }

    /// Checks that a link may be used now, and answers its user. Called before a password is hashed, which costs
    /// time.
    pub async fn check_reset(
        &self,
        token: &SecretString,
        context: impl Into<CommandContext>,
    ) -> Result<UserId, WriteError> {
        let (user, token_hash) = read_reset_token(token)?;
        self.keys(user).await.map_err(no_such_link)?; // no actor for an unknown user
        let planner = move |state: &User, now: Now| {
            let command = ProfileCommand::ResetPassword {
                token_hash: token_hash.clone(),
                now: now.moment,
            };
            state
                .decide(now, UserCommand::account(command))
                .map(|_| Plan::default()) // nothing is appended
        };
        self.plan(user, context, planner)
            .await
            .map_err(no_such_link)?;
        Ok(user)
    }

    /// Sets a new password by a link, and ends all logins.
    pub async fn reset_password(
        &self,
        token: &SecretString,
        hash: SecretString,
        context: impl Into<CommandContext>,
    ) -> Result<Receipt, WriteError> {
        let (user, token_hash) = read_reset_token(token)?;
        let key = self.vault_key(user).await.map_err(no_such_link)?;
        let planner = move |state: &User, now: Now| {
            let command = ProfileCommand::ResetPassword {
                token_hash: token_hash.clone(),
                now: now.moment,
            };
            let changes = state.decide(now, UserCommand::account(command))?;
            let version = state
                .account()
                .profile()
                .map_or(0, |profile| profile.password)
                + 1;
            let password = seal_password(&key, user, version, hash.expose_secret());
            Ok(Plan {
                changes,
                work: vec![
                    password,
                    Work::Session(SessionRow::EndAll { user, but: None }),
                ],
                ..Plan::default()
            })
        };
        self.plan(user, context, planner)
            .await
            .map_err(no_such_link)
    }

    /// Requires a one-time code at each login from now on. The code of that time step has proved that the user holds
    /// the secret.
    pub async fn enable_two_factor(
        &self,
        user: UserId,
        secret: Zeroizing<Vec<u8>>,
        step: u64,
        context: impl Into<CommandContext>,
    ) -> Result<Receipt, WriteError> {
        let key = self.vault_key(user).await?;
        self.plan(user, context, move |state, now| {
            let changes = state.decide(
                now,
                UserCommand::account(ProfileCommand::EnableTwoFactor { step }),
            )?;
            let TwoFactor { version, .. } = state.account().active()?.two_factor;
            let work = vec![seal_two_factor(&key, user, version + 1, &secret)];
            Ok(Plan {
                changes,
                work,
                ..Plan::default()
            })
        })
        .await
    }

    /// Requires no code any longer, and deletes the secret.
    pub async fn disable_two_factor(
        &self,
        user: UserId,
        code: OneTimeCode,
        context: impl Into<CommandContext>,
    ) -> Result<Receipt, WriteError> {
        let work = vec![Work::Secret(SecretRow::Delete {
            secret_id: two_factor_id(user),
        })];
        self.account(user, ProfileCommand::DisableTwoFactor(code), work, context)
            .await
    }

    /// The same by an administrator, because the authenticator is lost. Without a second factor nothing happens.
    pub async fn remove_two_factor(
        &self,
        user: UserId,
        context: impl Into<CommandContext>,
    ) -> Result<Receipt, WriteError> {
        let work = vec![Work::Secret(SecretRow::Delete {
            secret_id: two_factor_id(user),
        })];
        self.account(user, ProfileCommand::RemoveTwoFactor, work, context)
            .await
    }

    /// Deletes expired logins for ever, while this node is the leader. Spawn it.
    pub async fn sweep(self, election: Election) {
        loop {
            self.log.clock().pause(SWEEP).await;
            if election.now().is_some()
                && let Err(error) = self.log.sessions().sweep(self.log.clock().now()).await
            {
                warn!(%error, "sessions: deleting expired ones failed; trying again in 10 min");
            }
        }
    }

    /// Carries out a command. Answers the position of its fact; `None` when nothing changed.
    async fn change(
        &self,
        user: UserId,
        command: ProfileCommand,
        metadata: Metadata,
    ) -> Result<Option<u64>, WriteError> {
        let planned = self.plan(user, metadata, move |state, now| {
            let changes = state.decide(now, UserCommand::account(command.clone()))?;
            let done = ChangeOutcome {
                changed: !changes.is_empty(),
            };
            Ok(Plan {
                changes,
                outcome: json!(done),
                ..Plan::default()
            })
        });
        let receipt = planned.await?;
        let done: ChangeOutcome = receipt.outcome("a changed account")?;
        Ok(Some(receipt.position).filter(|_| done.changed))
    }

    async fn account(
        &self,
        user: UserId,
        command: impl Into<AccountCommand>,
        work: Vec<Work>,
        context: impl Into<CommandContext>,
    ) -> Result<Receipt, WriteError> {
        let command = command.into();
        self.plan(user, context, move |state, now| {
            let changes = state.decide(now, UserCommand::Account(command.clone()))?;
            Ok(Plan {
                changes,
                work: work.clone(),
                ..Plan::default()
            })
        })
        .await
    }

    async fn plan(
        &self,
        user: UserId,
        context: impl Into<CommandContext>,
        planner: impl Fn(&User, Now) -> Result<Plan, Refusal> + Send + Sync + 'static,
    ) -> Result<Receipt, WriteError> {
        self.users
            .plan(user, None, context, Arc::new(planner))
            .await
            .map_err(|error| match error {
                WriteError::Forgotten => Refusal::not_found("user").into(),
                error => error,
            })
    }

    /// The keys of a user who exists.
    async fn keys(&self, user: UserId) -> Result<Arc<UserKeys>, WriteError> {
        match self.log.keys().of(user.0).await {
            Ok(KeyState::Live(keys)) => Ok(keys),
            Ok(KeyState::Destroyed) | Err(LogError::KeyAbsent { .. }) => {
                Err(Refusal::not_found("user").into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The key for the secrets of a user who exists.
    async fn vault_key(&self, user: UserId) -> Result<VaultKey, WriteError> {
        self.vault
            .key(user)
            .await?
            .ok_or_else(|| Refusal::not_found("user").into())
    }
}

/// The user of a reset token, and the token's hash. A token begins with its user's id, so that the account can be
/// found.
fn read_reset_token(token: &SecretString) -> Result<(UserId, String), WriteError> {
    let token = Zeroizing::new(typed_text::pasted(token.expose_secret()));
    let bytes = BASE64.decode(token.as_str()).map(Zeroizing::new).ok();
    let user = bytes
        .filter(|bytes| bytes.len() == 48)
        .and_then(|bytes| Uuid::from_slice(&bytes[..16]).ok());
    Ok((
        UserId(user.ok_or_else(bad_link)?),
        sha256_hex(token.as_bytes()),
    ))
}

/// Unknown users and users who may not act get the same refusal as a bad link: no answer tells which users exist.
fn no_such_link(error: WriteError) -> WriteError {
    match error {
        WriteError::Refused(refusal) if refusal.code != "invalid_field" => bad_link().into(),
        error => error,
    }
}

fn bad_link() -> Refusal {
    Refusal::invalid(
        "token",
        "This link was used or has expired; ask an administrator for another",
    )
}

/// What the model is told about a user.
pub(crate) async fn persona(users: &Users, user: UserId) -> Result<Option<String>, WriteError> {
    let look = |state: &User| json!(state.account().profile().map(|known| &known.persona));
    let seen = users.look(user, look).await?;
    serde_json::from_value(seen)
        .map_err(|error| WriteError::Internal(format!("a persona: {error}")))
}
