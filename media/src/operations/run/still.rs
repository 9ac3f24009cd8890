//! Makes pictures: the call of ffmpeg that writes one, and the operations on pictures.

use std::path::PathBuf;

use super::{
    super::{
        edits::{Crop, Resize, VisibleMark},
        filters::{self, Chain},
        geometry::{self, Parity, Size},
        pictures::{PictureConversion, PictureFormat, Rgb, Thumbnail},
        time::FilmTime,
    },
    Made, OUTPUT,
    film::{self, words},
    first,
};
use crate::{
    ffmpeg::{FfmpegArguments, MediaFailure, Stretch, Workbench},
    kind::MediaKind,
    picture::{self, ProfileColours, Told},
    probe::{self, Colour, Picture},
};

/// The quality of a picture that was only to be changed otherwise, 1 to 100.
const FINE: u32 = 92;
/// From here on colours of JPEGs are stored for each pixel.
const FULL_COLOUR: u32 = 90;
/// The place of a thumbnail, as a part of the film's length.
const EARLY: f64 = 0.1;

impl PictureFormat {
    fn kind(self) -> MediaKind {
        match self {
            Self::Jpeg => MediaKind::Jpeg,
            Self::Png => MediaKind::Png,
            Self::Webp => MediaKind::Webp,
            Self::Avif => MediaKind::Avif,
        }
    }
}

/// What a picture is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StillTarget {
    kind: MediaKind,
    /// 1 to 100.
    quality: u32,
    background: Rgb,
}

impl StillTarget {
    fn of(kind: MediaKind) -> Self {
        Self {
            kind,
            quality: FINE,
            background: Rgb::WHITE,
        }
    }

    fn has_alpha(self) -> bool {
        !matches!(self.kind, MediaKind::Jpeg | MediaKind::Avif)
    }

    fn is_deep(self) -> bool {
        matches!(self.kind, MediaKind::Png | MediaKind::Tiff)
    }

    /// The last filters: the pixels as the encoder takes them.
    fn finish(self, colour: &Colour) -> Chain {
        let alpha = colour.has_alpha();
        let deep = colour.is_deep() && !colour.is_hdr();
        let chain = Chain::default();
        match self.kind {
            MediaKind::Jpeg => {
                let format = if self.quality >= FULL_COLOUR {
                    "yuvj444p"
                } else {
                    "yuvj420p"
                };
                chain
                    .then("scale=out_color_matrix=bt601:out_range=pc")
                    .then(format!("format={format}"))
            }
            MediaKind::Avif => chain
                .then("scale=out_color_matrix=bt709:out_range=pc")
                .then("format=yuv420p"),
            MediaKind::Webp => chain.then("format=bgra"),
            MediaKind::Gif => {
                chain.then("split[c][d];[c]palettegen=reserve_transparent=1[p];[d][p]paletteuse")
            }
            MediaKind::Bmp => chain.then(if alpha { "format=bgra" } else { "format=bgr24" }),
            MediaKind::Tiff if deep => chain.then(if alpha {
                "format=rgba64le"
            } else {
                "format=rgb48le"
            }),
            _ if deep => chain.then(if alpha {
                "format=rgba64be"
            } else {
                "format=rgb48be"
            }),
            _ => chain.then(if alpha { "format=rgba" } else { "format=rgb24" }),
        }
    }

    fn options(self) -> Vec<String> {
        let quality = self.quality;
        words(&match self.kind {
            MediaKind::Jpeg => format!(
                "-c:v mjpeg -huffman optimal -qmin 1 -q:v {} -update 1",
                jpeg_scale(quality)
            ),
            MediaKind::Avif => format!(
                "-c:v libaom-av1 -still-picture 1 -cpu-used 6 -crf {} -b:v 0 -color_range pc \
                 -colorspace bt709 -color_trc iec61966-2-1",
                (100 - quality) * 63 / 100
            ),
            MediaKind::Webp => format!("-c:v libwebp -quality {quality} -update 1"),
            MediaKind::Gif => "-c:v gif".into(),
            MediaKind::Bmp => "-c:v bmp -update 1".into(),
            MediaKind::Tiff => "-c:v tiff -compression_algo deflate -update 1".into(),
            _ => "-c:v png -update 1".into(),
        })
    }
}

