//! `accounts`: each registered user with role, tier and onboarding state.

use std::collections::BTreeMap;

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{
    Event, StreamKind, Timestamp, UserId,
    account::{AccountEvent, ExternalAccount, NamePart},
};
use genie_log::{
    Log, LogError, forgetting::UserRows, keys::KeyState, store::Store, stored_ids::IdForm,
};
use sqlx::{Row, any::AnyRow};

use crate::{
    projection::{Projection, Seen, Tx, begun_before, open, open_option, read, user_id},
    rows::{ByKey, Cell, Upsert},
};

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
            ids: IdForm::Text,
        }]
    }

    fn apply<'a>(
        &'a self,
        facts: &'a [Seen<'a>],
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let begins = |event: &Event| {
                matches!(
                    event,
                    Event::Account(AccountEvent::Registered(_) | AccountEvent::Met(_))
                )
            };
            let mut accounts = BTreeMap::new();
            for row in BY_ID.run(tx, &begun_before(facts, begins)).await? {
                accounts.insert(row.try_get("user_id")?, AccountColumns::read(&row)?);
            }
            for seen in facts {
                if let Event::Account(event) = seen.event {
                    fold(&mut accounts, seen, event);
                }
            }
            let changed = accounts
                .into_iter()
                .filter(|(_, account)| account.is_changed);
            let rows = changed.map(|(id, account)| account.cells(id)).collect();
            UPSERT.write(tx, rows).await
        }
        .boxed()
    }
}

/// The column for which roles are sealed: their names are words that administrators choose.
const ROLE: &str = "accounts.role";

/// The columns of an account's row.
struct AccountColumns {
    status: String,
    role_sealed: Vec<u8>,
    admin: bool,
    tier: String,
    onboarding: String,
    two_factor: bool,
    created_at: i64,
    email_sealed: Vec<u8>,
    first_name_sealed: Option<Vec<u8>>,
    last_name_sealed: Option<Vec<u8>>,
    reset_requested_at: Option<i64>,
    reset_url_sealed: Option<Vec<u8>>,
    /// False for a row that is as it was read.
    is_changed: bool,
}

const BY_ID: ByKey = ByKey::text(
    "SELECT user_id, status, role_sealed, admin, tier, onboarding, two_factor, created_at, email_sealed, first_name_sealed, \
     last_name_sealed, reset_requested_at, reset_url_sealed FROM accounts WHERE user_id IN ({})",
);

const UPSERT: Upsert = Upsert {
    table: "accounts",
    columns: &[
        "user_id",
        "status",
        "role_sealed",
        "admin",
        "tier",
        "onboarding",
        "two_factor",
        "created_at",
        "email_sealed",
        "first_name_sealed",
        "last_name_sealed",
        "reset_requested_at",
        "reset_url_sealed",
    ],
    on_conflict: "(user_id) DO UPDATE SET status = excluded.status, role_sealed = excluded.role_sealed, admin = excluded.admin, \
                  tier = excluded.tier, onboarding = excluded.onboarding, two_factor = excluded.two_factor, \
                  email_sealed = excluded.email_sealed, first_name_sealed = excluded.first_name_sealed, \
                  last_name_sealed = excluded.last_name_sealed, reset_requested_at = excluded.reset_requested_at, \
                  reset_url_sealed = excluded.reset_url_sealed",
};

