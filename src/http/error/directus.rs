//! Failures on the routes of Directus' own API, in Directus' shape and words.

use actix_web::{
    HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use genie_actors::WriteError;
use genie_log::LogError;
use genie_projections::ReadError;
use serde::Serialize;
use utoipa::ToSchema;

use super::{ApiError, whole_seconds};
use crate::{
    http::words,
    identity::{directus::DirectusTrouble, password::PasswordError},
};

/// A failure on a route of Directus' own API.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DirectusError(#[from] pub ApiError);

macro_rules! directus_error_from {
    ($($error:ty),+) => {
        $( impl From<$error> for DirectusError {
            fn from(error: $error) -> Self {
                Self(error.into())
            }
        } )+
    };
}
directus_error_from!(WriteError, LogError, ReadError, PasswordError);

impl DirectusError {
    fn code(&self) -> &str {
        let wire = self.0.wire();
        match &self.0 {
            ApiError::DirectusRefused { code, .. } => code,
            ApiError::Directus(DirectusTrouble::TooMany(_)) => "REQUESTS_EXCEEDED",
            ApiError::Directus(_) => "SERVICE_UNAVAILABLE",
            ApiError::NoCaller => "INVALID_CREDENTIALS",
            ApiError::Expired => "TOKEN_EXPIRED",
            ApiError::Forged => "INVALID_TOKEN",
            ApiError::NoRoute => "ROUTE_NOT_FOUND",
            ApiError::InvalidOtp => "INVALID_OTP",
            ApiError::TooManyWrong { .. } => "REQUESTS_EXCEEDED",
            ApiError::TooFast { .. } => "REQUESTS_EXCEEDED",
            ApiError::Invalid { .. }
            | ApiError::TwoTokens
            | ApiError::NotJson
            | ApiError::TooLarge(_)
            | ApiError::HeadersTooLarge(_) => "INVALID_PAYLOAD",
            ApiError::Write(WriteError::Refused(refusal)) if refusal.code == "email_taken" => {
                "RECORD_NOT_UNIQUE"
            }
            _ if wire.status == StatusCode::BAD_REQUEST => "INVALID_PAYLOAD",
            _ if wire.status == StatusCode::SERVICE_UNAVAILABLE => "SERVICE_UNAVAILABLE",
            _ if wire.status.is_server_error() => "INTERNAL_SERVER_ERROR",
            _ => "FORBIDDEN",
        }
    }
}

/// The shape of a failure on `/auth/*` and `/users/me`, as in Directus.
#[derive(Serialize, ToSchema)]
pub struct DirectusFailure<'a> {
    #[schema(value_type = [DirectusFault], min_items = 1, max_items = 1)]
    errors: [DirectusFault<'a>; 1],
}

#[derive(Serialize, ToSchema)]
struct DirectusFault<'a> {
    extensions: DirectusFaultCode<'a>,
    message: String,
}

#[derive(Serialize, ToSchema)]
struct DirectusFaultCode<'a> {
    #[schema(value_type = words::DirectusCode)]
    code: &'a str,
}

impl<'a> DirectusFailure<'a> {
    fn new(code: &'a str, message: String) -> Self {
        let extensions = DirectusFaultCode { code };
        Self {
            errors: [DirectusFault {
                extensions,
                message,
            }],
        }
    }
}

impl ResponseError for DirectusError {
    fn status_code(&self) -> StatusCode {
        match self.code() {
            "RECORD_NOT_UNIQUE" => StatusCode::BAD_REQUEST, // where our own routes say 409
            "INVALID_TOKEN" => StatusCode::FORBIDDEN,       // where our own routes say 401
            _ => self.0.status_code(),
        }
    }

    fn error_response(&self) -> HttpResponse {
        let wire = self.0.wire();
        let code = self.code();
        let status = self.status_code();
        let sentence = match &self.0 {
            ApiError::NoCaller => "Invalid user credentials.".to_owned(),
            ApiError::Expired => "Token expired.".to_owned(),
            ApiError::Forged => "Invalid token.".to_owned(),
            ApiError::NoRoute => "Route doesn't exist.".to_owned(),
            other => other.sentence(wire.status, &wire.code),
        };
        let mut answer = HttpResponse::build(status);
        if let Some(after) = wire.retry_after {
            answer.insert_header((header::RETRY_AFTER, whole_seconds(after).to_string()));
        }
        let mut answer = answer.json(DirectusFailure::new(code, sentence));
        answer
            .extensions_mut()
            .insert(self.0.logged_failure(status, wire.code));
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expired_and_forged_tokens_have_codes_of_their_own_on_directus_routes_only() {
        let directus = DirectusError(ApiError::Expired);
        assert_eq!(directus.error_response().status(), StatusCode::UNAUTHORIZED);
        assert_eq!(directus.code(), "TOKEN_EXPIRED");
        assert_eq!(
            DirectusError(ApiError::NoCaller).code(),
            "INVALID_CREDENTIALS"
        );
        assert_eq!(
            (
                ApiError::Expired.wire().status,
                ApiError::Expired.wire().code
            ),
            (StatusCode::UNAUTHORIZED, "invalid_token".into())
        );
        let forged = DirectusError(ApiError::Forged);
        assert_eq!(forged.error_response().status(), StatusCode::FORBIDDEN);
        assert_eq!(forged.code(), "INVALID_TOKEN");
        assert_eq!(
            (ApiError::Forged.wire().status, ApiError::Forged.wire().code),
            (StatusCode::UNAUTHORIZED, "invalid_token".into())
        );
    }
}
