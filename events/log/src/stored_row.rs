//! A row of the log as stored, the digest over it, and the fact inside.

use std::{borrow::Cow, collections::BTreeMap, sync::OnceLock};

use genie_events::{
    Event, EventId, Metadata, StreamId, StreamKind, Timestamp, UserId, account::FORGOTTEN,
};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::{Row, any::AnyRow};
use uuid::Uuid;

use crate::{LogError, encryption::Place, keys::UserKeys};

/// A row of `events`, with its columns in the table's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// Dense, in commit order; 0 before the append.
    pub position: u64,
    /// A user, or the owner made for a stream of the system.
    pub owner: Uuid,
    /// The number among the owner's events, from 1.
    pub owner_seq: u64,
    /// The stream's id as stored. It is unique among all kinds of streams.
    pub stream: Uuid,
    /// The number in the stream, from 1.
    pub sequence: u64,
    /// The code of the stream's kind; see [`StreamKind::code`].
    pub kind: i16,
    /// Such as `job.submitted`.
    pub event_type: Cow<'static, str>,
    pub event_version: i16,
    pub event_id: Uuid,
    /// Stable hash of the owner, 0..1023.
    pub slice: u16,
    /// When it was written, by the writer's clock.
    pub recorded_at: Timestamp,
    /// SHA-256 over all other columns except the position.
    pub digest: Vec<u8>,
    /// [`Metadata`], as JSON text.
    pub metadata: String,
    /// The event's JSON, sealed.
    pub payload: Vec<u8>,
    /// Whether the digest is that of the other columns, once somebody looked.
    pub digest_check: DigestCheck,
}

/// The outcome of the check of a row's digest. Many follow the log and share its rows in memory, and the first
/// checks for all. A copy of a row, which may be changed, is checked anew.
#[derive(Debug, Default)]
pub struct DigestCheck(OnceLock<bool>);

impl DigestCheck {
    /// For a row whose digest was computed from it.
    pub(crate) fn good() -> Self {
        Self(OnceLock::from(true))
    }
}

impl Clone for DigestCheck {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// What is known of a row is no part of it.
impl PartialEq for DigestCheck {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for DigestCheck {}

/// The size of a row's two long columns, in SQL that both stores understand.
pub(crate) const BYTES: &str = "octet_length(payload) + octet_length(metadata)";

/// The size of what is read of a row without its payload.
pub(crate) const CLEAR_BYTES: &str = "octet_length(metadata) + 200";

/// The room for the lengths and all columns except the two long ones, for nearly every row.
const CANONICAL_REST: usize = 320;

/// The stream's id in the column `stream`, which has no kind beside it in its unique key. A user's
/// one stream of a kind has the user's id, so its stored id is a hash of both.
pub(crate) fn stored_stream(stream: &StreamId) -> Uuid {
    if !stream.kind.is_one_per_user() {
        return stream.id;
    }
    let hash = Sha256::new()
        .chain_update("genie stream/")
        .chain_update(stream.kind.as_str())
        .chain_update("/")
        .chain_update(stream.id)
        .finalize();
    let mut first = [0; 16];
    first.copy_from_slice(&hash[..16]);
    Uuid::new_v8(first)
}

impl StoredRow {
    /// Reads a row that has the columns of [`Store::columns`](crate::store::Store::columns).
    pub(crate) fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let number = |column: &str| {
            row.try_get::<i64, _>(column)
                .map(|n| u64::try_from(n).unwrap_or(0))
        };
        // A number that is out of range does not match the digest, which reports it.
        let small = |column: &str| {
            row.try_get::<i64, _>(column)
                .map(|n| i16::try_from(n).unwrap_or(-1))
        };
        Ok(Self {
            position: number("position")?,
            owner: uuid_column(row, "owner")?,
            owner_seq: number("owner_seq")?,
            stream: uuid_column(row, "stream")?,
            sequence: number("sequence")?,
            kind: small("kind")?,
            event_type: Cow::Owned(row.try_get("event_type")?),
            event_version: small("event_version")?,
            event_id: uuid_column(row, "event_id")?,
            slice: small("slice").map(|slice| u16::try_from(slice).unwrap_or(u16::MAX))?,
            recorded_at: Timestamp(row.try_get("recorded_at")?),
            digest: row.try_get("digest")?,
            metadata: row.try_get("metadata")?,
            payload: row.try_get("payload")?,
            digest_check: DigestCheck::default(),
        })
    }

    /// True when the digest is that of the other columns.
    pub(crate) fn has_its_digest(&self) -> bool {
        let check = || self.computed_digest()[..] == self.digest[..];
        *self.digest_check.0.get_or_init(check)
    }

