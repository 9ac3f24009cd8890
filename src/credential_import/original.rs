//! Credentials as the original encrypted them: `v1:<iv>:<tag>:<ciphertext>` in hexadecimal,
//! AES-256-GCM (NIST SP 800-38D) without associated data. genie only opens them; it encrypts in
//! another way.

use aes_gcm::{
    AeadInOut, AesGcm, KeyInit, Nonce,
    aes::{
        Aes256,
        cipher::consts::{U12, U16},
    },
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

/// The version at the beginning of an encrypted text.
const VERSION: &str = "v1";
/// The length of the authentication tag, in bytes.
const TAG: usize = 16;

/// The key that the original encrypted credentials with.
pub struct OriginalKey(Zeroizing<[u8; 32]>);

/// Why a text does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadOriginal {
    #[error(
        "`credentials` is not `v1:<iv>:<tag>:<ciphertext>` in hexadecimal, with an iv of 12 or 16 bytes and a tag of 16"
    )]
    Form,
    #[error(
        "`credentials` does not open with CREDENTIALS_ENC_KEY_B64: another key encrypted it, or it was damaged"
    )]
    Key,
}

impl OriginalKey {
    /// Reads the setting: 32 bytes in base64.
    pub fn read(setting: &SecretString) -> Option<Self> {
        let bytes = Zeroizing::new(BASE64.decode(setting.expose_secret().trim()).ok()?);
        Some(Self(Zeroizing::new(bytes.as_slice().try_into().ok()?)))
    }

    pub fn open(&self, text: &str) -> Result<Zeroizing<Vec<u8>>, BadOriginal> {
        let mut parts = text.trim().split(':');
        let (Some(VERSION), Some(iv), Some(tag), Some(ciphertext), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(BadOriginal::Form);
        };
        let decode = |part: &str| hex::decode(part).map_err(|_| BadOriginal::Form);
        let iv = decode(iv)?;
        let tag = decode(tag)?;
        let ciphertext = decode(ciphertext)?;
        if tag.len() != TAG {
            return Err(BadOriginal::Form);
        }
        let mut opened = Zeroizing::new([ciphertext, tag].concat());
        let key = (&*self.0).into();
        let opens = match iv.len() {
            // SP 800-38D recommends 12 bytes; much Node code takes 16.
            12 => AesGcm::<Aes256, U12>::new(key).decrypt_in_place(&nonce(&iv)?, &[], &mut *opened),
            16 => AesGcm::<Aes256, U16>::new(key).decrypt_in_place(&nonce(&iv)?, &[], &mut *opened),
            _ => return Err(BadOriginal::Form),
        };
        opens.map(|()| opened).map_err(|_| BadOriginal::Key)
    }
}

fn nonce<N: aes_gcm::aead::array::ArraySize>(iv: &[u8]) -> Result<Nonce<N>, BadOriginal> {
    Nonce::<N>::try_from(iv).map_err(|_| BadOriginal::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(base64: &str) -> OriginalKey {
        OriginalKey::read(&SecretString::from(base64)).unwrap()
    }

    /// Made with `crypto.createCipheriv("aes-256-gcm", ...)` of Node 20, as the original did.
    const KEY: &str = "Dx4tPEtaaXiHlqW0w9Lh8A8eLTxLWml4h5altMPS4fA=";
    const NODE_12: &str = "v1:070707070707070707070707:929a620390ac598f74f49166555999ad:a61d0ba291db4f26de17fb4232900f423b5c8d6f2584dbdc724e945f6733826c2bacd0c258e56e3592";
    const NODE_16: &str = "v1:07070707070707070707070707070707:d205e5f243ebebd12ff01148604105a1:de2a7c5372c134de21a008186a5d4023cf5d247ba7c9a196c6ee093bc9418c4d0e937417a420e9b933";

    #[test]
    fn values_that_node_encrypted_open() {
        for sealed in [
            NODE_12,
            NODE_16,
            &NODE_12.to_uppercase().replace("V1", "v1"),
            &format!(" {NODE_12}\n"),
        ] {
            let opened = key(KEY).open(sealed).unwrap();
            assert_eq!(
                opened.as_slice(),
                r#"{"username":"ada","password":"pässword"}"#.as_bytes()
            );
        }
    }

    /// Test cases 13 to 15 of "The Galois/Counter Mode of Operation (GCM)", McGrew and Viega,
    /// appendix B.
    #[test]
    fn the_published_vectors_open() {
        let zero = key(&BASE64.encode([0; 32]));
        let iv = "0".repeat(24);
        assert_eq!(
            zero.open(&format!("v1:{iv}:530f8afbc74536b9a963b4f1c4cb738b:"))
                .unwrap()
                .as_slice(),
            b""
        );
        let one =
            format!("v1:{iv}:d0d1c8a799996bf0265b98b5d48ab919:cea7403d4d606b6e074ec5d3baf39d18");
        assert_eq!(zero.open(&one).unwrap().as_slice(), [0; 16]);
        let key_15 =
            hex::decode("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308")
                .unwrap();
        let fifteen = "v1:cafebabefacedbaddecaf888:b094dac5d93471bdec1a502270e3cc6c:522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad";
        let plaintext = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";
        assert_eq!(
            hex::encode(&*key(&BASE64.encode(key_15)).open(fifteen).unwrap()),
            plaintext
        );
    }

    #[test]
    fn a_changed_or_malformed_text_is_refused() {
        for (place, found) in NODE_12.char_indices() {
            let other = if found == '0' { '1' } else { '0' };
            let mut changed = NODE_12.to_owned();
            changed.replace_range(place..place + found.len_utf8(), &other.to_string());
            assert!(key(KEY).open(&changed).is_err(), "changed at {place}");
        }
        assert_eq!(
            key(&BASE64.encode([1; 32])).open(NODE_12),
            Err(BadOriginal::Key)
        );
        for text in [
            "",
            "v1",
            "v2:00:00:00",
            "v1:0:0:0",
            "v1:zz:zz:zz",
            "v1:::",
            &format!("{NODE_12}:00"),
            "v1:ä:ä:ä",
        ] {
            assert_eq!(key(KEY).open(text), Err(BadOriginal::Form), "{text}");
        }
        for length in 0..NODE_12.len() {
            assert!(
                key(KEY).open(&NODE_12[..length]).is_err(),
                "cut off at {length}"
            );
        }
        for bad in [
            "",
            "short",
            &BASE64.encode([0; 31]),
            &BASE64.encode([0; 33]),
            "not base64!",
        ] {
            assert!(
                OriginalKey::read(&SecretString::from(bad)).is_none(),
                "{bad}"
            );
        }
    }
}
