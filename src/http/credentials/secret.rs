//! Secrets on their way in and out. Invariant: they never print, and memory is wiped when they are dropped.

use std::fmt;

use genie_actors::credentials::{MAX_SECRET_BYTES, Plaintext};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroize;

use crate::http::{error::ApiError, input};

/// A credential's fields as received.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct SecretFields(#[serde(deserialize_with = "input::whole")] Map<String, Value>);

impl Drop for SecretFields {
    fn drop(&mut self) {
        self.0.values_mut().for_each(wipe);
    }
}

impl fmt::Debug for SecretFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl SecretFields {
    pub fn plaintext(&self) -> Result<Plaintext, ApiError> {
        if self.0.is_empty() {
            let sentence = "`credentials` must have at least one field";
            return Err(ApiError::field(sentence));
        }
        Ok(Plaintext::of("credentials", &self.0, MAX_SECRET_BYTES)?)
    }
}

/// The plaintext of a secret, to be answered.
#[derive(Serialize)]
#[serde(transparent)]
pub struct OpenedSecret(Map<String, Value>);

impl Drop for OpenedSecret {
    fn drop(&mut self) {
        self.0.values_mut().for_each(wipe);
    }
}

impl OpenedSecret {
    pub fn of(plaintext: &Plaintext) -> Result<Self, ApiError> {
        let fields = serde_json::from_slice(plaintext.expose());
        fields
            .map(Self)
            .map_err(|_| ApiError::Internal("a stored credential is no JSON object".into()))
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(map) => map.values_mut().for_each(wipe),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_show_nothing_and_can_be_wiped_however_deep() {
        let fields: SecretFields = serde_json::from_value(json!({"password": "canary"})).unwrap();
        assert_eq!(
            format!("{fields:?} {:?}", fields.plaintext().unwrap()),
            "[secret] [secret]"
        );
        let mut deep = json!({"a": [{"b": "canary"}, "canary"], "c": 7});
        wipe(&mut deep);
        assert_eq!(deep, json!({"a": [{"b": ""}, ""], "c": 7}));
    }
}
