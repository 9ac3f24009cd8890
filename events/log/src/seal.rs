//! Sealed bytes: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) under a fresh random 192-bit nonce, with associated data
//! that binds a ciphertext to its place, and a commitment to the key, which Poly1305 alone does not give.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use chacha20poly1305::{
    Key, KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, AeadInOut, Payload},
};
use genie_events::{EventId, StreamId};
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::clock::random_bytes;

const NONCE: usize = 24;
const COMMITMENT: usize = 32;
/// Version of both sealed forms, first in each.
const FORMAT: u8 = 1;

/// The bytes can't be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CantOpen {
    /// Not in a form that this release knows.
    #[error("the sealed form is unknown or cut short")]
    Form,
    /// Sealed under another key.
    #[error("it was sealed under another key")]
    OtherKey,
    /// Changed since, or moved from another place.
    #[error("it was changed or moved since it was sealed")]
    Changed,
}

/// A key that seals and opens. It never shows itself.
pub struct SealingKey {
    id: Uuid,
    cipher: XChaCha20Poly1305,
    commitment: [u8; COMMITMENT],
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealingKey({})", self.id)
    }
}

impl SealingKey {
    /// Derives the key for `purpose` from a root key by HKDF-SHA-256 (RFC 5869). The commitment is derived beside it:
    /// finding two roots with one commitment means a collision of SHA-256.
    pub fn derive(id: Uuid, root: &[u8; 32], purpose: &str) -> Self {
        let key = Zeroizing::new(derive(root, purpose, "key"));
        let commitment = derive(root, purpose, "commitment");
        Self { id, cipher: XChaCha20Poly1305::new(&Key::from(*key)), commitment }
    }

    /// Which key it is.
    pub fn id(&self) -> Uuid {
        self.id
    }

    fn encrypt(&self, plaintext: &[u8], place: &[u8]) -> ([u8; NONCE], Vec<u8>) {
        let nonce = random_bytes::<NONCE>();
        let payload = Payload { msg: plaintext, aad: place };
        // Fails only when the plaintext is longer than 256 GiB, which no limit of ours lets through.
        let ciphertext = self.cipher.encrypt(&XNonce::from(nonce), payload).unwrap_or_default();
        (nonce, ciphertext)
    }

    fn decrypt(&self, nonce: [u8; NONCE], mut sealed: Vec<u8>, commitment: &[u8], place: &[u8]) -> Result<Vec<u8>, CantOpen> {
        if !bool::from(commitment.ct_eq(&self.commitment)) {
            return Err(CantOpen::OtherKey);
        }
        self.cipher.decrypt_in_place(&XNonce::from(nonce), place, &mut sealed).map_err(|_| CantOpen::Changed)?;
        Ok(sealed)
    }

    /// Seals bytes for a place: format, commitment, nonce, ciphertext.
    pub fn seal(&self, plaintext: &[u8], place: &Place) -> Vec<u8> {
        let (nonce, ciphertext) = self.encrypt(plaintext, &place.0);
        [&[FORMAT][..], &self.commitment, &nonce, &ciphertext].concat()
    }

    /// Opens bytes sealed for that place.
    pub fn open(&self, sealed: &[u8], place: &Place) -> Result<Zeroizing<Vec<u8>>, CantOpen> {
        let (&format, rest) = sealed.split_first().ok_or(CantOpen::Form)?;
        let (commitment, rest) = rest.split_at_checked(COMMITMENT).ok_or(CantOpen::Form)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE>().ok_or(CantOpen::Form)?;
        if format != FORMAT {
            return Err(CantOpen::Form);
        }
        self.decrypt(*nonce, ciphertext.to_vec(), commitment, &place.0).map(Zeroizing::new)
    }

    /// Seals an event's JSON into the envelope that `payload` holds.
    pub fn seal_event(&self, event_id: EventId, plaintext: &[u8], place: &Place) -> String {
        let (nonce, ciphertext) = self.encrypt(plaintext, &place.0);
        let (n, c, m) = (BASE64.encode(nonce), BASE64.encode(ciphertext), BASE64.encode(self.commitment));
        let envelope = Envelope { v: FORMAT, k: self.id, e: event_id, n: &n, c: &c, m: &m };
        serde_json::to_string(&envelope).unwrap_or_default() // text and numbers always serialize
    }

