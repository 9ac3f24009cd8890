//! `credentials`: kind, platform and times of each credential; never its secret.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{
    CredentialId, Event, StreamKind, Timestamp, UserId, UserName,
    credential::{CredentialEvent, CredentialKind},
    tier::Counter,
};
use genie_log::{Log, LogError, forgetting::UserRows, store::Store, stored_ids::IdForm};
use sqlx::{Row, any::AnyRow};
use uuid::Uuid;

use crate::{
    projection::{Projection, Seen, Tx, begun_before, id_column, open, open_option, read},
    rows::{ByKey, Cell, Upsert},
    usage,
};

pub(crate) struct Projector;

impl Projection for Projector {
    fn name(&self) -> &'static str {
        "credentials"
    }

    fn wants(&self, kind: StreamKind) -> bool {
        kind == StreamKind::Credential
    }

    fn rows(&self) -> &'static [UserRows] {
        &[UserRows {
            table: "credentials",
            user: "user_id",
            key: "credential_id",
            ids: IdForm::Text,
        }]
    }

    fn apply<'a>(
        &'a self,
        facts: &'a [Seen<'a>],
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let begins =
                |event: &Event| matches!(event, Event::Credential(CredentialEvent::Stored { .. }));
            let mut batch = CredentialChanges::default();
            for row in BY_ID.run(tx, &begun_before(facts, begins)).await? {
                let id = row.try_get("credential_id")?;
                batch.credentials.insert(id, CredentialColumns::read(&row)?);
            }
            for seen in facts {
                if let Event::Credential(event) = seen.event {
                    batch.take(seen, event);
                }
            }
            DELETE.run(tx, &batch.removed).await?;
            let rows = batch.credentials.into_iter();
            UPSERT
                .write(tx, rows.map(|(id, one)| one.cells(id)).collect())
                .await?;
            usage::add(tx, batch.connected).await
        }
        .boxed()
    }
}

/// The column for which platforms are sealed: their names are words that users choose.
const PLATFORM: &str = "credentials.platform";

/// The columns of a credential's row.
struct CredentialColumns {
    user: Uuid,
    kind: String,
    platform_sealed: Vec<u8>,
    version: i64,
    created_at: i64,
    updated_at: i64,
    expires_at: Option<i64>,
    last_revealed_at: Option<i64>,
    last_revealed_by: Option<String>,
    username_sealed: Option<Vec<u8>>,
}

/// The rows that a batch changes.
#[derive(Default)]
struct CredentialChanges {
    credentials: BTreeMap<String, CredentialColumns>,
    removed: BTreeSet<Uuid>,
    /// The changes of the users' counts of connected platforms.
    connected: usage::UsageChanges,
}

const BY_ID: ByKey = ByKey::text(
    "SELECT credential_id, user_id, kind, platform_sealed, version, created_at, updated_at, expires_at, last_revealed_at, \
            last_revealed_by, username_sealed FROM credentials WHERE credential_id IN ({})",
);
const DELETE: ByKey = ByKey::text("DELETE FROM credentials WHERE credential_id IN ({})");

const UPSERT: Upsert = Upsert {
    table: "credentials",
    columns: &[
        "credential_id",
        "user_id",
        "kind",
        "platform_sealed",
        "version",
        "created_at",
        "updated_at",
        "expires_at",
        "last_revealed_at",
        "last_revealed_by",
        "username_sealed",
    ],
    on_conflict: "(credential_id) DO UPDATE SET version = excluded.version, updated_at = excluded.updated_at, \
                  expires_at = excluded.expires_at, last_revealed_at = excluded.last_revealed_at, \
                  last_revealed_by = excluded.last_revealed_by, username_sealed = excluded.username_sealed",
};

impl CredentialColumns {
    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            user: id_column(row, "user_id")?,
            kind: row.try_get("kind")?,
            platform_sealed: row.try_get("platform_sealed")?,
            version: row.try_get("version")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            expires_at: row.try_get("expires_at")?,
            last_revealed_at: row.try_get("last_revealed_at")?,
            last_revealed_by: row.try_get("last_revealed_by")?,
            username_sealed: row.try_get("username_sealed")?,
        })
    }

    fn cells(self, id: String) -> Vec<Cell> {
        vec![
            id.into(),
            self.user.to_string().into(),
            self.kind.into(),
            self.platform_sealed.into(),
            self.version.into(),
            self.created_at.into(),
            self.updated_at.into(),
            self.expires_at.into(),
            self.last_revealed_at.into(),
            self.last_revealed_by.into(),
            self.username_sealed.into(),
        ]
    }
}

