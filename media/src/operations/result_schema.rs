//! What each operation tells of its work in a job's `result`, as JSON Schema. The tests hold it against what operations
//! tell.

use serde_json::{Value, json};

use super::schema::described;

/// The schema of an operation's `result`; `None` for an operation that this worker does not do.
pub fn result_schema(operation: &str) -> Option<Value> {
    let (fields, required) = match operation {
        "apply_steganographic_watermark" => (with(made(), invisible_mark()), vec!["mark", "note"]),
        "compress_video" => {
            let kept = "Present when the input's own streams were kept, since they are smaller.";
            (with(made(), json!({"kept": text(kept)})), vec![])
        }
        "download_video" => (told(), vec!["title", "duration"]),
        "ytdlp_info" => {
            let of_formats = json!({"extractor": or_null("string", ""), "formats": formats()});
            let required = vec!["title", "duration", "extractor", "formats"];
            (with(told(), of_formats), required)
        }
        "onboarding_import" => (imported(), vec!["name", "found"]),
        "transcoding" | "convert_image" | "resize_image" | "crop_image" | "resize_video"
        | "crop_video" | "trim_videos" | "join_videos" | "apply_watermark" | "create_teaser"
        | "thumbnail" | "strip_metadata" => (made(), vec![]),
        _ => return None,
    };
    let mut schema = json!({
        "type": "object",
        "description": format!("The `result` of `{operation}`."),
        "properties": fields,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    Some(schema)
}

/// Of the file that came out.
fn made() -> Value {
    let pixels = "In pixels, as it is seen. Absent for sound alone.";
    let sound = "Present when sound was left out: why.";
    json!({
        "width": {"type": "integer", "minimum": 1, "description": pixels},
        "height": {"type": "integer", "minimum": 1, "description": pixels},
        "duration": {"type": "number", "minimum": 0, "description": "In seconds. Absent for pictures."},
        "sound": text(sound),
    })
}

fn invisible_mark() -> Value {
    let number = "The number that the file carries.";
    json!({
        "mark": {"type": "integer", "minimum": 0, "maximum": u32::MAX, "description": number},
        "note": text("What such a mark is good for."),
    })
}

/// What a page says of its film.
fn told() -> Value {
    json!({
        "title": or_null("string", ""),
        "duration": or_null("number", "In seconds."),
    })
}

fn formats() -> Value {
    let word = json!({"type": "string"});
    let number = json!({"type": "number"});
    let format = json!({
        "type": "object",
        "properties": {
            "format_id": word, "ext": word, "vcodec": word, "acodec": word, "format_note": word,
            "width": number, "height": number, "fps": number,
            "filesize": {"type": "number", "description": "In bytes."},
            "tbr": {"type": "number", "description": "In kilobits a second."},
        },
    });
    json!({"type": "array", "items": format})
}

fn imported() -> Value {
    let count = |about| described(json!({"type": "integer", "minimum": 0}), about);
    let of_kind = json!({
        "type": "object",
        "required": ["files", "bytes"],
        "properties": {"files": count(""), "bytes": count("Unpacked.")},
    });
    let found = json!({
        "type": "object",
        "required": ["files", "folders", "bytes", "kinds"],
        "properties": {
            "files": count(""),
            "folders": count(""),
            "bytes": count("Unpacked."),
            "kinds": {
                "type": "object",
                "description": "By what the names of the files end in.",
                "additionalProperties": of_kind,
            },
        },
    });
    json!({"name": text("The name of the archive."), "found": found})
}

fn text(about: &str) -> Value {
    described(json!({"type": "string"}), about)
}

fn or_null(kind: &str, about: &str) -> Value {
    described(json!({"type": [kind, "null"]}), about)
}

fn with(mut fields: Value, more: Value) -> Value {
    if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
        fields.extend(more);
    }
    fields
}
