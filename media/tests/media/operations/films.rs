//! Operations on one film.

use std::{fs, path::PathBuf};

use serde_json::json;

use crate::studio::{
    BLUE, Frames, HALVES, PATTERN, Performed, RED, STEPS, TONE, film, media, perform, remade,
};

/// Even sizes of a film are pixels of whole colours.
const H264: &str = "-c:v libx264 -pix_fmt yuv420p -crf 10";

fn halves() -> PathBuf {
    media("halves.mp4", &[HALVES], H264)
}

/// The halves, to be turned by a quarter to the right before they are seen.
fn turned() -> PathBuf {
    remade("turned.mp4", &halves(), "-c copy -metadata:s:v rotate=270")
}

fn hdr() -> PathBuf {
    let options = "-c:v libx265 -x265-params log-level=error -pix_fmt yuv420p10le \
                   -color_primaries bt2020 -color_trc smpte2084 -colorspace bt2020nc -tag:v hvc1";
    media("hdr.mp4", &[PATTERN], options)
}

#[tokio::test]
async fn a_film_becomes_another_kind() {
    for (format, codec, mime, name, video, audio) in [
        ("mp4", "h264", "video/mp4", "my input.mp4", "h264", "aac"),
        (
            "mov",
            "hevc",
            "video/quicktime",
            "my input.mov",
            "hevc",
            "aac",
        ),
        ("webm", "vp9", "video/webm", "my input.webm", "vp9", "opus"),
    ] {
        let params = json!({"format": format, "video_codec": codec, "max_height": 24, "fps": 10});
        let made = perform("transcoding", params, &[&film()]).await;
        made.check_film(video, (32, 24));
        made.check_length(1.0);
        assert_eq!(made.output().mime, mime);
        assert_eq!(made.output().name, name);
        assert_eq!(made.stream("audio")["codec_name"], audio);
        assert_eq!(made.stream("video")["avg_frame_rate"], "10/1");
        assert_eq!(made.outcome.result["width"], 32);
        assert!(made.progress.is_sorted(), "{:?}", made.progress);
        assert!(made.progress.last().is_some_and(|last| *last > 0.9));
    }
}

#[tokio::test]
async fn crf_decides_the_size_of_a_transcoded_film() {
    let params = |crf| json!({"crf": crf});
    let fine = perform("transcoding", params(10), &[&noisy()]).await;
    let coarse = perform("transcoding", params(45), &[&noisy()]).await;
    assert!(fine.bytes().len() > coarse.bytes().len() * 3 / 2);
}

#[tokio::test]
async fn a_turned_film_comes_out_as_it_is_seen() {
    let made = perform("transcoding", json!({}), &[&turned()]).await;
    made.check_film("h264", (48, 64));
    assert_eq!(made.stream("video")["side_data_list"], json!(null));
    let frames = Frames::of(made.path(), (48, 64));
    frames.check((24, 10), RED, 20);
    frames.check((24, 54), BLUE, 20);
    let part = json!({"width": 48, "height": 32, "y": 32});
    let cut = perform("crop_video", part, &[&turned()]).await;
    cut.check_film("h264", (48, 32));
    Frames::of(cut.path(), (48, 32)).check((24, 16), BLUE, 20);
}

#[tokio::test]
async fn pixels_become_square() {
    let options = format!("-vf setsar=2/1 {H264}");
    let wide = media("wide-pixels.mp4", &[HALVES], &options);
    let made = perform("trim_videos", json!({}), &[&wide]).await;
    made.check_film("h264", (128, 48));
    assert_eq!(made.stream("video")["sample_aspect_ratio"], "1:1");
}

#[tokio::test]
async fn odd_sizes_and_full_colours_become_even_and_playable() {
    let options = "-c:v libx264 -pix_fmt yuv444p";
    let odd = media(
        "odd.mkv",
        &["testsrc=size=63x47:rate=25:duration=1"],
        options,
    );
    let made = perform("transcoding", json!({}), &[&odd]).await;
    made.check_film("h264", (62, 46));
    let kept = perform("resize_video", json!({"width": 33}), &[&odd]).await;
    kept.check_film("h264", (34, 24));
    assert_eq!(kept.output().name, "my input.mkv");
    assert_eq!(kept.output().mime, "video/matroska");
    let tiny = perform("resize_video", json!({"width": 1}), &[&odd]).await;
    tiny.check_film("h264", (2, 2));
}

