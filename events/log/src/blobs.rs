//! Uploaded files: their rows, and the sealing of their bytes. A blob store holds the bytes, cut
//! into parts of `PART` bytes. Each part is sealed separately under the user's key, so that any
//! part can be read alone.
//!
//! Invariant: a file exists when its row does, and the row is written in the append of the fact
//! that refers to the file. Bytes without a row belong to nobody. An upload has a row of its own from
//! before its first bytes until it is a file or its bytes are deleted, so no bytes are ever lost
//! sight of. Forgetting goes the other way: the row is doomed first, and deleted after the bytes.

use std::collections::HashSet;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use genie_events::{BlobId, Timestamp, UserId};
use serde_json::{Value, json};
use sqlx::{Row, any::AnyRow};
use zeroize::Zeroizing;

use crate::{
    Log, LogError, UserKeys, Work,
    append_sqlite::SqliteTx,
    encryption::{CantOpen, Place},
    store::Store,
};

/// The bytes that are sealed at once; every part but the last has this size.
pub const PART: usize = 1 << 20;
/// The most rows that one call looks up or ends.
pub const ROWS_AT_ONCE: usize = 500;
const COLUMN: &str = "blobs.name";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBlob {
    pub id: BlobId,
    pub user: UserId,
    /// The name that the user gave the file; personal.
    pub name: String,
    pub size: u64,
    /// As in HTTP's `Content-Type`.
    pub media_type: String,
    pub created_at: Timestamp,
}

