//! Failures on the routes of OpenAI's dialect, in OpenAI's shape.

use actix_web::{
    HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use genie_actors::WriteError;
use genie_events::{RefusalKind, chat::Failure};
use genie_log::LogError;
use serde::Serialize;
use utoipa::ToSchema;

use super::{ApiError, whole_seconds};
use crate::{http::response, streams::TooManyStreams};

/// A failure on a route of OpenAI's dialect.
#[derive(Debug, thiserror::Error)]
pub enum OpenAiError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("There is no such model; GET /v1/models lists those that there are")]
    NoModel,
}

macro_rules! openai_error_from {
    ($($error:ty),+) => {
        $( impl From<$error> for OpenAiError {
            fn from(error: $error) -> Self {
                Self::Api(error.into())
            }
        } )+
    };
}
openai_error_from!(WriteError, LogError, TooManyStreams);

/// The shape of a failure on `/v1/*`, and of the last event of a stream that failed.
#[derive(Serialize, ToSchema)]
pub struct OpenAiFailure<'a> {
    error: OpenAiFault<'a>,
}

#[derive(Serialize, ToSchema)]
struct OpenAiFault<'a> {
    /// Stable, for programs.
    #[schema(required)]
    code: Option<&'a str>,
    /// A sentence for people.
    message: String,
    /// The field that is wrong.
    #[schema(required)]
    param: Option<&'a str>,
    /// `invalid_request_error`, `authentication_error`, `rate_limit_error` or `server_error`.
    r#type: &'static str,
}

impl<'a> OpenAiFailure<'a> {
    fn new(status: StatusCode, code: &'a str, message: String, param: Option<&'a str>) -> Self {
        let r#type = match status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let error = OpenAiFault {
            code: Some(code),
            message,
            param,
            r#type,
        };
        Self { error }
    }

    /// Of a turn that failed after its stream had opened.
    pub fn of_turn(failure: &'a Failure) -> Self {
        let message = failure.sentence.clone();
        Self::new(StatusCode::BAD_GATEWAY, &failure.code, message, None)
    }
}

impl OpenAiError {
    /// The field that is wrong. Each sentence about a field begins with it.
    fn param(&self) -> Option<&str> {
        match self {
            Self::NoModel => Some("model"),
            Self::Api(ApiError::Invalid { sentence, .. }) => first_field(sentence),
            Self::Api(ApiError::Write(WriteError::Refused(refusal))) => match refusal.kind {
                RefusalKind::Invalid(field) => first_field(&refusal.sentence).or(Some(field)),
                _ => None,
            },
            Self::Api(_) => None,
        }
    }
}

fn first_field(sentence: &str) -> Option<&str> {
    let (field, _) = sentence.strip_prefix('`')?.split_once('`')?;
    Some(field)
}

impl ResponseError for OpenAiError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Api(error) => error.wire().status,
            Self::NoModel => StatusCode::NOT_FOUND,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let Self::Api(error) = self else {
            let status = self.status_code();
            let body =
                OpenAiFailure::new(status, "model_not_found", self.to_string(), self.param());
            return HttpResponse::build(status).json(body);
        };
        let wire = error.wire();
        let sentence = error.sentence(wire.status, &wire.code);
        let mut answer = HttpResponse::build(wire.status);
        if let Some(after) = wire.retry_after {
            answer.insert_header((header::RETRY_AFTER, whole_seconds(after).to_string()));
        }
        if let ApiError::Model { position, .. } = error {
            answer.insert_header((response::POSITION, response::opaque(*position)));
        }
        if let Some(turn) = wire.turn {
            answer.insert_header(("Genie-Turn", turn.to_string()));
        }
        let body = OpenAiFailure::new(wire.status, &wire.code, sentence, self.param());
        let mut answer = answer.json(body);
        answer
            .extensions_mut()
            .insert(error.logged_failure(wire.status, wire.code));
        answer
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use serde_json::{Value, json};

    use super::*;

    async fn body(error: OpenAiError) -> Value {
        let bytes = to_bytes(error.error_response().into_body()).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn failures_have_openais_shape_and_name_their_field() {
        let field = OpenAiError::from(ApiError::field("`messages[0].role` is missing"));
        assert_eq!(
            body(field).await,
            json!({"error": {
                "message": "`messages[0].role` is missing", "type": "invalid_request_error",
                "param": "messages[0].role", "code": "invalid_field",
            }})
        );
        let other = OpenAiError::from(ApiError::field("The body must be an object"));
        assert_eq!(body(other).await["error"]["param"], Value::Null);
        let nobody = OpenAiError::from(ApiError::NoCaller);
        assert_eq!(nobody.status_code(), StatusCode::UNAUTHORIZED);
        assert_eq!(body(nobody).await["error"]["type"], "authentication_error");
        let many = OpenAiError::from(TooManyStreams::OfUser);
        assert!(many.error_response().headers().contains_key("Retry-After"));
        assert_eq!(body(many).await["error"]["type"], "rate_limit_error");
        let none = body(OpenAiError::NoModel).await;
        assert_eq!(none["error"]["code"], "model_not_found");
        assert_eq!(none["error"]["param"], "model");
    }
}
