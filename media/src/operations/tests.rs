#![allow(clippy::too_many_lines)] // a table is read as a whole

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{edits::*, films::*, pictures::*, time::FilmTime, *};

const FILE: Input<'_> = Input {
    file_id: Some("0197a000-0000-7000-8000-000000000001"),
    url: None,
};

/// The operations that work on one file.
const ON_ONE_FILE: [&str; 13] = [
    "transcoding",
    "convert_image",
    "resize_image",
    "crop_image",
    "resize_video",
    "crop_video",
    "compress_video",
    "trim_videos",
    "apply_watermark",
    "create_teaser",
    "thumbnail",
    "strip_metadata",
    "apply_steganographic_watermark",
];

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("no object: {other}"),
    }
}

/// Parameters that the operation takes.
fn enough(name: &str) -> Value {
    match name {
        "convert_image" => json!({"format": "png"}),
        "resize_image" | "resize_video" => json!({"width": 10}),
        "crop_image" | "crop_video" => json!({"width": 10, "height": 10}),
        "apply_watermark" => json!({"watermark_file_id": "logo"}),
        "join_videos" => json!({"inputs": ["one", "two"]}),
        _ => json!({}),
    }
}

fn edit(name: &str, params: Value) -> Edit {
    match MediaOperation::read(name, FILE, &object(params)) {
        Ok(MediaOperation::Media(work)) => work.edit,
        other => panic!("{name}: {other:?}"),
    }
}

fn refusal(name: &str, params: Value) -> String {
    let wrong = MediaOperation::read(name, FILE, &object(params)).unwrap_err();
    assert!(wrong.sentence.starts_with(&format!("`{}`", wrong.field)));
    wrong.sentence
}

fn seconds(seconds: f64) -> FilmTime {
    FilmTime::from_seconds(seconds).unwrap()
}

#[test]
fn defaults_are_filled_in() {
    assert_eq!(
        edit("transcoding", json!({})),
        Edit::Transcode(Transcoding {
            container: Container::Mp4,
            codec: VideoCodec::H264,
            crf: 23,
            max_height: None,
            fps: None,
        })
    );
    assert_eq!(
        edit("convert_image", json!({"format": "avif"})),
        Edit::ConvertPicture(PictureConversion {
            format: PictureFormat::Avif,
            quality: 85,
            background: Rgb([255, 255, 255]),
        })
    );
    assert_eq!(
        edit("resize_video", json!({"height": 720.0, "width": null})),
        Edit::ResizeFilm(Resize {
            sides: Sides::Height(720),
            fit: Fit::Contain,
            upscale: false,
        })
    );
    assert_eq!(
        edit("compress_video", json!({})),
        Edit::CompressFilm(Compression {
            aim: CompressionAim::Crf(28),
            max_height: None,
        })
    );
    assert_eq!(
        edit("apply_watermark", json!({"watermark_file_id": "logo"})),
        Edit::MarkVisibly(VisibleMark {
            place: MarkPlace::BottomRight,
            opacity: 70,
            margin: 20,
            format: MarkedFormat::Auto,
        })
    );
    assert_eq!(
        edit("create_teaser", json!({})),
        Edit::CutTeaser(Teaser {
            duration: seconds(15.0),
            clips: 3,
            max_height: 720,
        })
    );
    assert_eq!(
        edit("thumbnail", json!({})),
        Edit::Thumbnail(Thumbnail {
            at: None,
            width: 640,
            format: PictureFormat::Jpeg,
        })
    );
    assert_eq!(
        edit("trim_videos", json!({})),
        Edit::TrimFilm(Trim {
            start: seconds(0.0),
            end: None,
        })
    );
    assert_eq!(
        MediaOperation::read(
            "download_video",
            Input {
                file_id: None,
                url: Some("https://example.com/v"),
            },
            &Map::new()
        ),
        Ok(MediaOperation::Download {
            url: "https://example.com/v".into(),
            max_height: 1080,
        })
    );
}

