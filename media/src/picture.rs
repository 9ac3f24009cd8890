//! Reads and rewrites the files of pictures without decoding them: the size, what turns the picture, the colour
//! profile, and what tells of people and places. Everything here takes untrusted bytes, copies ranges of
//! them and never trusts a length.

/// The boxes of an AVIF.
mod avif;
/// Single numbers of a file.
mod bytes;
/// What cameras write about a picture.
mod exif;
/// The blocks of a GIF.
mod gif;
/// The segments of a JPEG.
mod jpeg;
/// The chunks of a PNG.
mod png;
/// The colours of an ICC profile.
mod profile;
/// The directory of a TIFF.
mod tiff;
/// The chunks of a WebP.
mod webp;

pub use exif::Orientation;
pub use profile::{ProfileColours, colours};

use crate::kind::MediaKind;

/// The largest colour profile that is carried over, in bytes.
const MAX_PROFILE: usize = 4 << 20;

/// What a picture's file tells without being decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PictureFacts {
    /// As stored, before it is turned.
    pub width: u32,
    pub height: u32,
    pub orientation: Orientation,
    pub told: Told,
}

/// What stands beside the pixels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// An ICC profile.
    pub profile: Option<Vec<u8>>,
    /// The directories of EXIF, as in a TIFF.
    pub exif: Option<Vec<u8>>,
    pub xmp: Option<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    #[error("the picture is damaged or cut off")]
    Damaged,
    /// Completes "the picture is".
    #[error("the picture is {0}")]
    Unreadable(&'static str),
}

impl PictureFacts {
    /// The size as it is seen.
    pub fn seen(&self) -> (u32, u32) {
        self.orientation.turn((self.width, self.height))
    }
}

/// Reads what the file tells. A file that ends too early is refused.
pub fn facts(kind: MediaKind, file: &[u8]) -> Result<PictureFacts, PictureError> {
    let facts = match kind {
        MediaKind::Jpeg => jpeg::facts(file),
        MediaKind::Png => png::facts(file),
        MediaKind::Webp => webp::facts(file)?,
        MediaKind::Gif => gif::facts(file),
        MediaKind::Tiff => tiff::facts(file)?,
        MediaKind::Avif => avif::facts(file)?,
        MediaKind::Bmp => bitmap(file),
        _ => return Err(PictureError::Unreadable("no picture")),
    };
    facts
        .filter(|facts| facts.width > 0 && facts.height > 0)
        .ok_or(PictureError::Damaged)
}

/// The file with its pixels byte for byte, its colours and what turns it, and nothing else. `None` for a kind
/// that cannot be rewritten in place.
pub fn strip(kind: MediaKind, file: &[u8]) -> Result<Option<Vec<u8>>, PictureError> {
    let stripped = match kind {
        MediaKind::Jpeg => jpeg::strip(file),
        MediaKind::Png => png::strip(file),
        MediaKind::Webp => webp::strip(file),
        MediaKind::Gif => gif::strip(file),
        MediaKind::Avif => avif::strip(file),
        MediaKind::Bmp => Some(file.to_vec()),
        _ => return Ok(None),
    };
    stripped.map(Some).ok_or(PictureError::Damaged)
}

/// The file with its pixels and what is told, and nothing else. A kind that has no place for it stays as it is.
pub fn tell(kind: MediaKind, file: Vec<u8>, told: &Told) -> Result<Vec<u8>, PictureError> {
    let written = match kind {
        MediaKind::Jpeg => jpeg::tell(&file, told),
        MediaKind::Png => png::tell(&file, told),
        MediaKind::Webp => webp::tell(&file, told),
        _ => return Ok(file),
    };
    written.ok_or(PictureError::Damaged)
}

impl Told {
    /// What an output may carry: the profile if it describes colours in red, green and blue, and the rest if it is
    /// to be kept. The picture is no longer turned, and a small copy inside is gone.
    pub fn carried(&self, keep_metadata: bool) -> Self {
        let profile = self.profile.as_ref();
        let kept = |part: &Option<Vec<u8>>| part.clone().filter(|_| keep_metadata);
        Self {
            profile: profile
                .filter(|icc| icc.len() <= MAX_PROFILE && icc.get(16..20) == Some(b"RGB "))
                .cloned(),
            exif: kept(&self.exif).map(exif::upright),
            xmp: kept(&self.xmp),
        }
    }
}

fn bitmap(file: &[u8]) -> Option<PictureFacts> {
    let size = bytes::le32(file, 14)?;
    let (width, height) = if size == 12 {
        (
            u32::from(bytes::le16(file, 18)?),
            u32::from(bytes::le16(file, 20)?),
        )
    } else {
        // A height below 0 means that the upper row comes first.
        let height = bytes::le32(file, 22)?.cast_signed().unsigned_abs();
        (bytes::le32(file, 18)?, height)
    };
    Some(PictureFacts {
        width,
        height,
        ..PictureFacts::default()
    })
}
