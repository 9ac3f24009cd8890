//! Operations on several files: films one after the other, teasers, marks.

use std::path::PathBuf;

use serde_json::json;

use crate::studio::{BLUE, Frames, HALVES, RED, TONE, ffmpeg, film, media, perform};

const H264: &str = "-c:v libx264 -pix_fmt yuv420p -crf 10";

/// How loud a part of a film is at most, in decibels.
fn loudness(path: &std::path::Path, from: &str, seconds: &str) -> f64 {
    let path = path.to_str().unwrap();
    let measure =
        "astats=metadata=1:reset=0,ametadata=print:key=lavfi.astats.Overall.Peak_level:file=-";
    let told = ffmpeg(
        "-ss",
        &[
            from,
            "-t",
            seconds,
            "-i",
            path,
            "-map",
            "0:a",
            "-af",
            measure,
            "-f",
            "null",
            "/dev/null",
        ],
    );
    let told = String::from_utf8(told).unwrap();
    let last = told
        .lines()
        .filter_map(|line| line.split_once("Peak_level="))
        .next_back();
    match last.unwrap().1 {
        "-inf" => f64::NEG_INFINITY,
        level => level.parse().unwrap(),
    }
}

#[tokio::test]
async fn films_are_joined_in_order_and_fitted_to_the_first() {
    let silent = media("silent-wide.mp4", &["color=blue:s=96x48:r=10:d=1"], H264);
    let high = media(
        "high.webm",
        &["color=red:s=48x96:r=30:d=1", TONE],
        "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libopus -shortest",
    );
    let made = perform(
        "join_videos",
        json!({"inputs": ["a", "b", "c"]}),
        &[&film(), &silent, &high],
    )
    .await;
    made.check_film("h264", (64, 48));
    made.check_length(3.0);
    assert_eq!(made.stream("video")["avg_frame_rate"], "25/1");
    let frames = Frames::of(made.path(), (64, 48));
    assert!((74..=76).contains(&frames.count()), "{}", frames.count());
    let is = |frame, place, wanted: [u8; 3]| {
        let found = frames.pixel(frame, place);
        assert!(
            found
                .iter()
                .zip(wanted)
                .all(|(found, wanted)| found.abs_diff(wanted) < 25),
            "{found:?} at {place:?} of frame {frame}"
        );
    };
    is(35, (32, 24), BLUE);
    is(35, (32, 2), [0, 0, 0]);
    is(60, (32, 24), RED);
    is(60, (4, 24), [0, 0, 0]);
    assert!(loudness(made.path(), "0.2", "0.6") > -30.0);
    assert!(loudness(made.path(), "1.2", "0.6") < -60.0);
    assert!(loudness(made.path(), "2.2", "0.6") > -30.0);
}

#[tokio::test]
async fn silent_films_are_joined_without_sound() {
    let silent = media("halves.mp4", &[HALVES], H264);
    let params = json!({"inputs": ["a", "b"]});
    let made = perform("join_videos", params, &[&silent, &silent]).await;
    made.check_film("h264", (64, 48));
    made.check_length(2.0);
    assert_eq!(made.stream("audio"), json!(null));
}

fn long() -> PathBuf {
    let source = "testsrc=size=64x96:rate=25:duration=4";
    let tone = "sine=frequency=440:sample_rate=48000:duration=4";
    media(
        "long.mp4",
        &[source, tone],
        "-c:v libx264 -pix_fmt yuv420p -c:a aac",
    )
}

#[tokio::test]
async fn a_teaser_has_its_length_and_height() {
    let params = json!({"duration": 1.5, "clips": 3, "max_height": 48});
    let made = perform("create_teaser", params, &[&long()]).await;
    made.check_film("h264", (32, 48));
    made.check_length(1.5);
    assert_eq!(made.stream("audio")["codec_name"], "aac");
    assert!(loudness(made.path(), "0.1", "1.3") > -30.0);
}

