//! The cookies of a session, in the form of browsers' extensions and automation tools.

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::{Number, Value};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

use crate::{refusal::Refusal, secret_text::SecretText, timestamp::Timestamp};

/// The most cookies in a session.
const MAX_COOKIES: usize = 1000;
/// The longest field of a session's cookie, in bytes. Browsers keep 4096 bytes of name and value
/// together (RFC 6265bis, 5.6).
const MAX_FIELD: usize = 4096;
/// The beginnings of the names of cookies that are set beside a login but are not a login, such as
/// those against bots or for balancing load. They are HttpOnly and live for minutes or for years,
/// so they say nothing about the login.
const NO_LOGINS: [&str; 12] = [
    "__cf",
    "_cf",
    "cf_",
    "AWSALB",
    "ak_bmsc",
    "bm_",
    "_abck",
    "datadome",
    "incap_ses",
    "visid_incap",
    "nlbi_",
    "_px",
];
/// The last second that an expiry may name, in the year 9999. Larger numbers are smaller units.
const LAST_SECOND: f64 = 253_402_300_799.0;
/// From 1601, where Chrome's own files begin to count microseconds, to 1970.
const SECONDS_FROM_1601: f64 = 11_644_473_600.0;
const SAME_SITE: [&str; 5] = ["strict", "lax", "none", "no_restriction", "unspecified"];

/// A cookie of a session. Given fields are kept as they were given, and absent fields stay absent.
/// What a tool writes in another way is kept in this one.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionCookie {
    pub name: String,
    pub value: SecretText,
    pub domain: String,
    /// The path; `/` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The expiry in seconds since 1970. Without it, or with 0 or less, the cookie ends with the
    /// browser's session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Number>,
    /// True when scripts may not see the cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_only: Option<bool>,
    /// True when the cookie is for HTTPS only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure: Option<bool>,
    /// Says whether requests from other sites carry the cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_site: Option<String>,
}

/// A cookie in the words of browsers' extensions (`chrome.cookies`, Cookie-Editor, EditThisCookie),
/// of Playwright, Puppeteer and Selenium, and of Electron. What a tool says of a cookie beside its
/// name, value and domain is read as well as can be, and never refused.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExportedCookie {
    name: String,
    value: SecretText,
    domain: Option<String>,
    /// Another name of the domain.
    host: Option<String>,
    #[serde(default, deserialize_with = "text")]
    path: Option<String>,
    /// Playwright's and Puppeteer's name for the end.
    #[serde(default, deserialize_with = "end")]
    expires: Option<Number>,
    /// The browsers' own name.
    #[serde(default, deserialize_with = "end")]
    expiration_date: Option<Number>,
    /// Selenium's name.
    #[serde(default, deserialize_with = "end")]
    expiry: Option<Number>,
    #[serde(
        default,
        alias = "httponly",
        alias = "http_only",
        deserialize_with = "flag"
    )]
    http_only: Option<bool>,
    #[serde(default, deserialize_with = "flag")]
    secure: Option<bool>,
    #[serde(
        default,
        alias = "samesite",
        alias = "same_site",
        deserialize_with = "text"
    )]
    same_site: Option<String>,
}

impl<'de> Deserialize<'de> for SessionCookie {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let exported = ExportedCookie::deserialize(deserializer)?;
        let domain = exported.domain.or(exported.host);
        let end = exported.expires.or(exported.expiration_date);
        let is_known = |word: &String| SAME_SITE.contains(&word.to_ascii_lowercase().as_str());
        Ok(Self {
            name: exported.name,
            value: exported.value,
            domain: domain.ok_or_else(|| D::Error::missing_field("domain"))?,
            path: exported.path.filter(|path| !path.is_empty()),
            expires: end.or(exported.expiry),
            http_only: exported.http_only,
            secure: exported.secure,
            same_site: exported.same_site.filter(is_known),
        })
    }
}

/// A text; anything else says nothing.
fn text<'de, D: Deserializer<'de>>(field: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(field)? {
        Value::String(text) => Some(text),
        _ => None,
    })
}

/// A flag as JSON, as a number, or as a text; anything else says nothing.
fn flag<'de, D: Deserializer<'de>>(field: D) -> Result<Option<bool>, D::Error> {
    Ok(match Value::deserialize(field)? {
        Value::Bool(flag) => Some(flag),
        Value::Number(number) => number.as_f64().map(|number| number != 0.0),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    })
}

