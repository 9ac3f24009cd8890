//! All status codes, and the one form of failure (docs/api.md, Errors). The answer to an internal failure gives the
//! request's id only. Its reason stays with the response, for the request's log line.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use genie_actors::WriteError;
use genie_events::{Refusal, RefusalKind, TurnId, chat::Failure};
use genie_log::{LogError, merkle_proof::CantProve};
use genie_media::zip_check::BadZip;
use genie_projections::ReadError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    blobs::BlobError,
    exports::ExportRunning,
    http::{
        request, response,
        words::{False, TierLimitReached},
    },
    identity::{directus::DirectusTrouble, password::PasswordError},
    onboarding::UploadError,
    streams::TooManyStreams,
    uploads::NoUploadSlot,
};

mod directus;
mod openai;

pub use directus::DirectusError;
#[cfg(test)]
pub use directus::DirectusFailure;
pub use openai::{OpenAiError, OpenAiFailure};

/// `Retry-After` of failures that a moment may mend.
const RETRY_SECONDS: u64 = 1;

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{sentence}")]
    Invalid {
        code: &'static str,
        sentence: String,
    },
    #[error("Invalid or expired token")]
    NoCaller,
    /// The token was good once.
    #[error("Invalid or expired token")]
    Expired,
    /// The token names its issuer and is not from there.
    #[error("Invalid or expired token")]
    Forged,
    /// The password was right, and a one-time code is missing or wrong.
    #[error("The one-time code is missing, wrong, or was used before; wait for the next")]
    InvalidOtp,
    #[error("Too many wrong logins, secrets, keys or tokens from this address; try again in {} s", .retry_after.as_secs().max(1))]
    TooManyWrong { retry_after: Duration },
    /// The user was asked for the password once more.
    #[error("The password is wrong")]
    WrongPassword,
    #[error(transparent)]
    ExportRunning(#[from] ExportRunning),
    #[error("{0}")]
    Forbidden(&'static str),
    #[error(
        "Pages of this origin may not call genie; its operator can add the origin to CORS_ORIGINS"
    )]
    OriginRefused,
    #[error("This needs a key with the scope `{0}`")]
    ScopeNeeded(&'static str),
    #[error("A request may carry one token: one `Authorization` header, and none in the address")]
    TwoTokens,
    #[error("There is no such {0}, or it is not yours")]
    NotFound(&'static str),
    #[error("There is no such route; GET /api/openapi.json lists them all")]
    NoRoute,
    #[error("The body is larger than {0} bytes")]
    TooLarge(u64),
    #[error("The headers are larger than {0} bytes together")]
    HeadersTooLarge(usize),
    #[error("Too many requests; try again in {} s", whole_seconds(*.retry_after))]
    TooFast { retry_after: Duration },
    /// No room is left for something that takes memory for as long as its client likes.
    #[error("{0}; try again shortly")]
    Crowded(&'static str),
    #[error("The body must be JSON, with the header `Content-Type: application/json`")]
    NotJson,
    #[error(
        "The body must be a form, with the header `Content-Type: multipart/form-data; boundary=...` and a field `file`"
    )]
    NotForm,
    #[error(
        "The body must be bytes of an upload, with the header `Content-Type: application/offset+octet-stream`"
    )]
    NotChunk,
    #[error("The request must have the header `Tus-Resumable: 1.0.0`")]
    TusVersion,
    #[error(transparent)]
    Streams(#[from] TooManyStreams),
    #[error(transparent)]
    Zip(#[from] BadZip),
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A route of servers and workers has no secret to check.
    #[error("RBAC_SYNC_WEBHOOK_SECRET is not set on the server; set it to open this route")]
    SecretNotConfigured,
    /// Only the operator can set what is missing.
    #[error("{sentence}")]
    NotConfigured {
        code: &'static str,
        sentence: String,
    },
    /// Directus did not answer, or said that it cannot.
    #[error(transparent)]
    Directus(DirectusTrouble),
    /// Directus refused. The sentence is genie's.
    #[error("{sentence}")]
    DirectusRefused {
        status: StatusCode,
        code: String,
        sentence: &'static str,
    },
    /// Nobody knows yet whether the user was registered.
    #[error("{0}")]
    RegistrationUnknown(String),
    /// The model server failed. The turn is kept.
    #[error("{}", .failure.sentence)]
    Model {
        failure: Failure,
        turn: Option<TurnId>,
        position: u64,
    },
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Proof(CantProve),
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// No media worker did what the request waited for.
    #[error(
        "No media worker has read the file in time; nothing is left behind, try again when one runs"
    )]
    NoWorker,
    /// A fault of the server.
    #[error("{0}")]
    Internal(String),
}

