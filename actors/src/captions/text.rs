//! The text around a caption: the prompts, and the cleaning of replies.

use genie_events::caption::Brief;

use crate::ollama::ModelMessage;

/// The conversation that asks for a caption.
pub fn prompt(brief: &Brief) -> Vec<ModelMessage> {
    let mut wanted = format!(
        "Write one caption for {}: {}. Tone: {}. Topic: {}. Length: {}.",
        brief.platform.as_str(),
        brief.platform.style(),
        brief.tone,
        brief.topic,
        brief.length.sentences(),
    );
    if let Some(username) = &brief.platform_username {
        wanted.push_str(&format!(" It is posted by {username}."));
    }
    if let Some(cap) = brief.platform.cap() {
        wanted.push_str(&format!(
            " Never more than {cap} characters, whatever the length above says."
        ));
    }
    vec![
        ModelMessage::new(
            "system",
            "You write captions for creators. Answer with the caption alone.",
        ),
        ModelMessage::new("user", wanted),
    ]
}

/// The same conversation after a reply that was too long.
pub fn shorter(mut conversation: Vec<ModelMessage>, reply: &str, cap: usize) -> Vec<ModelMessage> {
    conversation.push(ModelMessage::new("assistant", reply));
    let content = format!("That is too long. Write it again with at most {cap} characters.");
    conversation.push(ModelMessage::new("user", content));
    conversation
}

/// Removes what small models put around a caption: white space, a preamble that ends in a colon, quotes.
pub fn clean(reply: &str) -> String {
    let mut text = reply.trim();
    if let Some((first, rest)) = text.split_once(':')
        && is_preamble(first)
        && !rest.trim().is_empty()
    {
        text = rest.trim();
    }
    for (open, close) in [('"', '"'), ('“', '”'), ('\'', '\''), ('«', '»'), ('`', '`')] {
        let inner = text
            .strip_prefix(open)
            .and_then(|rest| rest.strip_suffix(close));
        if let Some(inner) = inner.filter(|inner| !inner.contains([open, close])) {
            text = inner.trim();
        }
    }
    text.to_owned()
}

fn is_preamble(words: &str) -> bool {
    let words = words.trim().to_lowercase();
    let opening = [
        "sure",
        "here",
        "certainly",
        "of course",
        "okay",
        "caption",
        "absolutely",
    ];
    words.len() <= 100
        && !words.contains('\n')
        && opening.iter().any(|opening| words.starts_with(opening))
}

/// True when the text passes the cap, in characters.
pub fn is_too_long(text: &str, cap: usize) -> bool {
    text.chars().count() > cap
}

/// Cuts to at most `cap` characters at the end of a word, or inside the first word when that is longer.
pub fn cut(text: &str, cap: usize) -> String {
    if !is_too_long(text, cap) {
        return text.to_owned();
    }
    let end = text
        .char_indices()
        .nth(cap)
        .map_or(text.len(), |(at, _)| at);
    let kept = &text[..end];
    let at_word_end = text[end..].starts_with(char::is_whitespace);
    let kept = match kept.rfind(char::is_whitespace) {
        Some(space) if !at_word_end => &kept[..space],
        _ => kept,
    };
    kept.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use genie_events::caption::{Length, Platform};

    use super::*;

    #[test]
    fn quotes_and_preambles_go_and_the_words_stay() {
        for (reply, caption) in [
            ("  \"Hello there\"\n", "Hello there"),
            ("Sure! Here's a playful caption: \"Hi you\"", "Hi you"),
            (
                "Here is your caption:\nLine one\nLine two",
                "Line one\nLine two",
            ),
            ("Tonight: something new", "Tonight: something new"),
            ("She said \"hi\" and \"bye\"", "She said \"hi\" and \"bye\""),
            ("\"hi\" and \"bye\"", "\"hi\" and \"bye\""),
            ("Sure:", "Sure:"),
        ] {
            assert_eq!(clean(reply), caption);
        }
    }

    #[test]
    fn a_cut_is_at_a_word_and_never_inside_a_character() {
        assert_eq!(cut("one two three", 9), "one two");
        assert_eq!(cut("one two three", 7), "one two");
        assert_eq!(cut("one two", 7), "one two");
        assert_eq!(cut("你好世界", 2), "你好");
        assert_eq!(cut("", 3), "");
    }

    #[test]
    fn the_platforms_cap_is_told() {
        let brief = Brief {
            platform: Platform::Snapchat,
            tone: "playful".into(),
            topic: "news".into(),
            length: Length::Long,
            platform_username: None,
        };
        assert!(prompt(&brief)[1].content.contains("30 characters"));
    }
}
