//! The name of a platform.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{refusal::Refusal, typed_text};

/// In characters.
const MAX_NAME: usize = 64;

/// A platform's name. Spellings that look the same are one platform; upper and lower case make no difference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlatformName(String);

impl PlatformName {
    pub fn read(text: &str) -> Result<Self, Refusal> {
        let name = typed_text::cleaned_lower_case(text);
        let has_length = (1..=MAX_NAME).contains(&name.chars().count());
        if !has_length || name.chars().any(char::is_control) {
            let sentence = format!(
                "`platform` must have 1 to {MAX_NAME} characters that are seen, and no control characters"
            );
            return Err(Refusal::invalid("platform", sentence));
        }
        Ok(Self(name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PlatformName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
