//! Makes films: the call of ffmpeg that writes one, and the operations on one film.

use std::path::Path;

use super::{
    super::{
        edits::{Crop, Resize, VisibleMark},
        films::{Container, Transcoding, VideoCodec},
        filters::{self, Chain},
        geometry::{self, Parity, Size},
    },
    Made, OUTPUT, first, told_of_sound,
};
use crate::{
    ffmpeg::{FfmpegArguments, MediaFailure, Stretch, Workbench},
    kind::MediaKind,
    probe::{Film, Picture, Sound},
};

/// The quality of a film that was only to be changed otherwise.
pub(super) const FINE: FilmRate = FilmRate::Crf(20);
/// The frames a second of a film without an even rate, when its frames are worked on one by one.
const UNEVEN_RATE: f64 = 30.0;
/// Of a film of more seconds only key frames are decoded to read a mark, because somebody waits.
const DECODED_WHOLE: f64 = 60.0;
/// VP9 counts its quality to 63, the others to 51.
const VP9_CRF: (u32, u32) = (63, 51);

/// How many bytes the pictures of a film may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FilmRate {
    Crf(u32),
    /// Bits a second, in two passes.
    Bits {
        video: u64,
        pass: u8,
    },
}

/// What a film is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FilmTarget {
    pub kind: MediaKind,
    pub codec: VideoCodec,
    pub rate: FilmRate,
    /// Bits a second.
    pub sound_rate: u32,
}

impl FilmTarget {
    /// The same kind as the input. A few old kinds become MP4.
    pub fn like(film: &Film, rate: FilmRate) -> Self {
        let kind = match film.kind {
            MediaKind::Asf | MediaKind::Ogg | MediaKind::MpegPs => MediaKind::Mp4,
            MediaKind::M4a => MediaKind::Mp4,
            kind => kind,
        };
        Self::of(kind, rate)
    }

    pub fn of(kind: MediaKind, rate: FilmRate) -> Self {
        let codec = if kind == MediaKind::Webm {
            VideoCodec::Vp9
        } else {
            VideoCodec::H264
        };
        Self {
            kind,
            codec,
            rate,
            sound_rate: 160_000,
        }
    }

    pub fn container(container: Container, rate: FilmRate) -> Self {
        let kind = match container {
            Container::Mp4 => MediaKind::Mp4,
            Container::Webm => MediaKind::Webm,
            Container::Mov => MediaKind::Mov,
        };
        Self::of(kind, rate)
    }

    fn has_sound(&self) -> bool {
        self.kind != MediaKind::Gif
    }

    fn sound_codec(&self) -> &'static str {
        match self.kind {
            MediaKind::Webm => "libopus",
            MediaKind::Avi => "libmp3lame",
            _ => "aac",
        }
    }

    fn video_options(&self) -> Vec<String> {
        let (encoder, speed) = match self.codec {
            _ if self.kind == MediaKind::Gif => return words("-c:v gif"),
            VideoCodec::H264 => ("libx264", "-preset fast"),
            VideoCodec::Hevc => (
                "libx265",
                "-preset fast -tag:v hvc1 -x265-params log-level=error",
            ),
            VideoCodec::Vp9 => ("libvpx-vp9", "-deadline good -cpu-used 4 -row-mt 1"),
        };
        let rate = match (self.rate, self.codec) {
            (FilmRate::Crf(crf), VideoCodec::Vp9) => {
                format!("-crf {} -b:v 0", crf * VP9_CRF.0 / VP9_CRF.1)
            }
            (FilmRate::Crf(crf), _) => format!("-crf {crf}"),
            (FilmRate::Bits { video, pass }, _) => {
                format!("-b:v {video} -pass {pass} -passlogfile passes")
            }
        };
        words(&format!("-c:v {encoder} {speed} {rate} -pix_fmt yuv420p"))
    }

    fn sound_options(&self, channels: u32) -> Vec<String> {
        words(&format!(
            "-c:a {} -b:a {} -ar 48000 -ac {}",
            self.sound_codec(),
            self.sound_rate,
            channels.clamp(1, 2)
        ))
    }

    fn file_options(&self) -> Vec<String> {
        if self.kind.has_moov() {
            words("-movflags +faststart")
        } else {
            Vec::new()
        }
    }
}

