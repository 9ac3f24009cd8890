//! What every request passes through: an id, a log line, security headers; and where it came from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use actix_web::{
    Error, HttpRequest,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    web::Data,
};
use ipnet::IpNet;
use tracing::{Instrument, info, info_span};

use crate::{app::App, http::response};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static CURRENT: String;
}

/// The id of the request that this task answers; empty outside of one.
pub fn current_id() -> String {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// Takes the caller's id if it is `[A-Za-z0-9-]{1,64}`, else makes one.
fn id_of(request: &ServiceRequest) -> String {
    let given = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    let is_good = |id: &&str| {
        (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    match (given.filter(is_good), request.app_data::<Data<App>>()) {
        (Some(id), _) => id.to_owned(),
        (None, Some(app)) => app.log.clock().new_uuid().to_string(),
        (None, None) => String::new(),
    }
}

/// The address of the client that sent a request: the peer's, or, where that is a trusted proxy (`TRUSTED_PROXIES`), the one that
/// it tells in `X-Forwarded-For`. Whoever speaks through the socket of commands has none.
pub fn client_address(request: &HttpRequest) -> IpAddr {
    let peer = request
        .peer_addr()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
    match request.app_data::<Data<App>>() {
        Some(app) => through_proxies(peer, request.headers(), &app.config.trusted_proxies),
        None => peer.to_canonical(),
    }
}

/// Each proxy appends whom it heard: so from the right, for as long as the teller is trusted. What a client puts in front is never
/// reached.
fn through_proxies(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut address = peer.to_canonical();
    let lines: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .filter_map(|line| line.to_str().ok())
        .collect();
    for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        let is_trusted = trusted.iter().any(|network| network.contains(&address));
        match forwarded(hop.trim()) {
            Some(before) if is_trusted => address = before.to_canonical(),
            _ => break,
        }
    }
    address
}

/// An address with or without a port.
fn forwarded(hop: &str) -> Option<IpAddr> {
    let bare = hop
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(hop);
    bare.parse()
        .ok()
        .or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// The middleware.
pub async fn pass(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let id = id_of(&request);
    // The route's pattern, not the path: paths can hold names that people chose.
    let route = request
        .match_pattern()
        .unwrap_or_else(|| "(no route)".into());
    let method = request.method().clone();
    let span = info_span!("http", request.id = id, http.method = %method, http.route = route);
    let started = tokio::time::Instant::now();
    let mut response = CURRENT
        .scope(id.clone(), next.call(request))
        .instrument(span.clone())
        .await?;
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
    ] {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    // What is answered is somebody's own, and tokens among it; streams say more themselves.
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    let position = response
        .response()
        .extensions()
        .get::<response::Position>()
        .map(|position| position.0);
    let (status, took) = (
        response.status().as_u16(),
        started.elapsed().as_millis() as u64,
    );
    span.in_scope(|| info!(http.status = status, took_ms = took, position, "answered"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderMap;

    use super::*;

    fn seen(peer: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(
                HeaderName::from_static("x-forwarded-for"),
                HeaderValue::from_str(line).unwrap(),
            );
        }
        let trusted = ["10.0.0.0/8", "2001:db8::/32"].map(|network| network.parse().unwrap());
        through_proxies(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_trusted_proxies_tell_who_the_client_is() {
        assert_eq!(
            seen("203.0.113.9", &["198.51.100.1"]),
            "203.0.113.9",
            "the peer is no proxy"
        );
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(
            seen("10.0.0.1", &["1.2.3.4, 198.51.100.1, 10.0.0.2"]),
            "198.51.100.1",
            "1.2.3.4 is the client's own word"
        );
        assert_eq!(
            seen("10.0.0.1", &["1.2.3.4", "198.51.100.1"]),
            "198.51.100.1",
            "the last line is the nearest"
        );
        assert_eq!(
            seen("10.0.0.1", &["10.0.0.3, 10.0.0.2"]),
            "10.0.0.3",
            "from inside"
        );
        assert_eq!(seen("10.0.0.1", &["198.51.100.1, nonsense"]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["198.51.100.1:4711"]), "198.51.100.1");
        assert_eq!(seen("2001:db8::1", &["[2001:4860::1]:443"]), "2001:4860::1");
        assert_eq!(
            seen("::ffff:10.0.0.1", &["[2001:4860::1]"]),
            "2001:4860::1",
            "an IPv4 address in IPv6 is that address"
        );
    }
}
