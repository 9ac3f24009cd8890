//! Pictures to be marked: generated ones that have the statistics of nature, and ones that do not.

use std::f32::consts::TAU;

use super::chance::Chance;

/// A picture of luminance.
#[derive(Debug, Clone)]
pub struct TestPicture {
    pub name: String,
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u8>,
}

/// The kinds of generated pictures.
pub const KINDS: [&str; 8] = [
    "leaves", "clouds", "portrait", "gradient", "grain", "weave", "page", "chart",
];

const SIZES: [(usize, usize); 5] = [
    (640, 480),
    (800, 600),
    (1280, 720),
    (600, 900),
    (1024, 1024),
];

/// A picture of the kinds in turn. Another index is another picture.
pub fn generated(index: usize) -> TestPicture {
    let (width, height) = SIZES[index / KINDS.len() % SIZES.len()];
    generated_with(index, width, height)
}

pub fn generated_with(index: usize, width: usize, height: usize) -> TestPicture {
    let kind = KINDS[index % KINDS.len()];
    let mut chance = Chance::new(index as u64 * 7919 + 1);
    let values = match kind {
        "leaves" => leaves(&mut chance, width, height),
        "clouds" => clouds(&mut chance, width, height, 0.55),
        "portrait" => portrait(&mut chance, width, height),
        "gradient" => gradient(&mut chance, width, height),
        "grain" => grain(&mut chance, width, height),
        "weave" => weave(&mut chance, width, height),
        "page" => page(&mut chance, width, height),
        _ => chart(&mut chance, width, height),
    };
    TestPicture {
        name: format!("{kind} {index}"),
        width,
        height,
        pixels: values
            .iter()
            .map(|value| value.round().clamp(0.0, 255.0) as u8)
            .collect(),
    }
}

/// The frames of a film: a view that moves over a generated picture, with new noise in each frame.
pub fn film(index: usize, frames: usize, width: usize, height: usize) -> Vec<TestPicture> {
    let (wide, high) = (width * 5 / 4, height * 5 / 4);
    let scene = generated_with(index, wide, high);
    let mut chance = Chance::new(index as u64 + 99);
    let frame = |time: usize| {
        let (left, top) = (
            (wide - width) * time / frames,
            (high - height) * time / frames,
        );
        let rows = scene.pixels.chunks(wide).skip(top).take(height);
        let pixels = rows.flat_map(|row| &row[left..left + width]);
        let noisy = |pixel: &u8| {
            (f32::from(*pixel) + 1.5 * chance.normal())
                .round()
                .clamp(0.0, 255.0) as u8
        };
        TestPicture {
            name: scene.name.clone(),
            width,
            height,
            pixels: pixels.map(noisy).collect(),
        }
    };
    (0..frames).map(frame).collect()
}

fn each(width: usize, height: usize, mut value: impl FnMut(f32, f32) -> f32) -> Vec<f32> {
    (0..width * height)
        .map(|at| value((at % width) as f32, (at / width) as f32))
        .collect()
}

/// Dead leaves: discs of all sizes that hide each other, with the statistics of natural scenes (Lee,
/// Mumford and Huang, "Occlusion models for natural images", 2001).
fn leaves(chance: &mut Chance, width: usize, height: usize) -> Vec<f32> {
    let texture = clouds(chance, width, height, 0.7);
    let mut values = vec![128.0; width * height];
    let largest = width.min(height) as f32 / 3.0;
    for _ in 0..3000 {
        // Radii with a density that falls with their cube.
        let radius = 3.0 / (1.0 - chance.share() * (1.0 - (3.0 / largest).powi(2))).sqrt();
        let (x, y) = (
            chance.share() * width as f32,
            chance.share() * height as f32,
        );
        let (shade, rough) = (chance.between(25.0, 230.0), chance.between(0.0, 0.35));
        for row in (y - radius).max(0.0) as usize..((y + radius) as usize + 1).min(height) {
            for column in (x - radius).max(0.0) as usize..((x + radius) as usize + 1).min(width) {
                if (column as f32 - x).hypot(row as f32 - y) < radius {
                    let at = row * width + column;
                    values[at] = shade + rough * (texture[at] - 128.0);
                }
            }
        }
    }
    let mut blurred = values.clone();
    for y in 1..height - 1 {
        for x in 1..width - 1 {
            let at = y * width + x;
            let cross = values[at - 1] + values[at + 1] + values[at - width] + values[at + width];
            blurred[at] = 0.5 * values[at] + 0.125 * cross + chance.normal() * 1.5;
        }
    }
    blurred
}

