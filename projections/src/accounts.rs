//! `accounts`: each registered user with role, tier and onboarding state.

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{
    Event, StreamKind, Timestamp, UserId,
    account::{AccountEvent, ExternalAccount},
};
use genie_log::{Log, LogError, forgetting::UserRows, keys::KeyState, store::Store};
use sqlx::{Any, Row, any::AnyArguments, query::Query};

use crate::projection::{Projection, Seen, Tx, open, open_option, read};

type AnyQuery<'q> = Query<'q, Any, AnyArguments<'q>>;

pub(crate) struct Projector;

impl Projection for Projector {
    fn name(&self) -> &'static str {
        "accounts"
    }

    fn wants(&self, kind: StreamKind) -> bool {
        kind == StreamKind::Account
    }

    fn rows(&self) -> &'static [UserRows] {
        &[UserRows {
            table: "accounts",
            user: "user_id",
            key: "user_id",
        }]
    }

    fn apply<'a>(
        &'a self,
        seen: Seen<'a>,
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let Event::Account(event) = seen.event else { return Ok(()) };
            let query = match event {
                AccountEvent::Registered(registration) => insert(&seen, registration.clone().into()),
                AccountEvent::Met(acquaintance) => insert(&seen, acquaintance.clone()),
                AccountEvent::OnboardingAdvanced { to } => {
                    sqlx::query("UPDATE accounts SET onboarding = $2 WHERE user_id = $1").bind(seen.user()).bind(to.as_str())
                }
                AccountEvent::Suspended => {
                    let sql = "UPDATE accounts SET status = 'suspended' WHERE user_id = $1 AND status <> 'leaving'";
                    sqlx::query(sql).bind(seen.user())
                }
                AccountEvent::Reactivated => set_status(&seen, "active"),
                AccountEvent::ForgetRequested { .. } => set_status(&seen, "leaving"),
                AccountEvent::ForgetWithdrawn { active } => set_status(&seen, if *active { "active" } else { "suspended" }),
                AccountEvent::RoleChanged { role, admin } => {
                    sqlx::query("UPDATE accounts SET role = $2, admin = $3 WHERE user_id = $1")
                        .bind(seen.user())
                        .bind(role)
                        .bind(i64::from(*admin))
                }
                AccountEvent::TierChanged { tier } => {
                    sqlx::query("UPDATE accounts SET tier = $2 WHERE user_id = $1").bind(seen.user()).bind(tier.as_str())
                }
                AccountEvent::EmailChanged { email, .. } => {
                    sqlx::query("UPDATE accounts SET email_sealed = $2 WHERE user_id = $1")
                        .bind(seen.user())
                        .bind(seen.seal("accounts.email", email))
                }
                AccountEvent::TwoFactorEnabled { .. } => set_two_factor(&seen, true),
                AccountEvent::TwoFactorDisabled { .. } => set_two_factor(&seen, false),
                AccountEvent::SignedIn
                | AccountEvent::TwoFactorUsed { .. }
                | AccountEvent::PasswordChanged { .. }
                | AccountEvent::PasswordResetOffered(_)
                | AccountEvent::PasswordReset { .. }
                | AccountEvent::SessionsEnded
                | AccountEvent::SessionEnded { .. }
                | AccountEvent::ImpersonationEnded { .. }
                | AccountEvent::SessionReuseDetected { .. }
                | AccountEvent::Exported { .. }
                | AccountEvent::ImpersonationStarted { .. }
                | AccountEvent::Forgotten { .. } => return Ok(()),
            };
            query.execute(&mut **tx).await.map(drop)
        }
        .boxed()
    }
}

fn insert<'q>(seen: &Seen<'_>, account: ExternalAccount) -> AnyQuery<'q> {
    sqlx::query(
        "INSERT INTO accounts (user_id, status, role, admin, tier, onboarding, email_sealed, first_name_sealed, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(seen.user())
    .bind(if account.active { "active" } else { "suspended" })
    .bind(account.role)
    .bind(i64::from(account.admin))
    .bind(account.tier.as_str())
    .bind(account.onboarding.as_str())
    // An account without an e-mail holds a sealed empty text, which looks like any other.
    .bind(seen.seal("accounts.email", account.email.as_deref().unwrap_or_default()))
    .bind(seen.seal_option("accounts.first_name", account.first_name.as_deref()))
    .bind(seen.at().0)
}

fn set_status<'q>(seen: &Seen<'_>, status: &'q str) -> AnyQuery<'q> {
    sqlx::query("UPDATE accounts SET status = $2 WHERE user_id = $1")
        .bind(seen.user())
        .bind(status)
}

fn set_two_factor<'q>(seen: &Seen<'_>, on: bool) -> AnyQuery<'q> {
    sqlx::query("UPDATE accounts SET two_factor = $2 WHERE user_id = $1")
        .bind(seen.user())
        .bind(i64::from(on))
}

#[derive(Debug, Clone)]
pub struct AccountRow {
    pub user: UserId,
    /// `active`, `suspended`, or `leaving` (the user asked to be forgotten).
    pub status: String,
    pub role: String,
    pub admin: bool,
    pub tier: String,
    pub onboarding: String,
    pub email: Option<String>,
    pub first_name: Option<String>,
    /// True when a login asks for a one-time code.
    pub two_factor: bool,
    /// When the user registered, or first signed in through Directus.
    pub created_at: Timestamp,
}

#[derive(Debug, Clone)]
pub struct AccountReader {
    log: Log,
}

impl AccountReader {
    pub(crate) fn new(log: Log) -> Self {
        Self { log }
    }

    /// `None` for an id that is unknown or forgotten.
    pub async fn get(&self, user: UserId) -> Result<Option<AccountRow>, LogError> {
        let row = read(&self.log, async move |store: Store| {
            let sql = "SELECT status, role, admin, tier, onboarding, email_sealed, first_name_sealed, two_factor, \
                       created_at FROM accounts WHERE user_id = $1";
            Ok(sqlx::query(sql)
                .bind(user.to_string())
                .fetch_optional(store.reads())
                .await?)
        });
        let Some(row) = row.await? else {
            return Ok(None);
        };
        let KeyState::Live(keys) = self.log.keys().of(user.0).await? else {
            return Ok(None);
        }; // The user is forgotten; a projection erases the row soon.
        let email: Vec<u8> = row.try_get("email_sealed")?;
        Ok(Some(AccountRow {
            user,
            status: row.try_get("status")?,
            role: row.try_get("role")?,
            admin: row.try_get::<i64, _>("admin")? != 0,
            tier: row.try_get("tier")?,
            onboarding: row.try_get("onboarding")?,
            email: Some(open(&keys, "accounts.email", &email)?).filter(|email| !email.is_empty()),
            first_name: open_option(
                &keys,
                "accounts.first_name",
                row.try_get("first_name_sealed")?,
            )?,
            two_factor: row.try_get::<i64, _>("two_factor")? != 0,
            created_at: Timestamp(row.try_get("created_at")?),
        }))
    }

    /// True when another active user is an administrator.
    pub async fn has_other_administrator(&self, user: UserId) -> Result<bool, LogError> {
        read(&self.log, async move |store: Store| {
            let sql = "SELECT 1 FROM accounts WHERE admin = 1 AND status = 'active' AND user_id <> $1 LIMIT 1";
            Ok(sqlx::query(sql).bind(user.to_string()).fetch_optional(store.reads()).await?.is_some())
        })
        .await
    }
}