#[tokio::test]
async fn hdr_becomes_bt709_and_is_told_as_such() {
    let made = perform("resize_video", json!({"width": 32}), &[&hdr()]).await;
    made.check_film("h264", (32, 24));
    let stream = made.stream("video");
    for field in ["color_space", "color_primaries", "color_transfer"] {
        assert_eq!(stream[field], "bt709", "{field}");
    }
    let picture = perform("thumbnail", json!({"format": "png"}), &[&hdr()]).await;
    assert_eq!(picture.size(), (64, 48));
}

#[tokio::test]
async fn a_cover_is_not_the_film() {
    let cover = media("cover.png", &["color=lime:s=16x16:d=1"], "-frames:v 1");
    let film = film();
    let with_cover = remade(
        "covered.mp4",
        &film,
        &format!(
            "-i {} -map 1:v -map 0 -c copy -disposition:v:0 attached_pic",
            cover.display()
        ),
    );
    let made = perform("resize_video", json!({"width": 32}), &[&with_cover]).await;
    made.check_film("h264", (32, 24));
    made.check_length(1.0);
    let picture = perform("thumbnail", json!({}), &[&with_cover]).await;
    assert_eq!(picture.size(), (64, 48));
}

#[tokio::test]
async fn frames_keep_their_times() {
    // Two frames of each five are missing.
    let options = format!("-vf select='lt(mod(n\\,5)\\,3)' -fps_mode vfr {H264}");
    let uneven = media("uneven.mp4", &[PATTERN], &options);
    let made = perform("crop_video", json!({"width": 32, "height": 32}), &[&uneven]).await;
    made.check_film("h264", (32, 32));
    assert_eq!(Frames::of(made.path(), (32, 32)).count(), 15);
    let times = |path| crate::studio::frame_times(path);
    let (before, after) = (times(&uneven), times(made.path()));
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        assert!((before - after).abs() < 0.002, "{before} {after}");
    }
}

#[tokio::test]
async fn a_film_may_have_one_frame_and_no_sound() {
    let one = media("one.mp4", &[HALVES], &format!("-frames:v 1 {H264}"));
    let made = perform("resize_video", json!({"height": 24}), &[&one]).await;
    made.check_film("h264", (32, 24));
    assert_eq!(Frames::of(made.path(), (32, 24)).count(), 1);
    assert_eq!(made.stream("audio"), json!(null));
    let picture = perform("thumbnail", json!({"format": "png"}), &[&one]).await;
    Frames::of(picture.path(), (64, 48)).check((8, 24), RED, 20);
}

#[tokio::test]
async fn a_resized_film_fits_or_fills() {
    for (fit, size) in [("cover", (32, 32)), ("fill", (32, 32))] {
        let params = json!({"width": 32, "height": 32, "fit": fit});
        let made = perform("resize_video", params, &[&halves()]).await;
        made.check_film("h264", size);
        let frames = Frames::of(made.path(), size);
        frames.check((6, size.1 / 2), RED, 20);
        frames.check((26, size.1 / 2), BLUE, 20);
    }
    let same = perform("resize_video", json!({"width": 640}), &[&halves()]).await;
    assert_eq!(same.size(), (64, 48));
    let larger = json!({"width": 128, "upscale": true});
    assert_eq!(
        perform("resize_video", larger, &[&halves()]).await.size(),
        (128, 96)
    );
}

#[tokio::test]
async fn a_cropped_film_shows_the_part() {
    let params = json!({"width": 20, "height": 11, "x": 31, "y": 3});
    let made = perform("crop_video", params, &[&halves()]).await;
    made.check_film("h264", (20, 10));
    let frames = Frames::of(made.path(), (20, 10));
    frames.check((10, 5), BLUE, 20);
    // One column of red is left of the blue.
    assert!(
        frames.pixel(0, (0, 5))[0] > 80,
        "{:?}",
        frames.pixel(0, (0, 5))
    );
}

/// A film that compresses badly.
fn noisy() -> PathBuf {
    let source = "testsrc=size=128x96:rate=25:duration=1,noise=alls=40:allf=t";
    let options = "-c:v libx264 -pix_fmt yuv420p -crf 5 -c:a aac -shortest -metadata title=canary";
    media("noisy.mp4", &[source, TONE], options)
}

