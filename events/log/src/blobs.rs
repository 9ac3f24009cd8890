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
use genie_events::{BlobId, JobId, Timestamp, UserId, file::NewFile};
use serde::{Deserialize, Serialize};
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
const COLUMN: &str = "blobs.details";
const COLUMNS: &str = "id, user_id, details, size, media_type, job_id, created_at";

/// What is personal about a file, or tells its content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileDetails {
    pub name: String,
    /// The SHA-256 of the bytes, in hexadecimal.
    pub sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// In seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
}

/// The row to append with the fact that a file is stored.
pub fn row_of(
    id: BlobId,
    user: UserId,
    file: &NewFile,
    created_at: Timestamp,
    keys: &UserKeys,
) -> Work {
    let details = FileDetails {
        name: file.file_name.clone(),
        sha256: file.sha256.clone(),
        width: file.width,
        height: file.height,
        duration: file.duration,
    };
    let details =
        serde_json::to_string(&details).expect("details are text and numbers under text keys");
    Work::Blob(BlobRow::Put(BlobEntry {
        id,
        user,
        details: keys.seal_text(COLUMN, &details),
        size: file.bytes,
        media_type: file.mime.clone(),
        job: file.job,
        created_at,
    }))
}

/// The change to append with the fact that a file is removed.
pub fn doom(id: BlobId, user: UserId) -> Work {
    Work::Blob(BlobRow::Doom { id, user })
}

/// The row of a file that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub id: BlobId,
    pub user: UserId,
    details: Vec<u8>,
    pub size: u64,
    /// As in HTTP's `Content-Type`.
    pub media_type: String,
    /// The job that made the file.
    pub job: Option<JobId>,
    pub created_at: Timestamp,
}

