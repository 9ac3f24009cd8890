//! Making a mark: the residual of a picture, and adding it.

use crate::{
    bch,
    carrier::{self, BAND, CANONICAL, SIDE, Weighing},
    detect,
    grid::{Grid, Viewport, enlarge, resample},
    key::MarkKey,
    payload,
};

/// The shorter side that a picture must have. In a smaller one there is no place for the carrier.
pub const LEAST_SIDE: usize = 128;

/// The least likeness of a marked picture to its original, in dB.
pub const LEAST_PSNR: f64 = 42.0;
/// The likeness that the coefficients are chosen for. Enlarging them takes some of their energy.
const AIMED_PSNR: f64 = 41.0;
/// The likeness that an enlarged residual has at least. The difference is for rounding.
const ENLARGED_PSNR: f64 = 42.15;

/// The root mean square of the template in a picture without texture, in levels of grey.
const TEMPLATE: f32 = 0.5;
/// The most of the residual's energy that the template takes.
const TEMPLATE_SHARE: f64 = 0.4;

/// The greatest soft bit that is aimed at. A picture without texture would be marked too strongly.
const GREATEST_TARGET: f32 = 3.4;
/// The greatest change of a coefficient in a picture without texture.
const GREATEST_CHANGE: f32 = 26.0;

/// Plain black and plain white take only half of a residual. What is left is made stronger by so much at most.
const GREATEST_FACTOR: f32 = 2.0;
const STRENGTHENINGS: usize = 2;
/// A loss of likeness that is left as it is, in dB: rounding causes as much.
const SMALL_GAP: f64 = 0.3;

const SEARCH_STEPS: usize = 7;
const ROUNDS: usize = 5;

/// A marked picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Embedded {
    /// The peak signal-to-noise ratio beside the picture before, in dB; infinite if nothing changed.
    pub psnr: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MarkError {
    #[error("the number of bytes is not width times height")]
    WrongSize,
    #[error("a side of the picture is shorter than {LEAST_SIDE} pixels")]
    TooSmall,
    /// Mostly pictures of which much is plain black or white.
    #[error("this picture does not hold a mark that could be read again")]
    Unreadable,
}

/// Marks luminance (rows of 8-bit samples without padding) with a number. Leaves it alone on an error.
pub fn embed(
    key: &MarkKey,
    number: u32,
    width: usize,
    height: usize,
    pixels: &mut [u8],
) -> Result<Embedded, MarkError> {
    let residual = Residual::new(key, number, width, height, pixels)?;
    let mut marked = pixels.to_vec();
    let embedded = residual.add_within(width, height, &mut marked);
    match detect::detect_whole(key, width, height, &marked) {
        Some(found) if found.number == number => {
            pixels.copy_from_slice(&marked);
            Ok(embedded)
        }
        _ => Err(MarkError::Unreadable),
    }
}

pub(crate) fn check_size(width: usize, height: usize, pixels: &[u8]) -> Result<(), MarkError> {
    if width.checked_mul(height) != Some(pixels.len()) {
        return Err(MarkError::WrongSize);
    }
    if width.min(height) < LEAST_SIDE {
        return Err(MarkError::TooSmall);
    }
    Ok(())
}

/// What is added to a picture's luminance, in levels of grey: a picture of 128 x 128 that is enlarged
/// to the size of the other one.
pub struct Residual(Grid);

impl Residual {
    /// The side of [`Residual::levels`].
    pub const SIDE: usize = SIDE;
    /// What [`Residual::levels`] has for no change.
    pub const ZERO: u8 = 128;
    /// Steps of [`Residual::levels`] for one level of grey.
    pub const STEPS: f32 = 8.0;

    /// The residual of luminance (rows of 8-bit samples without padding). A reduced copy does, if its
    /// sides are 512 or more: it is brought to 512 x 512 anyway.
    pub fn new(
        key: &MarkKey,
        number: u32,
        width: usize,
        height: usize,
        pixels: &[u8],
    ) -> Result<Self, MarkError> {
        check_size(width, height, pixels)?;
        let whole = Viewport::whole(width, height);
        let canonical = resample(pixels, (width, height), whole, (CANONICAL, CANONICAL)).grid;
        let wavelet = carrier::wavelet(&canonical);
        let strengths: Vec<f32> = wavelet
            .texture
            .iter()
            .map(|texture| strength(*texture))
            .collect();

        // An approximation's sample is four times the mean of its pixels.
        let budget = squares_at(AIMED_PSNR);
        let mut residual = template(key, &strengths);
        let energy = energy(&residual.values);
        let share = (budget * TEMPLATE_SHARE / energy).min(1.0);
        for value in &mut residual.values {
            *value *= share.sqrt() as f32;
        }

        let mut host = carrier::coefficients(&wavelet.approximation);
        for (value, template) in host.iter_mut().zip(carrier::coefficients(&residual)) {
            *value += template;
        }
        let spread = Spread {
            key,
            word: payload::encode(number),
            host,
            strengths,
        };
        let changes = spread.within(budget - energy * share);
        for (value, change) in residual
            .values
            .iter_mut()
            .zip(carrier::synthesis(&changes).values)
        {
            *value = (*value + change) / 4.0;
        }
        weaken(&mut residual);
        Ok(Self(residual))
    }

