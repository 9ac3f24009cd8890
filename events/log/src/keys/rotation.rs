//! The use of master keys: which are needed, wrapping all data keys by another one, and retiring
//! one that nothing needs any more.
//!
//! A rotation goes through the data keys in small steps, while the servers run. A step replaces
//! exactly the rows that it read: a key that was destroyed or rewrapped meanwhile stays as it is.
//! So a rotation may be killed, and run twice or on several servers at once. The next run finds the
//! keys that it did not reach.

use std::time::Duration;

use genie_events::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::{Row, any::AnyRow};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    Keys, Log, LogError, MasterKeys, StoreTransaction,
    keys::WrappedKey,
    log::wrapped_key,
    store::{Store, Writing},
};

/// The data keys of one transaction: few enough that nobody waits for it.
const BATCH: usize = 500;
/// A step takes batches for this long, so that the caller hears of its progress.
const STEP: Duration = Duration::from_secs(1);
/// At a start this many data keys of each master key are tried.
const SAMPLES: i64 = 8;

#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The present state does not allow it; the sentence names the obstacle.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Log(#[from] LogError),
}

impl From<sqlx::Error> for RotationError {
    fn from(error: sqlx::Error) -> Self {
        Self::Log(error.into())
    }
}

/// The number of data keys that a master key wraps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wraps {
    pub master: String,
    /// The number of data keys, with the system's.
    pub keys: u64,
}

/// The progress of a rotation: all keys before this place were looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationCursor {
    master: String,
    owner: String,
}

/// The outcome of one step of a rotation.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RotationStep {
    /// The number of data keys that were rewrapped.
    pub wrapped: u64,
    /// The owners of data keys that cannot be opened; those keys stay as they are.
    pub unreadable: Vec<String>,
    /// The begin of the next step; `None` at the end.
    pub next: Option<RotationCursor>,
}

/// The use of each master key, and the rotation to another. See [`Keys::rotation`].
#[derive(Debug, Clone)]
pub struct KeyRotation(Log);

impl Keys {
    /// The use of each master key, and the rotation to another.
    pub fn rotation(&self) -> KeyRotation {
        KeyRotation(self.log().clone())
    }
}

impl KeyRotation {
    /// The number of data keys that each master key wraps.
    pub async fn wraps(&self) -> Result<Vec<Wraps>, LogError> {
        let read = async |store: Store| {
            let sql = "SELECT master_id, count(*) AS n FROM user_keys WHERE state = 'live' GROUP BY master_id ORDER BY master_id";
            let rows = sqlx::query(sql).fetch_all(store.reads()).await?;
            let wraps = |row: &AnyRow| {
                Ok(Wraps {
                    master: row.try_get("master_id")?,
                    keys: row.try_get::<i64, _>("n")? as u64,
                })
            };
            rows.iter().map(wraps).collect()
        };
        self.0.store().run(read).await
    }

    /// The retired master keys, with the time of their retirement.
    pub async fn retired(&self) -> Result<Vec<(String, Timestamp)>, LogError> {
        let read = async |store: Store| {
            let sql = "SELECT id, retired_at FROM retired_masters ORDER BY retired_at, id";
            let rows = sqlx::query(sql).fetch_all(store.reads()).await?;
            rows.iter()
                .map(|row| Ok((row.try_get("id")?, Timestamp(row.try_get("retired_at")?))))
                .collect()
        };
        self.0.store().run(read).await
    }

    /// Makes the first key of the ring wrap all new data keys, on every server. Answers its id.
    pub async fn begin(&self) -> Result<String, RotationError> {
        let masters = self.0.keys().masters();
        let to = masters.first().to_owned();
        if self.retired().await?.iter().any(|(id, _)| *id == to) {
            return Err(RotationError::Refused(format!(
                "master key `{to}`, the first of the ring, was retired; make another: genie keys add"
            )));
        }
        check(self.0.store(), &masters).await?;
        self.0.keys().rings().none_lacks(&to).await?;
        let was = masters.current().to_owned();
        self.wrap_system_by(&to).await?;
        // A server that started meanwhile may have looked for the key before it was needed.
        if let Err(refused) = self.0.keys().rings().none_lacks(&to).await {
            self.wrap_system_by(&was).await?;
            return Err(refused);
        }
        Ok(to)
    }

