//! Requests to Directus, its answers, and every way in which they can fail (observed on 10.13,
//! 11.17 and 12.4).

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use genie_actors::outbound::ProxyUse;
use genie_log::Clock;
use reqwest::{
    Method, Response, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::warn;
use zeroize::Zeroizing;

use super::circuit::{Circuit, Leave};

/// The longest time to connect.
const CONNECT: Duration = Duration::from_secs(2);
/// The longest time for a whole request.
pub const WHOLE: Duration = Duration::from_secs(10);
/// Idle connections are dropped after this time. Directus itself closes them after 5 s, perhaps
/// just when one is used.
const IDLE: Duration = Duration::from_secs(4);
/// The largest answer that is read; Directus accepts bodies of 1 MB.
const MAX_ANSWER: usize = 2 << 20;
/// The longest body that genie writes itself: a password of 1024 bytes, an address and a name, each escaped at worst.
const LONGEST_BODY: usize = 16 << 10;
/// The longest pause that Directus may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(3600);

pub struct Upstream {
    http: reqwest::Client,
    base: Url,
    admin: Option<HeaderValue>,
    circuit: Circuit,
    clock: Clock,
}

pub struct UpstreamRequest {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    authorization: Option<HeaderValue>,
    /// The client's address, so that Directus' own rate limit does not see all clients as one.
    address: Option<IpAddr>,
    body: Option<Bytes>,
    /// The longest time for the whole answer.
    time: Duration,
}

/// An answer to a request for a file.
pub enum OpenedFile {
    /// Its head. The bytes have still to be read.
    Found(Response),
    Refused(DirectusReply),
}

/// Directus' answer, a success or a refusal.
pub struct DirectusReply {
    /// 200 to 499.
    pub status: u16,
    /// JSON, or empty.
    pub body: Zeroizing<Vec<u8>>,
}

/// Directus gave no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectusTrouble {
    #[error("Directus cannot be reached; try again shortly")]
    Unreachable,
    /// Directus did not answer in time, or its answer broke off.
    #[error("Directus: no answer; try again shortly")]
    Silent,
    /// Directus failed several times in a row and is left alone for a while.
    #[error("Directus has not answered for a while; try again in {} s", .0.as_secs().max(1))]
    LeftAlone(Duration),
    /// Directus says that it is overloaded.
    #[error("Directus is overloaded; try again in {} s", .0.as_secs().max(1))]
    Overloaded(Duration),
    /// Directus says that its rate limit is reached.
    #[error("Too many requests; try again in {} s", .0.as_secs().max(1))]
    TooMany(Duration),
    /// Directus failed, or answered something unexpected.
    #[error("Directus failed: {0}")]
    Failed(&'static str),
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    extensions: Extensions,
}

#[derive(Deserialize)]
struct Extensions {
    code: String,
}

impl DirectusTrouble {
    /// True when Directus did not even begin the request: it was not sent, or was turned away at
    /// once.
    pub fn is_unsent(&self) -> bool {
        match self {
            Self::Unreachable | Self::LeftAlone(_) | Self::Overloaded(_) | Self::TooMany(_) => true,
            Self::Silent | Self::Failed(_) => false,
        }
    }
}

impl DirectusReply {
    pub fn is_ok(&self) -> bool {
        self.status < 300
    }

    /// The code of the first error; empty when there is none.
    pub fn code(&self) -> String {
        let errors = serde_json::from_slice::<Errors>(&self.body);
        let code = errors
            .ok()
            .and_then(|all| all.errors.into_iter().next())
            .map(|error| error.extensions.code);
        let is_code = |code: &String| {
            code.len() <= 64
                && code
                    .bytes()
                    .all(|b| b.is_ascii_uppercase() || b == b'_' || b.is_ascii_digit())
        };
        code.filter(is_code).unwrap_or_default()
    }

    /// The data of a success.
    pub fn data(&self) -> Result<Value, DirectusTrouble> {
        let mut whole: Value = serde_json::from_slice(&self.body)
            .map_err(|_| DirectusTrouble::Failed("its answer is not JSON"))?;
        match whole.get_mut("data") {
            Some(data) => Ok(data.take()),
            None => Err(DirectusTrouble::Failed("its answer has no `data`")),
        }
    }
}

impl UpstreamRequest {
    /// A request without token and client.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: vec![],
            authorization: None,
            address: None,
            body: None,
            time: WHOLE,
        }
    }

    /// Sets the longest time for the whole answer.
    pub fn within(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    pub fn authorized(mut self, authorization: Option<HeaderValue>) -> Self {
        self.authorization = authorization;
        self
    }

    /// Sets the client's address.
    pub fn of(mut self, address: Option<IpAddr>) -> Self {
        self.address = address;
        self
    }

    /// Sets the JSON body, whose memory is wiped after it was sent.
    pub fn body(mut self, body: Zeroizing<Vec<u8>>) -> Self {
        self.body = Some(Bytes::from_owner(body));
        self
    }

    /// Sets the JSON body from a type that borrows its secrets, so that no copy is left behind.
    pub fn json(self, body: &impl Serialize) -> Self {
        // A vector that grows leaves its old memory behind unwiped. The longest body has room in this.
        let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST_BODY));
        serde_json::to_writer(&mut *bytes, body).expect("text and ids serialize");
        self.body(bytes)
    }

    /// Adds a query parameter.
    pub fn parameter(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }
}