impl Blob {
    pub fn details(&self, keys: &UserKeys) -> Result<FileDetails, LogError> {
        let damaged = |reason: &dyn std::fmt::Display| {
            LogError::Statement(format!(
                "the details of file {} are damaged: {reason}",
                self.id
            ))
        };
        let text = keys
            .open_text(COLUMN, &self.details)
            .map_err(|reason| damaged(&reason))?;
        serde_json::from_str(&text).map_err(|reason| damaged(&reason))
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
    let invalid = |error| sqlx::Error::Decode(Box::new(error));
    let id: String = row.try_get("id")?;
    let user: String = row.try_get("user_id")?;
    let job: Option<String> = row.try_get("job_id")?;
    Ok(Blob {
        id: id.parse().map_err(invalid)?,
        user: user.parse().map_err(invalid)?,
        details: row.try_get("details")?,
        size: row.try_get::<i64, _>("size")? as u64,
        media_type: row.try_get("media_type")?,
        job: job.map(|job| job.parse()).transpose().map_err(invalid)?,
        created_at: Timestamp(row.try_get("created_at")?),
    })
}

/// An upload that has begun and is no file yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BegunUpload {
    pub file: BlobId,
    pub user: UserId,
    /// Nobody goes on with it after that time.
    pub expires_at: Timestamp,
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
        let get = async move |store: Store| {
            let sql = format!("SELECT {COLUMNS} FROM blobs WHERE id = $1 AND state = 'kept'");
            let row = sqlx::query(&sql)
                .bind(id.to_string())
                .fetch_optional(store.reads())
                .await?;
            Ok(row.as_ref().map(read).transpose()?)
        };
        self.0.store().run(get).await
    }

    /// The kept files among these, at most [`ROWS_AT_ONCE`].
    pub async fn get_many(&self, ids: &[BlobId]) -> Result<Vec<Blob>, LogError> {
        if ids.is_empty() {
            return Ok(vec![]);
        }
        let ids: Vec<String> = ids.iter().map(BlobId::to_string).collect();
        let get = async move |store: Store| {
            let places: Vec<String> = (1..=ids.len()).map(|n| format!("${n}")).collect();
            let sql = format!(
                "SELECT {COLUMNS} FROM blobs WHERE id IN ({}) AND state = 'kept'",
                places.join(", ")
            );
            let query = ids
                .iter()
                .fold(sqlx::query(&sql), |query, id| query.bind(id));
            let rows = query.fetch_all(store.reads()).await?;
            Ok(rows.iter().map(read).collect::<Result<Vec<_>, _>>()?)
        };
        self.0.store().run(get).await
    }

    /// A user's kept files, the newest first, at most `limit`, after one of them.
    pub async fn of_user(
        &self,
        user: UserId,
        after: Option<(Timestamp, BlobId)>,
        limit: i64,
    ) -> Result<Vec<Blob>, LogError> {
        let list = async move |store: Store| {
            let sql = format!(
                "SELECT {COLUMNS} FROM blobs \
                 WHERE user_id = $1 AND state = 'kept' AND (created_at, id) < ($2, $3) \
                 ORDER BY created_at DESC, id DESC LIMIT $4"
            );
            let (at, id) =
                after.map_or((i64::MAX, String::new()), |(at, id)| (at.0, id.to_string()));
            let rows = sqlx::query(&sql)
                .bind(user.to_string())
                .bind(at)
                .bind(id)
                .bind(limit)
                .fetch_all(store.reads())
                .await?;
            Ok(rows.iter().map(read).collect::<Result<Vec<_>, _>>()?)
        };
        self.0.store().run(list).await
    }

    /// Kept files that jobs made before a time, the oldest first, after one of them; at most [`ROWS_AT_ONCE`].
    pub async fn outputs_before(
        &self,
        before: Timestamp,
        after: Option<(Timestamp, BlobId)>,
    ) -> Result<Vec<Blob>, LogError> {
        let list = async move |store: Store| {
            let sql = format!(
                "SELECT {COLUMNS} FROM blobs \
                 WHERE job_id IS NOT NULL AND state = 'kept' AND created_at < $1 AND (created_at, id) > ($2, $3) \
                 ORDER BY created_at, id LIMIT {ROWS_AT_ONCE}"
            );
            let (at, id) =
                after.map_or((i64::MIN, String::new()), |(at, id)| (at.0, id.to_string()));
            let rows = sqlx::query(&sql)
                .bind(before.0)
                .bind(at)
                .bind(id)
                .fetch_all(store.reads())
                .await?;
            Ok(rows.iter().map(read).collect::<Result<Vec<_>, _>>()?)
        };
        self.0.store().run(list).await
    }

    /// Notes an upload before its first bytes are stored. May be called again.
    pub async fn begin_upload(&self, begun: BegunUpload) -> Result<(), LogError> {
        let insert = async move |store: Store| {
            let sql = "INSERT INTO uploads (id, user_id, expires_at) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING";
            let mut tx = store.durable().await?;
            sqlx::query(sql)
                .bind(begun.file.to_string())
                .bind(begun.user.to_string())
                .bind(begun.expires_at.0)
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
            for sql in [
                "DELETE FROM resumable WHERE id = $1",
                "DELETE FROM uploads WHERE id = $1",
            ] {
                sqlx::query(sql)
                    .bind(file.to_string())
                    .execute(&mut *tx)
                    .await?;
            }
            Ok(tx.commit().await?)
        };
        self.0.store().run(delete).await
    }

    /// The uploads that expired before a time and have not ended, oldest first; at most
    /// [`ROWS_AT_ONCE`].
    pub async fn uploads_expired_before(
        &self,
        before: Timestamp,
    ) -> Result<Vec<BegunUpload>, LogError> {
        let read = async move |store: Store| {
            let sql = format!(
                "SELECT id, user_id, expires_at FROM uploads WHERE expires_at < $1 ORDER BY expires_at LIMIT {ROWS_AT_ONCE}"
            );
            let rows: Vec<(String, String, i64)> = sqlx::query_as(&sql)
                .bind(before.0)
                .fetch_all(store.reads())
                .await?;
            Ok(begun_uploads(rows))
        };
        self.0.store().run(read).await
    }

    /// A user's uploads expire at this time at the latest.
    pub async fn expire_uploads_of(&self, user: UserId, at: Timestamp) -> Result<(), LogError> {
        let change = async move |store: Store| {
            let mut tx = store.durable().await?;
            sqlx::query(
                "UPDATE uploads SET expires_at = $2 WHERE user_id = $1 AND expires_at > $2",
            )
            .bind(user.to_string())
            .bind(at.0)
            .execute(&mut *tx)
            .await?;
            Ok(tx.commit().await?)
        };
        self.0.store().run(change).await
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
                "SELECT id, user_id, expires_at FROM uploads WHERE user_id = $1 AND id > $2 ORDER BY id LIMIT {ROWS_AT_ONCE}"
            );
            let rows: Vec<(String, String, i64)> = sqlx::query_as(&sql)
                .bind(user.to_string())
                .bind(after.map(|id| id.to_string()).unwrap_or_default())
                .fetch_all(store.reads())
                .await?;
            Ok(begun_uploads(rows))
        };
        self.0.store().run(read).await
    }

    /// A user's doomed files, after one of them, in order of their ids; at most
    /// [`ROWS_AT_ONCE`].
    pub async fn doomed_of(
        &self,
        user: UserId,
        after: Option<BlobId>,
    ) -> Result<Vec<BlobId>, LogError> {
        let read = async move |store: Store| {
            let sql = format!(
                "SELECT id FROM blobs WHERE user_id = $1 AND state = 'doomed' AND id > $2 ORDER BY id LIMIT {ROWS_AT_ONCE}"
            );
            let rows: Vec<String> = sqlx::query_scalar(&sql)
                .bind(user.to_string())
                .bind(after.map(|id| id.to_string()).unwrap_or_default())
                .fetch_all(store.reads())
                .await?;
            Ok(rows.iter().filter_map(|id| id.parse().ok()).collect())
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

    /// Deletes the row of a doomed file. Call it after its bytes are deleted.
    pub async fn drop_doomed(&self, file: BlobId) -> Result<(), LogError> {
        let delete = async move |store: Store| {
            let mut tx = store.relaxed().await?;
            sqlx::query("DELETE FROM blobs WHERE id = $1 AND state = 'doomed'")
                .bind(file.to_string())
                .execute(&mut *tx)
                .await?;
            Ok(tx.commit().await?)
        };
        self.0.store().run(delete).await
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

fn begun_uploads(rows: Vec<(String, String, i64)>) -> Vec<BegunUpload> {
    let read = |(id, user, expires_at): (String, String, i64)| {
        Some(BegunUpload {
            file: id.parse().ok()?,
            user: user.parse().ok()?,
            expires_at: Timestamp(expires_at),
        })
    };
    rows.into_iter().filter_map(read).collect()
}

/// A new row. Its bytes are in the blob store by now.
#[derive(Debug, Clone)]
pub struct BlobEntry {
    id: BlobId,
    user: UserId,
    /// Sealed [`FileDetails`].
    details: Vec<u8>,
    size: u64,
    media_type: String,
    job: Option<JobId>,
    created_at: Timestamp,
}

/// A change of a file's row, in the transaction of the fact.
#[derive(Debug, Clone)]
pub enum BlobRow {
    /// See [`row_of`].
    Put(BlobEntry),
    /// See [`doom`].
    Doom { id: BlobId, user: UserId },
}

impl BlobRow {
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Put(entry) => json!({
                "t": "put_blob", "id": entry.id, "user_id": entry.user,
                "details": BASE64.encode(&entry.details), "size": entry.size,
                "media_type": entry.media_type, "job_id": entry.job,
                "created_at": entry.created_at,
            }),
            Self::Doom { id, user } => json!({"t": "doom_blob", "id": id, "user_id": user}),
        }
    }

    pub(crate) async fn write(&self, tx: &mut SqliteTx<'_>) -> Result<(), sqlx::Error> {
        match self {
            Self::Put(entry) => entry.write(tx).await,
            Self::Doom { id, user } => {
                sqlx::query("UPDATE blobs SET state = 'doomed' WHERE id = $1 AND user_id = $2")
                    .bind(id.to_string())
                    .bind(user.to_string())
                    .execute(&mut **tx)
                    .await
                    .map(drop)
            }
        }
    }
}

impl BlobEntry {
    async fn write(&self, tx: &mut SqliteTx<'_>) -> Result<(), sqlx::Error> {
        for sql in [
            "DELETE FROM uploads WHERE id = $1",
            "DELETE FROM resumable WHERE id = $1",
        ] {
            sqlx::query(sql)
                .bind(self.id.to_string())
                .execute(&mut **tx)
                .await?;
        }
        let sql = "INSERT INTO blobs (id, user_id, details, size, media_type, job_id, state, created_at) \
                   VALUES ($1, $2, $3, $4, $5, $6, 'kept', $7)";
        sqlx::query(sql)
            .bind(self.id.to_string())
            .bind(self.user.to_string())
            .bind(&self.details)
            .bind(self.size as i64)
            .bind(&self.media_type)
            .bind(self.job.map(|job| job.to_string()))
            .bind(self.created_at.0)
            .execute(&mut **tx)
            .await
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use genie_events::{
        Event, Metadata, StreamId, StreamKind,
        file::{FileEvent, RemovedBecause},
    };

    use super::*;
    use crate::{
        AppendRequest, Group, NewFact,
        testing::{TestStore, both_stores},
    };

    async fn keep(store: &TestStore, log: &Log, user: UserId, after: u64) -> BlobId {
        let id = BlobId(store.clock.new_uuid());
        let file = NewFile {
            file_name: "my diary.zip".into(),
            bytes: 7,
            mime: "application/zip".into(),
            sha256: "5ec2e7".into(),
            job: None,
            width: None,
            height: None,
            duration: Some(1.5),
        };
        let keys = log.keys().live(user).await.unwrap();
        let work = vec![row_of(id, user, &file, store.clock.now(), &keys)];
        append(log, user, after, FileEvent::Stored(file), id, work).await;
        id
    }

    async fn append(
        log: &Log,
        user: UserId,
        after: u64,
        event: FileEvent,
        id: BlobId,
        work: Vec<Work>,
    ) {
        let sequence = match &event {
            FileEvent::Stored(_) => 1,
            FileEvent::Removed { .. } => 2,
        };
        let fact = NewFact {
            stream: StreamId::new(StreamKind::File, id),
            sequence,
            event: Event::File(event),
        };
        let request = AppendRequest {
            groups: vec![Group::of_user(user, after, vec![fact])],
            work,
            metadata: Metadata::system(),
            remember: None,
        };
        crate::testing::append(log, request).await.unwrap();
    }

    both_stores!(
        a_row_comes_with_its_fact_and_goes_after_its_bytes,
        async |store: TestStore| {
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            let bob = store.register(&log, "bob").await;
            let hers = keep(&store, &log, ada, 1).await;
            let his = keep(&store, &log, bob, 1).await;
            let table = log.blobs();
            let found = table.get(hers).await.unwrap().unwrap();
            let details = found.details(&log.keys().live(ada).await.unwrap()).unwrap();
            assert_eq!((found.user, found.size), (ada, 7));
            assert_eq!(
                (details.name.as_str(), details.duration),
                ("my diary.zip", Some(1.5))
            );
            assert!(found.details(&log.keys().live(bob).await.unwrap()).is_err());
            assert!(!store.holds("diary").await && !store.holds("5ec2e7").await);

            table.doom_of_user(ada).await.unwrap();
            assert_eq!(table.get(hers).await.unwrap(), None);
            assert_eq!(table.doomed_owners().await.unwrap(), [ada]);
            let nobodys = BlobId(store.clock.new_uuid());
            let all = vec![hers, his, nobodys];
            let known = table.known(all.clone()).await.unwrap();
            let known_until_then = HashSet::from([hers, his]);
            assert_eq!(known, known_until_then, "until its bytes are deleted");
            for file in &all {
                table.drop_doomed(*file).await.unwrap();
            }
            let known = table.known(all.clone()).await.unwrap();
            assert_eq!(known, HashSet::from([his]));
            assert_eq!(table.get_many(&all).await.unwrap().len(), 1);
        }
    );

    both_stores!(
        the_newest_files_are_listed_first_and_a_removed_one_not_at_all,
        async |store: TestStore| {
            let log = store.open().await.log;
            let ada = store.register(&log, "ada").await;
            let table = log.blobs();
            let mut ids = Vec::new();
            for after in 1..=3 {
                ids.push(keep(&store, &log, ada, after).await);
                store.clock.advance_millis(i64::from(after != 2)); // two of one moment
            }
            let of_one_moment = [ids[1].max(ids[2]), ids[1].min(ids[2])];
            let newest = [of_one_moment[0], of_one_moment[1], ids[0]];
            let mut listed = Vec::new();
            let mut after = None;
            loop {
                let page = table.of_user(ada, after, 2).await.unwrap();
                let Some(last) = page.last() else { break };
                after = Some((last.created_at, last.id));
                listed.extend(page.iter().map(|blob| blob.id));
            }
            assert_eq!(listed, newest);

            let removed = FileEvent::Removed {
                bytes: 7,
                reason: RemovedBecause::Asked,
            };
            let bob = store.register(&log, "bob").await;
            let foreign = vec![doom(ids[0], bob), doom(ids[1], ada)];
            append(&log, ada, 4, removed, ids[1], foreign).await;
            let left = table.of_user(ada, None, 9).await.unwrap();
            let left: Vec<BlobId> = left.iter().map(|blob| blob.id).collect();
            assert_eq!(left, [ids[2], ids[0]], "a doomed one, and no other owner's");
            assert_eq!(table.doomed_of(ada, None).await.unwrap(), [ids[1]]);
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
