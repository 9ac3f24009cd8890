//! The ring of master keys, known by their ids. They wrap one data key for each user, and the
//! system's.
//!
//! The first key of a ring is the one that should wrap. It becomes *current* when a rotation has
//! wrapped the system's key by it, which every server on the store sees. Until then new data keys
//! are wrapped by the key that was current before. So the rings of several servers can grow one
//! after the other, in any order, and no server meets a key that it does not have yet.

use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::DataKey;
use crate::{
    LogError,
    append_sqlite::SqliteTx,
    clock::random_bytes,
    encryption::{CantOpen, Place, SealingKey},
};

/// The most keys of a ring: old keys must be retired some day.
pub const MOST: usize = 64;

/// A ring of master keys that cannot be read. The error shows no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRing {
    #[error("the ring of master keys is empty; it is a list of `id:base64`, separated by commas")]
    Empty,
    /// An entry is not `id:base64` of 32 bytes.
    #[error(
        "master key number {0} is not `id:base64` of 32 bytes, with an id of 1 to 32 letters, digits, `-` or `_`"
    )]
    Entry(usize),
    /// An id stands twice in the ring.
    #[error("master key id `{0}` stands twice in the ring")]
    Twice(String),
    /// The ring has more than [`MOST`] keys.
    #[error(
        "the ring has more than {MOST} master keys; retire those that wrap nothing; `genie keys list` shows them"
    )]
    TooMany,
}

struct MasterKey {
    id: String,
    key: SealingKey,
}

/// The ring of master keys. One is current; the others still open what they wrapped.
#[derive(Clone)]
pub struct MasterKeys {
    /// Invariant: never empty. `parse` refuses an empty ring.
    ring: Arc<[MasterKey]>,
    current: usize,
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.ring.iter().map(|master| &master.id))
            .finish()
    }
}

impl MasterKeys {
    /// Reads `id:base64,id:base64`; line breaks may stand in place of the commas.
    pub fn parse(text: &str) -> Result<Self, BadRing> {
        let mut ring: Vec<MasterKey> = Vec::new();
        let entries = text
            .split(|c: char| c == ',' || c.is_ascii_whitespace())
            .filter(|entry| !entry.is_empty());
        for (n, entry) in entries.enumerate() {
            let (id, encoded) = entry.split_once(':').ok_or(BadRing::Entry(n + 1))?;
            let bytes = Zeroizing::new(BASE64.decode(encoded).map_err(|_| BadRing::Entry(n + 1))?);
            let root: &[u8; 32] = bytes
                .as_slice()
                .try_into()
                .map_err(|_| BadRing::Entry(n + 1))?;
            if !is_id(id) {
                return Err(BadRing::Entry(n + 1));
            }
            if ring.iter().any(|master| master.id == id) {
                return Err(BadRing::Twice(id.to_owned()));
            }
            if ring.len() == MOST {
                return Err(BadRing::TooMany);
            }
            ring.push(MasterKey {
                id: id.to_owned(),
                key: SealingKey::derive(Uuid::nil(), root, "master"),
            });
        }
        if ring.is_empty() {
            return Err(BadRing::Empty);
        }
        Ok(Self {
            ring: ring.into(),
            current: 0,
        })
    }

    /// A new ring of one random key, in the form that [`MasterKeys::parse`] reads.
    pub fn generate() -> Zeroizing<String> {
        Self::new_entry("m1")
    }

    /// A new random key as an entry of a ring.
    pub fn new_entry(id: &str) -> Zeroizing<String> {
        let key = Zeroizing::new(random_bytes::<32>());
        let encoded = Zeroizing::new(BASE64.encode(key.as_slice()));
        Zeroizing::new(format!("{id}:{}", encoded.as_str()))
    }