/// ffmpeg's quantiser, 1 to 31, whose tables come nearest to those that other encoders use for this quality.
fn jpeg_scale(quality: u32) -> f64 {
    let quality = f64::from(quality);
    let percent = if quality < 50.0 {
        5000.0 / quality
    } else {
        200.0 - 2.0 * quality
    };
    (13.5 * percent / 100.0).clamp(1.0, 31.0).round()
}

/// The picture as it is seen, in red, green and blue.
fn as_seen(picture: &Picture, target: StillTarget) -> Chain {
    let colour = &picture.colour;
    let mapped = if colour.is_hdr() {
        filters::tone_map(colour)
    } else {
        Chain::default()
    };
    let deep = colour.is_deep() && !colour.is_hdr() && target.is_deep();
    let format = match (deep, colour.has_alpha()) {
        (true, true) => "format=gbrap16le",
        (true, false) => "format=gbrp16le",
        (false, true) => "format=gbrap",
        (false, false) => "format=gbrp",
    };
    let stored = picture.facts.orientation.turn(picture.size);
    let is_square = stored == (picture.facts.width, picture.facts.height);
    mapped
        .then(format)
        .maybe((!is_square).then(|| filters::scale(stored)))
        .then("setsar=1")
        .maybe(picture.facts.orientation.filter())
}

/// Scales without letting invisible colours shine into visible ones.
fn scaled(colour: &Colour, scaling: Chain) -> Chain {
    if colour.has_alpha() {
        Chain::default()
            .then("premultiply=inplace=1")
            .join(scaling)
            .then("unpremultiply=inplace=1")
    } else {
        scaling
    }
}

/// A picture to write.
struct StillPlan<'a> {
    source: &'a Picture,
    inputs: FfmpegArguments,
    /// From the pad `0:v` to the pad `x`.
    graph: String,
    /// The size of what comes out.
    size: Size,
    target: StillTarget,
    keep_metadata: bool,
}

impl StillPlan<'_> {
    fn graph(&self) -> String {
        let finish = self.target.finish(&self.source.colour);
        let graph = &self.graph;
        let head = filters::SCALER;
        if !self.source.colour.has_alpha() || self.target.has_alpha() {
            return format!("{head}{graph};{}", finish.between("x", "v"));
        }
        let [red, green, blue] = self.target.background.0;
        let (width, height) = self.size;
        format!(
            "{head}{graph};color=c=0x{red:02x}{green:02x}{blue:02x}:s={width}x{height}:d=1,format=gbrp[ground];\
             [ground][x]overlay=format=gbrp:shortest=1[y];{}",
            finish.between("y", "v")
        )
    }
}

/// How an AVIF tells its colours. ffmpeg writes no profile into one, only the number of a known set of primaries.
fn avif_primaries(picture: &Picture) -> Result<Vec<String>, MediaFailure> {
    let profile = picture.facts.told.carried(false).profile;
    let colours = match &profile {
        Some(profile) if !picture.colour.is_hdr() => picture::colours(profile),
        _ => ProfileColours::Srgb,
    };
    match colours {
        ProfileColours::Srgb => Ok(words("-color_primaries bt709")),
        ProfileColours::DisplayP3 => Ok(words("-color_primaries smpte432")),
        ProfileColours::Other => Err(MediaFailure::of_input(
            "unsupported_profile",
            "The picture has a colour profile that this worker cannot write into an AVIF; use jpeg, png or webp",
        )),
    }
}

