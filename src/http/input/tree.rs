//! What was sent, as a tree, and its meaning: two inputs mean the same when no reader could tell them apart.

use std::fmt;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Numbers beyond this may have been rounded when they were read with a fraction or exponent.
const EXACT: f64 = (1_u64 << 53) as f64;

pub enum InputTree<'b> {
    Null,
    Flag(bool),
    Whole(i128),
    Fraction(f64),
    Text(InputText<'b>),
    /// Text of a query, which may stand for a number or a flag.
    Word(InputText<'b>),
    List(Vec<Self>),
    Object(Vec<(InputText<'b>, Self)>),
}

/// A text. It may be a secret, so it is wiped when it is dropped.
pub struct InputText<'b> {
    text: Characters<'b>,
    /// True when half of a character was replaced in it.
    pub is_broken: bool,
}

enum Characters<'b> {
    /// As it stands in what was sent.
    Sent(&'b str),
    Unescaped(Zeroizing<String>),
}

impl<'b> InputText<'b> {
    pub fn sent(text: &'b str) -> Self {
        Self {
            text: Characters::Sent(text),
            is_broken: false,
        }
    }

    pub fn unescaped(text: String) -> Self {
        Self {
            text: Characters::Unescaped(Zeroizing::new(text)),
            is_broken: false,
        }
    }

    /// A text in which half of a character was replaced.
    pub fn mended(text: String) -> Self {
        Self {
            is_broken: true,
            ..Self::unescaped(text)
        }
    }

    pub fn as_str(&self) -> &str {
        match &self.text {
            Characters::Sent(text) => text,
            Characters::Unescaped(text) => text,
        }
    }
}

/// Shows nothing of it: it may hold a secret.
impl fmt::Debug for InputTree<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InputTree")
    }
}

impl InputTree<'_> {
    /// The number, when it is whole.
    pub fn whole(&self) -> Option<i128> {
        match self {
            Self::Whole(number) => Some(*number),
            Self::Fraction(number) => whole_of(*number),
            Self::Word(word) => whole_word(word.as_str()),
            _ => None,
        }
    }

    /// True for what counts as absent: null, and an empty value in a query.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Word(word) => word.as_str().is_empty(),
            _ => false,
        }
    }

    /// The names of an object's fields that are null.
    pub fn null_fields(&self) -> Vec<String> {
        let InputTree::Object(fields) = self else {
            return Vec::new();
        };
        let nulls = fields
            .iter()
            .filter(|(_, value)| matches!(value, Self::Null));
        nulls.map(|(name, _)| name.as_str().to_owned()).collect()
    }

    /// True when half of a character was replaced in a text.
    pub fn is_broken(&self) -> bool {
        match self {
            Self::Text(text) | Self::Word(text) => text.is_broken,
            Self::List(items) => items.iter().any(Self::is_broken),
            Self::Object(fields) => fields
                .iter()
                .any(|(name, value)| name.is_broken || value.is_broken()),
            _ => false,
        }
    }

    /// SHA-256 of what it means: without the order of an object's fields, its nulls, white space, escapes and the
    /// spelling of numbers.
    pub fn meaning(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        self.add_meaning(&mut hasher);
        hasher.finalize().into()
    }

    /// The same where a null removes what is there: with the names of the fields that are null.
    pub fn meaning_with(&self, cleared: &[String]) -> [u8; 32] {
        let mut cleared: Vec<&str> = cleared.iter().map(String::as_str).collect();
        cleared.sort_unstable();
        let mut hasher = Sha256::new();
        self.add_meaning(&mut hasher);
        cleared.iter().for_each(|name| add_text(&mut hasher, name));
        hasher.finalize().into()
    }

    fn add_meaning(&self, hasher: &mut Sha256) {
        match self {
            Self::Null => hasher.update(b"0"),
            Self::Flag(flag) => hasher.update(if *flag { b"t" } else { b"f" }),
            Self::Whole(_) | Self::Fraction(_) => match (self.whole(), self) {
                (Some(whole), _) => {
                    hasher.update(b"w");
                    hasher.update(whole.to_be_bytes());
                }
                (None, Self::Fraction(number)) => {
                    hasher.update(b"d");
                    hasher.update(number.to_bits().to_be_bytes());
                }
                _ => {}
            },
            Self::Text(text) | Self::Word(text) => add_text(hasher, text.as_str()),
            Self::List(items) => {
                add_count(hasher, b"l", items.len());
                items.iter().for_each(|item| item.add_meaning(hasher));
            }
            Self::Object(fields) => {
                let mut fields: Vec<_> = fields
                    .iter()
                    .filter(|(_, value)| !matches!(value, Self::Null))
                    .map(|(name, value)| (name.as_str(), value))
                    .collect();
                fields.sort_unstable_by_key(|(name, _)| *name);
                add_count(hasher, b"o", fields.len());
                for (name, value) in fields {
                    add_text(hasher, name);
                    value.add_meaning(hasher);
                }
            }
        }
    }
}

/// The whole number of a query, perhaps with a fraction of zero as in JSON. White space around it is what a `+` before it
/// became.
fn whole_word(word: &str) -> Option<i128> {
    let word = word.trim();
    let whole = match word.split_once('.') {
        Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|byte| byte == b'0') => {
            whole
        }
        _ => word,
    };
    whole.parse().ok()
}

/// The number, when it is whole and was not rounded.
pub fn whole_of(number: f64) -> Option<i128> {
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i128)
}

fn add_text(hasher: &mut Sha256, text: &str) {
    add_count(hasher, b"s", text.len());
    hasher.update(text);
}

fn add_count(hasher: &mut Sha256, kind: &[u8; 1], count: usize) {
    hasher.update(kind);
    hasher.update((count as u64).to_be_bytes());
}
