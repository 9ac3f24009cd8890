//! Fetches what an address on the Internet names, and never what a private network holds.
//!
//! Every connection of this worker to a place that a user named goes through [`Guard`]: a name is resolved once,
//! its addresses are judged, and the connection is made to one that was judged. Each redirect is judged anew.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use reqwest::{
    Client, Response, StatusCode,
    dns::{Addrs, Name, Resolve, Resolving},
    header::LOCATION,
    redirect::Policy,
};
use tokio::{
    fs::File,
    io::AsyncWriteExt,
    net::{TcpStream, lookup_host},
    time::timeout,
};
use url::{Host, Url};

/// The networks that strangers must not reach.
mod networks;
/// A proxy for a program that makes its own connections.
pub mod proxy;

pub use networks::{BadNetworks, PrivateNetworks};

const MAX_REDIRECTS: usize = 5;
const CONNECT_TIME: Duration = Duration::from_secs(15);
/// A server may be silent for so long.
const SILENCE: Duration = Duration::from_secs(60);

/// Why something was not fetched. No sentence repeats the address, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("the address must begin with http:// or https:// and name a host")]
    NotHttp,
    #[error("the address leads into a private or special network")]
    Private,
    #[error("the host has no address")]
    NoAddress,
    #[error("the server can't be reached: {0}")]
    Away(String),
    #[error("the server answered with status {0}")]
    Status(u16),
    #[error("the server redirects too often, or to nowhere")]
    Redirects,
    #[error("the file has more than {0} bytes")]
    TooLarge(u64),
    #[error("the server took too long")]
    TooSlow,
    #[error("the file can't be written: {0}")]
    Disk(String),
}

impl FetchError {
    /// True when the same may work later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotHttp | Self::Private | Self::Redirects | Self::TooLarge(_) => false,
            Self::Status(status) => *status == 408 || *status == 429 || *status >= 500,
            Self::NoAddress | Self::Away(_) | Self::TooSlow | Self::Disk(_) => true,
        }
    }

    pub fn code(&self) -> &'static str {
        match self {
            Self::NotHttp => "bad_url",
            Self::Private => "private_address",
            Self::TooLarge(_) => "input_too_large",
            Self::Disk(_) => "disk",
            _ => "fetch_failed",
        }
    }
}

/// Judges an address without asking for names: its scheme, and its host when it is a literal one.
pub fn judge_url(url: &str, allowed: &PrivateNetworks) -> Result<Url, FetchError> {
    let url = Url::parse(url).map_err(|_| FetchError::NotHttp)?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(FetchError::NotHttp);
    }
    let literal = match url.host() {
        None => return Err(FetchError::NotHttp),
        Some(Host::Domain(_)) => return Ok(url),
        Some(Host::Ipv4(v4)) => v4.into(),
        Some(Host::Ipv6(v6)) => v6.into(),
    };
    if allowed.may_reach(literal) {
        Ok(url)
    } else {
        Err(FetchError::Private)
    }
}

/// Makes connections to places that users named.
#[derive(Clone)]
pub struct Guard {
    allowed: Arc<PrivateNetworks>,
    client: Client,
}

/// The most that is fetched.
#[derive(Debug, Clone, Copy)]
pub struct FetchLimits {
    pub bytes: u64,
    pub time: Duration,
}

