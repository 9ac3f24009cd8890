//! The secret of a deployment's invisible marks, and what is derived from it. The server and its media workers have it;
//! it never travels with a job.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use chacha20poly1305::{
    Key, KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use genie_marks::MarkKey;
use hkdf::Hkdf;
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::Sha256;

use crate::operations::FoundMark;

/// What its text begins with.
const PREFIX: &str = "gm_";
const NONCE: usize = 24;
/// Found or not, the number, the confidence.
const READING: usize = 9;

/// 32 bytes, the same for as long as marks are to be read.
pub struct MarkSecret(SecretBox<[u8; 32]>);

impl fmt::Debug for MarkSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MarkSecret(..)")
    }
}

impl MarkSecret {
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(SecretBox::new(Box::new(*secret)))
    }

    /// Reads what [`Self::text`] says.
    pub fn read(text: &str) -> Option<Self> {
        let bytes = BASE64.decode(text.strip_prefix(PREFIX)?).ok()?;
        let secret = <[u8; 32]>::try_from(bytes).ok()?;
        Some(Self(SecretBox::new(Box::new(secret))))
    }

    /// The secret in a form for settings.
    pub fn text(&self) -> SecretString {
        format!("{PREFIX}{}", BASE64.encode(self.0.expose_secret())).into()
    }

    /// The pattern of marks. Making it takes some milliseconds.
    pub fn pattern(&self) -> MarkKey {
        MarkKey::new(self.0.expose_secret())
    }

    /// Seals what was read for a job, so that the job's owner can't tell whether the mark is another user's. It has the
    /// same length whatever was read.
    pub fn seal_reading(&self, job: &str, found: Option<FoundMark>) -> String {
        let mut reading = [0; READING];
        if let Some(found) = found {
            reading[0] = 1;
            reading[1..5].copy_from_slice(&found.number.to_be_bytes());
            reading[5..].copy_from_slice(&found.confidence.to_be_bytes());
        }
        let nonce = rand::random::<[u8; NONCE]>();
        let payload = Payload {
            msg: &reading,
            aad: job.as_bytes(),
        };
        let sealed = self
            .cipher()
            .encrypt(&XNonce::from(nonce), payload)
            .expect("nine bytes are below the cipher's 256 GiB");
        BASE64.encode([&nonce[..], &sealed].concat())
    }

    /// Opens what was read for that job; `None` when it was not sealed for it with this secret.
    pub fn open_reading(&self, job: &str, sealed: &str) -> Option<Option<FoundMark>> {
        let bytes = BASE64.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE>()?;
        let payload = Payload {
            msg: sealed,
            aad: job.as_bytes(),
        };
        let opened = self.cipher().decrypt(&XNonce::from(*nonce), payload).ok()?;
        let (is_found, rest) = opened.split_first()?;
        let (number, confidence) = rest.split_first_chunk::<4>()?;
        let found = FoundMark {
            number: u32::from_be_bytes(*number),
            confidence: f32::from_be_bytes(confidence.try_into().ok()?),
        };
        Some((*is_found == 1).then_some(found))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        let mut key = Key::default();
        Hkdf::<Sha256>::new(None, self.0.expose_secret())
            .expand(b"genie mark 1: readings", &mut key)
            .expect("32 bytes are within what HKDF can give");
        XChaCha20Poly1305::new(&key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_from_its_own_text_alone_and_never_printed() {
        let secret = MarkSecret::new(&[7; 32]);
        let text = secret.text();
        let again = MarkSecret::read(text.expose_secret()).unwrap();
        assert_eq!(again.0.expose_secret(), &[7; 32]);
        assert_eq!(format!("{secret:?}"), "MarkSecret(..)");
        for bad in ["", "gm_", "gm_AAAA", "gk_AAAA", &text.expose_secret()[3..]] {
            assert!(MarkSecret::read(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_reading_opens_for_its_job_with_its_secret_and_does_not_tell_what_was_read() {
        let secret = MarkSecret::new(&[7; 32]);
        let found = FoundMark {
            number: 0xdead_beef,
            confidence: 0.75,
        };
        let sealed = secret.seal_reading("job", Some(found));
        let nothing = secret.seal_reading("job", None);
        assert_eq!(secret.open_reading("job", &sealed), Some(Some(found)));
        assert_eq!(secret.open_reading("job", &nothing), Some(None));
        assert_eq!(sealed.len(), nothing.len());
        assert_ne!(sealed, secret.seal_reading("job", Some(found)));
        assert_eq!(secret.open_reading("another job", &sealed), None);
        let other = MarkSecret::new(&[8; 32]);
        assert_eq!(other.open_reading("job", &sealed), None);
        for broken in ["", "AAAA", "?", &sealed[1..]] {
            assert_eq!(secret.open_reading("job", broken), None, "{broken}");
        }
    }
}
