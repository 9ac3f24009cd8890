//! Messages of JSON-RPC 2.0, as MCP uses them: one in each request.

use actix_web::{HttpResponse, http::StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::version::{self, Version};
use crate::http::{body::JsonObject, error::ApiError, input};

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;
const HEADER_MISMATCH: i64 = -32020;
const UNSUPPORTED_VERSION: i64 = -32022;
/// As SDKs answer it.
const NO_SUCH_SESSION: i64 = -32001;

/// A request, or a notification, which has no id.
#[derive(Debug, Deserialize)]
pub struct RpcMessage {
    jsonrpc: Option<String>,
    /// A text or a whole number.
    pub id: Option<Value>,
    pub method: Option<String>,
    #[serde(default)]
    pub params: Map<String, Value>,
}

impl RpcMessage {
    pub fn read(body: Result<JsonObject, ApiError>) -> Result<Self, RpcError> {
        let JsonObject(mut bytes) = body.map_err(|error| RpcError::unreadable(&error))?;
        let tree = input::json(&mut bytes).map_err(|error| RpcError::unreadable(&error.into()))?;
        let invalid = |sentence: String| RpcError::new(INVALID_REQUEST, sentence);
        let message: Self = input::read(&tree).map_err(|error| invalid(error.to_string()))?;
        if message.jsonrpc.as_deref() != Some("2.0") {
            return Err(invalid("`jsonrpc` must be \"2.0\"".to_owned()));
        }
        let is_id = |id: &Value| id.is_string() || id.is_i64() || id.is_u64();
        if !message.id.as_ref().is_none_or(is_id) {
            return Err(invalid(
                "`id` must be a string or a whole number".to_owned(),
            ));
        }
        Ok(message)
    }

    /// A field of the protocol's own metadata.
    pub fn meta(&self, name: &str) -> Option<&Value> {
        let meta = self.params.get("_meta")?;
        meta.get(format!("io.modelcontextprotocol/{name}"))
    }

    /// The answer to this request.
    pub fn result(&self, result: Value) -> HttpResponse {
        HttpResponse::Ok().json(json!({"jsonrpc": "2.0", "id": self.id, "result": result}))
    }
}

/// An error of the protocol, with the status that goes with it.
#[derive(Debug)]
pub struct RpcError {
    code: i64,
    message: String,
    data: Option<Value>,
    status: StatusCode,
}

impl RpcError {
    fn new(code: i64, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            data: None,
            status: StatusCode::BAD_REQUEST,
        }
    }

    /// The body is no JSON object, or not even received.
    fn unreadable(error: &ApiError) -> Self {
        let status = actix_web::ResponseError::status_code(error);
        Self {
            status,
            ..Self::new(PARSE_ERROR, error.words().1)
        }
    }

    pub fn no_such_method(method: &str, version: Version) -> Self {
        let status = match version {
            Version::Stateless => StatusCode::NOT_FOUND,
            Version::WithSessions => StatusCode::OK,
        };
        let method: String = method.chars().take(100).collect();
        Self {
            status,
            ..Self::new(METHOD_NOT_FOUND, format!("There is no method `{method}`"))
        }
    }

    /// The answer is an ordinary one: the client is to look at the error.
    pub fn wrong_params(sentence: impl Into<String>) -> Self {
        Self {
            status: StatusCode::OK,
            ..Self::new(INVALID_PARAMS, sentence)
        }
    }

    /// The protocol's metadata are missing or wrong.
    pub fn wrong_meta(sentence: impl Into<String>) -> Self {
        Self::new(INVALID_PARAMS, sentence)
    }

    pub fn header_mismatch(sentence: impl Into<String>) -> Self {
        Self::new(HEADER_MISMATCH, sentence)
    }

    pub fn unsupported_version(requested: &str) -> Self {
        let requested: String = requested.chars().take(100).collect();
        Self {
            data: Some(json!({"supported": version::SPOKEN, "requested": requested})),
            ..Self::new(UNSUPPORTED_VERSION, "Unsupported protocol version")
        }
    }

    /// The client begins again with `initialize`.
    pub fn no_such_session() -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            ..Self::new(
                NO_SUCH_SESSION,
                "There is no such session; initialize again",
            )
        }
    }

    pub fn answer(&self, id: Option<&Value>) -> HttpResponse {
        let mut error = json!({"code": self.code, "message": self.message});
        if let Some(data) = &self.data {
            error["data"] = data.clone();
        }
        HttpResponse::build(self.status).json(json!({"jsonrpc": "2.0", "id": id, "error": error}))
    }
}
