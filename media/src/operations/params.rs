//! Reads single parameters. A null counts as absent, and a whole number may be written with a
//! fraction of zero.

use std::{fmt, ops::RangeInclusive};

use serde_json::{Map, Value};

use super::time::FilmTime;

/// The most bytes of a file's id.
pub(super) const MAX_ID: usize = 2048;
/// Above it a number does not hold every whole number: 2 to the power of 53.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The parameters of one job.
#[derive(Clone, Copy)]
pub struct Params<'a>(pub &'a Map<String, Value>);

/// A parameter that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct WrongParams {
    /// The field's place in the job, such as `params.width`.
    pub field: String,
    /// Names the field and repeats no value.
    pub sentence: String,
}

impl WrongParams {
    /// `problem` completes the field's name.
    pub(super) fn new(field: &str, problem: impl fmt::Display) -> Self {
        Self::of_job(&format!("params.{field}"), problem)
    }

    pub(super) fn missing(field: &str) -> Self {
        Self::new(field, "is missing")
    }

    /// A field of the job itself.
    pub(super) fn of_job(field: &str, problem: impl fmt::Display) -> Self {
        Self {
            field: field.to_owned(),
            sentence: format!("`{field}` {problem}"),
        }
    }
}

impl Params<'_> {
    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn read<T>(
        &self,
        field: &str,
        must_be: impl fmt::Display,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, WrongParams> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(WrongParams::new(field, format!("must be {must_be}"))),
        }
    }

    pub(super) fn whole(
        &self,
        field: &str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<u32>, WrongParams> {
        let range = u64::from(*range.start())..=u64::from(*range.end());
        // The range was one of the smaller type.
        Ok(self
            .large_whole(field, range)?
            .and_then(|number| u32::try_from(number).ok()))
    }

    pub(super) fn large_whole(
        &self,
        field: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, WrongParams> {
        let (least, most) = (range.start(), range.end());
        let must_be = format!("a whole number from {least} to {most}");
        self.read(field, must_be, |value| {
            whole_of(value).filter(|number| range.contains(number))
        })
    }

    pub(super) fn number(
        &self,
        field: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, WrongParams> {
        let must_be = format!("a number from {} to {}", range.start(), range.end());
        self.read(field, must_be, |value| {
            value.as_f64().filter(|number| range.contains(number))
        })
    }

    pub(super) fn flag(&self, field: &str) -> Result<Option<bool>, WrongParams> {
        self.read(field, "true or false", Value::as_bool)
    }

    /// At most so many characters.
    pub(super) fn text(&self, field: &str, most: usize) -> Result<Option<String>, WrongParams> {
        let must_be = format!("a text of at most {most} characters");
        self.read(field, must_be, |value| {
            let text = value.as_str()?;
            (text.chars().count() <= most).then(|| text.to_owned())
        })
    }

    /// One of the words, with what each means.
    pub(super) fn word<T: Copy>(
        &self,
        field: &str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, WrongParams> {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let must_be = format!("one of: {}", known.join(", "));
        self.read(field, must_be, |value| {
            let text = value.as_str()?;
            words
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, meaning)| *meaning)
        })
    }

    /// A time in a film.
    pub(super) fn time(&self, field: &str) -> Result<Option<FilmTime>, WrongParams> {
        let must_be = "seconds from 0, or a time as HH:MM:SS.mmm, of at most 100 hours";
        self.read(field, must_be, |value| match value {
            Value::Number(number) => FilmTime::from_seconds(number.as_f64()?),
            Value::String(text) => FilmTime::parse(text),
            _ => None,
        })
    }

    pub(super) fn file(&self, field: &str) -> Result<Option<String>, WrongParams> {
        self.read(field, "the id of a file", |value| {
            file_id(value).map(str::to_owned)
        })
    }
}

pub(super) fn file_id(value: &Value) -> Option<&str> {
    let id = value.as_str()?;
    (!id.is_empty() && id.len() <= MAX_ID).then_some(id)
}

fn whole_of(value: &Value) -> Option<u64> {
    if let Some(number) = value.as_u64() {
        return Some(number);
    }
    let number = value.as_f64()?;
    let is_whole = number.fract() == 0.0 && (0.0..=EXACT).contains(&number);
    is_whole.then_some(number as u64)
}
