//! Cookies in the forms that people and browsers have them.
//!
//! A **cookie file** is Netscape's `cookies.txt`, as yt-dlp and Python's `http.cookiejar` read it: a
//! line for each cookie with seven fields between tabs, comments behind `#`, and `#HttpOnly_` before
//! the domain of a cookie that scripts may not see. What both readers take is taken, and kept byte
//! for byte. A line that one of them skips, or because of which one refuses the file, is refused: the
//! user would miss its cookie.
//!
//! A **session** is a list of cookies, in the form of browsers' extensions and automation tools.

mod session;
pub use session::{SessionCookie, checked_session};

use crate::{refusal::Refusal, secret_text::SecretText};

/// Python's `http.cookiejar`, and so yt-dlp, refuses a file without this first line.
const HEADER: &str = "# Netscape HTTP Cookie File";
/// The other first line that the tools accept.
const SHORT_HEADER: &str = "# HTTP Cookie File";
/// Stands before the domain of a cookie that scripts may not see.
const HTTP_ONLY: &str = "#HttpOnly_";
/// Checks a cookie file. Returns it as tools accept it: with the header line put before it if it
/// had none, without a byte order mark, and otherwise unchanged. The refusal names the line and its
/// mistake, never its content.
pub fn checked_file(text: &SecretText) -> Result<SecretText, Refusal> {
    let text = text.expose();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with(['[', '{']) {
        return Err(Refusal::invalid(
            "cookies",
            "`cookies` is JSON; export the cookies as a Netscape cookie file, or store them as a session",
        ));
    }
    let mut cookies = 0_usize;
    for (n, line) in (1..).zip(lines(text)) {
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
    let first = lines(text).next().unwrap_or_default();
    if first.starts_with(HEADER) || first.starts_with(SHORT_HEADER) {
        return Ok(text.to_owned().into());
    }
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    Ok([HEADER, end, text].concat().into())
}

/// The lines of a file from any system: Python ends a line at `\n`, `\r\n` or `\r`.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| {
        let line = line.strip_suffix('\r').unwrap_or(line);
        line.split('\r')
    })
}

/// True when the line is a cookie, false when it is a comment or blank.
fn checked_line(line: &str) -> Result<bool, &'static str> {
    // yt-dlp takes the mark away, and Python takes another one.
    let cookie = line.strip_prefix(HTTP_ONLY).unwrap_or(line);
    let cookie = cookie.strip_prefix(HTTP_ONLY).unwrap_or(cookie);
    if cookie.starts_with('#') || cookie.trim().is_empty() {
        return Ok(false);
    }
    let fields: Vec<&str> = cookie.split('\t').collect();
    let [domain, subdomains, _path, _secure, expires, _name, _value] = fields[..] else {
        return Err("must have seven fields with a tab between each two");
    };
    let bare = domain.strip_prefix('.').unwrap_or(domain);
    let is_odd = |c: char| c.is_whitespace() || c.is_control();
    if bare.is_empty() || domain.contains(is_odd) || domain.starts_with('$') {
        return Err("must begin with a domain");
    }
    // Python refuses a whole file for this mistake.
    if (subdomains == "TRUE") != domain.starts_with('.') {
        return Err(
            "must have TRUE as its second field if the domain begins with a dot, and else FALSE",
        );
    }
    if !is_expiry(expires) {
        return Err(
            "must have a number as its fifth field (when it expires, in seconds since 1970), or nothing",
        );
    }
    Ok(true)
}

/// Nothing, or seconds with or without a fraction. yt-dlp skips the line for anything else, and
/// Python cannot hold a larger number than a float can.
fn is_expiry(text: &str) -> bool {
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text, None),
    };
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_number = is_digits(whole)
        && fraction.is_none_or(is_digits)
        && text.parse::<f64>().is_ok_and(f64::is_finite);
    text.is_empty() || is_number
}

#[cfg(test)]
mod tests {
    #![allow(clippy::too_many_lines)] // a table of lines is read from its beginning to its end

    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "# Netscape HTTP Cookie File\n\
        # https://curl.se/docs/http-cookies.html\n\
        \n\
        .example.com\tTRUE\t/\tFALSE\t0\tlang\ten GB; \"quoted\" #no comment\n\
        #HttpOnly_.example.com\tTRUE\t/\tTRUE\t1893456000\tsess\tabc=def==\n\
        www.example.com\tFALSE\t/a b\tTRUE\t1893456000\tempty\t\n\
        www.example.com\tFALSE\t/\tTRUE\t1893456000\t\tnameless";

