//! The content of Directus' access tokens, and the check of their signature when Directus' `SECRET`
//! is known.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use genie_events::{Timestamp, UserId};
use jsonwebtoken::{Algorithm, decode_header};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};
use uuid::Uuid;

use crate::identity::signature::{BadToken, Signature};

const ISSUER: &str = "directus";
/// The longest token that is read; Directus' own have about 300 bytes.
const MAX_TOKEN: usize = 4096;

/// The content of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectusClaims {
    pub user: UserId,
    /// The role at issue time.
    pub role: Option<Uuid>,
    /// True when the holder was an administrator at issue time.
    pub admin: bool,
    /// True when the token belongs to a session. A session may end before the token does: only
    /// Directus knows.
    pub in_session: bool,
    /// In seconds since 1970.
    expires: i64,
}

impl DirectusClaims {
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires <= now.unix_seconds()
    }
}

#[derive(Deserialize)]
struct ClaimsJson {
    id: Uuid,
    role: Option<Uuid>,
    #[serde(deserialize_with = "flag")]
    admin_access: bool,
    exp: i64,
    iss: String,
    #[serde(default)]
    session: Option<String>,
    /// Set in a link to one shared item, which stands for no user.
    #[serde(default)]
    share: Option<String>,
}

/// On some databases Directus 10 writes 0 and 1 for its flags.
fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Flag {
        Bool(bool),
        Number(u8),
    }
    Ok(match Flag::deserialize(from)? {
        Flag::Bool(flag) => flag,
        Flag::Number(number) => number == 1,
    })
}

impl ClaimsJson {
    fn claims(self) -> Result<DirectusClaims, BadToken> {
        if self.iss != ISSUER || self.share.is_some() {
            return Err(BadToken::Invalid);
        }
        let Self {
            id,
            role,
            admin_access: admin,
            exp: expires,
            session,
            ..
        } = self;
        Ok(DirectusClaims {
            user: UserId(id),
            role,
            admin,
            expires,
            in_session: session.is_some(),
        })
    }
}

/// Reads a token without checking its signature. The result only says whom to ask Directus about,
/// and until when. The header is checked, because a static token is any text that somebody chose
/// and may have another user's claims in its middle.
pub fn read(token: &str, now: Timestamp) -> Result<DirectusClaims, BadToken> {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(BadToken::Invalid);
    };
    if token.len() > MAX_TOKEN {
        return Err(BadToken::Invalid);
    }
    let payload = BASE64.decode(payload).map_err(|_| BadToken::Invalid)?;
    let claims = serde_json::from_slice::<ClaimsJson>(&payload)
        .map_err(|_| BadToken::Invalid)?
        .claims()?;
    let head = decode_header(token).map_err(|_| BadToken::Forged)?;
    if signature.is_empty() || head.alg != Algorithm::HS256 || head.typ.as_deref() != Some("JWT") {
        return Err(BadToken::Forged);
    }
    if claims.is_expired(now) {
        Err(BadToken::Expired)
    } else {
        Ok(claims)
    }
}

/// The check by Directus' `SECRET`, which signs its tokens.
pub fn signature(secret: &SecretString) -> Signature {
    Signature::new(secret.expose_secret().as_bytes(), ISSUER)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000_000_000);
    /// The check of the signature uses the real clock.
    const FAR: i64 = 99_999_999_999;

    fn claims() -> Value {
        json!({"id": Uuid::from_u128(7), "role": null, "app_access": true, "admin_access": false, "iat": 1, "exp": FAR, "iss": ISSUER})
    }
    fn with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[name] = value;
        claims
    }
    fn signed(claims: &Value, algorithm: Algorithm) -> String {
        encode(
            &Header::new(algorithm),
            claims,
            &EncodingKey::from_secret(b"a secret"),
        )
        .unwrap()
    }
    fn read_back(claims: &Value) -> Result<DirectusClaims, BadToken> {
        read(&signed(claims, Algorithm::HS256), NOW)
    }

    #[test]
    fn flags_are_words_or_numbers_and_a_role_may_be_missing() {
        for (flag, is_admin) in [
            (json!(0), false),
            (json!(1), true),
            (json!(false), false),
            (json!(true), true),
        ] {
            assert_eq!(
                read_back(&with("admin_access", flag)).unwrap().admin,
                is_admin
            );
        }
        assert_eq!(read_back(&claims()).unwrap().role, None);
        let role = Uuid::from_u128(9);
        assert_eq!(
            read_back(&with("role", json!(role))).unwrap().role,
            Some(role)
        );
        assert!(read_back(&with("session", json!("s"))).unwrap().in_session);
    }

    #[test]
    fn a_text_that_is_not_a_users_access_token_is_refused() {
        for (name, value) in [
            ("iss", json!("genie")),
            ("iss", json!(null)),
            ("exp", json!(null)),
            ("id", json!("someone")),
            ("share", json!("s")),
            ("admin_access", json!("yes")),
        ] {
            assert_eq!(
                read_back(&with(name, value)).unwrap_err(),
                BadToken::Invalid,
                "{name}"
            );
        }
        assert_eq!(
            read_back(&with("exp", json!(NOW.unix_seconds()))).unwrap_err(),
            BadToken::Expired
        );
        let good = signed(&claims(), Algorithm::HS256);
        let unsigned = format!("{}.", good.rsplit_once('.').unwrap().0);
        let (_, rest) = good.split_once('.').unwrap();
        let headless = format!("a.{rest}");
        let other = signed(&claims(), Algorithm::HS512);
        let untyped = format!("{}.{rest}", BASE64.encode(r#"{"alg":"HS256"}"#));
        let long = format!("{good}{}", "A".repeat(MAX_TOKEN));
        for bad in ["", "a-static-token", "a.b", "a.b.c", "a.b.c.d", &long] {
            assert_eq!(read(bad, NOW).unwrap_err(), BadToken::Invalid);
        }
        for forged in [&unsigned, &headless, &other, &untyped] {
            assert_eq!(read(forged, NOW).unwrap_err(), BadToken::Forged);
        }
    }

    #[test]
    fn only_the_secret_makes_a_good_signature() {
        let signature = |secret: &str| super::signature(&secret.into());
        let good = signed(&claims(), Algorithm::HS256);
        assert_eq!(signature("a secret").is_good(&good), Ok(()));
        assert_eq!(signature("another").is_good(&good), Err(BadToken::Forged));
        assert_eq!(
            signature("a secret").is_good(&signed(&claims(), Algorithm::HS512)),
            Err(BadToken::Forged)
        );
        let not_yet = signed(&with("nbf", json!(FAR)), Algorithm::HS256);
        assert_eq!(
            signature("a secret").is_good(&not_yet),
            Err(BadToken::Forged)
        );
        let head = BASE64.encode(r#"{"alg":"none","typ":"JWT"}"#);
        let none = format!("{head}.{}.x", BASE64.encode(claims().to_string()));
        assert_eq!(signature("a secret").is_good(&none), Err(BadToken::Forged));
        // A wrong signature wins over the expiry, as in Directus.
        let over = signed(&with("exp", json!(1)), Algorithm::HS256);
        assert_eq!(signature("a secret").is_good(&over), Err(BadToken::Expired));
        assert_eq!(signature("another").is_good(&over), Err(BadToken::Forged));
    }
}
