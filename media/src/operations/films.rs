//! The parameters of operations on films.

use serde_json::Value;

use super::{
    MAX_SIDE,
    params::{Params, WrongParams, file_id},
    time::FilmTime,
};

/// The height that a downloaded film has at most, unless another is asked for.
pub const DOWNLOAD_MAX_HEIGHT: u32 = 1080;

pub(super) const TRANSCODING_CRF: u32 = 23;
pub(super) const COMPRESSION_CRF: u32 = 28;
pub(super) const MAX_CRF: u32 = 51;
pub(super) const MAX_FPS: f64 = 240.0;
pub(super) const MOST_JOINED: usize = 20;
pub(super) const TEASER_SECONDS: f64 = 15.0;
pub(super) const TEASER_CLIPS: u32 = 3;
pub(super) const MOST_CLIPS: u32 = 20;
pub(super) const TEASER_HEIGHT: u32 = 720;
/// In bytes.
pub(super) const MOST_TARGET: u64 = 1 << 40;

/// The kind of file that a film is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    Mp4,
    Webm,
    Mov,
}

impl Container {
    pub const WORDS: [(&str, Self); 3] =
        [("mp4", Self::Mp4), ("webm", Self::Webm), ("mov", Self::Mov)];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VideoCodec {
    H264,
    Hevc,
    Vp9,
}

impl VideoCodec {
    pub(super) const WORDS: [(&str, Self); 3] = [
        ("h264", Self::H264),
        ("hevc", Self::Hevc),
        ("vp9", Self::Vp9),
    ];
}

/// A film in another kind of file, or with another codec.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transcoding {
    pub container: Container,
    pub codec: VideoCodec,
    pub crf: u32,
    pub max_height: Option<u32>,
    pub fps: Option<f64>,
}

impl Transcoding {
    pub(super) fn read(params: &Params<'_>) -> Result<Self, WrongParams> {
        let container = params
            .word("format", &Container::WORDS)?
            .unwrap_or(Container::Mp4);
        let asked = params.word("video_codec", &VideoCodec::WORDS)?;
        let codec = match (container, asked) {
            (Container::Webm, None | Some(VideoCodec::Vp9)) => VideoCodec::Vp9,
            (Container::Webm, Some(_)) => {
                return Err(WrongParams::new(
                    "video_codec",
                    "must be vp9 when `params.format` is webm",
                ));
            }
            (Container::Mov, Some(VideoCodec::Vp9)) => {
                return Err(WrongParams::new(
                    "video_codec",
                    "must be h264 or hevc when `params.format` is mov",
                ));
            }
            (_, asked) => asked.unwrap_or(VideoCodec::H264),
        };
        Ok(Self {
            container,
            codec,
            crf: params.whole("crf", 0..=MAX_CRF)?.unwrap_or(TRANSCODING_CRF),
            max_height: params.whole("max_height", 1..=MAX_SIDE)?,
            fps: params.number("fps", 1.0..=MAX_FPS)?,
        })
    }
}

/// A film in fewer bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    pub aim: CompressionAim,
    pub max_height: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionAim {
    /// At most so many bytes.
    Bytes(u64),
    /// The encoder's measure of quality: lower is better.
    Crf(u32),
}

impl Compression {
    pub(super) fn read(params: &Params<'_>) -> Result<Self, WrongParams> {
        let bytes = params.large_whole("target_bytes", 1..=MOST_TARGET)?;
        let crf = params.whole("crf", 0..=MAX_CRF)?;
        let aim = match (bytes, crf) {
            (Some(_), Some(_)) => {
                return Err(WrongParams::new(
                    "crf",
                    "must be absent when `params.target_bytes` is there",
                ));
            }
            (Some(bytes), None) => CompressionAim::Bytes(bytes),
            (None, crf) => CompressionAim::Crf(crf.unwrap_or(COMPRESSION_CRF)),
        };
        Ok(Self {
            aim,
            max_height: params.whole("max_height", 1..=MAX_SIDE)?,
        })
    }
}

/// A part of a film.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trim {
    pub start: FilmTime,
    /// After `start`; `None` is the film's end.
    pub end: Option<FilmTime>,
}

impl Trim {
    pub(super) fn read(params: &Params<'_>) -> Result<Self, WrongParams> {
        let start = params.time("start")?.unwrap_or_default();
        let end = match (params.time("end")?, params.time("duration")?) {
            (Some(_), Some(_)) => {
                return Err(WrongParams::new(
                    "duration",
                    "must be absent when `params.end` is there",
                ));
            }
            (Some(end), None) if end <= start => {
                return Err(WrongParams::new("end", "must be after `params.start`"));
            }
            (None, Some(duration)) if duration.is_zero() => {
                return Err(WrongParams::new("duration", "must be above 0"));
            }
            (end, None) => end,
            (None, Some(duration)) => Some(start.plus(duration)),
        };
        Ok(Self { start, end })
    }
}

/// Films one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joining {
    /// The ids of files, in order.
    pub inputs: Vec<String>,
}

impl Joining {
    pub(super) fn read(params: &Params<'_>) -> Result<Self, WrongParams> {
        let value = params
            .get("inputs")
            .ok_or_else(|| WrongParams::missing("inputs"))?;
        let wrong = || {
            WrongParams::new(
                "inputs",
                format!("must be a list of 2 to {MOST_JOINED} ids of files"),
            )
        };
        let Value::Array(items) = value else {
            return Err(wrong());
        };
        if !(2..=MOST_JOINED).contains(&items.len()) {
            return Err(wrong());
        }
        let ids: Option<Vec<&str>> = items.iter().map(file_id).collect();
        Ok(Self {
            inputs: ids
                .ok_or_else(wrong)?
                .into_iter()
                .map(str::to_owned)
                .collect(),
        })
    }
}

/// A short film of parts of a long one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Teaser {
    /// Above 0.
    pub duration: FilmTime,
    /// Spread over the film's length.
    pub clips: u32,
    pub max_height: u32,
}

impl Teaser {
    pub(super) fn read(params: &Params<'_>) -> Result<Self, WrongParams> {
        let duration = match params.time("duration")? {
            Some(duration) => duration,
            None => FilmTime::from_seconds(TEASER_SECONDS)
                .expect("the default is a time that films have"),
        };
        if duration.is_zero() {
            return Err(WrongParams::new("duration", "must be above 0"));
        }
        Ok(Self {
            duration,
            clips: params
                .whole("clips", 1..=MOST_CLIPS)?
                .unwrap_or(TEASER_CLIPS),
            max_height: params
                .whole("max_height", 1..=MAX_SIDE)?
                .unwrap_or(TEASER_HEIGHT),
        })
    }
}