    /// Continues a rotation to that key for about a second.
    pub async fn rotate(
        &self,
        to: &str,
        from: RotationCursor,
    ) -> Result<RotationStep, RotationError> {
        let current = self.0.keys().rings().follow_current().await?;
        if current != to {
            return Err(RotationError::Refused(format!(
                "another rotation began meanwhile: master key `{current}` is current now, not `{to}`"
            )));
        }
        self.0.keys().rings().none_lacks(to).await?;
        let began = Instant::now();
        let mut step = RotationStep::default();
        let mut place = from;
        loop {
            let rows = self.wrapped_by_others(to, place).await?;
            let Some(last) = rows.last() else {
                return Ok(step);
            };
            place = RotationCursor {
                master: last.master_id.clone(),
                owner: last.owner.to_string(),
            };
            self.wrap_batch(to, rows, &mut step).await?;
            if began.elapsed() >= STEP {
                return Ok(RotationStep {
                    next: Some(place),
                    ..step
                });
            }
        }
    }

    /// Retires a key that wraps nothing: it never wraps again. Answers the time of the retirement;
    /// asking twice is no error.
    pub async fn retire(&self, id: &str) -> Result<Timestamp, RotationError> {
        if self.0.keys().rings().follow_current().await? == id {
            return Err(RotationError::Refused(format!(
                "master key `{id}` is current; add another and rotate first: genie keys add, genie keys rotate"
            )));
        }
        // Counted before the table is locked: the keys may be many.
        if let Some(Wraps { keys, .. }) =
            self.wraps().await?.iter().find(|wraps| wraps.master == id)
        {
            return Err(RotationError::Refused(format!(
                "{keys} data keys are wrapped by master key `{id}`; first run: genie keys rotate"
            )));
        }
        let id = id.to_owned();
        let now = self.0.clock().now();
        let retire = async move |store: Store| {
            let mut tx = store.durable().await?;
            if let Writing::Postgres(_) = store.writing {
                // Waits for transactions that are about to store a data key. Later ones find the
                // master key retired.
                sqlx::query("LOCK TABLE user_keys IN SHARE MODE")
                    .execute(&mut *tx)
                    .await?;
            }
            let sql = "SELECT count(*) AS n FROM user_keys WHERE state = 'live' AND master_id = $1";
            let meanwhile = sqlx::query(sql)
                .bind(&id)
                .fetch_one(&mut *tx)
                .await?
                .try_get::<i64, _>("n")?;
            if meanwhile > 0 {
                return Ok(None);
            }
            let sql = "INSERT INTO retired_masters (id, retired_at) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING";
            sqlx::query(sql)
                .bind(&id)
                .bind(now.0)
                .execute(&mut *tx)
                .await?;
            let since = sqlx::query("SELECT retired_at FROM retired_masters WHERE id = $1")
                .bind(&id)
                .fetch_one(&mut *tx)
                .await?;
            let since = since.try_get("retired_at")?;
            tx.commit().await?;
            Ok(Some(Timestamp(since)))
        };
        let meanwhile = || {
            RotationError::Refused(
                "a server wrapped a data key by that key meanwhile; run: genie keys rotate".into(),
            )
        };
        self.0.store().run(retire).await?.ok_or_else(meanwhile)
    }

