//! Marks that eyes do not see.

use std::path::{Path, PathBuf};

use genie_marks::MarkKey;
use genie_media::{
    ffmpeg::{InputFile, JobFolder, Workbench},
    operations::{FoundMark, MarkOrder, MediaOutcome, mark_invisibly, read_mark},
    sandbox::{ToolLimits, launch_with},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::studio::{TONE, check_result, ffmpeg, media, probed, programs, remade};

const NUMBER: u32 = 0x1234_abcd;

fn key() -> MarkKey {
    MarkKey::new(&[7; 32])
}

fn order(key: &MarkKey) -> MarkOrder<'_> {
    MarkOrder {
        key,
        number: NUMBER,
    }
}

fn job(folder: &TempDir, input: &Path) -> JobFolder {
    launch_with(Path::new(env!("CARGO_BIN_EXE_sandbox-exec")));
    JobFolder {
        folder: folder.path().to_owned(),
        inputs: vec![InputFile {
            path: input.to_owned(),
            name: "my input.bin".into(),
        }],
    }
}

async fn marked(folder: &TempDir, input: &Path) -> MediaOutcome {
    let bench = Workbench {
        programs: &programs(),
        job: &job(folder, input),
        progress: &mut |_| {},
        cancel: CancellationToken::new(),
        limits: ToolLimits::default(),
    };
    let outcome = mark_invisibly(bench, &order(&key()), false).await.unwrap();
    check_result("apply_steganographic_watermark", &outcome.result);
    outcome
}

async fn read(input: &Path, key: u8) -> Option<FoundMark> {
    let folder = TempDir::new().unwrap();
    let bench = Workbench {
        programs: &programs(),
        job: &job(&folder, input),
        progress: &mut |_| {},
        cancel: CancellationToken::new(),
        limits: ToolLimits::default(),
    };
    let key = MarkKey::new(&[key; 32]);
    read_mark(bench, &key).await.unwrap()
}

/// A picture with texture.
fn textured(name: &str, options: &str) -> PathBuf {
    let source = "testsrc2=s=320x256:r=10:d=1,noise=alls=12:allf=t";
    media(name, &[source, TONE], options)
}

#[tokio::test]
async fn a_marked_picture_gives_its_number_after_it_was_compressed_and_made_smaller() {
    let plain = textured("plain-to-mark.png", "-map 0:v -frames:v 1 -pix_fmt rgb24");
    assert_eq!(read(&plain, 7).await, None);
    let folder = TempDir::new().unwrap();
    let outcome = marked(&folder, &plain).await;
    let output = &outcome.outputs[0];
    assert_eq!(outcome.result["mark"], NUMBER);
    assert_eq!(
        (output.width, output.height, output.mime),
        (Some(320), Some(256), "image/png")
    );
    assert_eq!(read(&output.path, 7).await.unwrap().number, NUMBER);
    assert_eq!(read(&output.path, 8).await, None);
    let smaller = remade(
        "marked-smaller.jpg",
        &output.path,
        "-vf scale=240:192 -q:v 4",
    );
    assert_eq!(read(&smaller, 7).await.unwrap().number, NUMBER);
}

#[tokio::test]
async fn a_marked_film_gives_its_number() {
    let options = "-c:v libx264 -pix_fmt yuv420p -c:a aac -shortest";
    let plain = textured("plain-to-mark.mp4", options);
    let folder = TempDir::new().unwrap();
    let outcome = marked(&folder, &plain).await;
    let output = &outcome.outputs[0];
    assert_eq!(
        (output.width, output.height, output.mime),
        (Some(320), Some(256), "video/mp4")
    );
    assert!((output.duration.unwrap() - 1.0).abs() < 0.06);
    let streams = probed(&output.path)["streams"].clone();
    assert_eq!(streams[1]["codec_name"], "aac");
    assert_eq!(streams[0]["avg_frame_rate"], "10/1");
    assert_eq!(read(&output.path, 7).await.unwrap().number, NUMBER);
    assert_eq!(read(&output.path, 8).await, None);
    // Alike to the eye.
    let paths = [plain.to_str().unwrap(), "-i", output.path.to_str().unwrap()];
    let compare = ["-lavfi", "psnr=stats_file=-", "-f", "null", "/dev/null"];
    let told = String::from_utf8(ffmpeg("-i", &[&paths[..], &compare[..]].concat())).unwrap();
    let first = told.split("psnr_y:").nth(1).unwrap();
    let decibels: f64 = first.split_whitespace().next().unwrap().parse().unwrap();
    assert!(decibels > 34.0, "{decibels}");
}

#[tokio::test]
async fn a_long_film_is_read_by_its_key_frames() {
    let source = "testsrc2=s=320x256:r=2:d=62,noise=alls=12:allf=t";
    let options = "-c:v libx264 -g 20 -pix_fmt yuv420p";
    let plain = media("long-to-mark.mp4", &[source], options);
    let folder = TempDir::new().unwrap();
    let outcome = marked(&folder, &plain).await;
    let found = read(&outcome.outputs[0].path, 7).await.unwrap();
    assert_eq!(found.number, NUMBER);
    assert_eq!(read(&plain, 7).await, None);
}

#[tokio::test]
async fn a_picture_that_is_too_small_for_a_mark_is_refused() {
    let folder = TempDir::new().unwrap();
    let small = "testsrc=s=64x48:d=1";
    let small = media("small-to-mark.png", &[small], "-frames:v 1 -pix_fmt rgb24");
    let bench = Workbench {
        programs: &programs(),
        job: &job(&folder, &small),
        progress: &mut |_| {},
        cancel: CancellationToken::new(),
        limits: ToolLimits::default(),
    };
    let failure = mark_invisibly(bench, &order(&key()), false)
        .await
        .unwrap_err();
    assert_eq!(failure.code, "too_small");
}
