//! Keys. A ring of master keys wraps one random data key per user; from a data key HKDF gives a payload key (log, read tables)
//! and a vault key (secrets). The system has a data key of its own, from which the keyed hashes and the token key are derived.
//!
//! Invariant: what readers hold (`UserKeys`) is the payload key and nothing else. The vault key is derived anew whenever a secret
//! is sealed or opened, and only in exchange for the `VaultDoor`; nobody keeps what it is derived from.

use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use genie_events::{
    UserId,
    ids::{EmailId, InviteId, ServiceKeyId, SessionId},
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    LogError, RequestKey, VaultDoor,
    append::Owner,
    clock::random_bytes,
    seal::{CantOpen, Place, SealingKey, derive},
};

/// Why a ring of master keys can't be read. Says nothing of the keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRing {
    /// Nothing in it.
    #[error("the ring of master keys is empty; it is a list of `id:base64`, separated by commas")]
    Empty,
    /// An entry is not `id:base64` of 32 bytes.
    #[error("master key number {0} is not `id:base64` of 32 bytes, with an id of 1 to 32 letters, digits, `-` or `_`")]
    Entry(usize),
    /// An id stands twice.
    #[error("master key id `{0}` stands twice in the ring")]
    Twice(String),
}

struct MasterKey {
    id: String,
    key: SealingKey,
}

/// The ring of master keys; the first is current, the others still open what they sealed.
pub struct MasterKeys {
    ring: Vec<MasterKey>,
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ring.iter().map(|master| &master.id)).finish()
    }
}

impl MasterKeys {
    /// Reads `id:base64,id:base64`.
    pub fn parse(text: &str) -> Result<Self, BadRing> {
        let mut ring: Vec<MasterKey> = Vec::new();
        for (n, entry) in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).enumerate() {
            let (id, encoded) = entry.split_once(':').ok_or(BadRing::Entry(n + 1))?;
            let is_id = (1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            let bytes = Zeroizing::new(BASE64.decode(encoded).map_err(|_| BadRing::Entry(n + 1))?);
            let root: &[u8; 32] = bytes.as_slice().try_into().map_err(|_| BadRing::Entry(n + 1))?;
            if !is_id {
                return Err(BadRing::Entry(n + 1));
            }
            if ring.iter().any(|master| master.id == id) {
                return Err(BadRing::Twice(id.to_owned()));
            }
            ring.push(MasterKey { id: id.to_owned(), key: SealingKey::derive(Uuid::nil(), root, "master") });
        }
        match ring.is_empty() {
            true => Err(BadRing::Empty),
            false => Ok(Self { ring }),
        }
    }

    /// A new ring of one random key, in the form that [`MasterKeys::parse`] reads.
    pub fn generate() -> Zeroizing<String> {
        let key = Zeroizing::new(random_bytes::<32>());
        Zeroizing::new(format!("m1:{}", BASE64.encode(key.as_slice())))
    }

    /// Makes and wraps a data key for an owner.
    pub(crate) fn new_data_key(&self, owner: Uuid, key_id: Uuid) -> (DataKey, WrappedKey) {
        let current = &self.ring[0]; // a ring is never empty: `parse` sees to it
        let root = Zeroizing::new(random_bytes::<32>());
        let sealed = current.key.seal(root.as_slice(), &wrapping_place(owner, key_id));
        (DataKey { id: key_id, root }, WrappedKey { owner, key_id, master_id: current.id.clone(), sealed })
    }

    /// Opens a wrapped data key.
    pub(crate) fn unwrap(&self, wrapped: &WrappedKey) -> Result<DataKey, LogError> {
        let Some(master) = self.ring.iter().find(|master| master.id == wrapped.master_id) else {
            return Err(LogError::MasterKeyMissing { wanted: wrapped.master_id.clone() });
        };
        let wrong = || LogError::MasterKeyWrong { owner: wrapped.owner.to_string(), master: master.id.clone() };
        let opened = master.key.open(&wrapped.sealed, &wrapping_place(wrapped.owner, wrapped.key_id)).map_err(|_| wrong())?;
        let root = Zeroizing::new(opened.as_slice().try_into().map_err(|_| wrong())?);
        Ok(DataKey { id: wrapped.key_id, root })
    }
}

