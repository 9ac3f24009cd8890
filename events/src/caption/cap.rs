//! The longest caption of a platform, as the platform counts, and the cut that keeps it. What a reader sees as one character is
//! never cut.

use icu_properties::{
    CodePointSetData,
    props::{EmojiPresentation, ExtendedPictographic, RegionalIndicator},
};
use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

use super::Platform;

/// A platform's hard limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptionCap {
    most: usize,
    measure: Measure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    Characters,
    /// The weights that X publishes (twitter-text, configuration 3).
    Weights,
}

/// The weight of a link on X, whatever its length.
const LINK: usize = 23;
/// The weight on X of characters that it does not list, and of an emoji, however it is composed.
const HEAVY: usize = 2;
/// The characters that weigh 1 on X: Latin, Greek, Cyrillic, Arabic and so on, and common punctuation.
const LIGHT: [std::ops::RangeInclusive<u32>; 4] = [0..=4351, 8192..=8205, 8208..=8223, 8242..=8247];
/// Makes an emoji of a character that is also a plain sign.
const EMOJI_SIGN: char = '\u{fe0f}';

impl Platform {
    /// The platform's hard limit, if it has one.
    pub fn cap(self) -> Option<CaptionCap> {
        let (most, measure) = match self {
            Self::X => (280, Measure::Weights),
            Self::Tiktok => (150, Measure::Characters),
            Self::Snapchat => (30, Measure::Characters),
            _ => return None,
        };
        Some(CaptionCap { most, measure })
    }
}

impl CaptionCap {
    /// The limit, for people and models.
    pub fn most(self) -> usize {
        self.most
    }

    pub fn is_passed(self, text: &str) -> bool {
        self.length(text) > self.most
    }

    /// The text up to the end of the last word that fits, or inside the first word when that alone is too long.
    pub fn cut(self, text: &str) -> String {
        if !self.is_passed(text) {
            return text.to_owned();
        }
        let mut end = 0;
        for (at, word) in words(text) {
            let after = at + word.len();
            if self.is_passed(&text[..after]) {
                break;
            }
            end = after;
        }
        if end == 0 {
            for (at, seen) in text.grapheme_indices(true) {
                let after = at + seen.len();
                if self.is_passed(&text[..after]) {
                    break;
                }
                end = after;
            }
        }
        text[..end].trim_end().to_owned()
    }

    fn length(self, text: &str) -> usize {
        match self.measure {
            Measure::Characters => text.chars().count(),
            Measure::Weights => weight(text),
        }
    }
}

/// The words of a text, each with its place.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let start = text.as_ptr() as usize;
    text.split_whitespace()
        .map(move |word| (word.as_ptr() as usize - start, word))
}

/// The length of a text on X. Where X's own reading of a link or a sign is not certain, the larger one counts.
fn weight(text: &str) -> usize {
    let text: String = text.nfc().collect();
    let mut weight = 0;
    let mut after = 0;
    for (at, word) in words(&text) {
        weight += plain_weight(&text[after..at]) + weight_of_word(word);
        after = at + word.len();
    }
    weight + plain_weight(&text[after..])
}

fn weight_of_word(word: &str) -> usize {
    let link = link_in(word);
    let Some((before, link, behind)) = link else {
        return plain_weight(word);
    };
    let is_certain = link.starts_with("http");
    let of_link = if is_certain {
        LINK
    } else {
        LINK.max(plain_weight(link))
    };
    plain_weight(before) + of_link + plain_weight(behind)
}

/// The link in a word: an address with its scheme, or a name with dots such as `example.com/new`.
fn link_in(word: &str) -> Option<(&str, &str, &str)> {
    let scheme = ["https://", "http://"].into_iter().find_map(|scheme| {
        let at = word.to_ascii_lowercase().find(scheme)?;
        (word.len() > at + scheme.len()).then_some(at)
    });
    let at = match scheme {
        Some(at) => at,
        None => {
            let at = word.find(|c: char| c.is_ascii_alphanumeric())?;
            let host = word[at..].split(['/', '?', '#', ':']).next()?;
            if !is_name_of_host(host.trim_end_matches(is_stop)) {
                return None;
            }
            at
        }
    };
    let (before, rest) = word.split_at(at);
    let link = rest.trim_end_matches(is_stop);
    Some((before, link, &rest[link.len()..]))
}

/// Stops and brackets behind a link are not of it.
fn is_stop(c: char) -> bool {
    matches!(
        c,
        '.' | ',' | '!' | '?' | ';' | ':' | ')' | ']' | '}' | '"' | '\'' | '…' | '”' | '’'
    )
}

fn is_name_of_host(host: &str) -> bool {
    let mut labels = host.split('.').rev();
    let is_ending =
        |label: &str| label.len() >= 2 && label.chars().all(|c| c.is_ascii_alphabetic());
    let is_label = |label: &str| {
        let of_label = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        !label.is_empty() && label.chars().all(of_label)
    };
    labels.next().is_some_and(is_ending) && host.contains('.') && labels.all(is_label)
}

