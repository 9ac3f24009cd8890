//! The coefficients that carry a mark. A picture of any size is brought to a luminance of 512 x 512;
//! two Haar steps leave an approximation of 128 x 128, and the middle frequencies of its 8 x 8
//! blocks, by DCT, are the carrier. Bits are spread over them by chips (Cox, Kilian, Leighton and
//! Shamoon, "Secure spread spectrum watermarking for multimedia", 1997).

use std::f32::consts::PI;

use crate::{bch, grid::Grid, key::MarkKey};

/// The side of the luminance that marks are made for.
pub const CANONICAL: usize = 512;
/// The side of the approximation after two Haar steps.
pub const SIDE: usize = CANONICAL / 4;
const BLOCK: usize = 8;
/// Blocks in a row.
pub const BLOCKS: usize = SIDE / BLOCK;

/// Frequencies along one side that the band needs.
const ACROSS: usize = 7;

#[rustfmt::skip]
/// Frequencies in a block, from 16 to 52 periods for the whole picture.
pub const BAND: [(usize, usize); 37] = [
    (0, 2), (0, 3), (0, 4), (0, 5), (0, 6), (1, 2), (1, 3), (1, 4),
    (1, 5), (1, 6), (2, 0), (2, 1), (2, 2), (2, 3), (2, 4), (2, 5),
    (2, 6), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (3, 5), (4, 0),
    (4, 1), (4, 2), (4, 3), (4, 4), (4, 5), (5, 0), (5, 1), (5, 2),
    (5, 3), (5, 4), (6, 0), (6, 1), (6, 2),
];

/// A coefficient counts up to this many times the median of its frequency. Edges of the picture are
/// no stronger then, as in a soft limiter for impulsive noise.
const LIMIT: f32 = 2.0;
/// The least limit. Below it is noise of rounding and of compression.
const LEAST_LIMIT: f32 = 10.0;

/// Approximation and texture of a picture.
pub struct Wavelet {
    pub approximation: Grid,
    /// The mean size of the details of each block.
    pub texture: Vec<f32>,
}

/// Two steps of the Haar transform (Mallat, "A theory for multiresolution signal decomposition",
/// 1989), orthonormal.
pub fn wavelet(canonical: &Grid) -> Wavelet {
    let (half, fine) = haar(canonical);
    let (approximation, coarse) = haar(&half);
    let mut texture = vec![0.0; BLOCKS * BLOCKS];
    for (details, side) in [(&fine, 2 * BLOCK), (&coarse, BLOCK)] {
        for (y, line) in details.values.chunks(details.width).enumerate() {
            for (x, value) in line.iter().enumerate() {
                texture[y / side * BLOCKS + x / side] += value / (2 * side * side) as f32;
            }
        }
    }
    Wavelet {
        approximation,
        texture,
    }
}

/// The approximation, and the sum of the sizes of the three details.
fn haar(grid: &Grid) -> (Grid, Grid) {
    let mut low = Grid::new(grid.width / 2, grid.height / 2);
    let mut details = low.clone();
    for y in 0..low.height {
        let upper = grid.row(2 * y);
        let lower = grid.row(2 * y + 1);
        for x in 0..low.width {
            let (a, b) = (upper[2 * x], upper[2 * x + 1]);
            let (c, d) = (lower[2 * x], lower[2 * x + 1]);
            let at = y * low.width + x;
            low.values[at] = (a + b + c + d) / 2.0;
            details.values[at] =
                ((a - b + c - d).abs() + (a + b - c - d).abs() + (a - b - c + d).abs()) / 2.0;
        }
    }
    (low, details)
}

/// The basis of the DCT of type II (Ahmed, Natarajan and Rao, "Discrete cosine transform", 1974).
fn basis() -> [[f32; BLOCK]; BLOCK] {
    std::array::from_fn(|frequency| {
        let norm = if frequency == 0 { 1.0 } else { 2.0_f32.sqrt() } / (BLOCK as f32).sqrt();
        std::array::from_fn(|at| {
            norm * (PI * (at as f32 + 0.5) * frequency as f32 / BLOCK as f32).cos()
        })
    })
}

/// The carrying coefficients of an approximation, block by block.
pub fn coefficients(approximation: &Grid) -> Vec<f32> {
    let basis = basis();
    let mut coefficients = Vec::with_capacity(BLOCKS * BLOCKS * BAND.len());
    for block in 0..BLOCKS * BLOCKS {
        let (left, top) = (block % BLOCKS * BLOCK, block / BLOCKS * BLOCK);
        // By rows first: the frequencies along x of each row.
        let rows: [[f32; ACROSS]; BLOCK] = std::array::from_fn(|y| {
            let line = &approximation.row(top + y)[left..left + BLOCK];
            std::array::from_fn(|u| {
                line.iter()
                    .zip(&basis[u])
                    .map(|(value, wave)| value * wave)
                    .sum()
            })
        });
        coefficients.extend(
            BAND.iter()
                .map(|(u, v)| (0..BLOCK).map(|y| rows[y][*u] * basis[*v][y]).sum::<f32>()),
        );
    }
    coefficients
}