#[tokio::test]
async fn a_short_film_is_its_own_teaser() {
    let made = perform("create_teaser", json!({}), &[&film()]).await;
    made.check_film("h264", (64, 48));
    made.check_length(1.0);
}

/// A white picture, half of it transparent.
fn logo() -> PathBuf {
    let source = "color=white:s=20x10:d=1,format=rgba,geq=r=255:g=255:b=255:a='if(lt(X,10),255,0)'";
    media("logo.png", &[source], "-frames:v 1")
}

#[tokio::test]
async fn a_teaser_carries_the_mark() {
    let dark = media("dark.mp4", &["color=black:s=200x100:r=25:d=2"], H264);
    let params = json!({"duration": 1, "clips": 2, "watermark_file_id": "logo"});
    let made = perform("create_teaser", params, &[&dark, &logo()]).await;
    made.check_film("h264", (200, 100));
    made.check_length(1.0);
    let frames = Frames::of(made.path(), (200, 100));
    // 30 x 15 pixels, 20 from the right and the bottom; seven tenths of white on the left half of it.
    frames.check((156, 72), [178, 178, 178], 16);
    frames.check((174, 72), [0, 0, 0], 10);
    frames.check((20, 20), [0, 0, 0], 10);
}

#[tokio::test]
async fn a_mark_lies_where_it_is_asked_for() {
    let dark = media("dark.png", &["color=black:s=200x100:d=1"], "-frames:v 1");
    for (position, inside) in [
        ("tl", (24, 24)),
        ("tr", (156, 24)),
        ("bl", (24, 72)),
        ("br", (156, 72)),
        ("center", (90, 50)),
    ] {
        let params = json!({"watermark_file_id": "logo", "position": position, "opacity": 100});
        let made = perform("apply_watermark", params, &[&dark, &logo()]).await;
        assert_eq!((made.size(), made.output().mime), ((200, 100), "image/png"));
        let frames = Frames::of(made.path(), (200, 100));
        frames.check(inside, [255, 255, 255], 3);
        frames.check((inside.0 + 20, inside.1), [0, 0, 0], 3);
    }
    let params = json!({"watermark_file_id": "logo", "margin": 0, "opacity": 50, "format": "jpeg"});
    let made = perform("apply_watermark", params, &[&dark, &logo()]).await;
    assert_eq!(made.output().mime, "image/jpeg");
    let frames = Frames::of(made.path(), (200, 100));
    frames.check((176, 92), [128, 128, 128], 6);
}

#[tokio::test]
async fn a_mark_on_a_film_stays_to_its_end() {
    let bright = media(
        "film-200.mp4",
        &["color=blue:s=200x100:r=25:d=1", TONE],
        &format!("{H264} -c:a aac"),
    );
    let params =
        json!({"watermark_file_id": "logo", "position": "tl", "opacity": 100, "format": "webm"});
    let made = perform("apply_watermark", params, &[&bright, &logo()]).await;
    made.check_film("vp9", (200, 100));
    made.check_length(1.0);
    assert_eq!(made.stream("audio")["codec_name"], "opus");
    let frames = Frames::of(made.path(), (200, 100));
    for frame in [0, frames.count() - 1] {
        let found = frames.pixel(frame, (28, 26));
        assert!(
            found.iter().all(|part| *part > 230),
            "{found:?} in frame {frame}"
        );
    }
    frames.check((120, 60), BLUE, 25);
}

#[tokio::test]
async fn a_mark_that_is_no_picture_is_refused() {
    let params = json!({"watermark_file_id": "film"});
    let failure = crate::studio::failure("apply_watermark", params, &[&film(), &film()]).await;
    assert_eq!(failure.code, "no_picture");
    assert!(failure.sentence.starts_with("The watermark"), "{failure}");
    let made = perform(
        "apply_watermark",
        json!({"watermark_file_id": "film"}),
        &[&film(), &logo()],
    )
    .await;
    made.check_film("h264", (64, 48));
}