    /// Wraps the system's data key by that master key, unless it is so already. New data keys
    /// follow it.
    async fn wrap_system_by(&self, to: &str) -> Result<(), RotationError> {
        let masters = self.0.keys().masters();
        let nil = Uuid::nil();
        let by = to.to_owned();
        let changed = async move |store: Store| {
            let row = sqlx::query(
                "SELECT key_id, master_id, wrapped, state FROM user_keys WHERE user_id = $1",
            )
            .bind(nil.to_string())
            .fetch_one(store.reads())
            .await?;
            let Some(wrapped) = wrapped_key(nil, &row)?.filter(|wrapped| wrapped.master_id != by)
            else {
                return Ok(());
            };
            let anew = masters.rewrap(&wrapped, &by)?;
            let mut tx = store.durable().await?;
            replace(&store, &mut tx, &[(wrapped, anew)]).await?;
            Ok(tx.commit().await?)
        };
        self.0.store().run(changed).await?;
        match self.0.keys().rings().follow_current().await? {
            current if current == to => Ok(()),
            current => Err(RotationError::Refused(format!(
                "another rotation began meanwhile: master key `{current}` is current now, not `{to}`"
            ))),
        }
    }

    /// The next data keys that another master key wraps.
    async fn wrapped_by_others(
        &self,
        to: &str,
        from: RotationCursor,
    ) -> Result<Vec<WrappedKey>, LogError> {
        let to = to.to_owned();
        let read = async move |store: Store| {
            let sql = format!(
                "SELECT user_id, key_id, master_id, wrapped, state FROM user_keys \
                 WHERE state = 'live' AND master_id = $1 AND user_id > $2 ORDER BY user_id LIMIT {BATCH}"
            );
            for master in in_use(&store)
                .await?
                .into_iter()
                .filter(|master| *master != to && *master >= from.master)
            {
                let after = if master == from.master {
                    from.owner.as_str()
                } else {
                    ""
                };
                let rows = sqlx::query(&sql)
                    .bind(&master)
                    .bind(after)
                    .fetch_all(store.reads())
                    .await?;
                if !rows.is_empty() {
                    return rows
                        .iter()
                        .filter_map(|row| read_wrapped(row).transpose())
                        .collect();
                }
            }
            Ok(vec![])
        };
        self.0.store().run(read).await
    }

    async fn wrap_batch(
        &self,
        to: &str,
        rows: Vec<WrappedKey>,
        step: &mut RotationStep,
    ) -> Result<(), LogError> {
        let masters = self.0.keys().masters();
        let mut anew = Vec::with_capacity(rows.len());
        for row in rows {
            match masters.rewrap(&row, to) {
                Ok(wrapped) => anew.push((row, wrapped)),
                Err(LogError::MasterKeyWrong { owner, .. }) => step.unreadable.push(owner),
                Err(error) => return Err(error),
            }
        }
        let write = async move |store: Store| {
            // No flush: keys that a power cut takes back are wrapped as before, and the old master
            // key stays until it is retired.
            let mut tx = store.relaxed().await?;
            let wrapped = replace(&store, &mut tx, &anew).await?;
            tx.commit().await?;
            Ok(wrapped)
        };
        step.wrapped += self.0.store().run(write).await?;
        Ok(())
    }
}

/// Replaces each old row that still stands by its new form. Answers how many were replaced.
async fn replace(
    store: &Store,
    tx: &mut StoreTransaction,
    pairs: &[(WrappedKey, WrappedKey)],
) -> Result<u64, LogError> {
    if pairs.is_empty() {
        return Ok(0);
    }
    match store.writing {
        Writing::Sqlite(..) => replace_each(tx, pairs).await,
        Writing::Postgres(_) => replace_together(tx, pairs).await,
    }
}

/// On SQLite a statement costs little, and one statement for many rows would scan all users in each
/// batch.
async fn replace_each(
    tx: &mut StoreTransaction,
    pairs: &[(WrappedKey, WrappedKey)],
) -> Result<u64, LogError> {
    // Overwrites the old form in the file: when a key is destroyed later, every form of it must be
    // gone.
    sqlx::query("PRAGMA secure_delete = ON")
        .execute(&mut **tx)
        .await?;
    let sql = "UPDATE user_keys SET master_id = $1, wrapped = $2 \
         WHERE user_id = $3 AND key_id = $4 AND master_id = $5 AND state = 'live'";
    let mut replaced = 0;
    for (old, new) in pairs {
        let query = sqlx::query(sql)
            .bind(&new.master_id)
            .bind(&new.sealed)
            .bind(old.owner.to_string());
        replaced += query
            .bind(old.key_id.to_string())
            .bind(&old.master_id)
            .execute(&mut **tx)
            .await?
            .rows_affected();
    }
    Ok(replaced)
}

