//! A reply of a model, without what small models put around a caption: thoughts, a preamble, an offer, quotes. A rule takes
//! something away only where it can't be the caption: a doubtful line stays.

use serde::Deserialize;
use serde_json::{Value, json};

/// The tags around thoughts.
const THOUGHTS: [&str; 4] = ["think", "thinking", "thought", "reasoning"];
/// The first words of a preamble.
const OPENINGS: [&str; 12] = [
    "sure",
    "here's",
    "here’s",
    "here is",
    "here are",
    "here you go",
    "certainly",
    "of course",
    "okay",
    "ok",
    "absolutely",
    "alright",
];
/// Words for what a preamble announces, which a caption seldom has before a colon and a new line.
const ANNOUNCED: [&str; 7] = [
    "caption", "post", "tweet", "option", "version", "draft", "you go",
];
/// The first words of an offer behind the caption.
const OFFERS: [&str; 6] = [
    "let me know if",
    "would you like me to",
    "i hope this",
    "feel free to",
    "do you want me to",
    "if you'd like",
];
/// In characters.
const LONGEST_PREAMBLE: usize = 100;

/// A reply in the form that a model may be held to.
#[derive(Deserialize)]
struct FormedReply {
    caption: String,
}

/// The form, as a JSON schema.
pub fn form() -> Value {
    json!({
        "type": "object",
        "properties": {"caption": {"type": "string"}},
        "required": ["caption"],
    })
}

/// The caption in a reply; empty if there is none.
pub fn caption(reply: &str) -> String {
    let mut said = without_thoughts(reply);
    if let Ok(formed) = serde_json::from_str::<FormedReply>(said.trim()) {
        said = formed.caption;
    }
    let mut text = without_fence(said.trim());
    text = without_preamble(text);
    text = without_offer(text);
    without_quotes(text).to_owned()
}

/// Thoughts stand in tags. One without an end is all thought; an end without a beginning ends a thought that the model's
/// template began.
fn without_thoughts(reply: &str) -> String {
    let mut text = reply.to_owned();
    for tag in THOUGHTS {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        while let Some(end) = text.find(&close) {
            let begin = text[..end].find(&open).unwrap_or(0);
            text.replace_range(begin..end + close.len(), "");
        }
        if let Some(begin) = text.find(&open) {
            text.truncate(begin);
        }
    }
    text
}

fn without_fence(text: &str) -> &str {
    let inner = text
        .strip_prefix("```")
        .and_then(|rest| rest.strip_suffix("```"));
    match inner.and_then(|inner| inner.split_once('\n')) {
        // The first line may name a language.
        Some((name, body)) if !name.trim().contains(' ') => body.trim(),
        _ => text,
    }
}

fn without_preamble(text: &str) -> &str {
    let rest = behind_announcing_line(text).or_else(|| behind_colon(text));
    rest.map(str::trim)
        .filter(|rest| !rest.is_empty())
        .unwrap_or(text)
}

/// Behind a first paragraph such as "Sure! I wrote a caption for you."
fn behind_announcing_line(text: &str) -> Option<&str> {
    let (first, rest) = text.split_once("\n\n")?;
    let words = plain(first);
    let is_one = !first.contains('\n') && begins_with_opening(&words) && words.contains("caption");
    is_one.then_some(rest)
}

/// Behind "Caption:", or behind "Sure! Here's a playful caption:".
fn behind_colon(text: &str) -> Option<&str> {
    let (first, rest) = text.split_once(':')?;
    let rest = rest.trim_start_matches(['*', '_']);
    // A time ("Here at 9:30") or an address has no space behind its colon.
    let next = rest.chars().next()?;
    let is_separate = next.is_whitespace() || is_opening_quote(next);
    if !is_separate || first.contains('\n') {
        return None;
    }
    let words = plain(first);
    let is_label = words.ends_with("caption") && words.split(' ').count() <= 3;
    let announces_caption = begins_with_opening(&words) && words.contains("caption");
    let starts_anew = rest.starts_with('\n') || rest.trim_start().starts_with(is_opening_quote);
    let announces =
        begins_with_opening(&words) && ANNOUNCED.iter().any(|word| words.contains(word));
    (is_label || announces_caption || (announces && starts_anew)).then_some(rest)
}