    /// SHA-256 over the canonical form of the row: every column except `position` and `digest`, in
    /// the table's order. Each has a 64-bit big-endian length before its bytes; numbers are 64-bit
    /// big-endian.
    pub fn computed_digest(&self) -> [u8; 32] {
        let mut canonical =
            Vec::with_capacity(self.payload.len() + self.metadata.len() + CANONICAL_REST);
        let mut part = |bytes: &[u8]| {
            canonical.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            canonical.extend_from_slice(bytes);
        };
        part(self.owner.as_bytes());
        part(&self.owner_seq.to_be_bytes());
        part(self.stream.as_bytes());
        part(&self.sequence.to_be_bytes());
        part(&i64::from(self.kind).to_be_bytes());
        part(self.event_type.as_bytes());
        part(&i64::from(self.event_version).to_be_bytes());
        part(self.event_id.as_bytes());
        part(&u64::from(self.slice).to_be_bytes());
        part(&self.recorded_at.0.to_be_bytes());
        part(self.metadata.as_bytes());
        part(&self.payload);
        Sha256::digest(&canonical).into()
    }

    /// The stream, if this release knows its kind and the row was not changed.
    pub fn verified_stream(&self) -> Result<StreamId, LogError> {
        let stream = self.stream_id()?;
        if !self.has_its_digest() {
            return Err(self.damaged("its digest does not match"));
        }
        Ok(stream)
    }

    /// False for a row that was read without its payload: then its digest cannot be checked.
    pub fn is_whole(&self) -> bool {
        !self.payload.is_empty()
    }

    /// The stream, if this release knows its kind. The digest is not checked.
    pub fn stream_id(&self) -> Result<StreamId, LogError> {
        let Some(kind) = StreamKind::of_code(self.kind) else {
            return Err(self.damaged("this release does not know its kind of stream"));
        };
        let id = if kind.is_one_per_user() {
            self.owner
        } else {
            self.stream
        };
        Ok(StreamId { kind, id })
    }

    /// The metadata, which is stored unsealed beside the event.
    pub fn metadata(&self) -> Result<Metadata, LogError> {
        serde_json::from_str(&self.metadata)
            .map_err(|_| self.damaged("its metadata cannot be read"))
    }

    /// The event's non-personal fields, which stand in the metadata.
    pub fn clear(&self) -> Result<BTreeMap<String, Value>, LogError> {
        #[derive(Deserialize)]
        struct ClearPart {
            #[serde(default)]
            clear: BTreeMap<String, Value>,
        }
        let part: Result<ClearPart, _> = serde_json::from_str(&self.metadata);
        part.map(|part| part.clear)
            .map_err(|_| self.damaged("its metadata cannot be read"))
    }

    /// The user who owns it; `None` for the system's.
    pub fn user(&self) -> Option<UserId> {
        let kind = StreamKind::of_code(self.kind)?;
        (!kind.is_system()).then_some(UserId(self.owner))
    }

    /// The owner of the data key that sealed it: the user, or the system (nil). The fact that a
    /// user was forgotten is sealed under the system's key, too.
    pub(crate) fn key_owner(&self) -> Uuid {
        self.user()
            .filter(|_| !self.is_forgotten())
            .map_or(Uuid::nil(), |user| user.0)
    }

    /// True for the fact that its user was forgotten, which stays readable.
    pub fn is_forgotten(&self) -> bool {
        self.event_type == FORGOTTEN
    }

    /// Checks the digest and opens the envelope.
    pub(crate) fn open(&self, keys: &UserKeys) -> Result<(StreamId, Event), LogError> {
        let stream = self.verified_stream()?;
        let opened = keys
            .payload()
            .open(&self.payload, &self.place())
            .map_err(|reason| self.damaged(reason))?;
        let event = Event::read(stream.kind, &self.event_type, self.event_version, &opened);
        Ok((stream, event.map_err(|reason| self.damaged(reason))?))
    }

    /// The place that the payload is sealed for.
    pub(crate) fn place(&self) -> Place {
        event_place(
            self.event_id,
            self.stream,
            self.sequence,
            &self.event_type,
            self.owner,
        )
    }

    /// The words of the stream's kind and id. A kind that this release does not know is its number.
    pub fn stream_words(&self) -> (String, String) {
        match self.stream_id() {
            Ok(stream) => (stream.kind.as_str().to_owned(), stream.id.to_string()),
            Err(_) => (self.kind.to_string(), self.stream.to_string()),
        }
    }

    /// The stream as one word: its kind and its id.
    pub fn subject(&self) -> String {
        let (kind, id) = self.stream_words();
        format!("{kind}/{id}")
    }

