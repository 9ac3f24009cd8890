//! A proxy for a program that makes its own connections: each of them passes the guard. It listens on a port of
//! this machine for the life of one job, and asks for a password that is made for it.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

use super::{FetchError, Guard};

const MAX_CONNECTIONS: usize = 64;
/// In bytes.
const MAX_HEAD: usize = 16 << 10;
const HEAD_TIME: Duration = Duration::from_secs(15);
const USER: &str = "genie";

/// A proxy that runs until it is dropped, and with it all connections through it.
pub struct GuardedProxy {
    port: u16,
    password: String,
    refused: Arc<Mutex<Option<FetchError>>>,
    _stop: DropGuard,
}

impl GuardedProxy {
    pub async fn start(guard: Guard) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let password: String = rand::random::<[u8; 16]>()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let stop = CancellationToken::new();
        let refused = Arc::default();
        let access = ProxyAccess {
            guard,
            authorization: BASE64_STANDARD.encode(format!("{USER}:{password}")),
            refused: Arc::clone(&refused),
        };
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(accept(listener, access)),
        );
        Ok(Self {
            port,
            password,
            refused,
            _stop: stop.drop_guard(),
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address for the program, with user and password.
    pub fn url(&self) -> String {
        format!("http://{USER}:{}@127.0.0.1:{}", self.password, self.port)
    }

    /// The last connection that was refused, which the program may tell badly.
    pub fn refused(&self) -> Option<FetchError> {
        self.refused.lock().clone()
    }
}

/// What a connection needs.
#[derive(Clone)]
struct ProxyAccess {
    guard: Guard,
    /// The name and the password, as they come.
    authorization: String,
    refused: Arc<Mutex<Option<FetchError>>>,
}

async fn accept(listener: TcpListener, access: ProxyAccess) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut open = JoinSet::new();
    while let Ok(place) = Arc::clone(&free).acquire_owned().await {
        while open.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((client, _)) => {
                let access = access.clone();
                open.spawn(async move {
                    let _place = place;
                    let _ = serve(client, access).await; // a broken connection is the program's matter
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve(mut client: TcpStream, access: ProxyAccess) -> std::io::Result<()> {
    let Ok(Ok((head, rest))) = timeout(HEAD_TIME, read_head(&mut client)).await else {
        return Ok(());
    };
    let request = match ProxyRequest::read(&head, &access.authorization) {
        Ok(request) => request,
        Err(answer) => return client.write_all(answer.as_bytes()).await,
    };
    let reached = match request.url.host() {
        Some(host) => access.guard.connect(&host, request.port()).await,
        None => Err(FetchError::NotHttp),
    };
    let mut server = match reached {
        Ok(server) => server,
        Err(error) => {
            let status = match error {
                FetchError::Private | FetchError::NotHttp => "403 Forbidden",
                _ => "502 Bad Gateway",
            };
            *access.refused.lock() = Some(error);
            return client.write_all(answer(status).as_bytes()).await;
        }
    };
    if request.is_tunnel {
        client
            .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            .await?;
    } else {
        server.write_all(&request.head).await?;
    }
    server.write_all(&rest).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

fn answer(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
}

/// Reads to the end of the head. What came after it is returned beside it.
async fn read_head(client: &mut TcpStream) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let mut head = Vec::new();
    let mut piece = [0; 2048];
    loop {
        let read = client.read(&mut piece).await?;
        if read == 0 || head.len() + read > MAX_HEAD {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&piece[..read]);
        if let Some(end) = head.windows(4).position(|end| end == b"\r\n\r\n") {
            let rest = head.split_off(end + 4);
            return Ok((head, rest));
        }
    }
}

/// A request of the program.
struct ProxyRequest {
    is_tunnel: bool,
    url: Url,
    /// The head for the server. Empty for a tunnel.
    head: Vec<u8>,
}

impl ProxyRequest {
    /// The error is the answer.
    fn read(head: &[u8], authorization: &str) -> Result<Self, String> {
        let bad = || answer("400 Bad Request");
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        let read = request.parse(head).map_err(|_| bad())?;
        let (true, Some(method), Some(target)) = (read.is_complete(), request.method, request.path)
        else {
            return Err(bad());
        };
        let header = |name: &str| {
            let mut all = request.headers.iter();
            all.find(|header| header.name.eq_ignore_ascii_case(name))
        };
        let proof =
            header("proxy-authorization").and_then(|proof| proof.value.strip_prefix(b"Basic "));
        if proof != Some(authorization.as_bytes()) {
            return Err(answer(
                "407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"genie\"",
            ));
        }
        let is_tunnel = method == "CONNECT";
        let url = if is_tunnel {
            Url::parse(&format!("http://{target}/"))
        } else {
            Url::parse(target)
        };
        let url = url
            .ok()
            .filter(|url| url.scheme() == "http" && url.host().is_some())
            .ok_or_else(bad)?;
        let head = if is_tunnel {
            Vec::new()
        } else {
            forwarded(method, &url, request.headers)
        };
        Ok(Self {
            is_tunnel,
            url,
            head,
        })
    }

    fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(80)
    }
}

/// The head as the server gets it. One request for each connection, so that each passes the guard.
fn forwarded(method: &str, url: &Url, headers: &[httparse::Header<'_>]) -> Vec<u8> {
    let mut path = url.path().to_owned();
    if let Some(query) = url.query() {
        path = format!("{path}?{query}");
    }
    let host = match (url.host(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_string(),
        (None, _) => String::new(),
    };
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
    let hop = [
        "host",
        "connection",
        "proxy-connection",
        "proxy-authorization",
        "keep-alive",
    ];
    for header in headers {
        if hop
            .iter()
            .any(|name| header.name.eq_ignore_ascii_case(name))
        {
            continue;
        }
        head.extend_from_slice(header.name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(header.value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    head
}
