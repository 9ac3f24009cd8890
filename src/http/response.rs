//! Successful answers: both flags, the fields beside them, and the position of a write.

use std::marker::PhantomData;

use actix_web::{
    HttpRequest, HttpResponse, Responder,
    body::BoxBody,
    http::header::{HeaderName, HeaderValue},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use genie_events::{Positions, Shard};
use genie_log::pages::{PAGE_BYTES, Paged};
use serde::Serialize;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use utoipa::{IntoParams, ToSchema};

use crate::http::{error::ApiError, words::True};

/// The header with a write's position.
pub const POSITION: &str = "Genie-Position";

/// Left in a response's extensions for the log line.
#[derive(Debug, Clone, Copy)]
pub struct Position(pub u64);

/// A read: its fields beside the two flags.
pub struct Answer<T>(pub T);

/// A write: its fields beside the two flags, and its position in `Genie-Position`.
pub struct Written<T>(pub T, pub u64);

/// A page of a list. It ends at its limit or at [`PAGE_BYTES`] of JSON, and has at least one row if there is one.
pub struct ListPage<T> {
    /// Each row is written once: its size is that of its JSON.
    data: Vec<Box<RawValue>>,
    next_cursor: Option<String>,
    rows: PhantomData<fn() -> T>,
}

impl<T: Serialize> ListPage<T> {
    /// A page of these rows. `key` is a row's place, from which the next page goes on.
    pub fn of<'a, R>(
        rows: &'a Paged<R>,
        key: impl Fn(&R) -> String,
        show: impl Fn(&'a R) -> T,
    ) -> Result<Self, ApiError> {
        let mut data = Vec::with_capacity(rows.rows.len());
        let mut bytes = 0;
        for row in &rows.rows {
            let item = json(&show(row))?;
            bytes += item.get().len();
            if bytes > PAGE_BYTES as usize && !data.is_empty() {
                break;
            }
            data.push(item);
        }
        let has_more = rows.has_more || data.len() < rows.rows.len();
        let last = data.len().checked_sub(1).map(|last| &rows.rows[last]);
        let next_cursor = last.filter(|_| has_more).map(|last| cursor(&key(last)));
        Ok(Self {
            data,
            next_cursor,
            rows: PhantomData,
        })
    }

    /// The same page, with a next one that goes on from `key` when these rows are not followed by
    /// others: for a filter that did not look at all rows.
    pub fn going_on_from(self, key: Option<String>) -> Self {
        Self {
            next_cursor: self.next_cursor.or_else(|| key.map(|key| cursor(&key))),
            ..self
        }
    }

    /// The rows, and the cursor of the next page.
    pub fn into_parts(self) -> (Vec<Box<RawValue>>, Option<String>) {
        (self.data, self.next_cursor)
    }

    /// All there is.
    pub fn whole(rows: impl IntoIterator<Item = T>) -> Result<Self, ApiError> {
        Ok(Self {
            data: rows
                .into_iter()
                .map(|row| json(&row))
                .collect::<Result<_, _>>()?,
            next_cursor: None,
            rows: PhantomData,
        })
    }
}

/// A value as JSON.
pub fn json(value: &impl Serialize) -> Result<Box<RawValue>, ApiError> {
    to_raw_value(value)
        .map_err(|error| ApiError::Internal(format!("an answer is no JSON: {error}")))
}

/// The JSON of an answer, with the two flags.
pub fn flagged_json(answer: &impl Serialize) -> Result<Box<RawValue>, ApiError> {
    json(&Flagged::new(answer))
}

/// The bytes of a value as JSON.
pub fn json_size(value: &impl Serialize) -> Result<usize, ApiError> {
    json(value).map(|json| json.get().len())
}

/// An answer without fields of its own.
#[derive(Serialize, ToSchema)]
pub struct NoFields {}

/// A success on a route of Directus' own API. A write has a position.
pub struct DirectusData<T> {
    pub data: T,
    pub position: Option<u64>,
}

/// A success without a body on a route of Directus' own API. A write has a position.
pub struct NoContent {
    pub position: Option<u64>,
}

/// The two flags that every success of genie's own routes has.
#[derive(Serialize, ToSchema)]
#[schema(as = Success)]
pub struct SuccessFlags {
    ok: True,
    success: True,
}

#[derive(Serialize)]
struct Flagged<'a, T> {
    #[serde(flatten)]
    flags: SuccessFlags,
    #[serde(flatten)]
    fields: &'a T,
}