/// In small letters, without Markdown's signs; empty when it is too long for a preamble.
fn plain(words: &str) -> String {
    if words.chars().count() > LONGEST_PREAMBLE {
        return String::new();
    }
    let words = words.trim_matches(|c: char| c.is_whitespace() || matches!(c, '*' | '#' | '_'));
    words.to_lowercase()
}

fn begins_with_opening(words: &str) -> bool {
    OPENINGS.iter().any(|opening| {
        let rest = words.strip_prefix(opening);
        rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    })
}

/// Without a last paragraph that offers more, or counts the caption.
fn without_offer(text: &str) -> &str {
    let Some((caption, last)) = text.rsplit_once('\n') else {
        return text;
    };
    let words = last.trim().to_lowercase();
    let offers = OFFERS.iter().any(|offer| words.starts_with(offer));
    let counts = words
        .strip_prefix('(')
        .and_then(|count| count.strip_suffix(" characters)"))
        .is_some_and(|count| count.chars().all(|c| c.is_ascii_digit()));
    let is_behind_a_gap = caption.ends_with('\n');
    if caption.trim().is_empty() || !(counts || (offers && is_behind_a_gap)) {
        return text;
    }
    caption.trim_end()
}

fn without_quotes(text: &str) -> &str {
    let mut text = text;
    for (open, close) in QUOTES {
        let inner = text
            .strip_prefix(open)
            .and_then(|rest| rest.strip_suffix(close));
        if let Some(inner) = inner.filter(|inner| !inner.contains([open, close])) {
            text = inner.trim();
        }
    }
    text
}

const QUOTES: [(char, char); 6] = [
    ('"', '"'),
    ('“', '”'),
    ('„', '“'),
    ('\'', '\''),
    ('«', '»'),
    ('`', '`'),
];

fn is_opening_quote(c: char) -> bool {
    QUOTES.iter().any(|(open, _)| *open == c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_around_a_caption_goes() {
        for (reply, expected) in [
            ("  \"Hello there\"\n", "Hello there"),
            ("Sure! Here's a playful caption: \"Hi you\"", "Hi you"),
            ("Sure! Here’s a playful caption: Hi you", "Hi you"),
            (
                "Here is your caption:\nLine one\nLine two",
                "Line one\nLine two",
            ),
            ("Here's a tweet:\n\nNew set tonight", "New set tonight"),
            ("Here you go:\nNew set tonight", "New set tonight"),
            ("**Caption:** New set tonight", "New set tonight"),
            ("Instagram caption: New set tonight", "New set tonight"),
            (
                "Sure! I wrote a caption for you.\n\nNew set tonight",
                "New set tonight",
            ),
            (
                "<think>They want a caption: short.</think>\nNew set",
                "New set",
            ),
            ("<thinking>a</thinking>b<thinking>c</thinking>", "b"),
            ("They want it short.</think>New set", "New set"),
            ("New set<think>was that good", "New set"),
            ("<think>I never end", ""),
            ("```\nNew set\n```", "New set"),
            ("```text\nNew set\n```", "New set"),
            (
                "New set tonight\n\nLet me know if you want another!",
                "New set tonight",
            ),
            ("New set tonight\n(15 characters)", "New set tonight"),
            ("«Nouveau»", "Nouveau"),
            (
                "{\"caption\": \"New set: \\\"tonight\\\"\"}",
                "New set: \"tonight\"",
            ),
        ] {
            assert_eq!(caption(reply), expected, "{reply}");
        }
    }

    #[test]
    fn a_caption_is_never_eaten() {
        for whole in [
            "Here at 9:30 tonight",
            "Here: something new",
            "Here is what you asked for: all of me",
            "Here's the post you waited for: out now",
            "Sure thing: new set tonight",
            "Okay babes: it is out",
            "Sure:",
            "Caption:",
            "Tonight: something new",
            "Of course I did it: https://example.com",
            "OK, so https://example.com is live",
            "Let me know if you like it",
            "She said \"hi\" and \"bye\"",
            "\"hi\" and \"bye\"",
            "New set\nFeel free to stare",
            "I think <3 you",
            "{braces} are in",
            "Herein lies the caption: read on",
        ] {
            assert_eq!(caption(whole), whole);
        }
    }
}