/// The end of a cookie, in seconds since 1970: a number of seconds or of a smaller unit, or a text
/// of that number or of a time. Anything else says nothing.
fn end<'de, D: Deserializer<'de>>(field: D) -> Result<Option<Number>, D::Error> {
    Ok(match Value::deserialize(field)? {
        Value::Number(number) => in_seconds(number),
        Value::String(text) => {
            let text = text.trim();
            match text.parse::<i64>() {
                Ok(whole) => in_seconds(whole.into()),
                Err(_) => text
                    .parse::<f64>()
                    .ok()
                    .or_else(|| time_of(text))
                    .and_then(Number::from_f64)
                    .and_then(in_seconds),
            }
        }
        _ => None,
    })
}

/// The number as it is, if it can be seconds.
fn in_seconds(number: Number) -> Option<Number> {
    let given = number.as_f64()?;
    let seconds = match given {
        _ if given <= LAST_SECOND => return Some(number),
        // Milliseconds of JavaScript, microseconds, and microseconds of Chrome's files.
        _ if given / 1e3 <= LAST_SECOND => given / 1e3,
        _ if given < 1e16 => given / 1e6,
        _ => given / 1e6 - SECONDS_FROM_1601,
    };
    Number::from_f64(seconds.clamp(0.0, LAST_SECOND))
}

/// The seconds of a time as JSON has it (RFC 3339), or as HTTP has it.
fn time_of(text: &str) -> Option<f64> {
    let micros = Timestamp::parse_rfc3339(text).map(|at| at.0 as f64 / 1e6);
    micros.or_else(|| {
        let at = OffsetDateTime::parse(text, &Rfc2822).ok()?;
        Some(at.unix_timestamp() as f64)
    })
}

impl SessionCookie {
    fn check(&self) -> Result<(), (&'static str, String)> {
        let is_text = |text: &str| text.len() <= MAX_FIELD && !text.chars().any(char::is_control);
        let text = format!("must have at most {MAX_FIELD} bytes, none of them control characters");
        for (field, given) in [
            ("name", self.name.as_str()),
            ("value", self.value.expose()),
            ("path", self.path.as_deref().unwrap_or_default()),
        ] {
            if !is_text(given) {
                return Err((field, text));
            }
        }
        if self.name.is_empty() && self.value.expose().is_empty() {
            return Err(("name", "must not be empty when `value` is empty".into()));
        }
        let domain = self.domain.strip_prefix('.').unwrap_or(&self.domain);
        if domain.is_empty()
            || domain.len() > 255
            || domain.contains(|c: char| c.is_control() || c.is_whitespace())
        {
            return Err(("domain", "must be a domain".into()));
        }
        Ok(())
    }

    /// The expiry in seconds since 1970; `None` if the cookie ends with the browser's session.
    fn expires_at(&self) -> Option<Timestamp> {
        let seconds = self
            .expires
            .as_ref()
            .and_then(Number::as_f64)
            .filter(|at| (0.0..=LAST_SECOND).contains(at) && *at > 0.0)?;
        Some(Timestamp((seconds * 1e6) as i64))
    }
}