impl<'a, T> Flagged<'a, T> {
    fn new(fields: &'a T) -> Self {
        let flags = SuccessFlags {
            ok: True,
            success: True,
        };
        Self { flags, fields }
    }
}

impl<T: Serialize> Responder for Answer<T> {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::Ok().json(Flagged::new(&self.0))
    }
}

impl<T: Serialize> Responder for Written<T> {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        let Self(fields, position) = self;
        at_position(Answer(fields).respond_to(request), position)
    }
}

impl<T> Responder for ListPage<T> {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        #[derive(Serialize)]
        struct PageFields {
            data: Vec<Box<RawValue>>,
            has_more: bool,
            next_cursor: Option<String>,
        }
        let Self {
            data, next_cursor, ..
        } = self;
        let fields = PageFields {
            data,
            has_more: next_cursor.is_some(),
            next_cursor,
        };
        Answer(fields).respond_to(request)
    }
}

impl<T: Serialize> Responder for DirectusData<T> {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        #[derive(Serialize)]
        struct DataField<T> {
            data: T,
        }
        let response = HttpResponse::Ok().json(DataField { data: self.data });
        match self.position {
            Some(position) => at_position(response, position),
            None => response,
        }
    }
}

impl Responder for NoContent {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        let response = HttpResponse::NoContent().finish();
        match self.position {
            Some(position) => at_position(response, position),
            None => response,
        }
    }
}

/// Tells the write's position to the caller and to the log line.
fn at_position(mut response: HttpResponse, position: u64) -> HttpResponse {
    let value = HeaderValue::from_str(&opaque(position)).expect("base64 is visible ASCII");
    let name = HeaderName::from_static("genie-position");
    response.headers_mut().insert(name, value);
    response.extensions_mut().insert(Position(position));
    response
}

/// An answer that its handler wrote piece by piece. `T` names it for the published document.
pub struct RawAnswer<T> {
    response: HttpResponse,
    name: PhantomData<fn() -> T>,
}

impl<T> RawAnswer<T> {
    pub fn new(response: HttpResponse) -> Self {
        Self {
            response,
            name: PhantomData,
        }
    }
}

impl<T> Responder for RawAnswer<T> {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        self.response
    }
}

/// The given fields at the top level beside the two flags, for answers without a struct.
pub fn ok(fields: Value) -> HttpResponse {
    HttpResponse::Ok().json(Flagged::new(&fields))
}

/// A position as clients see it: opaque, and inside a vector, so that clients can keep it when the
/// log has more shards.
pub fn opaque(position: u64) -> String {
    BASE64.encode(Positions::at(Shard::FIRST, position).to_string())
}

/// Reads a position that a client sent back.
pub fn position(text: &str) -> Result<u64, ApiError> {
    let decoded = BASE64
        .decode(text)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    decoded
        .and_then(|text| text.parse::<Positions>().ok())
        .and_then(|positions| positions.only_first())
        .ok_or_else(|| {
            ApiError::field(
                "A position or cursor must be one that the server gave; leave it out to begin at the start",
            )
        })
}

/// The query of a page.
#[derive(Debug, Default, serde::Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// The most items of the page.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<i64>,
    /// The `next_cursor` of the page before. Without it, the first page. Anything else is 400.
    pub cursor: Option<String>,
}

impl PageQuery {
    pub fn limit(&self) -> Result<i64, ApiError> {
        limit(self.limit)
    }

    /// The text that the server put into the cursor.
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
pub fn limit(asked: Option<i64>) -> Result<i64, ApiError> {
    match asked {
        None => Ok(50),
        Some(limit @ 1..=500) => Ok(limit),
        Some(_) => Err(ApiError::field("`limit` must be 1 to 500")),
    }
}

fn cursor(key: &str) -> String {
    BASE64.encode(format!("c1:{key}"))
}

fn bad_cursor() -> ApiError {
    ApiError::field(
        "`cursor` must be the `next_cursor` of the page before; leave it out to begin at the start",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_back_and_nonsense_does_not() {
        assert_eq!(position(&opaque(42)).ok(), Some(42));
        assert_eq!(position(&opaque(0)).ok(), Some(0));
        for bad in [
            "",
            "42",
            &BASE64.encode("p1:42"),
            &BASE64.encode("p2:0.-1"),
            &BASE64.encode("p2:0.42,1.7"), // of a server with more shards
            &opaque(u64::MAX),
            &opaque(i64::MAX as u64 + 1),
        ] {
            assert!(position(bad).is_err(), "{bad}");
        }
    }
}
