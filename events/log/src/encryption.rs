//! Sealed bytes: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) under a fresh random 192-bit
//! nonce. Associated data binds a ciphertext to its place. A commitment binds it to its key, which
//! Poly1305 alone does not do.

use chacha20poly1305::{
    Key, KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, AeadInOut, Payload},
};
use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::clock::random_bytes;

const NONCE: usize = 24;
const COMMITMENT: usize = 32;
/// The version of both sealed forms, the first value in each.
const FORMAT: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CantOpen {
    /// This release does not know the form.
    #[error("the sealed form is unknown or cut short")]
    Form,
    #[error("it was sealed under another key")]
    OtherKey,
    /// The bytes were changed, or moved from another place.
    #[error("it was changed or moved since it was sealed")]
    Changed,
}

/// A key that seals and opens. It never prints itself.
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
    /// Derives the key for `purpose` from a root key by HKDF-SHA-256 (RFC 5869). The commitment is
    /// derived beside it: two roots with one commitment would be a collision of SHA-256.
    pub fn derive(id: Uuid, root: &[u8; 32], purpose: &str) -> Self {
        let key = Zeroizing::new(derive(root, purpose, "key"));
        let commitment = derive(root, purpose, "commitment");
        Self {
            id,
            cipher: XChaCha20Poly1305::new(&Key::from(*key)),
            commitment,
        }
    }

    pub fn id(&self) -> Uuid {
        self.id
    }

    fn encrypt(&self, plaintext: &[u8], place: &[u8]) -> ([u8; NONCE], Vec<u8>) {
        let nonce = random_bytes::<NONCE>();
        let payload = Payload {
            msg: plaintext,
            aad: place,
        };
        let ciphertext = self
            .cipher
            .encrypt(&XNonce::from(nonce), payload)
            .expect("the limits keep every plaintext below the cipher's 256 GiB");
        (nonce, ciphertext)
    }

    fn decrypt(
        &self,
        nonce: [u8; NONCE],
        mut sealed: Vec<u8>,
        commitment: &[u8],
        place: &[u8],
    ) -> Result<Vec<u8>, CantOpen> {
        if !bool::from(commitment.ct_eq(&self.commitment)) {
            return Err(CantOpen::OtherKey);
        }
        self.cipher
            .decrypt_in_place(&XNonce::from(nonce), place, &mut sealed)
            .map_err(|_| CantOpen::Changed)?;
        Ok(sealed)
    }

    /// Seals bytes for a place: format, commitment, nonce, ciphertext.
    pub fn seal(&self, plaintext: &[u8], place: &Place) -> Vec<u8> {
        let (nonce, ciphertext) = self.encrypt(plaintext, &place.0);
        [&[FORMAT][..], &self.commitment, &nonce, &ciphertext].concat()
    }

    /// Opens bytes that were sealed for that place.
    pub fn open(&self, sealed: &[u8], place: &Place) -> Result<Zeroizing<Vec<u8>>, CantOpen> {
        let (&format, rest) = sealed.split_first().ok_or(CantOpen::Form)?;
        let (commitment, rest) = rest.split_at_checked(COMMITMENT).ok_or(CantOpen::Form)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE>().ok_or(CantOpen::Form)?;
        if format != FORMAT {
            return Err(CantOpen::Form);
        }
        self.decrypt(*nonce, ciphertext.to_vec(), commitment, &place.0)
            .map(Zeroizing::new)
    }
}

/// HKDF-SHA-256 of a root key, for a purpose and a part of it.
pub fn derive(root: &[u8; 32], purpose: &str, part: &str) -> [u8; 32] {
    let mut out = [0; 32];
    let info = ["genie v1", purpose, part].join("/");
    Hkdf::<Sha256>::new(None, root)
        .expand(info.as_bytes(), &mut out)
        .expect("32 bytes are fewer than the 255 hashes that HKDF gives");
    out
}

/// The place that sealed bytes belong to. It is the associated data, length-prefixed so that no two
/// places look alike.
#[derive(Debug, Clone)]
pub struct Place(Vec<u8>);

