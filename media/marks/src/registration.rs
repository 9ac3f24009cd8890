//! Finding a picture within another: which part of the marked picture is seen, and at what scale. The
//! pilots are peaks of the spectrum, whose places tell the scale wherever the picture was cut, and
//! whose phases tell the offset (Pereira and Pun, "Robust template matching for affine resistant
//! image watermarks", 2000).

use std::f32::consts::{PI, TAU};

use crate::{
    fourier::{Complex, Fourier},
    grid::{Grid, Viewport, resample},
    key::{MarkKey, Pilot},
};

/// Samples of the seen picture along each side.
const SAMPLES: usize = 256;
/// Zeros are added up to this length, so that the spectrum is known at half frequencies, too.
const LENGTH: usize = 2 * SAMPLES;
/// Frequencies along x that are kept. Pilots have none below zero.
const COLUMNS: usize = LENGTH / 2 + 1;

/// How large a part of the picture may be seen: from a crop to a screenshot with a wide border.
const LEAST_SCALE: f32 = 0.7;
const GREATEST_SCALE: f32 = 2.2;
const SCALE_STEP: f32 = 0.006;

/// The part of the seen picture on each side in which the window rises.
const TAPER: f32 = 0.15;

/// Samples on each side whose deviation is local.
const LOCAL: usize = 4;
/// Added to the local deviation, in levels of grey. A weaker one is noise.
const LEAST_DEVIATION: f32 = 1.5;

/// The power of one pilot counts up to this many times its neighbourhood's.
const POWER_LIMIT: f32 = 14.0;
/// Frequencies on each side that are averaged for the neighbourhood of one.
const NEIGHBOURHOOD: usize = 12;

/// Scales whose offset is looked for.
const SCALES: usize = 16;
/// Places that are refined.
const REFINED: usize = 6;

/// The seen part along one side, in units of the whole marked picture.
#[derive(Debug, Clone, Copy)]
struct Extent {
    scale: f32,
    centre: f32,
}

/// Where a marked picture might lie.
#[derive(Debug, Clone, Copy)]
pub struct Placement {
    x: Extent,
    y: Extent,
    /// How well the pilots agree: about normally distributed where there is no mark.
    pub score: f32,
}

impl Placement {
    /// The whole marked picture, in pixels of the seen one.
    pub fn viewport(&self, width: usize, height: usize) -> Viewport {
        let side = |extent: Extent, length: usize| {
            let (scale, centre) = (f64::from(extent.scale), f64::from(extent.centre));
            let length = length as f64;
            (-(centre - scale / 2.0) / scale * length, length / scale)
        };
        let (left, whole_width) = side(self.x, width);
        let (top, whole_height) = side(self.y, height);
        Viewport {
            left,
            top,
            width: whole_width,
            height: whole_height,
        }
    }
}

/// The most likely placements, best first.
pub fn placements<T: Copy + Into<f32>>(
    key: &MarkKey,
    pixels: &[T],
    (width, height): (usize, usize),
) -> Vec<Placement> {
    let whole = Viewport::whole(width, height);
    let seen = resample(pixels, (width, height), whole, (SAMPLES, SAMPLES)).grid;
    let spectrum = Spectrum::new(&seen);
    let mut found: Vec<Placement> = scales(key, &spectrum)
        .into_iter()
        .map(|(x, y)| spectrum.offset(&key.pilots, x, y))
        .collect();
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    found.truncate(REFINED);
    for placement in &mut found {
        *placement = spectrum.refined(&key.pilots, *placement);
    }
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    found
}

