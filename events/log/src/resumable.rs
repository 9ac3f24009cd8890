//! A working table: uploads that their client may break off and go on with. A row says how many bytes are durable; the
//! bytes are in the blob store. See `uploads` in [`crate::blobs`], whose row says when nobody goes on any more.
//!
//! Invariant: only the holder of the newest turn moves an upload on. So an older request that hangs, on whichever
//! server, changes nothing after a newer one has begun.

use genie_events::{BlobId, Timestamp, UserId};
use sqlx::{Row, any::AnyRow};

use crate::{Log, LogError, UserKeys, encryption::Place, store::Store};

const NAME: &str = "resumable.name";
const COLUMNS: &str = "id, user_id, length, stored, turn, tail_turn, name, hash, created_at";

/// An upload that is announced.
#[derive(Debug, Clone)]
pub struct NewResumable {
    pub id: BlobId,
    pub user: UserId,
    /// The bytes of the whole file.
    pub length: u64,
    /// Personal.
    pub name: String,
    pub expires_at: Timestamp,
}

/// How far an upload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumable {
    pub id: BlobId,
    pub user: UserId,
    /// The bytes of the whole file.
    pub length: u64,
    /// The bytes that are durable.
    pub stored: u64,
    pub turn: u64,
    /// The turn that wrote the bytes behind the last whole part.
    pub tail_turn: u64,
    name: Vec<u8>,
    hash: Vec<u8>,
    pub created_at: Timestamp,
}

/// A step of an upload.
#[derive(Debug, Clone)]
pub struct Advance {
    pub id: BlobId,
    pub turn: u64,
    /// The bytes that are durable from now on.
    pub stored: u64,
    /// Sealed by [`seal_hash`].
    pub hash: Vec<u8>,
}

/// A user's uploads that are not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingUploads {
    pub count: u64,
    /// The bytes that they will have together.
    pub bytes: u64,
}

/// Seals the state of the hash of an upload's whole parts. It tells something of the content.
pub fn seal_hash(keys: &UserKeys, id: BlobId, parts: u64, state: &[u8]) -> Vec<u8> {
    keys.payload().seal(state, &hash_place(id, parts))
}

fn hash_place(id: BlobId, parts: u64) -> Place {
    Place::new(&["resumable hash v1", &id.to_string(), &parts.to_string()])
}

impl Resumable {
    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let invalid = |error| sqlx::Error::Decode(Box::new(error));
        let id: String = row.try_get("id")?;
        let user: String = row.try_get("user_id")?;
        let number = |column| row.try_get::<i64, _>(column).map(|number| number as u64);
        Ok(Self {
            id: id.parse().map_err(invalid)?,
            user: user.parse().map_err(invalid)?,
            length: number("length")?,
            stored: number("stored")?,
            turn: number("turn")?,
            tail_turn: number("tail_turn")?,
            name: row.try_get("name")?,
            hash: row.try_get("hash")?,
            created_at: Timestamp(row.try_get("created_at")?),
        })
    }

    pub fn name(&self, keys: &UserKeys) -> Result<String, LogError> {
        keys.open_text(NAME, &self.name)
            .map_err(|reason| self.damaged(&reason))
    }

    /// The state of the hash of so many whole parts.
    pub fn hash(&self, keys: &UserKeys, parts: u64) -> Result<Vec<u8>, LogError> {
        let opened = keys
            .payload()
            .open(&self.hash, &hash_place(self.id, parts))
            .map_err(|reason| self.damaged(&reason))?;
        Ok(opened.to_vec())
    }

    fn damaged(&self, reason: &dyn std::fmt::Display) -> LogError {
        LogError::Statement(format!(
            "the row of upload {} is damaged: {reason}",
            self.id
        ))
    }
}

/// Uploads that may be gone on with. See [`Log::resumable`].
#[derive(Debug, Clone)]
pub struct ResumableTable(Log);

impl Log {
    /// Uploads that may be gone on with.
    pub fn resumable(&self) -> ResumableTable {
        ResumableTable(self.clone())
    }
}

