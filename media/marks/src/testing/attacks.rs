//! What may happen to a marked picture on its way.

use std::f32::consts::PI;

use super::{chance::Chance, pictures::TestPicture};
use crate::grid::{Viewport, resample};

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Attack {
    Nothing,
    /// Compression of this quality.
    Jpeg(u32),
    /// Both sides times this.
    Resize(f64),
    /// Each pixel times this.
    Brightness(f32),
    /// This many percent of the width and of the height are cut off, at chance on either side. So 20
    /// leaves 64 % of the area.
    Crop(u32),
    /// The picture is shown at another scale within a larger screen, and the whole screen is kept as
    /// JPEG of quality 90.
    Screenshot,
}

impl Attack {
    pub const ALL: [Self; 12] = [
        Self::Nothing,
        Self::Jpeg(90),
        Self::Jpeg(70),
        Self::Jpeg(50),
        Self::Resize(0.5),
        Self::Resize(2.0),
        Self::Brightness(0.8),
        Self::Brightness(1.2),
        Self::Crop(5),
        Self::Crop(10),
        Self::Crop(20),
        Self::Screenshot,
    ];

    pub fn name(self) -> String {
        match self {
            Self::Nothing => "nothing".to_owned(),
            Self::Jpeg(quality) => format!("jpeg_{quality}"),
            Self::Resize(factor) => format!("resize_{factor}"),
            Self::Brightness(factor) => format!("brightness_{factor}"),
            Self::Crop(percent) => format!("crop_{percent}"),
            Self::Screenshot => "screenshot".to_owned(),
        }
    }

    pub fn done_to(self, picture: &TestPicture, chance: &mut Chance) -> TestPicture {
        match self {
            Self::Nothing => picture.clone(),
            Self::Jpeg(quality) => jpeg(picture, quality),
            Self::Resize(factor) => {
                let side = |length: usize| (length as f64 * factor).round() as usize;
                let whole = Viewport::whole(picture.width, picture.height);
                seen(picture, whole, side(picture.width), side(picture.height))
            }
            Self::Brightness(factor) => {
                let brighter =
                    |pixel: &u8| (f32::from(*pixel) * factor).round().clamp(0.0, 255.0) as u8;
                with(
                    picture,
                    picture.width,
                    picture.height,
                    picture.pixels.iter().map(brighter).collect(),
                )
            }
            Self::Crop(percent) => crop(picture, percent, chance),
            Self::Screenshot => screenshot(picture, chance),
        }
    }
}

fn with(picture: &TestPicture, width: usize, height: usize, pixels: Vec<u8>) -> TestPicture {
    TestPicture {
        name: picture.name.clone(),
        width,
        height,
        pixels,
    }
}

/// Part of a picture at another size.
fn seen(picture: &TestPicture, view: Viewport, width: usize, height: usize) -> TestPicture {
    let size = (picture.width, picture.height);
    let grid = resample(&picture.pixels, size, view, (width, height)).grid;
    with(
        picture,
        width,
        height,
        grid.values
            .iter()
            .map(|value| value.round().clamp(0.0, 255.0) as u8)
            .collect(),
    )
}

pub fn crop(picture: &TestPicture, percent: u32, chance: &mut Chance) -> TestPicture {
    let side = |length: usize| length - length * percent as usize / 100;
    let (width, height) = (side(picture.width), side(picture.height));
    let left = chance.below(picture.width - width + 1);
    let top = chance.below(picture.height - height + 1);
    let rows = picture.pixels.chunks(picture.width).skip(top).take(height);
    let pixels = rows
        .flat_map(|row| row[left..left + width].to_vec())
        .collect();
    with(picture, width, height, pixels)
}