    /// The ids, in the order of the ring.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.ring.iter().map(|master| master.id.as_str())
    }

    /// The id of the key that wraps new data keys.
    pub fn current(&self) -> &str {
        &self.ring[self.current].id
    }

    /// The id of the key that becomes current by a rotation.
    pub fn first(&self) -> &str {
        &self.ring[0].id
    }

    pub fn has(&self, id: &str) -> bool {
        self.ids().any(|own| own == id)
    }

    /// The same ring with another current key; `None` when the ring lacks that key.
    pub(crate) fn with_current(&self, id: &str) -> Option<Self> {
        let current = self.ids().position(|own| own == id)?;
        Some(Self {
            ring: Arc::clone(&self.ring),
            current,
        })
    }

    /// Makes and wraps a data key for an owner.
    pub(crate) fn new_data_key(&self, owner: Uuid, key_id: Uuid) -> (DataKey, WrappedKey) {
        let current = &self.ring[self.current];
        let root = Zeroizing::new(random_bytes::<32>());
        let sealed = current
            .key
            .seal(root.as_slice(), &wrapping_place(owner, key_id));
        (
            DataKey { id: key_id, root },
            WrappedKey {
                owner,
                key_id,
                master_id: current.id.clone(),
                sealed,
            },
        )
    }

    /// Opens a wrapped data key.
    pub(crate) fn unwrap(&self, wrapped: &WrappedKey) -> Result<DataKey, LogError> {
        let master = self.master(&wrapped.master_id)?;
        let wrong = || LogError::MasterKeyWrong {
            owner: wrapped.owner.to_string(),
            master: master.id.clone(),
        };
        let opened = master
            .key
            .open(
                &wrapped.sealed,
                &wrapping_place(wrapped.owner, wrapped.key_id),
            )
            .map_err(|_| wrong())?;
        let root = Zeroizing::new(opened.as_slice().try_into().map_err(|_| wrong())?);
        Ok(DataKey {
            id: wrapped.key_id,
            root,
        })
    }

    /// The same data key, wrapped by the key with the id `by`.
    pub(crate) fn rewrap(&self, wrapped: &WrappedKey, by: &str) -> Result<WrappedKey, LogError> {
        let root = self.unwrap(wrapped)?.root;
        let by = self.master(by)?;
        let sealed = by.key.seal(
            root.as_slice(),
            &wrapping_place(wrapped.owner, wrapped.key_id),
        );
        Ok(WrappedKey {
            master_id: by.id.clone(),
            sealed,
            ..*wrapped
        })
    }

    /// True when another key than the ring's key of that id wrapped this data key. Damage looks
    /// different.
    pub(crate) fn is_of_another(&self, wrapped: &WrappedKey) -> Result<bool, LogError> {
        let place = wrapping_place(wrapped.owner, wrapped.key_id);
        Ok(matches!(
            self.master(&wrapped.master_id)?
                .key
                .open(&wrapped.sealed, &place),
            Err(CantOpen::OtherKey)
        ))
    }

    fn master(&self, id: &str) -> Result<&MasterKey, LogError> {
        let found = self.ring.iter().find(|master| master.id == id);
        found.ok_or_else(|| LogError::MasterKeyMissing {
            wanted: id.to_owned(),
        })
    }
}

