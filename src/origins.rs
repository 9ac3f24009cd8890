//! The origins that browsers may call from (`CORS_ORIGINS`).

use std::{fmt, net::Ipv6Addr};

use url::{Host, Url};

/// The origins that may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigins {
    Any,
    Listed(Vec<OriginPattern>),
}

impl AllowedOrigins {
    /// Reads `*`, or a list. The error says which entry is wrong, and why.
    pub fn read(text: &str) -> Result<Self, String> {
        let entries: Vec<&str> = text
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|entry| !entry.is_empty())
            .collect();
        match entries[..] {
            [] => Err("must be * or a list of origins such as https://app.example.com".to_owned()),
            ["*"] => Ok(Self::Any),
            _ => {
                let read = (1..).zip(entries).map(|(n, entry)| {
                    OriginPattern::read(entry)
                        .map_err(|what| format!("has an entry, number {n}, that {what}"))
                });
                Ok(Self::Listed(read.collect::<Result<_, _>>()?))
            }
        }
    }

    /// True when the origin of a browser's header `Origin` may call.
    pub fn allows(&self, header: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(patterns) => std::str::from_utf8(header)
                .ok()
                .and_then(|origin| WebOrigin::read(origin).ok())
                .is_some_and(|origin| patterns.iter().any(|pattern| pattern.matches(&origin))),
        }
    }
}

/// An entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPattern {
    One(WebOrigin),
    /// Every extension of a browser, such as `moz-extension://*`: Firefox gives an extension another
    /// origin in each installation.
    EveryExtension {
        scheme: String,
    },
}

impl OriginPattern {
    fn read(entry: &str) -> Result<Self, &'static str> {
        let Some(scheme) = entry.trim_end_matches('/').strip_suffix("://*") else {
            return WebOrigin::read(entry).map(Self::One);
        };
        let scheme = scheme.to_ascii_lowercase();
        if !scheme.ends_with("-extension") || !is_scheme(&scheme) {
            return Err("has a * for its host; only extensions may, such as moz-extension://*");
        }
        Ok(Self::EveryExtension { scheme })
    }

    fn matches(&self, origin: &WebOrigin) -> bool {
        match self {
            Self::One(allowed) => allowed == origin,
            Self::EveryExtension { scheme } => origin.scheme() == scheme,
        }
    }
}

/// An origin in the form in which browsers send it (RFC 6454): in lower case, without the scheme's
/// default port, and with an international host in ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebOrigin(String);

impl WebOrigin {
    fn read(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or("is no origin; write it with its scheme, such as https://app.example.com")?;
        let scheme = scheme.to_ascii_lowercase();
        if !is_scheme(&scheme) {
            return Err("has no scheme such as https:// or chrome-extension://");
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@', '\\']) {
            return Err("has a path, a query or a user; an origin ends after host and port");
        }
        let origin = if ["http", "https"].contains(&scheme.as_str()) {
            of_the_web(&scheme, rest)
        } else {
            of_an_app(&scheme, rest)
        };
        origin.map(Self).ok_or("has no host, or one that is none")
    }