#[test]
fn webm_means_vp9() {
    let webm = edit("transcoding", json!({"format": "webm"}));
    assert!(matches!(
        webm,
        Edit::Transcode(Transcoding {
            codec: VideoCodec::Vp9,
            ..
        })
    ));
    for (format, codec) in [("webm", "h264"), ("webm", "hevc"), ("mov", "vp9")] {
        let sentence = refusal(
            "transcoding",
            json!({"format": format, "video_codec": codec}),
        );
        assert!(sentence.starts_with("`params.video_codec` must be"));
    }
}

#[test]
fn times_are_seconds_or_a_clock() {
    for (start, end, from, to) in [
        (json!(1), json!(2.5), 1.0, 2.5),
        (json!("00:00:01.250"), json!("00:01:00"), 1.25, 60.0),
        (json!("0:30"), json!("90"), 30.0, 90.0),
        (json!("01:00:00"), json!("1:00:00.001"), 3600.0, 3600.001),
    ] {
        assert_eq!(
            edit("trim_videos", json!({"start": start, "end": end})),
            Edit::TrimFilm(Trim {
                start: seconds(from),
                end: Some(seconds(to)),
            })
        );
    }
    assert_eq!(
        edit("trim_videos", json!({"start": 1, "duration": "00:00:02"})),
        Edit::TrimFilm(Trim {
            start: seconds(1.0),
            end: Some(seconds(3.0)),
        })
    );
    for wrong in [
        json!(-1),
        json!("-1"),
        json!("00:60:00"),
        json!("00:00:60"),
        json!("1:2:3:4"),
        json!("1h"),
        json!(""),
        json!("1e3"),
        json!("+1"),
        json!(".5"),
        json!(1e12),
        json!(true),
        json!([1]),
        json!("99999999999999999999:00:00"),
    ] {
        let sentence = refusal("trim_videos", json!({"start": wrong}));
        assert_eq!(
            sentence,
            "`params.start` must be seconds from 0, or a time as HH:MM:SS.mmm, of at most 100 hours"
        );
    }
}

#[test]
fn wrong_parameters_are_refused_with_their_field() {
    for (name, params, sentence) in [
        (
            "resize_image",
            json!({}),
            "`params.width` is missing; say a width, a height or both",
        ),
        (
            "resize_image",
            json!({"width": 8193}),
            "`params.width` must be a whole number from 1 to 8192",
        ),
        (
            "resize_video",
            json!({"height": 0}),
            "`params.height` must be a whole number from 1 to 8192",
        ),
        (
            "resize_video",
            json!({"height": 10.5}),
            "`params.height` must be a whole number from 1 to 8192",
        ),
        (
            "resize_image",
            json!({"width": "10"}),
            "`params.width` must be a whole number from 1 to 8192",
        ),
        (
            "resize_image",
            json!({"width": 10, "fit": "squeeze"}),
            "`params.fit` must be one of: contain, cover, fill",
        ),
        (
            "resize_image",
            json!({"width": 10, "upscale": "yes"}),
            "`params.upscale` must be true or false",
        ),
        (
            "crop_image",
            json!({"width": 10}),
            "`params.height` is missing",
        ),
        (
            "crop_video",
            json!({"width": 10, "height": 10, "x": -1}),
            "`params.x` must be a whole number from 0 to 65535",
        ),
        ("convert_image", json!({}), "`params.format` is missing"),
        (
            "convert_image",
            json!({"format": "gif"}),
            "`params.format` must be one of: jpeg, png, webp, avif",
        ),
        (
            "convert_image",
            json!({"format": "png", "quality": 0}),
            "`params.quality` must be a whole number from 1 to 100",
        ),
        (
            "convert_image",
            json!({"format": "png", "background": "#12"}),
            "`params.background` must be a colour: #rrggbb, or one of the names of HTML such as white",
        ),
        (
            "transcoding",
            json!({"crf": 52}),
            "`params.crf` must be a whole number from 0 to 51",
        ),
        (
            "transcoding",
            json!({"fps": 0}),
            "`params.fps` must be a number from 1 to 240",
        ),
        (
            "transcoding",
            json!({"format": "avi"}),
            "`params.format` must be one of: mp4, webm, mov",
        ),
        (
            "compress_video",
            json!({"target_bytes": 1, "crf": 1}),
            "`params.crf` must be absent when `params.target_bytes` is there",
        ),
        (
            "trim_videos",
            json!({"start": 2, "end": 2}),
            "`params.end` must be after `params.start`",
        ),
        (
            "trim_videos",
            json!({"duration": 0}),
            "`params.duration` must be above 0",
        ),
        (
            "trim_videos",
            json!({"end": 2, "duration": 2}),
            "`params.duration` must be absent when `params.end` is there",
        ),
        ("join_videos", json!({}), "`params.inputs` is missing"),
        (
            "join_videos",
            json!({"inputs": ["a"]}),
            "`params.inputs` must be a list of 2 to 20 ids of files",
        ),
        (
            "join_videos",
            json!({"inputs": ["a", 7]}),
            "`params.inputs` must be a list of 2 to 20 ids of files",
        ),
        (
            "join_videos",
            json!({"inputs": vec!["a"; 21]}),
            "`params.inputs` must be a list of 2 to 20 ids of files",
        ),
        (
            "apply_watermark",
            json!({}),
            "`params.watermark_file_id` is missing",
        ),
        (
            "apply_watermark",
            json!({"watermark_file_id": "a", "position": "top"}),
            "`params.position` must be one of: tl, tr, bl, br, center",
        ),
        (
            "apply_watermark",
            json!({"watermark_file_id": "a", "opacity": 101}),
            "`params.opacity` must be a whole number from 0 to 100",
        ),
        (
            "apply_watermark",
            json!({"watermark_file_id": "a", "format": "bmp"}),
            "`params.format` must be one of: auto, jpeg, png, webp, avif, mp4, webm, mov",
        ),
        (
            "create_teaser",
            json!({"clips": 0}),
            "`params.clips` must be a whole number from 1 to 20",
        ),
        (
            "create_teaser",
            json!({"watermark_file_id": 7}),
            "`params.watermark_file_id` must be the id of a file",
        ),
        (
            "apply_steganographic_watermark",
            json!({"recipient": 7}),
            "`params.recipient` must be a text of at most 1000 characters",
        ),
        (
            "strip_metadata",
            json!({"keep_metadata": 1}),
            "`params.keep_metadata` must be true or false",
        ),
    ] {
        assert_eq!(refusal(name, params), sentence, "{name}");
    }
}

