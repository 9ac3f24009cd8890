//! `service_keys`: the lists of service keys, for administrators, and of each user's own keys.
//! Authentication asks the log itself, not this table.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{
    Event, StreamKind, Timestamp, UserId,
    api_key::{ApiKeyEvent, MAX_KEYS},
    service_key::ServiceKeyEvent,
};
use genie_log::{Log, LogError, UserKeys, forgetting::UserRows, store::Store, stored_ids::IdForm};
use sqlx::{Row, any::AnyRow};

use crate::{
    projection::{Projection, Seen, Tx, open, read, user_id},
    rows::{Cell, Upsert},
};

const NAME: &str = "service_keys.name";

pub(crate) struct Projector;

impl Projection for Projector {
    fn name(&self) -> &'static str {
        "service_keys"
    }

    fn wants(&self, kind: StreamKind) -> bool {
        matches!(kind, StreamKind::ServiceKey | StreamKind::ApiKey)
    }

    fn rows(&self) -> &'static [UserRows] {
        &[UserRows {
            table: "service_keys",
            user: "user_id",
            key: "key_id",
            ids: IdForm::Text,
        }]
    }

    fn mentions(&self) -> &'static [(&'static str, &'static str)] {
        &[("service_keys", "created_by")]
    }

    fn apply<'a>(
        &'a self,
        facts: &'a [Seen<'a>],
        tx: &'a mut Tx,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        async move {
            let mut created = BTreeMap::new();
            let mut revoked: BTreeMap<String, i64> = BTreeMap::new();
            let mut removed = BTreeSet::new();
            for seen in facts {
                match seen.event {
                    Event::ServiceKey(ServiceKeyEvent::Created(key)) => {
                        let scopes = key.scopes.iter().map(|scope| scope.as_str());
                        let cells = cells(seen, &key.name, scopes, key.expires_at);
                        created.insert(seen.id(), cells);
                    }
                    Event::ServiceKey(ServiceKeyEvent::Revoked) => {
                        revoked.insert(seen.id(), seen.at().0);
                    }
                    Event::ApiKey(ApiKeyEvent::Created(key)) => {
                        let scopes = key.scopes.iter().map(|scope| scope.as_str());
                        let cells = cells(seen, &key.key_name, scopes, key.expires_at);
                        created.insert(seen.id(), cells);
                    }
                    Event::ApiKey(ApiKeyEvent::Revoked) => {
                        created.remove(&seen.id());
                        removed.insert(seen.id());
                    }
                    _ => {}
                }
            }
            INSERT.write(tx, created.into_values().collect()).await?;
            for (id, at) in revoked {
                sqlx::query("UPDATE service_keys SET revoked_at = $2 WHERE key_id = $1")
                    .bind(id)
                    .bind(at)
                    .execute(&mut **tx)
                    .await?;
            }
            for id in removed {
                sqlx::query(REMOVE).bind(id).execute(&mut **tx).await?;
            }
            Ok(())
        }
        .boxed()
    }
}

const INSERT: Upsert = Upsert {
    table: "service_keys",
    columns: &[
        "key_id",
        "user_id",
        "name_sealed",
        "scopes",
        "expires_at",
        "created_at",
        "created_by",
    ],
    on_conflict: "(key_id) DO NOTHING",
};

/// A user's own key that is revoked leaves the user's list.
const REMOVE: &str = "DELETE FROM service_keys WHERE key_id = $1";

fn cells(
    seen: &Seen<'_>,
    name: &str,
    scopes: impl Iterator<Item = &'static str>,
    expires_at: Option<Timestamp>,
) -> Vec<Cell> {
    let scopes: Vec<&str> = scopes.collect();
    vec![
        seen.id().into(),
        seen.fact.user.map(|user| user.to_string()).into(),
        seen.seal(NAME, name).into(),
        scopes.join(" ").into(),
        expires_at.map(|at| at.0).into(),
        seen.at().0.into(),
        seen.fact.metadata.by.map(|by| by.to_string()).into(),
    ]
}

