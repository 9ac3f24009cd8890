//! `Idempotency-Key` (docs/api.md, Everywhere): a command with a key may be sent again, and has one outcome.

use std::{
    convert::Infallible,
    future::{Ready, ready},
};

use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload, http::header::HeaderValue};
use genie_actors::{Caller, CommandContext};

use crate::{app::App, byte_budget::TakenBytes, http::error::ApiError};

pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// In bytes.
const MAX_KEY: usize = 255;

/// Hash of a request's body. The extractor that reads the body leaves it in the request's extensions.
#[derive(Debug, Clone)]
pub struct BodyHash(String);

impl BodyHash {
    /// The hash of what a JSON body means: the same request may be written in other words.
    pub fn of_meaning(meaning: [u8; 32]) -> Self {
        Self(hex::encode(meaning))
    }

    /// The hash of a body that was read piece by piece.
    pub fn known(hash: String) -> Self {
        Self(hash)
    }
}

pub struct IdempotencyKey(HttpRequest);

impl FromRequest for IdempotencyKey {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self(request.clone())))
    }
}

impl IdempotencyKey {
    /// True when the request carries a key.
    pub fn is_given(&self) -> bool {
        self.0.headers().contains_key(IDEMPOTENCY_KEY)
    }

    /// The context of this command: its caller's metadata, and the key if there is one. A key belongs to its caller
    /// and route. The same key with another path, query or body is another request.
    pub fn asking(&self, app: &App, caller: &Caller) -> Result<CommandContext, ApiError> {
        let Self(request) = self;
        let metadata = caller.metadata();
        let bytes = request
            .extensions()
            .get::<TakenBytes>()
            .map_or(0, TakenBytes::count);
        let Some(header) = request.headers().get(IDEMPOTENCY_KEY) else {
            return Ok(CommandContext {
                bytes,
                ..metadata.into()
            });
        };
        let key = checked(header)?;
        let route = format!(
            "{} {}",
            request.method(),
            request.match_pattern().unwrap_or_default()
        );
        let body = request
            .extensions()
            .get::<BodyHash>()
            .map(|hash| hash.0.clone())
            .unwrap_or_default();
        let asked = [
            route.as_str(),
            request.path(),
            request.query_string(),
            &body,
        ];
        let key = app
            .log
            .hashes()
            .request(&caller.scope(), &route, key, &asked);
        Ok(CommandContext {
            key: Some(key),
            metadata,
            bytes,
        })
    }
}

/// The context of a command that takes no key.
pub fn without_key(request: &HttpRequest, caller: &Caller) -> CommandContext {
    let extensions = request.extensions();
    let bytes = extensions.get::<TakenBytes>().map_or(0, TakenBytes::count);
    CommandContext {
        bytes,
        ..caller.metadata().into()
    }
}

fn checked(header: &HeaderValue) -> Result<&str, ApiError> {
    let key = header
        .to_str()
        .ok()
        .filter(|key| (1..=MAX_KEY).contains(&key.len()));
    key.ok_or_else(|| {
        ApiError::field(format!(
            "`{IDEMPOTENCY_KEY}` must have 1 to {MAX_KEY} visible ASCII characters"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_short_visible_text() {
        for (good, bytes) in [
            (true, &b"a"[..]),
            (true, &[b'k'; 255]),
            (false, &[b'k'; 256]),
            (false, b""),
            (false, b"\xff"),
        ] {
            assert_eq!(
                checked(&HeaderValue::from_bytes(bytes).unwrap()).is_ok(),
                good,
                "{bytes:?}"
            );
        }
    }
}
