//! Keys. A ring of master keys wraps one random data key for each user. HKDF derives from a data
//! key a payload key (log, read tables) and a vault key (secrets). The system has a data key of its
//! own; the keyed hashes and the token key are derived from it.
//!
//! Invariant: readers hold the payload key and nothing else (`UserKeys`). The vault key is derived
//! anew whenever a secret is sealed or opened, and only in exchange for the `VaultDoor`. Nobody
//! keeps the data key that it is derived from.

use std::sync::Arc;

use genie_events::{
    BlobId, EmailAddress, InviteCode, UserId,
    ids::{EmailId, InviteId, JobId, JobName, NetworkId, ServiceKeyId, SessionId},
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    RequestKey, VaultDoor,
    append::Owner,
    encryption::{CantOpen, Place, SealingKey, derive},
};

/// The ring of master keys, and the stored form of data keys.
pub mod masters;
/// The master keys of each running server.
pub mod rings;
/// The use of master keys: wrapping all data keys by another, and retiring one.
pub mod rotation;

pub use masters::{BadRing, MasterKeys, WrappedKey};

/// An opened data key, from which an owner's keys are derived. It lives only for that moment.
pub(crate) struct DataKey {
    id: Uuid,
    root: Zeroizing<[u8; 32]>,
}

impl DataKey {
    /// The keys of readers.
    pub(crate) fn payload(&self) -> UserKeys {
        UserKeys {
            payload: SealingKey::derive(self.id, &self.root, "payload"),
        }
    }

    /// The key that wraps the keys of secrets: only for a caller with the door.
    pub(crate) fn vault(&self, _: &VaultDoor) -> SealingKey {
        SealingKey::derive(self.id, &self.root, "vault")
    }

    /// A key for one part of the system, when this is the system's data key.
    pub(crate) fn part(&self, name: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(derive(&self.root, "system", name))
    }
}

/// The keys of a user or of the system, in the hands of readers of the log and the read tables.
/// They open no secret.
#[derive(Debug)]
pub struct UserKeys {
    payload: SealingKey,
}

// Proves that no vault key, or anything it could be derived from, fits into `UserKeys`.
const _: () = assert!(size_of::<UserKeys>() == size_of::<SealingKey>());

impl UserKeys {
    /// The key of log and read tables.
    pub fn payload(&self) -> &SealingKey {
        &self.payload
    }

    /// Seals personal text for a column of a read table or of the journal.
    pub fn seal_text(&self, column: &str, text: &str) -> Vec<u8> {
        self.payload
            .seal(text.as_bytes(), &Place::new(&["read v1", column]))
    }

    /// Opens personal text of that column.
    pub fn open_text(&self, column: &str, sealed: &[u8]) -> Result<String, CantOpen> {
        let opened = self
            .payload
            .open(sealed, &Place::new(&["read v1", column]))?;
        String::from_utf8(opened.to_vec()).map_err(|_| CantOpen::Form)
    }
}

#[derive(Debug, Clone)]
pub enum KeyState {
    Live(Arc<UserKeys>),
    /// The owner was forgotten.
    Destroyed,
}

/// Keyed hashes and the token key, derived from the system's data key. They stay the same when
/// master keys rotate.
pub struct SystemHashes {
    email: Zeroizing<[u8; 32]>,
    invite: Zeroizing<[u8; 32]>,
    first_invite: Zeroizing<[u8; 32]>,
    session: Zeroizing<[u8; 32]>,
    job: Zeroizing<[u8; 32]>,
    request: Zeroizing<[u8; 32]>,
    token: Zeroizing<[u8; 32]>,
    service_key: Zeroizing<[u8; 32]>,
    impersonation: Zeroizing<[u8; 32]>,
    refresh: Zeroizing<[u8; 32]>,
    two_factor: Zeroizing<[u8; 32]>,
    network: Zeroizing<[u8; 32]>,
    ledger: Zeroizing<[u8; 32]>,
    word: Zeroizing<[u8; 32]>,
    request_id: Zeroizing<[u8; 32]>,
    file_link: Zeroizing<[u8; 32]>,
    mark: Zeroizing<[u8; 32]>,
    ticket: Zeroizing<[u8; 32]>,
    log_name: String,
}

impl SystemHashes {
    pub(crate) fn of(system: &DataKey) -> Self {
        let part = |name| system.part(name);
        Self {
            email: part("email"),
            invite: part("invite"),
            first_invite: part("first invite"),
            session: part("session"),
            job: part("job"),
            request: part("request"),
            token: part("token"),
            service_key: part("service key"),
            impersonation: part("impersonation"),
            refresh: part("refresh"),
            two_factor: part("two-factor"),
            network: part("network"),
            ledger: part("ledger of the forgotten"),
            word: part("word"),
            request_id: part("request id"),
            file_link: part("file link"),
            mark: part("invisible marks"),
            ticket: part("ticket"),
            log_name: log_name(system),
        }
    }