pub(super) fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// Where the sound of an output comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SoundSource {
    None,
    /// A stream of the first input.
    Stream {
        stream: usize,
        channels: u32,
    },
    /// The pad `a` of the graph.
    Graph,
}

impl SoundSource {
    pub fn of(film: &Film) -> Self {
        match film.sound {
            Sound::Track { stream, channels } => Self::Stream { stream, channels },
            Sound::None | Sound::Unreadable => Self::None,
        }
    }
}

/// A film to write.
pub(super) struct FilmPlan<'a> {
    /// The film whose colours, timing and tags the output has.
    pub film: &'a Film,
    pub inputs: FfmpegArguments,
    /// Ends in the pad `v`.
    pub graph: String,
    pub sound: SoundSource,
    pub target: FilmTarget,
    /// The output's frames come evenly.
    pub is_even: bool,
    pub keep_metadata: bool,
    /// Options of the output that come last.
    pub more: Vec<String>,
}

/// Names, places, times and cameras stay or go.
pub(super) fn metadata_options(keep: bool, kind: MediaKind) -> Vec<String> {
    if !keep {
        return words(
            "-map_metadata -1 -map_chapters -1 -fflags +bitexact -flags:v +bitexact -flags:a +bitexact",
        );
    }
    if kind == MediaKind::Mov {
        // Phones use names of their own, which are written only then.
        words("-map_metadata 0 -movflags +use_metadata_tags")
    } else {
        words("-map_metadata 0")
    }
}

impl FilmPlan<'_> {
    fn arguments(self, output: &Path) -> FfmpegArguments {
        let target = self.target;
        let graph = if target.kind == MediaKind::Gif {
            format!(
                "{}{};[v]split[c][d];[c]palettegen[p];[d][p]paletteuse[g]",
                filters::SCALER,
                self.graph
            )
        } else {
            format!("{}{}", filters::SCALER, self.graph)
        };
        let shown = if target.kind == MediaKind::Gif {
            "[g]"
        } else {
            "[v]"
        };
        let mut arguments = self
            .inputs
            .options(["-filter_complex", &graph, "-map", shown])
            .options(target.video_options())
            .options(filters::colour_options(&self.film.colour));
        if !self.is_even {
            // Times of frames are kept to less than a millisecond.
            arguments = arguments.options(["-fps_mode", "vfr", "-enc_time_base", "1:90000"]);
        }
        match self.sound {
            SoundSource::Stream { stream, channels } if target.has_sound() => {
                arguments = arguments
                    .options(["-map", &format!("0:{stream}"), "-af", "aresample=async=1"])
                    .options(target.sound_options(channels));
            }
            SoundSource::Graph if target.has_sound() => {
                arguments = arguments
                    .options(["-map", "[a]"])
                    .options(target.sound_options(2));
            }
            SoundSource::None | SoundSource::Stream { .. } | SoundSource::Graph => {}
        }
        arguments
            .options(target.file_options())
            .options(metadata_options(self.keep_metadata, target.kind))
            .options(self.more)
            .output(target.kind.muxer(), output)
    }
}

/// Writes a film of `seconds`.
pub(super) async fn write(
    bench: &mut Workbench<'_>,
    plan: FilmPlan<'_>,
    stretch: Stretch,
) -> Result<Made, MediaFailure> {
    let kind = plan.target.kind;
    let film = plan.film;
    let path = bench.place(&format!("{OUTPUT}.{}", kind.ending()));
    let arguments = plan.arguments(&path);
    bench.encode(arguments, stretch).await?;
    Ok(told_of_sound(Made::new(path, kind), film))
}

/// The filters of a film that only changes its size.
pub(super) fn sized(film: &Film, size: Size) -> Chain {
    let scaled = (size != film.size).then(|| filters::scale(size));
    filters::as_seen(film)
        .maybe(scaled)
        .join(filters::finish(&film.colour))
}

/// The filters of a film of its own size.
pub(super) fn unsized_chain(film: &Film) -> (Size, Chain) {
    let (size, evened) = filters::even(film.size);
    (size, filters::as_seen(film).join(evened))
}

/// The pad of a film's pictures.
pub(super) fn pad(input: usize, film: &Film) -> String {
    format!("{input}:{}", film.stream)
}

