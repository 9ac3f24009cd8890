//! `credentials`: kind, platform and times of each credential; never its secret.

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{
    CredentialId, Event, StreamKind, Timestamp, UserId, credential::CredentialEvent,
};
use genie_log::{Log, LogError, forgetting::UserRows, store::Store};
use sqlx::{Row, any::AnyRow};

use crate::projection::{Projection, Seen, Tx, open_option, read};

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
        }]
    }

    fn apply<'a>(
        &'a self,
        seen: Seen<'a>,
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let Event::Credential(event) = seen.event else { return Ok(()) };
            let id = &seen.fact.stream.id.to_string();
            let query = match event {
                CredentialEvent::Stored { kind, platform, platform_username, expires_at, sealed } => sqlx::query(
                    "INSERT INTO credentials (credential_id, user_id, kind, platform, username_sealed, version, created_at, \
                     updated_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8)",
                )
                .bind(id)
                .bind(seen.user())
                .bind(kind.as_str())
                .bind(platform)
                .bind(seen.seal_option("credentials.username", platform_username.as_deref()))
                .bind(i64::from(sealed.version))
                .bind(seen.at().0)
                .bind(expires_at.map(|at| at.0)),
                CredentialEvent::Changed { platform_username, expires_at, sealed } => sqlx::query(
                    "UPDATE credentials SET username_sealed = $2, version = $3, updated_at = $4, expires_at = $5 \
                     WHERE credential_id = $1",
                )
                .bind(id)
                .bind(seen.seal_option("credentials.username", platform_username.as_deref()))
                .bind(i64::from(sealed.version))
                .bind(seen.at().0)
                .bind(expires_at.map(|at| at.0)),
                CredentialEvent::Revealed { .. } => {
                    sqlx::query("UPDATE credentials SET last_revealed_at = $2, last_revealed_by = $3 WHERE credential_id = $1")
                        .bind(id)
                        .bind(seen.at().0)
                        .bind(seen.fact.metadata.caller.as_str())
                }
                CredentialEvent::Refused { .. } => return Ok(()),
                CredentialEvent::Removed => sqlx::query("DELETE FROM credentials WHERE credential_id = $1").bind(id),
            };
            query.execute(&mut **tx).await.map(drop)
        }
        .boxed()
    }
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

const COLUMNS: &str = "credential_id, kind, platform, username_sealed, created_at, updated_at, expires_at, last_revealed_at, last_revealed_by";

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
            let sql = format!(
                "SELECT {COLUMNS} FROM credentials WHERE user_id = $1 AND (created_at > $2 OR (created_at = $2 AND credential_id > $3)) \
                 ORDER BY created_at, credential_id LIMIT $4"
            );
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
        let open = |row: &AnyRow| {
            Ok(CredentialRow {
                id: row.try_get("credential_id")?,
                kind: row.try_get("kind")?,
                platform: row.try_get("platform")?,
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
        rows.iter().map(open).collect()
    }
}