#[tokio::test]
async fn a_compressed_film_is_smaller_or_the_same() {
    let noisy = noisy();
    let before = fs::metadata(&noisy).unwrap().len();
    let made = perform("compress_video", json!({"max_height": 48}), &[&noisy]).await;
    made.check_film("h264", (64, 48));
    assert!((made.bytes().len() as u64) < before / 4);
    let target = before / 5;
    let made = perform("compress_video", json!({"target_bytes": target}), &[&noisy]).await;
    made.check_film("h264", (128, 96));
    made.check_length(1.0);
    let reached = made.bytes().len() as u64;
    assert!(
        reached <= target && reached > target / 3,
        "{reached} of {target}"
    );
    let least = json!({"target_bytes": 500});
    let failure = crate::studio::failure("compress_video", least, &[&noisy]).await;
    assert_eq!(failure.code, "target_too_small");
}

#[tokio::test]
async fn a_film_that_is_small_already_keeps_its_streams_but_no_names() {
    let options = "-c:v libx264 -pix_fmt yuv420p -crf 50 -c:a aac -b:a 16k -shortest \
                   -metadata title=canary -metadata location=+51.5-000.1/";
    let small = media("small.mp4", &[PATTERN, TONE], options);
    let made = perform("compress_video", json!({"crf": 0}), &[&small]).await;
    assert!(made.bytes().len() as u64 <= fs::metadata(&small).unwrap().len());
    assert!(made.outcome.result["kept"].is_string());
    let hashes = crate::studio::stream_hash;
    assert_eq!(hashes(made.path()), hashes(&small));
    made.check_silent();
}

fn steps() -> PathBuf {
    media(
        "steps.mp4",
        &[STEPS, TONE],
        "-c:v libx264 -g 50 -pix_fmt yuv420p -qp 1 -c:a aac",
    )
}

/// The number of the frame that is shown first.
fn first_step(made: &Performed) -> f64 {
    let [red, ..] = Frames::of(made.path(), (64, 48)).pixel(0, (20, 20));
    // The luminance of films reaches from 16 to 235.
    (f64::from(red) * 219.0 / 255.0 + 16.0 - 20.0) / 4.0
}

#[tokio::test]
async fn a_film_is_trimmed_to_the_frame() {
    let made = perform(
        "trim_videos",
        json!({"start": 0.4, "end": 1.2}),
        &[&steps()],
    )
    .await;
    made.check_film("h264", (64, 48));
    made.check_length(0.8);
    assert_eq!(Frames::of(made.path(), (64, 48)).count(), 20);
    assert!(
        (first_step(&made) - 10.0).abs() < 0.4,
        "{}",
        first_step(&made)
    );
    let params = json!({"start": "00:00:01.480", "duration": 5});
    let made = perform("trim_videos", params, &[&steps()]).await;
    assert_eq!(Frames::of(made.path(), (64, 48)).count(), 13);
    assert!(
        (first_step(&made) - 37.0).abs() < 0.4,
        "{}",
        first_step(&made)
    );
    let failure = crate::studio::failure("trim_videos", json!({"start": 3}), &[&steps()]).await;
    assert_eq!(failure.code, "outside_film");
}

#[tokio::test]
async fn a_thumbnail_is_the_frame_at_its_time() {
    let made = perform("thumbnail", json!({"at": 1.0, "width": 32}), &[&steps()]).await;
    assert_eq!((made.size(), made.output().mime), ((32, 24), "image/jpeg"));
    assert_eq!(made.output().name, "my input.jpg");
    let bright = |made: &Performed, size| Frames::of(made.path(), size).pixel(0, (10, 10))[0];
    // Frame 25 has a luminance of 120.
    let found = bright(&made, (32, 24));
    assert!(found.abs_diff(121) < 4, "{found}");
    let early = perform("thumbnail", json!({"format": "webp"}), &[&steps()]).await;
    assert_eq!(early.output().mime, "image/webp");
    // A tenth of two seconds is frame 5, of a luminance of 40.
    let found = bright(&early, (64, 48));
    assert!(found.abs_diff(28) < 5, "{found}");
    let last = perform("thumbnail", json!({"at": 2.0}), &[&steps()]).await;
    let found = bright(&last, (64, 48));
    assert!(found.abs_diff(234) < 6, "{found}");
    let failure = crate::studio::failure("thumbnail", json!({"at": 2.5}), &[&steps()]).await;
    assert_eq!(failure.code, "outside_film");
}