impl ResumableTable {
    /// Notes an upload before its first bytes. `hash` is the sealed state of no bytes.
    pub async fn begin(
        &self,
        new: NewResumable,
        hash: Vec<u8>,
        keys: &UserKeys,
    ) -> Result<(), LogError> {
        let name = keys.seal_text(NAME, &new.name);
        let now = self.0.clock().now();
        let insert = async move |store: Store| {
            let mut tx = store.durable().await?;
            sqlx::query("INSERT INTO uploads (id, user_id, expires_at) VALUES ($1, $2, $3)")
                .bind(new.id.to_string())
                .bind(new.user.to_string())
                .bind(new.expires_at.0)
                .execute(&mut *tx)
                .await?;
            let sql = "INSERT INTO resumable (id, user_id, length, stored, turn, tail_turn, name, hash, created_at) \
                       VALUES ($1, $2, $3, 0, 0, 0, $4, $5, $6)";
            sqlx::query(sql)
                .bind(new.id.to_string())
                .bind(new.user.to_string())
                .bind(new.length as i64)
                .bind(name)
                .bind(hash)
                .bind(now.0)
                .execute(&mut *tx)
                .await?;
            Ok(tx.commit().await?)
        };
        self.0.store().run(insert).await
    }

    /// A user's upload that is not finished.
    pub async fn get(&self, user: UserId, id: BlobId) -> Result<Option<Resumable>, LogError> {
        let get = async move |store: Store| {
            let sql = format!("SELECT {COLUMNS} FROM resumable WHERE id = $1 AND user_id = $2");
            let row = sqlx::query(&sql)
                .bind(id.to_string())
                .bind(user.to_string())
                .fetch_optional(store.reads())
                .await?;
            Ok(row.as_ref().map(Resumable::read).transpose()?)
        };
        self.0.store().run(get).await
    }

    /// Takes the next turn of an upload, which ends the one before, and lets the upload expire later. `None` when the
    /// user has no such upload.
    pub async fn take_turn(
        &self,
        user: UserId,
        id: BlobId,
        expires_at: Timestamp,
    ) -> Result<Option<Resumable>, LogError> {
        let take = async move |store: Store| {
            let mut tx = store.relaxed().await?;
            let sql = format!(
                "UPDATE resumable SET turn = turn + 1 WHERE id = $1 AND user_id = $2 RETURNING {COLUMNS}"
            );
            let row = sqlx::query(&sql)
                .bind(id.to_string())
                .bind(user.to_string())
                .fetch_optional(&mut *tx)
                .await?;
            let taken = row.as_ref().map(Resumable::read).transpose()?;
            sqlx::query("UPDATE uploads SET expires_at = $2 WHERE id = $1 AND user_id = $3")
                .bind(id.to_string())
                .bind(expires_at.0)
                .bind(user.to_string())
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(taken)
        };
        self.0.store().run(take).await
    }

    /// Notes whole parts that are durable. False when a newer turn was taken, or the upload is over.
    pub async fn advance(&self, step: Advance) -> Result<bool, LogError> {
        let sql = "UPDATE resumable SET stored = $3, hash = $4 WHERE id = $1 AND turn = $2";
        self.move_on(sql, step).await
    }

    /// The same with bytes behind the last whole part, which this turn wrote.
    pub async fn advance_with_tail(&self, step: Advance) -> Result<bool, LogError> {
        let sql = "UPDATE resumable SET stored = $3, hash = $4, tail_turn = turn WHERE id = $1 AND turn = $2";
        self.move_on(sql, step).await
    }

    /// Not flushed: after a power cut an upload may be less far than its client was told, and the client asks.
    async fn move_on(&self, sql: &'static str, step: Advance) -> Result<bool, LogError> {
        let change = async move |store: Store| {
            let mut tx = store.relaxed().await?;
            let changed = sqlx::query(sql)
                .bind(step.id.to_string())
                .bind(step.turn as i64)
                .bind(step.stored as i64)
                .bind(&step.hash)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(changed.rows_affected() == 1)
        };
        self.0.store().run(change).await
    }

