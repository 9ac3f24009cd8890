//! Every request passes through here. It gets an id, a span, a log line and security headers, and its client's
//! address is determined.

use std::{
    borrow::Cow,
    cell::Cell,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use actix_web::{
    Error, HttpMessage, HttpRequest,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method, StatusCode,
        header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web::Data,
};
use futures_util::{Stream, stream};
use genie_events::UserId;
use ipnet::IpNet;
use tracing::{Instrument, Span, debug, error, error_span, field, info};
use uuid::Uuid;

use crate::{
    app::App,
    byte_budget::ByteBudget,
    connections::activity::Activity,
    http::{
        answer_body::{self, Wanted},
        error::LoggedFailure,
        response, route_rules,
    },
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The log's own id of a request whose client chose another.
const OWN_REQUEST_ID: HeaderName = HeaderName::from_static("genie-request-id");

/// The log cuts longer paths.
const LONGEST_PATH: usize = 200;
/// The log leaves out longer parts of an unknown path, which could be secrets.
const LONGEST_WORD: usize = 24;
/// Load balancers ask these every few seconds, so their lines have the level `debug`.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// The request that a task answers.
struct Current {
    id: String,
    span: Span,
    names_user: Cell<bool>,
    names_key: Cell<bool>,
}

tokio::task_local! {
    static CURRENT: Current;
}

/// The id of the request that this task answers; empty outside a request.
pub fn current_id() -> String {
    CURRENT
        .try_with(|current| current.id.clone())
        .unwrap_or_default()
}

/// A body as a stream, whose log lines belong to this request. The server reads a body after the handler has answered,
/// outside the request's span.
pub fn in_span<S: Stream>(body: S) -> impl Stream<Item = S::Item> {
    let span = Span::current();
    let mut body = Box::pin(body);
    stream::poll_fn(move |context| span.in_scope(|| body.as_mut().poll_next(context)))
}

// A long request is authenticated more than once. A field that is recorded again would stand twice in each line. Outside
// a request there is no span to name anybody in.

/// Names the user in this and all later log lines of the request.
pub fn log_user(user: UserId) {
    let _ = CURRENT.try_with(|current| {
        if !current.names_user.replace(true) {
            current.span.record("user.id", field::display(user));
        }
    });
}

/// Names the service key or the shared secret that opened the request.
pub fn log_key(key: &str) {
    let _ = CURRENT.try_with(|current| {
        if !current.names_key.replace(true) {
            current.span.record("key.id", key);
        }
    });
}

/// The ids of a request.
struct RequestIds {
    /// As the log, facts and failures have it. It is genie's own: what a client chose may be personal.
    own: String,
    /// The client's, if it is `[A-Za-z0-9-]{1,64}`. The answer repeats it, and nothing keeps it.
    chosen: Option<String>,
}

/// A client that sends its id again finds the same id of genie's.
fn ids_of(request: &ServiceRequest) -> RequestIds {
    let given = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    let is_good = |id: &&str| {
        (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let chosen = given.filter(is_good).map(str::to_owned);
    let own = request.app_data::<Data<App>>().map(|app| match &chosen {
        Some(chosen) => app.log.hashes().request_id(chosen),
        None => app.log.clock().new_uuid(),
    });
    RequestIds {
        own: own.map(|id| id.to_string()).unwrap_or_default(),
        chosen,
    }
}

/// The address of the client that sent a request: the peer's, or, when the peer is a trusted proxy
/// (`TRUSTED_PROXIES`), the one in `X-Forwarded-For`. A peer on the socket of commands has no address.
pub fn client_address(request: &HttpRequest) -> IpAddr {
    let peer = request
        .peer_addr()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
    match request.app_data::<Data<App>>() {
        Some(app) => through_proxies(peer, request.headers(), &app.config.trusted_proxies),
        None => peer.to_canonical(),
    }
}

/// Each proxy appends the address it heard. So the list is read from the right, for as long as the proxies are
/// trusted, and an address that the client itself put in front is never reached.
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

/// True when the client asked for the head of the answer only. Handlers need not look: the body is left out anyway.
pub fn is_head(request: &HttpRequest) -> bool {
    request.extensions().get::<Wanted>() == Some(&Wanted::Head)
}

/// The middleware.
pub async fn pass(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let ids = ids_of(&request);
    let route = pattern(&request);
    // At the highest level, so that no `GENIE_LOG` setting takes the request's id from a warning.
    let span = error_span!(
        "request",
        request.id = ids.own,
        http.method = %request.method(),
        http.route = route.as_deref(),
        user.id = field::Empty,
        key.id = field::Empty,
    );
    let wanted = if request.method() == Method::HEAD {
        request.head_mut().method = Method::GET;
        request.extensions_mut().insert(Wanted::Head);
        Wanted::Head
    } else {
        Wanted::Whole
    };
    let current = Current {
        id: ids.own.clone(),
        span: span.clone(),
        names_user: Cell::new(false),
        names_key: Cell::new(false),
    };
    let started = tokio::time::Instant::now();
    let answered = request
        .request()
        .conn_data::<Rc<Activity>>()
        .map(Activity::begin_request);
    let budget = large_answers(request.request());
    let respond = async {
        let response = next.call(request).await?;
        Ok::<_, Error>(answer_body::hand_over(
            response,
            budget.as_ref(),
            answered,
            wanted,
        ))
    };
    let mut response = CURRENT
        .scope(current, respond)
        .instrument(span.clone())
        .await?;
    add_headers(response.headers_mut(), &ids);
    span.in_scope(|| log_answer(&response, route.as_deref(), started.elapsed()));
    Ok(response)
}

/// The pattern of the route. Those of the socket of commands have no rule.
fn pattern(request: &ServiceRequest) -> Option<Cow<'static, str>> {
    match route_rules::matched(request.request()) {
        Some(route) => Some(Cow::Borrowed(route.path)),
        None => request.match_pattern().map(Cow::Owned),
    }
}

/// The budget for a large answer. Public answers are the same bytes for all and cost nothing.
fn large_answers(request: &HttpRequest) -> Option<ByteBudget> {
    let is_public = route_rules::of(request).is_some_and(|rule| rule.is_public);
    let app = request.app_data::<Data<App>>().filter(|_| !is_public)?;
    Some(app.large_answers.clone())
}

fn add_headers(headers: &mut HeaderMap, ids: &RequestIds) {
    let shown = ids.chosen.as_ref().unwrap_or(&ids.own);
    let own = ids.chosen.as_ref().map(|_| &ids.own);
    for (name, id) in [(REQUEST_ID, Some(shown)), (OWN_REQUEST_ID, own)] {
        if let Some(Ok(value)) = id.map(|id| HeaderValue::from_str(id)) {
            headers.insert(name, value);
        }
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
    // Answers are personal, and some hold tokens. Handlers with another policy set the header themselves.
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

fn log_answer<B>(response: &ServiceResponse<B>, route: Option<&str>, took: Duration) {
    let request = response.request();
    let status = response.status();
    let extensions = response.response().extensions();
    let failure = extensions.get::<LoggedFailure>();
    let code = failure.map(|failure| failure.code.as_str());
    let position = extensions
        .get::<response::Position>()
        .map(|position| position.0);
    let path = logged_path(request, route);
    let address = client_address(request);
    macro_rules! answered {
        ($level:ident) => {
            $level!(
                http.path = path,
                http.status = status.as_u16(),
                code,
                client.address = %address,
                took_ms = took.as_millis() as u64,
                position,
                "request: answered"
            )
        };
    }
    if PROBES.contains(&path.as_str()) {
        answered!(debug);
    } else {
        answered!(info);
    }
    let Some(failure) = failure else { return };
    match (status, request.app_data::<Data<App>>()) {
        (StatusCode::INTERNAL_SERVER_ERROR, _) => {
            error!(
                code,
                reason = failure.reason,
                "request: failed; answered with status 500"
            );
        }
        (StatusCode::SERVICE_UNAVAILABLE, Some(app)) => {
            app.outages.count(&failure.code, failure.reason.as_deref());
        }
        _ => {}
    }
}

/// The path for the log. In a known route it shows ids only: other values may be an invite's code, or a name that
/// somebody chose. Where there is no route, it leaves out every part that could be a secret.
fn logged_path(request: &HttpRequest, route: Option<&str>) -> String {
    let Some(route) = route else {
        let parts: Vec<&str> = request.path().split('/').map(logged_part).collect();
        return parts.join("/").chars().take(LONGEST_PATH).collect();
    };
    request
        .match_info()
        .iter()
        .filter(|(_, value)| is_id(value))
        .fold(route.to_owned(), |path, (name, id)| {
            path.replace(&format!("{{{name}}}"), id)
        })
}

fn logged_part(part: &str) -> &str {
    let is_word = part.len() <= LONGEST_WORD
        && part
            .bytes()
            .all(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_' | b'.'));
    if is_word || is_id(part) { part } else { "…" }
}

fn is_id(value: &str) -> bool {
    Uuid::try_parse(value).is_ok()
}

#[cfg(test)]
mod tests {
    use actix_web::{http::header::HeaderMap, test::TestRequest};

    use super::*;

    #[test]
    fn a_logged_path_shows_ids_and_no_codes() {
        let id = "019a5b2e-0000-7000-8000-000000000001";
        let path = |route, name, value| {
            let request = TestRequest::with_uri("/x").param(name, value);
            logged_path(&request.to_http_request(), Some(route))
        };
        assert_eq!(path("/api/jobs/{id}", "id", id), format!("/api/jobs/{id}"));
        assert_eq!(
            path("/api/admin/invites/{code}", "code", "K7Q2-3M9X"),
            "/api/admin/invites/{code}"
        );
        let unknown =
            |path: &str| logged_path(&TestRequest::with_uri(path).to_http_request(), None);
        assert_eq!(
            unknown("/no/such-route/index.php"),
            "/no/such-route/index.php"
        );
        assert_eq!(unknown(&format!("/jbos/{id}")), format!("/jbos/{id}"));
        assert_eq!(unknown("/invites/K7Q2-3M9X"), "/invites/…");
        assert_eq!(unknown(&"/a".repeat(300)).len(), LONGEST_PATH);
    }

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
