//! The segments of a JPEG.

use super::{
    Orientation, PictureFacts, Told,
    bytes::{be16, part},
    exif,
};

const EXIF: &[u8] = b"Exif\0\0";
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
const ICC: &[u8] = b"ICC_PROFILE\0";
/// The most bytes that a segment has after its length.
const MOST_IN_SEGMENT: usize = 65_533;

/// A marker with what belongs to it.
struct JpegSegment<'a> {
    marker: u8,
    /// Without marker and length.
    payload: &'a [u8],
    /// All bytes, with the pixels that follow a start of scan.
    whole: &'a [u8],
}

/// All segments from the first to the end of the picture. What follows in the file is left out: phones put other pictures
/// and films there.
fn segments(file: &[u8]) -> Option<Vec<JpegSegment<'_>>> {
    let mut found = Vec::new();
    let mut at = 2;
    file.strip_prefix(b"\xff\xd8")?;
    loop {
        // Any number of fill bytes may stand before a marker.
        let start = at;
        if *file.get(at)? != 0xff {
            return None;
        }
        while *file.get(at)? == 0xff {
            at += 1;
        }
        let marker = *file.get(at)?;
        at += 1;
        if marker == 0xd9 {
            return Some(found);
        }
        let length = usize::from(be16(file, at)?);
        let payload = part(file, at + 2, length.checked_sub(2)?)?;
        at += length;
        if marker == 0xda {
            at = end_of_scan(file, at)?;
        }
        found.push(JpegSegment {
            marker,
            payload,
            whole: file.get(start..at)?,
        });
    }
}

/// The place of the marker that ends the pixels from here.
fn end_of_scan(file: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += file.get(at..)?.iter().position(|byte| *byte == 0xff)?;
        match file.get(at + 1)? {
            // A stuffed byte, or a restart: pixels go on.
            0x00 | 0xd0..=0xd7 => at += 2,
            0xff => at += 1,
            _ => return Some(at),
        }
    }
}

pub fn facts(file: &[u8]) -> Option<PictureFacts> {
    let segments = segments(file)?;
    let frame = segments
        .iter()
        .find(|segment| is_frame(segment.marker))?
        .payload;
    let told = told(&segments);
    let orientation = told
        .exif
        .as_deref()
        .map_or(Orientation::Upright, exif::orientation);
    Some(PictureFacts {
        width: u32::from(be16(frame, 3)?),
        height: u32::from(be16(frame, 1)?),
        orientation,
        told,
    })
}

fn is_frame(marker: u8) -> bool {
    // The other markers of this range define tables.
    matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc)
}

fn told(segments: &[JpegSegment<'_>]) -> Told {
    let named = |marker: u8, name: &[u8]| {
        segments
            .iter()
            .filter(|segment| segment.marker == marker)
            .find_map(|segment| segment.payload.strip_prefix(name))
            .map(<[u8]>::to_vec)
    };
    Told {
        profile: profile(segments),
        exif: named(0xe1, EXIF),
        xmp: named(0xe1, XMP),
    }
}

/// A profile stands in numbered pieces.
fn profile(segments: &[JpegSegment<'_>]) -> Option<Vec<u8>> {
    let mut pieces: Vec<(u8, &[u8])> = segments
        .iter()
        .filter(|segment| segment.marker == 0xe2)
        .filter_map(|segment| segment.payload.strip_prefix(ICC))
        .filter_map(|piece| Some((*piece.first()?, piece.get(2..)?)))
        .collect();
    pieces.sort_by_key(|(number, _)| *number);
    let profile: Vec<u8> = pieces
        .into_iter()
        .flat_map(|(_, piece)| piece)
        .copied()
        .collect();
    (!profile.is_empty()).then_some(profile)
}

/// Segments without which the pixels look otherwise.
fn is_needed(segment: &JpegSegment<'_>) -> bool {
    match segment.marker {
        0xe0 | 0xe1 | 0xfe => false,
        0xe2 => segment.payload.starts_with(ICC),
        0xee => segment.payload.starts_with(b"Adobe"),
        0xe3..=0xef => false,
        _ => true,
    }
}

pub fn strip(file: &[u8]) -> Option<Vec<u8>> {
    let segments = segments(file)?;
    let told = told(&segments);
    let orientation = told
        .exif
        .as_deref()
        .map_or(Orientation::Upright, exif::orientation);
    let mut stripped = b"\xff\xd8".to_vec();
    if let Some(density) = density(&segments) {
        stripped.extend(density);
    }
    if orientation != Orientation::Upright {
        let exif = [EXIF, &exif::of_orientation(orientation)].concat();
        stripped.extend(segment(0xe1, &exif)?);
    }
    for needed in segments.iter().filter(|segment| is_needed(segment)) {
        stripped.extend(needed.whole);
    }
    stripped.extend(b"\xff\xd9");
    Some(stripped)
}

/// The segment that names the density of the pixels, without a small copy of the picture.
fn density(segments: &[JpegSegment<'_>]) -> Option<Vec<u8>> {
    let jfif = segments
        .iter()
        .find(|segment| segment.marker == 0xe0 && segment.payload.starts_with(b"JFIF\0"))?;
    let head = jfif.payload.get(..12)?;
    segment(0xe0, &[head, &[0, 0]].concat())
}

fn segment(marker: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(payload.len().checked_add(2)?).ok()?;
    Some([&[0xff, marker][..], &length.to_be_bytes(), payload].concat())
}

/// Writes what is told behind the density. What fits in no segment is left out.
pub fn tell(file: &[u8], told: &Told) -> Option<Vec<u8>> {
    let segments = segments(file)?;
    let mut written = b"\xff\xd8".to_vec();
    written.extend(density(&segments).unwrap_or_default());
    for (name, payload) in [(EXIF, &told.exif), (XMP, &told.xmp)] {
        if let Some(payload) = payload {
            written.extend(segment(0xe1, &[name, payload].concat()).unwrap_or_default());
        }
    }
    if let Some(profile) = &told.profile {
        let pieces = profile.chunks(MOST_IN_SEGMENT - ICC.len() - 2);
        let count = u8::try_from(pieces.len()).ok()?;
        for (number, piece) in (1..=count).zip(pieces) {
            written.extend(segment(0xe2, &[ICC, &[number, count], piece].concat())?);
        }
    }
    let is_pixels = |segment: &&JpegSegment<'_>| is_needed(segment) && segment.marker != 0xe2;
    for pixels in segments.iter().filter(is_pixels) {
        written.extend(pixels.whole);
    }
    written.extend(b"\xff\xd9");
    Some(written)
}
