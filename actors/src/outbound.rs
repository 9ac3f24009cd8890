//! Requests to other systems: whether they go through the proxy that the environment names.

use std::net::IpAddr;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{ClientBuilder, Url};

/// What a proxy of the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`) is used for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProxyUse {
    /// All but servers on this machine, which a proxy elsewhere cannot reach.
    #[default]
    OtherMachines,
    Everything,
}

impl ProxyUse {
    /// True when requests to this address go through a proxy.
    pub fn applies_to(self, url: &str) -> bool {
        let is_asked = self == Self::Everything || !is_loopback(url);
        let uri = url.parse::<http::Uri>();
        is_asked && uri.is_ok_and(|uri| Matcher::from_env().intercept(&uri).is_some())
    }

    /// A client for this address.
    pub fn client(self, client: ClientBuilder, url: &str) -> ClientBuilder {
        if self == Self::OtherMachines && is_loopback(url) {
            client.no_proxy()
        } else {
            client
        }
    }
}

fn is_loopback(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else {
        return false;
    };
    let host = url.host_str().unwrap_or("");
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"), // RFC 6761, section 6.3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_by_all_its_names() {
        for (url, expected) in [
            ("http://127.0.0.1:11434", true),
            ("http://127.8.9.10/", true),
            ("http://[::1]:11434", true),
            ("http://[::ffff:127.0.0.1]", true),
            ("http://LocalHost:11434", true),
            ("http://ollama.localhost", true),
            ("http://10.0.0.1:11434", false),
            ("http://localhost.example", false),
            ("https://ollama.example", false),
            ("nonsense", false),
        ] {
            assert_eq!(is_loopback(url), expected, "{url}");
        }
    }
}