impl CredentialChanges {
    fn take(&mut self, seen: &Seen<'_>, event: &CredentialEvent) {
        let id = seen.id();
        match (event, self.credentials.get_mut(&id)) {
            (
                CredentialEvent::Stored {
                    kind,
                    platform,
                    platform_username,
                    expires_at,
                    sealed,
                },
                _,
            ) => {
                let stored = CredentialColumns {
                    user: seen.owner(),
                    kind: kind.as_str().into(),
                    platform_sealed: seen.seal(PLATFORM, platform.as_str()),
                    version: i64::from(sealed.version),
                    created_at: seen.at().0,
                    updated_at: seen.at().0,
                    expires_at: expires_at.map(|at| at.0),
                    last_revealed_at: None,
                    last_revealed_by: None,
                    username_sealed: username(
                        seen,
                        platform_username.as_ref().map(UserName::as_str),
                    ),
                };
                self.count(stored.user, &stored.kind, 1);
                self.credentials.insert(id, stored);
            }
            (
                CredentialEvent::Changed {
                    platform_username,
                    expires_at,
                    sealed,
                },
                Some(credential),
            ) => {
                credential.version = i64::from(sealed.version);
                credential.updated_at = seen.at().0;
                credential.expires_at = expires_at.map(|at| at.0);
                credential.username_sealed =
                    username(seen, platform_username.as_ref().map(UserName::as_str));
            }
            (CredentialEvent::Revealed { .. }, Some(credential)) => {
                credential.last_revealed_at = Some(seen.at().0);
                credential.last_revealed_by = Some(seen.fact.metadata.caller.as_str().into());
            }
            (CredentialEvent::Removed, Some(_)) => {
                if let Some(removed) = self.credentials.remove(&id) {
                    self.count(removed.user, &removed.kind, -1);
                }
                self.removed.insert(seen.fact.stream.id);
            }
            (CredentialEvent::Refused { .. }, _) | (_, None) => {}
        }
    }

    fn count(&mut self, user: Uuid, kind: &str, change: i64) {
        if kind == CredentialKind::Profile.as_str() {
            let key = (user, usage::PRESENT, Counter::PlatformsConnected);
            *self.connected.entry(key).or_default() += change;
        }
    }
}

fn username(seen: &Seen<'_>, name: Option<&str>) -> Option<Vec<u8>> {
    seen.seal_option("credentials.username", name)
}

/// A credential without its secret.
#[derive(Debug, Clone)]
pub struct CredentialRow {
    pub id: String,
    /// `profile`, `password`, `cookies` or `session`.
    pub kind: String,
    pub platform: String,
    pub platform_username: Option<String>,
    pub created_at: Timestamp,
    /// When the secret was last stored or replaced.
    pub updated_at: Timestamp,
    /// When a browser's session ends.
    pub expires_at: Option<Timestamp>,
    pub last_revealed_at: Option<Timestamp>,
    /// The kind of caller that the secret was last shown to.
    pub last_revealed_by: Option<String>,
}

#[derive(Debug, Clone)]
pub struct CredentialReader {
    log: Log,
}

const COLUMNS: &str = "credential_id, kind, platform_sealed, username_sealed, created_at, updated_at, expires_at, last_revealed_at, last_revealed_by";

impl CredentialReader {
    pub(crate) fn new(log: Log) -> Self {
        Self { log }
    }

    /// A user's credentials, oldest first, at most `limit`, after the one named by `after`
    /// (created_at, id).
    pub async fn list(
        &self,
        user: UserId,
        after: Option<(i64, String)>,
        limit: i64,
    ) -> Result<Vec<CredentialRow>, LogError> {
        let rows = read(&self.log, async move |store: Store| {
            let (created, id) = after.unwrap_or((i64::MIN, String::new()));
            let sql = list_sql();
            Ok(sqlx::query(&sql)
                .bind(user.to_string())
                .bind(created)
                .bind(id)
                .bind(limit)
                .fetch_all(store.reads())
                .await?)
        });
        let rows = rows.await?;
        self.open_all(user, rows).await
    }

    pub async fn get(
        &self,
        user: UserId,
        id: CredentialId,
    ) -> Result<Option<CredentialRow>, LogError> {
        let rows = read(&self.log, async move |store: Store| {
            let sql = format!(
                "SELECT {COLUMNS} FROM credentials WHERE user_id = $1 AND credential_id = $2"
            );
            Ok(sqlx::query(&sql)
                .bind(user.to_string())
                .bind(id.to_string())
                .fetch_all(store.reads())
                .await?)
        });
        let rows = rows.await?;
        Ok(self.open_all(user, rows).await?.pop())
    }

    async fn open_all(
        &self,
        user: UserId,
        rows: Vec<AnyRow>,
    ) -> Result<Vec<CredentialRow>, LogError> {
        let keys = self.log.keys().live(user).await?;
        let row_of = |row: &AnyRow| {
            Ok(CredentialRow {
                id: row.try_get("credential_id")?,
                kind: row.try_get("kind")?,
                platform: open(
                    &keys,
                    PLATFORM,
                    &row.try_get::<Vec<u8>, _>("platform_sealed")?,
                )?,
                platform_username: open_option(
                    &keys,
                    "credentials.username",
                    row.try_get("username_sealed")?,
                )?,
                created_at: Timestamp(row.try_get("created_at")?),
                updated_at: Timestamp(row.try_get("updated_at")?),
                expires_at: row.try_get::<Option<i64>, _>("expires_at")?.map(Timestamp),
                last_revealed_at: row
                    .try_get::<Option<i64>, _>("last_revealed_at")?
                    .map(Timestamp),
                last_revealed_by: row.try_get("last_revealed_by")?,
            })
        };
        rows.iter().map(row_of).collect()
    }
}

fn list_sql() -> String {
    format!(
        "SELECT {COLUMNS} FROM credentials WHERE user_id = $1 AND (created_at, credential_id) > ($2, $3) \
         ORDER BY created_at, credential_id LIMIT $4"
    )
}

#[cfg(test)]
pub(crate) fn statements() -> Vec<String> {
    vec![BY_ID.sql(4), DELETE.sql(4), UPSERT.sql(4), list_sql()]
}