async fn only(bench: &mut Workbench<'_>) -> Result<Film, MediaFailure> {
    let path = first(bench.job)?.path.clone();
    bench.film(&path).await
}

fn opened(film: &Film) -> FfmpegArguments {
    FfmpegArguments::new().input(&[], film.kind, &film.path)
}

async fn edited(
    bench: &mut Workbench<'_>,
    film: &Film,
    chain: Chain,
    target: FilmTarget,
    keep_metadata: bool,
) -> Result<Made, MediaFailure> {
    let plan = FilmPlan {
        film,
        inputs: opened(film),
        graph: chain.between(&pad(0, film), "v"),
        sound: SoundSource::of(film),
        target,
        is_even: film.rate.is_some(),
        keep_metadata,
        more: Vec::new(),
    };
    write(bench, plan, Stretch::whole(film.duration)).await
}

pub(super) async fn transcode(
    bench: &mut Workbench<'_>,
    transcoding: &Transcoding,
    keep: bool,
) -> Result<Made, MediaFailure> {
    let film = only(bench).await?;
    let target = FilmTarget {
        codec: transcoding.codec,
        ..FilmTarget::container(transcoding.container, FilmRate::Crf(transcoding.crf))
    };
    let chain = match transcoding.max_height {
        Some(height) if height < film.size.1 => sized(
            &film,
            geometry::within_height(film.size, Some(height), Parity::Even),
        ),
        _ => unsized_chain(&film).1.join(filters::finish(&film.colour)),
    };
    let chain = chain.maybe(transcoding.fps.map(|fps| format!("fps={fps}")));
    let plan = FilmPlan {
        film: &film,
        inputs: opened(&film),
        graph: chain.between(&pad(0, &film), "v"),
        sound: SoundSource::of(&film),
        target,
        is_even: film.rate.is_some() || transcoding.fps.is_some(),
        keep_metadata: keep,
        more: Vec::new(),
    };
    write(bench, plan, Stretch::whole(film.duration)).await
}

pub(super) async fn resize(
    bench: &mut Workbench<'_>,
    resize: &Resize,
    keep: bool,
) -> Result<Made, MediaFailure> {
    let film = only(bench).await?;
    let scaling = geometry::resized(film.size, resize, Parity::Even)?;
    let chain = filters::as_seen(&film)
        .join(filters::resize(scaling))
        .join(filters::finish(&film.colour));
    let target = FilmTarget::like(&film, FINE);
    edited(bench, &film, chain, target, keep).await
}

pub(super) async fn crop(
    bench: &mut Workbench<'_>,
    crop: &Crop,
    keep: bool,
) -> Result<Made, MediaFailure> {
    let film = only(bench).await?;
    let part = geometry::part(film.size, crop)?;
    let (_, evened) = filters::even(part.size);
    let chain = filters::as_seen(&film)
        .join(filters::crop_film(part))
        .join(evened)
        .join(filters::finish(&film.colour));
    let target = FilmTarget::like(&film, FINE);
    edited(bench, &film, chain, target, keep).await
}

/// The filters that lay a mark over a finished film: from the pads `base` and the mark's to `to`.
pub(super) fn overlay(
    film: &Film,
    size: Size,
    mark: (&str, &Picture, &VisibleMark),
    to: &str,
) -> String {
    let (pad, picture, wanted) = mark;
    let layout = filters::mark_layout(size, picture.size, wanted);
    let matrix = filters::matrix(film);
    let turned = picture.facts.orientation.filter();
    let chain = filters::mark_chain(turned, layout, wanted.opacity)
        .then(format!("scale=out_color_matrix={matrix}:out_range=tv"))
        .then("format=yuva420p");
    let laid = chain.between(pad, "mark");
    let (x, y) = (layout.x, layout.y);
    format!("{laid};[base][mark]overlay={x}:{y},format=yuv420p[{to}]")
}

/// The picture that is laid over, which is the last input.
pub(super) async fn mark_picture(bench: &mut Workbench<'_>) -> Result<Picture, MediaFailure> {
    let input = bench.job.inputs.get(1).map(|input| input.path.clone());
    let path =
        input.ok_or_else(|| MediaFailure::of_worker("The worker has no mark to lay over"))?;
    bench.picture(&path).await.map_err(|failure| MediaFailure {
        sentence: format!("The watermark cannot be used. {}", failure.sentence),
        ..failure
    })
}

