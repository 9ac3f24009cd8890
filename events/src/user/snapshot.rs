//! A user's state as it is kept beside the log, so that waking a user does not mean reading all that ever happened to them.
//! It is never the truth: whatever can't be read is left, and the user is folded from the log again.

use std::collections::HashMap;

use serde::{Deserialize, Deserializer, Serializer};

use crate::{
    ids::{StreamId, StreamKind},
    user::User,
};

/// The version of a snapshot's shape *and* of the fold that made it. Raised whenever an `evolve` or a state changes, so that a
/// snapshot of an earlier release is left and the user folded anew.
pub const VERSION: u32 = 3;

impl User {
    /// The state as JSON.
    pub fn to_snapshot(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a user holds only text, numbers and maps with text keys")
    }

    /// The state back; `None` when these bytes are not one of this release's.
    pub fn from_snapshot(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }
}

/// Streams are no text and so can't be keys in JSON: they are kept as a list of kind, id and count.
pub(super) mod sequences {
    use super::*;

    pub fn serialize<S: Serializer>(
        sequences: &HashMap<StreamId, u64>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(
            sequences
                .iter()
                .map(|(stream, n)| (stream.kind.as_str(), stream.id.as_str(), n)),
        )
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<HashMap<StreamId, u64>, D::Error> {
        let listed = Vec::<(String, String, u64)>::deserialize(from)?;
        let stream = |(kind, id, n): (String, String, u64)| {
            Some((StreamId::new(StreamKind::parse(&kind)?, id), n))
        };
        let read: Option<_> = listed.into_iter().map(stream).collect();
        read.ok_or_else(|| {
            serde::de::Error::custom("a kind of stream that this release does not know")
        })
    }
}
