//! What every request passes through: an id, a log line, security headers.

use std::net::{IpAddr, Ipv4Addr};

use actix_web::{
    Error, HttpRequest,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{HeaderName, HeaderValue},
    middleware::Next,
};
use tracing::{Instrument, info, info_span};

use crate::{app::App, http::answer};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static CURRENT: String;
}

/// The id of the request that this task answers; empty outside of one.
pub fn current_id() -> String {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// Where a request comes from: whoever is at the other end of the connection.
pub fn client_address(request: &HttpRequest) -> IpAddr {
    request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip())
}

/// Takes the caller's id if it is `[A-Za-z0-9-]{1,64}`, else makes one.
fn id_of(request: &ServiceRequest) -> String {
    let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let is_good = |id: &&str| (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    match (given.filter(is_good), request.app_data::<actix_web::web::Data<App>>()) {
        (Some(id), _) => id.to_owned(),
        (None, Some(app)) => app.log.clock().new_uuid().to_string(),
        (None, None) => String::new(),
    }
}

/// The middleware.
pub async fn pass(request: ServiceRequest, next: Next<impl MessageBody>) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let id = id_of(&request);
    // The route's pattern, not the path: paths can hold names that people chose.
    let route = request.match_pattern().unwrap_or_else(|| "(no route)".into());
    let method = request.method().clone();
    let span = info_span!("http", request.id = id, http.method = %method, http.route = route);
    let started = tokio::time::Instant::now();
    let mut response = CURRENT.scope(id.clone(), next.call(request)).instrument(span.clone()).await?;
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    for (name, value) in [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("referrer-policy", "no-referrer")]
    {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let position = response.response().extensions().get::<answer::Position>().map(|position| position.0);
    let (status, took) = (response.status().as_u16(), started.elapsed().as_millis() as u64);
    span.in_scope(|| info!(http.status = status, took_ms = took, position, "answered"));
    Ok(response)
}