    /// The residual as an 8-bit picture, row by row, for a program that enlarges it by cubic
    /// convolution and adds it.
    pub fn levels(&self) -> Vec<u8> {
        let level = |value: &f32| f32::from(Self::ZERO) + value * Self::STEPS;
        let levels = self.0.values.iter().map(level);
        levels
            .map(|level| level.round().clamp(0.0, 255.0) as u8)
            .collect()
    }

    /// Adds the residual: stronger where samples at their limits take less than they were to, weaker if the picture
    /// would else differ too much.
    pub(crate) fn add_within(&self, width: usize, height: usize, pixels: &mut [u8]) -> Embedded {
        let original = pixels.to_vec();
        let mut factor = 1.0;
        let mut added = self.add(width, height, factor, &original, pixels);
        let aimed = added.aimed.max(LEAST_PSNR);
        for _ in 0..STRENGTHENINGS {
            let gap = added.psnr - aimed;
            if gap <= SMALL_GAP {
                break;
            }
            factor = (factor * 10_f64.powf(gap / 20.0) as f32).min(GREATEST_FACTOR);
            added = self.add(width, height, factor, &original, pixels);
        }
        while added.psnr < LEAST_PSNR {
            factor *= 0.96;
            added = self.add(width, height, factor, &original, pixels);
        }
        Embedded { psnr: added.psnr }
    }

    fn add(
        &self,
        width: usize,
        height: usize,
        factor: f32,
        original: &[u8],
        marked: &mut [u8],
    ) -> Likeness {
        let mut squares = 0_u64;
        let mut wanted = 0.0;
        enlarge(&self.0, width, height, |y, line| {
            let before = &original[y * width..][..width];
            let after = &mut marked[y * width..][..width];
            for ((after, before), change) in after.iter_mut().zip(before).zip(line) {
                *after = (f32::from(*before) + factor * change)
                    .round()
                    .clamp(0.0, 255.0) as u8;
                squares += u64::from(after.abs_diff(*before)).pow(2);
            }
            wanted += energy(line);
        });
        let psnr = |squares: f64| 10.0 * (255.0 * 255.0 * original.len() as f64 / squares).log10();
        Likeness {
            psnr: psnr(squares as f64),
            aimed: psnr(wanted),
        }
    }
}

/// The likeness of a picture with a residual, in dB.
struct Likeness {
    psnr: f64,
    /// What it was to be, had no sample met its limits.
    aimed: f64,
}

/// Brings a residual below the least likeness, as far as that is known before it is added.
fn weaken(residual: &mut Grid) {
    let mut squares = 0.0;
    enlarge(residual, CANONICAL, CANONICAL, |_, line| {
        squares += energy(line)
    });
    let most = squares_at(ENLARGED_PSNR);
    if squares > most {
        let factor = (most / squares).sqrt() as f32;
        for value in &mut residual.values {
            *value *= factor;
        }
    }
}

/// The sum of squared differences of a canonical picture at a likeness in dB.
fn squares_at(psnr: f64) -> f64 {
    255.0 * 255.0 / 10_f64.powf(psnr / 10.0) * (CANONICAL * CANONICAL) as f64
}

/// How strong a mark may be where there is this much texture: the eye sees noise less beside texture
/// (Podilchuk and Zeng, "Image-adaptive watermarking using visual models", 1998).
fn strength(texture: f32) -> f32 {
    (1.0 + texture / 10.0).min(4.0)
}

fn energy(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(value * value)).sum()
}

/// The synchronisation template as it is added to an approximation.
fn template(key: &MarkKey, strengths: &[f32]) -> Grid {
    let mut template = key.template.clone();
    for y in 0..SIDE {
        for (x, value) in template.row_mut(y).iter_mut().enumerate() {
            *value *= 4.0 * TEMPLATE * smooth(strengths, x, y).min(3.0);
        }
    }
    template
}

