//! Files that are not what they should be.

use std::{fs, path::PathBuf};

use serde_json::json;

use crate::studio::{HALVES, PATTERN, failure, film, made, media, perform, perform_named, remade};

fn text(name: &str, content: &[u8]) -> PathBuf {
    made(name, |path| fs::write(path, content).unwrap())
}

#[tokio::test]
async fn what_names_other_files_is_refused_by_its_name() {
    let secret = text("secret.txt", b"secret");
    let secret = secret.display();
    for (name, content, what) in [
        (
            "list.m3u8",
            format!("#EXTM3U\n#EXTINF:1,\nfile://{secret}\n"),
            "a playlist",
        ),
        (
            "list.ffconcat",
            format!("ffconcat version 1.0\nfile {secret}\n"),
            "a playlist",
        ),
        (
            "list.mpd",
            format!("<?xml version=\"1.0\"?><MPD><BaseURL>{secret}</BaseURL></MPD>"),
            "a playlist",
        ),
        (
            "a.svg",
            format!("<svg><image href=\"{secret}\"/></svg>"),
            "an SVG",
        ),
        (
            "a.srt",
            "1\n00:00:00,000 --> 00:00:01,000\nHi\n".into(),
            "subtitles",
        ),
        ("text.mp4", format!("file '{secret}'\n"), "a text"),
        (
            "page.html",
            "<!doctype html><video src=a.mp4>".into(),
            "a web page",
        ),
        ("empty.mp4", String::new(), "empty"),
    ] {
        let source = text(name, content.as_bytes());
        for operation in ["transcoding", "thumbnail", "strip_metadata"] {
            let failure = failure(operation, json!({}), &[&source]).await;
            assert_eq!(failure.code, "unsupported_kind", "{name}");
            assert_eq!(
                failure.sentence,
                format!("The file is {what}; it is not read")
            );
            assert!(!failure.retryable);
        }
    }
}

#[tokio::test]
async fn a_file_that_is_cut_off_is_refused() {
    let cut = |name: &str, from: PathBuf, part: usize| {
        let bytes = fs::read(from).unwrap();
        text(name, &bytes[..bytes.len() * part / 10])
    };
    let behind = cut("no-index.mp4", film(), 8);
    let front = remade(
        "index-in-front.mp4",
        &film(),
        "-c copy -movflags +faststart",
    );
    let front = cut("no-end.mp4", front, 7);
    let webm = media(
        "cut.webm",
        &[PATTERN],
        "-c:v libvpx-vp9 -deadline realtime -cpu-used 8",
    );
    let webm = cut("no-end.webm", webm, 7);
    for film in [behind, front, webm] {
        for operation in [
            "transcoding",
            "thumbnail",
            "strip_metadata",
            "compress_video",
        ] {
            let failure = failure(operation, json!({}), &[&film]).await;
            assert_eq!(failure.code, "damaged", "{operation}");
        }
    }
    let source = media("halves.png", &[HALVES], "-frames:v 1 -pix_fmt rgb24");
    for (name, options) in [
        ("cut.jpg", "-pix_fmt yuvj420p"),
        ("cut.png", ""),
        ("cut.webp", "-c:v libwebp"),
        ("cut.gif", ""),
    ] {
        let whole = remade(&format!("whole-{name}"), &source, options);
        let picture = cut(name, whole, 8);
        for (operation, params) in [
            ("resize_image", json!({"width": 10})),
            ("strip_metadata", json!({})),
        ] {
            let failure = failure(operation, params, &[&picture]).await;
            assert_eq!(failure.code, "damaged", "{name}");
        }
    }
}

#[tokio::test]
async fn noise_behind_a_good_beginning_is_refused() {
    let noise: Vec<u8> = (0..5000u32).map(|byte| (byte * 31 % 251) as u8).collect();
    for (name, head) in [
        ("bad-noise.jpg", &b"\xff\xd8\xff\xe0"[..]),
        ("bad-noise.png", b"\x89PNG\r\n\x1a\n"),
        ("bad-noise.mp4", b"\0\0\0\x10ftypisom\0\0\0\0"),
        ("bad-noise.webm", b"\x1a\x45\xdf\xa3\x84\x42\x82\x81w"),
        ("bad-noise.gif", b"GIF89a"),
    ] {
        let source = text(name, &[head, &noise[..]].concat());
        let failure = failure("thumbnail", json!({}), &[&source]).await;
        assert!(
            ["damaged", "no_film"].contains(&failure.code),
            "{name}: {failure}"
        );
    }
}

