//! The operations of jobs, with the queue and the counter of each (docs/api.md, Operations of the
//! queues).

use crate::{tier::Counter, user::onboarding};

pub const QUEUES: [&str; 3] = ["media-jobs", "scrape-jobs", "onboarding-jobs"];

const MEDIA: [&str; 17] = [
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
    CAPTION,
    INVISIBLE_MARK,
    DOWNLOAD,
    "ytdlp_info",
];
/// The operation that the server runs itself, by the model.
pub const CAPTION: &str = "caption_generation";
/// The operation that downloads with any login or cookie file of its user.
pub const DOWNLOAD: &str = "download_video";
/// The operation that puts an invisible number into a picture or a film.
pub const INVISIBLE_MARK: &str = "apply_steganographic_watermark";
/// The operation that reads such a number. The server queues it; clients can't.
pub const READ_MARK: &str = "verify_mark";
const SCRAPE: [&str; 3] = ["scrape_profile", "scrape_post_performance", "publish_post"];

/// The operations that clients may queue.
pub fn all() -> impl Iterator<Item = &'static str> {
    MEDIA.into_iter().chain(SCRAPE)
}

/// The operations that a job may have, those that clients can't queue too.
pub fn of_jobs() -> impl Iterator<Item = &'static str> {
    all().chain(of_server())
}

/// The operations that only the server queues.
pub fn of_server() -> [&'static str; 2] {
    [onboarding::OPERATION, READ_MARK]
}

/// The queue of an operation that a job may have.
pub fn queue_of_job(operation: &str) -> Option<&'static str> {
    match operation {
        onboarding::OPERATION => Some(QUEUES[2]),
        READ_MARK => Some(QUEUES[0]),
        _ => queue_of(operation),
    }
}

/// The queue of an operation; `None` for an unknown operation. The upload queues
/// `onboarding_import`, clients do not.
pub fn queue_of(operation: &str) -> Option<&'static str> {
    if MEDIA.contains(&operation) {
        Some(QUEUES[0])
    } else if SCRAPE.contains(&operation) {
        Some(QUEUES[1])
    } else {
        None
    }
}

/// The queue with this name.
pub fn queue(name: &str) -> Option<&'static str> {
    QUEUES.into_iter().find(|queue| *queue == name)
}

/// The fields of `params` in which an operation names files.
pub fn file_params(operation: &str) -> &'static [&'static str] {
    match operation {
        "join_videos" => &["inputs"],
        "apply_watermark" | "create_teaser" => &["watermark_file_id"],
        _ => &[],
    }
}

/// The counter of an operation; `None` if it is not counted.
pub fn counter_of(operation: &str) -> Option<Counter> {
    Some(match operation {
        CAPTION => Counter::PostsAiAssisted,
        "create_teaser" | "trim_videos" | "join_videos" => Counter::AiClipOps,
        "apply_watermark" | INVISIBLE_MARK => Counter::WatermarkOps,
        "thumbnail" => Counter::ThumbnailOps,
        "publish_post" => Counter::PostsPublished,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operation_decides_the_queue() {
        assert_eq!(queue_of("resize_image"), Some("media-jobs"));
        assert_eq!(queue_of("publish_post"), Some("scrape-jobs"));
        assert_eq!(queue_of("make_coffee"), None);
        assert_eq!(queue_of("onboarding_import"), None);
        assert_eq!(queue_of_job("onboarding_import"), Some("onboarding-jobs"));
        assert_eq!(queue_of(READ_MARK), None);
        assert_eq!(queue_of_job(READ_MARK), Some("media-jobs"));
        assert!(of_jobs().all(|operation| queue_of_job(operation).is_some()));
        assert_eq!(counter_of("trim_videos"), Some(Counter::AiClipOps));
        assert_eq!(counter_of("resize_image"), None);
    }
}