/// The picture at 60 % to 120 % of its size, within a screen that is 10 % to 60 % wider and higher,
/// with a darker bar on top.
fn screenshot(picture: &TestPicture, chance: &mut Chance) -> TestPicture {
    let scale = chance.between(0.6, 1.2);
    let shown_width = (picture.width as f32 * scale) as usize;
    let shown_height = (picture.height as f32 * scale) as usize;
    let shown = seen(
        picture,
        Viewport::whole(picture.width, picture.height),
        shown_width,
        shown_height,
    );
    let width = (shown_width as f32 * chance.between(1.1, 1.6)) as usize;
    let height = (shown_height as f32 * chance.between(1.1, 1.6)) as usize;
    let left = chance.below(width - shown_width + 1);
    let top = chance.below(height - shown_height + 1);
    let ground = chance.between(20.0, 245.0) as u8;
    let mut pixels = vec![ground; width * height];
    pixels[..width * (top / 2)].fill(ground / 2);
    for (row, line) in shown.pixels.chunks(shown_width).enumerate() {
        pixels[(top + row) * width + left..][..shown_width].copy_from_slice(line);
    }
    jpeg(&with(picture, width, height, pixels), 90)
}

/// The luminance quantisation of ITU-T T.81, table K.1.
const QUANTISATION: [f32; 64] = [
    16.0, 11.0, 10.0, 16.0, 24.0, 40.0, 51.0, 61.0, 12.0, 12.0, 14.0, 19.0, 26.0, 58.0, 60.0, 55.0,
    14.0, 13.0, 16.0, 24.0, 40.0, 57.0, 69.0, 56.0, 14.0, 17.0, 22.0, 29.0, 51.0, 87.0, 80.0, 62.0,
    18.0, 22.0, 37.0, 56.0, 68.0, 109.0, 103.0, 77.0, 24.0, 35.0, 55.0, 64.0, 81.0, 104.0, 113.0,
    92.0, 49.0, 64.0, 78.0, 87.0, 103.0, 121.0, 120.0, 101.0, 72.0, 92.0, 95.0, 98.0, 112.0, 100.0,
    103.0, 99.0,
];

/// What JPEG loses of luminance: all but the entropy coding, which loses nothing. The quality scales
/// the table as in the library of the Independent JPEG Group.
pub fn jpeg(picture: &TestPicture, quality: u32) -> TestPicture {
    let scale = if quality < 50 {
        5000 / quality
    } else {
        200 - 2 * quality
    } as f32;
    let steps = QUANTISATION.map(|step| ((step * scale + 50.0) / 100.0).floor().clamp(1.0, 255.0));
    let wave: [[f32; 8]; 8] = std::array::from_fn(|frequency| {
        let norm = if frequency == 0 {
            0.125_f32.sqrt()
        } else {
            0.5
        };
        std::array::from_fn(|at| norm * (PI * (at as f32 + 0.5) * frequency as f32 / 8.0).cos())
    });
    let (width, height) = (picture.width, picture.height);
    let mut pixels = picture.pixels.clone();
    for top in (0..height).step_by(8) {
        for left in (0..width).step_by(8) {
            let mut block = [[0.0_f32; 8]; 8];
            for (y, row) in block.iter_mut().enumerate() {
                for (x, value) in row.iter_mut().enumerate() {
                    let at = (top + y).min(height - 1) * width + (left + x).min(width - 1);
                    *value = f32::from(picture.pixels[at]) - 128.0;
                }
            }
            let block = turned(&wave, block);
            let mut block = turned(&wave, block);
            for (row, steps) in block.iter_mut().zip(steps.chunks(8)) {
                for (value, step) in row.iter_mut().zip(steps) {
                    *value = (*value / step).round() * step;
                }
            }
            let back: [[f32; 8]; 8] =
                std::array::from_fn(|at| std::array::from_fn(|f| wave[f][at]));
            let block = turned(&back, block);
            let block = turned(&back, block);
            for (y, row) in block.iter().enumerate().take(height - top) {
                for (x, value) in row.iter().enumerate().take(width - left) {
                    pixels[(top + y) * width + left + x] =
                        (value + 128.0).round().clamp(0.0, 255.0) as u8;
                }
            }
        }
    }
    with(picture, width, height, pixels)
}

/// Transforms the rows and turns the block over, so that a second call transforms the columns.
fn turned(wave: &[[f32; 8]; 8], block: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
    std::array::from_fn(|frequency| {
        std::array::from_fn(|row| {
            block[row]
                .iter()
                .zip(&wave[frequency])
                .map(|(value, wave)| value * wave)
                .sum()
        })
    })
}