async fn write(bench: &mut Workbench<'_>, plan: StillPlan<'_>) -> Result<Made, MediaFailure> {
    let target = plan.target;
    let path = bench.place(&format!("{OUTPUT}.{}", target.kind.ending()));
    let graph = plan.graph();
    let primaries = match target.kind {
        MediaKind::Avif => avif_primaries(plan.source)?,
        _ => Vec::new(),
    };
    let arguments = plan
        .inputs
        .options(["-filter_complex", &graph, "-map", "[v]", "-frames:v", "1"])
        .options(target.options())
        .options(primaries)
        .options(film::metadata_options(false, target.kind))
        .output(target.kind.muxer(), &path);
    bench.encode(arguments, Stretch::whole(0.0)).await?;
    // A profile of the old colours would tell wrong ones.
    let told = &plan.source.facts.told;
    let told = Told {
        profile: told
            .profile
            .clone()
            .filter(|_| !plan.source.colour.is_hdr()),
        ..told.clone()
    };
    tell(path, target.kind, &told.carried(plan.keep_metadata))
}

/// Writes into an output what it may tell, and nothing else.
fn tell(path: PathBuf, kind: MediaKind, told: &Told) -> Result<Made, MediaFailure> {
    let file = match std::fs::read(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(MediaFailure::damaged());
        }
        Err(error) => return Err(error.into()),
    };
    if file.is_empty() {
        return Err(MediaFailure::damaged());
    }
    let wrong = |_| MediaFailure::of_worker("ffmpeg wrote no picture");
    let told = picture::tell(kind, file, told).map_err(wrong)?;
    let size = picture::facts(kind, &told).map_err(wrong)?.seen();
    std::fs::write(&path, told)?;
    Ok(Made {
        size: Some(size),
        ..Made::new(path, kind)
    })
}

async fn only(bench: &mut Workbench<'_>) -> Result<Picture, MediaFailure> {
    let path = first(bench.job)?.path.clone();
    bench.picture(&path).await
}

fn opened(picture: &Picture) -> FfmpegArguments {
    FfmpegArguments::new().input(&["-noautorotate"], picture.kind, &picture.path)
}

async fn edited(
    bench: &mut Workbench<'_>,
    picture: &Picture,
    target: StillTarget,
    (edit, size): (Chain, Size),
    keep_metadata: bool,
) -> Result<Made, MediaFailure> {
    let plan = StillPlan {
        source: picture,
        inputs: opened(picture),
        graph: as_seen(picture, target).join(edit).between("0:v", "x"),
        size,
        target,
        keep_metadata,
    };
    write(bench, plan).await
}

pub(super) async fn convert(
    bench: &mut Workbench<'_>,
    conversion: &PictureConversion,
    keep: bool,
) -> Result<Made, MediaFailure> {
    let picture = only(bench).await?;
    let target = StillTarget {
        kind: conversion.format.kind(),
        quality: conversion.quality,
        background: conversion.background,
    };
    let unchanged = (Chain::default(), picture.size);
    edited(bench, &picture, target, unchanged, keep).await
}

pub(super) async fn resize(
    bench: &mut Workbench<'_>,
    resize: &Resize,
    keep: bool,
) -> Result<Made, MediaFailure> {
    let picture = only(bench).await?;
    let scaling = geometry::resized(picture.size, resize, Parity::Any)?;
    let edit = scaled(&picture.colour, filters::resize(scaling));
    let target = StillTarget::of(picture.kind);
    edited(bench, &picture, target, (edit, scaling.cut), keep).await
}

pub(super) async fn crop(
    bench: &mut Workbench<'_>,
    crop: &Crop,
    keep: bool,
) -> Result<Made, MediaFailure> {
    let picture = only(bench).await?;
    let part = geometry::part(picture.size, crop)?;
    let edit = Chain::default().then(filters::crop(part));
    let target = StillTarget::of(picture.kind);
    edited(bench, &picture, target, (edit, part.size), keep).await
}