    pub(crate) fn damaged(&self, reason: impl ToString) -> LogError {
        LogError::Damaged(crate::Damaged {
            position: self.position,
            stream: self.subject(),
            reason: reason.to_string(),
        })
    }
}

/// The place that an event is sealed for. `stream` is the id as stored.
pub(crate) fn event_place(
    event_id: Uuid,
    stream: Uuid,
    sequence: u64,
    event_type: &str,
    owner: Uuid,
) -> Place {
    Place::of_parts(&[
        b"log v2",
        event_id.as_bytes(),
        stream.as_bytes(),
        &sequence.to_be_bytes(),
        event_type.as_bytes(),
        owner.as_bytes(),
    ])
}

/// An id that both stores hand out as 16 bytes. Other bytes do not match the digest, which reports
/// it.
pub(crate) fn uuid_column(row: &AnyRow, column: &str) -> Result<Uuid, sqlx::Error> {
    row.try_get::<Vec<u8>, _>(column)
        .map(|bytes| Uuid::from_slice(&bytes).unwrap_or_default())
}

/// The stable hash that distributes owners: the first ten bits of SHA-256 of the owner's id.
pub(crate) fn slice_of(owner: Uuid) -> u16 {
    let hash = Sha256::digest(owner.as_bytes());
    u16::from_be_bytes([hash[0], hash[1]]) >> 6
}

/// One fact: a row that was checked and opened.
#[derive(Debug, Clone)]
pub struct Fact {
    /// Dense, in commit order.
    pub position: u64,
    pub event_id: EventId,
    pub stream: StreamId,
    /// The number in the stream, from 1.
    pub sequence: u64,
    /// Such as `job.submitted`.
    pub event_type: String,
    /// The user who owns it; `None` for the system's.
    pub user: Option<UserId>,
    /// The number among the owner's events, from 1.
    pub owner_seq: u64,
    pub recorded_at: Timestamp,
    /// The caller, and the non-personal fields.
    pub metadata: Metadata,
    pub body: FactBody,
}

/// The content of a fact.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every fact is open, so boxing its event would only add an allocation"
)]
pub enum FactBody {
    /// The event, and the keys that seal parts of it for read tables.
    Open(Event, std::sync::Arc<UserKeys>),
    /// The user was forgotten; nobody can read the event any more.
    Forgotten,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> StoredRow {
        StoredRow {
            position: 7,
            owner: Uuid::from_u128(2),
            owner_seq: 3,
            stream: Uuid::from_u128(4),
            sequence: 1,
            kind: StreamKind::Job.code(),
            event_type: "job.cancelled".into(),
            event_version: 1,
            event_id: Uuid::from_u128(1),
            slice: slice_of(Uuid::from_u128(2)),
            recorded_at: Timestamp(5),
            digest: vec![],
            metadata: "{}".into(),
            payload: vec![1, 2],
            digest_check: DigestCheck::default(),
        }
    }

    #[test]
    fn the_digest_covers_every_column_but_the_position() {
        let digest = row().computed_digest();
        let mut moved = row();
        moved.position = 8;
        assert_eq!(moved.computed_digest(), digest);
        let changes: [fn(&mut StoredRow); 12] = [
            |row| row.owner = Uuid::nil(),
            |row| row.owner_seq = 4,
            |row| row.stream = Uuid::nil(),
            |row| row.sequence = 2,
            |row| row.kind = StreamKind::Chat.code(),
            |row| row.event_type = "x".into(),
            |row| row.event_version = 2,
            |row| row.event_id = Uuid::nil(),
            |row| row.slice = 0,
            |row| row.recorded_at = Timestamp(6),
            |row| row.metadata = "{ }".into(),
            |row| row.payload = vec![1],
        ];
        for change in changes {
            let mut changed = row();
            change(&mut changed);
            assert_ne!(changed.computed_digest(), digest, "{changed:?}");
        }
    }

    #[test]
    fn a_copy_of_a_checked_row_is_checked_anew() {
        let mut row = row();
        row.digest = row.computed_digest().to_vec();
        assert!(row.has_its_digest());
        let mut changed = row.clone();
        changed.payload = vec![3];
        assert!(!changed.has_its_digest());
        assert_eq!(
            changed,
            StoredRow {
                payload: vec![3],
                ..row
            }
        );
    }

    #[test]
    fn a_users_streams_have_different_ids_and_read_back() {
        let user = UserId(Uuid::from_u128(9));
        let account = StreamId::new(StreamKind::Account, user);
        let usage = StreamId::new(StreamKind::Usage, user);
        assert_ne!(stored_stream(&account), stored_stream(&usage));
        let mut row = row();
        row.owner = user.0;
        for stream in [
            account,
            usage,
            StreamId::new(StreamKind::Job, Uuid::from_u128(8)),
        ] {
            row.kind = stream.kind.code();
            row.stream = stored_stream(&stream);
            assert_eq!(row.stream_id().unwrap(), stream);
        }
    }

    #[test]
    fn slices_are_0_to_1023_and_stable() {
        for n in 0..2000 {
            assert!(slice_of(Uuid::from_u128(n)) < 1024);
        }
        assert_eq!(slice_of(Uuid::nil()), 221);
    }
}
