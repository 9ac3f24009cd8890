//! Access tokens: HS256 for 15 minutes, with the claims of Directus' tokens and the login's id.

use std::sync::Arc;

use genie_events::{Timestamp, UserId};
use genie_log::Clock;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::identity::signature::{BadToken, Signature};

/// How long an access token is valid.
pub const ACCESS_SECONDS: i64 = 15 * 60;
const ISSUER: &str = "directus";
/// The id of the signing key. There is only one.
const KEY_ID: &str = "k1";
/// The most good tokens that are remembered.
const MAX_REMEMBERED: u64 = 10_000;

/// The content of an access token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccessClaims {
    pub id: UserId,
    /// The role at issue time.
    pub role: Option<String>,
    app_access: bool,
    admin_access: bool,
    iat: i64,
    exp: i64,
    iss: String,
    /// The login that the token belongs to.
    pub sid: Uuid,
}

pub struct Tokens {
    signing: EncodingKey,
    signature: Signature,
    /// The claims of good tokens, by the token's SHA-256. A signature stays good, so only the expiry
    /// is looked at again.
    good: Cache<[u8; 32], Arc<AccessClaims>>,
}

impl Tokens {
    pub fn new(key: &[u8]) -> Self {
        Self {
            signing: EncodingKey::from_secret(key),
            signature: Signature::new(key, ISSUER),
            good: Cache::new(MAX_REMEMBERED),
        }
    }

    /// Makes an access token.
    pub fn access(
        &self,
        user: UserId,
        role: &str,
        admin: bool,
        login: Uuid,
        now: Timestamp,
    ) -> Option<String> {
        let iat = now.unix_seconds();
        let claims = AccessClaims {
            id: user,
            role: Some(role.to_owned()),
            app_access: true,
            admin_access: admin,
            iat,
            exp: iat + ACCESS_SECONDS,
            iss: ISSUER.to_owned(),
            sid: login,
        };
        let header = Header {
            kid: Some(KEY_ID.to_owned()),
            ..Header::new(Algorithm::HS256)
        };
        encode(&header, &claims, &self.signing).ok()
    }

    /// Reads a good token.
    pub fn check(&self, token: &str) -> Result<Arc<AccessClaims>, BadToken> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(claims) = self.good.get(&hash) {
            let has_expired = claims.exp < Clock::system().now().unix_seconds();
            return if has_expired {
                Err(BadToken::Expired)
            } else {
                Ok(claims)
            };
        }
        let claims: Arc<AccessClaims> = Arc::new(self.signature.check(token)?);
        self.good.insert(hash, Arc::clone(&claims));
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        genie_log::Clock::system().now()
    }

    #[test]
    fn a_token_is_valid_for_its_time_and_under_its_key() {
        let tokens = Tokens::new(b"one key");
        let user = UserId(Uuid::from_u128(7));
        let token = tokens
            .access(user, "creator", false, Uuid::nil(), now())
            .unwrap();
        assert_eq!(tokens.check(&token).unwrap().id, user);
        assert_eq!(
            Tokens::new(b"another").check(&token).unwrap_err(),
            BadToken::Forged
        );
        let old = tokens
            .access(
                user,
                "creator",
                false,
                Uuid::nil(),
                now().plus_seconds(-ACCESS_SECONDS - 5),
            )
            .unwrap();
        assert_eq!(tokens.check(&old).unwrap_err(), BadToken::Expired);
        assert_eq!(tokens.check("nonsense").unwrap_err(), BadToken::Invalid);
    }

    #[test]
    fn a_remembered_token_expires_and_stands_for_no_other() {
        let tokens = Tokens::new(b"one key");
        let user = UserId(Uuid::from_u128(7));
        let ends_now = now().plus_seconds(1 - ACCESS_SECONDS);
        let token = tokens
            .access(user, "creator", false, Uuid::nil(), ends_now)
            .unwrap();
        assert_eq!(tokens.check(&token).unwrap().id, user);
        assert_eq!(tokens.check(&token).unwrap().id, user, "from memory");
        let (signed, _) = token.rsplit_once('.').unwrap();
        let forged = format!("{signed}.{}", "A".repeat(43));
        assert_eq!(tokens.check(&forged).unwrap_err(), BadToken::Forged);
        let mut answer = Ok(());
        while answer.is_ok() {
            answer = tokens.check(&token).map(drop);
        }
        assert_eq!(answer, Err(BadToken::Expired));
    }

    #[test]
    fn other_issuers_and_tokens_without_an_expiry_are_refused() {
        let key = EncodingKey::from_secret(b"one key");
        let claims = serde_json::json!({"id": Uuid::from_u128(7), "role": null, "app_access": true, "admin_access": true, "iat": 0});
        for (issuer, end, why) in [
            (Some("someone"), Some(i64::MAX / 2), BadToken::Invalid),
            (Some(ISSUER), None, BadToken::Forged),
            (None, Some(i64::MAX / 2), BadToken::Invalid),
        ] {
            let mut claims = claims.clone();
            issuer.inspect(|issuer| claims["iss"] = (*issuer).into());
            end.inspect(|end| claims["exp"] = (*end).into());
            let token = encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
            assert_eq!(Tokens::new(b"one key").check(&token).unwrap_err(), why);
        }
    }
}
