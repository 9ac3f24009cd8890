//! What clients send, bodies and queries alike: one reader, with sentences for people. What is not asked for is ignored. A null,
//! or an empty value in a query, counts as absent. A whole number may be written with a fraction of zero.

use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::http::error::ApiError;

/// What is wrong with an input, in a sentence that names the field and repeats no value.
mod error;
/// Items of lists that are read one by one.
mod item;
/// JSON as a tree.
mod json;
/// A query as a tree.
mod query;
/// Reads types from a tree.
mod reader;
/// Texts that must be whole.
mod secret;
/// The tree, and what it means.
mod tree;

pub use error::InputError;
pub use item::ListItem;
pub use query::Query;
pub use secret::whole;
pub use tree::{InputTree, whole_of};

/// The most levels of lists and objects in each other.
const MAX_DEPTH: usize = 100;

/// Reads a body's JSON. Half characters in it are replaced in place.
pub fn json(bytes: &mut [u8]) -> Result<InputTree<'_>, InputError> {
    json::tree(bytes)
}

/// Reads a type from a tree.
pub fn read<T: DeserializeOwned>(tree: &InputTree<'_>) -> Result<T, InputError> {
    T::deserialize(reader::InputReader::of(tree))
}

/// Checks that bytes which are passed on unchanged are a JSON object.
pub fn check_object(bytes: &[u8]) -> Result<(), ApiError> {
    let mut copy = Zeroizing::new(bytes.to_vec());
    match json(&mut copy)? {
        InputTree::Object(_) => Ok(()),
        _ => Err(InputError::must_be("a JSON object").into()),
    }
}

#[cfg(test)]
mod tests;
