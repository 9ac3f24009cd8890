//! JSON schemas that every client and model can read: one type each, no references.

use serde_json::{Map, Value, json};

/// A field of an object.
pub struct SchemaField {
    name: &'static str,
    schema: Value,
    is_required: bool,
}

impl SchemaField {
    pub fn required(self) -> Self {
        Self {
            is_required: true,
            ..self
        }
    }

    fn new(name: &'static str, about: &'static str, mut schema: Value) -> Self {
        schema["description"] = about.into();
        Self {
            name,
            schema,
            is_required: false,
        }
    }
}

pub fn text(name: &'static str, about: &'static str) -> SchemaField {
    SchemaField::new(name, about, json!({"type": "string"}))
}

/// A text of at most so many characters.
pub fn short_text(name: &'static str, about: &'static str, most: usize) -> SchemaField {
    let schema = json!({"type": "string", "maxLength": most});
    SchemaField::new(name, about, schema)
}

/// One of these words.
pub fn word(
    name: &'static str,
    about: &'static str,
    words: impl IntoIterator<Item = &'static str>,
) -> SchemaField {
    let words: Vec<&str> = words.into_iter().collect();
    SchemaField::new(name, about, json!({"type": "string", "enum": words}))
}

pub fn whole(name: &'static str, about: &'static str) -> SchemaField {
    SchemaField::new(name, about, json!({"type": "integer"}))
}

/// A whole number within bounds.
pub fn whole_within(name: &'static str, about: &'static str, least: i64, most: i64) -> SchemaField {
    let schema = json!({"type": "integer", "minimum": least, "maximum": most});
    SchemaField::new(name, about, schema)
}

pub fn number(name: &'static str, about: &'static str) -> SchemaField {
    SchemaField::new(name, about, json!({"type": "number"}))
}

pub fn truth(name: &'static str, about: &'static str) -> SchemaField {
    SchemaField::new(name, about, json!({"type": "boolean"}))
}

/// An object with any fields.
pub fn any_object(name: &'static str, about: &'static str) -> SchemaField {
    SchemaField::new(name, about, json!({"type": "object"}))
}

/// Whole numbers by name.
pub fn counts(name: &'static str, about: &'static str) -> SchemaField {
    let schema = json!({"type": "object", "additionalProperties": {"type": "integer"}});
    SchemaField::new(name, about, schema)
}

/// A list of values of one schema.
pub fn list(name: &'static str, about: &'static str, items: Value) -> SchemaField {
    SchemaField::new(name, about, json!({"type": "array", "items": items}))
}

/// The schema of an object.
pub fn object(fields: impl IntoIterator<Item = SchemaField>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in fields {
        properties.insert(field.name.to_owned(), field.schema);
        if field.is_required {
            required.push(field.name);
        }
    }
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

/// The arguments of a page.
pub fn page() -> [SchemaField; 2] {
    [
        whole_within("limit", "The most rows, 50 by default.", 1, 500),
        text("cursor", "The `next_cursor` of the page before."),
    ]
}

/// The field that follows the rows of a page.
pub fn next_cursor() -> SchemaField {
    text("next_cursor", "For the next page. Absent on the last one.")
}
