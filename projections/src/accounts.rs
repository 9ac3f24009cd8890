//! `accounts`: who is registered, with which role, tier and onboarding.

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{Event, Moment, StreamKind, UserId, account::AccountEvent};
use genie_log::{Log, LogError, store::Store};
use sqlx::Row;

use crate::projection::{Projection, Seen, Tx, open, open_option, read};

pub(crate) struct Projector;

impl Projection for Projector {
    fn name(&self) -> &'static str {
        "accounts"
    }

    fn wants(&self, kind: StreamKind) -> bool {
        kind == StreamKind::Account
    }

    fn apply<'a>(&'a self, seen: Seen<'a>, tx: &'a mut Tx) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let Event::Account(event) = seen.event else { return Ok(()) };
            let query = match event {
                AccountEvent::Registered(r) => sqlx::query(
                    "INSERT INTO accounts (user_id, status, role, admin, tier, onboarding, email_sealed, first_name_sealed, created_at) \
                     VALUES ($1, 'active', $2, $3, $4, 'EXTENSION_INSTALL', $5, $6, $7)",
                )
                .bind(seen.user())
                .bind(&r.role)
                .bind(i64::from(r.admin))
                .bind(r.tier.as_str())
                .bind(seen.seal("accounts.email", &r.email))
                .bind(seen.seal_option("accounts.first_name", r.first_name.as_deref()))
                .bind(seen.at().0),
                AccountEvent::OnboardingAdvanced { to } => {
                    sqlx::query("UPDATE accounts SET onboarding = $2 WHERE user_id = $1").bind(seen.user()).bind(to.as_str())
                }
                AccountEvent::Suspended => {
                    sqlx::query("UPDATE accounts SET status = 'suspended' WHERE user_id = $1").bind(seen.user())
                }
                AccountEvent::SignedIn => return Ok(()),
            };
            query.execute(&mut **tx).await.map(drop)
        }
        .boxed()
    }
}

/// One account.
#[derive(Debug, Clone)]
pub struct AccountRow {
    /// Who.
    pub user: UserId,
    /// `active` or `suspended`.
    pub status: String,
    /// The role's name.
    pub role: String,
    /// Whether an administrator.
    pub admin: bool,
    /// The tier.
    pub tier: String,
    /// How far onboarding is.
    pub onboarding: String,
    /// The address.
    pub email: String,
    /// As given.
    pub first_name: Option<String>,
    /// When they registered.
    pub created_at: Moment,
}

/// Reads of `accounts`.
#[derive(Debug, Clone)]
pub struct Accounts {
    log: Log,
}

impl Accounts {
    pub(crate) fn new(log: Log) -> Self {
        Self { log }
    }

    /// An account; `None` when nobody (any more) has that id.
    pub async fn get(&self, user: UserId) -> Result<Option<AccountRow>, LogError> {
        let row = read(&self.log, async move |store: Store| {
            let sql = "SELECT status, role, admin, tier, onboarding, email_sealed, first_name_sealed, created_at \
                       FROM accounts WHERE user_id = $1";
            Ok(sqlx::query(sql).bind(user.to_string()).fetch_optional(store.reads()).await?)
        });
        let Some(row) = row.await? else { return Ok(None) };
        let keys = self.log.live_keys(user).await?;
        let email: Vec<u8> = row.try_get("email_sealed")?;
        Ok(Some(AccountRow {
            user,
            status: row.try_get("status")?,
            role: row.try_get("role")?,
            admin: row.try_get::<i64, _>("admin")? != 0,
            tier: row.try_get("tier")?,
            onboarding: row.try_get("onboarding")?,
            email: open(&keys, "accounts.email", &email)?,
            first_name: open_option(&keys, "accounts.first_name", row.try_get("first_name_sealed")?)?,
            created_at: Moment(row.try_get("created_at")?),
        }))
    }
}
