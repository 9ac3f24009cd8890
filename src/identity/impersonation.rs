//! Tokens of impersonations. They hold both ids, have their own key, and are never passed on to
//! Directus.

use genie_events::UserId;
use genie_log::impersonations::Impersonation;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::identity::signature::{BadToken, Signature};

/// How long an impersonation lasts.
pub const SECONDS: i64 = 15 * 60;
const ISSUER: &str = "genie";

/// The content of an impersonation token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImpersonationClaims {
    pub session: Uuid,
    /// The user for whom the administrator acts.
    pub user: UserId,
    /// The administrator who acts.
    pub by: UserId,
    exp: i64,
    iss: String,
}

pub struct ImpersonationTokens {
    signing: EncodingKey,
    signature: Signature,
}

impl ImpersonationTokens {
    pub fn new(key: &[u8]) -> Self {
        Self {
            signing: EncodingKey::from_secret(key),
            signature: Signature::new(key, ISSUER),
        }
    }

    pub fn sign(&self, of: &Impersonation) -> Option<String> {
        let session = of.session;
        let user = of.user;
        let by = of.by;
        let exp = of.expires_at.unix_seconds();
        encode(
            &Header::new(Algorithm::HS256),
            &ImpersonationClaims {
                session,
                user,
                by,
                exp,
                iss: ISSUER.to_owned(),
            },
            &self.signing,
        )
        .ok()
    }

    /// Reads a good token. The impersonation may have ended meanwhile: its row says so.
    pub fn check(&self, token: &str) -> Result<ImpersonationClaims, BadToken> {
        self.signature.check(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::token::Tokens;

    #[test]
    fn a_token_names_both_users_and_never_passes_for_an_access_token() {
        let tokens = ImpersonationTokens::new(b"one key");
        let now = genie_log::Clock::system().now();
        let [session, user, by] = [1, 2, 3].map(Uuid::from_u128);
        let lasting = Impersonation {
            session,
            user: UserId(user),
            by: UserId(by),
            expires_at: now.plus_seconds(SECONDS),
        };
        let token = tokens.sign(&lasting).unwrap();
        let claims = tokens.check(&token).unwrap();
        assert_eq!(
            (claims.session, claims.user, claims.by),
            (session, lasting.user, lasting.by)
        );
        let over = Impersonation {
            expires_at: now.plus_seconds(-5),
            ..lasting
        };
        assert_eq!(
            tokens.check(&tokens.sign(&over).unwrap()).unwrap_err(),
            BadToken::Expired
        );
        // Neither kind of token passes for the other, whatever the keys.
        assert_eq!(
            Tokens::new(b"one key").check(&token).unwrap_err(),
            BadToken::Invalid
        );
        let users = Tokens::new(b"one key")
            .access(lasting.user, "creator", false, session, now)
            .unwrap();
        assert_eq!(tokens.check(&users).unwrap_err(), BadToken::Invalid);
        assert_eq!(
            ImpersonationTokens::new(b"another")
                .check(&token)
                .unwrap_err(),
            BadToken::Forged
        );
    }
}