/// The approximation that has only these coefficients.
pub fn synthesis(coefficients: &[f32]) -> Grid {
    let basis = basis();
    let mut grid = Grid::new(SIDE, SIDE);
    for (block, values) in coefficients.chunks(BAND.len()).enumerate() {
        let (left, top) = (block % BLOCKS * BLOCK, block / BLOCKS * BLOCK);
        let mut rows = [[0.0_f32; ACROSS]; BLOCK];
        for ((u, v), value) in BAND.iter().zip(values) {
            for (y, row) in rows.iter_mut().enumerate() {
                row[*u] += value * basis[*v][y];
            }
        }
        for (y, row) in rows.iter().enumerate() {
            let line = &mut grid.row_mut(top + y)[left..left + BLOCK];
            for (x, sample) in line.iter_mut().enumerate() {
                *sample = row
                    .iter()
                    .zip(&basis)
                    .map(|(value, wave)| value * wave[x])
                    .sum();
            }
        }
    }
    grid
}

/// How a detector limits and weighs each coefficient. It learns that from the picture itself.
pub struct Weighing {
    limits: Vec<f32>,
}

impl Weighing {
    /// `present` says which blocks there are. A limit is a multiple of the median of its frequency,
    /// lower in a quiet block and higher in a busy one.
    pub fn new(coefficients: &[f32], present: &[bool]) -> Self {
        let medians = medians(coefficients, present);
        let limits = coefficients.chunks(BAND.len()).flat_map(|block| {
            let relative = block
                .iter()
                .zip(&medians)
                .map(|(value, median)| (value.abs() / median).min(4.0));
            let business = (relative.sum::<f32>() / BAND.len() as f32).clamp(0.4, 2.5);
            medians.map(|median| (LIMIT * median * business).max(LEAST_LIMIT))
        });
        Self {
            limits: limits.collect(),
        }
    }

    pub fn limit(&self, at: usize) -> f32 {
        self.limits[at]
    }

    /// The matched weight of a coefficient: the weaker its noise, the greater.
    pub fn weight(&self, at: usize) -> f32 {
        LEAST_LIMIT / self.limits[at]
    }

    fn limited(&self, at: usize, value: f32) -> f32 {
        (value / self.limits[at]).clamp(-1.0, 1.0)
    }
}

/// The median size of each frequency, over the blocks that are present.
fn medians(coefficients: &[f32], present: &[bool]) -> [f32; BAND.len()] {
    std::array::from_fn(|frequency| {
        let mut sizes: Vec<f32> = coefficients
            .chunks(BAND.len())
            .zip(present)
            .filter(|(_, present)| **present)
            .map(|(block, _)| block[frequency].abs())
            .collect();
        let middle = sizes.len() / 2;
        let least = LEAST_LIMIT / LIMIT;
        if sizes.is_empty() {
            return least;
        }
        sizes
            .select_nth_unstable_by(middle, f32::total_cmp)
            .1
            .max(least)
    })
}

/// The soft bits in coefficients: for each bit the weighed sum of its chips.
pub fn soft_bits(
    key: &MarkKey,
    weighing: &Weighing,
    coefficients: &[f32],
    present: &[bool],
) -> [f32; bch::LENGTH] {
    let mut sums = [0.0_f32; bch::LENGTH];
    let mut energies = [0.0_f32; bch::LENGTH];
    for (block, _) in present.iter().enumerate().filter(|(_, present)| **present) {
        for frequency in 0..BAND.len() {
            let at = block * BAND.len() + frequency;
            let chip = key.chips[at];
            let weight = weighing.weight(at);
            sums[usize::from(chip.bit)] +=
                chip.sign * weight * weighing.limited(at, coefficients[at]);
            energies[usize::from(chip.bit)] += weight * weight;
        }
    }
    std::array::from_fn(|bit| sums[bit] / energies[bit].sqrt().max(f32::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synthesis_and_analysis_are_inverse() {
        let wanted: Vec<f32> = (0..BLOCKS * BLOCKS * BAND.len())
            .map(|index| (index * 37 % 101) as f32 - 50.0)
            .collect();
        let found = coefficients(&synthesis(&wanted));
        for (wanted, found) in wanted.iter().zip(&found) {
            assert!((wanted - found).abs() < 1e-2, "{wanted} {found}");
        }
    }

    #[test]
    fn haar_steps_keep_the_mean_and_find_the_texture() {
        let mut grid = Grid::new(CANONICAL, CANONICAL);
        for (index, value) in grid.values.iter_mut().enumerate() {
            // A checkerboard in the left half.
            let (x, y) = (index % CANONICAL, index / CANONICAL);
            *value = if x < CANONICAL / 2 && (x + y) % 2 == 0 {
                60.0
            } else {
                40.0
            };
        }
        let wavelet = wavelet(&grid);
        assert!((wavelet.approximation.values[0] - 200.0).abs() < 1e-3);
        assert!((wavelet.approximation.values[SIDE - 1] - 160.0).abs() < 1e-3);
        assert!(wavelet.texture[0] > 5.0);
        assert!(wavelet.texture[BLOCKS - 1] < 1e-3);
    }
}
