//! Cookies in the forms that people and browsers have them.
//!
//! A **cookie file** is Netscape's `cookies.txt`, as curl and yt-dlp read it: a line for each
//! cookie with seven fields between tabs, comments behind `#`, and `#HttpOnly_` before the domain
//! of a cookie that scripts may not see. The file is checked by the rules of both tools together
//! and kept byte for byte, so that the tools accept it again.
//!
//! A **session** is a list of cookies, in the form of browsers' extensions and automation tools.

use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::{refusal::Refusal, secret_text::SecretText, timestamp::Timestamp};

/// Python's `http.cookiejar`, and so yt-dlp, refuses a file without this first line.
const HEADER: &str = "# Netscape HTTP Cookie File";
/// The other first line that the tools accept.
const SHORT_HEADER: &str = "# HTTP Cookie File";
/// Stands before the domain of a cookie that scripts may not see.
const HTTP_ONLY: &str = "#HttpOnly_";
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
/// The last second that an expiry may name, in the year 9999. Larger numbers are milliseconds.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// Checks a cookie file. Returns it as tools accept it: with the header line put before it if it
/// had none, without a byte order mark, and otherwise unchanged. The refusal names the line and its
/// mistake, never its content.
pub fn checked_file(text: &SecretText) -> Result<SecretText, Refusal> {
    let text = text.expose();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut cookies = 0_usize;
    for (n, line) in (1..).zip(text.split('\n')) {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let is_cookie = checked_line(line).map_err(|what| {
            Refusal::invalid(
                "cookies",
                format!("`cookies` is no Netscape cookie file: line {n} {what}"),
            )
        })?;
        cookies += usize::from(is_cookie);
    }
    if cookies == 0 {
        return Err(Refusal::invalid(
            "cookies",
            "`cookies` must be a Netscape cookie file with at least one cookie",
        ));
    }
    let first = text.lines().next().unwrap_or_default();
    if first.starts_with(HEADER) || first.starts_with(SHORT_HEADER) {
        return Ok(text.to_owned().into());
    }
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    Ok([HEADER, end, text].concat().into())
}

/// True when the line is a cookie, false when it is a comment or blank.
fn checked_line(line: &str) -> Result<bool, &'static str> {
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Err("holds a control character");
    }
    let cookie = match line.strip_prefix(HTTP_ONLY) {
        Some(cookie) => cookie,
        None if line.starts_with('#') || line.trim().is_empty() => return Ok(false),
        None => line,
    };
    let fields: Vec<&str> = cookie.split('\t').collect();
    let [domain, subdomains, path, secure, expires, name, value] = fields[..] else {
        return Err("must have seven fields with a tab between each two");
    };
    let bare = domain.strip_prefix('.').unwrap_or(domain);
    if bare.is_empty() || domain.contains(char::is_whitespace) || domain.starts_with(['#', '$']) {
        return Err("must begin with a domain");
    }
    for (field, what) in [
        (
            subdomains,
            "must have TRUE or FALSE as its second field (whether subdomains are meant)",
        ),
        (
            secure,
            "must have TRUE or FALSE as its fourth field (whether it is for HTTPS only)",
        ),
    ] {
        if !["TRUE", "FALSE"].contains(&field) {
            return Err(what);
        }
    }
    // Python refuses a whole file for this mistake.
    if (subdomains == "TRUE") != domain.starts_with('.') {
        return Err(
            "must have TRUE as its second field if the domain begins with a dot, and else FALSE",
        );
    }
    if !path.starts_with('/') {
        return Err("must have a path that begins with `/` as its third field");
    }
    let is_number = !expires.is_empty() && expires.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || expires.parse::<i64>().is_err() {
        return Err(
            "must have a number as its fifth field (when it expires, in seconds since 1970; 0 for the end of the session)",
        );
    }
    if name.is_empty() && value.is_empty() {
        return Err("must have a name or a value");
    }
    Ok(true)
}

