//! What a job asks for: the operations with their parameters, and what each does.

use serde_json::{Map, Value};

/// Reads single parameters.
mod params;
/// Times in a film, as clients write them.
mod time;

/// The filters of ffmpeg.
mod filters;
/// Sizes of pictures and films.
mod geometry;
/// What operations tell of their work, told to clients.
mod result_schema;
/// Does the work.
mod run;
/// What operations take, told to clients.
mod schema;

/// The parameters of operations on pictures and films alike.
pub mod edits;
/// The parameters of operations on films.
pub mod films;
/// The parameters of operations on pictures.
pub mod pictures;

pub use params::{Params, WrongParams};
pub use result_schema::result_schema;
pub use run::{
    FoundMark, MARK_NOTE, MarkOrder, MediaOutcome, OutputFile, mark_invisibly, read_mark, run,
};
pub use schema::params_schema;

use edits::{Crop, InvisibleMark, Resize, VisibleMark};
use films::{Compression, Joining, Teaser, Transcoding, Trim};
use pictures::{PictureConversion, Thumbnail};

/// The greatest width or height that may be asked for, in pixels.
pub const MAX_SIDE: u32 = 8192;

/// The file that a job names beside its parameters.
#[derive(Debug, Clone, Copy, Default)]
pub struct Input<'a> {
    pub file_id: Option<&'a str>,
    pub url: Option<&'a str>,
}

/// A file to work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediaSource {
    /// The id of a file in the server.
    File(String),
    /// Begins with http:// or https://.
    Url(String),
}

/// An operation with all its parameters checked.
#[derive(Debug, Clone, PartialEq)]
pub enum MediaOperation {
    Media(MediaWork),
    /// Fetches a film from a page.
    Download {
        url: String,
        max_height: u32,
    },
    /// Tells what a page has to download.
    DownloadFormats {
        url: String,
    },
    OnboardingImport {
        file_id: String,
    },
    /// Looks for an invisible mark.
    ReadMark {
        file_id: String,
    },
    /// Nothing for this worker: the server itself or an outside worker does it.
    Outside,
}

/// Work on files with ffmpeg.
#[derive(Debug, Clone, PartialEq)]
pub struct MediaWork {
    /// In the order in which the work takes them; a visible mark is the last.
    pub sources: Vec<MediaSource>,
    pub edit: Edit,
    /// Names, places, times and cameras stay.
    pub keep_metadata: bool,
}

/// What is done to the files.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    Transcode(Transcoding),
    ConvertPicture(PictureConversion),
    ResizePicture(Resize),
    CropPicture(Crop),
    ResizeFilm(Resize),
    CropFilm(Crop),
    CompressFilm(Compression),
    TrimFilm(Trim),
    JoinFilms,
    MarkVisibly(VisibleMark),
    CutTeaser(Teaser),
    Thumbnail(Thumbnail),
    StripMetadata,
    MarkInvisibly(InvisibleMark),
}

impl MediaOperation {
    /// Reads the operation with this name. A null counts as absent, a field that the operation does
    /// not know is ignored.
    pub fn read(
        name: &str,
        input: Input<'_>,
        params: &Map<String, Value>,
    ) -> Result<Self, WrongParams> {
        let params = Params(params);
        match name {
            "download_video" => Ok(Self::Download {
                url: input.page()?,
                max_height: params
                    .whole("max_height", 1..=MAX_SIDE)?
                    .unwrap_or(films::DOWNLOAD_MAX_HEIGHT),
            }),
            "ytdlp_info" => Ok(Self::DownloadFormats { url: input.page()? }),
            "onboarding_import" => Ok(Self::OnboardingImport {
                file_id: input.upload()?,
            }),
            "verify_mark" => Ok(Self::ReadMark {
                file_id: input.upload()?,
            }),
            _ => match read_edit(name, &params)? {
                Some(edit) => Ok(Self::Media(MediaWork {
                    sources: sources(&edit, input, &params)?,
                    edit,
                    keep_metadata: params.flag("keep_metadata")?.unwrap_or(false),
                })),
                None => Ok(Self::Outside),
            },
        }
    }