#[test]
fn an_operation_on_a_file_needs_one_file() {
    let url = |url| Input {
        file_id: None,
        url: Some(url),
    };
    for name in ON_ONE_FILE {
        let params = object(enough(name));
        let none = MediaOperation::read(name, Input::default(), &params).unwrap_err();
        assert_eq!(none.field, "input_file_id", "{name}");
        let two = Input {
            url: Some("https://example.com"),
            ..FILE
        };
        let two = MediaOperation::read(name, two, &params).unwrap_err();
        assert_eq!(two.field, "input_url", "{name}");
        assert!(MediaOperation::read(name, FILE, &params).is_ok(), "{name}");
        let http = MediaOperation::read(name, url("HTTP://example.com/a.png"), &params);
        assert!(http.is_ok(), "{name}");
        let file = MediaOperation::read(name, url("file:///etc/passwd"), &params).unwrap_err();
        assert_eq!(
            file.sentence,
            "`input_url` must begin with http:// or https://"
        );
    }
    for name in ["download_video", "ytdlp_info"] {
        let file = MediaOperation::read(name, FILE, &Map::new()).unwrap_err();
        assert_eq!(file.sentence, "`input_url` is missing");
    }
}

#[test]
fn an_operation_names_its_files() {
    let files = |name: &str, params: Value| {
        MediaOperation::read(name, FILE, &object(params))
            .unwrap()
            .files()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let input = FILE.file_id.unwrap();
    assert_eq!(
        files("apply_watermark", json!({"watermark_file_id": "logo"})),
        [input, "logo"]
    );
    assert_eq!(
        files("create_teaser", json!({"watermark_file_id": "logo"})),
        [input, "logo"]
    );
    assert_eq!(files("create_teaser", json!({})), [input]);
    assert_eq!(
        files("join_videos", json!({"inputs": ["b", "a", "b"]})),
        ["b", "a", "b"]
    );
    assert_eq!(files("onboarding_import", json!({})), [input]);
}

#[test]
fn other_operations_take_any_parameters() {
    for name in ["scrape_profile", "publish_post", "caption_generation"] {
        let params = object(json!({"width": "any"}));
        assert_eq!(
            MediaOperation::read(name, Input::default(), &params),
            Ok(MediaOperation::Outside)
        );
    }
}

#[test]
fn colours_are_names_or_digits() {
    for (text, colour) in [
        ("White", [255, 255, 255]),
        ("#0f8", [0, 255, 136]),
        ("#102030", [16, 32, 48]),
    ] {
        let params = json!({"format": "png", "background": text});
        let Edit::ConvertPicture(conversion) = edit("convert_image", params) else {
            panic!("no conversion");
        };
        assert_eq!(conversion.background, Rgb(colour));
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-2i64..9000).prop_map(Value::from),
        "[a-z0-9:.#]{0,12}".prop_map(Value::from),
        Just(json!(["a", "b"])),
        Just(json!({"a": 1})),
    ]
}

