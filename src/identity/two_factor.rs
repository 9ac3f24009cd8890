//! The second factor: time-based one-time codes, six digits every 30 seconds over SHA-1, as
//! authenticator apps expect (RFC 6238). A code is accepted one step early or late. The account's
//! rules accept each code once.
//!
//! A secret has 160 bits (RFC 4226, section 4): 96 random ones, and an HMAC over them and their
//! user, under a key derived from the system's data key. So only a secret that genie issued to that
//! user, against the password, can be enabled. A stolen access token alone cannot lock the owner
//! out with a secret of the thief's.

use genie_events::{Timestamp, UserId, typed_text};
use genie_log::clock::random_bytes;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use totp_rs::{Builder, Secret, Totp};
use zeroize::Zeroizing;

/// The issuer that authenticator apps show.
const ISSUER: &str = "genie";
/// A secret's bytes in Base32.
const TEXT_LENGTH: usize = 32;

/// The secret that codes are computed from.
pub struct OtpSecret(Totp);

impl OtpSecret {
    pub fn generate(key: &[u8; 32], user: UserId) -> Option<Self> {
        let drawn = random_bytes::<12>();
        Self::from_bytes([drawn.as_slice(), &tag(key, user, &drawn)].concat())
    }

    /// Reads the Base32 text of [`OtpSecret::text`], in the groups and the case in which apps show it; `None` when genie
    /// did not issue it to this user.
    pub fn from_text(text: &SecretString, key: &[u8; 32], user: UserId) -> Option<Self> {
        let mut text = Zeroizing::new(typed_text::code(text.expose_secret()));
        text.make_ascii_uppercase();
        let text = text.trim_end_matches('='); // some apps fill it up (RFC 4648)
        let text = Some(text).filter(|text| text.len() == TEXT_LENGTH)?;
        let read = Self::from_bytes(Secret::try_from_base32(text).ok()?.as_bytes().to_vec())?;
        let bytes = read.bytes();
        let (drawn, given) = bytes.split_at_checked(12)?;
        bool::from(tag(key, user, drawn).ct_eq(given)).then_some(read)
    }

    /// Reads a secret from the vault's bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        Builder::new()
            .with_secret(Secret::from(bytes))
            .build()
            .ok()
            .map(Self)
    }

    /// The bytes for the vault.
    pub fn bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.secret().as_bytes().to_vec())
    }

    /// The text for people to type.
    pub fn text(&self) -> String {
        self.0.secret().to_base32()
    }

    /// The URL for authenticator apps to scan.
    pub fn url(&self, account: &str) -> Option<String> {
        let account = account.replace(':', " "); // the label separates issuer and account by a colon
        let named = Builder::new()
            .with_secret(self.bytes().to_vec())
            .with_account_name(account)
            .with_issuer(Some(ISSUER));
        named.build().ok()?.to_url().ok()
    }

    /// The time step of a right code, now or one step away. Compares in constant time. The code may have the spaces and
    /// hyphens with which apps show it, and the digits of any keyboard.
    pub fn step_of(&self, code: &SecretString, now: Timestamp) -> Option<u64> {
        let code = Zeroizing::new(typed_text::code(code.expose_secret()));
        self.0.check(&code, u64::try_from(now.unix_seconds()).ok()?)
    }
}

fn tag(key: &[u8; 32], user: UserId, drawn: &[u8]) -> [u8; 8] {
    let mut tag = [0; 8];
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    tag.copy_from_slice(
        &mac.chain_update(user.0.as_bytes())
            .chain_update(drawn)
            .finalize()
            .into_bytes()[..8],
    );
    tag
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn codes_match_the_vectors_of_the_standard() {
        // RFC 6238, appendix B, cut to six digits.
        let two_factor = OtpSecret::from_bytes(b"12345678901234567890".to_vec()).unwrap();
        for (seconds, code, step) in [
            (59, "287082", 1),
            (1_111_111_109, "081804", 37_037_036),
            (20_000_000_000, "353130", 666_666_666),
        ] {
            let at = |seconds| Timestamp(0).plus_seconds(seconds);
            assert_eq!(two_factor.step_of(&code.into(), at(seconds)), Some(step));
            assert_eq!(
                two_factor.step_of(&code.into(), at(seconds + 30)),
                Some(step),
                "one step late"
            );
            assert_eq!(two_factor.step_of(&code.into(), at(seconds + 60)), None);
        }
        for right in [
            "287 082",
            "287-082",
            " 287082\n",
            "287\u{a0}082",
            "287\u{2009}082",
            "287\u{2013}082",
            "\u{200b}287082\u{feff}",
            "２８７０８２",
            "\u{662}\u{668}\u{667}\u{660}\u{668}\u{662}",
            "\u{6f2}\u{6f8}\u{6f7} \u{6f0}\u{6f8}\u{6f2}",
        ] {
            assert_eq!(
                two_factor.step_of(&right.into(), Timestamp(0).plus_seconds(59)),
                Some(1),
                "{right}"
            );
        }
        for wrong in ["", "28708", "2870822", "28708a", "287.082", "+287082"] {
            assert_eq!(
                two_factor.step_of(&wrong.into(), Timestamp(0).plus_seconds(59)),
                None,
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_secret_is_valid_for_the_user_to_whom_it_was_issued() {
        let key = [1; 32];
        let ada = UserId(Uuid::from_u128(1));
        let bob = UserId(Uuid::from_u128(2));
        let two_factor = OtpSecret::generate(&key, ada).unwrap();
        let text = SecretString::from(two_factor.text());
        assert_eq!(
            OtpSecret::from_text(&text, &key, ada).unwrap().bytes(),
            two_factor.bytes()
        );
        let shown = two_factor.text().to_lowercase();
        for typed in [
            format!("{} {}", &shown[..16], &shown[16..]),
            format!(
                "{}-{}\u{a0}{}====",
                &shown[..4],
                &shown[4..20],
                &shown[20..]
            ),
            format!("\u{feff}{}\n", two_factor.text()),
        ] {
            let read = OtpSecret::from_text(&typed.clone().into(), &key, ada);
            assert!(
                read.is_some_and(|read| read.bytes() == two_factor.bytes()),
                "{typed}"
            );
        }
        assert!(OtpSecret::from_text(&text, &key, bob).is_none());
        assert!(OtpSecret::from_text(&text, &[2; 32], ada).is_none());
        let url = two_factor.url("ada+work@example.com").unwrap();
        assert!(
            url.starts_with("otpauth://totp/genie:") && url.contains(&two_factor.text()),
            "{url}"
        );
        for bad in [
            "",
            "not base32!",
            "JBSWY3DPEHPK3PXP",
            &"A".repeat(32),
            &"A".repeat(129),
        ] {
            assert!(
                OtpSecret::from_text(&bad.into(), &key, ada).is_none(),
                "{bad}"
            );
        }
    }
}