/// `Authorization: Bearer ...`, marked as secret; `None` when the token cannot be in a header.
pub fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Upstream {
    /// The server at `base`, and the token of one of its administrators.
    pub fn new(
        base: &str,
        proxies: ProxyUse,
        admin: Option<&SecretString>,
        clock: Clock,
    ) -> Result<Self, String> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .timeout(WHOLE)
            .pool_idle_timeout(IDLE)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent("genie");
        let http = proxies
            .client(client, base)
            .build()
            .map_err(|error| format!("DIRECTUS_URL: {}", error.without_url()))?;
        let mut base =
            Url::parse(base).map_err(|error| format!("DIRECTUS_URL is not a URL: {error}"))?;
        // Directus may live below a path; the request's path is appended to it.
        let path = base.path().trim_end_matches('/').to_owned();
        base.set_path(&path);
        let not_a_header = "DIRECTUS_ADMIN_TOKEN has characters that are not allowed in a header";
        let admin = admin
            .map(|token| bearer(token.expose_secret()).ok_or(not_a_header))
            .transpose()?;
        let circuit = Circuit::new(clock.now());
        Ok(Self {
            http,
            base,
            admin,
            circuit,
            clock,
        })
    }

    /// The administrator's `Authorization`, when there is one.
    pub fn admin(&self) -> Option<HeaderValue> {
        self.admin.clone()
    }

    pub fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    /// Checks that Directus answers, whatever the circuit says. It answers `pong`; a proxy or another server does not.
    pub async fn ping(&self) -> Result<(), DirectusTrouble> {
        let asking = UpstreamRequest::new(Method::GET, "/server/ping");
        let answered = async {
            match self.send(&asking).await {
                Ok(answer) => self.read(answer).await,
                Err(_) => Err(DirectusTrouble::Silent),
            }
        };
        match tokio::time::timeout(CONNECT, answered).await {
            Ok(Ok(reply)) if reply.body.trim_ascii() == b"pong" => Ok(()),
            Ok(Ok(_)) => Err(DirectusTrouble::Failed("what answers is no Directus")),
            Ok(Err(trouble)) => Err(trouble),
            Err(_) => Err(DirectusTrouble::Silent),
        }
    }

    /// Sends a request.
    pub async fn ask(&self, asking: UpstreamRequest) -> Result<DirectusReply, DirectusTrouble> {
        let leave = self.leave()?;
        let outcome = match self.head(&asking).await {
            Ok(answer) => self.read(answer).await,
            Err(trouble) => Err(trouble),
        };
        self.tell(leave, outcome.as_ref().err());
        outcome
    }

    /// Sends a request for a file.
    pub async fn open(&self, asking: UpstreamRequest) -> Result<OpenedFile, DirectusTrouble> {
        let leave = self.leave()?;
        let head = tokio::time::timeout(WHOLE, self.head(&asking));
        let outcome = match head.await.unwrap_or(Err(DirectusTrouble::Silent)) {
            Ok(answer) if answer.status().is_success() => Ok(OpenedFile::Found(answer)),
            Ok(answer) => self.read(answer).await.map(OpenedFile::Refused),
            Err(trouble) => Err(trouble),
        };
        self.tell(leave, outcome.as_ref().err());
        outcome
    }

    fn leave(&self) -> Result<Leave, DirectusTrouble> {
        let now = self.clock.now();
        self.circuit.enter(now).map_err(DirectusTrouble::LeftAlone)
    }

    fn tell(&self, leave: Leave, trouble: Option<&DirectusTrouble>) {
        match trouble {
            None | Some(DirectusTrouble::TooMany(_)) => leave.answered(self.clock.now()),
            Some(_) => leave.failed(self.clock.now()),
        }
    }

    /// The head of an answer. A request that only reads is sent a second time when the connection broke: Directus may
    /// have closed it just then.
    async fn head(&self, asking: &UpstreamRequest) -> Result<Response, DirectusTrouble> {
        let only_reads = asking.method == Method::GET;
        let mut answered = self.send(asking).await;
        if only_reads
            && answered
                .as_ref()
                .is_err_and(|error| !error.is_timeout() && !error.is_connect())
        {
            answered = self.send(asking).await;
        }
        answered.map_err(|error| {
            warn!(reason = reason(&error), "Directus: no answer");
            if error.is_connect() {
                DirectusTrouble::Unreachable
            } else {
                DirectusTrouble::Silent
            }
        })
    }

    async fn send(&self, asking: &UpstreamRequest) -> reqwest::Result<Response> {
        let mut url = self.base.clone();
        url.set_path(&format!(
            "{}{}",
            self.base.path().trim_end_matches('/'),
            asking.path
        ));
        if !asking.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&asking.query);
        }
        let request = self.http.request(asking.method.clone(), url);
        let mut request = request.timeout(asking.time);
        if let Some(authorization) = &asking.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if let Some(address) = asking.address {
            request = request.header("X-Forwarded-For", address.to_string());
        }
        if let Some(body) = &asking.body {
            request = request
                .header(CONTENT_TYPE, "application/json")
                .body(body.clone());
        }
        request.send().await
    }

    async fn read(&self, mut answer: Response) -> Result<DirectusReply, DirectusTrouble> {
        let status = answer.status().as_u16();
        let pause = pause(&answer);
        let mut body = Zeroizing::new(Vec::new());
        loop {
            match answer.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= MAX_ANSWER => {
                    body.extend_from_slice(&chunk)
                }
                Ok(Some(_)) => return Err(DirectusTrouble::Failed("its answer is too large")),
                Ok(None) => break,
                Err(error) => {
                    warn!(reason = reason(&error), "Directus: answer broke off");
                    return Err(DirectusTrouble::Silent);
                }
            }
        }
        let reply = DirectusReply { status, body };
        match status {
            200..=299 | 400..=428 | 430..=499 => Ok(reply),
            429 => Err(DirectusTrouble::TooMany(pause)),
            503 => Err(DirectusTrouble::Overloaded(pause)),
            _ => {
                warn!(
                    http.status = status,
                    code = reply.code(),
                    "Directus: answered with an error"
                );
                Err(DirectusTrouble::Failed("it answered an error"))
            }
        }
    }
}

