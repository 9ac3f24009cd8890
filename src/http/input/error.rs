//! What is wrong with an input, in a sentence that names the field and repeats no value.

use std::fmt;

use serde::de::{Error, Expected, Unexpected};

use crate::http::error::ApiError;

/// A step from an object or list to what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PathStep {
    Field(String),
    Item(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputError {
    /// Where it is, the innermost step first.
    path: Vec<PathStep>,
    problem: InputProblem,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum InputProblem {
    Missing,
    Twice,
    /// Completes "must".
    Must(String),
    NotValid,
    TooDeep,
    /// Not JSON at all: completes "The body".
    Malformed(String),
}

impl InputError {
    fn new(problem: InputProblem) -> Self {
        Self {
            path: Vec::new(),
            problem,
        }
    }

    pub fn must_be(what: impl fmt::Display) -> Self {
        Self::new(InputProblem::Must(format!("be {what}")))
    }

    pub(super) fn too_deep() -> Self {
        Self::new(InputProblem::TooDeep)
    }

    pub(super) fn twice(field: &str) -> Self {
        Self::new(InputProblem::Twice).inside(PathStep::Field(field.to_owned()))
    }

    /// `reason` completes "The body".
    pub(super) fn malformed(reason: impl Into<String>) -> Self {
        Self::new(InputProblem::Malformed(reason.into()))
    }

    /// Says that it is in this field or item.
    pub(super) fn inside(mut self, step: PathStep) -> Self {
        if !matches!(self.problem, InputProblem::Malformed(_)) {
            self.path.push(step);
        }
        self
    }

    /// The sentence; `whole` is the input's name at the beginning of a sentence.
    pub(super) fn sentence(&self, whole: &str) -> String {
        let place = self.place(whole);
        match &self.problem {
            InputProblem::Missing => format!("{place} is missing"),
            InputProblem::Twice => format!("{place} is there twice; send it once"),
            InputProblem::Must(what) => format!("{place} must {what}"),
            InputProblem::NotValid => format!("{place} is not valid"),
            InputProblem::TooDeep => format!(
                "{place} is nested too deep; at most {} levels of lists and objects are read",
                super::MAX_DEPTH
            ),
            InputProblem::Malformed(reason) => format!("{whole} {reason}"),
        }
    }

    fn place(&self, whole: &str) -> String {
        const SHOWN: usize = 8;
        let mut place = String::new();
        // A field of the client's own choice may be long or deep.
        for step in self.path.iter().rev().take(SHOWN) {
            match step {
                PathStep::Field(name) => {
                    let dot = if place.is_empty() { "" } else { "." };
                    let name: String = name.chars().take(100).collect();
                    place += dot;
                    place += &name;
                }
                PathStep::Item(n) => place += &format!("[{n}]"),
            }
        }
        if self.path.len() > SHOWN {
            place += "...";
        }
        if place.is_empty() {
            whole.to_owned()
        } else {
            format!("`{place}`")
        }
    }

    pub fn of_query(&self) -> ApiError {
        ApiError::field(self.sentence("The query"))
    }
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence("It"))
    }
}

impl std::error::Error for InputError {}

impl From<InputError> for ApiError {
    fn from(error: InputError) -> Self {
        let sentence = error.sentence("The body");
        match error.problem {
            InputProblem::Malformed(_) => Self::Invalid {
                code: "malformed_json",
                sentence,
            },
            _ => Self::field(sentence),
        }
    }
}

/// serde's own words name Rust's types and repeat values, so only what was expected is told, in other words.
impl Error for InputError {
    /// A type's own refusal is told when it says what the value must be.
    fn custom<T: fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        if let Some(what) = message.strip_prefix("must ") {
            return Self::new(InputProblem::Must(what.to_owned()));
        }
        if message.starts_with("UUID parsing failed") {
            return Self::must_be("a UUID");
        }
        Self::new(InputProblem::NotValid)
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::must_be(for_people(&expected.to_string()))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::must_be(for_people(&expected.to_string()))
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Self::must_be(for_people(&expected.to_string()))
    }

    fn unknown_variant(_: &str, known: &'static [&'static str]) -> Self {
        Self::must_be(one_of(known))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(InputProblem::Missing).inside(PathStep::Field(field.to_owned()))
    }

    /// One field under two of its names.
    fn duplicate_field(field: &'static str) -> Self {
        Self::twice(field)
    }
}

pub(super) fn one_of(known: &[&str]) -> String {
    format!("one of: {}", known.join(", "))
}

/// The words of serde's own types, for people who know JSON and not Rust.
fn for_people(expected: &str) -> &str {
    match expected {
        "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" | "usize" | "isize" => {
            "a whole number"
        }
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other if other.starts_with("a tuple") => "a list",
        other => other,
    }
}
