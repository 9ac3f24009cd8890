//! Marks pictures and films invisibly, and reads such marks again.

use genie_marks::{FilmMarker, FilmReader, MarkError, MarkKey, detect, embed};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{MediaOutcome, film, first, measured, still};
use crate::{
    ffmpeg::{MediaFailure, Workbench},
    kind::MediaKind,
    probe,
};

/// What a mark is worth, for those who get one or look for one.
pub const MARK_NOTE: &str =
    "A mark is evidence, not protection: it can be removed on purpose, and no mark proves nothing";

/// The number to write, and the key without which nobody reads it.
pub struct MarkOrder<'a> {
    pub key: &'a MarkKey,
    pub number: u32,
}

/// A mark that was read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FoundMark {
    pub number: u32,
    /// 0 to 1.
    pub confidence: f32,
}

fn refused(error: MarkError) -> MediaFailure {
    match error {
        MarkError::TooSmall => MediaFailure::of_input(
            "too_small",
            "The picture is too small to hold a mark; each side needs 128 pixels",
        ),
        MarkError::WrongSize | MarkError::Unreadable => MediaFailure::of_input(
            "unmarkable",
            "The picture does not hold a mark that could be read again; much of it may be plain black or white",
        ),
    }
}

/// Does arithmetic that may take a second, while another thread of the runtime goes on with other tasks.
fn compute<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

fn is_still(bench: &Workbench<'_>) -> Result<bool, MediaFailure> {
    let kind = probe::kind_of(&first(bench.job)?.path)?;
    Ok(kind.is_picture() && kind != MediaKind::Gif)
}

/// Marks the job's first input.
pub async fn mark_invisibly(
    mut bench: Workbench<'_>,
    order: &MarkOrder<'_>,
    keep_metadata: bool,
) -> Result<MediaOutcome, MediaFailure> {
    let bench = &mut bench;
    let made = if is_still(bench)? {
        let mark = |(width, height): (u32, u32), luminance: &mut [u8]| {
            let (width, height) = (width as usize, height as usize);
            let made = compute(|| embed(order.key, order.number, width, height, luminance));
            made.map(|_| ()).map_err(refused)
        };
        still::through_pixels(bench, keep_metadata, mark).await?
    } else {
        let mut marker = None;
        let mut mark = |(width, height): (u32, u32), luminance: &mut [u8]| {
            let (width, height) = (width as usize, height as usize);
            let marker = marker.get_or_insert_with(|| {
                FilmMarker::new(order.key, order.number, width, height, FilmMarker::EVERY)
            });
            compute(|| marker.mark(luminance)).map_err(refused)
        };
        let made = film::through_frames(bench, keep_metadata, &mut mark).await?;
        if marker.is_none_or(|marker| marker.embedded().readable == 0) {
            return Err(refused(MarkError::Unreadable));
        }
        made
    };
    let made = made.note("mark", order.number).note("note", MARK_NOTE);
    measured(bench, made).await
}

/// Reads the mark of the job's first input.
pub async fn read_mark(
    mut bench: Workbench<'_>,
    key: &MarkKey,
) -> Result<Option<FoundMark>, MediaFailure> {
    let bench = &mut bench;
    if is_still(bench)? {
        let ((width, height), luminance) = still::luminance(bench).await?;
        let found = compute(|| detect(key, width as usize, height as usize, &luminance));
        return Ok(found.map(|found| FoundMark {
            number: found.number,
            confidence: found.confidence,
        }));
    }
    let mut reader = FilmReader::new(key);
    film::read_frames(
        bench,
        FilmReader::FRAMES,
        &mut |(width, height), luminance| {
            compute(|| reader.read(width as usize, height as usize, luminance));
            Ok(())
        },
    )
    .await?;
    Ok(reader.majority().map(|found| FoundMark {
        number: found.number,
        confidence: found.confidence,
    }))
}