fn pause(answer: &Response) -> Duration {
    let seconds = answer
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1)).clamp(Duration::from_secs(1), MAX_PAUSE)
}

/// The reason in genie's words: reqwest's own may hold a URL.
pub(super) fn reason(error: &reqwest::Error) -> &'static str {
    match () {
        () if error.is_connect() => "it cannot be reached",
        () if error.is_timeout() => "it did not answer in time",
        () => "the connection broke",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn answer_all(mut connection: TcpStream) -> std::io::Result<()> {
        let mut heard = Vec::new();
        while connection.read_buf(&mut heard).await? > 0 {
            if heard.ends_with(b"\r\n\r\n") {
                connection
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                    .await?;
                heard.clear();
            }
        }
        Ok(())
    }

    /// A server that never closes a connection, with the number of connections that it accepted.
    async fn patient() -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(answer_all(connection));
            }
        });
        (url, taken)
    }

    #[tokio::test]
    async fn a_connection_is_used_again_but_not_after_a_long_idle_time() {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let (url, taken) = patient().await;
        let upstream = Upstream::new(&url, ProxyUse::default(), None, Clock::system()).unwrap();
        let ask = async || {
            upstream
                .ask(UpstreamRequest::new(Method::GET, "/users/me"))
                .await
                .unwrap()
                .status
        };
        for _ in 0..10 {
            assert_eq!(ask().await, 200);
            // The connection goes back into the pool.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let before = taken.load(Ordering::SeqCst);
        assert!(before < 10, "each request had a connection of its own");
        // Directus would close it after 5 s.
        tokio::time::sleep(IDLE + Duration::from_millis(200)).await;
        assert_eq!(ask().await, 200);
        assert_eq!(taken.load(Ordering::SeqCst), before + 1);
    }
}
