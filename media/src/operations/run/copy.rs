//! Copies streams as they are, without names, places, times and cameras.

use super::{Made, OUTPUT, film, first};
use crate::{
    ffmpeg::{FfmpegArguments, MediaFailure, Stretch, Workbench},
    kind::MediaKind,
    probe::{self, Film},
};

pub(super) async fn strip(bench: &mut Workbench<'_>) -> Result<Made, MediaFailure> {
    let path = first(bench.job)?.path.clone();
    let kind = probe::kind_of(&path)?;
    if kind.is_picture() {
        return strip_picture(bench, kind).await;
    }
    if kind.is_sound() {
        return sound(bench, kind).await;
    }
    match bench.film(&path).await {
        Ok(film) => self::film(bench, &film, false).await,
        Err(failure) if failure.code == "no_film" => sound(bench, kind).await,
        Err(failure) => Err(failure),
    }
}

async fn strip_picture(bench: &mut Workbench<'_>, kind: MediaKind) -> Result<Made, MediaFailure> {
    let path = first(bench.job)?.path.clone();
    let bytes = probe::picture_bytes(&path)?;
    let output = bench.place(&format!("{OUTPUT}.{}", kind.ending()));
    match probe::stripped_picture(kind, &bytes)? {
        Some(stripped) => std::fs::write(&output, stripped)?,
        None => {
            // The same pixels are written anew; they are turned, because nothing could say so.
            let picture = bench.picture(&path).await?;
            let graph = picture.facts.orientation.filter().unwrap_or("null");
            let arguments = FfmpegArguments::new()
                .input(&["-noautorotate"], kind, &path)
                .options(["-vf", graph, "-frames:v", "1", "-update", "1"])
                .options(film::words("-c:v tiff -compression_algo deflate"))
                .options(film::metadata_options(false, kind))
                .output(kind.muxer(), &output);
            bench.encode(arguments, Stretch::whole(0.0)).await?;
        }
    }
    Ok(Made::new(output, kind))
}

/// The film's pictures and all its sounds. What turns the film stays.
pub(super) async fn film(
    bench: &mut Workbench<'_>,
    film: &Film,
    keep_metadata: bool,
) -> Result<Made, MediaFailure> {
    let shown = format!("0:{}", film.stream);
    let mut arguments = FfmpegArguments::new()
        .input(&[], film.kind, &film.path)
        .options(["-map", &shown, "-map", "0:a?", "-c", "copy"]);
    if film.kind == MediaKind::MpegTs && film.codec == "h264" {
        // Camcorders write times and settings between the pictures.
        arguments = arguments.options(["-bsf:v", "filter_units=remove_types=6"]);
    }
    written(bench, arguments, film.kind, keep_metadata, film.duration).await
}

async fn sound(bench: &mut Workbench<'_>, kind: MediaKind) -> Result<Made, MediaFailure> {
    let path = first(bench.job)?.path.clone();
    let mut arguments = FfmpegArguments::new()
        .input(&[], kind, &path)
        .options(["-map", "0:a", "-c", "copy"]);
    if kind == MediaKind::Mp3 {
        arguments = arguments.options(["-id3v2_version", "0"]);
    }
    written(bench, arguments, kind, false, 0.0).await
}

async fn written(
    bench: &mut Workbench<'_>,
    arguments: FfmpegArguments,
    kind: MediaKind,
    keep_metadata: bool,
    seconds: f64,
) -> Result<Made, MediaFailure> {
    let path = bench.place(&format!("{OUTPUT}.{}", kind.ending()));
    let front = if kind.has_moov() {
        film::words("-movflags +faststart")
    } else {
        Vec::new()
    };
    let arguments = arguments
        // Some pairs of codec and container are called experimental.
        .options(["-strict", "-2"])
        .options(front)
        .options(film::metadata_options(keep_metadata, kind))
        .output(kind.muxer(), &path);
    bench.encode(arguments, Stretch::whole(seconds)).await?;
    Ok(Made::new(path, kind))
}
