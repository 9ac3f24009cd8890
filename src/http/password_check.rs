//! Asks for the password once more, because a token may have been stolen.

use actix_web::HttpRequest;
use secrecy::SecretString;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        caller::UserCaller,
        directus,
        error::{ApiError, DirectusError},
        identity, input,
    },
};

/// The password of a user who has a token already.
#[derive(Deserialize, ToSchema)]
pub struct Password {
    #[schema(value_type = String, format = Password)]
    #[serde(deserialize_with = "input::whole")]
    pub password: SecretString,
    /// With a Directus, when the user has a second factor there.
    #[schema(value_type = Option<String>)]
    #[serde(default, deserialize_with = "input::whole")]
    pub otp: Option<SecretString>,
}

impl Password {
    /// Checks the password. A wrong one counts as at a login.
    pub async fn prove(
        self,
        app: &App,
        request: &HttpRequest,
        user: &UserCaller,
    ) -> Result<(), ApiError> {
        let Self { password, otp } = self;
        let proved = match &app.directus {
            Some(directus) => {
                directus::prove_again(app, directus, request, user, password, otp).await
            }
            None => identity::prove_again(app, request, user, password)
                .await
                .map(drop),
        };
        proved.map_err(|DirectusError(refused)| match refused {
            ApiError::NoCaller => ApiError::WrongPassword,
            error => error,
        })
    }
}
