//! Marks in small pictures. The survival matrix has larger ones and many of them.

use std::num::NonZero;

use crate::{
    FilmMarker, FilmReader, LEAST_PSNR, MarkError, MarkKey, Residual, detect, detect_whole, embed,
    testing::{
        attacks::Attack,
        chance::Chance,
        matrix::{marked, survives},
        pictures::{self, KINDS, TestPicture},
    },
};

const NUMBER: u32 = 0xDEAD_1234;

fn key() -> MarkKey {
    MarkKey::new(&[7; 32])
}

fn picture(kind: &str) -> TestPicture {
    let index = KINDS.iter().position(|known| *known == kind).unwrap();
    pictures::generated_with(index, 400, 300)
}

fn plain(shade: u8, width: usize, height: usize) -> TestPicture {
    TestPicture {
        name: format!("plain {shade}"),
        width,
        height,
        pixels: vec![shade; width * height],
    }
}

#[test]
fn a_number_survives_what_pictures_go_through() {
    let key = key();
    for kind in ["clouds", "portrait", "gradient", "grain", "weave", "chart"] {
        let marked = marked(&key, &picture(kind), NUMBER).unwrap();
        assert!(marked.psnr >= LEAST_PSNR);
        for attack in [
            Attack::Nothing,
            Attack::Jpeg(70),
            Attack::Jpeg(50),
            Attack::Resize(0.5),
            Attack::Resize(2.0),
            Attack::Brightness(0.8),
        ] {
            assert!(survives(&key, &marked, attack, 1), "{kind} {attack:?}");
        }
    }
}

#[test]
fn plain_black_and_white_leave_nothing_of_what_is_allowed_unused() {
    let key = key();
    let mut chance = Chance::new(3);
    let (width, height) = (512, 256);
    let squares: Vec<u8> = (0..64 * 128).map(|_| chance.below(2) as u8 * 255).collect();
    let square = |at: usize| squares[at / width / 4 * 128 + at % width / 4];
    let mut pixels: Vec<u8> = (0..width * height).map(square).collect();
    let residual = Residual::new(&key, NUMBER, width, height, &pixels).unwrap();
    let embedded = residual.add_within(width, height, &mut pixels);
    let likeness = LEAST_PSNR..LEAST_PSNR + 1.0;
    assert!(likeness.contains(&embedded.psnr), "{embedded:?}");
}

#[test]
fn a_crop_and_a_screenshot_are_found() {
    let key = key();
    let marked = marked(&key, &picture("clouds"), NUMBER).unwrap();
    for attack in [Attack::Crop(10), Attack::Crop(20), Attack::Screenshot] {
        let attacked = attack.done_to(&marked.picture, &mut Chance::new(5));
        let (width, height) = (attacked.width, attacked.height);
        assert_eq!(
            detect_whole(&key, width, height, &attacked.pixels),
            None,
            "{attack:?}"
        );
        let found = detect(&key, width, height, &attacked.pixels).unwrap();
        assert_eq!(found.number, NUMBER);
        let is_crop = matches!(attack, Attack::Crop(_));
        assert_eq!(found.placement.width > width as f64, is_crop, "{found:?}");
    }
}

#[test]
fn the_placement_of_a_crop_is_told() {
    let key = key();
    let marked = marked(&key, &picture("grain"), NUMBER).unwrap().picture;
    let rows = marked.pixels.chunks(400).skip(20).take(270);
    let pixels: Vec<u8> = rows.flat_map(|row| row[30..390].to_vec()).collect();
    let placement = detect(&key, 360, 270, &pixels).unwrap().placement;
    for (found, expected) in [
        (placement.left, -30.0),
        (placement.top, -20.0),
        (placement.width, 400.0),
        (placement.height, 300.0),
    ] {
        assert!((found - expected).abs() < 4.0, "{placement:?}");
    }
}

#[test]
fn another_key_reads_nothing() {
    let marked = marked(&key(), &picture("portrait"), NUMBER)
        .unwrap()
        .picture;
    let other = MarkKey::new(&[8; 32]);
    assert_eq!(
        detect(&other, marked.width, marked.height, &marked.pixels),
        None
    );
}

#[test]
fn an_unmarked_picture_has_no_number() {
    let key = key();
    for kind in KINDS {
        let picture = picture(kind);
        assert_eq!(
            detect(&key, picture.width, picture.height, &picture.pixels),
            None,
            "{kind}"
        );
    }
    for shade in [0, 128, 255] {
        let plain = plain(shade, 200, 150);
        assert_eq!(detect(&key, 200, 150, &plain.pixels), None, "{shade}");
    }
}

#[test]
fn marks_are_invisible_in_plain_pictures() {
    let key = key();
    let marked = marked(&key, &plain(128, 301, 203), NUMBER).unwrap();
    assert!(marked.psnr > 45.0, "{}", marked.psnr);
    let greatest = marked
        .picture
        .pixels
        .iter()
        .map(|pixel| pixel.abs_diff(128))
        .max();
    assert!(greatest < Some(8), "{greatest:?}");
    assert!(survives(&key, &marked, Attack::Jpeg(70), 1));
}