/// The scales along both sides at which the spectrum has most power at the pilots.
fn scales(key: &MarkKey, spectrum: &Spectrum) -> Vec<(f32, f32)> {
    let count = ((GREATEST_SCALE / LEAST_SCALE).ln() / SCALE_STEP) as usize + 1;
    let scales: Vec<f32> = (0..count)
        .map(|index| LEAST_SCALE * (SCALE_STEP * index as f32).exp())
        .collect();
    let places = |periods: fn(&Pilot) -> i32| -> Vec<Vec<i32>> {
        let place = |scale: &f32| {
            let at = |pilot| (2.0 * periods(pilot) as f32 * scale).round() as i32;
            key.pilots.iter().map(at).collect()
        };
        scales.iter().map(place).collect()
    };
    let (columns, rows) = (places(|pilot| pilot.x), places(|pilot| pilot.y));
    let mut powers = vec![0.0_f32; count * count];
    for (row, line) in rows.iter().zip(powers.chunks_mut(count)) {
        for (column, power) in columns.iter().zip(line) {
            *power = column
                .iter()
                .zip(row)
                .map(|(u, v)| spectrum.power(*u, *v))
                .sum();
        }
    }
    let mut best = Vec::with_capacity(SCALES);
    while best.len() < SCALES {
        let strongest = (0..powers.len()).max_by(|a, b| powers[*a].total_cmp(&powers[*b]));
        let Some(strongest) = strongest else { break };
        let (x, y) = (strongest % count, strongest / count);
        best.push((scales[x], scales[y]));
        // The neighbours are the same peak.
        for near_y in y.saturating_sub(2)..(y + 3).min(count) {
            for near_x in x.saturating_sub(2)..(x + 3).min(count) {
                powers[near_y * count + near_x] = 0.0;
            }
        }
    }
    best
}

/// The spectrum of the seen picture, whitened: each frequency in units of its neighbourhood. Phases
/// count from the picture's middle.
struct Spectrum {
    /// By row of frequency along y, wrapped, then by frequency along x from zero.
    values: Vec<Complex>,
    powers: Vec<f32>,
}

impl Spectrum {
    fn new(seen: &Grid) -> Self {
        let mut values = transform(seen);
        let sizes: Vec<f32> = values.iter().map(|value| value.size()).collect();
        let around = neighbourhoods(&sizes);
        for (value, around) in values.iter_mut().zip(&around) {
            *value = value.scaled(1.0 / around.max(1e-3));
        }
        let power = |value: &Complex| (value.re * value.re + value.im * value.im).min(POWER_LIMIT);
        let powers = values.iter().map(power).collect();
        Self { values, powers }
    }

    /// The power at half frequencies.
    fn power(&self, u: i32, v: i32) -> f32 {
        if u as usize >= COLUMNS || v.unsigned_abs() as usize >= LENGTH / 2 {
            return 0.0;
        }
        self.powers[v.rem_euclid(LENGTH as i32) as usize * COLUMNS + u as usize]
    }

    fn value(&self, u: i32, v: i32) -> Complex {
        if u as usize >= COLUMNS || v.unsigned_abs() as usize >= LENGTH / 2 {
            return Complex::default();
        }
        self.values[v.rem_euclid(LENGTH as i32) as usize * COLUMNS + u as usize]
    }

    /// Between half frequencies, linearly.
    fn between(&self, u: f32, v: f32) -> Complex {
        let (left, upper) = (u.floor(), v.floor());
        let (across, down) = (u - left, v - upper);
        let (left, upper) = (left as i32, upper as i32);
        self.value(left, upper)
            .scaled((1.0 - across) * (1.0 - down))
            + self.value(left + 1, upper).scaled(across * (1.0 - down))
            + self.value(left, upper + 1).scaled((1.0 - across) * down)
            + self.value(left + 1, upper + 1).scaled(across * down)
    }

    /// What the pilots are in this spectrum, turned back by their own phases. All are one wave of the
    /// offset then.
    fn turned_back(&self, pilots: &[Pilot], x: f32, y: f32) -> Vec<Complex> {
        let turned = |pilot: &Pilot| {
            let (u, v) = (pilot.x as f32 * x, pilot.y as f32 * y);
            // Samples are half a sample off the middle.
            let phase = pilot.phase + PI * (u + v) / SAMPLES as f32;
            let value = self.between(2.0 * u, 2.0 * v) * Complex::turned(-phase);
            value.scaled((POWER_LIMIT.sqrt() / value.size().max(1e-6)).min(1.0))
        };
        pilots.iter().map(turned).collect()
    }

