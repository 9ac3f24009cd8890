//! Checks a signed token (JWT with HS256, RFC 7519). It must be signed by one key, come from one
//! issuer, and have an expiry, which is observed to the second.

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, errors::ErrorKind};
use serde::de::DeserializeOwned;

/// Why a token is refused. Each variant has its own code in Directus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadToken {
    Expired,
    Invalid,
}

pub struct Signature {
    key: DecodingKey,
    validation: Validation,
}

impl Signature {
    pub fn new(key: &[u8], issuer: &str) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[issuer]);
        validation.set_required_spec_claims(&["exp", "iss"]);
        validation.validate_nbf = true;
        validation.leeway = 0;
        Self {
            key: DecodingKey::from_secret(key),
            validation,
        }
    }

    /// The content of a good token.
    pub fn check<C: DeserializeOwned + Clone>(&self, token: &str) -> Result<C, BadToken> {
        decode::<C>(token, &self.key, &self.validation)
            .map(|token| token.claims)
            .map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature => BadToken::Expired,
                _ => BadToken::Invalid,
            })
    }

    /// Checks a token, whatever its content.
    pub fn is_good(&self, token: &str) -> Result<(), BadToken> {
        self.check::<serde_json::Value>(token).map(drop)
    }
}
