//! `service_keys`: the list of service keys for administrators. Authentication asks the log itself,
//! not this table.

use std::collections::BTreeMap;

use futures_util::{FutureExt, future::BoxFuture};
use genie_events::{
    Event, StreamKind, Timestamp,
    service_key::{ServiceKeyEvent, ServiceKeyGrant},
};
use genie_log::{Log, LogError, forgetting::UserRows, store::Store};
use sqlx::{Row, any::AnyRow};

use crate::{
    projection::{Projection, Seen, Tx, open, read},
    rows::{Cell, Upsert},
};

const NAME: &str = "service_keys.name";

pub(crate) struct Projector;

impl Projection for Projector {
    fn name(&self) -> &'static str {
        "service_keys"
    }

    fn wants(&self, kind: StreamKind) -> bool {
        kind == StreamKind::ServiceKey
    }

    fn rows(&self) -> &'static [UserRows] {
        &[]
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
            for seen in facts {
                let Event::ServiceKey(event) = seen.event else {
                    continue;
                };
                match event {
                    ServiceKeyEvent::Created(key) => {
                        created.insert(seen.id(), cells(seen, key));
                    }
                    ServiceKeyEvent::Revoked => {
                        revoked.insert(seen.id(), seen.at().0);
                    }
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
            Ok(())
        }
        .boxed()
    }
}

const INSERT: Upsert = Upsert {
    table: "service_keys",
    columns: &[
        "key_id",
        "name_sealed",
        "scopes",
        "expires_at",
        "created_at",
        "created_by",
    ],
    on_conflict: "(key_id) DO NOTHING",
};

fn cells(seen: &Seen<'_>, key: &ServiceKeyGrant) -> Vec<Cell> {
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    vec![
        seen.id().into(),
        seen.seal(NAME, &key.name).into(),
        scopes.join(" ").into(),
        key.expires_at.map(|at| at.0).into(),
        seen.at().0.into(),
        seen.fact.metadata.by.map(|by| by.to_string()).into(),
    ]
}

/// A service key's record; never the key.
#[derive(Debug, Clone)]
pub struct ServiceKeyRow {
    /// The keyed hash of the key.
    pub id: String,
    /// The name that an administrator gave it.
    pub name: String,
    pub scopes: Vec<String>,
    pub expires_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub created_by: Option<String>,
    pub revoked_at: Option<Timestamp>,
}

const LIST: &str = "SELECT key_id, name_sealed, scopes, expires_at, created_at, created_by, revoked_at FROM service_keys \
                    WHERE (created_at, key_id) > ($1, $2) ORDER BY created_at, key_id LIMIT $3";

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
        rows.await?.iter().map(|row| self.open(row)).collect()
    }

    fn open(&self, row: &AnyRow) -> Result<ServiceKeyRow, LogError> {
        let name: Vec<u8> = row.try_get("name_sealed")?;
        let scopes: String = row.try_get("scopes")?;
        Ok(ServiceKeyRow {
            id: row.try_get("key_id")?,
            name: open(self.log.keys().system(), NAME, &name)?,
            scopes: scopes.split(' ').map(str::to_owned).collect(),
            expires_at: row.try_get::<Option<i64>, _>("expires_at")?.map(Timestamp),
            created_at: Timestamp(row.try_get("created_at")?),
            created_by: row.try_get("created_by")?,
            revoked_at: row.try_get::<Option<i64>, _>("revoked_at")?.map(Timestamp),
        })
    }
}

#[cfg(test)]
pub(crate) fn statements() -> Vec<String> {
    vec![INSERT.sql(4), LIST.into()]
}