/// On Postgres each statement costs a round trip, so one statement replaces all.
async fn replace_together(
    tx: &mut StoreTransaction,
    pairs: &[(WrappedKey, WrappedKey)],
) -> Result<u64, LogError> {
    // Finds each row by its key, however small the table is now.
    let settings = "SELECT set_config(name, 'off', true) \
         FROM (VALUES ('enable_seqscan'), ('enable_hashjoin'), ('enable_mergejoin')) AS s (name)";
    sqlx::query(settings).execute(&mut **tx).await?;
    let values: Vec<String> = (0..pairs.len())
        .map(|n| (4 * n + 1..=4 * n + 4).collect::<Vec<_>>())
        .map(|n| {
            format!(
                "(CAST(${} AS text), CAST(${} AS text), CAST(${} AS text), ${})",
                n[0], n[1], n[2], n[3]
            )
        })
        .collect();
    let to = 4 * pairs.len() + 1;
    let sql = format!(
        "WITH anew (owner, of_key, of_master, sealed) AS (VALUES {}) \
         UPDATE user_keys SET master_id = ${to}, wrapped = anew.sealed FROM anew \
         WHERE user_id = anew.owner AND key_id = anew.of_key AND master_id = anew.of_master AND state = 'live'",
        values.join(", ")
    );
    let mut query = sqlx::query(&sql);
    for (old, new) in pairs {
        query = query
            .bind(old.owner.to_string())
            .bind(old.key_id.to_string())
            .bind(&old.master_id)
            .bind(&new.sealed);
    }
    let (_, new) = pairs.first().expect("no statement without a pair");
    Ok(query
        .bind(&new.master_id)
        .execute(&mut **tx)
        .await?
        .rows_affected())
}

fn read_wrapped(row: &AnyRow) -> Result<Option<WrappedKey>, LogError> {
    let owner: String = row.try_get("user_id")?;
    let owner = Uuid::try_parse(&owner)
        .map_err(|_| LogError::Statement("`user_keys` holds an invalid user id".into()))?;
    Ok(wrapped_key(owner, row)?)
}

/// The master keys that wrap something. The index is searched for one after the other, so the
/// number of users does not matter.
pub(crate) async fn in_use(store: &Store) -> Result<Vec<String>, LogError> {
    let sql = "WITH RECURSIVE used (id) AS ( \
             SELECT min(master_id) FROM user_keys WHERE state = 'live' \
             UNION ALL \
             SELECT (SELECT min(k.master_id) FROM user_keys k WHERE k.state = 'live' AND k.master_id > used.id) \
             FROM used WHERE used.id IS NOT NULL) \
         SELECT id FROM used WHERE id IS NOT NULL";
    let rows = sqlx::query(sql).fetch_all(store.reads()).await?;
    Ok(rows
        .iter()
        .map(|row| row.try_get("id"))
        .collect::<Result<_, _>>()?)
}