impl Place {
    /// A place named by its parts.
    pub fn new(parts: &[&str]) -> Self {
        let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
        Self::of_parts(&parts)
    }

    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
        for part in parts {
            bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEALED_BEFORE: &str = "019273d2c16ae2a9171d3a3f6d9c08a14355eeac1a53d8eb59d0c483f9314172dfdbb769cd9c87759c0b7223ff96653f \
        b88360b469a06bceb77a69bf790b414b1ce4db4bd5e6fe374dd2d4640941a84cbb4de2144ae7fea35ae00f34b9";

    fn key(byte: u8) -> SealingKey {
        SealingKey::derive(Uuid::from_u128(u128::from(byte)), &[byte; 32], "payload")
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: String = hex.split_whitespace().collect();
        (0..hex.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
            .collect()
    }

    /// draft-irtf-cfrg-xchacha-03, section 2.2.1.
    #[test]
    fn the_keys_of_the_cipher_are_derived_as_published() {
        let key: [u8; 32] = std::array::from_fn(|n| n as u8);
        let nonce: [u8; 16] = bytes("000000090000004a0000000031415927")
            .try_into()
            .unwrap();
        let derived = chacha20::hchacha::<chacha20::R20>(&key.into(), &nonce.into());
        assert_eq!(
            derived.as_slice(),
            bytes("82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc")
        );
    }

    /// The same draft, appendix A.3.1.
    #[test]
    fn the_cipher_is_the_published_one() {
        let key: [u8; 32] =
            bytes("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f")
                .try_into()
                .unwrap();
        let nonce: [u8; 24] = bytes("404142434445464748494a4b4c4d4e4f5051525354555657")
            .try_into()
            .unwrap();
        let plaintext =
            b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
        let aad = bytes("50515253c0c1c2c3c4c5c6c7");
        let sealed = XChaCha20Poly1305::new(&Key::from(key))
            .encrypt(
                &XNonce::from(nonce),
                Payload {
                    msg: plaintext,
                    aad: &aad,
                },
            )
            .unwrap();
        let published = "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb \
             731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452 \
             2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9 \
             21f9664c97637da9768812f615c68b13b52e c0875924c1c7987947deafd8780acf49";
        assert_eq!(sealed, bytes(published));
    }

    /// RFC 5869, appendices A.1 to A.3.
    #[test]
    fn keys_are_derived_by_the_published_function() {
        let ascending = |from: u8, to: u8| (from..=to).collect::<Vec<u8>>();
        let long = "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09 \
             da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87";
        for (root, salt, info, published) in [
            (
                vec![0x0b; 22],
                ascending(0x00, 0x0c),
                ascending(0xf0, 0xf9),
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            ),
            (
                ascending(0x00, 0x4f),
                ascending(0x60, 0xaf),
                ascending(0xb0, 0xff),
                long,
            ),
            (
                vec![0x0b; 22],
                vec![],
                vec![],
                "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
            ),
        ] {
            let published = bytes(published);
            let mut derived = vec![0; published.len()];
            Hkdf::<Sha256>::new(Some(&salt), &root)
                .expand(&info, &mut derived)
                .unwrap();
            assert_eq!(derived, published);
        }
    }

    /// Invariant: later releases open everything that was sealed. The derivation of keys and the
    /// sealed forms never change.
    #[test]
    fn bytes_that_an_earlier_release_sealed_open() {
        let key = key(1);
        let place = Place::new(&["secret", "a"]);
        let sealed = bytes(SEALED_BEFORE);
        assert_eq!(
            key.open(&sealed, &place).unwrap().as_slice(),
            b"sealed on 2026-11-23"
        );
    }

    #[test]
    fn any_flipped_bit_any_other_place_and_any_other_key_fail() {
        let (mine, other) = (key(1), key(2));
        let place = Place::new(&["secret", "a"]);
        let sealed = mine.seal(b"plaintext", &place);
        assert_eq!(mine.open(&sealed, &place).unwrap().as_slice(), b"plaintext");
        assert_eq!(
            mine.open(&sealed, &Place::new(&["secreta", ""]))
                .unwrap_err(),
            CantOpen::Changed
        );
        assert_eq!(other.open(&sealed, &place).unwrap_err(), CantOpen::OtherKey);
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(mine.open(&flipped, &place).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(
                mine.open(&sealed[..length], &place).is_err(),
                "length {length}"
            );
        }
    }

    #[test]
    fn the_key_does_not_print_itself() {
        assert_eq!(
            format!("{:?}", key(1)),
            "SealingKey(00000000-0000-0000-0000-000000000001)"
        );
    }
}