    /// The best offset for given scales. A crop lies within the picture, and a picture with a border
    /// within what is seen, so the middles are near each other.
    fn offset(&self, pilots: &[Pilot], x: f32, y: f32) -> Placement {
        const STEP: f32 = 1.0 / 160.0;
        let values = self.turned_back(pilots, x, y);
        let range = |scale: f32| {
            let reach = (((scale - 1.0).abs() / 2.0 + 0.01) / STEP).ceil() as i32;
            (-reach..=reach).map(|step| 0.5 + step as f32 * STEP)
        };
        let turns: Vec<(f32, Vec<Complex>)> = range(x)
            .map(|centre| {
                let turn = |pilot: &Pilot| Complex::turned(-TAU * pilot.x as f32 * centre);
                (centre, pilots.iter().map(turn).collect())
            })
            .collect();
        let mut best = (f32::MIN, 0.5, 0.5);
        for centre_y in range(y) {
            let line: Vec<Complex> = pilots
                .iter()
                .zip(&values)
                .map(|(pilot, value)| *value * Complex::turned(-TAU * pilot.y as f32 * centre_y))
                .collect();
            for (centre_x, turns) in &turns {
                let sum: f32 = line
                    .iter()
                    .zip(turns)
                    .map(|(a, b)| a.re * b.re - a.im * b.im)
                    .sum();
                if sum > best.0 {
                    best = (sum, *centre_x, centre_y);
                }
            }
        }
        let (sum, centre_x, centre_y) = best;
        Placement {
            x: Extent {
                scale: x,
                centre: centre_x,
            },
            y: Extent {
                scale: y,
                centre: centre_y,
            },
            score: sum / scatter(&values),
        }
    }

    fn score(&self, pilots: &[Pilot], x: Extent, y: Extent) -> f32 {
        let values = self.turned_back(pilots, x.scale, y.scale);
        let sum: f32 = pilots
            .iter()
            .zip(&values)
            .map(|(pilot, value)| {
                let angle = TAU * (pilot.x as f32 * x.centre + pilot.y as f32 * y.centre);
                (*value * Complex::turned(-angle)).re
            })
            .sum();
        sum / scatter(&values)
    }

    /// Climbs to the best placement near one, in steps that get shorter.
    fn refined(&self, pilots: &[Pilot], start: Placement) -> Placement {
        let mut best = start;
        best.score = self.score(pilots, best.x, best.y);
        for halvings in 0..5 {
            let step = 0.004 / (1 << halvings) as f32;
            let mut is_better = true;
            while is_better {
                is_better = false;
                for (scale_x, centre_x, scale_y, centre_y) in NEIGHBOURS {
                    let x = Extent {
                        scale: best.x.scale + scale_x * step,
                        centre: best.x.centre + centre_x * step / 2.0,
                    };
                    let y = Extent {
                        scale: best.y.scale + scale_y * step,
                        centre: best.y.centre + centre_y * step / 2.0,
                    };
                    let score = self.score(pilots, x, y);
                    if score > best.score + 1e-4 {
                        best = Placement { x, y, score };
                        is_better = true;
                    }
                }
            }
        }
        best
    }
}

/// Steps of scale and offset along x and y that are tried.
const NEIGHBOURS: [(f32, f32, f32, f32); 8] = [
    (1.0, 0.0, 0.0, 0.0),
    (-1.0, 0.0, 0.0, 0.0),
    (0.0, 1.0, 0.0, 0.0),
    (0.0, -1.0, 0.0, 0.0),
    (0.0, 0.0, 1.0, 0.0),
    (0.0, 0.0, -1.0, 0.0),
    (0.0, 0.0, 0.0, 1.0),
    (0.0, 0.0, 0.0, -1.0),
];

/// The standard deviation of the real part of a sum with random phases.
fn scatter(values: &[Complex]) -> f32 {
    let energy: f32 = values
        .iter()
        .map(|value| value.re * value.re + value.im * value.im)
        .sum();
    (energy / 2.0).sqrt().max(1e-6)
}

/// The spectrum through a Tukey window, which keeps the picture's border from hiding the pilots.
fn transform(seen: &Grid) -> Vec<Complex> {
    let fourier = Fourier::new(LENGTH);
    let even = evened(seen);
    let window: Vec<f32> = (0..SAMPLES)
        .map(|at| {
            let edge = (at as f32 + 0.5).min(SAMPLES as f32 - at as f32 - 0.5);
            let share = edge / (SAMPLES as f32 * TAPER);
            if share < 1.0 {
                0.5 - 0.5 * (PI * share).cos()
            } else {
                1.0
            }
        })
        .collect();
    // The picture's middle comes first, so that phases count from there.
    let place = |at: usize| (at + LENGTH - SAMPLES / 2) % LENGTH;
    let mut by_column = vec![Complex::default(); COLUMNS * LENGTH];
    let mut line = vec![Complex::default(); LENGTH];
    for y in 0..SAMPLES {
        line.fill(Complex::default());
        for (x, value) in even.row(y).iter().enumerate() {
            line[place(x)].re = value * window[x] * window[y];
        }
        fourier.transform(&mut line);
        for (column, value) in line[..COLUMNS].iter().enumerate() {
            by_column[column * LENGTH + place(y)] = *value;
        }
    }
    let mut by_row = vec![Complex::default(); COLUMNS * LENGTH];
    for (column, values) in by_column.chunks_mut(LENGTH).enumerate() {
        fourier.transform(values);
        for (row, value) in values.iter().enumerate() {
            by_row[row * COLUMNS + column] = *value;
        }
    }
    by_row
}

