//! The names of users: on a platform, and their own.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{refusal::Refusal, typed_text};

/// In characters.
const MAX_NAME: usize = 200;

/// A user's name, on a platform or of their own. Spellings that look the same are one name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserName(String);

impl UserName {
    /// Reads the text of a field; `None` when it has nothing that is seen.
    pub fn read(field: &'static str, text: &str) -> Result<Option<Self>, Refusal> {
        let name = typed_text::cleaned(text);
        if name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
            let sentence = format!(
                "`{field}` must have at most {MAX_NAME} characters, none of them control characters"
            );
            return Err(Refusal::invalid(field, sentence));
        }
        Ok(Some(Self(name)).filter(|name| !name.0.is_empty()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<UserName> for String {
    fn from(name: UserName) -> Self {
        name.0
    }
}

/// A name is personal: it does not print itself.
impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[name]")
    }
}
