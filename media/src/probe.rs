//! What a file holds, as a viewer sees it.

use std::{
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use crate::{
    ffmpeg::{FfmpegArguments, MAX_PIXELS, MediaFailure, Stretch, Workbench},
    kind::{self, MediaKind},
    picture::{self, PictureError, PictureFacts},
};

/// What ffprobe prints.
mod ffprobe;
/// Whether a film's file is whole.
mod whole;

pub use ffprobe::{Colour, MediaStream};

use ffprobe::Printed;

/// The largest file of a picture, in bytes.
const MAX_PICTURE: u64 = 512 << 20;
/// The longest film, in seconds.
const MAX_SECONDS: f64 = 12.0 * 3600.0;
/// Sound that any ffmpeg decodes.
const COMMON_SOUND: [&str; 12] = [
    "aac",
    "mp3",
    "opus",
    "vorbis",
    "flac",
    "ac3",
    "eac3",
    "alac",
    "pcm_s16le",
    "pcm_s16be",
    "pcm_s24le",
    "mp2",
];

/// A still picture, or the first frame of an animated GIF.
#[derive(Debug, Clone)]
pub struct Picture {
    pub path: PathBuf,
    pub kind: MediaKind,
    pub facts: PictureFacts,
    /// As it is seen.
    pub size: (u32, u32),
    pub colour: Colour,
}

/// Moving pictures, with or without sound.
#[derive(Debug, Clone)]
pub struct Film {
    pub path: PathBuf,
    pub kind: MediaKind,
    /// The number of the stream in its file.
    pub stream: usize,
    pub codec: String,
    /// As it is seen.
    pub size: (u32, u32),
    pub has_square_pixels: bool,
    pub colour: Colour,
    /// Frames a second, if they come evenly.
    pub rate: Option<f64>,
    pub is_interlaced: bool,
    /// In seconds.
    pub duration: f64,
    pub sound: Sound,
    pub has_personal_tags: bool,
}

/// The sound of a film.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sound {
    None,
    Track {
        stream: usize,
        channels: u32,
    },
    /// There is some, but this machine's ffmpeg decodes none.
    Unreadable,
}

/// What is known of a file without an operation.
#[derive(Debug, Clone, PartialEq)]
pub struct MediaMeasure {
    pub kind: MediaKind,
    /// As it is seen.
    pub size: Option<(u32, u32)>,
    /// In seconds.
    pub duration: Option<f64>,
}

/// The kind of a file, by its first bytes.
pub fn kind_of(path: &Path) -> Result<MediaKind, MediaFailure> {
    let mut head = Vec::with_capacity(kind::SNIFFED);
    std::fs::File::open(path)?
        .take(kind::SNIFFED as u64)
        .read_to_end(&mut head)?;
    kind::sniff(&head).map_err(|what| {
        MediaFailure::of_input(
            "unsupported_kind",
            format!("The file is {what}; it is not read"),
        )
    })
}

fn refused(error: PictureError) -> MediaFailure {
    match error {
        PictureError::Damaged => MediaFailure::damaged(),
        PictureError::Unreadable(what) => MediaFailure::of_input(
            "unsupported_kind",
            format!("The file is {what}, which this worker does not read whole"),
        ),
    }
}

fn check_pixels((width, height): (u32, u32)) -> Result<(), MediaFailure> {
    if u64::from(width) * u64::from(height) <= MAX_PIXELS {
        return Ok(());
    }
    let most = MAX_PIXELS / 1_000_000;
    Err(MediaFailure::of_input(
        "too_many_pixels",
        format!(
            "The picture has {width} x {height} pixels; this worker takes up to {most} million"
        ),
    ))
}