pub(super) async fn mark(
    bench: &mut Workbench<'_>,
    wanted: &VisibleMark,
    container: Option<Container>,
    keep: bool,
) -> Result<Made, MediaFailure> {
    let film = only(bench).await?;
    let picture = mark_picture(bench).await?;
    let target = container.map_or_else(
        || FilmTarget::like(&film, FINE),
        |container| FilmTarget::container(container, FINE),
    );
    let (size, chain) = unsized_chain(&film);
    let base = chain
        .join(filters::finish(&film.colour))
        .between(&pad(0, &film), "base");
    let laid = overlay(&film, size, ("1:v", &picture, wanted), "v");
    let plan = FilmPlan {
        film: &film,
        inputs: opened(&film).input(&["-noautorotate"], picture.kind, &picture.path),
        graph: format!("{base};{laid}"),
        sound: SoundSource::of(&film),
        target,
        is_even: film.rate.is_some(),
        keep_metadata: keep,
        more: Vec::new(),
    };
    write(bench, plan, Stretch::whole(film.duration)).await
}

/// The frames of a film as they are seen, in `yuv420p` or `gray`.
fn frames(film: &Film, skip: &[&str], rate: f64, format: &str) -> (Size, FfmpegArguments) {
    let (size, chain) = unsized_chain(film);
    let graph = chain
        .join(filters::finish(&film.colour))
        .then(format!("fps={rate}"))
        .then(format!("format={format}"))
        .between(&pad(0, film), "v");
    let graph = format!("{}{graph}", filters::SCALER);
    let arguments = FfmpegArguments::of_frames()
        .input(skip, film.kind, &film.path)
        .options(["-filter_complex", &graph, "-map", "[v]"])
        .raw_output();
    (size, arguments)
}

fn pixels((width, height): Size) -> usize {
    width as usize * height as usize
}

/// What is done to the luminance of each frame.
pub(super) type LuminanceWork<'a> =
    dyn FnMut(Size, &mut [u8]) -> Result<(), MediaFailure> + Send + 'a;

/// Writes the film with what `work` makes of the luminance of its frames.
pub(super) async fn through_frames(
    bench: &mut Workbench<'_>,
    keep_metadata: bool,
    work: &mut LuminanceWork<'_>,
) -> Result<Made, MediaFailure> {
    let film = only(bench).await?;
    let rate = film.rate.unwrap_or(UNEVEN_RATE);
    let (size, decode) = frames(&film, &[], rate, "yuv420p");
    let target = FilmTarget::like(&film, FINE);
    let path = bench.place(&format!("{OUTPUT}.{}", target.kind.ending()));
    let plan = FilmPlan {
        film: &film,
        inputs: opened(&film).raw_input("yuv420p", size, rate, None),
        graph: "[1:v]null[v]".into(),
        sound: SoundSource::of(&film),
        target,
        is_even: true,
        keep_metadata,
        more: Vec::new(),
    };
    let luminance = pixels(size);
    let mut on_frame = |frame: &mut [u8]| work(size, &mut frame[..luminance]);
    let stretch = Stretch::whole(film.duration);
    bench
        .change_frames(
            decode,
            plan.arguments(&path),
            luminance * 3 / 2,
            &mut on_frame,
            stretch,
        )
        .await?;
    Ok(told_of_sound(Made::new(path, target.kind), &film))
}

/// Gives about so many frames, spread over the film, to `work`.
pub(super) async fn read_frames(
    bench: &mut Workbench<'_>,
    count: usize,
    work: &mut LuminanceWork<'_>,
) -> Result<(), MediaFailure> {
    let film = only(bench).await?;
    let most = film.rate.unwrap_or(UNEVEN_RATE);
    let rate = (count as f64 / film.duration.max(0.04)).min(most);
    let skip: &[&str] = if film.duration > DECODED_WHOLE {
        &["-skip_frame", "nokey"]
    } else {
        &[]
    };
    let (size, decode) = frames(&film, skip, rate, "gray");
    let mut on_frame = |frame: &mut [u8]| work(size, frame);
    bench.read_frames(decode, pixels(size), &mut on_frame).await
}