fn plain_weight(text: &str) -> usize {
    text.graphemes(true).map(weight_of_seen).sum()
}

/// The weight of what is seen as one character.
fn weight_of_seen(seen: &str) -> usize {
    let sum = seen.chars().map(weight_of_character).sum();
    if is_emoji(seen) {
        return HEAVY;
    }
    let may_be_emoji = seen
        .chars()
        .any(|c| !c.is_ascii() && CodePointSetData::new::<ExtendedPictographic>().contains(c));
    if may_be_emoji { HEAVY.max(sum) } else { sum }
}

fn is_emoji(seen: &str) -> bool {
    let is_sign = |c: char| {
        c == EMOJI_SIGN
            || CodePointSetData::new::<EmojiPresentation>().contains(c)
            || CodePointSetData::new::<RegionalIndicator>().contains(c)
    };
    seen.chars().any(is_sign)
}

fn weight_of_character(c: char) -> usize {
    let is_light = LIGHT.iter().any(|range| range.contains(&u32::from(c)));
    if is_light { 1 } else { HEAVY }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn x() -> CaptionCap {
        Platform::X.cap().unwrap()
    }

    #[test]
    fn x_counts_by_weights() {
        for (text, weight) in [
            ("", 0),
            ("hello", 5),
            ("caf\u{e9} cafe\u{301}", 9),
            ("Привет", 6),
            ("你好", 4),
            ("こんにちは", 10),
            ("한글", 4),
            ("\u{1112}\u{1161}\u{11ab}", 2), // the same syllable in parts
            ("“quoted” — yes…", 16),         // only `…` is not light
            ("😀", 2),
            ("👩‍👩‍👧‍👦", 2),
            ("👍🏽", 2),
            ("🇩🇪🇫🇷", 4),
            ("1️⃣", 2),
            ("❤️", 2),
            (
                "see https://example.com/a/very/long/path?with=a&query=that-goes-on",
                27,
            ),
            ("see https://a.co.", 28),
            ("(http://a.co)", 25),
            ("shop.example.com", 23),
            ("new at example.com/new, now", 35),
            ("3.50 for a v1.2 e.g. this", 25),
        ] {
            assert_eq!(super::weight(text), weight, "{text}");
        }
    }

    #[test]
    fn a_caption_of_exactly_the_cap_stays() {
        assert!(!x().is_passed(&"a".repeat(280)));
        assert!(x().is_passed(&"a".repeat(281)));
        assert!(!x().is_passed(&"好".repeat(140)));
        assert!(x().is_passed(&"好".repeat(141)));
        let link = format!("https://example.com/{}", "a".repeat(400));
        assert!(!x().is_passed(&link));
        let snapchat = Platform::Snapchat.cap().unwrap();
        assert!(!snapchat.is_passed(&"好".repeat(30)));
        assert_eq!(Platform::Reddit.cap(), None);
    }

    #[test]
    fn a_cut_is_at_a_word_and_never_inside_what_is_seen_as_one() {
        let cap = |most| CaptionCap {
            most,
            measure: Measure::Characters,
        };
        assert_eq!(cap(9).cut("one two three"), "one two");
        assert_eq!(cap(7).cut("one two three"), "one two");
        assert_eq!(cap(7).cut("one two"), "one two");
        assert_eq!(cap(2).cut("你好世界"), "你好");
        assert_eq!(cap(3).cut(""), "");
        assert_eq!(cap(8).cut("one\n\ntwo three"), "one\n\ntwo");
        assert_eq!(cap(3).cut("é́é́é́"), "é́"); // each has two characters
        assert_eq!(cap(6).cut("👩‍👩‍👧‍👦👩‍👩‍👧‍👦"), "", "one family has seven characters");
        let weights = |most| CaptionCap {
            most,
            measure: Measure::Weights,
        };
        assert_eq!(weights(3).cut("👩‍👩‍👧‍👦👩‍👩‍👧‍👦"), "👩‍👩‍👧‍👦");
        assert_eq!(weights(20).cut("look https://example.com/a b"), "look");
        assert_eq!(
            weights(28).cut("look https://example.com/a b"),
            "look https://example.com/a"
        );
    }

    #[test]
    fn a_cut_caption_always_fits() {
        let text = "Neu: 你好 👩‍👩‍👧‍👦 https://example.com/a?b=c cafe\u{301} 🇩🇪 ".repeat(40);
        for platform in Platform::ALL {
            let Some(cap) = platform.cap() else { continue };
            let cut = cap.cut(&text);
            assert!(!cut.is_empty() && !cap.is_passed(&cut), "{platform:?}");
            assert!(text.starts_with(&cut), "{platform:?}");
        }
    }
}
