//! The ring of a running server. It can be replaced, and the servers on one Postgres announce the
//! keys that they have.

use std::time::Duration;

use sqlx::Row;
use uuid::Uuid;

use super::rotation::{RotationError, check};
use crate::{
    Keys, Log, LogError, MasterKeys,
    store::{Store, Writing},
};

/// How often a server announces its keys and looks up the current one.
pub const ANNOUNCE: Duration = Duration::from_secs(5);
/// A server without an announcement for this long counts as gone. If it was only stopped, it learns
/// what changed when it continues.
const SILENT: Duration = Duration::from_secs(30);
/// The row of a silent server is deleted after this time.
const SWEPT: Duration = Duration::from_secs(3600);

/// The rings of master keys that the running servers have. See [`Keys::rings`].
#[derive(Debug, Clone)]
pub struct MasterRings(Log);

impl Keys {
    /// The rings of master keys that the running servers have.
    pub fn rings(&self) -> MasterRings {
        MasterRings(self.log().clone())
    }
}

impl MasterRings {
    /// Replaces the ring. The new one must have all keys that are in use; its further keys are at
    /// hand from now on.
    pub async fn take(&self, ring: MasterKeys) -> Result<(), LogError> {
        let wanted = ring.clone();
        self.0
            .store()
            .run(async move |store: Store| check(&store, &wanted).await)
            .await?;
        if !self
            .0
            .keys()
            .change_masters(|was| ring.with_current(was.current()))
        {
            return Err(LogError::MasterKeyMissing {
                wanted: self.0.keys().masters().current().to_owned(),
            });
        }
        self.follow_current().await.map(drop)
    }

    /// The id of the current master key, which is the one that wraps the system's data key; any
    /// server may have rewrapped it. From now on this server wraps by it.
    pub async fn follow_current(&self) -> Result<String, LogError> {
        let read = async |store: Store| {
            let sql = "SELECT master_id FROM user_keys WHERE user_id = $1";
            let row = sqlx::query(sql)
                .bind(Uuid::nil().to_string())
                .fetch_one(store.reads())
                .await?;
            Ok(row.try_get::<String, _>("master_id")?)
        };
        let current = self.0.store().run(read).await?;
        let has_it = self
            .0
            .keys()
            .change_masters(|ring| ring.with_current(&current));
        self.0
            .keys()
            .set_lacking((!has_it).then(|| current.clone()));
        Ok(current)
    }

    /// Announces this server's keys to the others. An embedded store has no other server.
    pub async fn announce(&self, node: &str) -> Result<(), LogError> {
        let ids = self.0.keys().masters().ids().collect::<Vec<_>>().join(",");
        let node = node.to_owned();
        let tell = async move |store: Store| {
            if let Writing::Sqlite(..) = store.writing {
                return Ok(());
            }
            let mut tx = store.relaxed().await?;
            let sql = "INSERT INTO rings (node, master_ids, seen_at) VALUES ($1, $2, micros_now()) \
                 ON CONFLICT (node) DO UPDATE SET master_ids = excluded.master_ids, seen_at = excluded.seen_at";
            sqlx::query(sql)
                .bind(node)
                .bind(ids)
                .execute(&mut *tx)
                .await?;
            let sql = "DELETE FROM rings WHERE seen_at < micros_now() - $1";
            sqlx::query(sql)
                .bind(SWEPT.as_micros() as i64)
                .execute(&mut *tx)
                .await?;
            Ok(tx.commit().await?)
        };
        // Announced first, then looked up: of a server that starts and one that rotates, at least
        // one sees the other.
        let told = self.0.store().run(tell).await;
        self.follow_current().await?;
        told
    }

    /// Tells the other servers that this one stops.
    pub async fn withdraw(&self, node: &str) -> Result<(), LogError> {
        let node = node.to_owned();
        let withdraw = async move |store: Store| {
            let mut tx = store.relaxed().await?;
            sqlx::query("DELETE FROM rings WHERE node = $1")
                .bind(node)
                .execute(&mut *tx)
                .await?;
            Ok(tx.commit().await?)
        };
        self.0.store().run(withdraw).await
    }

    /// The running servers, and the ids of their master keys.
    pub async fn all(&self) -> Result<Vec<(String, Vec<String>)>, LogError> {
        let read = async |store: Store| {
            if let Writing::Sqlite(..) = store.writing {
                return Ok(vec![]);
            }
            let sql = "SELECT node, master_ids FROM rings WHERE seen_at > micros_now() - $1 ORDER BY node";
            let mut rings = Vec::new();
            for row in sqlx::query(sql)
                .bind(SILENT.as_micros() as i64)
                .fetch_all(store.reads())
                .await?
            {
                let ids: String = row.try_get("master_ids")?;
                rings.push((
                    row.try_get("node")?,
                    ids.split(',').map(str::to_owned).collect(),
                ));
            }
            Ok(rings)
        };
        self.0.store().run(read).await
    }

    /// Refuses when a running server lacks the key: that server could not read what the key wraps.
    pub(super) async fn none_lacks(&self, id: &str) -> Result<(), RotationError> {
        let rings = self.all().await?;
        let lacking: Vec<&str> = rings
            .iter()
            .filter(|(_, ids)| !ids.iter().any(|own| own == id))
            .map(|(node, _)| node.as_str())
            .collect();
        if !lacking.is_empty() {
            return Err(RotationError::Refused(format!(
                "these servers do not have master key `{id}`: {}; give it to them (a ring in a file is read again within seconds, \
                 one in the environment at a restart), then run this again; one that was killed is forgotten after {} s",
                lacking.join(", "),
                SILENT.as_secs()
            )));
        }
        Ok(())
    }
}
