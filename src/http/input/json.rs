//! JSON as a tree. serde_json reads it; what it does not check is checked here: a field that is there twice, the depth, and
//! half characters.

use std::{cell::RefCell, fmt};

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};

use super::{InputError, InputTree, MAX_DEPTH, error::PathStep, tree::InputText};

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// Stands for half of a character while the text is read. Unicode sets it aside for such uses: it is no character.
const HALF: char = '\u{ffff}';

pub(super) fn tree(bytes: &mut [u8]) -> Result<InputTree<'_>, InputError> {
    let has_halves = mark_halves(bytes);
    // RFC 8259, section 8.1, lets a reader ignore the mark that some programs begin a text with.
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        InputError::malformed(format!("is not UTF-8, at byte {}", error.valid_up_to() + 1))
    })?;
    if text.trim_ascii().is_empty() {
        return Err(InputError::malformed("is empty; it must be JSON"));
    }
    let found = RefCell::new(None);
    let value = NestedValue {
        has_halves,
        levels: MAX_DEPTH,
        found: &found,
    };
    let mut json = serde_json::Deserializer::from_str(text);
    let tree = value.deserialize(&mut json).and_then(|tree| {
        json.end()?;
        Ok(tree)
    });
    tree.map_err(|error| found.take().unwrap_or_else(|| malformed(&error)))
}

fn malformed(error: &serde_json::Error) -> InputError {
    let (line, column) = (error.line(), error.column());
    if error.to_string().starts_with("number out of range") {
        return InputError::malformed(format!(
            "has a number that is too large, at line {line} column {column}"
        ));
    }
    InputError::malformed(format!("is not valid JSON, at line {line} column {column}"))
}

/// JavaScript cuts texts between the halves of a character, and writes the rest as one escaped surrogate, which no text can
/// hold (RFC 8259, section 8.2). Marks each; answers whether there was one.
fn mark_halves(bytes: &mut [u8]) -> bool {
    let mut any = false;
    let mut at = 0;
    let escape = |rest: &[u8]| rest.iter().position(|byte| *byte == b'\\');
    while let Some(found) = bytes.get(at..).and_then(escape) {
        at += found;
        match (surrogate(bytes, at), surrogate(bytes, at + 6)) {
            (Some(0xD800..0xDC00), Some(0xDC00..)) => at += 12, // a whole character
            (Some(_), _) => {
                bytes[at + 2..at + 6].copy_from_slice(b"ffff");
                any = true;
                at += 6;
            }
            (None, _) => at += 2,
        }
    }
    any
}

/// The surrogate that is escaped at a place.
fn surrogate(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let digits = std::str::from_utf8(digits).ok()?;
    let unit = u16::from_str_radix(digits, 16).ok()?;
    (0xD800..0xE000).contains(&unit).then_some(unit)
}

/// A value within others.
#[derive(Clone, Copy)]
struct NestedValue<'p> {
    has_halves: bool,
    /// Levels of lists and objects that it may still have.
    levels: usize,
    /// A problem that serde_json's error cannot carry.
    found: &'p RefCell<Option<InputError>>,
}

impl NestedValue<'_> {
    fn refuse<E: Error>(self, problem: InputError) -> E {
        *self.found.borrow_mut() = Some(problem);
        E::custom("")
    }

    fn inside<E>(self, error: E, step: impl FnOnce() -> PathStep) -> E {
        let mut found = self.found.borrow_mut();
        *found = found.take().map(|problem| problem.inside(step()));
        error
    }

    fn within<E: Error>(self) -> Result<Self, E> {
        match self.levels.checked_sub(1) {
            Some(levels) => Ok(Self { levels, ..self }),
            None => Err(self.refuse(InputError::too_deep())),
        }
    }

    fn sent<'de>(self, text: &'de str) -> InputText<'de> {
        if self.has_halves && text.contains(HALF) {
            return self.unescaped(text);
        }
        InputText::sent(text)
    }

    fn unescaped<'de>(self, text: &str) -> InputText<'de> {
        if self.has_halves && text.contains(HALF) {
            return InputText::mended(text.replace(HALF, "\u{fffd}"));
        }
        InputText::unescaped(text.to_owned())
    }
}

impl<'de> DeserializeSeed<'de> for NestedValue<'_> {
    type Value = InputTree<'de>;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NestedValue<'_> {
    type Value = InputTree<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(InputTree::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Self::Value, E> {
        Ok(InputTree::Flag(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(InputTree::Whole(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(InputTree::Whole(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(InputTree::Fraction(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(InputTree::Text(self.sent(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(InputTree::Text(self.unescaped(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let within = self.within()?;
        let mut items = Vec::new();
        loop {
            let n = items.len();
            match list.next_element_seed(within) {
                Ok(Some(item)) => items.push(item),
                Ok(None) => return Ok(InputTree::List(items)),
                Err(error) => return Err(self.inside(error, || PathStep::Item(n))),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let within = self.within()?;
        let mut fields: Vec<(InputText<'de>, InputTree<'de>)> = Vec::new();
        while let Some(name) = object.next_key_seed(FieldName(self))? {
            match object.next_value_seed(within) {
                Ok(value) => fields.push((name, value)),
                Err(error) => {
                    return Err(self.inside(error, || PathStep::Field(name.as_str().to_owned())));
                }
            }
        }
        match repeated(&fields) {
            Some(name) => Err(self.refuse(InputError::twice(name))),
            None => Ok(InputTree::Object(fields)),
        }
    }
}

/// The first name, in alphabetical order, that is there twice.
pub(super) fn repeated<'f>(fields: &'f [(InputText<'_>, InputTree<'_>)]) -> Option<&'f str> {
    let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names
        .windows(2)
        .find_map(|pair| (pair[0] == pair[1]).then_some(pair[0]))
}

/// The name of a field.
struct FieldName<'p>(NestedValue<'p>);

impl<'de> DeserializeSeed<'de> for FieldName<'_> {
    type Value = InputText<'de>;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for FieldName<'_> {
    type Value = InputText<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(self.0.sent(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(self.0.unescaped(text))
    }
}