const FIELDS: [&str; 24] = [
    "format",
    "video_codec",
    "crf",
    "max_height",
    "fps",
    "quality",
    "background",
    "width",
    "height",
    "fit",
    "upscale",
    "x",
    "y",
    "target_bytes",
    "start",
    "end",
    "duration",
    "inputs",
    "position",
    "opacity",
    "margin",
    "clips",
    "at",
    "recipient",
];

proptest! {
    #[test]
    fn any_parameters_are_taken_or_refused_by_a_field_that_is_there(
        name in prop::sample::select(&ON_ONE_FILE[..]),
        fields in prop::collection::btree_map(prop::sample::select(&FIELDS[..]), any_value(), 0..6),
    ) {
        let mut params = object(enough(name));
        params.extend(fields.into_iter().map(|(field, value)| (field.to_owned(), value)));
        if let Err(wrong) = MediaOperation::read(name, FILE, &params) {
            let field = wrong.field.strip_prefix("params.").unwrap();
            let is_there = params.get(field).is_some_and(|value| !value.is_null());
            let is_missing = wrong.sentence.contains("is missing");
            prop_assert!(is_there != is_missing, "{}", wrong.sentence);
        }
    }

    #[test]
    fn a_null_is_the_same_as_nothing(
        name in prop::sample::select(&ON_ONE_FILE[..]),
        field in prop::sample::select(&FIELDS[..]),
    ) {
        let without = object(enough(name));
        let mut with = without.clone();
        if !with.contains_key(field) {
            with.insert(field.to_owned(), Value::Null);
        }
        prop_assert_eq!(
            MediaOperation::read(name, FILE, &with),
            MediaOperation::read(name, FILE, &without)
        );
    }

    #[test]
    fn a_whole_number_may_have_a_fraction_of_zero(side in 1u32..=8192) {
        prop_assert_eq!(
            edit("resize_image", json!({"width": side})),
            edit("resize_image", json!({"width": f64::from(side)}))
        );
    }

    #[test]
    fn a_clock_is_its_seconds(hours in 0u32..99, minutes in 0u32..60, millis in 0u32..60_000) {
        let text = format!("{hours}:{minutes:02}:{:02}.{:03}", millis / 1000, millis % 1000);
        let sum = f64::from(hours * 3600 + minutes * 60) + f64::from(millis) / 1000.0;
        prop_assert_eq!(FilmTime::parse(&text), FilmTime::from_seconds(sum));
    }
}

/// A name of a parameter with its schema.
fn documented(name: &str) -> Map<String, Value> {
    object(params_schema(name).unwrap()["properties"].take())
}

/// The parameters that are enough, and one more.
fn with(name: &str, field: &str, value: Value) -> Result<MediaOperation, WrongParams> {
    let mut params = object(enough(name));
    params.insert(field.to_owned(), value);
    MediaOperation::read(name, FILE, &params)
}

const DOCUMENTED: [&str; 14] = [
    "transcoding",
    "convert_image",
    "resize_image",
    "crop_image",
    "resize_video",
    "crop_video",
    "compress_video",
    "trim_videos",
    "join_videos",
    "apply_watermark",
    "create_teaser",
    "thumbnail",
    "strip_metadata",
    "apply_steganographic_watermark",
];

