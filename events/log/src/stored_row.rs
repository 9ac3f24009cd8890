//! A row of the log as stored, the digest over it, and the fact inside.

use genie_events::{
    Event, EventId, Metadata, StreamId, StreamKind, Timestamp, UserId, account::FORGOTTEN,
};
use sha2::{Digest, Sha256};
use sqlx::{Row, any::AnyRow};
use uuid::Uuid;

use crate::{
    LogError,
    encryption::{Envelope, Place},
    keys::UserKeys,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// Dense, in commit order; 0 before the append.
    pub position: u64,
    /// The stream's kind, as stored.
    pub kind: String,
    pub id: String,
    /// The number in the stream, from 1.
    pub sequence: u64,
    /// Such as `job.submitted`.
    pub event_type: String,
    pub event_version: String,
    /// The envelope, as JSON text.
    pub payload: String,
    /// [`Metadata`], as JSON text.
    pub metadata: String,
    pub event_id: Uuid,
    /// A user, or the owner made for a stream of the system.
    pub owner: Uuid,
    /// The number among the owner's events, from 1.
    pub owner_seq: u64,
    /// Stable hash of the owner, 0..1023.
    pub slice: u64,
    /// When it was written, by the writer's clock.
    pub recorded_at: Timestamp,
    /// SHA-256 over all of the above except the position.
    pub digest: Vec<u8>,
}

/// The columns that [`StoredRow::read`] reads, in SQL that both stores understand.
pub(crate) const COLUMNS: &str = "position, aggregate_type, aggregate_id, sequence, event_type, event_version, \
     CAST(payload AS text) AS payload, CAST(metadata AS text) AS metadata, event_id, user_id, user_seq, slice, recorded_at, digest";

/// The size of a row's two long columns, in SQL that both stores understand.
pub(crate) const BYTES: &str =
    "octet_length(CAST(payload AS text)) + octet_length(CAST(metadata AS text))";

/// The room for the lengths and all columns except the two long ones, for nearly every row.
const CANONICAL_REST: usize = 320;

impl StoredRow {
    pub(crate) fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let number = |column: &str| {
            row.try_get::<i64, _>(column)
                .map(|n| u64::try_from(n).unwrap_or(0))
        };
        let text = |column: &str| row.try_get::<String, _>(column);
        // An id that is not a UUID does not match the digest, which reports it.
        let id = |column: &str| text(column).map(|id| Uuid::try_parse(&id).unwrap_or_default());
        Ok(Self {
            position: number("position")?,
            kind: text("aggregate_type")?,
            id: text("aggregate_id")?,
            sequence: number("sequence")?,
            event_type: text("event_type")?,
            event_version: text("event_version")?,
            payload: text("payload")?,
            metadata: text("metadata")?,
            event_id: id("event_id")?,
            owner: id("user_id")?,
            owner_seq: number("user_seq")?,
            slice: number("slice")?,
            recorded_at: Timestamp(row.try_get("recorded_at")?),
            digest: row.try_get("digest")?,
        })
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
        part(self.kind.as_bytes());
        part(self.id.as_bytes());
        part(&self.sequence.to_be_bytes());
        part(self.event_type.as_bytes());
        part(self.event_version.as_bytes());
        part(self.payload.as_bytes());
        part(self.metadata.as_bytes());
        part(self.event_id.as_bytes());
        part(self.owner.as_bytes());
        part(&self.owner_seq.to_be_bytes());
        part(&self.slice.to_be_bytes());
        part(&self.recorded_at.0.to_be_bytes());
        Sha256::digest(&canonical).into()
    }

    /// The stream, if this release knows its kind and the row was not changed.
    pub fn verified_stream(&self) -> Result<StreamId, LogError> {
        let stream = self.stream()?;
        if self.computed_digest()[..] != self.digest[..] {
            return Err(self.damaged("its digest does not match"));
        }
        Ok(stream)
    }

    fn stream(&self) -> Result<StreamId, LogError> {
        match StreamKind::parse(&self.kind) {
            Some(kind) => Ok(StreamId::new(kind, &self.id)),
            None => Err(self.damaged("this release does not know its kind of stream")),
        }
    }

    /// The metadata, which is stored unsealed beside the event.
    pub fn metadata(&self) -> Result<Metadata, LogError> {
        serde_json::from_str(&self.metadata)
            .map_err(|_| self.damaged("its metadata cannot be read"))
    }

    /// The user who owns it; `None` for the system's.
    pub fn user(&self) -> Option<UserId> {
        let kind = StreamKind::parse(&self.kind)?;
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
        let envelope: Envelope = serde_json::from_str(&self.payload)
            .map_err(|_| self.damaged("its envelope cannot be read"))?;
        let place = Place::event(
            EventId(self.event_id),
            &stream,
            self.sequence,
            &self.event_type,
            self.owner,
        );
        let opened = keys
            .payload()
            .open_event(&envelope, &place)
            .map_err(|reason| self.damaged(reason))?;
        let event = Event::read(stream.kind, &self.event_type, &self.event_version, &opened);
        Ok((stream, event.map_err(|reason| self.damaged(reason))?))
    }

    pub(crate) fn damaged(&self, reason: impl ToString) -> LogError {
        LogError::Damaged(crate::Damaged {
            position: self.position,
            stream: format!("{}/{}", self.kind, self.id),
            reason: reason.to_string(),
        })
    }
}

/// The stable hash that distributes owners: the first ten bits of SHA-256 of the owner's id.
pub(crate) fn slice_of(owner: Uuid) -> u64 {
    let hash = Sha256::digest(owner.as_bytes());
    u64::from(u16::from_be_bytes([hash[0], hash[1]]) >> 6)
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
            kind: "job".into(),
            id: "1".into(),
            sequence: 1,
            event_type: "job.cancelled".into(),
            event_version: "1".into(),
            payload: "{}".into(),
            metadata: "{}".into(),
            event_id: Uuid::from_u128(1),
            owner: Uuid::from_u128(2),
            owner_seq: 3,
            slice: slice_of(Uuid::from_u128(2)),
            recorded_at: Timestamp(5),
            digest: vec![],
        }
    }

    #[test]
    fn the_digest_covers_every_column_but_the_position() {
        let digest = row().computed_digest();
        assert_eq!(
            StoredRow {
                position: 8,
                ..row()
            }
            .computed_digest(),
            digest
        );
        let others = [
            StoredRow {
                kind: "chat".into(),
                ..row()
            },
            StoredRow {
                id: "2".into(),
                ..row()
            },
            StoredRow {
                sequence: 2,
                ..row()
            },
            StoredRow {
                event_type: "x".into(),
                ..row()
            },
            StoredRow {
                event_version: "2".into(),
                ..row()
            },
            StoredRow {
                payload: "{ }".into(),
                ..row()
            },
            StoredRow {
                metadata: "{ }".into(),
                ..row()
            },
            StoredRow {
                event_id: Uuid::nil(),
                ..row()
            },
            StoredRow {
                owner: Uuid::nil(),
                ..row()
            },
            StoredRow {
                owner_seq: 4,
                ..row()
            },
            StoredRow { slice: 0, ..row() },
            StoredRow {
                recorded_at: Timestamp(6),
                ..row()
            },
        ];
        for other in others {
            assert_ne!(other.computed_digest(), digest, "{other:?}");
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