fn wrapping_place(owner: Uuid, key_id: Uuid) -> Place {
    Place::new(&["user key v1", &owner.to_string(), &key_id.to_string()])
}

/// A data key as `user_keys` holds it.
#[derive(Debug, Clone)]
pub struct WrappedKey {
    /// Whose: a user, or the nil UUID for the system.
    pub owner: Uuid,
    /// Which key.
    pub key_id: Uuid,
    /// Under which master key.
    pub master_id: String,
    /// The wrapped bytes.
    pub sealed: Vec<u8>,
}

/// An opened data key, from which an owner's keys are derived. It lives for as long as that takes.
pub(crate) struct DataKey {
    id: Uuid,
    root: Zeroizing<[u8; 32]>,
}

impl DataKey {
    /// The keys of readers.
    pub(crate) fn payload(&self) -> UserKeys {
        UserKeys { payload: SealingKey::derive(self.id, &self.root, "payload") }
    }

    /// The key that secrets' own keys are wrapped by: only for whoever holds the door.
    pub(crate) fn vault(&self, _: &VaultDoor) -> SealingKey {
        SealingKey::derive(self.id, &self.root, "vault")
    }

    /// A key for a part of the system, when this is the system's.
    pub(crate) fn part(&self, name: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(derive(&self.root, "system", name))
    }
}

/// A user's keys, or the system's, as whoever reads the log and the read tables holds them. They open no secret.
#[derive(Debug)]
pub struct UserKeys {
    payload: SealingKey,
}

// Neither a vault key nor what one could be derived from has room in it.
const _: () = assert!(size_of::<UserKeys>() == size_of::<SealingKey>());

impl UserKeys {
    /// The key of log and read tables.
    pub fn payload(&self) -> &SealingKey {
        &self.payload
    }

    /// Seals personal text for a column of a read table or of the journal.
    pub fn seal_text(&self, column: &str, text: &str) -> Vec<u8> {
        self.payload.seal(text.as_bytes(), &Place::new(&["read v1", column]))
    }

    /// Opens personal text of that column.
    pub fn open_text(&self, column: &str, sealed: &[u8]) -> Result<String, CantOpen> {
        let opened = self.payload.open(sealed, &Place::new(&["read v1", column]))?;
        String::from_utf8(opened.to_vec()).map_err(|_| CantOpen::Form)
    }
}

/// Whether an owner's key is there.
#[derive(Debug, Clone)]
pub enum KeyState {
    /// It is.
    Live(Arc<UserKeys>),
    /// Its owner was forgotten.
    Destroyed,
}

/// Keyed hashes and the token key, derived from the system's data key. They do not change when master keys rotate.
pub struct SystemHashes {
    email: Zeroizing<[u8; 32]>,
    invite: Zeroizing<[u8; 32]>,
    session: Zeroizing<[u8; 32]>,
    request: Zeroizing<[u8; 32]>,
    token: Zeroizing<[u8; 32]>,
    service_key: Zeroizing<[u8; 32]>,
    impersonation: Zeroizing<[u8; 32]>,
    refresh: Zeroizing<[u8; 32]>,
    two_factor: Zeroizing<[u8; 32]>,
}

impl SystemHashes {
    pub(crate) fn of(system: &DataKey) -> Self {
        let part = |name| system.part(name);
        Self {
            email: part("email"),
            invite: part("invite"),
            session: part("session"),
            request: part("request"),
            token: part("token"),
            service_key: part("service key"),
            impersonation: part("impersonation"),
            refresh: part("refresh"),
            two_factor: part("two-factor"),
        }
    }

    /// The stream of a normalised address.
    pub fn email(&self, normalised: &str) -> EmailId {
        EmailId(keyed_hash(&self.email, &[normalised]))
    }

    /// The stream of an invite's code.
    pub fn invite(&self, code: &str) -> InviteId {
        InviteId(keyed_hash(&self.invite, &[code]))
    }

    /// The stream of a user's session of that name.
    pub fn session(&self, user: UserId, name: &str) -> SessionId {
        SessionId(keyed_hash(&self.session, &[&user.to_string(), name])[..32].to_owned())
    }

