//! An item of a list whose items are answered one by one: what is wrong with one does not refuse the others.

use serde::{Deserialize, Deserializer};

/// What was read, or the sentence that says what is wrong with it.
#[derive(Debug, Clone)]
pub struct ListItem<T>(pub Result<T, String>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ListItem<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(
            T::deserialize(deserializer).map_err(|error| error.to_string()),
        ))
    }
}
