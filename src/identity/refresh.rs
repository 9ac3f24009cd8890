//! Refresh tokens: 48 bytes in 64 characters, the length of Directus' own. The first 16 bytes name
//! the family. The next 16 are random, or follow from the previous token. The last 16 are an HMAC
//! over both, under a key derived from the system's data key. So genie recognizes every token that
//! it issued, however long ago, without storing it. And every server makes the same successor of
//! the same token.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use genie_log::{clock::random_bytes, keys::sha256_hex, sessions::MOST_ROTATED};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zeroize::Zeroizing;

/// How long a refresh token is valid, in seconds. Each refresh starts the time anew.
pub const REFRESH_SECONDS: i64 = 7 * 24 * 60 * 60;

/// Makes refresh tokens, and recognizes its own.
pub struct RefreshTokens {
    key: Zeroizing<[u8; 32]>,
}

/// A refresh token that genie issued.
pub struct RefreshToken {
    /// The family: all tokens that follow from one login.
    pub family: Uuid,
    /// The token as clients hold it.
    pub text: SecretString,
}

impl RefreshToken {
    /// The hash by which the store knows the token.
    pub fn hash(&self) -> String {
        sha256_hex(self.text.expose_secret().as_bytes())
    }
}

impl RefreshTokens {
    pub fn new(key: &[u8; 32]) -> Self {
        Self {
            key: Zeroizing::new(*key),
        }
    }

    /// The first token of a family.
    pub fn first(&self, family: Uuid) -> RefreshToken {
        self.token(family, &random_bytes::<16>())
    }

    /// The next token, always the same for the same token.
    pub fn successor(&self, token: &RefreshToken) -> RefreshToken {
        self.token(
            token.family,
            &self.mac(b"successor", token.text.expose_secret().as_bytes()),
        )
    }

    /// The token of this hash that follows from a replaced one. `None` when none of the next does.
    pub fn newest(&self, replaced: &RefreshToken, hash: &str) -> Option<RefreshToken> {
        let mut token = self.successor(replaced);
        for _ in 0..MOST_ROTATED {
            if token.hash() == hash {
                return Some(token);
            }
            token = self.successor(&token);
        }
        None
    }

    /// Reads a token that a client presents; `None` when genie did not issue it.
    pub fn read(&self, text: &SecretString) -> Option<RefreshToken> {
        let bytes = Zeroizing::new(BASE64.decode(text.expose_secret()).ok()?);
        let (said, tag) = bytes.split_at_checked(32)?;
        let is_ours = tag.len() == 16 && bool::from(self.mac(b"token", said).ct_eq(tag));
        let family = Uuid::from_slice(&said[..16]).ok()?;
        is_ours.then(|| RefreshToken {
            family,
            text: text.clone(),
        })
    }

    fn token(&self, family: Uuid, drawn: &[u8; 16]) -> RefreshToken {
        let said = [*family.as_bytes(), *drawn].concat();
        let bytes = Zeroizing::new([said.as_slice(), &self.mac(b"token", &said)].concat());
        RefreshToken {
            family,
            text: BASE64.encode(&*bytes).into(),
        }
    }

    fn mac(&self, what: &[u8], bytes: &[u8]) -> [u8; 16] {
        let mut tag = [0; 16];
        let mac = Hmac::<Sha256>::new_from_slice(self.key.as_slice())
            .expect("HMAC takes keys of any length");
        tag.copy_from_slice(
            &mac.chain_update(what)
                .chain_update(bytes)
                .finalize()
                .into_bytes()[..16],
        );
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_recognized_by_its_issuer_and_has_one_successor() {
        let ours = RefreshTokens::new(&[1; 32]);
        let theirs = RefreshTokens::new(&[2; 32]);
        let first = ours.first(Uuid::from_u128(7));
        assert_eq!(first.text.expose_secret().len(), 64);
        let read = ours.read(&first.text).unwrap();
        assert_eq!((read.family, read.hash()), (first.family, first.hash()));
        assert!(theirs.read(&first.text).is_none());
        let one = ours.successor(&first);
        let two = ours.successor(&read);
        assert_eq!(one.text.expose_secret(), two.text.expose_secret());
        assert_eq!(ours.read(&one.text).unwrap().family, first.family);
        assert_ne!(ours.successor(&one).hash(), one.hash());
        assert_ne!(ours.first(Uuid::from_u128(7)).hash(), first.hash());
        let mut last = ours.successor(&first);
        for _ in 1..MOST_ROTATED {
            last = ours.successor(&last);
        }
        let newest = |hash: &str| ours.newest(&first, hash).map(|token| token.hash());
        assert_eq!(newest(&one.hash()), Some(one.hash()));
        assert_eq!(newest(&last.hash()), Some(last.hash()));
        assert_eq!(newest(&first.hash()), None);
    }

    #[test]
    fn a_changed_token_is_not_recognized() {
        let ours = RefreshTokens::new(&[1; 32]);
        let bytes = BASE64
            .decode(ours.first(Uuid::from_u128(7)).text.expose_secret())
            .unwrap();
        for n in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[n] ^= 1;
            assert!(ours.read(&BASE64.encode(&changed).into()).is_none(), "{n}");
            assert!(
                ours.read(&BASE64.encode(&bytes[..n]).into()).is_none(),
                "{n}"
            );
        }
        assert!(ours.read(&"not a token".into()).is_none());
    }
}
