//! A user's state as it is kept beside the log, so that waking a user does not mean reading the
//! user's whole past. A snapshot is never the truth: one that can't be read is ignored, and the
//! user is folded from the log again.

use std::collections::HashMap;

use serde::{Deserialize, Deserializer, Serializer};

use crate::{
    ids::{StreamId, StreamKind},
    user::User,
};

/// The version of a snapshot's shape *and* of the fold that made it. Every change of an `evolve` or
/// of a state raises it. Then the snapshot of an earlier release is ignored, and the user is folded
/// anew.
pub const VERSION: u32 = 10;

impl User {
    pub fn to_snapshot(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a user holds only text, numbers and maps with text keys")
    }

    /// Reads a state; `None` if these bytes are not a snapshot of this release.
    pub fn from_snapshot(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }
}

/// A stream can't be a key in JSON, so the map is kept as a list of kind, id and count.
pub(super) mod sequences {
    use uuid::Uuid;

    use super::*;

    pub fn serialize<S: Serializer>(
        sequences: &HashMap<StreamId, u64>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(
            sequences
                .iter()
                .map(|(stream, n)| (stream.kind.code(), stream.id, n)),
        )
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<HashMap<StreamId, u64>, D::Error> {
        let listed = Vec::<(i16, Uuid, u64)>::deserialize(from)?;
        let stream = |(kind, id, n): (i16, Uuid, u64)| {
            Some((StreamId::new(StreamKind::of_code(kind)?, id), n))
        };
        let read: Option<_> = listed.into_iter().map(stream).collect();
        read.ok_or_else(|| {
            serde::de::Error::custom("a kind of stream that this release does not know")
        })
    }
}
