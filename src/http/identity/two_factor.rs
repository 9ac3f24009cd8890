//! `/users/me/tfa/*`: one-time codes at each login, on Directus' own routes.

use actix_web::{
    HttpRequest,
    web::{Data, Path},
};
use genie_actors::WriteError;
use genie_events::UserId;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{prove_again, right_code, trying_a_code};
use crate::{
    app::App,
    http::{
        body::Body,
        caller::{DirectusAdmin, DirectusUser},
        error::{ApiError, DirectusError},
        input,
        response::{DirectusData, NoContent},
    },
    identity::two_factor::OtpSecret,
};

#[derive(Deserialize, ToSchema)]
pub struct TwoFactorRequest {
    #[schema(value_type = String, format = Password)]
    #[serde(deserialize_with = "input::whole")]
    password: SecretString,
}

#[derive(Serialize, ToSchema)]
pub struct TwoFactorSecret {
    /// In Base32.
    secret: String,
    /// An `otpauth:` address, for authenticator apps to scan.
    otpauth_url: String,
}

/// `POST /users/me/tfa/generate`. Nothing is kept: the client sends the secret back with a code to enable it.
pub async fn generate(
    app: Data<App>,
    request: HttpRequest,
    DirectusUser(caller): DirectusUser,
    body: Result<Body<TwoFactorRequest>, ApiError>,
) -> Result<DirectusData<TwoFactorSecret>, DirectusError> {
    let Body(body) = body.map_err(DirectusError)?;
    if caller.account.two_factor {
        return Err(on_already());
    }
    prove_again(&app, &request, &caller, body.password).await?;
    let account = caller
        .account
        .email
        .clone()
        .unwrap_or_else(|| caller.account.user.to_string());
    let made = OtpSecret::generate(app.log.hashes().two_factor_key(), caller.account.user)
        .and_then(|made| Some((made.text(), made.url(&account)?)));
    let (secret, url) =
        made.ok_or_else(|| DirectusError(ApiError::Internal("a secret could not be made".into())))?;
    Ok(DirectusData {
        data: TwoFactorSecret {
            secret,
            otpauth_url: url,
        },
        position: None,
    })
}

#[derive(Deserialize, ToSchema)]
pub struct EnableTwoFactor {
    /// In Base32, as it was generated.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "input::whole")]
    secret: SecretString,
    #[schema(value_type = String)]
    #[serde(deserialize_with = "input::whole")]
    otp: SecretString,
}

/// `POST /users/me/tfa/enable`
pub async fn enable(
    app: Data<App>,
    DirectusUser(caller): DirectusUser,
    body: Result<Body<EnableTwoFactor>, ApiError>,
) -> Result<NoContent, DirectusError> {
    let Body(body) = body.map_err(DirectusError)?;
    let user = caller.account.user;
    let two_factor = OtpSecret::from_text(&body.secret, app.log.hashes().two_factor_key(), user)
        .ok_or_else(|| {
            DirectusError(ApiError::field(
                "`secret` must be one that `/users/me/tfa/generate` gave this user",
            ))
        })?;
    let step = two_factor
        .step_of(&body.otp, app.log.clock().now())
        .ok_or_else(wrong_code)?;
    let done = app
        .write
        .accounts
        .enable_two_factor(user, two_factor.bytes(), step, caller.caller.metadata())
        .await;
    let done = done.map_err(|error| match error {
        WriteError::Refused(refusal) if refusal.code == "two_factor_on" => on_already(),
        error => error.into(),
    })?;
    Ok(NoContent {
        position: Some(done.position),
    })
}

#[derive(Deserialize, ToSchema)]
pub struct DisableTwoFactor {
    #[schema(value_type = String)]
    #[serde(deserialize_with = "input::whole")]
    otp: SecretString,
}

/// `POST /users/me/tfa/disable`
pub async fn disable(
    app: Data<App>,
    DirectusUser(caller): DirectusUser,
    body: Result<Body<DisableTwoFactor>, ApiError>,
) -> Result<NoContent, DirectusError> {
    let Body(body) = body.map_err(DirectusError)?;
    let user = caller.account.user;
    let metadata = caller.caller.metadata();
    let done = trying_a_code(&app, user, async {
        let code = right_code(&app, user, &body.otp)
            .await?
            .ok_or_else(wrong_code)?;
        app.write
            .accounts
            .disable_two_factor(user, code, metadata)
            .await
            .map_err(|error| match error {
                WriteError::Refused(refusal) if refusal.code == "invalid_otp" => wrong_code(),
                error => error.into(),
            })
    })
    .await?;
    Ok(NoContent {
        position: Some(done.position),
    })
}

/// `POST /users/{id}/tfa/disable`, for administrators: the user has lost the authenticator.
pub async fn remove(
    app: Data<App>,
    DirectusAdmin(caller): DirectusAdmin,
    path: Path<String>,
) -> Result<NoContent, DirectusError> {
    // Directus never says 404 for a user.
    let nobody = || DirectusError(ApiError::Forbidden("There is no such user"));
    let user: UserId = path.parse().map_err(|_| nobody())?;
    let removed = app
        .write
        .accounts
        .remove_two_factor(user, caller.metadata())
        .await;
    let done = removed.map_err(|error| match error {
        WriteError::Refused(refusal) if refusal.code == "not_found" => nobody(),
        error => error.into(),
    })?;
    Ok(NoContent {
        position: Some(done.position),
    })
}

fn wrong_code() -> DirectusError {
    DirectusError(ApiError::field(
        "`otp` must be the code that the authenticator shows now, and not one that was used before",
    ))
}

fn on_already() -> DirectusError {
    DirectusError(ApiError::field(
        "Two-factor login is on already; disable it first",
    ))
}
