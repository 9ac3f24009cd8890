//! Does the work of an operation: looks at the inputs, lets ffmpeg work, and looks at what came out.

use std::path::PathBuf;

use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    Edit, MediaWork,
    edits::{MarkedFormat, VisibleMark},
    geometry::Size,
};
use crate::{
    ffmpeg::{InputFile, JobFolder, MediaFailure, Programs, Workbench},
    kind::MediaKind,
    probe::{self, MediaMeasure},
    sandbox::ToolLimits,
};

/// Makes films smaller.
mod compress;
/// Copies streams as they are.
mod copy;
/// Makes films of parts and of several films.
mod cut;
/// Makes films.
mod film;
/// Marks that eyes do not see.
mod mark;
/// Makes pictures.
mod still;

pub use mark::{FoundMark, MARK_NOTE, MarkOrder, mark_invisibly, read_mark};

/// The name of a file that becomes an output.
const OUTPUT: &str = "output";

/// What an operation made.
#[derive(Debug, Clone, PartialEq)]
pub struct MediaOutcome {
    pub result: Value,
    pub outputs: Vec<OutputFile>,
}

/// A file in the job's folder.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputFile {
    pub path: PathBuf,
    /// The input's with the ending of the output's kind.
    pub name: String,
    pub mime: &'static str,
    pub width: Option<u32>,
    pub height: Option<u32>,
    /// In seconds.
    pub duration: Option<f64>,
}

/// An output before it is looked at.
struct Made {
    path: PathBuf,
    kind: MediaKind,
    /// The size of a picture that was written with square pixels.
    size: Option<Size>,
    /// What the owner should know.
    notes: Map<String, Value>,
}

impl Made {
    fn new(path: PathBuf, kind: MediaKind) -> Self {
        Self {
            path,
            kind,
            size: None,
            notes: Map::new(),
        }
    }

    fn note(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.notes.insert(name.to_owned(), value.into());
        self
    }
}

/// Does the work. Everything that it writes is in the job's folder.
pub async fn run(
    programs: &Programs,
    limits: ToolLimits,
    work: &MediaWork,
    job: &JobFolder,
    progress: &mut (dyn FnMut(f64) + Send + Sync),
    cancel: CancellationToken,
) -> Result<MediaOutcome, MediaFailure> {
    let mut bench = Workbench {
        programs,
        job,
        progress,
        cancel,
        limits,
    };
    let made = make(&mut bench, work).await?;
    measured(&mut bench, made).await
}

/// Looks at what came out.
async fn measured(bench: &mut Workbench<'_>, made: Made) -> Result<MediaOutcome, MediaFailure> {
    let job = bench.job;
    let measured = match made.size {
        Some(size) => MediaMeasure {
            kind: made.kind,
            size: Some(size),
            duration: None,
        },
        None => bench.measure(&made.path).await?,
    };
    let name = made.kind.rename(&first(job)?.name);
    let (width, height) = measured.size.unzip();
    let mut result = made.notes;
    for (field, value) in [
        ("width", width.map(Value::from)),
        ("height", height.map(Value::from)),
        ("duration", measured.duration.map(Value::from)),
    ] {
        if let Some(value) = value {
            result.insert(field.to_owned(), value);
        }
    }
    Ok(MediaOutcome {
        result: Value::Object(result),
        outputs: vec![OutputFile {
            path: made.path,
            name,
            mime: made.kind.mime(),
            width,
            height,
            duration: measured.duration,
        }],
    })
}

fn first(job: &JobFolder) -> Result<&InputFile, MediaFailure> {
    job.inputs
        .first()
        .ok_or_else(|| MediaFailure::of_worker("The worker has no input for this job"))
}

async fn make(bench: &mut Workbench<'_>, work: &MediaWork) -> Result<Made, MediaFailure> {
    let keep = work.keep_metadata;
    match &work.edit {
        Edit::Transcode(transcoding) => film::transcode(bench, transcoding, keep).await,
        Edit::ConvertPicture(conversion) => still::convert(bench, conversion, keep).await,
        Edit::ResizePicture(resize) => still::resize(bench, resize, keep).await,
        Edit::CropPicture(crop) => still::crop(bench, crop, keep).await,
        Edit::ResizeFilm(resize) => film::resize(bench, resize, keep).await,
        Edit::CropFilm(crop) => film::crop(bench, crop, keep).await,
        Edit::CompressFilm(compression) => compress::compress(bench, compression, keep).await,
        Edit::TrimFilm(trim) => cut::trim(bench, trim, keep).await,
        Edit::JoinFilms => cut::join(bench, keep).await,
        Edit::MarkVisibly(mark) => mark_visibly(bench, mark, keep).await,
        Edit::CutTeaser(teaser) => cut::teaser(bench, teaser, keep).await,
        Edit::Thumbnail(thumbnail) => still::thumbnail(bench, thumbnail, keep).await,
        Edit::StripMetadata => copy::strip(bench).await,
        Edit::MarkInvisibly(_) => Err(MediaFailure::of_input(
            "no_mark_key",
            "This worker has no key for invisible marks",
        )),
    }
}

async fn mark_visibly(
    bench: &mut Workbench<'_>,
    mark: &VisibleMark,
    keep: bool,
) -> Result<Made, MediaFailure> {
    let kind = probe::kind_of(&first(bench.job)?.path)?;
    match mark.format {
        MarkedFormat::Picture(format) => still::mark(bench, mark, Some(format), keep).await,
        MarkedFormat::Film(container) => film::mark(bench, mark, Some(container), keep).await,
        MarkedFormat::Auto if kind.is_picture() && kind != MediaKind::Gif => {
            still::mark(bench, mark, None, keep).await
        }
        MarkedFormat::Auto => film::mark(bench, mark, None, keep).await,
    }
}

/// What the owner is told of the sound.
fn told_of_sound(made: Made, film: &probe::Film) -> Made {
    match film.sound {
        probe::Sound::Unreadable => made.note(
            "sound",
            json!("left out: this worker decodes none of the sound tracks"),
        ),
        probe::Sound::None | probe::Sound::Track { .. } => made,
    }
}