#[tokio::test]
async fn a_length_that_is_not_told_is_measured() {
    let live = media(
        "live.webm",
        &[PATTERN, TONE],
        "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libopus -shortest -f webm -live 1",
    );
    assert_eq!(
        crate::studio::probed(&live)["format"]["duration"],
        json!(null)
    );
    let made = perform("resize_video", json!({"width": 32}), &[&live]).await;
    made.check_film("vp9", (32, 24));
    made.check_length(1.0);
    let stripped = perform("strip_metadata", json!({}), &[&live]).await;
    stripped.check_length(1.0);
}

#[tokio::test]
async fn a_gif_stays_a_moving_gif() {
    let gif = media("moving.gif", &["testsrc=size=64x48:rate=10:duration=1"], "");
    let made = perform("resize_video", json!({"width": 32}), &[&gif]).await;
    assert_eq!((made.size(), made.output().mime), ((32, 24), "image/gif"));
    assert_eq!(Frames::of(made.path(), (32, 24)).count(), 10);
    let film = perform("transcoding", json!({}), &[&gif]).await;
    film.check_film("h264", (64, 48));
    film.check_length(1.0);
}

#[tokio::test]
async fn sound_that_can_be_decoded_is_taken() {
    let broken = |name: &str, options: &str| {
        crate::studio::made(name, |path| {
            let source = remade(&format!("{name}.mp4"), &film(), options);
            let mut bytes = fs::read(source).unwrap();
            // The first track of sound has a codec that nobody knows.
            for name in [b"mp4a", b"esds"] {
                let at = bytes.windows(4).position(|four| four == name).unwrap();
                bytes[at..at + 4].copy_from_slice(b"zzzz");
            }
            fs::write(path, bytes).unwrap();
        })
    };
    let two = broken("two-sounds", "-map 0:v -map 0:a -map 0:a -c copy");
    let made = perform("resize_video", json!({"width": 32}), &[&two]).await;
    assert_eq!(made.stream("audio")["codec_name"], "aac");
    assert_eq!(made.outcome.result.get("sound"), None);
    let none = broken("no-sound", "-c copy");
    let made = perform("resize_video", json!({"width": 32}), &[&none]).await;
    made.check_film("h264", (32, 24));
    assert_eq!(made.stream("audio"), json!(null));
    assert!(made.outcome.result["sound"].is_string());
}

#[tokio::test]
async fn films_of_old_kinds_are_read_whole() {
    let h264 = "-c:v libx264 -pix_fmt yuv420p -crf 10 -bf 0 -c:a aac -shortest";
    for (name, options, mime) in [
        ("old.ts", h264, "video/mp2t"),
        (
            "old.m2ts",
            &format!("{h264} -f mpegts -mpegts_m2ts_mode 1"),
            "video/mp2t",
        ),
        ("old.3gp", &format!("{h264} -ac 1"), "video/3gpp"),
        ("old.flv", h264, "video/x-flv"),
        (
            "old.avi",
            "-c:v mpeg4 -q:v 2 -c:a libmp3lame -shortest",
            "video/x-msvideo",
        ),
        (
            "old.mpg",
            "-c:v mpeg2video -q:v 2 -c:a mp2 -shortest",
            "video/mp4",
        ),
        (
            "old.wmv",
            "-c:v wmv2 -q:v 2 -c:a wmav2 -shortest",
            "video/mp4",
        ),
    ] {
        let old = media(name, &[HALVES, TONE], options);
        for (operation, params, size, mime) in [
            ("transcoding", json!({}), (64, 48), "video/mp4"),
            ("resize_video", json!({"width": 32}), (32, 24), mime),
        ] {
            let made = perform(operation, params, &[&old]).await;
            made.check_film("h264", size);
            assert_eq!(made.output().mime, mime, "{name}");
            let length = made.output().duration.expect("a film has a length");
            // Sound comes in frames, of MP3 with some silence around it.
            assert!((length - 1.0).abs() < 0.2, "{name}: {length} s");
            let frames = Frames::of(made.path(), size);
            let count = frames.count();
            assert!((24..=26).contains(&count), "{name}: {count} frames");
            frames.check((size.0 / 8, size.1 / 2), RED, 24);
            frames.check((size.0 * 7 / 8, size.1 / 2), BLUE, 24);
            assert!(made.stream("audio")["codec_name"].is_string(), "{name}");
        }
        let stripped = perform("strip_metadata", json!({}), &[&old]).await;
        assert_eq!(stripped.size(), (64, 48), "{name}");
    }
}