impl ApiError {
    pub fn field(sentence: impl Into<String>) -> Self {
        Self::Invalid {
            code: "invalid_field",
            sentence: sentence.into(),
        }
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Zip(error) => error.into(),
            UploadError::Blob(error) => error.into(),
            UploadError::Write(error) => error.into(),
        }
    }
}

impl From<NoUploadSlot> for ApiError {
    fn from(none: NoUploadSlot) -> Self {
        match none {
            NoUploadSlot::SameUser => Refusal::conflict("upload_running", none.to_string()).into(),
            NoUploadSlot::ManyOfUser => {
                Refusal::conflict("too_many_uploads", none.to_string()).into()
            }
            NoUploadSlot::TooMany => WriteError::Busy.into(),
        }
    }
}

impl From<LogError> for ApiError {
    fn from(error: LogError) -> Self {
        Self::Read(ReadError::Log(error))
    }
}

impl From<CantProve> for ApiError {
    fn from(error: CantProve) -> Self {
        match error {
            CantProve::Log(error) => error.into(),
            error => Self::Proof(error),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::Write(WriteError::Refused(refusal))
    }
}

/// The log reads it from a response's extensions. Only failures of the server have a reason.
#[derive(Debug)]
pub struct LoggedFailure {
    pub code: String,
    pub reason: Option<String>,
}

/// A failure as the wire carries it.
struct Wire {
    status: StatusCode,
    code: String,
    retry_after: Option<Duration>,
    turn: Option<TurnId>,
}

impl Wire {
    fn new(status: StatusCode, code: &str) -> Self {
        Self {
            status,
            code: code.to_owned(),
            retry_after: None,
            turn: None,
        }
    }