/// A cookie of a session, in the words of browsers' extensions (`chrome.cookies`) and of Playwright
/// and Puppeteer. Given fields are kept as they were given, and absent fields stay absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionCookie {
    pub name: String,
    pub value: SecretText,
    pub domain: String,
    /// The path; `/` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The expiry in seconds since 1970. Without it, or with 0 or less, the cookie ends with the
    /// browser's session.
    #[serde(
        default,
        alias = "expirationDate",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires: Option<Number>,
    /// True when scripts may not see the cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_only: Option<bool>,
    /// True when the cookie is for HTTPS only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure: Option<bool>,
    /// Says whether requests from other sites carry the cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_site: Option<String>,
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
            return Err(("name", "must not be empty where `value` is".into()));
        }
        let domain = self.domain.strip_prefix('.').unwrap_or(&self.domain);
        if domain.is_empty()
            || domain.len() > 255
            || domain.contains(|c: char| c.is_control() || c.is_whitespace())
        {
            return Err(("domain", "must be a domain".into()));
        }
        if self
            .expires
            .as_ref()
            .and_then(Number::as_f64)
            .is_some_and(|at| at > LAST_SECOND)
        {
            return Err((
                "expires",
                "must be seconds since 1970, not milliseconds".into(),
            ));
        }
        let same_site = self.same_site.as_deref().map(str::to_ascii_lowercase);
        if same_site.is_some_and(|word| {
            !["strict", "lax", "none", "no_restriction", "unspecified"].contains(&word.as_str())
        }) {
            return Err((
                "sameSite",
                "must be `Strict`, `Lax`, `None`, `no_restriction` or `unspecified`".into(),
            ));
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
    #![allow(clippy::too_many_lines)] // a table of lines is read from its beginning to its end

    use serde_json::json;

    use super::*;

    const FILE: &str = "# Netscape HTTP Cookie File\n\
        # https://curl.se/docs/http-cookies.html\n\
        \n\
        .example.com\tTRUE\t/\tFALSE\t0\tlang\ten GB; \"quoted\" #no comment\n\
        #HttpOnly_.example.com\tTRUE\t/\tTRUE\t1893456000\tsess\tabc=def==\n\
        www.example.com\tFALSE\t/a b\tTRUE\t1893456000\tempty\t\n\
        www.example.com\tFALSE\t/\tTRUE\t1893456000\t\tnameless";

    fn checked(text: &str) -> Result<String, String> {
        let checked = checked_file(&text.to_owned().into());
        checked
            .map(|file| file.expose().to_owned())
            .map_err(|refusal| refusal.sentence)
    }

    #[test]
    fn a_file_comes_out_as_it_went_in() {
        for file in [
            FILE.to_owned(),
            format!("{FILE}\n"),
            format!("{FILE}\n\n# the end\n"),
            FILE.replace('\n', "\r\n"),
            FILE.replace("# Netscape HTTP", "# HTTP"),
            FILE.replace(
                "# Netscape HTTP Cookie File",
                "# Netscape HTTP Cookie File; made by an extension",
            ),
        ] {
            assert_eq!(checked(&file).as_ref(), Ok(&file));
        }
    }

    #[test]
    fn a_beginning_that_no_tool_accepts_is_mended() {
        let (_, without) = FILE.split_once('\n').unwrap();
        assert_eq!(checked(without), Ok(FILE.to_owned()));
        assert_eq!(
            checked(&without.replace('\n', "\r\n")),
            Ok(FILE.replace('\n', "\r\n"))
        );
        assert_eq!(checked(&format!("\u{feff}{FILE}")), Ok(FILE.to_owned()));
    }

    #[test]
    fn a_malformed_line_is_named_by_its_number_and_mistake_never_by_its_content() {
        let good = ".canary.com\tTRUE\t/\tFALSE\t0\tcanary\tcanary";
        for (line, what) in [
            (".canary.com TRUE / FALSE 0 canary canary", "seven fields"),
            (".canary.com\tTRUE\t/\tFALSE\t0\tcanary", "seven fields"),
            (
                ".canary.com\tTRUE\t/\tFALSE\t0\tcanary\tcan\tary",
                "seven fields",
            ),
            ("canary=canary; path=/", "seven fields"),
            ("[{\"name\": \"canary\"}]", "seven fields"),
            ("#HttpOnly_canary", "seven fields"),
            ("\tTRUE\t/\tFALSE\t0\tcanary\tcanary", "a domain"),
            (".\tTRUE\t/\tFALSE\t0\tcanary\tcanary", "a domain"),
            (
                "canary .com\tFALSE\t/\tFALSE\t0\tcanary\tcanary",
                "a domain",
            ),
            (
                ".canary.com\ttrue\t/\tFALSE\t0\tcanary\tcanary",
                "second field",
            ),
            (
                ".canary.com\t1\t/\tFALSE\t0\tcanary\tcanary",
                "second field",
            ),
            (
                ".canary.com\tFALSE\t/\tFALSE\t0\tcanary\tcanary",
                "second field if the domain",
            ),
            (
                "canary.com\tTRUE\t/\tFALSE\t0\tcanary\tcanary",
                "second field if the domain",
            ),
            (".canary.com\tTRUE\t\tFALSE\t0\tcanary\tcanary", "a path"),
            (
                ".canary.com\tTRUE\t/\tyes\t0\tcanary\tcanary",
                "fourth field",
            ),
            (".canary.com\tTRUE\t/\tFALSE\t\tcanary\tcanary", "a number"),
            (
                ".canary.com\tTRUE\t/\tFALSE\t-1\tcanary\tcanary",
                "a number",
            ),
            (
                ".canary.com\tTRUE\t/\tFALSE\t1.5\tcanary\tcanary",
                "a number",
            ),
            (
                ".canary.com\tTRUE\t/\tFALSE\tsoon\tcanary\tcanary",
                "a number",
            ),
            (
                ".canary.com\tTRUE\t/\tFALSE\t99999999999999999999\tcanary\tcanary",
                "a number",
            ),
            (".canary.com\tTRUE\t/\tFALSE\t0\t\t", "a name or a value"),
            (
                ".canary.com\tTRUE\t/\tFALSE\t0\tcanary\tcan\0ary",
                "control character",
            ),
            (
                ".canary.com\tTRUE\t/\tFALSE\t0\tcanary\tcan\rary",
                "control character",
            ),
            ("# canary\u{1b}[31m", "control character"),
        ] {
            let sentence = checked(&format!("{HEADER}\n{good}\n{line}\n{good}")).unwrap_err();
            assert!(
                sentence.contains("line 3") && sentence.contains(what),
                "{line:?}: {sentence}"
            );
            assert!(!sentence.contains("canary"), "{sentence}");
        }
        for empty in ["", "\n\n", HEADER, "# only\n# comments\n"] {
            assert!(checked(empty).unwrap_err().contains("at least one cookie"));
        }
    }

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
            (json!({"expires": 1_800_000_000_000_u64}), "expires"),
            (json!({"sameSite": "canary"}), "sameSite"),
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
}