    fn scheme(&self) -> &str {
        self.0.split_once("://").map_or("", |(scheme, _)| scheme)
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_scheme(scheme: &str) -> bool {
    scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
}

/// By the rules of browsers for addresses of the web.
fn of_the_web(scheme: &str, host_and_port: &str) -> Option<String> {
    if host_and_port
        .chars()
        .any(|c| c.is_whitespace() || c.is_control())
    {
        return None; // browsers leave some of these out
    }
    let url = Url::parse(&format!("{scheme}://{host_and_port}")).ok()?;
    let is_wild = matches!(url.host()?, Host::Domain(domain) if domain.contains('*'));
    (!is_wild).then(|| url.origin().ascii_serialization())
}

/// Programs that are no web sites, such as extensions and apps, have names of their own for hosts.
fn of_an_app(scheme: &str, host_and_port: &str) -> Option<String> {
    let host_and_port = host_and_port.to_ascii_lowercase();
    let (host, port) = match host_and_port.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse::<u16>().ok()?)),
        _ => (host_and_port.as_str(), None),
    };
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match address {
        Some(address) => format!("[{}]", address.parse::<Ipv6Addr>().ok()?),
        None => host.to_owned(),
    };
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._~{}".contains(&b);
    if address.is_none() && (host.is_empty() || !host.bytes().all(is_name)) {
        return None;
    }
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    Some(format!("{scheme}://{host}{port}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> Option<String> {
        WebOrigin::read(text).ok().map(|origin| origin.to_string())
    }

    #[test]
    fn an_origin_has_the_form_that_browsers_send() {
        for (text, expected) in [
            ("https://app.example.com", "https://app.example.com"),
            ("HTTPS://App.Example.COM:443/", "https://app.example.com"),
            ("http://app.example.com:80", "http://app.example.com"),
            ("https://app.example.com:80", "https://app.example.com:80"),
            (
                "https://b\u{fc}cher.example",
                "https://xn--bcher-kva.example",
            ),
            ("http://[0:0:0:0:0:0:0:1]:8080", "http://[::1]:8080"),
            ("http://127.1:3000", "http://127.0.0.1:3000"),
            (
                "chrome-extension://ABCDEFGHIJKLMNOPABCDEFGHIJKLMNOP/",
                "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            ),
            (
                "safari-web-extension://E3449EA7-EC06",
                "safari-web-extension://e3449ea7-ec06",
            ),
            ("capacitor://localhost", "capacitor://localhost"),
            ("tauri://localhost", "tauri://localhost"),
            ("app://obsidian.md", "app://obsidian.md"),
            ("ionic://localhost:8100", "ionic://localhost:8100"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(expected), "{text}");
        }
        for bad in [
            "",
            "null",
            "*",
            "app.example.com",
            "//app.example.com",
            "https://",
            "https:///",
            "https://*",
            "https://*.example.com",
            "https://app.example.com/path",
            "https://app.example.com?x",
            "https://ada@app.example.com",
            "https://a b.example",
            "https://app.example.com:99999",
            "file://",
            "capacitor://",
            "tauri://local host",
            "moz-extension://a:b",
            "1http://a.example",
            "https://a.exa\tmple",
        ] {
            assert_eq!(canonical(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_list_names_its_wrong_entry() {
        let error =
            AllowedOrigins::read("https://a.example, https://b.example/canary").unwrap_err();
        assert!(
            error.contains("number 2") && error.contains("a path"),
            "{error}"
        );
        assert!(!error.contains("canary"));
        for (list, reason) in [
            ("", "a list"),
            (" , ", "a list"),
            ("*,https://a.example", "number 1"),
            ("null", "scheme"),
            ("https://*", "only extensions"),
            ("capacitor://*", "only extensions"),
            ("a.example", "scheme"),
        ] {
            let error = AllowedOrigins::read(list).unwrap_err();
            assert!(error.contains(reason), "{list}: {error}");
        }
        assert_eq!(AllowedOrigins::read(" * "), Ok(AllowedOrigins::Any));
        let listed = AllowedOrigins::read("https://a.example\nmoz-extension://*,").unwrap();
        for (header, allowed) in [
            ("https://a.example", true),
            ("https://A.example:443", true),
            ("moz-extension://0f1e2d3c-0000-4000-8000-000000000001", true),
            ("http://a.example", false),
            ("https://a.example.evil.example", false),
            ("https://evil.example/https://a.example", false),
            ("chrome-extension://abcdefghijklmnopabcdefghijklmnop", false),
            ("xmoz-extension://a", false),
            ("moz-extension://", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(listed.allows(header.as_bytes()), allowed, "{header}");
        }
        assert!(!listed.allows(b"\xff"));
    }

    proptest! {
        #[test]
        fn any_header_is_allowed_or_not(
            header in prop::collection::vec(any::<u8>(), 0..40),
            text in "[a-z]{1,8}://\\PC{0,20}",
        ) {
            let listed = AllowedOrigins::read("https://a.example,moz-extension://*").unwrap();
            prop_assert!(!listed.allows(&header) || header.starts_with(b"https") || header.starts_with(b"moz"));
            let _ = AllowedOrigins::read(&text);
        }

        /// What was taken reads back as the same.
        #[test]
        fn a_read_origin_reads_back(text in "(https?|chrome-extension|tauri)://[a-zA-Z0-9.\\[\\]:\u{fc}\u{3002}-]{1,20}(:[0-9]{1,5})?/?") {
            if let Ok(origin) = WebOrigin::read(&text) {
                prop_assert_eq!(WebOrigin::read(&origin.to_string()), Ok(origin));
            }
        }
    }
}