    /// Ends an upload. Its bytes are the sweep's from then on, or the caller's.
    pub async fn end(&self, user: UserId, id: BlobId) -> Result<bool, LogError> {
        let end = async move |store: Store| {
            let mut tx = store.durable().await?;
            let sql = "DELETE FROM resumable WHERE id = $1 AND user_id = $2";
            let ended = sqlx::query(sql)
                .bind(id.to_string())
                .bind(user.to_string())
                .execute(&mut *tx)
                .await?;
            sqlx::query("UPDATE uploads SET expires_at = 0 WHERE id = $1 AND user_id = $2")
                .bind(id.to_string())
                .bind(user.to_string())
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(ended.rows_affected() == 1)
        };
        self.0.store().run(end).await
    }

    pub async fn pending(&self, user: UserId) -> Result<PendingUploads, LogError> {
        let sum = async move |store: Store| {
            let sql = "SELECT count(*), CAST(coalesce(sum(length), 0) AS bigint) FROM resumable WHERE user_id = $1";
            let (count, bytes): (i64, i64) = sqlx::query_as(sql)
                .bind(user.to_string())
                .fetch_one(store.reads())
                .await?;
            Ok(PendingUploads {
                count: count as u64,
                bytes: bytes as u64,
            })
        };
        self.0.store().run(sum).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestStore, both_stores};

    both_stores!(
        only_the_newest_turn_moves_an_upload_on,
        async |store: TestStore| {
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            let bob = store.register(&log, "bob").await;
            let keys = log.keys().live(ada).await.unwrap();
            let table = log.resumable();
            let id = BlobId(store.clock.new_uuid());
            let expires_at = store.clock.now();
            let new = NewResumable {
                id,
                user: ada,
                length: 9,
                name: "my film.mp4".into(),
                expires_at,
            };
            let hash = seal_hash(&keys, id, 0, b"none");
            table.begin(new, hash, &keys).await.unwrap();
            let later = expires_at.plus_millis(1000);
            assert_eq!(table.take_turn(bob, id, later).await.unwrap(), None);
            let first = table.take_turn(ada, id, later).await.unwrap().unwrap();
            assert_eq!((first.turn, first.stored, first.length), (1, 0, 9));
            assert_eq!(first.name(&keys).unwrap(), "my film.mp4");
            assert_eq!(first.hash(&keys, 0).unwrap(), b"none");
            assert!(first.hash(&keys, 1).is_err(), "of other bytes");
            assert!(!store.holds("film").await);

            let step = |turn, stored| Advance {
                id,
                turn,
                stored,
                hash: seal_hash(&keys, id, 0, b"some"),
            };
            assert!(table.advance_with_tail(step(1, 4)).await.unwrap());
            let second = table.take_turn(ada, id, later).await.unwrap().unwrap();
            assert_eq!((second.turn, second.stored, second.tail_turn), (2, 4, 1));
            assert!(!table.advance(step(1, 6)).await.unwrap(), "taken over");
            assert!(table.advance(step(2, 5)).await.unwrap());
            assert_eq!(table.get(ada, id).await.unwrap().unwrap().stored, 5);
            let pending = PendingUploads { count: 1, bytes: 9 };
            assert_eq!(table.pending(ada).await.unwrap(), pending);
            assert_eq!(table.pending(bob).await.unwrap().count, 0);
            assert!(
                log.blobs()
                    .uploads_expired_before(later)
                    .await
                    .unwrap()
                    .is_empty()
            );
            assert!(!table.end(bob, id).await.unwrap() && table.end(ada, id).await.unwrap());
            assert_eq!(table.get(ada, id).await.unwrap(), None);
            let expired = log.blobs().uploads_expired_before(later).await.unwrap();
            assert_eq!(expired.len(), 1, "its bytes are still to be deleted");
        }
    );
}