/// Checks that a ring has every key that wraps something, and the right bytes of it.
pub(crate) async fn check(store: &Store, masters: &MasterKeys) -> Result<(), LogError> {
    let mut missing = Vec::new();
    for master in in_use(store).await? {
        if !masters.has(&master) {
            let sql = "SELECT count(*) AS n FROM user_keys WHERE state = 'live' AND master_id = $1";
            let keys: i64 = sqlx::query(sql)
                .bind(&master)
                .fetch_one(store.reads())
                .await?
                .try_get("n")?;
            missing.push(format!(
                "master key `{master}` is wanted by {keys} data keys"
            ));
            continue;
        }
        let sql = "SELECT user_id, key_id, master_id, wrapped, state FROM user_keys \
             WHERE state = 'live' AND master_id = $1 ORDER BY user_id LIMIT $2";
        let rows = sqlx::query(sql)
            .bind(&master)
            .bind(SAMPLES)
            .fetch_all(store.reads())
            .await?;
        let samples = rows
            .iter()
            .filter_map(|row| read_wrapped(row).transpose())
            .collect::<Result<Vec<_>, _>>()?;
        let mut others = 0;
        for sample in &samples {
            others += usize::from(masters.is_of_another(sample)?);
        }
        // One bad sample among several is damage, which concerns its owner only.
        if let Some(sample) = samples.first().filter(|_| others == samples.len()) {
            return Err(LogError::MasterKeyWrong {
                owner: sample.owner.to_string(),
                master,
            });
        }
    }
    if !missing.is_empty() {
        return Err(LogError::MasterKeysMissing(missing.join(", ")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestStore, both_stores};

    both_stores!(
        a_user_who_is_forgotten_between_reading_and_writing_stays_forgotten,
        async |store: TestStore| {
            let log = store.open().await.log;
            let (ada, bob) = (
                store.register(&log, "ada").await,
                store.register(&log, "bob").await,
            );
            let grown = format!("{},{}", *MasterKeys::new_entry("m2"), store.masters());
            log.keys()
                .rings()
                .take(MasterKeys::parse(&grown).unwrap())
                .await
                .unwrap();
            assert_eq!(log.keys().rotation().begin().await.unwrap(), "m2");
            let rows = log
                .keys()
                .rotation()
                .wrapped_by_others("m2", RotationCursor::default())
                .await
                .unwrap();
            assert_eq!(rows.len(), 2);
            let forget = format!(
                "UPDATE user_keys SET state = 'destroyed', wrapped = NULL WHERE user_id = '{ada}'"
            );
            store.try_sql(&forget).await.unwrap();
            let mut step = RotationStep::default();
            log.keys()
                .rotation()
                .wrap_batch("m2", rows, &mut step)
                .await
                .unwrap();
            assert_eq!((step.wrapped, step.unreadable.len()), (1, 0));
            assert!(matches!(
                store
                    .open_with(&grown)
                    .await
                    .unwrap()
                    .log
                    .keys()
                    .of(ada.0)
                    .await,
                Ok(crate::keys::KeyState::Destroyed)
            ));
            assert!(log.keys().live(bob).await.is_ok());
            log.keys().rotation().retire("m1").await.unwrap(); // A destroyed key needs no master key.
        }
    );

    /// When a key is destroyed later, no other form of it may be left.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn on_sqlite_the_old_form_of_a_key_does_not_stay_in_the_file() {
        let store = TestStore::new(crate::testing::Kind::Sqlite).await;
        let log = store.open().await.log;
        store.register(&log, "ada").await;
        let grown = format!("{},{}", *MasterKeys::new_entry("m2"), store.masters());
        log.keys()
            .rings()
            .take(MasterKeys::parse(&grown).unwrap())
            .await
            .unwrap();
        log.keys().rotation().begin().await.unwrap();
        let old = log
            .keys()
            .rotation()
            .wrapped_by_others("m2", RotationCursor::default())
            .await
            .unwrap()
            .remove(0)
            .sealed;
        let held = || {
            let bytes = std::fs::read(store.folder().join("genie.db")).unwrap();
            bytes.windows(old.len()).any(|window| window == old)
        };
        // A checkpoint waits for readers up to a limit, and says when they were in its way.
        let checkpoint = async || while !log.store().scrub().await.unwrap() {};
        checkpoint().await;
        assert!(held());
        log.keys()
            .rotation()
            .rotate("m2", RotationCursor::default())
            .await
            .unwrap();
        checkpoint().await;
        assert!(!held());
    }
}