impl AccountColumns {
    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            status: row.try_get("status")?,
            role_sealed: row.try_get("role_sealed")?,
            admin: row.try_get::<i64, _>("admin")? != 0,
            tier: row.try_get("tier")?,
            onboarding: row.try_get("onboarding")?,
            two_factor: row.try_get::<i64, _>("two_factor")? != 0,
            created_at: row.try_get("created_at")?,
            email_sealed: row.try_get("email_sealed")?,
            first_name_sealed: row.try_get("first_name_sealed")?,
            last_name_sealed: row.try_get("last_name_sealed")?,
            reset_requested_at: row.try_get("reset_requested_at")?,
            reset_url_sealed: row.try_get("reset_url_sealed")?,
            is_changed: false,
        })
    }

    fn new(seen: &Seen<'_>, account: ExternalAccount) -> Self {
        // An account without an e-mail holds a sealed empty text, which looks like any other.
        let email = account.email.as_deref().unwrap_or_default();
        let first_name = account.first_name.as_deref();
        Self {
            status: if account.active {
                "active"
            } else {
                "suspended"
            }
            .into(),
            role_sealed: seen.seal(ROLE, &account.role),
            admin: account.admin,
            tier: account.tier.as_str().into(),
            onboarding: account.onboarding.as_str().into(),
            two_factor: false,
            created_at: seen.at().0,
            email_sealed: seen.seal("accounts.email", email),
            first_name_sealed: seen.seal_option("accounts.first_name", first_name),
            last_name_sealed: None,
            reset_requested_at: None,
            reset_url_sealed: None,
            is_changed: true,
        }
    }

    fn cells(self, id: String) -> Vec<Cell> {
        vec![
            id.into(),
            self.status.into(),
            self.role_sealed.into(),
            i64::from(self.admin).into(),
            self.tier.into(),
            self.onboarding.into(),
            i64::from(self.two_factor).into(),
            self.created_at.into(),
            self.email_sealed.into(),
            self.first_name_sealed.into(),
            self.last_name_sealed.into(),
            self.reset_requested_at.into(),
            self.reset_url_sealed.into(),
        ]
    }

    fn change(&mut self, seen: &Seen<'_>, event: &AccountEvent) {
        match event {
            AccountEvent::OnboardingAdvanced { to } => self.onboarding = to.as_str().into(),
            AccountEvent::Suspended if self.status == "leaving" => {}
            AccountEvent::Suspended => self.status = "suspended".into(),
            AccountEvent::Reactivated => self.status = "active".into(),
            AccountEvent::ForgetRequested { .. } => self.status = "leaving".into(),
            AccountEvent::ForgetWithdrawn { active } => {
                self.status = if *active { "active" } else { "suspended" }.into();
            }
            AccountEvent::RoleChanged { role, admin } => {
                self.role_sealed = seen.seal(ROLE, role);
                self.admin = *admin;
            }
            AccountEvent::TierChanged { tier } => self.tier = tier.as_str().into(),
            AccountEvent::EmailChanged { email, .. } => {
                self.email_sealed = seen.seal("accounts.email", email);
            }
            AccountEvent::NameChanged { part, own_name } => {
                let name = own_name.as_deref();
                match part {
                    NamePart::First => {
                        self.first_name_sealed = seen.seal_option("accounts.first_name", name);
                    }
                    NamePart::Last => {
                        self.last_name_sealed = seen.seal_option("accounts.last_name", name);
                    }
                }
            }
            AccountEvent::PasswordResetRequested {
                requested_at,
                reset_url,
            } => {
                self.reset_requested_at = Some(requested_at.0);
                self.reset_url_sealed =
                    seen.seal_option("accounts.reset_url", reset_url.as_deref());
            }
            AccountEvent::PasswordRequestAnswered { .. }
            | AccountEvent::PasswordChanged { .. }
            | AccountEvent::PasswordReset { .. } => {
                self.reset_requested_at = None;
                self.reset_url_sealed = None;
            }
            AccountEvent::TwoFactorEnabled { .. } => self.two_factor = true,
            AccountEvent::TwoFactorDisabled { .. } => self.two_factor = false,
            AccountEvent::Registered(_)
            | AccountEvent::Met(_)
            | AccountEvent::SignedIn
            | AccountEvent::TwoFactorUsed { .. }
            | AccountEvent::PasswordResetOffered(_)
            | AccountEvent::SessionsEnded
            | AccountEvent::SessionEnded { .. }
            | AccountEvent::ImpersonationEnded { .. }
            | AccountEvent::SessionReuseDetected { .. }
            | AccountEvent::Exported { .. }
            | AccountEvent::PersonaChanged { .. }
            | AccountEvent::ImpersonationStarted { .. }
            | AccountEvent::Forgotten { .. } => return,
        }
        self.is_changed = true;
    }
}

fn fold(accounts: &mut BTreeMap<String, AccountColumns>, seen: &Seen<'_>, event: &AccountEvent) {
    let account = match event {
        AccountEvent::Registered(registration) => registration.clone().into(),
        AccountEvent::Met(acquaintance) => acquaintance.clone(),
        _ => {
            if let Some(account) = accounts.get_mut(&seen.user()) {
                account.change(seen, event);
            }
            return;
        }
    };
    accounts.insert(seen.user(), AccountColumns::new(seen, account));
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
    pub last_name: Option<String>,
    /// True when a login asks for a one-time code.
    pub two_factor: bool,
    /// When the user registered, or first signed in through Directus.
    pub created_at: Timestamp,
}

const OTHER_ADMINISTRATORS: &str = "SELECT user_id FROM accounts WHERE admin = 1 AND status = 'active' AND user_id > '' AND user_id <> $1 LIMIT 10";

/// A request for a link to set a new password that nobody answered yet.
#[derive(Debug, Clone)]
pub struct PasswordRequestRow {
    pub user: UserId,
    pub email: Option<String>,
    pub requested_at: Timestamp,
    /// The page that the link is to lead to.
    pub reset_url: Option<String>,
}

/// By time and user.
const PASSWORD_REQUESTS: &str = "SELECT user_id, email_sealed, reset_requested_at, reset_url_sealed FROM accounts \
     WHERE reset_requested_at IS NOT NULL AND status = 'active' AND (reset_requested_at, user_id) > ($1, $2) \
     ORDER BY reset_requested_at, user_id LIMIT $3";

/// What the job board must know of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountStanding {
    pub user: UserId,
    /// `active`, `suspended` or `leaving`.
    pub status: String,
    pub tier: String,
}

/// The most standings of one statement.
const STANDINGS: usize = 256;

