//! What is taken out of files, and what stays byte for byte.

use std::{fs, path::PathBuf};

use serde_json::json;

use crate::studio::{
    HALVES, OF_A_CAMERA, PATTERN, TONE, ffmpeg, media, perform, remade, stream_hash, tags, told,
};

/// All pixels of a picture.
fn pixels(path: &std::path::Path) -> Vec<u8> {
    let options = ["-f", "rawvideo", "-pix_fmt", "rgba64le", "-"];
    ffmpeg(
        "-noautorotate -i",
        &[&[path.to_str().unwrap()], &options[..]].concat(),
    )
}

#[tokio::test]
async fn a_stripped_picture_has_the_same_pixels_and_tells_nothing() {
    let source = media("halves.png", &[HALVES], "-frames:v 1 -pix_fmt rgb24");
    for (name, options) in [
        ("strip.jpg", "-pix_fmt yuvj420p"),
        ("strip.png", "-pix_fmt rgba"),
        ("strip.webp", "-c:v libwebp"),
        ("strip.gif", ""),
        ("strip.tif", "-pix_fmt rgb24"),
    ] {
        let plain = remade(name, &source, options);
        let is_gif = name.ends_with("gif");
        let written = if is_gif {
            &["-Comment=canary-comment", "-XMP:Creator=canary-creator"][..]
        } else {
            &OF_A_CAMERA[..]
        };
        let with = told(&format!("told-{name}"), &plain, written);
        let found = fs::read(&with).unwrap();
        assert!(
            found.windows(6).any(|word| word == b"canary"),
            "{name} tells nothing"
        );
        let made = perform("strip_metadata", json!({}), &[&with]).await;
        made.check_tags();
        assert_eq!(pixels(made.path()), pixels(&with), "{name}");
        assert!(name.ends_with("tif") || made.bytes().len() < found.len());
    }
}

#[tokio::test]
async fn a_stripped_picture_is_still_turned() {
    let source = media("halves.png", &[HALVES], "-frames:v 1 -pix_fmt rgb24");
    for (name, options) in [
        ("sideways.jpg", "-pix_fmt yuvj420p"),
        ("sideways.png", ""),
        ("sideways.webp", "-c:v libwebp"),
    ] {
        let plain = remade(name, &source, options);
        let turned = [&OF_A_CAMERA[..], &["-n", "-EXIF:Orientation=6"]].concat();
        let with = told(&format!("told-{name}"), &plain, &turned);
        let made = perform("strip_metadata", json!({}), &[&with]).await;
        made.check_silent();
        assert_eq!(made.size(), (48, 64), "{name}");
        assert_eq!(tags(made.path())["IFD0:Orientation"], 6, "{name}");
    }
}

#[tokio::test]
async fn what_follows_a_photo_in_its_file_is_gone() {
    let photo = media("halves.jpg", &[HALVES], "-frames:v 1");
    let moving = crate::studio::made("moving-photo.jpg", |path| {
        let film = fs::read(told_film("moving.mp4", "-c:v copy -c:a copy -c:s mov_text")).unwrap();
        fs::write(path, [fs::read(&photo).unwrap(), film].concat()).unwrap();
    });
    let made = perform("strip_metadata", json!({}), &[&moving]).await;
    made.check_silent();
    assert!(made.bytes().ends_with(b"\xff\xd9"));
    assert!(made.bytes().len() <= fs::read(photo).unwrap().len());
}

/// A film with names, a place, a time, chapters and subtitles.
fn told_film(name: &str, options: &str) -> PathBuf {
    let film = media(
        "film.mp4",
        &[PATTERN, TONE],
        "-c:v libx264 -pix_fmt yuv420p -c:a aac -shortest",
    );
    let notes = crate::studio::made("notes.txt", |path| {
        let text = ";FFMETADATA1\ntitle=canary-title\nartist=canary-artist\ncomment=canary-comment\n\
                    location=+51.5-000.1/\ncreation_time=2026-01-02T03:04:05Z\nmake=canary-camera\n\
                    [CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=500\ntitle=canary-chapter\n";
        fs::write(path, text).unwrap();
    });
    let words = crate::studio::made("words.srt", |path| {
        fs::write(path, "1\n00:00:00,000 --> 00:00:01,000\ncanary-words\n").unwrap();
    });
    let options = format!(
        "-i {} -i {} -map 0:v -map 0:a -map 2 -map_metadata 1 -map_chapters 1 \
         -metadata:s:v title=canary-pictures -metadata:s:a title=canary-sound {options}",
        notes.display(),
        words.display()
    );
    remade(name, &film, &options)
}