/// The bytes of a picture's file.
pub fn picture_bytes(path: &Path) -> Result<Vec<u8>, MediaFailure> {
    let mut file = std::fs::File::open(path)?;
    let length = file.seek(SeekFrom::End(0))?;
    if length > MAX_PICTURE {
        return Err(MediaFailure::of_input(
            "too_large",
            format!("A picture may have at most {} MiB", MAX_PICTURE >> 20),
        ));
    }
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What the file of a picture tells without being decoded.
pub fn picture_facts(kind: MediaKind, bytes: &[u8]) -> Result<PictureFacts, MediaFailure> {
    let facts = picture::facts(kind, bytes).map_err(refused)?;
    check_pixels((facts.width, facts.height))?;
    Ok(facts)
}

/// The picture's file without what tells of people and places, if its kind can be rewritten.
pub fn stripped_picture(kind: MediaKind, bytes: &[u8]) -> Result<Option<Vec<u8>>, MediaFailure> {
    picture::strip(kind, bytes).map_err(refused)
}

impl Workbench<'_> {
    /// Looks at a picture.
    pub async fn picture(&self, path: &Path) -> Result<Picture, MediaFailure> {
        let kind = kind_of(path)?;
        if !kind.is_picture() {
            return Err(MediaFailure::of_input(
                "no_picture",
                "The file is no picture; this operation takes a picture",
            ));
        }
        let facts = picture_facts(kind, &picture_bytes(path)?)?;
        let printed = self.printed(kind, path).await?;
        let (_, stream) = printed.film().ok_or_else(MediaFailure::damaged)?;
        let square = stream.square((facts.width, facts.height));
        check_pixels(square)?;
        Ok(Picture {
            path: path.to_owned(),
            kind,
            size: facts.orientation.turn(square),
            colour: stream.colour(),
            facts,
        })
    }

    /// Looks at a film.
    pub async fn film(&mut self, path: &Path) -> Result<Film, MediaFailure> {
        let kind = kind_of(path)?;
        if kind.is_picture() && kind != MediaKind::Gif {
            return Err(MediaFailure::of_input(
                "no_film",
                "The file is a picture; this operation takes a film",
            ));
        }
        if !whole::is_whole(kind, path)? {
            return Err(MediaFailure::damaged());
        }
        let printed = self.printed(kind, path).await?;
        let (index, stream) = printed
            .film()
            .ok_or_else(|| MediaFailure::of_input("no_film", "The file has no moving pictures"))?;
        readable(stream)?;
        let size = stream.seen().ok_or_else(MediaFailure::damaged)?;
        check_pixels(size)?;
        let duration = match printed.duration(stream) {
            Some(told) => told,
            None => self.measured_length(kind, path).await?,
        };
        if duration > MAX_SECONDS {
            return Err(MediaFailure::of_input(
                "too_long",
                format!("The film is longer than {} hours", MAX_SECONDS / 3600.0),
            ));
        }
        let sound = self.sound(kind, path, &printed).await?;
        Ok(Film {
            path: path.to_owned(),
            kind,
            stream: index,
            codec: stream.codec_name.clone().unwrap_or_default(),
            size,
            has_square_pixels: stream.has_square_pixels(),
            colour: stream.colour(),
            rate: stream.rate(),
            is_interlaced: stream.is_interlaced(),
            duration,
            sound,
            has_personal_tags: printed.has_personal_tags(),
        })
    }

    /// Size and length of any file that is read.
    pub async fn measure(&mut self, path: &Path) -> Result<MediaMeasure, MediaFailure> {
        let kind = kind_of(path)?;
        if kind.is_picture() {
            let picture = self.picture(path).await?;
            let duration = match kind {
                MediaKind::Gif => Some(self.film(path).await?.duration),
                _ => None,
            };
            return Ok(MediaMeasure {
                kind,
                size: Some(picture.size),
                duration,
            });
        }
        let printed = self.printed(kind, path).await?;
        if printed.film().is_some() {
            let film = self.film(path).await?;
            return Ok(MediaMeasure {
                kind,
                size: Some(film.size),
                duration: Some(film.duration),
            });
        }
        if printed.sounds().is_empty() {
            return Err(MediaFailure::damaged());
        }
        let duration = match printed.told_duration() {
            Some(told) => told,
            None => self.measured_length(kind, path).await?,
        };
        Ok(MediaMeasure {
            kind,
            size: None,
            duration: Some(duration),
        })
    }

    async fn printed(&self, kind: MediaKind, path: &Path) -> Result<Printed, MediaFailure> {
        let json = self.probe(kind, path).await?;
        serde_json::from_slice(&json).map_err(|_| MediaFailure::damaged())
    }

    /// Reads a whole file without decoding it.
    async fn measured_length(&mut self, kind: MediaKind, path: &Path) -> Result<f64, MediaFailure> {
        let arguments = FfmpegArguments::new()
            .input(&[], kind, path)
            .options(["-map", "0:v?", "-map", "0:a?", "-c", "copy"])
            .output("null", Path::new("-"));
        self.encode(arguments, Stretch::unseen()).await
    }

    /// The first sound that can be decoded, the one that the file prefers before others.
    async fn sound(
        &mut self,
        kind: MediaKind,
        path: &Path,
        printed: &Printed,
    ) -> Result<Sound, MediaFailure> {
        let tracks = printed.sounds();
        for (index, stream) in &tracks {
            if let Some(channels) = stream.channels()
                && self.decodes(kind, path, *index, stream).await?
            {
                return Ok(Sound::Track {
                    stream: *index,
                    channels,
                });
            }
        }
        Ok(if tracks.is_empty() {
            Sound::None
        } else {
            Sound::Unreadable
        })
    }

    async fn decodes(
        &mut self,
        kind: MediaKind,
        path: &Path,
        index: usize,
        stream: &MediaStream,
    ) -> Result<bool, MediaFailure> {
        let Some(codec) = &stream.codec_name else {
            return Ok(false);
        };
        if COMMON_SOUND.contains(&codec.as_str()) {
            return Ok(true);
        }
        let track = format!("0:{index}");
        let arguments = FfmpegArguments::new()
            .input(&[], kind, path)
            .options(["-map", &track, "-t", "1"])
            .output("null", Path::new("-"));
        match self.encode(arguments, Stretch::unseen()).await {
            Ok(reached) => Ok(reached > 0.0),
            Err(failure) if failure.code == "damaged" => Ok(false),
            Err(failure) => Err(failure),
        }
    }
}

/// Refuses pictures that ffmpeg would show in wrong colours, or not at all.
fn readable(stream: &MediaStream) -> Result<(), MediaFailure> {
    if stream.is_dolby_vision_alone() {
        return Err(MediaFailure::of_input(
            "unsupported_kind",
            "The film is a Dolby Vision of profile 5, which this worker does not read whole",
        ));
    }
    match stream.codec_name.as_deref() {
        None | Some("none" | "unknown") => Err(MediaFailure::of_input(
            "unsupported_kind",
            "The film has a codec that this worker's ffmpeg does not read",
        )),
        Some(_) => Ok(()),
    }
}