fn standings_sql(count: usize) -> String {
    let places = (1..=count).map(|n| format!("${n}"));
    let places: Vec<String> = places.collect();
    format!(
        "SELECT user_id, status, tier FROM accounts WHERE user_id IN ({})",
        places.join(", ")
    )
}

#[derive(Debug, Clone)]
pub struct AccountReader {
    log: Log,
}

impl AccountReader {
    pub(crate) fn new(log: Log) -> Self {
        Self { log }
    }

    /// The standings of these users, in any order. Unknown users are left out.
    pub async fn standings(&self, users: Vec<UserId>) -> Result<Vec<AccountStanding>, LogError> {
        let rows = read(&self.log, async move |store: Store| {
            let mut rows = Vec::with_capacity(users.len());
            for some in users.chunks(STANDINGS) {
                // Padded with the last to a power of two, so that there are few different statements.
                let padded = some.iter().chain(std::iter::repeat(&some[some.len() - 1]));
                let count = some.len().next_power_of_two();
                let sql = standings_sql(count);
                let query = padded.take(count).fold(sqlx::query(&sql), |query, user| {
                    query.bind(user.to_string())
                });
                rows.extend(query.fetch_all(store.reads()).await?);
            }
            Ok(rows)
        });
        let standing = |row: &AnyRow| {
            Ok(AccountStanding {
                user: user_id(&row.try_get::<String, _>("user_id")?)?,
                status: row.try_get("status")?,
                tier: row.try_get("tier")?,
            })
        };
        rows.await?.iter().map(standing).collect()
    }

    /// `None` for an id that is unknown or forgotten.
    pub async fn get(&self, user: UserId) -> Result<Option<AccountRow>, LogError> {
        let row = read(&self.log, async move |store: Store| {
            let sql = "SELECT status, role_sealed, admin, tier, onboarding, email_sealed, first_name_sealed, \
                       last_name_sealed, two_factor, created_at FROM accounts WHERE user_id = $1";
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
        let role: Vec<u8> = row.try_get("role_sealed")?;
        Ok(Some(AccountRow {
            user,
            status: row.try_get("status")?,
            role: open(&keys, ROLE, &role)?,
            admin: row.try_get::<i64, _>("admin")? != 0,
            tier: row.try_get("tier")?,
            onboarding: row.try_get("onboarding")?,
            email: Some(open(&keys, "accounts.email", &email)?).filter(|email| !email.is_empty()),
            first_name: open_option(
                &keys,
                "accounts.first_name",
                row.try_get("first_name_sealed")?,
            )?,
            last_name: open_option(
                &keys,
                "accounts.last_name",
                row.try_get("last_name_sealed")?,
            )?,
            two_factor: row.try_get::<i64, _>("two_factor")? != 0,
            created_at: Timestamp(row.try_get("created_at")?),
        }))
    }

    /// The requests for a new password after this one, the oldest first.
    pub async fn password_requests(
        &self,
        (at, user): (i64, String),
        limit: i64,
    ) -> Result<Vec<PasswordRequestRow>, LogError> {
        let rows = read(&self.log, async move |store: Store| {
            Ok(sqlx::query(PASSWORD_REQUESTS)
                .bind(at)
                .bind(user.clone())
                .bind(limit)
                .fetch_all(store.reads())
                .await?)
        });
        let mut requests = Vec::new();
        for row in rows.await? {
            let id: String = row.try_get("user_id")?;
            let user = user_id(&id)?;
            let KeyState::Live(keys) = self.log.keys().of(user.0).await? else {
                continue; // forgotten
            };
            let email: Vec<u8> = row.try_get("email_sealed")?;
            // A damaged address must not hide the requests of others.
            let email = open(&keys, "accounts.email", &email).ok();
            let reset_url: Option<Vec<u8>> = row.try_get("reset_url_sealed")?;
            requests.push(PasswordRequestRow {
                user,
                email: email.filter(|email| !email.is_empty()),
                requested_at: Timestamp(row.try_get("reset_requested_at")?),
                reset_url: open_option(&keys, "accounts.reset_url", reset_url)
                    .ok()
                    .flatten(),
            });
        }
        Ok(requests)
    }

    /// Some other active users who are administrators.
    pub async fn other_administrators(&self, user: UserId) -> Result<Vec<UserId>, LogError> {
        read(&self.log, async move |store: Store| {
            let others: Vec<String> = sqlx::query_scalar(OTHER_ADMINISTRATORS)
                .bind(user.to_string())
                .fetch_all(store.reads())
                .await?;
            Ok(others
                .iter()
                .filter_map(|other| other.parse().ok())
                .collect())
        })
        .await
    }
}

#[cfg(test)]
pub(crate) fn statements() -> Vec<String> {
    vec![
        BY_ID.sql(4),
        UPSERT.sql(4),
        OTHER_ADMINISTRATORS.into(),
        PASSWORD_REQUESTS.into(),
        standings_sql(4),
    ]
}
