//! One line of an import: the user, the credential's id, the platform, and the value that the
//! original encrypted. No error sentence repeats a line's content.

use genie_events::{PlatformName, UserId, UserName};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The longest line, in bytes: the largest credential in hexadecimal, and room for the other
/// fields.
pub const MAX_LINE: usize = 2 * genie_actors::credentials::MAX_SECRET_BYTES + 16 * 1024;
/// The most characters of a credential's id.
const MAX_ID: usize = 200;

/// A line of the right form. Its value may still fail to open, and its user may be unknown.
#[derive(Serialize, Deserialize)]
pub struct CredentialLine {
    pub user: UserId,
    /// The original's id (`creatorProfileId`).
    pub id: String,
    pub platform: PlatformName,
    /// The user's name on the platform.
    pub platform_username: Option<UserName>,
    /// The value as the original encrypted it.
    pub sealed: String,
}

impl CredentialLine {
    /// Parses a line, or names its fault.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let fields: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| match error.classify() {
                serde_json::error::Category::Data => "it is not a JSON object".to_owned(),
                _ => format!("it is not valid JSON, at column {}", error.column()),
            })?;
        let user = text(&fields, "userId")?
            .parse()
            .map_err(|_| "`userId` is not a user's id; it must be a UUID".to_owned())?;
        let id = id(text(&fields, "creatorProfileId")?)?;
        let platform =
            PlatformName::read(text(&fields, "platform")?).map_err(|refusal| refusal.sentence)?;
        let platform_username = match fields.get("platform_username") {
            None | Some(Value::Null) => None,
            Some(_) => UserName::read("platform_username", text(&fields, "platform_username")?)
                .map_err(|refusal| refusal.sentence)?,
        };
        Ok(Self {
            user,
            id,
            platform,
            platform_username,
            sealed: sealed(&fields)?,
        })
    }
}

fn text<'a>(fields: &'a Map<String, Value>, field: &str) -> Result<&'a str, String> {
    match fields.get(field) {
        None => Err(format!("`{field}` is missing")),
        Some(value) => value
            .as_str()
            .ok_or_else(|| format!("`{field}` must be a text")),
    }
}

fn id(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().count() > MAX_ID || text.chars().any(char::is_control) {
        Err(format!(
            "`creatorProfileId` must have 1 to {MAX_ID} characters, none of them control characters"
        ))
    } else {
        Ok(text.to_owned())
    }
}

/// The bare text, the object around it, or the object as a text, as databases export it.
fn sealed(fields: &Map<String, Value>) -> Result<String, String> {
    let of_object =
        |fields: &Map<String, Value>| fields.get("enc").and_then(Value::as_str).map(str::to_owned);
    let found = match fields.get("credentials") {
        None => return Err("`credentials` is missing".to_owned()),
        Some(Value::Object(object)) => of_object(object),
        Some(Value::String(text)) if text.trim_start().starts_with('{') => {
            serde_json::from_str(text)
                .ok()
                .and_then(|object| of_object(&object))
        }
        Some(Value::String(text)) => Some(text.clone()),
        Some(_) => None,
    };
    found.ok_or_else(|| {
        "`credentials` must be the value that the original encrypted: a text, or an object with the text as `enc`"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const USER: &str = "0192f0c1-2345-7000-8000-000000000001";

    fn read(line: &Value) -> Result<CredentialLine, String> {
        CredentialLine::read(line.to_string().as_bytes())
    }

    #[test]
    fn a_value_is_a_text_an_object_or_an_object_as_a_text() {
        for credentials in [
            json!("v1:a:b:c"),
            json!({"enc": "v1:a:b:c"}),
            json!(r#"{"enc":"v1:a:b:c"}"#),
        ] {
            let line = json!({
                "userId": USER, "creatorProfileId": "7", "platform": " OnlyFans", "platform_username": null,
                "credentials": credentials, "created_at": "whatever else",
            });
            let line = read(&line).ok().unwrap();
            assert_eq!(
                (
                    line.id.as_str(),
                    line.platform.as_str(),
                    line.platform_username.as_ref().map(UserName::as_str)
                ),
                ("7", "onlyfans", None)
            );
            assert_eq!(line.sealed, "v1:a:b:c");
        }
    }

    #[test]
    fn a_fault_names_the_field_and_never_repeats_the_value() {
        let good = json!({"userId": USER, "creatorProfileId": "7", "platform": "x", "credentials": "v1:a:b:c"});
        let wrong = [
            ("userId", json!("canary")),
            ("userId", json!(["canary"])),
            ("creatorProfileId", json!("canary\n")),
            ("creatorProfileId", json!("")),
            ("platform", json!("canary".repeat(20))),
            ("platform_username", json!({"canary": 1})),
            ("credentials", json!({"password": "canary"})),
            ("credentials", json!("{canary")),
            ("credentials", json!(7)),
        ];
        for (field, value) in wrong {
            let mut line = good.clone();
            line[field] = value;
            let told = read(&line).err().unwrap();
            assert!(told.contains(field) && !told.contains("canary"), "{told}");
        }
        for field in ["userId", "creatorProfileId", "platform", "credentials"] {
            let mut line = good.clone();
            line.as_object_mut().unwrap().remove(field);
            assert_eq!(read(&line).err().unwrap(), format!("`{field}` is missing"));
        }
        for (bytes, told) in [
            (&b"canary"[..], "it is not valid JSON, at column 1"),
            (b"\xff", "it is not valid JSON, at column 1"),
            (b"[\"canary\"]", "it is not a JSON object"),
            (b"7", "it is not a JSON object"),
            (b"{\"canary\": ", "it is not valid JSON, at column 11"),
        ] {
            assert_eq!(CredentialLine::read(bytes).err().unwrap(), told);
        }
    }
}
