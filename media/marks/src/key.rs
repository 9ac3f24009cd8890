//! The secret pattern of a deployment: which coefficient carries which bit with which sign, and
//! where the pilots of the synchronisation template are.

use std::{f32::consts::TAU, fmt};

use chacha20::{
    ChaCha20,
    cipher::{KeyIvInit, StreamCipher},
};
use hkdf::Hkdf;
use sha2::Sha256;

use crate::{
    bch,
    carrier::{self, BAND, BLOCKS, CANONICAL, SIDE},
    grid::{Grid, enlarge},
};

/// Sinusoids of the synchronisation template.
const PILOTS: usize = 28;
/// Their frequencies, in periods for a whole picture.
const PILOT_RING: std::ops::RangeInclusive<f32> = 26.0..=56.0;
/// The lowest frequency of a pilot along either side. Lower ones tell nothing about that side's scale.
const PILOT_LEAST: i32 = 4;

/// One coefficient's part in spread spectrum.
#[derive(Clone, Copy)]
pub struct Chip {
    pub bit: u8,
    pub sign: f32,
}

/// A sinusoid of the synchronisation template.
#[derive(Clone, Copy)]
pub struct Pilot {
    /// Periods for the width of a whole picture; positive.
    pub x: i32,
    /// Periods for its height.
    pub y: i32,
    /// The phase at the left upper corner.
    pub phase: f32,
}

/// The pattern that a 32-byte key stands for. Without the key a mark can neither be read nor made.
pub struct MarkKey {
    /// The chip of each coefficient, block by block.
    pub(crate) chips: Vec<Chip>,
    pub(crate) pilots: Vec<Pilot>,
    /// The sum of all pilots with a root mean square of 1.
    pub(crate) template: Grid,
    /// How much of a change is left when a residual was enlarged and reduced again, by frequency.
    pub(crate) gains: [f32; BAND.len()],
}

impl fmt::Debug for MarkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MarkKey(..)")
    }
}

impl MarkKey {
    pub fn new(key: &[u8; 32]) -> Self {
        let chips = chips(&mut Stream::new(key, b"genie mark 1: chips"));
        let pilots = pilots(&mut Stream::new(key, b"genie mark 1: pilots"));
        Self {
            gains: gains(&chips),
            template: template(&pilots),
            chips,
            pilots,
        }
    }
}

/// Each frequency gives each bit its share of blocks, so that a bit is spread over the whole picture
/// and over all frequencies.
fn chips(stream: &mut Stream) -> Vec<Chip> {
    let mut chips = vec![Chip { bit: 0, sign: 1.0 }; BLOCKS * BLOCKS * BAND.len()];
    let mut bit = 0;
    for frequency in 0..BAND.len() {
        for block in stream.permutation(BLOCKS * BLOCKS) {
            chips[block * BAND.len() + frequency] = Chip {
                bit: bit as u8,
                sign: if stream.below(2) == 0 { 1.0 } else { -1.0 },
            };
            bit = (bit + 1) % bch::LENGTH;
        }
    }
    chips
}

fn pilots(stream: &mut Stream) -> Vec<Pilot> {
    let mut pilots: Vec<Pilot> = Vec::with_capacity(PILOTS);
    while pilots.len() < PILOTS {
        let x = stream.below(56) as i32 + 1;
        let y = stream.below(113) as i32 - 56;
        let phase = stream.below(1 << 16) as f32 / 65_536.0 * TAU;
        let radius = ((x * x + y * y) as f32).sqrt();
        let is_apart = pilots
            .iter()
            .all(|other| (other.x - x).abs().max((other.y - y).abs()) >= 4);
        if PILOT_RING.contains(&radius) && x >= PILOT_LEAST && y.abs() >= PILOT_LEAST && is_apart {
            pilots.push(Pilot { x, y, phase });
        }
    }
    pilots
}

fn gains(chips: &[Chip]) -> [f32; BAND.len()] {
    let signs: Vec<f32> = chips.iter().map(|chip| chip.sign).collect();
    let mut canonical = Grid::new(CANONICAL, CANONICAL);
    enlarge(
        &carrier::synthesis(&signs),
        CANONICAL,
        CANONICAL,
        |y, line| {
            for (sample, value) in canonical.row_mut(y).iter_mut().zip(line) {
                *sample = value / 4.0;
            }
        },
    );
    let left = carrier::coefficients(&carrier::wavelet(&canonical).approximation);
    let mut gains = [0.0; BAND.len()];
    for (at, (sign, left)) in signs.iter().zip(&left).enumerate() {
        gains[at % BAND.len()] += sign * left / (BLOCKS * BLOCKS) as f32;
    }
    gains
}

fn template(pilots: &[Pilot]) -> Grid {
    let mut grid = Grid::new(SIDE, SIDE);
    let amplitude = (2.0 / pilots.len() as f32).sqrt();
    for y in 0..SIDE {
        let v = (y as f32 + 0.5) / SIDE as f32;
        for (x, value) in grid.row_mut(y).iter_mut().enumerate() {
            let u = (x as f32 + 0.5) / SIDE as f32;
            *value = pilots
                .iter()
                .map(|pilot| (TAU * (pilot.x as f32 * u + pilot.y as f32 * v) + pilot.phase).cos())
                .sum::<f32>()
                * amplitude;
        }
    }
    grid
}

/// The keystream of a key that HKDF (RFC 5869) derives for one purpose, as numbers.
struct Stream(ChaCha20);

impl Stream {
    fn new(key: &[u8; 32], purpose: &[u8]) -> Self {
        let mut derived = [0; 32];
        Hkdf::<Sha256>::new(None, key)
            .expand(purpose, &mut derived)
            .expect("32 bytes are within what HKDF can give");
        Self(ChaCha20::new(&derived.into(), &[0; 12].into()))
    }

    fn next(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.0.apply_keystream(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// A number below a bound. Its bias is at most the bound over 2^32.
    fn below(&mut self, bound: usize) -> usize {
        ((u64::from(self.next()) * bound as u64) >> 32) as usize
    }

    fn permutation(&mut self, length: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..length).collect();
        for last in (1..length).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }
}
