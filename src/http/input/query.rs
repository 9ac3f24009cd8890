//! A query as a tree.

use std::{
    borrow::Cow,
    future::{Ready, ready},
};

use actix_web::{FromRequest, HttpRequest, dev::Payload};
use serde::de::DeserializeOwned;

use super::{InputError, InputTree, json::repeated, read, tree::InputText};
use crate::http::error::ApiError;

/// A query. What is wrong with it is 400 and names the field.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequest for Query<T> {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let tree = tree(request.query_string());
        let query = tree.and_then(|tree| read(&tree));
        ready(query.map(Self).map_err(|error| error.of_query()))
    }
}

pub(super) fn tree(query: &str) -> Result<InputTree<'_>, InputError> {
    let text = |text| match text {
        Cow::Borrowed(text) => InputText::sent(text),
        Cow::Owned(text) => InputText::unescaped(text),
    };
    let fields: Vec<_> = form_urlencoded::parse(query.as_bytes())
        .map(|(name, value)| (text(name), InputTree::Word(text(value))))
        .collect();
    match repeated(&fields) {
        Some(name) => Err(InputError::twice(name)),
        None => Ok(InputTree::Object(fields)),
    }
}