pub(super) async fn mark(
    bench: &mut Workbench<'_>,
    wanted: &VisibleMark,
    format: Option<PictureFormat>,
    keep: bool,
) -> Result<Made, MediaFailure> {
    let picture = only(bench).await?;
    let laid = film::mark_picture(bench).await?;
    let target = StillTarget::of(format.map_or(picture.kind, PictureFormat::kind));
    let layout = filters::mark_layout(picture.size, laid.size, wanted);
    let mark = filters::mark_chain(laid.facts.orientation.filter(), layout, wanted.opacity);
    let mode = if picture.colour.has_alpha() {
        "gbrap"
    } else {
        "gbrp"
    };
    let base = as_seen(&picture, target)
        .then(format!("format={mode}"))
        .between("0:v", "base");
    let (x, y) = (layout.x, layout.y);
    let mark = mark.then("format=gbrap").between("1:v", "mark");
    let plan = StillPlan {
        source: &picture,
        inputs: opened(&picture).input(&["-noautorotate"], laid.kind, &laid.path),
        graph: format!("{base};{mark};[base][mark]overlay={x}:{y}:format=gbrp[x]"),
        size: picture.size,
        target,
        keep_metadata: keep,
    };
    write(bench, plan).await
}

pub(super) async fn thumbnail(
    bench: &mut Workbench<'_>,
    thumbnail: &Thumbnail,
    keep: bool,
) -> Result<Made, MediaFailure> {
    let path = first(bench.job)?.path.clone();
    let kind = probe::kind_of(&path)?;
    let target = StillTarget {
        quality: 85,
        ..StillTarget::of(thumbnail.format.kind())
    };
    if kind.is_picture() && kind != MediaKind::Gif {
        let picture = bench.picture(&path).await?;
        let size = geometry::within_width(picture.size, thumbnail.width, Parity::Any);
        let edit = scaled(&picture.colour, Chain::default().then(filters::scale(size)));
        return edited(bench, &picture, target, (edit, size), keep).await;
    }
    let film = bench.film(&path).await?;
    let at = match thumbnail.at {
        Some(at) if at.seconds() > film.duration => {
            return Err(MediaFailure::of_input(
                "outside_film",
                format!(
                    "`at` is {} s, and the film is {:.3} s long",
                    at.seconds(),
                    film.duration
                ),
            ));
        }
        Some(at) => at,
        None => FilmTime::from_seconds(film.duration * EARLY).unwrap_or_default(),
    };
    let size = geometry::within_width(film.size, thumbnail.width, Parity::Any);
    frame(bench, &film, at, size, target).await
}

/// Writes the frame that is shown at a time.
async fn frame(
    bench: &mut Workbench<'_>,
    film: &probe::Film,
    at: FilmTime,
    size: Size,
    target: StillTarget,
) -> Result<Made, MediaFailure> {
    let path = bench.place(&format!("{OUTPUT}.{}", target.kind.ending()));
    let colour = &film.colour;
    let mapped = if colour.is_hdr() {
        filters::tone_map(colour)
    } else {
        Chain::default().then(format!("scale=in_color_matrix={}", filters::matrix(film)))
    };
    let flat = filters::flat(colour);
    let chain = filters::as_seen(film)
        .then(filters::scale(size))
        .join(mapped)
        .join(flat)
        .then("format=gbrp")
        .join(target.finish(&Colour {
            pixel_format: "gbrp".into(),
            ..Colour::default()
        }));
    let graph = format!(
        "{}{}",
        filters::SCALER,
        chain.between(&film::pad(0, film), "v")
    );
    let time = at.to_string();
    // Behind the last frame there is none to find: then all frames up to the time are written over each other.
    let precise = (vec!["-ss", &time], vec!["-frames:v", "1"]);
    let last = (vec![], vec!["-frames:v", "100000"]);
    for (seek, count) in [precise, last] {
        let arguments = FfmpegArguments::new()
            .input(&seek, film.kind, &film.path)
            .options(["-filter_complex", &graph, "-map", "[v]"])
            .options(count)
            .options(target.options())
            .options(words("-color_primaries bt709"))
            .options(film::metadata_options(false, target.kind))
            .output(target.kind.muxer(), &path);
        let whole = Stretch::whole(0.0);
        bench.encode(arguments, whole).await?;
        if std::fs::metadata(&path).is_ok_and(|file| file.len() > 0) {
            break;
        }
    }
    tell(path, target.kind, &Told::default())
}

