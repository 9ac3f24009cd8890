//! What a success looks like: both flags, the fields beside them, the position of what was written.

use actix_web::HttpResponse;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde_json::{Value, json};

use crate::http::error::ApiError;

/// The header that says where a write ended up.
pub const POSITION: &str = "Genie-Position";

/// Left in a response's extensions for the log line.
#[derive(Debug, Clone, Copy)]
pub struct Position(pub u64);

/// Fields at the top level beside the two flags.
pub fn ok(mut fields: Value) -> HttpResponse {
    HttpResponse::Ok().json(with_flags(&mut fields))
}

/// The same for a write.
pub fn written(mut fields: Value, position: u64) -> HttpResponse {
    written_from(&mut fields, position)
}

/// The same, leaving the fields to the caller, who may have to wipe them.
pub fn written_from(fields: &mut Value, position: u64) -> HttpResponse {
    let mut response = HttpResponse::Ok()
        .insert_header((POSITION, opaque(position)))
        .json(with_flags(fields));
    response.extensions_mut().insert(Position(position));
    response
}

/// Several things read.
pub fn list(data: Vec<Value>, next_cursor: Option<String>) -> HttpResponse {
    ok(json!({"data": data, "next_cursor": next_cursor}))
}

fn with_flags(fields: &mut Value) -> &Value {
    if let Some(map) = fields.as_object_mut() {
        map.insert("ok".into(), true.into());
        map.insert("success".into(), true.into());
    }
    fields
}

/// A position as clients see it: opaque, so that it may become something else.
pub fn opaque(position: u64) -> String {
    BASE64.encode(format!("p1:{position}"))
}

/// Reads a position that a client sent back.
pub fn position(text: &str) -> Result<u64, ApiError> {
    let decoded = BASE64
        .decode(text)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let number = decoded
        .as_deref()
        .and_then(|text| text.strip_prefix("p1:"))
        .and_then(|number| number.parse::<u64>().ok());
    number
        .filter(|number| *number <= i64::MAX as u64)
        .ok_or_else(|| {
            ApiError::field(
                "A position or cursor must be one that the server gave; leave it out to begin anew",
            )
        })
}

/// How a page was asked for.
#[derive(Debug, Default, serde::Deserialize)]
pub struct PageQuery {
    limit: Option<u32>,
    pub cursor: Option<String>,
}

impl PageQuery {
    /// How many are wanted.
    pub fn limit(&self) -> Result<i64, ApiError> {
        limit(self.limit)
    }

    /// The cursor as the text that the server put in.
    pub fn after(&self) -> Result<Option<String>, ApiError> {
        let decode = |cursor: &String| {
            let bytes = BASE64
                .decode(cursor)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok());
            bytes
                .and_then(|text| text.strip_prefix("c1:").map(str::to_owned))
                .ok_or_else(bad_cursor)
        };
        self.cursor.as_ref().map(decode).transpose()
    }

    /// The cursor as a number.
    pub fn after_number(&self) -> Result<Option<u64>, ApiError> {
        let number = |text: String| {
            text.parse::<u64>()
                .ok()
                .filter(|number| *number <= i64::MAX as u64)
        };
        self.after()?
            .map(|text| number(text).ok_or_else(bad_cursor))
            .transpose()
    }

    /// The cursor as a number and an id.
    pub fn after_pair(&self) -> Result<Option<(i64, String)>, ApiError> {
        let pair = |text: String| {
            let (number, id) = text.split_once('/')?;
            let is_id = id.len() <= 100 && !id.chars().any(char::is_control);
            Some((number.parse().ok()?, id.to_owned())).filter(|_| is_id)
        };
        self.after()?
            .map(|text| pair(text).ok_or_else(bad_cursor))
            .transpose()
    }
}

/// 50 by default, 1 to 500.
pub fn limit(asked: Option<u32>) -> Result<i64, ApiError> {
    match asked {
        None => Ok(50),
        Some(limit @ 1..=500) => Ok(i64::from(limit)),
        Some(_) => Err(ApiError::field("`limit` must be 1 to 500")),
    }
}

/// A cursor for the page after this one, when the page is full.
pub fn next_cursor<T>(page: &[T], limit: i64, key: impl Fn(&T) -> String) -> Option<String> {
    page.last()
        .filter(|_| page.len() as i64 >= limit)
        .map(|last| BASE64.encode(format!("c1:{}", key(last))))
}

fn bad_cursor() -> ApiError {
    ApiError::field(
        "`cursor` must be the `next_cursor` of the page before; leave it out to begin anew",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_back_and_nonsense_does_not() {
        assert_eq!(position(&opaque(42)).ok(), Some(42));
        for bad in [
            "",
            "42",
            "cDE6",
            "cDE6LTE",
            &opaque(u64::MAX),
            &opaque(i64::MAX as u64 + 1),
        ] {
            assert!(position(bad).is_err(), "{bad}");
        }
    }
}
