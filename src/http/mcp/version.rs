//! The versions of MCP that genie speaks. In the later one each request says all that is needed. In the earlier one an
//! `initialize` comes first, whose answer names a session.

use actix_web::{HttpRequest, http::header::HeaderValue};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use super::message::{RpcError, RpcMessage};

pub const STATELESS: &str = "2026-07-28";
pub const WITH_SESSIONS: &str = "2025-11-25";
/// The preferred one first.
pub const SPOKEN: [&str; 2] = [STATELESS, WITH_SESSIONS];

const VERSION: &str = "MCP-Protocol-Version";
const METHOD: &str = "Mcp-Method";
const NAME: &str = "Mcp-Name";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Stateless,
    WithSessions,
}

impl Version {
    /// The version of a request, whose headers must say what its body says.
    pub fn of(request: &HttpRequest, message: &RpcMessage) -> Result<Self, RpcError> {
        let in_meta = message.meta("protocolVersion").and_then(Value::as_str);
        let in_header = request.headers().get(VERSION).map(text).transpose()?;
        match (in_header, in_meta) {
            // An `initialize` asks for a version, and is answered with one that genie speaks.
            _ if message.method.as_deref() == Some("initialize") => Ok(Self::WithSessions),
            (None | Some(WITH_SESSIONS), None) => Ok(Self::WithSessions),
            (Some(STATELESS), Some(STATELESS)) => {
                check_headers(request, message)?;
                Ok(Self::Stateless)
            }
            (Some(STATELESS), None) if message.id.is_none() => Ok(Self::Stateless),
            (Some(STATELESS), None) => Err(RpcError::wrong_meta(
                "`params._meta` must have `io.modelcontextprotocol/protocolVersion`",
            )),
            (Some(other), None) => Err(RpcError::unsupported_version(other)),
            (Some(header), Some(meta)) if header == meta => {
                Err(RpcError::unsupported_version(header))
            }
            (_, Some(_)) => Err(RpcError::header_mismatch(format!(
                "`{VERSION}` must be the version in `params._meta`"
            ))),
        }
    }

    /// A result as this version has it.
    pub fn completed(self, mut result: Value) -> Value {
        if self == Self::Stateless {
            result["resultType"] = "complete".into();
            result["_meta"] = json!({"io.modelcontextprotocol/serverInfo": server_info()});
        }
        result
    }
}

pub fn server_info() -> Value {
    json!({"name": "genie", "version": env!("CARGO_PKG_VERSION")})
}

fn text(header: &HeaderValue) -> Result<&str, RpcError> {
    header
        .to_str()
        .map_err(|_| RpcError::header_mismatch("A header of the protocol is not plain text"))
}

/// Programs between client and server go by the headers, so these must not say something else than the body.
fn check_headers(request: &HttpRequest, message: &RpcMessage) -> Result<(), RpcError> {
    if !message
        .meta("clientCapabilities")
        .is_some_and(Value::is_object)
    {
        return Err(RpcError::wrong_meta(
            "`params._meta` must have `io.modelcontextprotocol/clientCapabilities`",
        ));
    }
    check_header(request, METHOD, message.method.as_deref())?;
    if message.method.as_deref() == Some("tools/call") {
        let name = message.params.get("name").and_then(Value::as_str);
        check_header(request, NAME, name)?;
    }
    Ok(())
}

fn check_header(
    request: &HttpRequest,
    header: &str,
    in_body: Option<&str>,
) -> Result<(), RpcError> {
    let given = request.headers().get(header).map(text).transpose()?;
    let given = given.map(decoded).transpose()?;
    if given.as_deref() == in_body {
        return Ok(());
    }
    Err(RpcError::header_mismatch(format!(
        "`{header}` must be there and say what the body says"
    )))
}

/// A value that no header can hold as it is comes as `=?base64?...?=`.
fn decoded(value: &str) -> Result<String, RpcError> {
    let coded = value.strip_prefix("=?base64?");
    let Some(coded) = coded.and_then(|rest| rest.strip_suffix("?=")) else {
        return Ok(value.to_owned());
    };
    let bytes = BASE64.decode(coded).ok();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| RpcError::header_mismatch("A header of the protocol is no Base64 of a text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coded_header_is_read() {
        assert_eq!(decoded("chat").unwrap(), "chat");
        assert_eq!(
            decoded("=?base64?SGVsbG8sIOS4lueVjA==?=").unwrap(),
            "Hello, 世界"
        );
        assert!(decoded("=?base64?nonsense?=").is_err());
    }
}