/// Checks the cookies of a session. Returns the time at which the session is over; `None` if its
/// cookies do not tell.
///
/// A session is over when the last of its HttpOnly cookies expires, apart from cookies against
/// bots. Sites keep logins in HttpOnly cookies, while scripts set trackers, which live far longer
/// and so are not HttpOnly. If no such cookie tells, the last expiry of all others counts. So genie
/// never calls a session over while its login may live, though the platform may end a login
/// earlier.
pub fn checked_session(
    cookies: &[SessionCookie],
    now: Timestamp,
) -> Result<Option<Timestamp>, Refusal> {
    if !(1..=MAX_COOKIES).contains(&cookies.len()) {
        return Err(Refusal::invalid(
            "cookies",
            format!("`cookies` must hold 1 to {MAX_COOKIES} cookies"),
        ));
    }
    for (n, cookie) in cookies.iter().enumerate() {
        cookie.check().map_err(|(field, what)| {
            Refusal::invalid("cookies", format!("`cookies[{n}].{field}` {what}"))
        })?;
    }
    let may_be_login =
        |cookie: &&SessionCookie| !NO_LOGINS.iter().any(|name| cookie.name.starts_with(name));
    let (http_only, others): (Vec<_>, Vec<_>) = cookies
        .iter()
        .filter(may_be_login)
        .partition(|cookie| cookie.http_only == Some(true));
    let last = |of: Vec<&SessionCookie>| of.into_iter().filter_map(SessionCookie::expires_at).max();
    match last(http_only).or_else(|| last(others)) {
        Some(end) if end <= now => {
            let sentence = "`cookies` are of a session that is over; log in on the platform and capture it again";
            Err(Refusal::invalid("cookies", sentence))
        }
        end => Ok(end),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::too_many_lines)] // a table of spellings is read from its beginning to its end

    use serde_json::json;

    use super::*;

    fn cookie(more: serde_json::Value) -> SessionCookie {
        let mut cookie = json!({"name": "sess", "value": "canary", "domain": ".x.com"});
        cookie
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        serde_json::from_value(cookie).unwrap()
    }

    #[test]
    fn a_session_ends_with_the_last_of_its_http_only_cookies() {
        let now = Timestamp(1_700_000_000_000_000);
        let over = |cookies: &[SessionCookie]| {
            checked_session(cookies, now)
                .unwrap()
                .map(Timestamp::unix_seconds)
        };
        let login = cookie(json!({"httpOnly": true, "expires": 1_800_000_000}));
        let against_bots =
            |end: f64| cookie(json!({"name": "__cf_bm", "httpOnly": true, "expires": end}));
        let short_lived = cookie(json!({"httpOnly": true, "expires": 1_700_001_800.25}));
        let tracker = cookie(json!({"expirationDate": 1_900_000_000.5}));
        let with_the_browser = cookie(json!({"httpOnly": true, "expires": -1}));
        assert_eq!(
            over(&[
                login.clone(),
                short_lived,
                tracker.clone(),
                with_the_browser.clone()
            ]),
            Some(1_800_000_000)
        );
        assert_eq!(
            over(&[login.clone(), against_bots(1.85e9)]),
            Some(1_800_000_000)
        );
        assert_eq!(
            over(&[tracker, with_the_browser.clone(), against_bots(1.700_001e9)]),
            Some(1_900_000_000)
        );
        assert_eq!(over(&[against_bots(1.85e9)]), None);
        assert_eq!(over(&[with_the_browser]), None);
        let long_ago = cookie(json!({"httpOnly": true, "expires": 1_600_000_000}));
        assert!(
            checked_session(std::slice::from_ref(&long_ago), now)
                .unwrap_err()
                .sentence
                .contains("over")
        );
        assert_eq!(over(&[long_ago, login]), Some(1_800_000_000));
    }

    #[test]
    fn a_sessions_cookie_is_kept_unchanged_and_prints_nothing() {
        let said = json!({
            "name": "sess", "value": "canary", "domain": ".x.com", "path": "/", "expires": 1_800_000_000.123_456,
            "httpOnly": true, "secure": false, "sameSite": "Lax",
        });
        let read: SessionCookie = serde_json::from_value(said.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), said);
        assert!(!format!("{read:?}").contains("canary"));
        assert_eq!(
            serde_json::to_value(cookie(json!({"hostOnly": true})))
                .unwrap()
                .as_object()
                .unwrap()
                .len(),
            3
        );
    }

    #[test]
    fn a_sessions_bad_cookie_is_named_and_never_shown() {
        let now = Timestamp(1_700_000_000_000_000);
        for (more, field) in [
            (json!({"name": "", "value": ""}), "name"),
            (json!({"name": "a\r\nb"}), "name"),
            (json!({"value": "canary\n"}), "value"),
            (json!({"value": "canary".repeat(1000)}), "value"),
            (json!({"domain": ""}), "domain"),
            (json!({"domain": "canary .com"}), "domain"),
            (json!({"path": "/\u{0}"}), "path"),
        ] {
            let refused = checked_session(&[cookie(json!({})), cookie(more)], now).unwrap_err();
            assert!(
                refused
                    .sentence
                    .starts_with(&format!("`cookies[1].{field}` ")),
                "{}",
                refused.sentence
            );
            assert!(!refused.sentence.contains("canary"), "{}", refused.sentence);
        }
        assert!(checked_session(&[], now).is_err());
        assert!(checked_session(&vec![cookie(json!({})); MAX_COOKIES + 1], now).is_err());
    }

    #[test]
    fn a_tools_own_words_are_read() {
        for (more, seconds, same_site) in [
            // Playwright and Puppeteer.
            (
                json!({"expires": -1, "sameSite": "Lax", "size": 7, "session": true}),
                None,
                Some("Lax"),
            ),
            (
                json!({"expires": 1_800_000_000.5, "sameSite": "None", "partitionKey": null}),
                Some(1_800_000_000),
                Some("None"),
            ),
            // Selenium and WebDriver.
            (
                json!({"expiry": 1_800_000_000, "sameSite": "Strict"}),
                Some(1_800_000_000),
                Some("Strict"),
            ),
            (json!({"expiry": null, "sameSite": "default"}), None, None),
            // Cookie-Editor, EditThisCookie and Firefox.
            (
                json!({"expirationDate": 1_800_000_000.123, "sameSite": "unspecified", "storeId": "0"}),
                Some(1_800_000_000),
                Some("unspecified"),
            ),
            (
                json!({"expirationDate": null, "sameSite": null, "path": null, "secure": null, "httpOnly": null}),
                None,
                None,
            ),
            (
                json!({"expirationDate": "", "sameSite": "", "hostOnly": true}),
                None,
                None,
            ),
            (
                json!({"expires": null, "expirationDate": 1_800_000_000}),
                Some(1_800_000_000),
                None,
            ),
            (
                json!({"expires": 1_800_000_000, "expirationDate": 1}),
                Some(1_800_000_000),
                None,
            ),
            (
                json!({"sameSite": "no_restriction"}),
                None,
                Some("no_restriction"),
            ),
            (json!({"sameSite": 3, "expires": {"canary": 1}}), None, None),
            // Milliseconds of the Cookie Store API, microseconds of Chrome's file, and texts.
            (
                json!({"expires": 1_800_000_000_000_u64}),
                Some(1_800_000_000),
                None,
            ),
            (
                json!({"expires": 1_800_000_000_000_000_u64}),
                Some(1_800_000_000),
                None,
            ),
            (
                json!({"expires": 13_444_473_600_000_000_u64}),
                Some(1_800_000_000),
                None,
            ),
            (json!({"expires": "1800000000"}), Some(1_800_000_000), None),
            (
                json!({"expires": "1800000000.25"}),
                Some(1_800_000_000),
                None,
            ),
            (
                json!({"expires": "2027-01-15T08:00:00.000Z"}),
                Some(1_800_000_000),
                None,
            ),
            (
                json!({"expires": "Fri, 15 Jan 2027 08:00:00 GMT"}),
                Some(1_800_000_000),
                None,
            ),
            (json!({"expires": "Session"}), None, None),
            (json!({"expires": "Infinity"}), None, None),
            (json!({"expires": true}), None, None),
            (json!({"expires": 1e300}), Some(253_402_300_799), None),
            (json!({"expires": -1e300}), None, None),
        ] {
            let read = cookie(more.clone());
            let read_seconds = read.expires_at().map(Timestamp::unix_seconds);
            assert_eq!(
                (read_seconds, read.same_site.as_deref()),
                (seconds, same_site),
                "{more}"
            );
            assert_eq!(
                serde_json::from_value::<SessionCookie>(serde_json::to_value(&read).unwrap())
                    .unwrap(),
                read
            );
        }
        for (given, flag) in [
            (json!(true), Some(true)),
            (json!(1), Some(true)),
            (json!("TRUE"), Some(true)),
            (json!("false"), Some(false)),
            (json!(0), Some(false)),
            (json!(null), None),
            (json!("maybe"), None),
        ] {
            let read = cookie(json!({"httpOnly": given, "secure": given}));
            assert_eq!((read.http_only, read.secure), (flag, flag), "{given}");
        }
        let hosted = json!({"name": "a", "value": "b", "host": ".x.com"});
        assert_eq!(
            serde_json::from_value::<SessionCookie>(hosted)
                .unwrap()
                .domain,
            ".x.com"
        );
        let without =
            serde_json::from_value::<SessionCookie>(json!({"name": "a", "value": "canary"}));
        assert_eq!(without.unwrap_err().to_string(), "missing field `domain`");
    }
}
