//! The survival matrix of invisible marks: generated pictures, pictures and films of ffmpeg's own
//! sources, and photographs where there are some.

use std::path::Path;

use genie_marks::{
    FilmMarker, FilmReader, LEAST_PSNR, MarkKey,
    testing::{
        attacks::Attack,
        matrix::{self, Survival},
        pictures::{self, TestPicture},
    },
};

use crate::{
    Selection,
    setup::Measured,
    table::{Bound, Row},
};

mod ffmpeg;

/// Generated pictures. With those of ffmpeg they are the matrix' pictures.
const PICTURES: usize = 160;
/// Films of generated scenes.
const FILMS: usize = 24;
/// Two seconds.
const FRAMES: usize = 50;
const FILM_SIZE: (usize, usize) = (640, 360);
/// A residual is made for each frame of this number, and each of this number is read.
const EVERY: usize = 5;
const QUALITIES: [u32; 2] = [23, 28];
/// Crops of pictures that were never marked.
const CROPS: usize = 10_000;

/// What must survive, in percent. The other rows' bounds say what was reached.
fn least(attack: Attack) -> f64 {
    match attack {
        Attack::Nothing | Attack::Jpeg(_) | Attack::Resize(_) => 95.0,
        Attack::Brightness(_) => 80.0,
        Attack::Crop(_) => 70.0,
        Attack::Screenshot => 85.0,
    }
}

pub fn measure(wanted: &Selection, photographs: Option<&Path>) -> Measured<Vec<Row>> {
    let key = MarkKey::new(&[7; 32]);
    let mut rows = Vec::new();
    let generated = || -> Measured<Vec<TestPicture>> {
        let mut pictures: Vec<_> = (0..PICTURES).map(pictures::generated).collect();
        pictures.extend(ffmpeg::pictures()?);
        Ok(pictures)
    };
    rows.extend(matrix_of(&key, wanted, "marks", generated)?);
    if let Some(folder) = photographs {
        rows.extend(matrix_of(&key, wanted, "marks.photographs", || {
            ffmpeg::photographs(folder)
        })?);
    }
    for quality in QUALITIES {
        let name = format!("marks.h264_crf_{quality}");
        if wanted.wants(std::slice::from_ref(&name)) {
            let survival = films(&key, name, quality)?;
            rows.push(row(&survival, if quality == 23 { 95.0 } else { 80.0 }));
        }
    }
    let name = format!("marks.false_in_{CROPS}_crops");
    if wanted.wants(std::slice::from_ref(&name)) {
        let found = matrix::false_marks(&key, CROPS) as f64;
        rows.push(Row::new(name, found, "crops", Bound::AtMost(0.0)));
    }
    Ok(rows)
}

/// The rows of pictures. Nothing is made when no row is wanted.
fn matrix_of(
    key: &MarkKey,
    wanted: &Selection,
    prefix: &str,
    pictures: impl Fn() -> Measured<Vec<TestPicture>>,
) -> Measured<Vec<Row>> {
    let name = |attack: &Attack| format!("{prefix}.{}", attack.name());
    let attacks: Vec<Attack> = Attack::ALL
        .into_iter()
        .filter(|attack| wanted.wants(&[name(attack)]))
        .collect();
    if attacks.is_empty() {
        return Ok(Vec::new());
    }
    let survivals = matrix::survival(key, &pictures()?, &attacks);
    let rows = survivals
        .into_iter()
        .zip(&attacks)
        .map(|(survival, attack)| {
            let survival = Survival {
                name: name(attack),
                ..survival
            };
            row(&survival, least(*attack))
        });
    Ok(rows.collect())
}

fn row(survival: &Survival, least: f64) -> Row {
    let Survival {
        name,
        kept,
        of,
        lost,
    } = survival;
    eprintln!("{name}: {kept} of {of}; lost: {}", lost.join(", "));
    Row::new(name.clone(), survival.percent(), "%", Bound::AtLeast(least))
}

/// Marks films, compresses them with x264 and reads them.
fn films(key: &MarkKey, name: String, quality: u32) -> Measured<Survival> {
    let mut films: Vec<_> = (0..FILMS)
        .map(|index| pictures::film(index, FRAMES, FILM_SIZE.0, FILM_SIZE.1))
        .collect();
    films.extend(ffmpeg::films(FILM_SIZE, FRAMES)?);
    let kept = matrix::shared_out(films.len(), &|index| {
        survives(key, &films[index], matrix::number(index), quality)
            .map_err(|error| error.to_string())
    });
    let kept = kept.into_iter().collect::<Result<Vec<bool>, String>>()?;
    let lost = films.iter().zip(&kept).filter(|(_, kept)| !**kept);
    Ok(Survival {
        name,
        kept: kept.iter().filter(|kept| **kept).count(),
        of: films.len(),
        lost: lost.map(|(film, _)| film[0].name.clone()).collect(),
    })
}

fn survives(key: &MarkKey, film: &[TestPicture], number: u32, quality: u32) -> Measured<bool> {
    let (width, height) = FILM_SIZE;
    let every = EVERY.try_into()?;
    let mut marker = FilmMarker::new(key, number, width, height, every);
    let mut marked = film.to_vec();
    for frame in &mut marked {
        marker.mark(&mut frame.pixels)?;
    }
    let embedded = marker.embedded();
    if embedded.psnr < LEAST_PSNR {
        return Err(format!("{}: {embedded:?}", film[0].name).into());
    }
    let mut reader = FilmReader::new(key);
    for frame in ffmpeg::through_x264(&marked, quality)?
        .iter()
        .step_by(EVERY)
    {
        reader.read(frame.width, frame.height, &frame.pixels);
    }
    match reader.majority() {
        Some(found) if found.number != number => {
            Err(format!("{}: a false number {found:?}", film[0].name).into())
        }
        found => Ok(found.is_some()),
    }
}