#[tokio::test]
async fn a_huge_picture_is_refused_by_its_head() {
    let source = media("halves.png", &[HALVES], "-frames:v 1 -pix_fmt rgb24");
    let huge = made("huge.png", |path| {
        let mut bytes = fs::read(source).unwrap();
        bytes[16..20].copy_from_slice(&20_000u32.to_be_bytes());
        bytes[20..24].copy_from_slice(&20_000u32.to_be_bytes());
        fs::write(path, bytes).unwrap();
    });
    let failure = failure("resize_image", json!({"width": 10}), &[&huge]).await;
    assert_eq!(failure.code, "too_many_pixels");
    assert!(failure.sentence.contains("20000 x 20000"), "{failure}");
}

#[tokio::test]
async fn an_animated_webp_is_refused_by_that_name() {
    let moving = media("moving.webp", &[PATTERN], "-c:v libwebp_anim -loop 0");
    for (operation, params) in [
        ("resize_image", json!({"width": 10})),
        ("convert_image", json!({"format": "png"})),
        ("thumbnail", json!({})),
    ] {
        let failure = failure(operation, params, &[&moving]).await;
        assert_eq!(failure.code, "unsupported_kind");
        assert!(failure.sentence.contains("an animated WebP"), "{failure}");
    }
}

#[tokio::test]
async fn a_part_outside_of_the_picture_is_refused_with_both_sizes() {
    let picture = media("halves.png", &[HALVES], "-frames:v 1 -pix_fmt rgb24");
    let part = json!({"width": 60, "height": 40, "x": 10});
    for (operation, source) in [("crop_image", picture), ("crop_video", film())] {
        let failure = failure(operation, part.clone(), &[&source]).await;
        assert_eq!(failure.code, "outside_picture");
        assert!(failure.sentence.contains("60 x 40"), "{failure}");
        assert!(failure.sentence.contains("64 x 48"), "{failure}");
    }
}

#[tokio::test]
async fn an_operation_on_films_takes_no_picture_and_the_other_way_round() {
    let picture = media("halves.png", &[HALVES], "-frames:v 1 -pix_fmt rgb24");
    let song = media("alone.m4a", &[crate::studio::TONE], "-c:a aac");
    for operation in [
        "transcoding",
        "compress_video",
        "trim_videos",
        "create_teaser",
    ] {
        for source in [&picture, &song] {
            let failure = failure(operation, json!({}), &[source]).await;
            assert_eq!(failure.code, "no_film", "{operation}");
        }
    }
    let failure = failure("convert_image", json!({"format": "png"}), &[&film()]).await;
    assert_eq!(failure.code, "no_picture");
}

#[tokio::test]
async fn a_name_is_only_a_name() {
    let film = film();
    for (name, renamed) in [
        ("100% a:b?c %03d.mp4", "100% a:b?c %03d.jpg"),
        ("-i.mov", "-i.jpg"),
        ("../../etc/concat:a|b", "concat:a|b.jpg"),
    ] {
        let made = perform_named("thumbnail", json!({}), &[(&film, name)]).await;
        assert_eq!(made.unwrap().output().name, renamed);
    }
    // The same on the disk.
    let odd = made("50% 1:2 %d.mp4", |path| {
        fs::copy(&film, path).unwrap();
    });
    assert_eq!(
        perform("thumbnail", json!({}), &[&odd]).await.size(),
        (64, 48)
    );
}

#[tokio::test]
async fn an_avif_with_transparency_or_motion_is_refused_by_that_name() {
    let source = media("halves.png", &[HALVES], "-frames:v 1 -pix_fmt rgb24");
    let made = perform("convert_image", json!({"format": "avif"}), &[&source]).await;
    let plain = made.bytes();
    // A picture of the transparency belongs to the other as an auxiliary one (ISO/IEC 23008-12, 6.4.5).
    let reference = b"\0\0\0\x1airef\0\0\0\0\0\0\0\x0eauxl\0\x02\0\x01\0\x01";
    let at = plain.windows(4).position(|four| four == b"meta").unwrap() - 4;
    let length = u32::from_be_bytes(plain[at..at + 4].try_into().unwrap());
    let end = at + length as usize;
    let longer = (length + reference.len() as u32).to_be_bytes();
    let transparent = [
        &plain[..at],
        &longer,
        &plain[at + 4..end],
        reference,
        &plain[end..],
    ];
    let transparent = text("transparent.avif", &transparent.concat());
    let mut moving = plain.clone();
    moving[8..12].copy_from_slice(b"avis");
    let moving = text("moving.avif", &moving);
    for (picture, what) in [
        (&transparent, "an AVIF with transparency"),
        (&moving, "an animated AVIF"),
    ] {
        for (operation, params) in [
            ("resize_image", json!({"width": 10})),
            ("convert_image", json!({"format": "png"})),
            ("strip_metadata", json!({})),
        ] {
            let failure = failure(operation, params, &[picture]).await;
            assert_eq!(failure.code, "unsupported_kind", "{operation}");
            assert!(failure.sentence.contains(what), "{operation}: {failure}");
        }
    }
}
