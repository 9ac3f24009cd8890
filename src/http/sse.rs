//! Server-sent events: the headers, and events and comments on the wire (WHATWG HTML, section 9.2).

use std::time::Duration;

use actix_web::{HttpResponse, HttpResponseBuilder, web::Bytes};
use serde::Serialize;

/// The header in which a client that comes back sends the id of the last event that it got.
pub const LAST_EVENT_ID: &str = "Last-Event-ID";

/// A comment goes out this often when nothing else does.
pub const HEARTBEAT: Duration = Duration::from_secs(10);

/// A response that streams events.
pub fn response() -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response
        .content_type("text/event-stream")
        .insert_header(("Cache-Control", "no-cache, no-transform"))
        .insert_header(("X-Accel-Buffering", "no"));
    response
}

/// The first line: the wait before a client reconnects. It stands in the block of the first event: some clients take
/// each empty line for the end of an event.
pub fn retry() -> Bytes {
    Bytes::from_static(b"retry: 2000\n")
}

/// A comment, which keeps the connection open. No empty line follows it, as after `retry`.
pub fn comment() -> Bytes {
    Bytes::from_static(b": still here\n")
}

/// A comment that moves the reader's place on.
pub fn place(id: &str) -> Bytes {
    Bytes::from(format!(": still here\nid: {id}\n\n"))
}

/// One event without an id, in a stream that is not resumed.
pub fn data(data: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(data).expect("a struct with names for fields is JSON");
    Bytes::from(format!("data: {data}\n\n"))
}

/// One event. JSON has no raw line feeds, so one `data:` line is enough.
pub fn event(id: &str, data: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(data).expect("a struct with names for fields is JSON");
    Bytes::from(format!("id: {id}\ndata: {data}\n\n"))
}
