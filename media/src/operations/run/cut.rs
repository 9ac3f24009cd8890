//! Makes films of parts and of several films.

use super::{
    super::{
        edits::VisibleMark,
        films::{Teaser, Trim},
        filters::{self, Chain},
        geometry::{self, Parity, Size},
        time::FilmTime,
    },
    Made,
    film::{self, FINE, FilmPlan, FilmTarget, SoundSource},
    first,
};
use crate::{
    ffmpeg::{FfmpegArguments, MediaFailure, Stretch, Workbench},
    probe::{Film, Sound},
};

/// The frames a second of joined films whose first has none.
const RATE: f64 = 30.0;

pub(super) async fn trim(
    bench: &mut Workbench<'_>,
    trim: &Trim,
    keep: bool,
) -> Result<Made, MediaFailure> {
    let path = first(bench.job)?.path.clone();
    let film = bench.film(&path).await?;
    let start = trim.start.seconds();
    if start >= film.duration {
        return Err(MediaFailure::of_input(
            "outside_film",
            format!(
                "`start` is {start} s, and the film is {:.3} s long",
                film.duration
            ),
        ));
    }
    let end = trim
        .end
        .map_or(film.duration, |end| end.seconds().min(film.duration));
    let length = seconds(end - start);
    let from = trim.start.to_string();
    let (_, chain) = film::unsized_chain(&film);
    let chain = chain.join(filters::finish(&film.colour));
    let plan = FilmPlan {
        film: &film,
        inputs: FfmpegArguments::new().input(&["-ss", &from], film.kind, &film.path),
        graph: chain.between(&film::pad(0, &film), "v"),
        sound: SoundSource::of(&film),
        target: FilmTarget::like(&film, FINE),
        is_even: film.rate.is_some(),
        keep_metadata: keep,
        more: vec!["-t".into(), length.to_string()],
    };
    film::write(bench, plan, Stretch::whole(length.seconds())).await
}

fn seconds(seconds: f64) -> FilmTime {
    FilmTime::from_seconds(seconds.max(0.0)).unwrap_or_default()
}

/// A part of a film, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Clip {
    start: f64,
    length: f64,
}

/// The clips of a teaser, each of whole frames. A film shorter than its teaser is the teaser.
fn clips(length: f64, rate: Option<f64>, teaser: &Teaser) -> Vec<Clip> {
    let wanted = teaser.duration.seconds();
    if length <= wanted {
        return vec![Clip { start: 0.0, length }];
    }
    let count = f64::from(teaser.clips);
    let boundary = |clip: u32| {
        let time = wanted * f64::from(clip) / count;
        rate.map_or(time, |rate| (time * rate).round() / rate)
    };
    let clip = |number: u32| {
        let part = boundary(number + 1) - boundary(number);
        let middle = (f64::from(number) + 0.5) * length / count;
        Clip {
            start: (middle - part / 2.0).max(0.0),
            length: part,
        }
    };
    (0..teaser.clips)
        .map(clip)
        // More clips than frames.
        .filter(|clip| clip.length > 0.0)
        .collect()
}