    fn later(status: StatusCode, code: &str) -> Self {
        Self {
            retry_after: Some(Duration::from_secs(RETRY_SECONDS)),
            ..Self::new(status, code)
        }
    }
}

impl ApiError {
    #[expect(clippy::too_many_lines, reason = "a table with a row for each error")]
    fn wire(&self) -> Wire {
        use StatusCode as S;
        match self {
            Self::Invalid { code, .. } => Wire::new(S::BAD_REQUEST, code),
            Self::NoCaller | Self::Expired | Self::Forged => {
                Wire::new(S::UNAUTHORIZED, "invalid_token")
            }
            Self::InvalidOtp => Wire::new(S::UNAUTHORIZED, "invalid_otp"),
            Self::TooManyWrong { retry_after } => Wire {
                retry_after: Some(*retry_after),
                ..Wire::new(S::TOO_MANY_REQUESTS, "too_many_wrong")
            },
            Self::WrongPassword => Wire::new(S::FORBIDDEN, "wrong_password"),
            Self::ExportRunning(_) => Wire::later(S::CONFLICT, "export_running"),
            Self::OriginRefused => Wire::new(S::FORBIDDEN, "origin_not_allowed"),
            Self::Forbidden(_) => Wire::new(S::FORBIDDEN, "forbidden"),
            Self::ScopeNeeded(_) => Wire::new(S::FORBIDDEN, "scope_needed"),
            Self::TwoTokens => Wire::new(S::BAD_REQUEST, "two_tokens"),
            Self::NotFound(_) => Wire::new(S::NOT_FOUND, "not_found"),
            Self::NoRoute => Wire::new(S::NOT_FOUND, "no_such_route"),
            Self::TooLarge(_) => Wire::new(S::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::HeadersTooLarge(_) => {
                Wire::new(S::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large")
            }
            Self::TooFast { retry_after } => Wire {
                retry_after: Some(*retry_after),
                ..Wire::new(S::TOO_MANY_REQUESTS, "too_many_requests")
            },
            Self::Streams(TooManyStreams::OfUser) => {
                Wire::later(S::TOO_MANY_REQUESTS, "too_many_streams")
            }
            Self::Streams(TooManyStreams::InAll) | Self::Crowded(_) => {
                Wire::later(S::SERVICE_UNAVAILABLE, "busy")
            }
            Self::NotJson => Wire::new(S::UNSUPPORTED_MEDIA_TYPE, "not_json"),
            Self::NotChunk => Wire::new(S::UNSUPPORTED_MEDIA_TYPE, "not_a_chunk"),
            Self::TusVersion => Wire::new(S::PRECONDITION_FAILED, "tus_version"),
            Self::NotForm => Wire::new(S::UNSUPPORTED_MEDIA_TYPE, "not_a_form"),
            Self::Zip(_) => Wire::new(S::BAD_REQUEST, "bad_archive"),
            Self::Blob(error) => wire_of_blob(error),
            Self::SecretNotConfigured => Wire::new(S::SERVICE_UNAVAILABLE, "secret_not_configured"),
            Self::NotConfigured { code, .. } => Wire::new(S::INTERNAL_SERVER_ERROR, code),
            Self::Directus(trouble) => wire_of_directus(trouble),
            Self::DirectusRefused { status, .. } => Wire::new(*status, "directus_refused"),
            Self::RegistrationUnknown(_) => Wire::later(S::BAD_GATEWAY, "registration_unknown"),
            Self::Model { failure, turn, .. } => {
                let ours = ["internal", "history_unreadable", "journal_unwritable"];
                let status = if ours.contains(&failure.code.as_str()) {
                    S::INTERNAL_SERVER_ERROR
                } else {
                    S::BAD_GATEWAY
                };
                Wire {
                    turn: *turn,
                    ..Wire::new(status, &failure.code)
                }
            }
            Self::NoWorker => Wire::later(S::SERVICE_UNAVAILABLE, "no_worker"),
            Self::Write(error) => wire_of_write(error),
            Self::Read(error) => wire_of_read(error),
            Self::Proof(error) => wire_of_proof(error),
            Self::Password(PasswordError::Busy) => Wire::later(S::SERVICE_UNAVAILABLE, "busy"),
            Self::Password(PasswordError::Broken) | Self::Internal(_) => internal(),
        }
    }

    /// The stable code and the sentence, for an answer that tells of several things.
    pub fn words(&self) -> (String, String) {
        let wire = self.wire();
        let sentence = self.sentence(wire.status, &wire.code);
        (wire.code, sentence)
    }

    /// Quota refusals keep the original's shape.
    fn spent_quota(&self) -> Option<SpentQuota> {
        let Self::Write(WriteError::Refused(refusal)) = self else {
            return None;
        };
        match refusal.kind {
            RefusalKind::FilesFull | RefusalKind::Quota { in_tier: true, .. } => {
                Some(SpentQuota::LimitReached)
            }
            RefusalKind::Quota { in_tier: false, .. } => Some(SpentQuota::NotInTier),
            _ => None,
        }
    }

    /// The reason of a failure of the server, for the log alone.
    pub fn server_reason(&self) -> Option<String> {
        let status = self.wire().status;
        status.is_server_error().then(|| self.to_string())
    }

    fn logged_failure(&self, status: StatusCode, code: String) -> LoggedFailure {
        LoggedFailure {
            code,
            reason: status.is_server_error().then(|| self.to_string()),
        }
    }

    /// The sentence for people. An internal failure gives nothing away.
    fn sentence(&self, status: StatusCode, code: &str) -> String {
        match (status, code) {
            (StatusCode::INTERNAL_SERVER_ERROR, _) if !matches!(self, Self::NotConfigured { .. }) => {
                "Something went wrong on the server; report the request id to the operator".into()
            }
            (_, "position_not_reached") => "The read side has not reached `Genie-Min-Position` in time; try again".into(),
            (_, "blob_store_away") => "The store of files does not answer; nothing was changed, try again shortly".into(),
            (_, "disk_low") => "The server's disk is nearly full, and uploads wait; nothing was kept, try again later".into(),
            (_, "store_away") => match self {
                Self::Write(_) => {
                    "The store does not answer. Either all of this took effect or none; read before sending it again".into()
                }
                _ => "The store does not answer; try again shortly".into(),
            },
            _ => self.to_string(),
        }
    }
}

/// The shape of every failure, except on `/auth/*` and `/users/me`.
#[derive(Serialize, ToSchema)]
#[schema(as = Failure)]
pub struct FailureBody<'a> {
    /// Stable, for programs.
    code: &'a str,
    /// A sentence for people: what is wrong and what to do.
    error: String,
    ok: False,
    /// The request's id in the server's log: `X-Request-Id`, or `Genie-Request-Id` where the client chose its own.
    request_id: String,
    success: False,
    /// The turn that runs or was kept, if any. Also in `Genie-Turn`.
    #[serde(rename = "turnId", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Uuid, required = false)]
    turn: Option<TurnId>,
}

impl<'a> FailureBody<'a> {
    pub fn new(code: &'a str, sentence: String, turn: Option<TurnId>) -> Self {
        Self {
            code,
            error: sentence,
            ok: False,
            request_id: request::current_id(),
            success: False,
            turn,
        }
    }
}

/// The tier does not allow it. Nothing was counted and nothing done.
#[derive(Serialize, ToSchema)]
pub struct QuotaRefusal {
    code: TierLimitReached,
    error: TierLimitReached,
    /// The sentence for people.
    message: String,
    ok: False,
    /// Used up, or never part of the tier.
    reason: SpentQuota,
    request_id: String,
    success: False,
}

#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpentQuota {
    LimitReached,
    NotInTier,
}

impl QuotaRefusal {
    fn new(reason: SpentQuota, sentence: String) -> Self {
        Self {
            code: TierLimitReached,
            error: TierLimitReached,
            message: sentence,
            ok: False,
            reason,
            request_id: request::current_id(),
            success: False,
        }
    }
}

fn internal() -> Wire {
    Wire::new(StatusCode::INTERNAL_SERVER_ERROR, "internal")
}

fn wire_of_blob(error: &BlobError) -> Wire {
    use StatusCode as S;
    match error {
        BlobError::Log(LogError::Away(_)) => Wire::later(S::SERVICE_UNAVAILABLE, "store_away"),
        BlobError::DiskLow { .. } => Wire::later(S::SERVICE_UNAVAILABLE, "disk_low"),
        BlobError::Away(_) => Wire::later(S::SERVICE_UNAVAILABLE, "blob_store_away"),
        _ => internal(),
    }
}

fn wire_of_read(error: &ReadError) -> Wire {
    use StatusCode as S;
    match error {
        ReadError::Behind { .. } => Wire::new(S::PRECONDITION_FAILED, "position_not_reached"),
        ReadError::Log(LogError::Away(_)) => Wire::later(S::SERVICE_UNAVAILABLE, "store_away"),
        ReadError::Log(LogError::Forgotten { .. }) => Wire::new(S::NOT_FOUND, "not_found"),
        ReadError::Log(_) => internal(),
    }
}

fn wire_of_proof(error: &CantProve) -> Wire {
    use StatusCode as S;
    match error {
        CantProve::NotThere { .. } => Wire::new(S::NOT_FOUND, "not_found"),
        CantProve::NotSealed { .. } => Wire::later(S::CONFLICT, "not_sealed"),
        CantProve::NoSuchSize { .. } => Wire::new(S::BAD_REQUEST, "invalid_field"),
        CantProve::Log(_) => internal(),
    }
}

fn wire_of_directus(trouble: &DirectusTrouble) -> Wire {
    use StatusCode as S;
    match trouble {
        DirectusTrouble::Unreachable | DirectusTrouble::Silent | DirectusTrouble::Failed(_) => {
            Wire::later(S::BAD_GATEWAY, "directus_away")
        }
        DirectusTrouble::LeftAlone(pause) => Wire {
            retry_after: Some(*pause),
            ..Wire::new(S::BAD_GATEWAY, "directus_away")
        },
        DirectusTrouble::Overloaded(pause) => Wire {
            retry_after: Some(*pause),
            ..Wire::new(S::SERVICE_UNAVAILABLE, "directus_busy")
        },
        DirectusTrouble::TooMany(pause) => Wire {
            retry_after: Some(*pause),
            ..Wire::new(S::TOO_MANY_REQUESTS, "too_many_requests")
        },
    }
}

/// For `Retry-After`: never too early, never zero.
fn whole_seconds(time: Duration) -> u64 {
    time.as_millis().div_ceil(1000).max(1) as u64
}

fn wire_of_write(error: &WriteError) -> Wire {
    use StatusCode as S;
    match error {
        WriteError::Refused(refusal) => {
            let status = match refusal.kind {
                RefusalKind::Invalid(_) => S::BAD_REQUEST,
                RefusalKind::Forbidden | RefusalKind::FilesFull | RefusalKind::Quota { .. } => {
                    S::FORBIDDEN
                }
                RefusalKind::NotFound => S::NOT_FOUND,
                RefusalKind::Conflict => S::CONFLICT,
                RefusalKind::KeyReused => S::UNPROCESSABLE_ENTITY,
                RefusalKind::TooMany { .. } => S::TOO_MANY_REQUESTS,
            };
            let retry_after = match refusal.kind {
                RefusalKind::TooMany { retry_seconds } => Some(Duration::from_secs(retry_seconds)),
                _ => None,
            };
            Wire {
                retry_after,
                turn: refusal.turn,
                ..Wire::new(status, refusal.code)
            }
        }
        WriteError::Busy | WriteError::Deposed => Wire::later(S::SERVICE_UNAVAILABLE, "busy"),
        WriteError::TooMany { retry_after } => Wire {
            retry_after: Some(*retry_after),
            ..Wire::new(S::TOO_MANY_REQUESTS, "model_queue_full")
        },
        WriteError::Away(_) => Wire::later(S::SERVICE_UNAVAILABLE, "store_away"),
        WriteError::Forgotten => Wire::new(S::NOT_FOUND, "not_found"),
        WriteError::TooLarge(_) => Wire::new(S::PAYLOAD_TOO_LARGE, "too_large"),
        WriteError::Damaged(_) | WriteError::Internal(_) => {
            Wire::new(S::INTERNAL_SERVER_ERROR, "internal")
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.wire().status
    }

    fn error_response(&self) -> HttpResponse {
        let wire = self.wire();
        let sentence = self.sentence(wire.status, &wire.code);
        let mut response = HttpResponse::build(wire.status);
        if let Some(after) = wire.retry_after {
            response.insert_header((header::RETRY_AFTER, whole_seconds(after).to_string()));
        }
        if let Self::Model { position, .. } = self {
            response.insert_header((response::POSITION, response::opaque(*position)));
        }
        if let Some(turn) = wire.turn {
            response.insert_header(("Genie-Turn", turn.to_string()));
        }
        let mut response = match self.spent_quota() {
            Some(reason) => response.json(QuotaRefusal::new(reason, sentence)),
            None => response.json(FailureBody::new(&wire.code, sentence, wire.turn)),
        };
        response
            .extensions_mut()
            .insert(self.logged_failure(wire.status, wire.code));
        response
    }
}

/// The answer to all other paths and methods, in the shape of the routes beside them.
pub async fn no_such_route(request: HttpRequest) -> HttpResponse {
    let mut parts = request.path().split('/').skip(1);
    match parts.next() {
        Some("auth" | "users") => DirectusError(ApiError::NoRoute).error_response(),
        Some("v1") => OpenAiError::from(ApiError::NoRoute).error_response(),
        _ => ApiError::NoRoute.error_response(),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use genie_events::tier::Counter;
    use genie_log::AppendError;

    use super::*;

    async fn bytes(error: impl ResponseError) -> String {
        let bytes = to_bytes(error.error_response().into_body()).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn a_full_queue_of_the_log_is_503_with_a_time_to_come_again() {
        let full = WriteError::from(AppendError::Overloaded);
        let answer = ApiError::from(full).error_response();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let wait = answer.headers().get("Retry-After").unwrap();
        let wait = wait.to_str().unwrap();
        assert!(wait.parse::<u32>().unwrap() > 0, "{wait}");
    }

    #[tokio::test]
    async fn failures_have_these_bytes() {
        assert_eq!(
            bytes(ApiError::TwoTokens).await,
            concat!(
                r#"{"code":"two_tokens","error":"A request may carry one token: one `Authorization` header, and none in the address","#,
                r#""ok":false,"request_id":"","success":false}"#
            )
        );
        let turn: TurnId = "0192d4e1-15c2-7d09-9a41-5e6f708192a3".parse().unwrap();
        let running = Refusal {
            turn: Some(turn),
            ..Refusal::conflict("turn_running", "It runs")
        };
        assert_eq!(
            bytes(ApiError::from(running)).await,
            concat!(
                r#"{"code":"turn_running","error":"It runs","ok":false,"request_id":"","success":false,"#,
                r#""turnId":"0192d4e1-15c2-7d09-9a41-5e6f708192a3"}"#
            )
        );
        let spent = Refusal::quota(Counter::ThumbnailOps, false, "free");
        assert_eq!(
            bytes(ApiError::from(spent)).await,
            concat!(
                r#"{"code":"tier_limit_reached","error":"tier_limit_reached","#,
                r#""message":"thumbnail_ops is not part of the `free` tier; upgrade to use it","ok":false,"#,
                r#""reason":"not_in_tier","request_id":"","success":false}"#
            )
        );
        assert_eq!(
            bytes(DirectusError(ApiError::NoCaller)).await,
            r#"{"errors":[{"extensions":{"code":"INVALID_CREDENTIALS"},"message":"Invalid user credentials."}]}"#
        );
    }
}