    /// The name by which this log is told from every other: `genie/` and its id. It stays the same
    /// for as long as the log lives, also in an export, a backup and after a rotation of master
    /// keys.
    pub fn log_name(&self) -> &str {
        &self.log_name
    }

    /// The stream of an e-mail address.
    pub fn email(&self, address: &EmailAddress) -> EmailId {
        EmailId(keyed_id(&self.email, &[address.normal()]))
    }

    /// The stream of an invite, from its code.
    pub fn invite(&self, code: &InviteCode) -> InviteId {
        InviteId(keyed_id(&self.invite, &[code.normal()]))
    }

    /// The stream of the user's chat session with that name.
    pub fn session(&self, user: UserId, name: &str) -> SessionId {
        SessionId(keyed_id(&self.session, &[&user.to_string(), name]))
    }

    /// The user's job with that name.
    pub fn job(&self, user: UserId, name: &JobName) -> JobId {
        JobId(keyed_id(&self.job, &[&user.to_string(), name.as_str()]))
    }

    /// A word that somebody chose, as the readable part of the log shows it: `#` and a keyed hash.
    pub fn word(&self, field: &str, word: &str) -> String {
        format!("#{}", &keyed_hash(&self.word, &[field, word])[..32])
    }

    /// The signature of a link to a file, which is good until that moment, in seconds since 1970.
    pub fn file_link(&self, file: BlobId, until: i64) -> String {
        keyed_hash(&self.file_link, &[&file.to_string(), &until.to_string()])
    }

    /// The signature of a ticket for a stream of this kind.
    pub fn ticket(&self, kind: &str, unsigned: &str) -> String {
        keyed_hash(&self.ticket, &["ticket", kind, unsigned])
    }

    /// Proves that its holder has read events by this ticket.
    pub fn ticket_proof(&self, ticket: &str) -> String {
        keyed_hash(&self.ticket, &["used", ticket])
    }

    /// The log's own id of a request, from the id that its client chose.
    pub fn request_id(&self, chosen: &str) -> Uuid {
        keyed_id(&self.request_id, &[chosen])
    }

    /// The identity of a request that may be sent again. `asked` is the whole request: its target
    /// and its body.
    pub fn request(&self, caller: &str, route: &str, key: &str, asked: &[&str]) -> RequestKey {
        let key = keyed_hash(&self.request, &["key", caller, route, key]);
        RequestKey {
            key,
            request: keyed_hash(&self.request, &[&["request"], asked].concat()),
        }
    }

    /// The code of the first invite. It is the same at each start, so that a crash before it was
    /// printed loses nothing.
    pub fn first_invite_code(&self) -> InviteCode {
        InviteCode::made(keyed_hash(&self.first_invite, &["the first invite"])[..20].to_owned())
    }

    pub fn service_key(&self, key: &str) -> ServiceKeyId {
        ServiceKeyId(keyed_id(&self.service_key, &[key]))
    }

    /// The id of a network.
    pub fn network(&self, network: &str) -> NetworkId {
        NetworkId(keyed_id(&self.network, &[network]))
    }

    /// The key that signs the tokens of impersonations (HS256), and nothing else.
    pub fn impersonation_key(&self) -> &[u8] {
        self.impersonation.as_slice()
    }

    /// The key that signs access tokens (HS256).
    pub fn token_key(&self) -> &[u8] {
        self.token.as_slice()
    }

    /// The key that makes and recognises refresh tokens (HMAC-SHA-256).
    pub fn refresh_key(&self) -> &[u8; 32] {
        &self.refresh
    }

    /// The key that proves who wrote a line of the ledger of the forgotten (HMAC-SHA-256).
    pub fn ledger_key(&self) -> &[u8; 32] {
        &self.ledger
    }

    /// The secret of invisible marks. Whoever has it can make, read and remove them.
    pub fn mark_key(&self) -> &[u8; 32] {
        &self.mark
    }

    /// The key that proves that genie made a second factor's secret (HMAC-SHA-256).
    pub fn two_factor_key(&self) -> &[u8; 32] {
        &self.two_factor
    }
}

/// The name follows from the system's data key, which is random and never changes.
pub(crate) fn log_name(system: &DataKey) -> String {
    format!("genie/{}", hex::encode(&system.part("log id")[..16]))
}

/// HMAC-SHA-256 of the parts, in hexadecimal.
fn keyed_hash(key: &[u8; 32], parts: &[&str]) -> String {
    hex::encode(keyed_bytes(key, parts))
}

/// The first 122 bits of the same as a UUID of version 8.
fn keyed_id(key: &[u8; 32], parts: &[&str]) -> Uuid {
    let mut first = [0; 16];
    first.copy_from_slice(&keyed_bytes(key, parts)[..16]);
    Uuid::new_v8(first)
}

fn keyed_bytes(key: &[u8; 32], parts: &[&str]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part.as_bytes());
    }
    mac.finalize().into_bytes().into()
}

/// SHA-256 in hexadecimal: facts name tokens, leases and ciphertexts by it.
pub fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(Sha256::digest(bytes))
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