pub(super) async fn teaser(
    bench: &mut Workbench<'_>,
    teaser: &Teaser,
    keep: bool,
) -> Result<Made, MediaFailure> {
    let path = first(bench.job)?.path.clone();
    let film = bench.film(&path).await?;
    let mark = if bench.job.inputs.len() > 1 {
        Some(film::mark_picture(bench).await?)
    } else {
        None
    };
    let size = geometry::within_height(film.size, Some(teaser.max_height), Parity::Even);
    let clips = clips(film.duration, film.rate, teaser);
    // Less than a frame, so that a rounded time takes in no frame more.
    let margin = film.rate.map_or(0.0, |rate| 0.25 / rate);
    let mut inputs = FfmpegArguments::new();
    let mut parts = Vec::new();
    for (place, clip) in clips.iter().enumerate() {
        let start = seconds(clip.start).to_string();
        let length = seconds(clip.length - margin).to_string();
        let options = ["-ss", &start, "-t", &length];
        inputs = inputs.input(&options, film.kind, &film.path);
        let shown = film::sized(&film, size).then("setpts=PTS-STARTPTS");
        parts.push(JoinPart::new(place, &film, shown, clip.length));
    }
    let mut graph = joined(&parts, if mark.is_some() { "base" } else { "v" });
    if let Some(mark) = &mark {
        let pad = format!("{}:v", clips.len());
        let laid = (pad.as_str(), mark, &VisibleMark::DEFAULT);
        inputs = inputs.input(&["-noautorotate"], mark.kind, &mark.path);
        graph = format!("{graph};{}", film::overlay(&film, size, laid, "v"));
    }
    let length = clips.iter().map(|clip| clip.length).sum();
    let plan = FilmPlan {
        film: &film,
        inputs,
        graph,
        sound: sound_of(&parts),
        target: FilmTarget::like(&film, FINE),
        is_even: film.rate.is_some(),
        keep_metadata: keep,
        more: Vec::new(),
    };
    film::write(bench, plan, Stretch::whole(length)).await
}

/// One part of a film made of several.
struct JoinPart {
    input: usize,
    shown: String,
    sound: Option<usize>,
    /// In seconds.
    length: f64,
}

impl JoinPart {
    fn new(input: usize, film: &Film, shown: Chain, length: f64) -> Self {
        let sound = match film.sound {
            Sound::Track { stream, .. } => Some(stream),
            Sound::None | Sound::Unreadable => None,
        };
        Self {
            input,
            shown: shown.between(&film::pad(input, film), &format!("v{input}")),
            sound,
            length,
        }
    }

    /// The sound of this part's length: its own, or silence.
    fn heard(&self) -> String {
        let (input, length) = (self.input, self.length);
        match self.sound {
            Some(stream) => format!(
                "[{input}:{stream}]aresample=48000:async=1:first_pts=0,\
                 aformat=sample_fmts=fltp:channel_layouts=stereo,apad,atrim=0:{length:.6},\
                 asetpts=N/SR/TB[a{input}]"
            ),
            None => format!(
                "anullsrc=r=48000:cl=stereo,aformat=sample_fmts=fltp,atrim=0:{length:.6}[a{input}]"
            ),
        }
    }
}

fn sound_of(parts: &[JoinPart]) -> SoundSource {
    if parts.iter().any(|part| part.sound.is_some()) {
        SoundSource::Graph
    } else {
        SoundSource::None
    }
}

/// The parts one after the other, in the pads `shown` and `a`.
fn joined(parts: &[JoinPart], shown: &str) -> String {
    let has_sound = sound_of(parts) == SoundSource::Graph;
    let mut graph = Vec::new();
    let mut pads = String::new();
    for part in parts {
        graph.push(part.shown.clone());
        pads += &format!("[v{}]", part.input);
        if has_sound {
            graph.push(part.heard());
            pads += &format!("[a{}]", part.input);
        }
    }
    let count = parts.len();
    let (sounds, heard) = if has_sound { (1, "[a]") } else { (0, "") };
    graph.push(format!(
        "{pads}concat=n={count}:v=1:a={sounds}[{shown}]{heard}"
    ));
    graph.join(";")
}

/// A film fitted into the frame of the first, black around it.
fn fitted(film: &Film, frame: Size, rate: f64, matrix: &str) -> Chain {
    let size = geometry::fitted(film.size, frame);
    let (x, y) = ((frame.0 - size.0) / 2, (frame.1 - size.1) / 2);
    let own = filters::matrix(film);
    let converted = (own != matrix)
        .then(|| format!("scale=in_color_matrix={own}:out_color_matrix={matrix},format=yuv420p"));
    let padded = (size != frame).then(|| format!("pad={}:{}:{x}:{y}", frame.0, frame.1));
    film::sized(film, size)
        .maybe(converted)
        .maybe(padded)
        .then("setsar=1")
        .then(format!("fps={rate}"))
        .then("setpts=PTS-STARTPTS")
}