    /// The ids of the files that the operation reads.
    pub fn files(&self) -> Vec<&str> {
        match self {
            Self::Media(work) => work
                .sources
                .iter()
                .filter_map(MediaSource::file_id)
                .collect(),
            Self::OnboardingImport { file_id } | Self::ReadMark { file_id } => vec![file_id],
            Self::Download { .. } | Self::DownloadFormats { .. } | Self::Outside => Vec::new(),
        }
    }
}

fn read_edit(name: &str, params: &Params<'_>) -> Result<Option<Edit>, WrongParams> {
    Ok(Some(match name {
        "transcoding" => Edit::Transcode(Transcoding::read(params)?),
        "convert_image" => Edit::ConvertPicture(PictureConversion::read(params)?),
        "resize_image" => Edit::ResizePicture(Resize::read(params)?),
        "crop_image" => Edit::CropPicture(Crop::read(params)?),
        "resize_video" => Edit::ResizeFilm(Resize::read(params)?),
        "crop_video" => Edit::CropFilm(Crop::read(params)?),
        "compress_video" => Edit::CompressFilm(Compression::read(params)?),
        "trim_videos" => Edit::TrimFilm(Trim::read(params)?),
        "join_videos" => Edit::JoinFilms,
        "apply_watermark" => Edit::MarkVisibly(VisibleMark::read(params)?),
        "create_teaser" => Edit::CutTeaser(Teaser::read(params)?),
        "thumbnail" => Edit::Thumbnail(Thumbnail::read(params)?),
        "strip_metadata" => Edit::StripMetadata,
        "apply_steganographic_watermark" => Edit::MarkInvisibly(InvisibleMark::read(params)?),
        _ => return Ok(None),
    }))
}

fn sources(
    edit: &Edit,
    input: Input<'_>,
    params: &Params<'_>,
) -> Result<Vec<MediaSource>, WrongParams> {
    if *edit == Edit::JoinFilms {
        return Ok(Joining::read(params)?
            .inputs
            .into_iter()
            .map(MediaSource::File)
            .collect());
    }
    let mut sources = vec![input.source()?];
    let mark = match edit {
        Edit::MarkVisibly(_) => Some(
            params
                .file("watermark_file_id")?
                .ok_or_else(|| WrongParams::missing("watermark_file_id"))?,
        ),
        Edit::CutTeaser(_) => params.file("watermark_file_id")?,
        _ => None,
    };
    sources.extend(mark.map(MediaSource::File));
    Ok(sources)
}

impl MediaSource {
    fn file_id(&self) -> Option<&str> {
        match self {
            Self::File(id) => Some(id),
            Self::Url(_) => None,
        }
    }
}

impl Input<'_> {
    fn source(self) -> Result<MediaSource, WrongParams> {
        match (self.file_id, self.url) {
            (Some(id), None) => Ok(MediaSource::File(id.to_owned())),
            (None, Some(_)) => Ok(MediaSource::Url(self.page()?)),
            (None, None) => Err(WrongParams::of_job(
                "input_file_id",
                "is missing; name the file to work on, here or in `input_url`",
            )),
            (Some(_), Some(_)) => Err(WrongParams::of_job(
                "input_url",
                "must be absent when `input_file_id` names the file",
            )),
        }
    }

    fn page(self) -> Result<String, WrongParams> {
        let url = self
            .url
            .ok_or_else(|| WrongParams::of_job("input_url", "is missing"))?;
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        if !scheme.is_some_and(|scheme| {
            scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
        }) {
            return Err(WrongParams::of_job(
                "input_url",
                "must begin with http:// or https://",
            ));
        }
        Ok(url.to_owned())
    }

    fn upload(self) -> Result<String, WrongParams> {
        self.file_id
            .map(str::to_owned)
            .ok_or_else(|| WrongParams::of_job("input_file_id", "is missing"))
    }
}

#[cfg(test)]
mod tests;
