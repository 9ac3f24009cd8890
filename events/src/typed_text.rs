//! Text that people type, or paste from pages and other screens.
//!
//! What looks the same must be the same. Pages, messengers and keyboards add characters that nobody
//! sees, several kinds of space, and accents in two forms. So text that is compared is read by
//! `cleaned` first. Passwords and other secrets are not: they stay byte for byte.

use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{DefaultIgnorableCodePoint, Emoji, Ideographic, JoiningType},
};
use unicode_normalization::{UnicodeNormalization, char::canonical_combining_class};

/// ZERO WIDTH NON-JOINER: keeps two letters of a cursive script apart.
const NON_JOINER: char = '\u{200c}';
/// ZERO WIDTH JOINER: makes one emoji of several, or one form of two letters.
const JOINER: char = '\u{200d}';
/// The sign around a digit that makes an emoji of it.
const KEYCAP: char = '\u{20e3}';
/// The emoji that tag characters turn into the flag of a region.
const BLACK_FLAG: char = '\u{1f3f4}';
/// The combining class of signs that suppress a letter's vowel.
const VIRAMA: u8 = 9;
/// The zeros of the digits that keyboards have beside ASCII's. Nine more digits follow each.
const ZEROS: [char; 6] = [
    '\u{660}',  // Arabic
    '\u{6f0}',  // Persian and Urdu
    '\u{966}',  // Devanagari
    '\u{9e6}',  // Bengali
    '\u{e50}',  // Thai
    '\u{ff10}', // full width
];

/// The one form of a text: Unicode's form NFC, without characters that nobody sees, with one space
/// for each run of spaces, and with no white space at its ends.
///
/// An invisible character stays where it changes what is seen: in an emoji, and between letters of
/// cursive scripts (RFC 5892, appendix A). Control characters inside the text stay: the readers of
/// names refuse them.
pub fn cleaned(text: &str) -> String {
    let composed: Vec<char> = text.nfc().collect();
    let mut seen: Vec<char> = Vec::with_capacity(composed.len());
    for (n, &c) in composed.iter().enumerate() {
        if is_space(c) {
            if seen.last() != Some(&' ') {
                seen.push(' ');
            }
        } else if !is_invisible(c) || changes_what_is_seen(&seen, c, &composed[n + 1..]) {
            seen.push(c);
        }
    }
    let seen: String = seen.into_iter().nfc().collect();
    seen.trim_matches(is_blank).to_owned()
}

/// The one form of a text in which upper and lower case make no difference.
pub fn cleaned_lower_case(text: &str) -> String {
    cleaned(&cleaned(text).to_lowercase())
}

/// A code as it was made, from the form in which a screen shows it or a keyboard types it: without
/// white space, hyphens and invisible characters, and with ASCII's digits and letters.
pub fn code(text: &str) -> String {
    text.chars()
        .filter(|&c| !is_blank(c) && !is_invisible(c) && !is_dash(c))
        .map(ascii_digit)
        .map(ascii_width)
        .nfc()
        .collect()
}

/// A text that programs made and people pasted, in which each visible character counts: without
/// white space and invisible characters.
pub fn pasted(text: &str) -> String {
    text.chars()
        .filter(|&c| !is_blank(c) && !is_invisible(c))
        .collect()
}

/// ASCII's character for the full-width one that East Asian keyboards type.
pub(crate) fn ascii_width(c: char) -> char {
    match c {
        '\u{ff01}'..='\u{ff5e}' => {
            char::from_u32(u32::from(c) - 0xfee0).expect("the two ranges are parallel")
        }
        c => c,
    }
}

/// True for white space of any kind, and for the empty Braille cell, which looks the same.
pub(crate) fn is_blank(c: char) -> bool {
    c.is_whitespace() || c == '\u{2800}'
}

/// True for white space that is no control character.
fn is_space(c: char) -> bool {
    is_blank(c) && !c.is_control()
}

