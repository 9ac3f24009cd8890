//! Credentials that a user's downloads log in with: a name and a password, or a cookie file.

use actix_web::web::Data;
use genie_actors::credentials::{
    CredentialDetails, MAX_COOKIE_BYTES, MAX_SECRET_BYTES, Plaintext, StoreTarget,
};
use genie_events::{SecretText, cookies, credential::CredentialKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{StoredCredentialAnswer, checked_platform, checked_username};
use crate::{
    app::App,
    http::{
        body::Body, caller::UserCaller, error::ApiError, idempotency::IdempotencyKey,
        response::Written, words,
    },
};

#[derive(Debug, Deserialize, ToSchema)]
pub struct NewDownloadCredential {
    #[schema(min_length = 1, max_length = 64)]
    platform: String,
    #[schema(value_type = words::DownloadKind)]
    kind: String,
    /// Required with kind `password`.
    #[schema(max_length = 200)]
    username: Option<String>,
    /// Required with kind `password`.
    #[schema(value_type = Option<String>)]
    password: Option<SecretText>,
    /// The cookie file. Required with kind `cookies`.
    #[schema(value_type = Option<String>)]
    cookies: Option<SecretText>,
}

/// The sealed part. A reveal shows it again.
#[derive(Serialize)]
#[serde(untagged)]
enum SealedDownload<'a> {
    Password {
        username: &'a str,
        password: &'a SecretText,
    },
    Cookies {
        cookies: SecretText,
    },
}

impl NewDownloadCredential {
    fn secret(&self) -> Result<(CredentialKind, Plaintext), ApiError> {
        let missing = |field: &str| ApiError::field(format!("`{field}` is missing"));
        match self.kind.as_str() {
            "password" => {
                let username = self
                    .username
                    .as_deref()
                    .ok_or_else(|| missing("username"))?;
                let password = self.password.as_ref().ok_or_else(|| missing("password"))?;
                if username.is_empty() || password.expose().is_empty() {
                    return Err(ApiError::field(
                        "`username` and `password` must not be empty",
                    ));
                }
                let sealed = SealedDownload::Password { username, password };
                Ok((
                    CredentialKind::Password,
                    Plaintext::of("password", &sealed, MAX_SECRET_BYTES)?,
                ))
            }
            "cookies" => {
                let cookies = self.cookies.as_ref().ok_or_else(|| missing("cookies"))?;
                let sealed = SealedDownload::Cookies {
                    cookies: cookies::checked_file(cookies)?,
                };
                Ok((
                    CredentialKind::Cookies,
                    Plaintext::of("cookies", &sealed, MAX_COOKIE_BYTES)?,
                ))
            }
            _ => Err(ApiError::field("`kind` must be `password` or `cookies`")),
        }
    }
}

/// `POST /api/credentials/download-cred`
pub async fn store(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    user: UserCaller,
    Body(body): Body<NewDownloadCredential>,
) -> Result<Written<StoredCredentialAnswer>, ApiError> {
    let asking = idempotency_key.asking(&app, &user.caller)?;
    let platform = checked_platform(&body.platform)?;
    let (kind, secret) = body.secret()?;
    let name = body
        .username
        .clone()
        .filter(|_| kind == CredentialKind::Password);
    let platform_username = checked_username("username", name)?;
    let target = StoreTarget::For(CredentialDetails {
        kind,
        platform,
        platform_username,
        expires_at: None,
    });
    let stored = app
        .write
        .credentials
        .store(user.account.user, asking, target, secret)
        .await?;
    let credential = StoredCredentialAnswer {
        id: stored.id,
        updated: stored.updated,
    };
    Ok(Written(credential, stored.position))
}