pub(super) async fn join(bench: &mut Workbench<'_>, keep: bool) -> Result<Made, MediaFailure> {
    let mut films = Vec::new();
    let paths: Vec<_> = bench
        .job
        .inputs
        .iter()
        .map(|input| input.path.clone())
        .collect();
    for (place, path) in paths.iter().enumerate() {
        let film = bench.film(path).await.map_err(|failure| MediaFailure {
            sentence: format!("Input {}: {}", place + 1, failure.sentence),
            ..failure
        })?;
        films.push(film);
    }
    let Some(film) = films.first() else {
        return Err(MediaFailure::of_worker(
            "The worker has no input for this job",
        ));
    };
    let (frame, _) = filters::even(film.size);
    let rate = film.rate.unwrap_or(RATE);
    let matrix = filters::matrix(film);
    let mut inputs = FfmpegArguments::new();
    let mut parts = Vec::new();
    for (place, part) in films.iter().enumerate() {
        inputs = inputs.input(&[], part.kind, &part.path);
        let shown = fitted(part, frame, rate, matrix);
        parts.push(JoinPart::new(place, part, shown, part.duration));
    }
    let length = films.iter().map(|film| film.duration).sum();
    let lost = films
        .iter()
        .filter(|film| film.sound == Sound::Unreadable)
        .count();
    let plan = FilmPlan {
        film,
        inputs,
        graph: joined(&parts, "v"),
        sound: sound_of(&parts),
        target: FilmTarget::like(film, FINE),
        is_even: true,
        keep_metadata: keep,
        more: Vec::new(),
    };
    let made = film::write(bench, plan, Stretch::whole(length)).await?;
    Ok(match lost {
        0 => made,
        lost => made.note(
            "sound",
            format!("silent in {lost} parts: this worker decodes none of their sound tracks"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_are_spread_over_the_length() {
        let teaser = |duration, clips| Teaser {
            duration: seconds(duration),
            clips,
            max_height: 720,
        };
        let of = |start, length| Clip { start, length };
        assert_eq!(
            clips(90.0, Some(25.0), &teaser(15.0, 3)),
            [of(12.5, 5.0), of(42.5, 5.0), of(72.5, 5.0)]
        );
        assert_eq!(clips(10.0, Some(25.0), &teaser(15.0, 3)), [of(0.0, 10.0)]);
        // Two clips of half a second are 12 and 13 frames.
        let halves = clips(9.0, Some(25.0), &teaser(1.0, 2));
        assert_eq!(halves.len(), 2);
        assert!((halves[0].length - 0.52).abs() < 1e-9);
        assert!((halves[1].length - 0.48).abs() < 1e-9);
        assert_eq!(clips(9.0, Some(25.0), &teaser(0.04, 20)).len(), 1);
        let close = clips(15.1, None, &teaser(15.0, 20));
        let apart = |pair: &[Clip]| pair[0].start + pair[0].length <= pair[1].start + 1e-9;
        assert!(close.windows(2).all(apart));
        assert!(close[0].start >= 0.0 && close[19].start + close[19].length <= 15.1 + 1e-9);
    }

    #[test]
    fn a_silent_part_stays_silent() {
        let part = |input, sound| JoinPart {
            input,
            shown: format!("[{input}:0]null[v{input}]"),
            sound,
            length: 1.5,
        };
        let silent = joined(&[part(0, None), part(1, None)], "v");
        assert_eq!(
            silent,
            "[0:0]null[v0];[1:0]null[v1];[v0][v1]concat=n=2:v=1:a=0[v]"
        );
        let mixed = joined(&[part(0, None), part(1, Some(2))], "v");
        assert!(
            mixed.contains(
                "anullsrc=r=48000:cl=stereo,aformat=sample_fmts=fltp,atrim=0:1.500000[a0]"
            )
        );
        assert!(mixed.contains("[1:2]aresample"));
        assert!(mixed.ends_with("[v0][a0][v1][a1]concat=n=2:v=1:a=1[v][a]"));
    }
}