/// The fine structure of a picture, equally strong everywhere, so that busy parts hide no pilots.
fn evened(seen: &Grid) -> Grid {
    let mut fine = means(seen, LOCAL);
    for (mean, value) in fine.values.iter_mut().zip(&seen.values) {
        *mean = value - *mean;
    }
    let mut powers = fine.clone();
    for value in &mut powers.values {
        *value *= *value;
    }
    for (value, power) in fine.values.iter_mut().zip(means(&powers, LOCAL).values) {
        *value /= power.max(0.0).sqrt() + LEAST_DEVIATION;
    }
    fine
}

/// The means of squares around each sample, cut off at the picture's border.
fn means(grid: &Grid, reach: usize) -> Grid {
    let stride = grid.width + 1;
    // The sum of all that is above and to the left.
    let mut sums = vec![0.0_f64; stride * (grid.height + 1)];
    for y in 0..grid.height {
        let mut line = 0.0;
        for (x, value) in grid.row(y).iter().enumerate() {
            line += f64::from(*value);
            sums[(y + 1) * stride + x + 1] = sums[y * stride + x + 1] + line;
        }
    }
    let mut means = Grid::new(grid.width, grid.height);
    for y in 0..grid.height {
        let (top, bottom) = (y.saturating_sub(reach), (y + reach + 1).min(grid.height));
        for (x, mean) in means.row_mut(y).iter_mut().enumerate() {
            let (left, right) = (x.saturating_sub(reach), (x + reach + 1).min(grid.width));
            let sum = sums[bottom * stride + right]
                - sums[top * stride + right]
                - sums[bottom * stride + left]
                + sums[top * stride + left];
            *mean = (sum / ((bottom - top) * (right - left)) as f64) as f32;
        }
    }
    means
}

/// The mean around each frequency, along y first and then along x.
fn neighbourhoods(sizes: &[f32]) -> Vec<f32> {
    let mut along_y = vec![0.0; sizes.len()];
    let mut sums = vec![0.0_f32; COLUMNS];
    let row = |at: usize| &sizes[at % LENGTH * COLUMNS..][..COLUMNS];
    for y in 0..LENGTH {
        // Sums anew for each row would be slow, and running sums lose digits only slowly.
        let added: Vec<usize> = if y == 0 {
            (LENGTH - NEIGHBOURHOOD..=LENGTH + NEIGHBOURHOOD).collect()
        } else {
            vec![y + NEIGHBOURHOOD]
        };
        for at in added {
            for (sum, size) in sums.iter_mut().zip(row(at)) {
                *sum += size;
            }
        }
        if y > 0 {
            for (sum, size) in sums.iter_mut().zip(row(y + LENGTH - NEIGHBOURHOOD - 1)) {
                *sum -= size;
            }
        }
        along_y[y * COLUMNS..][..COLUMNS].copy_from_slice(&sums);
    }
    let mut means = Vec::with_capacity(sizes.len());
    for line in along_y.chunks(COLUMNS) {
        let mut ends = Vec::with_capacity(COLUMNS + 1);
        ends.push(0.0_f64);
        for value in line {
            ends.push(ends[ends.len() - 1] + f64::from(*value));
        }
        means.extend((0..COLUMNS).map(|x| {
            let (from, to) = (
                x.saturating_sub(NEIGHBOURHOOD),
                (x + NEIGHBOURHOOD + 1).min(COLUMNS),
            );
            let count = (to - from) * (2 * NEIGHBOURHOOD + 1);
            ((ends[to] - ends[from]) / count as f64) as f32
        }));
    }
    means
}