/// True for characters that are shown as nothing.
fn is_invisible(c: char) -> bool {
    let is_annotation = ('\u{fff9}'..='\u{fffb}').contains(&c);
    is_annotation || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

fn is_dash(c: char) -> bool {
    matches!(
        c,
        '-' | '\u{ad}' | '\u{58a}' | '\u{2010}'
            ..='\u{2015}'
                | '\u{2043}'
                | '\u{2212}'
                | '\u{30fc}'
                | '\u{fe58}'
                | '\u{fe63}'
                | '\u{ff0d}'
                | '\u{ff70}'
    )
}

fn ascii_digit(c: char) -> char {
    let digit = ZEROS.iter().find_map(|&zero| {
        u32::from(c)
            .checked_sub(u32::from(zero))
            .filter(|n| *n < 10)
    });
    digit
        .and_then(|digit| char::from_digit(digit, 10))
        .unwrap_or(c)
}

/// True for an invisible character between what is seen before it and what follows, if it changes
/// what is seen there.
fn changes_what_is_seen(before: &[char], c: char, after: &[char]) -> bool {
    let Some(&last) = before.last() else {
        return false;
    };
    match c {
        JOINER => {
            let joins_emoji = (is_emoji(last) || is_variation(last))
                && after.first().is_some_and(|&next| is_emoji(next));
            joins_emoji || is_virama(last)
        }
        NON_JOINER => is_virama(last) || parts_letters(before, after),
        '\u{fe0e}' | '\u{fe0f}' => is_emoji(last) || after.first() == Some(&KEYCAP),
        '\u{fe00}'..='\u{fe0d}' | '\u{e0100}'..='\u{e01ef}' => {
            CodePointSetData::new::<Ideographic>().contains(last)
        }
        '\u{e0020}'..='\u{e007f}' => last == BLACK_FLAG || is_tag(last),
        _ => false,
    }
}

/// Letters, digits and `#` are no emoji by themselves.
fn is_emoji(c: char) -> bool {
    !c.is_ascii() && CodePointSetData::new::<Emoji>().contains(c)
}

fn is_variation(c: char) -> bool {
    c == '\u{fe0f}'
}

fn is_tag(c: char) -> bool {
    ('\u{e0020}'..='\u{e007f}').contains(&c)
}

fn is_virama(c: char) -> bool {
    canonical_combining_class(c) == VIRAMA
}

/// True between two letters that would be joined without the non-joiner (RFC 5892, appendix A.1).
fn parts_letters(before: &[char], after: &[char]) -> bool {
    let joining = |c: &char| CodePointMapData::<JoiningType>::new().get(*c);
    let is_seen = |joining: &JoiningType| *joining != JoiningType::Transparent;
    let last = before.iter().rev().map(joining).find(is_seen);
    let next = after.iter().map(joining).find(is_seen);
    let joins_next = [JoiningType::LeftJoining, JoiningType::DualJoining];
    let joins_last = [JoiningType::RightJoining, JoiningType::DualJoining];
    last.is_some_and(|last| joins_next.contains(&last))
        && next.is_some_and(|next| joins_last.contains(&next))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{PlatformName, UserName};

    #[test]
    fn what_looks_the_same_is_the_same() {
        for (text, expected) in [
            ("\u{feff} Jose\u{301} \u{200b}\n", "Jos\u{e9}"),
            ("a\u{a0}\u{2003}b", "a b"),
            ("a \u{200b} b", "a b"),
            ("\u{212a}elvin", "Kelvin"),
            ("e\u{34f}\u{301}", "\u{e9}"),
            ("a\nb", "a\nb"),
            // Emoji of several characters.
            (
                "\u{1f469}\u{1f3fd}\u{200d}\u{2695}\u{fe0f}",
                "\u{1f469}\u{1f3fd}\u{200d}\u{2695}\u{fe0f}",
            ),
            (
                "\u{1f3f3}\u{fe0f}\u{200d}\u{1f308}",
                "\u{1f3f3}\u{fe0f}\u{200d}\u{1f308}",
            ),
            ("1\u{fe0f}\u{20e3}", "1\u{fe0f}\u{20e3}"),
            (
                "\u{1f3f4}\u{e0067}\u{e0062}\u{e007f}",
                "\u{1f3f4}\u{e0067}\u{e0062}\u{e007f}",
            ),
            // A joiner that joins nothing, and a variation of nothing.
            ("\u{1f469}\u{200d}", "\u{1f469}"),
            ("a\u{200d}\u{1f4bb}", "a\u{1f4bb}"),
            ("a\u{fe0f}", "a"),
            ("a\u{e0062}", "a"),
            // A Persian word, and a Devanagari conjunct that is kept apart.
            (
                "\u{645}\u{6cc}\u{200c}\u{62e}\u{648}",
                "\u{645}\u{6cc}\u{200c}\u{62e}\u{648}",
            ),
            (
                "\u{915}\u{94d}\u{200d}\u{937}",
                "\u{915}\u{94d}\u{200d}\u{937}",
            ),
            // An ideograph's variant, which Japanese names have.
            ("\u{845b}\u{e0100}", "\u{845b}\u{e0100}"),
        ] {
            assert_eq!(cleaned(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_code_is_its_letters_and_digits() {
        for (text, expected) in [
            (" 123 456\n", "123456"),
            ("123-456", "123456"),
            ("\u{ff11}\u{ff12}\u{ff13}\u{2212}456", "123456"),
            ("\u{661}\u{662}\u{663}\u{6f4}\u{6f5}\u{6f6}", "123456"),
            ("\u{967}\u{968}\u{969}\u{9ea}\u{9eb}\u{e56}", "123456"),
            ("abcd\u{2011}efgh\u{30fc}\u{ff22}", "abcdefghB"),
        ] {
            assert_eq!(code(text), expected, "{text:?}");
        }
        assert_eq!(pasted(" a-\r\n b_\u{200b}\u{a0}c "), "a-b_c");
    }

    proptest! {
        /// Reading what was read changes nothing.
        #[test]
        fn a_cleaned_text_stays(text in any_text()) {
            for read in [cleaned as fn(&str) -> String, cleaned_lower_case, code, pasted] {
                let once = read(&text);
                prop_assert_eq!(read(&once), once);
            }
        }

        #[test]
        fn a_name_reads_back(text in any_text()) {
            if let Ok(name) = PlatformName::read(&text) {
                prop_assert_eq!(PlatformName::read(name.as_str()).unwrap(), name);
            }
            if let Ok(Some(name)) = UserName::read("name", &text) {
                prop_assert_eq!(UserName::read("name", name.as_str()).unwrap(), Some(name));
            }
        }
    }

    /// Any text, and texts of characters that change each other.
    fn any_text() -> impl Strategy<Value = String> {
        let odd = prop::sample::select(vec![
            'a',
            'A',
            'e',
            '1',
            ' ',
            '-',
            '\n',
            '\u{301}',
            '\u{316}',
            '\u{345}',
            '\u{e9}',
            '\u{212a}',
            '\u{130}',
            '\u{3a3}',
            '\u{1e9e}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{ad}',
            '\u{34f}',
            '\u{fe0e}',
            '\u{fe0f}',
            '\u{e0100}',
            '\u{e0062}',
            '\u{20e3}',
            '\u{1f3f4}',
            '\u{1f469}',
            '\u{1f3fd}',
            '\u{94d}',
            '\u{915}',
            '\u{645}',
            '\u{6cc}',
            '\u{845b}',
            '\u{1100}',
            '\u{1161}',
            '\u{11a8}',
            '\u{3164}',
            '\u{a0}',
            '\u{2800}',
            '\u{ff21}',
            '\u{661}',
            '\u{37e}',
            '\u{fb1d}',
        ]);
        prop_oneof![
            "\\PC{0,20}",
            prop::collection::vec(odd, 0..12).prop_map(|chars| chars.into_iter().collect()),
        ]
    }
}
