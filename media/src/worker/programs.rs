//! The programs of this machine, and the operations that they make possible.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    path::{Path, PathBuf},
};

/// The operations that ffmpeg does.
const BY_FFMPEG: [&str; 14] = [
    "apply_steganographic_watermark",
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
const BY_YT_DLP: [&str; 2] = ["download_video", "ytdlp_info"];
const BY_ITSELF: [&str; 1] = ["onboarding_import"];

pub(super) struct MediaPrograms {
    ffmpeg: Option<PathBuf>,
    ffprobe: Option<PathBuf>,
    yt_dlp: Option<PathBuf>,
}

impl MediaPrograms {
    /// Looks in the folders of a search path.
    pub fn find(search_path: &OsStr) -> Self {
        let find = |name: &str| {
            std::env::split_paths(search_path)
                .map(|folder| folder.join(name))
                .find(|program| program.is_absolute() && program.is_file())
        };
        Self {
            ffmpeg: find("ffmpeg"),
            ffprobe: find("ffprobe"),
            yt_dlp: find("yt-dlp"),
        }
    }

    pub fn missing(&self) -> Vec<&'static str> {
        let all = [
            ("ffmpeg", &self.ffmpeg),
            ("ffprobe", &self.ffprobe),
            ("yt-dlp", &self.yt_dlp),
        ];
        let missing = all.into_iter().filter(|(_, found)| found.is_none());
        missing.map(|(name, _)| name).collect()
    }

    pub fn operations(&self) -> BTreeSet<&'static str> {
        let mut all = BTreeSet::from(BY_ITSELF);
        if self.ffmpeg.is_some() && self.ffprobe.is_some() {
            all.extend(BY_FFMPEG);
        }
        if self.yt_dlp.is_some() {
            all.extend(BY_YT_DLP);
        }
        all
    }

    pub fn yt_dlp(&self) -> Option<&Path> {
        self.yt_dlp.as_deref()
    }

    pub fn ffmpeg(&self) -> Option<&Path> {
        self.ffmpeg.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_takes_its_operations_with_it() {
        let folder = tempfile::TempDir::new().unwrap();
        let found = || MediaPrograms::find(folder.path().as_os_str());
        assert_eq!(found().missing(), ["ffmpeg", "ffprobe", "yt-dlp"]);
        assert_eq!(found().operations(), BTreeSet::from(BY_ITSELF));
        std::fs::write(folder.path().join("ffmpeg"), "").unwrap();
        assert_eq!(found().operations(), BTreeSet::from(BY_ITSELF));
        std::fs::write(folder.path().join("ffprobe"), "").unwrap();
        assert!(found().operations().contains("thumbnail"));
        assert!(!found().operations().contains("download_video"));
        std::fs::write(folder.path().join("yt-dlp"), "").unwrap();
        assert_eq!(found().missing(), [""; 0]);
        assert!(found().operations().contains("download_video"));
    }
}