impl NewBlob {
    /// The row to append with the fact that refers to the file.
    pub fn row(&self, keys: &UserKeys) -> Work {
        Work::Blob(BlobRow::Put {
            id: self.id,
            user: self.user,
            name: keys.seal_text(COLUMN, &self.name),
            size: self.size,
            media_type: self.media_type.clone(),
            created_at: self.created_at,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub id: BlobId,
    pub user: UserId,
    name: Vec<u8>,
    pub size: u64,
    /// As in HTTP's `Content-Type`.
    pub media_type: String,
    pub created_at: Timestamp,
}

impl Blob {
    /// The name that the user gave the file.
    pub fn name(&self, keys: &UserKeys) -> Result<String, LogError> {
        let damaged = |reason| {
            LogError::Statement(format!("the name of file {} is damaged: {reason}", self.id))
        };
        keys.open_text(COLUMN, &self.name).map_err(damaged)
    }
}

/// The number of parts of a file. An empty file has one part, too: it says that nothing follows.
pub fn parts_of(size: u64) -> u64 {
    size.div_ceil(PART as u64).max(1)
}

/// Seals a part of a file. It is bound to the file, its number, and whether it is the last, so no
/// part can be moved, left out or cut off.
pub fn seal_part(
    keys: &UserKeys,
    file: BlobId,
    number: u64,
    is_last: bool,
    bytes: &[u8],
) -> Vec<u8> {
    keys.payload()
        .seal(bytes, &part_place(file, number, is_last))
}

/// Opens a part that was sealed for this place in this file.
pub fn open_part(
    keys: &UserKeys,
    file: BlobId,
    number: u64,
    is_last: bool,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CantOpen> {
    keys.payload()
        .open(sealed, &part_place(file, number, is_last))
}

fn part_place(file: BlobId, number: u64, is_last: bool) -> Place {
    Place::new(&[
        "blob v1",
        &file.to_string(),
        &number.to_string(),
        if is_last { "last" } else { "more" },
    ])
}

fn read(row: &AnyRow) -> Result<Blob, sqlx::Error> {
    let id: String = row.try_get("id")?;
    let user: String = row.try_get("user_id")?;
    Ok(Blob {
        id: id
            .parse()
            .map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        user: user
            .parse()
            .map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        name: row.try_get("name")?,
        size: row.try_get::<i64, _>("size")? as u64,
        media_type: row.try_get("media_type")?,
        created_at: Timestamp(row.try_get("created_at")?),
    })
}

/// An upload that has begun and is no file yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BegunUpload {
    pub file: BlobId,
    pub user: UserId,
}

/// The rows of uploaded files; their bytes are in the blob store. See [`Log::blobs`].
#[derive(Debug, Clone)]
pub struct BlobTable(Log);

impl Log {
    /// The rows of uploaded files; their bytes are in the blob store.
    pub fn blobs(&self) -> BlobTable {
        BlobTable(self.clone())
    }
}

impl BlobTable {
    /// A kept file; `None` when it never existed or is doomed.
    pub async fn get(&self, id: BlobId) -> Result<Option<Blob>, LogError> {
        self.0.store()
            .run(async move |store: Store| {
                let sql = "SELECT id, user_id, name, size, media_type, created_at FROM blobs WHERE id = $1 AND state = 'kept'";
                let row = sqlx::query(sql).bind(id.to_string()).fetch_optional(store.reads()).await?;
                Ok(row.as_ref().map(read).transpose()?)
            })
            .await
    }

    /// A user's kept files in order of their ids, at most `limit`, after one of them.
    pub async fn of_user(
        &self,
        user: UserId,
        after: Option<BlobId>,
        limit: i64,
    ) -> Result<Vec<Blob>, LogError> {
        self.0
            .store()
            .run(async move |store: Store| {
                let sql = "SELECT id, user_id, name, size, media_type, created_at FROM blobs \
                           WHERE user_id = $1 AND state = 'kept' AND id > $2 ORDER BY id LIMIT $3";
                let after = after.map(|id| id.to_string()).unwrap_or_default();
                let rows = sqlx::query(sql)
                    .bind(user.to_string())
                    .bind(after)
                    .bind(limit)
                    .fetch_all(store.reads())
                    .await?;
                Ok(rows.iter().map(read).collect::<Result<Vec<_>, _>>()?)
            })
            .await
    }

    /// The size of all kept files of a user.
    pub async fn kept_bytes(&self, user: UserId) -> Result<u64, LogError> {
        self.0.store()
            .run(async move |store: Store| {
                let sql = "SELECT CAST(coalesce(sum(size), 0) AS bigint) FROM blobs WHERE user_id = $1 AND state = 'kept'";
                let bytes: i64 = sqlx::query_scalar(sql).bind(user.to_string()).fetch_one(store.reads()).await?;
                Ok(bytes as u64)
            })
            .await
    }

    /// Notes an upload before its first bytes are stored. May be called again.
    pub async fn begin_upload(&self, begun: BegunUpload) -> Result<(), LogError> {
        let now = self.0.clock().now();
        let insert = async move |store: Store| {
            let sql = "INSERT INTO uploads (id, user_id, begun_at) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING";
            let mut tx = store.durable().await?;
            sqlx::query(sql)
                .bind(begun.file.to_string())
                .bind(begun.user.to_string())
                .bind(now.0)
                .execute(&mut *tx)
                .await?;
            Ok(tx.commit().await?)
        };
        self.0.store().run(insert).await
    }

    /// Strikes an upload out whose bytes are deleted, or that became a file.
    pub async fn end_upload(&self, file: BlobId) -> Result<(), LogError> {
        let delete = async move |store: Store| {
            let mut tx = store.relaxed().await?;
            sqlx::query("DELETE FROM uploads WHERE id = $1")
                .bind(file.to_string())
                .execute(&mut *tx)
                .await?;
            Ok(tx.commit().await?)
        };
        self.0.store().run(delete).await
    }

    /// The uploads that began before a time and have not ended, oldest first; at most
    /// [`ROWS_AT_ONCE`].
    pub async fn uploads_begun_before(
        &self,
        before: Timestamp,
    ) -> Result<Vec<BegunUpload>, LogError> {
        let read = async move |store: Store| {
            let sql = format!(
                "SELECT id, user_id FROM uploads WHERE begun_at < $1 ORDER BY begun_at LIMIT {ROWS_AT_ONCE}"
            );
            let rows: Vec<(String, String)> = sqlx::query_as(&sql)
                .bind(before.0)
                .fetch_all(store.reads())
                .await?;
            Ok(begun_uploads(rows))
        };
        self.0.store().run(read).await
    }

    /// The uploads that a user began and that have not ended, after one of them, in order of their
    /// ids; at most [`ROWS_AT_ONCE`].
    pub async fn uploads_of(
        &self,
        user: UserId,
        after: Option<BlobId>,
    ) -> Result<Vec<BegunUpload>, LogError> {
        let read = async move |store: Store| {
            let sql = format!(
                "SELECT id, user_id FROM uploads WHERE user_id = $1 AND id > $2 ORDER BY id LIMIT {ROWS_AT_ONCE}"
            );
            let rows: Vec<(String, String)> = sqlx::query_as(&sql)
                .bind(user.to_string())
                .bind(after.map(|id| id.to_string()).unwrap_or_default())
                .fetch_all(store.reads())
                .await?;
            Ok(begun_uploads(rows))
        };
        self.0.store().run(read).await
    }

    /// A user's doomed files with their sizes, after one of them, in order of their ids; at most
    /// [`ROWS_AT_ONCE`].
    pub async fn doomed_of(
        &self,
        user: UserId,
        after: Option<BlobId>,
    ) -> Result<Vec<(BlobId, u64)>, LogError> {
        let read = async move |store: Store| {
            let sql = format!(
                "SELECT id, size FROM blobs WHERE user_id = $1 AND state = 'doomed' AND id > $2 ORDER BY id LIMIT {ROWS_AT_ONCE}"
            );
            let rows: Vec<(String, i64)> = sqlx::query_as(&sql)
                .bind(user.to_string())
                .bind(after.map(|id| id.to_string()).unwrap_or_default())
                .fetch_all(store.reads())
                .await?;
            let read = |(id, size): (String, i64)| Some((id.parse().ok()?, size as u64));
            Ok(rows.into_iter().filter_map(read).collect())
        };
        self.0.store().run(read).await
    }

    /// The files among these that have a row, doomed ones included. At most [`ROWS_AT_ONCE`] may be
    /// asked for.
    pub async fn known(&self, ids: Vec<BlobId>) -> Result<HashSet<BlobId>, LogError> {
        if ids.is_empty() {
            return Ok(HashSet::new());
        }
        self.0
            .store()
            .run(async move |store: Store| {
                let places: Vec<String> = (1..=ids.len()).map(|n| format!("${n}")).collect();
                let sql = format!("SELECT id FROM blobs WHERE id IN ({})", places.join(", "));
                let query = ids.iter().fold(sqlx::query_scalar(&sql), |query, id| {
                    query.bind(id.to_string())
                });
                let found: Vec<String> = query.fetch_all(store.reads()).await?;
                Ok(found.iter().filter_map(|id| id.parse().ok()).collect())
            })
            .await
    }

    /// From now on nobody can read this user's files. The rows stay until
    /// [`BlobTable::drop_doomed`], so that a crash in between leaves a note of the bytes to be
    /// deleted.
    pub async fn doom_of_user(&self, user: UserId) -> Result<(), LogError> {
        self.change("UPDATE blobs SET state = 'doomed' WHERE user_id = $1", user)
            .await
    }

    /// Owners of doomed files, whose bytes may still exist; at most [`ROWS_AT_ONCE`] of them.
    pub async fn doomed_owners(&self) -> Result<Vec<UserId>, LogError> {
        self.0
            .store()
            .run(async move |store: Store| {
                let sql = format!(
                    "SELECT DISTINCT user_id FROM blobs WHERE state = 'doomed' LIMIT {ROWS_AT_ONCE}"
                );
                let found: Vec<String> = sqlx::query_scalar(&sql).fetch_all(store.reads()).await?;
                Ok(found.iter().filter_map(|user| user.parse().ok()).collect())
            })
            .await
    }

    /// Deletes the rows of this user's doomed files. Call it after their bytes are deleted.
    pub async fn drop_doomed(&self, user: UserId) -> Result<(), LogError> {
        self.change(
            "DELETE FROM blobs WHERE user_id = $1 AND state = 'doomed'",
            user,
        )
        .await
    }

    async fn change(&self, sql: &'static str, user: UserId) -> Result<(), LogError> {
        self.0
            .store()
            .run(async move |store: Store| {
                let mut tx = store.durable().await?;
                sqlx::query(sql)
                    .bind(user.to_string())
                    .execute(&mut *tx)
                    .await?;
                Ok(tx.commit().await?)
            })
            .await
    }
}

fn begun_uploads(rows: Vec<(String, String)>) -> Vec<BegunUpload> {
    let read = |(id, user): (String, String)| {
        Some(BegunUpload {
            file: id.parse().ok()?,
            user: user.parse().ok()?,
        })
    };
    rows.into_iter().filter_map(read).collect()
}

/// A file's row, in the transaction of the fact that refers to it.
#[derive(Debug, Clone)]
pub enum BlobRow {
    /// An uploaded file, whose bytes are in the blob store by now; see [`NewBlob`].
    Put {
        id: BlobId,
        user: UserId,
        /// Its sealed name.
        name: Vec<u8>,
        size: u64,
        media_type: String,
        created_at: Timestamp,
    },
}

impl BlobRow {
    pub(crate) fn json(&self) -> Value {
        let Self::Put {
            id,
            user,
            name,
            size,
            media_type,
            created_at,
        } = self;
        json!({
            "t": "put_blob", "id": id, "user_id": user, "name": BASE64.encode(name), "size": size,
            "media_type": media_type, "created_at": created_at,
        })
    }

    pub(crate) async fn write(&self, tx: &mut SqliteTx<'_>) -> Result<(), sqlx::Error> {
        let Self::Put {
            id,
            user,
            name,
            size,
            media_type,
            created_at,
        } = self;
        sqlx::query("DELETE FROM uploads WHERE id = $1")
            .bind(id.to_string())
            .execute(&mut **tx)
            .await?;
        let sql = "INSERT INTO blobs (id, user_id, name, size, media_type, state, created_at) \
                   VALUES ($1, $2, $3, $4, $5, 'kept', $6)";
        sqlx::query(sql)
            .bind(id.to_string())
            .bind(user.to_string())
            .bind(name)
            .bind(*size as i64)
            .bind(media_type)
            .bind(created_at.0)
            .execute(&mut **tx)
            .await
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use genie_events::{Event, Metadata, StreamId, StreamKind, account::AccountEvent};

    use super::*;
    use crate::{
        AppendRequest, Group, NewFact,
        testing::{TestStore, both_stores},
    };

    async fn keep(store: &TestStore, log: &Log, user: UserId, after: u64) -> NewBlob {
        let id = BlobId(store.clock.new_uuid());
        let created_at = store.clock.now();
        let blob = NewBlob {
            id,
            user,
            name: "my diary.zip".into(),
            size: 7,
            media_type: "application/zip".into(),
            created_at,
        };
        let stream = StreamId::new(StreamKind::Account, user);
        let fact = NewFact {
            stream,
            sequence: after + 1,
            event: Event::Account(AccountEvent::SignedIn),
        };
        let work = vec![blob.row(&log.keys().live(user).await.unwrap())];
        let groups = vec![Group::of_user(user, after, vec![fact])];
        crate::testing::append(
            log,
            AppendRequest {
                groups,
                work,
                metadata: Metadata::system(),
                remember: None,
            },
        )
        .await
        .unwrap();
        blob
    }

    both_stores!(
        a_row_comes_with_its_fact_and_goes_after_its_bytes,
        async |store: TestStore| {
            let log = store.open().await.log;
            let (ada, bob) = (
                store.register(&log, "ada").await,
                store.register(&log, "bob").await,
            );
            let (hers, his) = (
                keep(&store, &log, ada, 1).await,
                keep(&store, &log, bob, 1).await,
            );
            let found = log.blobs().get(hers.id).await.unwrap().unwrap();
            let name = found.name(&log.keys().live(ada).await.unwrap()).unwrap();
            assert_eq!(
                (found.user, name.as_str(), found.size, found.created_at),
                (ada, "my diary.zip", 7, hers.created_at)
            );
            assert!(found.name(&log.keys().live(bob).await.unwrap()).is_err());
            assert_eq!(
                log.blobs().of_user(ada, None, 10).await.unwrap(),
                std::slice::from_ref(&found)
            );
            assert_eq!(
                log.blobs().of_user(ada, Some(hers.id), 10).await.unwrap(),
                []
            );
            assert!(!store.holds("diary").await);

            log.blobs().doom_of_user(ada).await.unwrap();
            assert_eq!(log.blobs().get(hers.id).await.unwrap(), None);
            assert_eq!(log.blobs().doomed_owners().await.unwrap(), [ada]);
            let nobodys = BlobId(store.clock.new_uuid());
            let known = log
                .blobs()
                .known(vec![hers.id, his.id, nobodys])
                .await
                .unwrap();
            assert_eq!(
                known,
                HashSet::from([hers.id, his.id]),
                "a doomed file stays known until its bytes are deleted"
            );
            for user in [ada, bob] {
                log.blobs().drop_doomed(user).await.unwrap();
            }
            assert_eq!(
                log.blobs().known(vec![hers.id, his.id]).await.unwrap(),
                HashSet::from([his.id])
            );
            assert!(log.blobs().get(his.id).await.unwrap().is_some());
        }
    );

    #[test]
    fn a_part_opens_in_its_own_place_only() {
        let ring = crate::MasterKeys::parse(&crate::MasterKeys::generate()).unwrap();
        let of = |n| {
            ring.new_data_key(uuid::Uuid::from_u128(n), uuid::Uuid::from_u128(n))
                .0
                .payload()
        };
        let keys = of(1);
        let file = BlobId(uuid::Uuid::from_u128(8));
        let other = BlobId(uuid::Uuid::from_u128(9));
        let sealed = seal_part(&keys, file, 3, false, b"bytes");
        assert_eq!(
            open_part(&keys, file, 3, false, &sealed)
                .unwrap()
                .as_slice(),
            b"bytes"
        );
        assert!(
            open_part(&keys, file, 3, true, &sealed).is_err(),
            "the parts after it were cut off"
        );
        assert!(open_part(&keys, file, 2, false, &sealed).is_err(), "moved");
        assert!(
            open_part(&keys, other, 3, false, &sealed).is_err(),
            "of another file"
        );
        assert!(
            open_part(&of(2), file, 3, false, &sealed).is_err(),
            "of another user"
        );
    }

    #[test]
    fn even_an_empty_file_has_a_last_part() {
        let part = PART as u64;
        assert_eq!(
            [0, 1, part, part + 1, 2 * part].map(parts_of),
            [1, 1, 1, 2, 2]
        );
    }
}
