//! What a user's downloads log in with: a name and a password, or a cookie file.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use genie_actors::credentials::{
    CredentialDetails, MAX_COOKIE_BYTES, MAX_SECRET_BYTES, Plaintext, StoreTarget,
};
use genie_events::{SecretText, cookies, credential::CredentialKind};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{checked_platform, checked_username};
use crate::{
    app::App,
    http::{body::Body, caller::UserCaller, error::ApiError, idempotency, response},
};

#[derive(Debug, Deserialize)]
pub struct NewDownloadCredential {
    platform: String,
    kind: String,
    username: Option<String>,
    password: Option<SecretText>,
    cookies: Option<SecretText>,
}

/// What is sealed of it, and shown again.
#[derive(Serialize)]
#[serde(untagged)]
enum Sealed<'a> {
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
                let sealed = Sealed::Password { username, password };
                Ok((
                    CredentialKind::Password,
                    Plaintext::of("password", &sealed, MAX_SECRET_BYTES)?,
                ))
            }
            "cookies" => {
                let cookies = self.cookies.as_ref().ok_or_else(|| missing("cookies"))?;
                let sealed = Sealed::Cookies {
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
    request: HttpRequest,
    user: UserCaller,
    Body(body): Body<NewDownloadCredential>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &user.caller)?;
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
    Ok(response::written(
        json!({"id": stored.id, "updated": stored.updated}),
        stored.position,
    ))
}