/// A service key's record; never the key.
#[derive(Debug, Clone)]
pub struct ServiceKeyRow {
    /// The keyed hash of the key.
    pub id: String,
    /// The user whose own key it is; `None` for a service key.
    pub user: Option<UserId>,
    /// The name that its maker gave it. A user's own key shows it to the user alone.
    pub name: Option<String>,
    pub scopes: Vec<String>,
    pub expires_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub created_by: Option<String>,
    pub revoked_at: Option<Timestamp>,
}

const LIST: &str = "SELECT key_id, user_id, name_sealed, scopes, expires_at, created_at, created_by, revoked_at FROM service_keys \
                    WHERE (created_at, key_id) > ($1, $2) ORDER BY created_at, key_id LIMIT $3";

/// A user's own keys. There are few: see `api_key::MAX_KEYS`.
const OF_USER: &str = "SELECT key_id, user_id, name_sealed, scopes, expires_at, created_at, created_by, revoked_at FROM service_keys \
                       WHERE user_id = $1 ORDER BY user_id, created_at, key_id LIMIT $2";

#[derive(Debug, Clone)]
pub struct ServiceKeyReader {
    log: Log,
}

impl ServiceKeyReader {
    pub(crate) fn new(log: Log) -> Self {
        Self { log }
    }

    /// Service keys, oldest first, at most `limit`, after the one named by `after` (created_at,
    /// id).
    pub async fn list(
        &self,
        after: Option<(i64, String)>,
        limit: i64,
    ) -> Result<Vec<ServiceKeyRow>, LogError> {
        let rows = read(&self.log, async move |store: Store| {
            let (created, id) = after.unwrap_or((i64::MIN, String::new()));
            Ok(sqlx::query(LIST)
                .bind(created)
                .bind(id)
                .bind(limit)
                .fetch_all(store.reads())
                .await?)
        });
        let keys = self.log.keys();
        let rows = rows.await?;
        let shown = rows.iter().map(|row| show(row, keys.system(), None));
        shown.collect()
    }

    /// A user's own keys that were not revoked, oldest first, with their names.
    pub async fn of_user(&self, user: UserId) -> Result<Vec<ServiceKeyRow>, LogError> {
        let rows = read(&self.log, async move |store: Store| {
            Ok(sqlx::query(OF_USER)
                .bind(user.to_string())
                .bind(MAX_KEYS as i64)
                .fetch_all(store.reads())
                .await?)
        });
        let rows = rows.await?;
        let keys = self.log.keys().live(user).await?;
        rows.iter()
            .map(|row| show(row, &keys, Some(user)))
            .collect()
    }
}

/// Shows a row with its name, if `keys` are those of its owner.
fn show(row: &AnyRow, keys: &UserKeys, owner: Option<UserId>) -> Result<ServiceKeyRow, LogError> {
    let name: Vec<u8> = row.try_get("name_sealed")?;
    let scopes: String = row.try_get("scopes")?;
    let user = row.try_get::<Option<String>, _>("user_id")?;
    let user = user.as_deref().map(user_id).transpose()?;
    let name = (user == owner)
        .then(|| open(keys, NAME, &name))
        .transpose()?;
    Ok(ServiceKeyRow {
        id: row.try_get("key_id")?,
        user,
        name,
        scopes: scopes.split(' ').map(str::to_owned).collect(),
        expires_at: row.try_get::<Option<i64>, _>("expires_at")?.map(Timestamp),
        created_at: Timestamp(row.try_get("created_at")?),
        created_by: row.try_get("created_by")?,
        revoked_at: row.try_get::<Option<i64>, _>("revoked_at")?.map(Timestamp),
    })
}

#[cfg(test)]
pub(crate) fn statements() -> Vec<String> {
    vec![INSERT.sql(4), LIST.into(), OF_USER.into(), REMOVE.into()]
}
