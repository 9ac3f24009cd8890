//! The second factor: one-time codes by time, six digits every 30 seconds over SHA-1, as authenticator apps expect (RFC 6238),
//! taken one step early or late. That a code is taken once, the account's rules see to.

use genie_events::Moment;
use genie_log::clock::random_bytes;
use secrecy::{ExposeSecret, SecretString};
use totp_rs::{Builder, Secret, Totp};
use zeroize::Zeroizing;

/// Whom authenticator apps show a code to be for.
const ISSUER: &str = "genie";
/// The longest secret, in bytes of its Base32 text.
const MAX_SECRET: usize = 128;

/// A secret that codes are made from.
pub struct TwoFactor(Totp);

impl TwoFactor {
    /// A new secret of 160 bits (RFC 4226, section 4).
    pub fn generate() -> Option<Self> {
        Self::from_bytes(random_bytes::<20>().to_vec())
    }

    /// The secret in the Base32 text that [`TwoFactor::text`] gave; `None` when it is none, or shorter than 128 bits.
    pub fn from_text(text: &SecretString) -> Option<Self> {
        let text = Some(text.expose_secret()).filter(|text| text.len() <= MAX_SECRET)?;
        Builder::new().with_secret(Secret::try_from_base32(text).ok()?).build().ok().map(Self)
    }

    /// The secret as the vault holds it.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        Builder::new().with_secret(Secret::from(bytes)).build().ok().map(Self)
    }

    /// The secret as the vault is to hold it.
    pub fn bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.secret().as_bytes().to_vec())
    }

    /// The secret for people to type.
    pub fn text(&self) -> String {
        self.0.secret().to_base32()
    }

    /// The secret for authenticator apps to scan.
    pub fn url(&self, account: &str) -> Option<String> {
        let account = account.replace(':', " "); // no colon may stand in it
        let named = Builder::new().with_secret(self.bytes().to_vec()).with_account_name(account).with_issuer(Some(ISSUER));
        named.build().ok()?.to_url().ok()
    }

    /// The time step that a code is right for, now or a step away; compared in constant time.
    pub fn step_of(&self, code: &SecretString, now: Moment) -> Option<u64> {
        self.0.check(code.expose_secret(), u64::try_from(now.unix_seconds()).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_standard() {
        // RFC 6238, appendix B, cut to six digits.
        let two_factor = TwoFactor::from_bytes(b"12345678901234567890".to_vec()).unwrap();
        for (seconds, code, step) in
            [(59, "287082", 1), (1_111_111_109, "081804", 37_037_036), (20_000_000_000, "353130", 666_666_666)]
        {
            let at = |seconds| Moment(0).plus_seconds(seconds);
            assert_eq!(two_factor.step_of(&code.into(), at(seconds)), Some(step));
            assert_eq!(two_factor.step_of(&code.into(), at(seconds + 30)), Some(step), "one step late");
            assert_eq!(two_factor.step_of(&code.into(), at(seconds + 60)), None);
        }
        for wrong in ["", "28708", "2870822", "28708a", "２８７０８２"] {
            assert_eq!(two_factor.step_of(&wrong.into(), Moment(0).plus_seconds(59)), None, "{wrong}");
        }
    }

    #[test]
    fn a_secret_is_text_that_reads_back_and_is_long_enough() {
        let two_factor = TwoFactor::generate().unwrap();
        let read = TwoFactor::from_text(&two_factor.text().into()).unwrap();
        assert_eq!(read.bytes(), two_factor.bytes());
        let url = two_factor.url("ada+work@example.com").unwrap();
        assert!(url.starts_with("otpauth://totp/genie:") && url.contains(&two_factor.text()), "{url}");
        for bad in ["", "not base32!", "JBSWY3DPEHPK3PXP", &"A".repeat(129)] {
            assert!(TwoFactor::from_text(&bad.into()).is_none(), "{bad}");
        }
    }
}
