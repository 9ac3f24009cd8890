//! genie-marks puts an invisible number of 32 bits into the luminance of pictures and films, and reads
//! it again. The number survives compression, resizing and, mostly, cropping. It is evidence, not
//! protection: somebody who means to remove it can. This crate reads no file and decodes no media.

mod key;

mod embed;

mod detect;

mod film;

mod carrier;
mod registration;

mod bch;
mod payload;

mod fourier;
mod grid;

#[cfg(feature = "testing")]
pub mod testing;

#[cfg(test)]
mod tests;

pub use detect::{Detection, detect, detect_at, detect_whole};
pub use embed::{Embedded, LEAST_PSNR, LEAST_SIDE, MarkError, Residual, embed};
pub use film::{FilmDetection, FilmEmbedded, FilmMarker, FilmReader};
pub use grid::Viewport;
pub use key::MarkKey;
