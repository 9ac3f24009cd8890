//! What each operation takes as `params`, as JSON Schema. The tests hold each bound, word and default against what the
//! operation reads.

use serde_json::{Map, Value, json};

use super::{
    MAX_SIDE,
    edits::{Fit, MARGIN, MAX_RECIPIENT, MarkPlace, MarkedFormat, OPACITY},
    films::{
        COMPRESSION_CRF, Container, DOWNLOAD_MAX_HEIGHT, MAX_CRF, MAX_FPS, MOST_CLIPS, MOST_JOINED,
        MOST_TARGET, TEASER_CLIPS, TEASER_HEIGHT, TEASER_SECONDS, TRANSCODING_CRF, VideoCodec,
    },
    params::MAX_ID,
    pictures::{PictureFormat, QUALITY, THUMBNAIL_WIDTH},
    time::MOST_SECONDS,
};

/// The schema of an operation's `params`; `None` for an operation that this worker does not do.
pub fn params_schema(operation: &str) -> Option<Value> {
    let (fields, required): (Vec<(&str, Value)>, &[&str]) = match operation {
        "transcoding" => (transcoding(), &[]),
        "convert_image" => (conversion(), &["format"]),
        "resize_image" | "resize_video" => (resize(), &[]),
        "crop_image" | "crop_video" => (crop(), &["width", "height"]),
        "compress_video" => (compression(), &[]),
        "trim_videos" => (trim(), &[]),
        "join_videos" => (joining(), &["inputs"]),
        "apply_watermark" => (visible_mark(), &["watermark_file_id"]),
        "create_teaser" => (teaser(), &[]),
        "thumbnail" => (thumbnail(), &[]),
        "apply_steganographic_watermark" => (invisible_mark(), &[]),
        "download_video" => (download(), &[]),
        "strip_metadata" | "ytdlp_info" | "onboarding_import" => (Vec::new(), &[]),
        _ => return None,
    };
    let writes = ![
        "strip_metadata",
        "download_video",
        "ytdlp_info",
        "onboarding_import",
    ]
    .contains(&operation);
    let fields = fields.into_iter().map(|(name, schema)| {
        // A null counts as absent.
        let is_needed = required.contains(&name);
        (name, if is_needed { schema } else { or_null(schema) })
    });
    let keep = writes.then(|| {
        let about = "Names, places, times and cameras stay in the output.";
        ("keep_metadata", or_null(flag(false, about)))
    });
    let properties: Map<String, Value> = fields
        .chain(keep)
        .map(|(name, schema)| (name.to_owned(), tell_default(schema)))
        .collect();
    let mut schema = json!({
        "type": "object",
        "description": format!("The `params` of `{operation}`."),
        "properties": properties,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    Some(schema)
}

type Fields = Vec<(&'static str, Value)>;

fn transcoding() -> Fields {
    let codec = "Of webm `vp9`, which is the default there; mov takes no `vp9`.";
    vec![
        ("format", words(Container::WORDS, "mp4", "")),
        ("video_codec", words(VideoCodec::WORDS, "h264", codec)),
        ("crf", crf(TRANSCODING_CRF)),
        ("max_height", max_height(None)),
        ("fps", number(1.0, MAX_FPS, "Frames a second.")),
    ]
}

fn conversion() -> Fields {
    let colour = "What shows through transparent places of a kind without transparency: `#rrggbb`, `#rgb`, or a name of \
                  HTML such as `white`.";
    vec![
        ("format", words(PictureFormat::WORDS, "", "")),
        ("quality", quality()),
        (
            "background",
            json!({"type": "string", "default": "white", "description": colour}),
        ),
    ]
}

fn resize() -> Fields {
    let one = "In pixels. A width, a height or both must be there.";
    let fit = "`contain` is as large as fits in, `cover` fills and cuts off what stands out, `fill` changes the proportions.";
    vec![
        ("width", whole(1, MAX_SIDE, None, one)),
        ("height", whole(1, MAX_SIDE, None, one)),
        ("fit", words(Fit::WORDS, "contain", fit)),
        ("upscale", flag(false, "Smaller media are made larger.")),
    ]
}

fn crop() -> Fields {
    let most = u32::from(u16::MAX);
    let pixels = "In pixels of the picture as it is seen.";
    vec![
        ("width", whole(1, MAX_SIDE, None, pixels)),
        ("height", whole(1, MAX_SIDE, None, pixels)),
        (
            "x",
            whole(0, most, None, "The left edge. Absent: the middle."),
        ),
        (
            "y",
            whole(0, most, None, "The upper edge. Absent: the middle."),
        ),
    ]
}

fn compression() -> Fields {
    let bytes = "The most bytes of the output. Not together with `crf`.";
    vec![
        ("target_bytes", whole(1, MOST_TARGET, None, bytes)),
        ("crf", crf(COMPRESSION_CRF)),
        ("max_height", max_height(None)),
    ]
}

fn trim() -> Fields {
    vec![
        ("start", time("0 by default.")),
        ("end", time("After `start`. Absent: the film's end.")),
        ("duration", time("Above 0. Not together with `end`.")),
    ]
}

fn joining() -> Fields {
    let inputs = json!({
        "type": "array", "minItems": 2, "maxItems": MOST_JOINED, "items": file(""),
        "description": "The ids of the films, in order. Sizes and rates are fitted to the first.",
    });
    vec![("inputs", inputs)]
}

fn visible_mark() -> Fields {
    let auto = "`auto` is the kind of the input.";
    let margin = "In pixels, from the edges.";
    vec![
        ("watermark_file_id", file("The picture of the mark.")),
        ("position", words(MarkPlace::WORDS, "br", "")),
        ("opacity", whole(0, 100u32, Some(OPACITY), "In percent.")),
        ("margin", whole(0, MAX_SIDE, Some(MARGIN), margin)),
        ("format", words(MarkedFormat::words(), "auto", auto)),
    ]
}

fn teaser() -> Fields {
    let seconds = format!("Above 0. {TEASER_SECONDS} by default.");
    let clips = "Spread over the film's length.";
    vec![
        ("duration", time(&seconds)),
        ("clips", whole(1, MOST_CLIPS, Some(TEASER_CLIPS), clips)),
        ("max_height", max_height(Some(TEASER_HEIGHT))),
        ("watermark_file_id", file("The picture of a mark.")),
    ]
}

fn thumbnail() -> Fields {
    let at = "Absent: a tenth of the film's length.";
    let width = "In pixels. A smaller picture stays as it is.";
    vec![
        ("at", time(at)),
        ("width", whole(1, MAX_SIDE, Some(THUMBNAIL_WIDTH), width)),
        ("format", words(PictureFormat::WORDS, "jpeg", "")),
    ]
}

fn invisible_mark() -> Fields {
    let whom = "The person that the copy is for, in free words. It is sealed.";
    let recipient = json!({"type": "string", "maxLength": MAX_RECIPIENT, "description": whom});
    vec![("recipient", recipient)]
}

fn download() -> Fields {
    vec![("max_height", max_height(Some(DOWNLOAD_MAX_HEIGHT)))]
}

fn crf(default: u32) -> Value {
    let about = "The encoder's measure of quality: lower is better.";
    whole(0, MAX_CRF, Some(default), about)
}

fn quality() -> Value {
    whole(1, 100u32, Some(QUALITY), "PNG is always without loss.")
}

fn max_height(default: Option<u32>) -> Value {
    let about = "The greatest height, in pixels. A smaller film stays as it is.";
    whole(1, MAX_SIDE, default, about)
}

fn whole(least: u32, most: impl Into<u64>, default: Option<u32>, about: &str) -> Value {
    let mut schema = json!({"type": "integer", "minimum": least, "maximum": most.into()});
    if let Some(default) = default {
        schema["default"] = default.into();
    }
    described(schema, about)
}

fn number(least: f64, most: f64, about: &str) -> Value {
    let schema = json!({"type": "number", "minimum": least, "maximum": most});
    described(schema, about)
}

fn flag(default: bool, about: &str) -> Value {
    described(json!({"type": "boolean", "default": default}), about)
}

fn words<T>(
    words: impl IntoIterator<Item = (&'static str, T)>,
    default: &str,
    about: &str,
) -> Value {
    let words: Vec<&str> = words.into_iter().map(|(word, _)| word).collect();
    let mut schema = json!({"type": "string", "enum": words});
    if !default.is_empty() {
        schema["default"] = default.into();
    }
    described(schema, about)
}

fn time(about: &str) -> Value {
    let form = "In seconds, or as `HH:MM:SS.mmm`.";
    let schema = json!({"type": ["number", "string"], "minimum": 0, "maximum": MOST_SECONDS});
    described(schema, &format!("{form} {about}"))
}

fn file(about: &str) -> Value {
    let schema = json!({"type": "string", "minLength": 1, "maxLength": MAX_ID});
    described(schema, about)
}

pub(super) fn described(mut schema: Value, about: &str) -> Value {
    if !about.is_empty() {
        schema["description"] = about.into();
    }
    schema
}

fn or_null(mut schema: Value) -> Value {
    let mut types = match schema["type"].take() {
        Value::Array(types) => types,
        one => vec![one],
    };
    types.push("null".into());
    schema["type"] = types.into();
    if let Some(Value::Array(words)) = schema.get_mut("enum") {
        words.push(Value::Null);
    }
    schema
}

/// Generators of clients take a field with a `default` for one that is always there, so it is told in other words.
fn tell_default(mut schema: Value) -> Value {
    let fields = schema.as_object_mut();
    let Some(default) = fields.and_then(|fields| fields.remove("default")) else {
        return schema;
    };
    let word = match &default {
        Value::String(word) => word.clone(),
        other => other.to_string(),
    };
    let about = schema["description"].as_str().unwrap_or_default();
    let told = format!("`{word}` by default. {about}");
    schema["description"] = told.trim_end().into();
    schema["x-default"] = default;
    schema
}