/// The strength at a sample of the approximation, between the centres of blocks.
fn smooth(strengths: &[f32], x: usize, y: usize) -> f32 {
    const BLOCK: f32 = (SIDE / carrier::BLOCKS) as f32;
    let last = carrier::BLOCKS - 1;
    let place = |at: usize| {
        let at = ((at as f32 + 0.5) / BLOCK - 0.5).clamp(0.0, last as f32);
        (at as usize, (at as usize + 1).min(last), at.fract())
    };
    let (left, right, across) = place(x);
    let (upper, lower, down) = place(y);
    let line = |row: usize| {
        let at = |column: usize| strengths[row * carrier::BLOCKS + column];
        at(left) * (1.0 - across) + at(right) * across
    };
    line(upper) * (1.0 - down) + line(lower) * down
}

/// A code word that is spread over a host's coefficients. Informed embedding: the host is known, so
/// only what is missing from a soft bit is added (Malvar and Florencio, "Improved spread spectrum",
/// 2003; Miller, Doerr and Cox, "Applying informed coding and embedding", 2004).
struct Spread<'a> {
    key: &'a MarkKey,
    word: u128,
    host: Vec<f32>,
    strengths: Vec<f32>,
}

impl Spread<'_> {
    /// The changes with the greatest soft bits that this much energy allows. Where it is not enough for
    /// any, the changes point the right way: many frames of a film may give the number together.
    fn within(&self, budget: f64) -> Vec<f32> {
        let greatest = self.changes(GREATEST_TARGET);
        if energy(&greatest) <= budget {
            return greatest;
        }
        let (mut low, mut high) = (0.0, GREATEST_TARGET);
        let mut best = None;
        for _ in 0..SEARCH_STEPS {
            let middle = (low + high) / 2.0;
            let changes = self.changes(middle);
            if energy(&changes) <= budget {
                low = middle;
                best = Some(changes);
            } else {
                high = middle;
            }
        }
        best.unwrap_or_else(|| {
            let mut changes = self.changes(high);
            let factor = (budget / energy(&changes)).sqrt() as f32;
            for change in &mut changes {
                *change *= factor;
            }
            changes
        })
    }

    /// The changes that bring each soft bit to a target, where its limited chips allow it.
    fn changes(&self, target: f32) -> Vec<f32> {
        let present = vec![true; self.strengths.len()];
        let mut changes = vec![0.0; self.host.len()];
        let mut current = self.host.clone();
        for _ in 0..ROUNDS {
            let weighing = Weighing::new(&current, &present);
            let soft = carrier::soft_bits(self.key, &weighing, &current, &present);
            let mut slopes = [0.0; bch::LENGTH];
            let mut energies = [0.0; bch::LENGTH];
            self.for_chips(&current, &weighing, |at, weight, slope, strength| {
                let bit = usize::from(self.key.chips[at].bit);
                energies[bit] += weight * weight;
                slopes[bit] += (slope * strength).powi(2);
            });
            let steps: [f32; bch::LENGTH] = std::array::from_fn(|bit| {
                let sign = if payload::bit(self.word, bit) {
                    1.0
                } else {
                    -1.0
                };
                let missing = (target - sign * soft[bit]).max(0.0) * energies[bit].sqrt();
                sign * missing / slopes[bit].max(1e-6)
            });
            self.for_chips(&current, &weighing, |at, _, slope, strength| {
                let chip = self.key.chips[at];
                let most = GREATEST_CHANGE * strength;
                let step = steps[usize::from(chip.bit)] * chip.sign * slope * strength * strength;
                changes[at] = (changes[at] + step).clamp(-most, most);
            });
            for ((current, host), (at, change)) in current
                .iter_mut()
                .zip(&self.host)
                .zip(changes.iter().enumerate())
            {
                *current = host + change * self.key.gains[at % BAND.len()];
            }
        }
        changes
    }

    /// Calls with the place of each chip, its weight, how its limited value grows with a change (zero
    /// at the limit), and its strength.
    fn for_chips(
        &self,
        current: &[f32],
        weighing: &Weighing,
        mut call: impl FnMut(usize, f32, f32, f32),
    ) {
        for (at, value) in current.iter().enumerate() {
            let frequency = at % BAND.len();
            let weight = weighing.weight(at);
            let limit = weighing.limit(at);
            let slope = if value.abs() < limit {
                weight * self.key.gains[frequency] / limit
            } else {
                0.0
            };
            call(at, weight, slope, self.strengths[at / BAND.len()]);
        }
    }
}
