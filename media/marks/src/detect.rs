//! Reading a mark.

use crate::{
    bch,
    carrier::{self, BLOCKS, CANONICAL, Weighing},
    embed::LEAST_SIDE,
    grid::{Resampled, Viewport, resample},
    key::MarkKey,
    payload, registration,
};

/// Larger pictures are reduced to this side before the picture is looked for in them.
const WORKING_SIDE: usize = 1024;

/// A share of its blocks that must be seen.
const LEAST_PRESENT: f32 = 0.3;

/// A mark that was read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    pub number: u32,
    /// The normalised correlation of what was read with the number's code word, 0 to 1.
    pub confidence: f32,
    /// Where the whole marked picture lies, in pixels of the one that was read. It reaches outside
    /// when that one is a crop.
    pub placement: Viewport,
}

/// Reads the mark of luminance (rows of 8-bit samples without padding): as it is, without a plain
/// border, or as a crop or a part of another picture.
pub fn detect(key: &MarkKey, width: usize, height: usize, pixels: &[u8]) -> Option<Detection> {
    if let Some(found) = detect_whole(key, width, height, pixels) {
        return Some(found);
    }
    check_seen(width, height, pixels)?;
    let size = (width.min(WORKING_SIDE), height.min(WORKING_SIDE));
    let working = resample(
        pixels,
        (width, height),
        Viewport::whole(width, height),
        size,
    )
    .grid;
    let placements = registration::placements(key, &working.values, size);
    placements.iter().find_map(|placement| {
        let view = placement.viewport(size.0, size.1);
        let mut found = read(key, &working.values, size, view)?;
        found.placement = placement.viewport(width, height);
        Some(found)
    })
}

/// Reads the mark of a picture that is whole: at any scale, but neither cut nor with a border.
pub fn detect_whole(
    key: &MarkKey,
    width: usize,
    height: usize,
    pixels: &[u8],
) -> Option<Detection> {
    detect_at(key, (width, height), pixels, Viewport::whole(width, height))
}

/// Reads the mark of a picture that is known to lie in a viewport.
pub fn detect_at(
    key: &MarkKey,
    size: (usize, usize),
    pixels: &[u8],
    view: Viewport,
) -> Option<Detection> {
    check_seen(size.0, size.1, pixels)?;
    read(key, pixels, size, view)
}

/// The soft bits of the picture in a viewport.
pub(crate) fn soft_bits_of(
    key: &MarkKey,
    size: (usize, usize),
    pixels: &[u8],
    view: Viewport,
) -> Option<[f32; bch::LENGTH]> {
    check_seen(size.0, size.1, pixels)?;
    soft_bits(key, pixels, size, view)
}

/// A marked picture may have been made smaller, but not to nothing.
fn check_seen(width: usize, height: usize, pixels: &[u8]) -> Option<()> {
    let is_plane = width.checked_mul(height) == Some(pixels.len());
    (is_plane && width.min(height) >= LEAST_SIDE / 2).then_some(())
}

fn read<T: Copy + Into<f32>>(
    key: &MarkKey,
    pixels: &[T],
    size: (usize, usize),
    view: Viewport,
) -> Option<Detection> {
    let soft = soft_bits(key, pixels, size, view)?;
    let decoded = payload::decode(&soft)?;
    Some(Detection {
        number: decoded.number,
        confidence: decoded.correlation,
        placement: view,
    })
}

/// The soft bits of the picture in a viewport, if enough of it is seen.
fn soft_bits<T: Copy + Into<f32>>(
    key: &MarkKey,
    pixels: &[T],
    size: (usize, usize),
    view: Viewport,
) -> Option<[f32; bch::LENGTH]> {
    let seen = resample(pixels, size, view, (CANONICAL, CANONICAL));
    let present = present(&seen);
    let count = present.iter().filter(|present| **present).count();
    if (count as f32) < LEAST_PRESENT * present.len() as f32 {
        return None;
    }
    let coefficients = carrier::coefficients(&carrier::wavelet(&seen.grid).approximation);
    let weighing = Weighing::new(&coefficients, &present);
    Some(carrier::soft_bits(key, &weighing, &coefficients, &present))
}

/// The blocks that lie inside the seen picture.
fn present(seen: &Resampled) -> Vec<bool> {
    let inside = |shares: &[f32]| -> Vec<bool> {
        let all = |block: &[f32]| block.iter().all(|share| *share > 0.99);
        shares.chunks(CANONICAL / BLOCKS).map(all).collect()
    };
    let (columns, rows) = (inside(&seen.columns), inside(&seen.rows));
    rows.iter()
        .flat_map(|row| columns.iter().map(move |column| *row && *column))
        .collect()
}
