//! Makes films smaller.

use std::path::Path;

use super::{
    super::{
        films::{Compression, CompressionAim, VideoCodec},
        filters::{self},
        geometry::{self, Parity},
    },
    Made, copy,
    film::{self, FilmPlan, FilmRate, FilmTarget, SoundSource},
    first,
};
use crate::{
    ffmpeg::{FfmpegArguments, MediaFailure, Stretch, Workbench},
    kind::MediaKind,
    probe::{Film, Sound},
};

/// What a file needs beside pictures and sound, in bytes and as a part.
const OVERHEAD: (f64, f64) = (3000.0, 0.02);
/// The least bits a second of pictures.
const LEAST_VIDEO: f64 = 8_000.0;
/// How often a film is encoded to come below its target.
const ATTEMPTS: u8 = 3;

pub(super) async fn compress(
    bench: &mut Workbench<'_>,
    compression: &Compression,
    keep: bool,
) -> Result<Made, MediaFailure> {
    let path = first(bench.job)?.path.clone();
    let film = bench.film(&path).await?;
    let input = length(&path)?;
    let made = match compression.aim {
        CompressionAim::Crf(crf) => {
            let stretch = Stretch::whole(film.duration);
            let target = FilmTarget {
                sound_rate: 96_000,
                ..FilmTarget::like(&film, FilmRate::Crf(crf))
            };
            encode(bench, &film, target, compression.max_height, keep, stretch).await?
        }
        CompressionAim::Bytes(bytes) if bytes >= input && compression.max_height.is_none() => {
            return copied(bench, &film, keep).await;
        }
        CompressionAim::Bytes(bytes) => {
            to_target(bench, &film, bytes.min(input), compression, keep).await?
        }
    };
    if length(&made.path)? <= input {
        return Ok(made);
    }
    copied(bench, &film, keep).await
}

/// The input's own streams.
async fn copied(bench: &mut Workbench<'_>, film: &Film, keep: bool) -> Result<Made, MediaFailure> {
    let made = copy::film(bench, film, keep).await?;
    let is_larger = length(&made.path)? > length(&film.path)?;
    // Another writer of the same kind may need a few bytes more; nothing has to be taken out of such a file.
    if is_larger && (keep || !film.has_personal_tags) {
        tokio::fs::copy(&film.path, &made.path).await?;
    }
    Ok(made.note("kept", "the input's own streams: they are smaller"))
}

fn length(path: &Path) -> Result<u64, MediaFailure> {
    Ok(std::fs::metadata(path)?.len())
}

/// Bits a second for pictures and sound, so that a film of `seconds` has so many bytes. `None` if there is no room.
fn rates(bytes: f64, seconds: f64, has_sound: bool) -> Option<(u64, u32)> {
    let room = (bytes * (1.0 - OVERHEAD.1) - OVERHEAD.0) * 8.0 / seconds.max(0.04);
    let sound = if has_sound {
        // Sound gets a fifth, within what its encoders can use.
        (room / 5.0).clamp(24_000.0, 128_000.0)
    } else {
        0.0
    };
    let video = room - sound;
    (video >= LEAST_VIDEO).then_some((video as u64, sound as u32))
}

fn too_small(bytes: u64) -> MediaFailure {
    MediaFailure::of_input(
        "target_too_small",
        format!(
            "The film cannot be made as small as {bytes} bytes; allow more, or cut it or its height down first"
        ),
    )
}

/// Two passes, again with less if the file is still too large.
async fn to_target(
    bench: &mut Workbench<'_>,
    film: &Film,
    bytes: u64,
    compression: &Compression,
    keep: bool,
) -> Result<Made, MediaFailure> {
    let has_sound = matches!(film.sound, Sound::Track { .. });
    let mut aim = bytes as f64;
    for attempt in 0..ATTEMPTS {
        let (video, sound_rate) =
            rates(aim, film.duration, has_sound).ok_or_else(|| too_small(bytes))?;
        let step = 1.0 / f64::from(ATTEMPTS);
        let from = f64::from(attempt) * step;
        let passes = [
            (1, from, from + step / 3.0),
            (2, from + step / 3.0, from + step),
        ];
        let mut made = None;
        for (pass, from, to) in passes {
            let target = FilmTarget {
                sound_rate,
                ..FilmTarget::like(film, FilmRate::Bits { video, pass })
            };
            let stretch = Stretch {
                seconds: film.duration,
                from,
                to,
            };
            made = Some(encode(bench, film, target, compression.max_height, keep, stretch).await?);
        }
        let Some(made) = made else {
            break;
        };
        let reached = length(&made.path)?;
        if reached <= bytes {
            return Ok(made);
        }
        aim *= bytes as f64 / reached as f64 * 0.95;
    }
    Err(too_small(bytes))
}

async fn encode(
    bench: &mut Workbench<'_>,
    film: &Film,
    target: FilmTarget,
    max_height: Option<u32>,
    keep_metadata: bool,
    stretch: Stretch,
) -> Result<Made, MediaFailure> {
    let is_high = max_height.is_some_and(|height| height < film.size.1);
    let chain = if is_high {
        film::sized(
            film,
            geometry::within_height(film.size, max_height, Parity::Even),
        )
    } else {
        film::unsized_chain(film)
            .1
            .join(filters::finish(&film.colour))
    };
    let slow = target.codec == VideoCodec::H264 && target.kind != MediaKind::Gif;
    let plan = FilmPlan {
        film,
        inputs: FfmpegArguments::new().input(&[], film.kind, &film.path),
        graph: chain.between(&film::pad(0, film), "v"),
        sound: SoundSource::of(film),
        target,
        is_even: film.rate.is_some(),
        keep_metadata,
        more: if slow {
            film::words("-preset medium")
        } else {
            Vec::new()
        },
    };
    film::write(bench, plan, stretch).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_gets_a_fifth_within_bounds() {
        let (video, sound) = rates(1_000_000.0, 10.0, true).unwrap();
        assert_eq!(sound, 128_000);
        assert!((640_000..660_000).contains(&video), "{video}");
        let (_, sound) = rates(100_000.0, 10.0, true).unwrap();
        assert_eq!(sound, 24_000);
        assert_eq!(rates(3_000.0, 10.0, false), None);
        assert_eq!(rates(30_000.0, 10.0, true), None);
    }
}
