//! The programs of this machine, and the operations that they make possible.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use crate::ffmpeg::Programs;

/// The operations that ffmpeg does.
const BY_FFMPEG: [&str; 13] = [
    "apply_watermark",
    "compress_video",
    "convert_image",
    "create_teaser",
    "crop_image",
    "crop_video",
    "join_videos",
    "resize_image",
    "resize_video",
    "strip_metadata",
    "thumbnail",
    "transcoding",
    "trim_videos",
];
/// The operations that need ffmpeg and the secret of invisible marks.
const BY_MARK_SECRET: [&str; 2] = ["apply_steganographic_watermark", "verify_mark"];
const BY_YT_DLP: [&str; 2] = ["download_video", "ytdlp_info"];
const BY_ITSELF: [&str; 1] = ["onboarding_import"];

pub(super) struct MediaPrograms {
    ffmpeg: Option<Programs>,
    yt_dlp: Option<PathBuf>,
    has_mark_secret: bool,
}

impl MediaPrograms {
    /// Looks in the folders of a search path.
    pub fn find(search_path: &OsStr, has_mark_secret: bool) -> Self {
        let yt_dlp = std::env::split_paths(search_path)
            .map(|folder| folder.join("yt-dlp"))
            .find(|program| program.is_absolute() && program.is_file());
        Self {
            ffmpeg: Programs::find(search_path),
            yt_dlp,
            has_mark_secret,
        }
    }

    /// ffprobe belongs to ffmpeg.
    pub fn missing(&self) -> Vec<&'static str> {
        let all = [
            ("ffmpeg", self.ffmpeg.is_some()),
            ("yt-dlp", self.yt_dlp.is_some()),
        ];
        let missing = all.into_iter().filter(|(_, is_there)| !is_there);
        missing.map(|(name, _)| name).collect()
    }

    pub fn operations(&self) -> BTreeSet<&'static str> {
        let mut all = BTreeSet::from(BY_ITSELF);
        if self.ffmpeg.is_some() {
            all.extend(BY_FFMPEG);
        }
        if self.ffmpeg.is_some() && self.has_mark_secret {
            all.extend(BY_MARK_SECRET);
        }
        if self.yt_dlp.is_some() {
            all.extend(BY_YT_DLP);
        }
        all
    }

    pub fn yt_dlp(&self) -> Option<&Path> {
        self.yt_dlp.as_deref()
    }

    pub fn ffmpeg(&self) -> Option<&Programs> {
        self.ffmpeg.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_takes_its_operations_with_it() {
        let folder = tempfile::TempDir::new().unwrap();
        let with = |has_secret| MediaPrograms::find(folder.path().as_os_str(), has_secret);
        let found = || with(true);
        assert_eq!(found().missing(), ["ffmpeg", "yt-dlp"]);
        assert_eq!(found().operations(), BTreeSet::from(BY_ITSELF));
        std::fs::write(folder.path().join("ffmpeg"), "").unwrap();
        assert_eq!(found().operations(), BTreeSet::from(BY_ITSELF));
        std::fs::write(folder.path().join("ffprobe"), "").unwrap();
        assert!(found().operations().contains("thumbnail"));
        assert!(found().operations().contains("verify_mark"));
        assert!(!with(false).operations().contains("verify_mark"));
        assert!(!found().operations().contains("download_video"));
        std::fs::write(folder.path().join("yt-dlp"), "").unwrap();
        assert_eq!(found().missing(), [""; 0]);
        assert!(found().operations().contains("download_video"));
    }
}