/// Noise in octaves: each is half as wide and has this share of the amplitude.
fn clouds(chance: &mut Chance, width: usize, height: usize, persistence: f32) -> Vec<f32> {
    let mut values = vec![128.0; width * height];
    let (mut cell, mut amplitude) = (width.max(height) as f32 / 2.0, 90.0);
    while cell >= 1.0 {
        let columns = (width as f32 / cell) as usize + 3;
        let rows = (height as f32 / cell) as usize + 3;
        let knots: Vec<f32> = (0..columns * rows)
            .map(|_| chance.between(-1.0, 1.0))
            .collect();
        for y in 0..height {
            let (row, down) = ((y as f32 / cell) as usize, (y as f32 / cell).fract());
            let down = down * down * (3.0 - 2.0 * down);
            for x in 0..width {
                let (column, across) = ((x as f32 / cell) as usize, (x as f32 / cell).fract());
                let across = across * across * (3.0 - 2.0 * across);
                let at = row * columns + column;
                let upper = knots[at] * (1.0 - across) + knots[at + 1] * across;
                let lower = knots[at + columns] * (1.0 - across) + knots[at + columns + 1] * across;
                values[y * width + x] += amplitude * (upper * (1.0 - down) + lower * down);
            }
        }
        cell /= 2.0;
        amplitude *= persistence;
    }
    values
}

/// A soft figure before a blurred ground, with fine hair.
fn portrait(chance: &mut Chance, width: usize, height: usize) -> Vec<f32> {
    let ground = clouds(chance, width, height, 0.3);
    let skin = clouds(chance, width, height, 0.45);
    let (x, y) = (
        width as f32 * chance.between(0.35, 0.65),
        height as f32 * 0.5,
    );
    let radius = width.min(height) as f32 * chance.between(0.25, 0.4);
    let turn = chance.between(0.15, 0.4);
    each(width, height, |column, row| {
        let at = row as usize * width + column as usize;
        let distance = ((column - x) / radius).hypot((row - y) / (radius * 1.3));
        let grain = (at as f32 * 12.9898).sin() * 1.5;
        let hair = (column * turn + (row * 0.05).sin() * 6.0).sin() * 35.0;
        if distance < 0.8 {
            150.0 + (skin[at] - 128.0) * 0.25 - distance * 40.0 + grain
        } else if distance < 1.0 {
            70.0 + hair + grain
        } else {
            100.0 + (ground[at] - 128.0) * 0.5 + grain
        }
    })
}

/// A sky: a smooth gradient and nothing else.
fn gradient(chance: &mut Chance, width: usize, height: usize) -> Vec<f32> {
    let (from, to) = (chance.between(20.0, 120.0), chance.between(130.0, 235.0));
    let slant = chance.between(0.0, 0.5);
    each(width, height, |x, y| {
        let share = y / height as f32 * (1.0 - slant) + x / width as f32 * slant;
        from + (to - from) * share
    })
}

/// A dark picture with the noise of a sensor.
fn grain(chance: &mut Chance, width: usize, height: usize) -> Vec<f32> {
    let light = clouds(chance, width, height, 0.4);
    let noise = chance.between(4.0, 14.0);
    (0..width * height)
        .map(|at| light[at] * 0.5 + chance.normal() * noise)
        .collect()
}

/// A regular texture with shadows.
fn weave(chance: &mut Chance, width: usize, height: usize) -> Vec<f32> {
    let (across, down) = (
        TAU / chance.between(5.0, 23.0),
        TAU / chance.between(5.0, 23.0),
    );
    let shade = clouds(chance, width, height, 0.4);
    each(width, height, |x, y| {
        let at = y as usize * width + x as usize;
        128.0 + 45.0 * (x * across).sin() * (y * down).cos() + 0.4 * (shade[at] - 128.0)
    })
}

/// Lines of dark letters on paper, made of strokes two pixels wide.
fn page(chance: &mut Chance, width: usize, height: usize) -> Vec<f32> {
    let mut values = vec![chance.between(215.0, 240.0); width * height];
    let line = 16 + chance.below(14);
    for top in (line..height - line).step_by(line) {
        let mut x = 24;
        let end = width - 24 - chance.below(width / 3);
        while x + line < end {
            if chance.share() < 0.82 {
                letter(chance, &mut values, width, (x, top), (line / 3, line / 2));
            }
            x += line / 3 + 3;
        }
    }
    values
}

/// Some upright and level strokes in a box.
fn letter(
    chance: &mut Chance,
    values: &mut [f32],
    stride: usize,
    (left, top): (usize, usize),
    (width, height): (usize, usize),
) {
    let mut stroke = |from_x: usize, from_y: usize, across: usize, down: usize| {
        for y in from_y..from_y + down {
            values[(top + y) * stride + left + from_x..][..across].fill(40.0);
        }
    };
    for _ in 0..1 + chance.below(2) {
        stroke(chance.below(width - 1), 0, 2, height);
    }
    for _ in 0..1 + chance.below(2) {
        stroke(0, chance.below(height - 1), width, 2);
    }
}

/// Plain bars of several shades.
fn chart(chance: &mut Chance, width: usize, height: usize) -> Vec<f32> {
    let mut values = vec![chance.between(180.0, 250.0); width * height];
    for _ in 0..14 {
        let (left, top) = (chance.below(width - 40), chance.below(height - 40));
        let right = (left + 20 + chance.below(width / 3)).min(width);
        let bottom = (top + 20 + chance.below(height / 3)).min(height);
        let shade = chance.between(10.0, 240.0);
        for y in top..bottom {
            values[y * width + left..y * width + right].fill(shade);
        }
    }
    values
}