/// The bytes of all pixels, plane by plane, the luminance first.
async fn planes(
    bench: &mut Workbench<'_>,
    picture: &Picture,
    format: &str,
) -> Result<Vec<u8>, MediaFailure> {
    let path = bench.place("pixels");
    let graph = as_seen(picture, StillTarget::of(picture.kind))
        .then("scale=out_color_matrix=bt601:out_range=pc")
        .then(format!("format={format}"))
        .between("0:v", "v");
    let graph = format!("{}{graph}", filters::SCALER);
    let arguments = opened(picture)
        .options(["-filter_complex", &graph, "-map", "[v]", "-frames:v", "1"])
        .output("rawvideo", &path);
    bench.encode(arguments, Stretch::unseen()).await?;
    Ok(std::fs::read(&path)?)
}

fn pixels((width, height): Size) -> usize {
    width as usize * height as usize
}

/// Writes the picture with what `work` makes of its luminance.
pub(super) async fn through_pixels(
    bench: &mut Workbench<'_>,
    keep_metadata: bool,
    work: impl FnOnce(Size, &mut [u8]) -> Result<(), MediaFailure>,
) -> Result<Made, MediaFailure> {
    let picture = only(bench).await?;
    let (format, rgb) = if picture.colour.has_alpha() {
        ("yuva444p", "gbrap")
    } else {
        ("yuv444p", "gbrp")
    };
    let mut planes = planes(bench, &picture, format).await?;
    let luminance = planes
        .get_mut(..pixels(picture.size))
        .ok_or_else(MediaFailure::damaged)?;
    work(picture.size, luminance)?;
    let path = bench.place("pixels");
    std::fs::write(&path, planes)?;
    let graph = Chain::default()
        .then("scale=in_color_matrix=bt601:in_range=pc")
        .then(format!("format={rgb}"));
    let plan = StillPlan {
        source: &picture,
        inputs: FfmpegArguments::new().raw_input(format, picture.size, 1.0, Some(&path)),
        graph: graph.between("0:v", "x"),
        size: picture.size,
        target: StillTarget::of(picture.kind),
        keep_metadata,
    };
    write(bench, plan).await
}

/// The luminance of the job's picture.
pub(super) async fn luminance(bench: &mut Workbench<'_>) -> Result<(Size, Vec<u8>), MediaFailure> {
    let picture = only(bench).await?;
    let mut planes = planes(bench, &picture, "yuv444p").await?;
    planes.truncate(pixels(picture.size));
    Ok((picture.size, planes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_becomes_a_quantiser() {
        for (quality, scale) in [(100, 1.0), (95, 1.0), (85, 4.0), (50, 14.0), (1, 31.0)] {
            assert_eq!(jpeg_scale(quality), scale, "{quality}");
        }
    }

    #[test]
    fn a_target_without_transparency_is_written_without() {
        let colour = Colour {
            pixel_format: "rgba64be".into(),
            ..Colour::default()
        };
        for (kind, end) in [
            (MediaKind::Jpeg, "format=yuvj444p"),
            (MediaKind::Png, "format=rgba64be"),
            (MediaKind::Webp, "format=bgra"),
            (MediaKind::Bmp, "format=bgra"),
            (MediaKind::Avif, "format=yuv420p"),
        ] {
            let chain = StillTarget::of(kind).finish(&colour).between("a", "b");
            assert!(chain.ends_with(&format!("{end}[b]")), "{chain}");
        }
    }
}
