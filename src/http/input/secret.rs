//! Texts that must be whole. Elsewhere a half character is replaced; in a secret that would make another secret.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserializer,
    de::{DeserializeOwned, Visitor},
};

/// By these names the reader knows that half characters are refused: that of [`whole`], and the type that holds secret text.
pub(super) const NAMES: [&str; 2] = [WHOLE, "SecretText"];
const WHOLE: &str = "whole";

/// Reads a secret, and refuses half characters in it. For `deserialize_with`.
pub fn whole<'de, T: DeserializeOwned, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_newtype_struct(WHOLE, Whole(PhantomData))
}

struct Whole<T>(PhantomData<T>);

impl<'de, T: DeserializeOwned> Visitor<'de> for Whole<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        T::deserialize(deserializer)
    }
}
