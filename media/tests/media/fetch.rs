//! What is fetched, and what is not, from a server on this machine.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use genie_media::fetch::{FetchError, FetchLimits, Guard, proxy::GuardedProxy};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Answers each path with what `answer` makes of it, one request a connection.
async fn server(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let read = client.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            let _ = client.write_all(answer(&head).as_bytes()).await;
        }
    });
    address
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn redirect(to: &str) -> String {
    format!(
        "HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"
    )
}

fn guard(allowed: &str) -> Guard {
    let _ = rustls::crypto::ring::default_provider().install_default(); // another test did it
    Guard::new(allowed.parse().unwrap()).unwrap()
}

const LIMITS: FetchLimits = FetchLimits {
    bytes: 1000,
    time: Duration::from_secs(20),
};

struct Target(TempDir);

impl Target {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("fetched")
    }
}

#[tokio::test]
async fn a_file_is_fetched_through_redirects() {
    let at = server(|head| match head.split(' ').nth(1) {
        Some("/moved") => redirect("/again"),
        Some("/again") => redirect("file"),
        _ => ok("the bytes"),
    })
    .await;
    let target = Target::new();
    let fetched = guard("127.0.0.1")
        .fetch(&format!("http://{at}/moved"), &target.path(), LIMITS)
        .await;
    assert_eq!(fetched, Ok(9));
    assert_eq!(std::fs::read_to_string(target.path()).unwrap(), "the bytes");
}

#[tokio::test]
async fn a_private_address_is_refused_also_by_name_and_by_redirect() {
    let at = server(|head| match head.split(' ').nth(1) {
        Some("/metadata") => redirect("http://169.254.169.254/latest/meta-data"),
        Some("/name") => redirect("http://localhost/"),
        Some("/file") => redirect("file:///etc/passwd"),
        Some("/loop") => redirect("/loop"),
        _ => ok("x"),
    })
    .await;
    let port = at.port();
    for (allowed, url, why) in [
        ("", format!("http://{at}/"), FetchError::Private),
        ("", format!("http://localhost:{port}/"), FetchError::Private),
        (
            "",
            format!("http://[::ffff:127.0.0.1]:{port}/"),
            FetchError::Private,
        ),
        (
            "",
            format!("http://2130706433:{port}/"),
            FetchError::Private,
        ),
        (
            "127.0.0.1",
            format!("http://{at}/metadata"),
            FetchError::Private,
        ),
        // The name's own addresses are 127.0.0.1 and ::1; only another one is allowed here.
        (
            "127.0.0.2",
            format!("http://localhost:{port}/name"),
            FetchError::Private,
        ),
        (
            "127.0.0.1",
            format!("http://{at}/file"),
            FetchError::NotHttp,
        ),
        (
            "127.0.0.1",
            format!("http://{at}/loop"),
            FetchError::Redirects,
        ),
        ("127.0.0.1", "ftp://127.0.0.1/".into(), FetchError::NotHttp),
    ] {
        let target = Target::new();
        let fetched = guard(allowed).fetch(&url, &target.path(), LIMITS).await;
        assert_eq!(fetched, Err(why), "{url}");
        assert!(!target.path().exists());
    }
}

#[tokio::test]
async fn size_and_time_are_bounded() {
    let at = server(|head| match head.split(' ').nth(1) {
        Some("/told") => "HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n".into(),
        Some("/untold") => format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}",
            "x".repeat(2000)
        ),
        _ => "HTTP/1.1 500 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".into(),
    })
    .await;
    let guard = guard("127.0.0.1");
    for (path, why) in [
        ("told", FetchError::TooLarge(1000)),
        ("untold", FetchError::TooLarge(1000)),
        ("failing", FetchError::Status(500)),
    ] {
        let target = Target::new();
        let url = format!("http://{at}/{path}");
        assert_eq!(guard.fetch(&url, &target.path(), LIMITS).await, Err(why));
    }
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let limits = FetchLimits {
        time: Duration::from_millis(200),
        ..LIMITS
    };
    let fetched = guard.fetch(&url, &Target::new().path(), limits).await;
    assert_eq!(fetched, Err(FetchError::TooSlow));
}

/// Sends a request to the proxy and returns the whole answer.
async fn through(proxy: &GuardedProxy, request: &str) -> String {
    let mut connection = TcpStream::connect(("127.0.0.1", proxy.port()))
        .await
        .unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The header that proves the right to use the proxy, made from its address.
fn proof(proxy: &GuardedProxy) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let url = proxy.url();
    let user = url
        .strip_prefix("http://")
        .unwrap()
        .split('@')
        .next()
        .unwrap();
    format!(
        "Proxy-Authorization: Basic {}\r\n",
        BASE64_STANDARD.encode(user)
    )
}

#[tokio::test]
async fn each_connection_through_the_proxy_passes_the_guard() {
    let at = server(ok).await;
    let proxy = GuardedProxy::start(guard("127.0.0.1")).await.unwrap();
    let proof = proof(&proxy);
    let plain = format!("GET http://{at}/a?b=c HTTP/1.1\r\nHost: x\r\nX-Own: 1\r\n{proof}\r\n");
    let answer = through(&proxy, &plain).await;
    let seen = answer.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(
        seen,
        format!("GET /a?b=c HTTP/1.1\r\nHost: {at}\r\nX-Own: 1\r\nConnection: close\r\n\r\n")
    );
    let tunnel = format!("CONNECT {at} HTTP/1.1\r\n{proof}\r\nGET /tunnelled HTTP/1.1\r\n\r\n");
    let answer = through(&proxy, &tunnel).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("GET /tunnelled"), "{answer}");
    for (request, status) in [
        (format!("GET http://{at}/ HTTP/1.1\r\n\r\n"), "407"),
        (
            format!("GET http://169.254.169.254/ HTTP/1.1\r\n{proof}\r\n"),
            "403",
        ),
        (
            format!("CONNECT 10.0.0.1:443 HTTP/1.1\r\n{proof}\r\n"),
            "403",
        ),
        (
            format!("CONNECT [::1]:{} HTTP/1.1\r\n{proof}\r\n", at.port()),
            "403",
        ),
        (format!("GET /own HTTP/1.1\r\n{proof}\r\n"), "400"),
        (format!("GET https://{at}/ HTTP/1.1\r\n{proof}\r\n"), "400"),
        (
            format!("CONNECT 127.0.0.1:1 HTTP/1.1\r\n{proof}\r\n"),
            "502",
        ),
    ] {
        let answer = through(&proxy, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request} {answer}"
        );
    }
    assert!(matches!(proxy.refused(), Some(FetchError::Away(_))));
}

#[tokio::test]
async fn the_proxy_ends_with_its_job() {
    let proxy = GuardedProxy::start(guard("")).await.unwrap();
    let port = proxy.port();
    let mut open = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    drop(proxy);
    let mut rest = Vec::new();
    let _ = open.read_to_end(&mut rest).await; // a reset is an end, too
    assert!(rest.is_empty());
    let refused = tokio::time::timeout(Duration::from_secs(5), async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    refused.await.unwrap();
}