    /// What a request that may be sent again is known by. `asked` is all that it asks: where, and with which body.
    pub fn request(&self, caller: &str, route: &str, key: &str, asked: &[&str]) -> RequestKey {
        let key = keyed_hash(&self.request, &["key", caller, route, key]);
        RequestKey { key, request: keyed_hash(&self.request, &[&["request"], asked].concat()) }
    }

    /// The code of the first invite: the same at each start, so that a crash before it was shown loses nothing.
    pub fn first_invite_code(&self) -> String {
        keyed_hash(&self.invite, &["the first invite"])[..20].to_owned()
    }

    /// The stream of a service key.
    pub fn service_key(&self, key: &str) -> ServiceKeyId {
        ServiceKeyId(keyed_hash(&self.service_key, &[key])[..32].to_owned())
    }

    /// The key that signs the tokens of impersonations (HS256), and nothing else.
    pub fn impersonation_key(&self) -> &[u8] {
        self.impersonation.as_slice()
    }

    /// The key that signs access tokens (HS256).
    pub fn token_key(&self) -> &[u8] {
        self.token.as_slice()
    }

    /// The key that refresh tokens are made and known by (HMAC-SHA-256).
    pub fn refresh_key(&self) -> &[u8; 32] {
        &self.refresh
    }

    /// The key that secrets of second factors are known by as drawn here (HMAC-SHA-256).
    pub fn two_factor_key(&self) -> &[u8; 32] {
        &self.two_factor
    }
}

fn keyed_hash(key: &[u8; 32], parts: &[&str]) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part.as_bytes());
    }
    hex(&mac.finalize().into_bytes())
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String can't fail
        text
    })
}

/// SHA-256 in hexadecimal: how tokens, leases and ciphertexts are named in facts.
pub fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex(&Sha256::digest(bytes))
}

impl Owner {
    /// The owner of the data key that seals this owner's events.
    pub(crate) fn key_owner(&self) -> Uuid {
        match self {
            Self::User(user) => user.0,
            Self::System(_) => Uuid::nil(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_a_list_of_ids_and_32_bytes() {
        let key = MasterKeys::generate();
        assert!(MasterKeys::parse(&key).is_ok());
        assert_eq!(MasterKeys::parse(" , ").unwrap_err(), BadRing::Empty);
        assert_eq!(MasterKeys::parse("m1:c2hvcnQ=").unwrap_err(), BadRing::Entry(1));
        assert_eq!(MasterKeys::parse("nothing").unwrap_err(), BadRing::Entry(1));
        assert_eq!(MasterKeys::parse(&format!("{},{}", *key, *key)).unwrap_err(), BadRing::Twice("m1".into()));
    }

    #[test]
    fn a_wrapped_key_opens_under_its_own_master_and_owner_only() {
        let ring = MasterKeys::parse(&MasterKeys::generate()).unwrap();
        let (keys, wrapped) = ring.new_data_key(Uuid::from_u128(1), Uuid::from_u128(2));
        let sealed = keys.payload().seal_text("column", "hello");
        let opened = ring.unwrap(&wrapped).unwrap().payload();
        assert_eq!(opened.open_text("column", &sealed).unwrap(), "hello");
        assert!(opened.open_text("other", &sealed).is_err());

        let moved = WrappedKey { owner: Uuid::from_u128(9), ..wrapped.clone() };
        assert!(matches!(ring.unwrap(&moved), Err(LogError::MasterKeyWrong { .. })));
        let other = MasterKeys::parse(&MasterKeys::generate()).unwrap();
        assert!(matches!(other.unwrap(&wrapped), Err(LogError::MasterKeyWrong { .. })));
        let unknown = WrappedKey { master_id: "m2".into(), ..wrapped };
        assert!(matches!(ring.unwrap(&unknown), Err(LogError::MasterKeyMissing { wanted }) if wanted == "m2"));
    }

    #[test]
    fn nothing_prints_a_key() {
        let text = MasterKeys::generate();
        let ring = MasterKeys::parse(&text).unwrap();
        let (keys, _) = ring.new_data_key(Uuid::nil(), Uuid::nil());
        assert_eq!(format!("{ring:?}"), "[\"m1\"]");
        assert_eq!(format!("{:?}", keys.payload()), format!("UserKeys {{ payload: SealingKey({}) }}", Uuid::nil()));
    }
}