    /// Opens an event's envelope.
    pub fn open_event(&self, envelope: &Envelope, place: &Place) -> Result<Vec<u8>, CantOpen> {
        if envelope.v != FORMAT {
            return Err(CantOpen::Form);
        }
        if envelope.k != self.id {
            return Err(CantOpen::OtherKey);
        }
        let (nonce, commitment) = (decode(envelope.n)?, decode::<COMMITMENT>(envelope.m)?);
        let sealed = BASE64.decode(envelope.c).map_err(|_| CantOpen::Form)?;
        self.decrypt(nonce, sealed, &commitment, &place.0)
    }
}

/// HKDF-SHA-256 of a root key for a purpose and a part of it.
pub fn derive(root: &[u8; 32], purpose: &str, part: &str) -> [u8; 32] {
    let mut out = [0; 32];
    let info = ["genie v1", purpose, part].join("/");
    // Fails only for outputs longer than 255 hashes.
    let _ = Hkdf::<Sha256>::new(None, root).expand(info.as_bytes(), &mut out);
    out
}

/// What `payload` holds: version, key id, event id, nonce, ciphertext, commitment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope<'a> {
    v: u8,
    /// Which key sealed it.
    pub k: Uuid,
    /// The event's id, so that readers of single streams know it too.
    pub e: EventId,
    n: &'a str,
    c: &'a str,
    m: &'a str,
}

fn decode<const N: usize>(text: &str) -> Result<[u8; N], CantOpen> {
    let mut bytes = [0; 48]; // a nonce or a commitment, and the room that the decoder asks for
    let length = BASE64.decode_slice(text, &mut bytes).map_err(|_| CantOpen::Form)?;
    bytes[..length].try_into().map_err(|_| CantOpen::Form)
}

/// Where sealed bytes belong; associated data, length-prefixed so that no two places look alike.
#[derive(Debug, Clone)]
pub struct Place(Vec<u8>);

impl Place {
    /// A place named by its parts.
    pub fn new(parts: &[&str]) -> Self {
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
        for part in parts {
            bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        Self(bytes)
    }

    /// The place of an event in the log.
    pub fn event(event_id: EventId, stream: &StreamId, sequence: u64, event_type: &str, owner: Uuid) -> Self {
        let (mut event_text, mut owner_text) = (Uuid::encode_buffer(), Uuid::encode_buffer());
        let event_id: &str = event_id.0.hyphenated().encode_lower(&mut event_text);
        let owner: &str = owner.hyphenated().encode_lower(&mut owner_text);
        Self::new(&["log v1", event_id, stream.kind.as_str(), &stream.id, &sequence.to_string(), event_type, owner])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SealingKey {
        SealingKey::derive(Uuid::from_u128(u128::from(byte)), &[byte; 32], "payload")
    }

    /// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    #[test]
    fn the_cipher_is_the_published_one() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
        };
        let key: [u8; 32] = hex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f").try_into().unwrap();
        let nonce: [u8; 24] = hex("404142434445464748494a4b4c4d4e4f5051525354555657").try_into().unwrap();
        let plaintext =
            b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
        let aad = hex("50515253c0c1c2c3c4c5c6c7");
        let sealed =
            XChaCha20Poly1305::new(&Key::from(key)).encrypt(&XNonce::from(nonce), Payload { msg: plaintext, aad: &aad }).unwrap();
        assert_eq!(sealed[..16], hex("bd6d179d3e83d43b9576579493c0e939"));
        assert_eq!(sealed[sealed.len() - 16..], hex("c0875924c1c7987947deafd8780acf49"));
    }

    #[test]
    fn any_flipped_bit_any_other_place_and_any_other_key_fail() {
        let (mine, other) = (key(1), key(2));
        let place = Place::new(&["secret", "a"]);
        let sealed = mine.seal(b"plaintext", &place);
        assert_eq!(mine.open(&sealed, &place).unwrap().as_slice(), b"plaintext");
        assert_eq!(mine.open(&sealed, &Place::new(&["secreta", ""])).unwrap_err(), CantOpen::Changed);
        assert_eq!(other.open(&sealed, &place).unwrap_err(), CantOpen::OtherKey);
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(mine.open(&flipped, &place).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(mine.open(&sealed[..length], &place).is_err(), "length {length}");
        }
    }

    #[test]
    fn the_key_shows_nothing_of_itself() {
        assert_eq!(format!("{:?}", key(1)), "SealingKey(00000000-0000-0000-0000-000000000001)");
    }
}
