//! Credentials that a user's downloads log in with: a name and a password, or a cookie file.

use actix_web::web::Data;
use genie_actors::credentials::{
    CredentialDetails, MAX_COOKIE_BYTES, MAX_SECRET_BYTES, Plaintext, StoreTarget,
};
use genie_events::{PlatformName, SecretText, UserName, cookies, credential::CredentialKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{StoredCredentialAnswer, user_name};
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
        username: &'a UserName,
        password: &'a SecretText,
    },
    Cookies {
        cookies: SecretText,
    },
}

/// A login or a cookie file that was checked.
struct CheckedDownload {
    kind: CredentialKind,
    /// The name that a login has.
    username: Option<UserName>,
    secret: Plaintext,
}

impl NewDownloadCredential {
    fn checked(&self) -> Result<CheckedDownload, ApiError> {
        match self.kind.as_str() {
            "password" => self.login(),
            "cookies" => self.cookie_file(),
            _ => Err(ApiError::field("`kind` must be `password` or `cookies`")),
        }
    }

    fn login(&self) -> Result<CheckedDownload, ApiError> {
        let username = self
            .username
            .as_deref()
            .ok_or_else(|| missing("username"))?;
        let password = self.password.as_ref().ok_or_else(|| missing("password"))?;
        let username = user_name("username", Some(username))?
            .filter(|_| !password.expose().is_empty())
            .ok_or_else(|| ApiError::field("`username` and `password` must not be empty"))?;
        let sealed = SealedDownload::Password {
            username: &username,
            password,
        };
        Ok(CheckedDownload {
            kind: CredentialKind::Password,
            secret: Plaintext::of("password", &sealed, MAX_SECRET_BYTES)?,
            username: Some(username),
        })
    }

    fn cookie_file(&self) -> Result<CheckedDownload, ApiError> {
        let cookies = self.cookies.as_ref().ok_or_else(|| missing("cookies"))?;
        let sealed = SealedDownload::Cookies {
            cookies: cookies::checked_file(cookies)?,
        };
        Ok(CheckedDownload {
            kind: CredentialKind::Cookies,
            username: None,
            secret: Plaintext::of("cookies", &sealed, MAX_COOKIE_BYTES)?,
        })
    }
}

fn missing(field: &str) -> ApiError {
    ApiError::field(format!("`{field}` is missing"))
}

/// `POST /api/credentials/download-cred`
pub async fn store(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    user: UserCaller,
    Body(body): Body<NewDownloadCredential>,
) -> Result<Written<StoredCredentialAnswer>, ApiError> {
    let asking = idempotency_key.asking(&app, &user.caller)?;
    let platform = PlatformName::read(&body.platform)?;
    let checked = body.checked()?;
    let target = StoreTarget::For(CredentialDetails {
        kind: checked.kind,
        platform,
        platform_username: checked.username,
        expires_at: None,
    });
    let stored = app
        .write
        .credentials
        .store(user.account.user, asking, target, checked.secret)
        .await?;
    let credential = StoredCredentialAnswer {
        id: stored.id,
        updated: stored.updated,
    };
    Ok(Written(credential, stored.position))
}
