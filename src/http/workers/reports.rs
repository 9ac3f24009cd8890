//! What workers report of themselves. It is brought into form and never refused: a report in an odd form must not cost the lease.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The most bytes of an error's text that are kept.
const MAX_ERROR: usize = 10_000;
/// The most bytes of a message that are kept.
const MAX_MESSAGE: usize = 1000;
/// Stands for what was left out.
const CUT: &str = "\n[...]\n";
/// For a worker that gives none.
const NO_REASON: &str = "The worker gave no reason";

/// The progress in percent. A number, or text of one, is rounded and brought between 0 and 100; anything else is no progress.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ReportedProgress(pub Option<i64>);

impl<'de> Deserialize<'de> for ReportedProgress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let percent = match Value::deserialize(deserializer)? {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().trim_end_matches('%').trim_end().parse().ok(),
            _ => None,
        };
        let percent = percent.filter(|percent: &f64| !percent.is_nan());
        Ok(Self(
            percent.map(|percent| percent.round().clamp(0.0, 100.0) as i64),
        ))
    }
}

/// Why an attempt failed, in the worker's words. A long text loses its middle, because its beginning names the error and its end
/// the cause. Anything but text is kept as its JSON.
#[derive(Debug, PartialEq, Eq)]
pub struct ReportedError(pub String);

impl Default for ReportedError {
    fn default() -> Self {
        Self(NO_REASON.to_owned())
    }
}

impl<'de> Deserialize<'de> for ReportedError {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(deserializer)? {
            Value::String(text) => text,
            Value::Null => return Ok(Self::default()),
            other => other.to_string(),
        };
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        Ok(Self(without_middle(text, MAX_ERROR)))
    }
}

/// The longest code, in bytes.
const MAX_CODE: usize = 64;

/// A worker's word for a failure, for programs. Brought into the form `[a-z0-9_.-]{1,64}`: capitals become small, other
/// characters `_`. What is no text, and a text without a letter or digit, is no code.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ReportedCode(pub Option<String>);

impl<'de> Deserialize<'de> for ReportedCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(deserializer)? {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            _ => return Ok(Self(None)),
        };
        Ok(Self(code_of(&text)))
    }
}

/// Brings a code into form. Without a letter or digit there is none.
pub fn code_of(text: &str) -> Option<String> {
    let kept = |character: char| match character {
        'A'..='Z' => character.to_ascii_lowercase(),
        'a'..='z' | '0'..='9' | '.' | '-' => character,
        _ => '_',
    };
    let code: String = text.trim().chars().map(kept).take(MAX_CODE).collect();
    let says_something = code
        .chars()
        .any(|character| character.is_ascii_alphanumeric());
    says_something.then_some(code)
}

/// What a worker says of its work while it goes on. A long text loses its middle. Blank text is none, and anything but
/// text is kept as its JSON.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ReportedMessage(pub Option<String>);

impl<'de> Deserialize<'de> for ReportedMessage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(deserializer)? {
            Value::String(text) => text,
            Value::Null => return Ok(Self(None)),
            other => other.to_string(),
        };
        let says_something = !text.trim().is_empty();
        Ok(Self(
            says_something.then(|| without_middle(text, MAX_MESSAGE)),
        ))
    }
}

fn without_middle(text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    let half = (most - CUT.len()) / 2;
    let is_between = |at: &usize| text.is_char_boundary(*at);
    let head = (0..=half).rev().find(is_between).unwrap_or(0);
    let tail = (text.len() - half..text.len()).find(is_between);
    [&text[..head], CUT, &text[tail.unwrap_or(text.len())..]].concat()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn progress_is_brought_into_form() {
        for (sent, kept) in [
            (json!(0), Some(0)),
            (json!(41.6), Some(42)),
            (json!(10.0), Some(10)),
            (json!(-3), Some(0)),
            (json!(100.4), Some(100)),
            (json!(1e300), Some(100)),
            (json!("57"), Some(57)),
            (json!(" 57.2 % "), Some(57)),
            (json!("NaN"), None),
            (json!("half"), None),
            (json!(null), None),
            (json!([50]), None),
            (json!(true), None),
        ] {
            let read: ReportedProgress = serde_json::from_value(sent.clone()).unwrap();
            assert_eq!(read.0, kept, "{sent}");
        }
    }

    #[test]
    fn codes_are_brought_into_form() {
        for (sent, kept) in [
            (json!("no_space"), Some("no_space")),
            (
                json!(" HTTP 503: over/loaded "),
                Some("http_503__over_loaded"),
            ),
            (json!(137), Some("137")),
            (json!("größe"), Some("gr__e")),
            (json!("  "), None),
            (json!("?!"), None),
            (json!(null), None),
            (json!({"code": 7}), None),
        ] {
            let read: ReportedCode = serde_json::from_value(sent.clone()).unwrap();
            assert_eq!(read.0.as_deref(), kept, "{sent}");
        }
        let long: ReportedCode = serde_json::from_value(json!("x".repeat(100))).unwrap();
        assert_eq!(long.0.map(|code| code.len()), Some(MAX_CODE));
    }

    #[test]
    fn messages_are_brought_into_form() {
        for (sent, kept) in [
            (json!("pass 2 of 3"), Some("pass 2 of 3")),
            (json!(" "), None),
            (json!(null), None),
            (json!({"pass": 2}), Some(r#"{"pass":2}"#)),
        ] {
            let read: ReportedMessage = serde_json::from_value(sent.clone()).unwrap();
            assert_eq!(read.0.as_deref(), kept, "{sent}");
        }
        let long: ReportedMessage = serde_json::from_value(json!("ü".repeat(5000))).unwrap();
        let kept = long.0.unwrap();
        assert!(kept.len() <= MAX_MESSAGE && kept.len() > MAX_MESSAGE - 8);
        assert!(kept.contains(CUT) && kept.ends_with('ü'));
    }

    #[test]
    fn errors_are_brought_into_form() {
        for (sent, kept) in [
            (json!("no space left"), "no space left"),
            (json!(null), NO_REASON),
            (json!("  "), NO_REASON),
            (json!({"code": 7}), r#"{"code":7}"#),
            (json!(137), "137"),
        ] {
            let read: ReportedError = serde_json::from_value(sent.clone()).unwrap();
            assert_eq!(read.0, kept, "{sent}");
        }
        let long = format!("first{}last", "ü".repeat(MAX_ERROR));
        let read: ReportedError = serde_json::from_value(json!(long)).unwrap();
        assert!(read.0.len() <= MAX_ERROR && read.0.len() > MAX_ERROR - 8);
        assert!(read.0.starts_with("firstü") && read.0.ends_with("ülast"));
        assert!(read.0.contains(CUT));
    }
}