#[tokio::test]
async fn a_stripped_film_has_the_same_streams_and_tells_nothing() {
    for (name, options) in [
        ("told.mp4", "-c:v copy -c:a copy -c:s mov_text"),
        (
            "told.mov",
            "-c:v copy -c:a copy -c:s mov_text -movflags use_metadata_tags",
        ),
        ("told.mkv", "-c:v copy -c:a copy -c:s srt"),
        (
            "told.webm",
            "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libopus -c:s webvtt",
        ),
        ("told.avi", "-map -0:s -map -2 -c:v copy -c:a copy"),
    ] {
        let with = told_film(name, options);
        let made = perform("strip_metadata", json!({}), &[&with]).await;
        made.check_tags();
        assert_eq!(stream_hash(made.path()), stream_hash(&with), "{name}");
        assert_eq!(made.stream("subtitle"), json!(null), "{name}");
        made.check_length(1.0);
        if name.ends_with("mp4") || name.ends_with("mov") {
            made.check_film("h264", (64, 48));
        }
    }
}

#[tokio::test]
async fn a_stripped_film_is_still_turned() {
    let film = told_film("told.mp4", "-c:v copy -c:a copy -c:s mov_text");
    let turned = remade(
        "told-turned.mp4",
        &film,
        "-c copy -map_metadata 0 -metadata:s:v rotate=90",
    );
    let made = perform("strip_metadata", json!({}), &[&turned]).await;
    made.check_silent();
    assert_eq!(made.size(), (48, 64));
    assert_eq!(
        made.stream("video")["side_data_list"][0]["rotation"]
            .as_i64()
            .map(i64::abs),
        Some(90)
    );
    assert_eq!(stream_hash(made.path()), stream_hash(&turned));
}

#[tokio::test]
async fn sound_alone_is_stripped_too() {
    for (name, options) in [
        ("song.mp3", "-c:a libmp3lame"),
        ("song.m4a", "-c:a aac"),
        ("song.flac", "-c:a flac"),
        ("song.ogg", "-c:a libopus"),
        ("song.wav", ""),
    ] {
        let options =
            format!("{options} -metadata title=canary-title -metadata artist=canary-artist");
        let song = media(name, &[TONE], &options);
        let made = perform("strip_metadata", json!({}), &[&song]).await;
        made.check_silent();
        assert_eq!(stream_hash(made.path()), stream_hash(&song), "{name}");
        made.check_length(1.0);
    }
}

#[tokio::test]
async fn a_film_that_is_worked_on_tells_nothing_of_people_and_places() {
    let told = told_film("told.mp4", "-c:v copy -c:a copy -c:s mov_text");
    let inputs: &[&std::path::Path] = &[&told, &told];
    for (operation, params) in [
        ("transcoding", json!({"format": "mov"})),
        ("resize_video", json!({"width": 32})),
        ("trim_videos", json!({"end": 0.5})),
        ("create_teaser", json!({"duration": 0.5, "clips": 2})),
        ("join_videos", json!({"inputs": ["a", "b"]})),
        ("compress_video", json!({})),
        ("thumbnail", json!({})),
    ] {
        let count = if operation == "join_videos" { 2 } else { 1 };
        let made = perform(operation, params, &inputs[..count]).await;
        made.check_silent();
        let others = crate::studio::probed(made.path());
        let others = others["streams"].as_array().unwrap().iter();
        let kinds: Vec<_> = others.map(|stream| &stream["codec_type"]).collect();
        assert!(
            kinds
                .iter()
                .all(|kind| ["video", "audio"].contains(&kind.as_str().unwrap()))
        );
    }
}

#[tokio::test]
async fn names_and_places_stay_when_they_are_to_be_kept() {
    let told = told_film("told.mp4", "-c:v copy -c:a copy -c:s mov_text");
    let params = json!({"width": 32, "keep_metadata": true});
    let made = perform("resize_video", params, &[&told]).await;
    let tags = crate::studio::probed(made.path())["format"]["tags"].clone();
    assert_eq!(tags["title"], "canary-title");
    assert_eq!(tags["location"], "+51.5000-000.1000/");
}