/// True when a text may be the id of a master key.
pub fn is_id(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn wrapping_place(owner: Uuid, key_id: Uuid) -> Place {
    Place::new(&["user key v1", &owner.to_string(), &key_id.to_string()])
}

/// A data key as `user_keys` holds it.
#[derive(Debug, Clone)]
pub struct WrappedKey {
    /// A user, or the nil UUID for the system.
    pub owner: Uuid,
    pub key_id: Uuid,
    /// The id of the master key that wrapped it.
    pub master_id: String,
    pub sealed: Vec<u8>,
}

/// A new user's row of `user_keys`.
impl WrappedKey {
    pub(crate) fn json(&self) -> Value {
        json!({
            "t": "new_key", "user_id": self.owner, "key_id": self.key_id,
            "master_id": self.master_id, "wrapped": BASE64.encode(&self.sealed),
        })
    }

    pub(crate) async fn write(&self, tx: &mut SqliteTx<'_>) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO user_keys (user_id, key_id, master_id, wrapped, state) \
                   VALUES ($1, $2, $3, $4, 'live')";
        sqlx::query(sql)
            .bind(self.owner.to_string())
            .bind(self.key_id.to_string())
            .bind(&self.master_id)
            .bind(&self.sealed)
            .execute(&mut **tx)
            .await
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_a_list_of_ids_and_32_bytes() {
        let key = MasterKeys::generate();
        let other = MasterKeys::new_entry("m2");
        assert!(MasterKeys::parse(&key).is_ok());
        assert_eq!(MasterKeys::parse(" , ").unwrap_err(), BadRing::Empty);
        assert_eq!(
            MasterKeys::parse("m1:c2hvcnQ=").unwrap_err(),
            BadRing::Entry(1)
        );
        assert_eq!(MasterKeys::parse("nothing").unwrap_err(), BadRing::Entry(1));
        assert_eq!(
            MasterKeys::parse(&key.replace("m1", "m/1")).unwrap_err(),
            BadRing::Entry(1)
        );
        assert_eq!(
            MasterKeys::parse(&format!("{},{}", *key, *key)).unwrap_err(),
            BadRing::Twice("m1".into())
        );
        for text in [
            format!("{},{}", *other, *key),
            format!("{}\n{}\n", *other, *key),
        ] {
            assert_eq!(
                MasterKeys::parse(&text).unwrap().ids().collect::<Vec<_>>(),
                ["m2", "m1"]
            );
        }
        let many: Vec<_> = (0..=MOST)
            .map(|n| MasterKeys::new_entry(&format!("m{n}")).to_string())
            .collect();
        assert_eq!(
            MasterKeys::parse(&many.join(",")).unwrap_err(),
            BadRing::TooMany
        );
    }

    #[test]
    fn a_wrapped_key_opens_under_its_own_master_and_owner_only() {
        let ring = MasterKeys::parse(&MasterKeys::generate()).unwrap();
        let (keys, wrapped) = ring.new_data_key(Uuid::from_u128(1), Uuid::from_u128(2));
        let sealed = keys.payload().seal_text("column", "hello");
        let opened = ring.unwrap(&wrapped).unwrap().payload();
        assert_eq!(opened.open_text("column", &sealed).unwrap(), "hello");
        assert!(opened.open_text("other", &sealed).is_err());

        let moved = WrappedKey {
            owner: Uuid::from_u128(9),
            ..wrapped.clone()
        };
        assert!(matches!(
            ring.unwrap(&moved),
            Err(LogError::MasterKeyWrong { .. })
        ));
        assert!(!ring.is_of_another(&moved).unwrap());
        let other = MasterKeys::parse(&MasterKeys::generate()).unwrap();
        assert!(matches!(
            other.unwrap(&wrapped),
            Err(LogError::MasterKeyWrong { .. })
        ));
        assert!(other.is_of_another(&wrapped).unwrap());
        let unknown = WrappedKey {
            master_id: "m2".into(),
            ..wrapped
        };
        assert!(
            matches!(ring.unwrap(&unknown), Err(LogError::MasterKeyMissing { wanted }) if wanted == "m2")
        );
    }

    #[test]
    fn a_rewrapped_key_opens_the_same() {
        let old = MasterKeys::generate();
        let new = MasterKeys::new_entry("m2");
        let both = MasterKeys::parse(&format!("{},{}", *new, *old)).unwrap();
        let (keys, wrapped) = both
            .with_current("m1")
            .unwrap()
            .new_data_key(Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(wrapped.master_id, "m1");
        let sealed = keys.payload().seal_text("column", "hello");
        let anew = both.rewrap(&wrapped, "m2").unwrap();
        let only_new = MasterKeys::parse(&new).unwrap();
        assert_eq!(
            only_new
                .unwrap(&anew)
                .unwrap()
                .payload()
                .open_text("column", &sealed)
                .unwrap(),
            "hello"
        );
        assert!(only_new.unwrap(&wrapped).is_err() && both.with_current("m3").is_none());
    }

    #[test]
    fn nothing_prints_a_key() {
        let text = MasterKeys::generate();
        let ring = MasterKeys::parse(&text).unwrap();
        let (keys, _) = ring.new_data_key(Uuid::nil(), Uuid::nil());
        assert_eq!(format!("{ring:?}"), "[\"m1\"]");
        assert_eq!(
            format!("{:?}", keys.payload()),
            format!("UserKeys {{ payload: SealingKey({}) }}", Uuid::nil())
        );
    }
}