impl Guard {
    /// An error is one of the system's: no TLS, no random numbers.
    pub fn new(allowed: PrivateNetworks) -> Result<Self, String> {
        let allowed = Arc::new(allowed);
        let client = Client::builder()
            .user_agent(concat!("genie/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(Policy::none())
            .dns_resolver(Resolver(Arc::clone(&allowed)))
            .connect_timeout(CONNECT_TIME)
            .read_timeout(SILENCE)
            .build()
            .map_err(|error| format!("the client of the media worker can't be made: {error}"))?;
        Ok(Self { allowed, client })
    }

    /// Fetches `url` into a new file, and returns the number of bytes.
    pub async fn fetch(
        &self,
        url: &str,
        to: &Path,
        limits: FetchLimits,
    ) -> Result<u64, FetchError> {
        let whole = async {
            let answer = self.follow(url).await?;
            write(answer, to, limits.bytes).await
        };
        timeout(limits.time, whole)
            .await
            .unwrap_or(Err(FetchError::TooSlow))
    }

    async fn follow(&self, url: &str) -> Result<Response, FetchError> {
        let mut url = judge_url(url, &self.allowed)?;
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.client.get(url.clone()).send().await.map_err(away)?;
            let status = answer.status();
            if status == StatusCode::NOT_MODIFIED || !status.is_redirection() {
                if !status.is_success() {
                    return Err(FetchError::Status(status.as_u16()));
                }
                return Ok(answer);
            }
            let location = answer.headers().get(LOCATION);
            let location = location.and_then(|location| location.to_str().ok());
            let next = url.join(location.ok_or(FetchError::Redirects)?);
            url = judge_url(
                next.map_err(|_| FetchError::Redirects)?.as_str(),
                &self.allowed,
            )?;
        }
        Err(FetchError::Redirects)
    }

    /// Connects to a host: to one of its addresses that may be reached.
    pub async fn connect(&self, host: &Host<&str>, port: u16) -> Result<TcpStream, FetchError> {
        let addresses = match host {
            Host::Domain(name) => resolve(&self.allowed, name).await?,
            Host::Ipv4(v4) => vec![(*v4, 0).into()],
            Host::Ipv6(v6) => vec![(*v6, 0).into()],
        };
        let mut last = FetchError::Private;
        for mut address in addresses {
            if !self.allowed.may_reach(address.ip()) {
                continue;
            }
            address.set_port(port);
            last = match timeout(CONNECT_TIME, TcpStream::connect(address)).await {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(error)) => FetchError::Away(error.to_string()),
                Err(_) => FetchError::TooSlow,
            };
        }
        Err(last)
    }
}

/// The addresses of a name that may be reached.
async fn resolve(allowed: &PrivateNetworks, name: &str) -> Result<Vec<SocketAddr>, FetchError> {
    let found = lookup_host((name, 0)).await;
    let found: Vec<SocketAddr> = found.map_err(|_| FetchError::NoAddress)?.collect();
    if found.is_empty() {
        return Err(FetchError::NoAddress);
    }
    let reachable: Vec<SocketAddr> = found
        .into_iter()
        .filter(|address| allowed.may_reach(address.ip()))
        .collect();
    if reachable.is_empty() {
        return Err(FetchError::Private);
    }
    Ok(reachable)
}

struct Resolver(Arc<PrivateNetworks>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = Arc::clone(&self.0);
        Box::pin(async move {
            let found = resolve(&allowed, name.as_str()).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// The guard's own reason, when it is the cause of a failure, else the innermost cause: the outer ones repeat the
/// address.
fn away(error: reqwest::Error) -> FetchError {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
        if let Some(ours) = cause.downcast_ref::<FetchError>() {
            return ours.clone();
        }
    }
    if error.is_timeout() {
        return FetchError::TooSlow;
    }
    FetchError::Away(cause.to_string())
}

async fn write(mut answer: Response, to: &Path, most: u64) -> Result<u64, FetchError> {
    if answer.content_length().is_some_and(|length| length > most) {
        return Err(FetchError::TooLarge(most));
    }
    let disk = |error: std::io::Error| FetchError::Disk(error.to_string());
    let mut file = File::create_new(to).await.map_err(disk)?;
    let mut written = 0_u64;
    while let Some(piece) = answer.chunk().await.map_err(away)? {
        written += piece.len() as u64;
        if written > most {
            return Err(FetchError::TooLarge(most));
        }
        file.write_all(&piece).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)?;
    Ok(written)
}