    /// Lines that yt-dlp and Python take.
    const TAKEN: [&str; 24] = [
        ".x.com\tTRUE\t/\tTRUE\t1893456000.5\ta\tb",
        ".x.com\tTRUE\t/\tTRUE\t1893456000.123456\ta\tb",
        ".x.com\tTRUE\t/\tTRUE\t\ta\tb",
        ".x.com\tTRUE\t/\tTRUE\t0\ta\tb",
        ".x.com\tTRUE\t/\tTRUE\t0.0\ta\tb",
        ".x.com\tTRUE\t/\tTRUE\t99999999999999999999\ta\tb",
        ".x.com\tTRUE\t/\ttrue\t0\ta\tb",
        ".x.com\tTRUE\t/\t1\t0\ta\tb",
        "x.com\tfalse\t/\tFALSE\t0\ta\tb",
        "x.com\t0\t/\tFALSE\t0\ta\tb",
        "x.com\tFALSE\t\tFALSE\t0\ta\tb",
        "x.com\tFALSE\tno-slash\tFALSE\t0\ta\tb",
        "x.com\tFALSE\t/\tFALSE\t0\t\t",
        "x.com\tFALSE\t/\tFALSE\t0\ta\t",
        "x.com\tFALSE\t/\tFALSE\t0\ta\tb\u{1}\u{b}\u{1f}",
        "x.com\tFALSE\t/\tFALSE\t0\ta\tb\u{e9}\u{200b} ",
        "x.com\tFALSE\t/\tFALSE\t0\ta\0\tb\0c",
        "x.com\tFALSE\t/\0\tFALSE\t0\ta\tb",
        "#HttpOnly_.x.com\tTRUE\t/\tTRUE\t\ta\tb",
        "#HttpOnly_#HttpOnly_.x.com\tTRUE\t/\tTRUE\t0\ta\tb",
        "# a comment\u{1b}[31m\u{0}\u{c}",
        "#HttpOnly_# a comment",
        "#a\tb",
        " \t ",
    ];

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
        for line in TAKEN {
            for end in ["\n", "\r\n", "\r"] {
                let file = [HEADER, line, "x.com\tFALSE\t/\tFALSE\t0\ta\tb", ""].join(end);
                assert_eq!(checked(&file).as_ref(), Ok(&file), "{line:?}");
            }
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
            ("#HttpOnly_canary", "seven fields"),
            ("\tTRUE\t/\tFALSE\t0\tcanary\tcanary", "a domain"),
            (".\tTRUE\t/\tFALSE\t0\tcanary\tcanary", "a domain"),
            (
                "canary .com\tFALSE\t/\tFALSE\t0\tcanary\tcanary",
                "a domain",
            ),
            (
                "$canary.com\tFALSE\t/\tFALSE\t0\tcanary\tcanary",
                "a domain",
            ),
            (" #canary\tFALSE\t/\tFALSE\t0\tcanary\tcanary", "a domain"),
            (
                "can\u{1}ary\tFALSE\t/\tFALSE\t0\tcanary\tcanary",
                "a domain",
            ),
            (" # canary", "seven fields"),
            ("$canary", "seven fields"),
            (
                ".canary.com\ttrue\t/\tFALSE\t0\tcanary\tcanary",
                "second field if the domain",
            ),
            (
                ".canary.com\tFALSE\t/\tFALSE\t0\tcanary\tcanary",
                "second field if the domain",
            ),
            (
                "canary.com\tTRUE\t/\tFALSE\t0\tcanary\tcanary",
                "second field if the domain",
            ),
            (
                ".canary.com\tTRUE\t/\tFALSE\t-1\tcanary\tcanary",
                "a number",
            ),
            (
                ".canary.com\tTRUE\t/\tFALSE\t1.\tcanary\tcanary",
                "a number",
            ),
            (
                ".canary.com\tTRUE\t/\tFALSE\t1e9\tcanary\tcanary",
                "a number",
            ),
            (
                ".canary.com\tTRUE\t/\tFALSE\t 0\tcanary\tcanary",
                "a number",
            ),
            (
                ".canary.com\tTRUE\t/\tFALSE\tsoon\tcanary\tcanary",
                "a number",
            ),
            (
                &format!(
                    ".canary.com\tTRUE\t/\tFALSE\t{}\tcanary\tcanary",
                    "9".repeat(400)
                ),
                "a number",
            ),
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
        let broken = format!("{HEADER}\n{good}\n.canary.com\tTRUE\t/\tFALSE\t0\tcanary\tcan\rary");
        assert!(
            checked(&broken)
                .unwrap_err()
                .contains("line 4 must have seven")
        );
        for json in ["[{\"name\": \"canary\"}]", " {\"canary\": 1}"] {
            let sentence = checked(json).unwrap_err();
            assert!(
                sentence.contains("is JSON") && !sentence.contains("canary"),
                "{sentence}"
            );
        }
    }

    proptest! {
        /// What is taken comes back the same, but for a mended beginning, and is taken again.
        #[test]
        fn what_is_taken_is_kept(file in any_file()) {
            if let Ok(kept) = checked(&file) {
                let without_mark = file.strip_prefix('\u{feff}').unwrap_or(&file);
                prop_assert!(kept.ends_with(without_mark));
                prop_assert_eq!(checked(&kept), Ok(kept));
            }
        }
    }

    fn any_file() -> impl Strategy<Value = String> {
        let field = prop::sample::select(vec![
            "",
            "TRUE",
            "FALSE",
            ".x.com",
            "x.com",
            "/",
            "0",
            "1.5",
            "a",
            "#",
            "#HttpOnly_",
            "$",
            "\u{feff}",
            "\r",
            "\u{1}",
            "\0",
            "\u{e9}",
            " ",
        ]);
        let line = prop_oneof![
            prop::collection::vec(field, 0..9).prop_map(|fields| fields.join("\t")),
            prop::sample::select(TAKEN.to_vec()).prop_map(str::to_owned),
            Just(HEADER.to_owned()),
            "\\PC{0,20}",
        ];
        let end = prop::sample::select(vec!["\n", "\r\n", "\r"]);
        (prop::collection::vec(line, 0..6), end).prop_map(|(lines, end)| lines.join(end))
    }
}