#[test]
fn a_residual_that_another_program_adds_is_read() {
    let key = key();
    let mut picture = picture("portrait");
    let residual = Residual::new(&key, NUMBER, 400, 300, &picture.pixels).unwrap();
    let levels = residual.levels();
    assert_eq!(levels.len(), Residual::SIDE * Residual::SIDE);
    // The nearest sample is a worse enlargement than any program's.
    for (at, pixel) in picture.pixels.iter_mut().enumerate() {
        let (x, y) = (
            at % 400 * Residual::SIDE / 400,
            at / 400 * Residual::SIDE / 300,
        );
        let level = f32::from(levels[y * Residual::SIDE + x]) - f32::from(Residual::ZERO);
        let changed = f32::from(*pixel) + level / Residual::STEPS;
        *pixel = changed.round().clamp(0.0, 255.0) as u8;
    }
    let found = detect_whole(&key, 400, 300, &picture.pixels);
    assert_eq!(found.map(|found| found.number), Some(NUMBER));
}

#[test]
fn a_second_mark_replaces_the_first_or_is_refused() {
    let key = key();
    let mut twice = marked(&key, &picture("clouds"), NUMBER).unwrap().picture;
    let (width, height) = (twice.width, twice.height);
    let again = embed(&key, 99, width, height, &mut twice.pixels);
    let expected = if again.is_ok() { 99 } else { NUMBER };
    let found = detect(&key, width, height, &twice.pixels).unwrap();
    assert_eq!(found.number, expected, "{again:?}");
}

#[test]
fn wrong_sizes_are_refused_and_nothing_is_changed() {
    let key = key();
    let mut pixels = vec![90; 200 * 100];
    for (width, height, error) in [
        (200, 101, MarkError::WrongSize),
        (usize::MAX, 2, MarkError::WrongSize),
        (400, 50, MarkError::TooSmall),
        (0, 0, MarkError::WrongSize),
    ] {
        assert_eq!(embed(&key, NUMBER, width, height, &mut pixels), Err(error));
        assert_eq!(detect(&key, width, height, &pixels), None);
    }
    assert!(pixels.iter().all(|pixel| *pixel == 90));
    assert_eq!(embed(&key, NUMBER, 0, 0, &mut []), Err(MarkError::TooSmall));
    assert_eq!(detect(&key, 0, 0, &[]), None);
}

#[test]
fn a_picture_that_holds_no_mark_is_left_alone() {
    // Harsh noise in each sample of the carrier is stronger than any mark that is weak enough.
    let mut chance = Chance::new(3);
    let noise = (0..128 * 128).map(|_| if chance.share() < 0.5 { 30 } else { 225 });
    let mut pixels: Vec<u8> = noise.collect();
    let before = pixels.clone();
    assert_eq!(
        embed(&key(), NUMBER, 128, 128, &mut pixels),
        Err(MarkError::Unreadable)
    );
    assert!(pixels == before);
}

#[test]
fn a_film_gives_its_number_from_some_frames() {
    let key = key();
    let every = NonZero::new(3).unwrap();
    let mut frames = pictures::film(1, 7, 320, 240);
    let mut marker = FilmMarker::new(&key, NUMBER, 320, 240, every);
    for frame in &mut frames {
        marker.mark(&mut frame.pixels).unwrap();
    }
    let embedded = marker.embedded();
    assert_eq!(
        (embedded.frames, embedded.made_for, embedded.readable),
        (7, 3, 3)
    );
    assert!(embedded.psnr >= LEAST_PSNR, "{embedded:?}");

    let mut reader = FilmReader::new(&key);
    for frame in frames.iter().skip(1).step_by(2) {
        let frame = Attack::Jpeg(60).done_to(frame, &mut Chance::new(1));
        reader.read(frame.width, frame.height, &frame.pixels);
    }
    let found = reader.majority().unwrap();
    assert_eq!((found.number, found.read), (NUMBER, 3));
    assert!(found.frames >= 2, "{found:?}");
}

#[test]
fn the_number_of_most_frames_wins_and_a_tie_is_none() {
    let key = key();
    let frame = |number| {
        marked(&key, &picture("clouds"), number)
            .unwrap()
            .picture
            .pixels
    };
    let (one, other) = (frame(1), frame(2));
    let mut reader = FilmReader::new(&key);
    reader.read(400, 300, &one);
    reader.read(400, 300, &other);
    assert_eq!(reader.majority(), None);
    reader.read(400, 300, &one);
    let found = reader.majority().unwrap();
    assert_eq!((found.number, found.frames, found.read), (1, 2, 3));
    assert_eq!(FilmReader::new(&key).majority(), None);
}