#[test]
fn what_is_documented_is_what_is_read() {
    let of_all: Vec<String> = DOCUMENTED
        .iter()
        .flat_map(|name| documented(name).into_iter().map(|(field, _)| field))
        .collect();
    for name in DOCUMENTED {
        let fields = documented(name);
        for field in &of_all {
            // Nothing takes an object.
            let refused = with(name, field, json!({})).err();
            let is_read = refused.is_some_and(|wrong| wrong.field == format!("params.{field}"));
            // It removes all there is.
            let is_silent = (name, field.as_str()) == ("strip_metadata", "keep_metadata");
            assert_eq!(
                is_read,
                fields.contains_key(field) || is_silent,
                "{name} {field}"
            );
        }
        let required = params_schema(name).unwrap()["required"].take();
        for field in fields.keys() {
            let must = required
                .as_array()
                .is_some_and(|all| all.contains(&json!(field)));
            let mut params = object(enough(name));
            params.remove(field);
            let refused = MediaOperation::read(name, FILE, &params).err();
            let is_missed = refused.is_some_and(|wrong| wrong.sentence.ends_with("is missing"));
            assert_eq!(is_missed, must, "{name} {field}");
        }
    }
}

#[test]
fn documented_bounds_words_and_defaults_are_those_of_the_reader() {
    for name in DOCUMENTED {
        for (field, schema) in documented(name) {
            let takes = |value: Value| with(name, &field, value).is_ok();
            if field == "inputs" {
                let ids = |count: u64| json!(vec!["id"; count as usize]);
                let (least, most) = (
                    schema["minItems"].as_u64().unwrap(),
                    schema["maxItems"].as_u64().unwrap(),
                );
                assert!(takes(ids(least)) && takes(ids(most)), "{name}");
                assert!(!takes(ids(least - 1)) && !takes(ids(most + 1)), "{name}");
                continue;
            }
            for (bound, step) in [("minimum", -1.0), ("maximum", 1.0)] {
                let Some(bound) = schema[bound].as_f64() else {
                    continue;
                };
                // A length of 0 and an end at the start make no film.
                let is_empty = bound == 0.0 && ["duration", "end"].contains(&field.as_str());
                let same = with(name, &field, json!(bound));
                assert!(is_empty || same.is_ok(), "{name} {field} {bound}: {same:?}");
                assert!(!takes(json!(bound + step)), "{name} {field} {bound}");
            }
            if let Some(most) = schema["maxLength"].as_u64() {
                assert!(takes(json!("x".repeat(most as usize))), "{name} {field}");
                assert!(
                    !takes(json!("x".repeat(most as usize + 1))),
                    "{name} {field}"
                );
            }
            if let Some(words) = schema["enum"].as_array() {
                for word in words.iter().filter(|word| !word.is_null()) {
                    let read = with(name, &field, word.clone());
                    assert!(read.is_ok(), "{name} {field} {word}: {read:?}");
                }
                assert!(!takes(json!("a word that nobody knows")), "{name} {field}");
            }
            if let Some(default) = schema.get("x-default") {
                let params = object(enough(name));
                let without = MediaOperation::read(name, FILE, &params);
                assert_eq!(
                    with(name, &field, default.clone()),
                    without,
                    "{name} {field}"
                );
            }
        }
    }
}

#[test]
fn other_operations_are_documented_as_they_read() {
    let page = Input {
        file_id: None,
        url: Some("https://example.com/a"),
    };
    let read = |params| MediaOperation::read("download_video", page, &object(params));
    let schema = &documented("download_video")["max_height"];
    assert_eq!(
        read(json!({"max_height": schema["x-default"]})),
        read(json!({}))
    );
    assert!(read(json!({"max_height": schema["maximum"]})).is_ok());
    assert!(read(json!({"max_height": 8193})).is_err());
    for name in ["ytdlp_info", "onboarding_import"] {
        assert_eq!(documented(name), Map::new());
    }
    assert_eq!(params_schema("publish_post"), None);
}
