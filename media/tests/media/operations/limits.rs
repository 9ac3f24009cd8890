//! What is too long, too large or too slow, and what is cancelled.

use std::{
    fs::{self, File},
    path::PathBuf,
    time::{Duration, Instant},
};

use genie_media::sandbox::ToolLimits;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::studio::{HALVES, failure, film, made, media, perform_within};

#[tokio::test]
async fn a_film_of_over_twelve_hours_is_refused() {
    // One frame an hour.
    let source = "color=red:s=64x48:r=1/3600:d=46800";
    let long = media(
        "thirteen-hours.mp4",
        &[source],
        "-c:v libx264 -pix_fmt yuv420p",
    );
    for operation in ["transcoding", "thumbnail", "create_teaser"] {
        let failure = failure(operation, json!({}), &[&long]).await;
        assert_eq!(failure.code, "too_long", "{operation}");
        assert!(failure.sentence.contains("12 hours"), "{failure}");
        assert!(!failure.retryable);
    }
}

#[tokio::test]
async fn a_picture_of_over_512_mebibytes_is_refused() {
    let source = media("halves.png", &[HALVES], "-frames:v 1 -pix_fmt rgb24");
    let large = made("large.png", |path| {
        fs::copy(source, path).unwrap();
        // The disk keeps nothing of a hole.
        let file = File::options().write(true).open(path).unwrap();
        file.set_len((512 << 20) + 1).unwrap();
    });
    let failure = failure("resize_image", json!({"width": 10}), &[&large]).await;
    assert_eq!(failure.code, "too_large");
    assert!(failure.sentence.contains("512 MiB"), "{failure}");
}

/// Half a minute of noise, which takes seconds to be written as VP9.
fn slow() -> PathBuf {
    let source = "testsrc=s=320x240:r=25:d=30,noise=alls=60:allf=t";
    media(
        "slow.mp4",
        &[source],
        "-c:v libx264 -preset ultrafast -pix_fmt yuv420p",
    )
}

#[tokio::test]
async fn work_that_takes_too_long_is_ended() {
    let slow = slow();
    let limits = ToolLimits {
        time: Duration::from_millis(500),
        ..ToolLimits::default()
    };
    let started = Instant::now();
    let params = json!({"format": "webm"});
    let cancel = CancellationToken::new();
    let ended = perform_within("transcoding", params, &[(&slow, "a.mp4")], limits, cancel).await;
    let failure = ended.err().expect("half a second is too short");
    assert_eq!((failure.code, failure.retryable), ("too_slow", false));
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn an_output_that_grows_too_large_is_ended() {
    let limits = ToolLimits {
        file_bytes: 1000,
        ..ToolLimits::default()
    };
    let (film, cancel) = (film(), CancellationToken::new());
    let inputs = [(film.as_path(), "a.mp4")];
    let ended = perform_within("transcoding", json!({}), &inputs, limits, cancel).await;
    let failure = ended.err().expect("a film has more than 1,000 bytes");
    assert!(["limits", "damaged"].contains(&failure.code), "{failure}");
    assert!(!failure.retryable);
}

#[tokio::test]
async fn a_running_operation_ends_when_it_is_cancelled() {
    let slow = slow();
    let cancel = CancellationToken::new();
    let inputs = [(slow.as_path(), "a.mp4")];
    let limits = ToolLimits::default();
    let params = json!({"format": "webm"});
    let work = perform_within("transcoding", params, &inputs, limits, cancel.clone());
    let stop = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        cancel.cancel();
        Instant::now()
    };
    let (ended, cancelled) = tokio::join!(work, stop);
    assert_eq!(ended.err().expect("it was cancelled").code, "cancelled");
    let took = cancelled.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
}
