//! The chunks of a WebP.

use super::{
    Orientation, PictureError, PictureFacts, Told,
    bytes::{le16, le24, le32, part},
    exif,
};

const ANIMATION: u8 = 0x02;
const XMP: u8 = 0x04;
const EXIF: u8 = 0x08;
const ALPHA: u8 = 0x10;
const PROFILE: u8 = 0x20;

struct WebpChunk<'a> {
    name: [u8; 4],
    data: &'a [u8],
}

fn chunks(file: &[u8]) -> Option<Vec<WebpChunk<'_>>> {
    let length = usize::try_from(le32(file, 4)?).ok()?;
    let file = part(file, 0, length.checked_add(8)?)?;
    let mut found = Vec::new();
    let mut at = 12;
    while at < file.len() {
        let length = usize::try_from(le32(file, at + 4)?).ok()?;
        let name = *part(file, at, 4)?.first_chunk()?;
        let data = part(file, at + 8, length)?;
        found.push(WebpChunk { name, data });
        // A chunk of odd length is followed by one more byte, which some writers leave out at the end.
        at = at.checked_add(8 + length + length % 2)?;
    }
    Some(found)
}

pub fn facts(file: &[u8]) -> Result<Option<PictureFacts>, PictureError> {
    let Some(chunks) = chunks(file) else {
        return Ok(None);
    };
    let is_animated = flags(&chunks).is_some_and(|flags| flags & ANIMATION != 0);
    if is_animated {
        return Err(PictureError::Unreadable("an animated WebP"));
    }
    Ok(of_chunks(&chunks))
}

fn of_chunks(chunks: &[WebpChunk<'_>]) -> Option<PictureFacts> {
    let (width, height) = size(chunks)?;
    let told = told(chunks);
    Some(PictureFacts {
        width,
        height,
        orientation: told
            .exif
            .as_deref()
            .map_or(Orientation::Upright, exif::orientation),
        told,
    })
}

fn data<'a>(chunks: &[WebpChunk<'a>], name: &[u8; 4]) -> Option<&'a [u8]> {
    let chunk = chunks.iter().find(|chunk| chunk.name == *name);
    chunk.map(|chunk| chunk.data)
}

fn flags(chunks: &[WebpChunk<'_>]) -> Option<u8> {
    data(chunks, b"VP8X")?.first().copied()
}

fn size(chunks: &[WebpChunk<'_>]) -> Option<(u32, u32)> {
    if let Some(head) = data(chunks, b"VP8X") {
        return Some((le24(head, 4)? + 1, le24(head, 7)? + 1));
    }
    if let Some(lossless) = data(chunks, b"VP8L") {
        let bits = le32(lossless, 1)?;
        return Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1));
    }
    let lossy = data(chunks, b"VP8 ")?;
    let side = |at| Some(u32::from(le16(lossy, at)? & 0x3fff));
    Some((side(6)?, side(8)?))
}

fn has_alpha(chunks: &[WebpChunk<'_>]) -> bool {
    let in_head = flags(chunks).is_some_and(|flags| flags & ALPHA != 0);
    let in_lossless = data(chunks, b"VP8L")
        .and_then(|lossless| le32(lossless, 1))
        .is_some_and(|bits| bits >> 28 & 1 == 1);
    in_head || in_lossless
}

fn told(chunks: &[WebpChunk<'_>]) -> Told {
    let owned = |name| data(chunks, name).map(<[u8]>::to_vec);
    let exif = data(chunks, b"EXIF");
    Told {
        profile: owned(b"ICCP"),
        // Some writers put JPEG's name in front.
        exif: exif.map(|exif| exif.strip_prefix(b"Exif\0\0").unwrap_or(exif).to_vec()),
        xmp: owned(b"XMP "),
    }
}

pub fn strip(file: &[u8]) -> Option<Vec<u8>> {
    let chunks = chunks(file)?;
    let told = told(&chunks);
    let orientation = told
        .exif
        .as_deref()
        .map_or(Orientation::Upright, exif::orientation);
    let kept = Told {
        profile: told.profile,
        exif: (orientation != Orientation::Upright).then(|| exif::of_orientation(orientation)),
        xmp: None,
    };
    write(&chunks, &kept)
}

pub fn tell(file: &[u8], told: &Told) -> Option<Vec<u8>> {
    write(&chunks(file)?, told)
}

fn write(chunks: &[WebpChunk<'_>], told: &Told) -> Option<Vec<u8>> {
    let (width, height) = size(chunks)?;
    let animation = flags(chunks).unwrap_or(0) & ANIMATION;
    let mut flags = animation;
    for (part, flag) in [
        (has_alpha(chunks), ALPHA),
        (told.profile.is_some(), PROFILE),
        (told.exif.is_some(), EXIF),
        (told.xmp.is_some(), XMP),
    ] {
        flags |= if part { flag } else { 0 };
    }
    let mut body = b"WEBP".to_vec();
    if flags & !ALPHA != 0 || data(chunks, b"ALPH").is_some() {
        let mut head = vec![flags, 0, 0, 0];
        head.extend(&width.checked_sub(1)?.to_le_bytes()[..3]);
        head.extend(&height.checked_sub(1)?.to_le_bytes()[..3]);
        body.extend(chunk(b"VP8X", &head)?);
    }
    if let Some(profile) = &told.profile {
        body.extend(chunk(b"ICCP", profile)?);
    }
    for pixels in chunks {
        if matches!(
            &pixels.name,
            b"VP8 " | b"VP8L" | b"ALPH" | b"ANIM" | b"ANMF"
        ) {
            body.extend(chunk(&pixels.name, pixels.data)?);
        }
    }
    for (name, part) in [(b"EXIF", &told.exif), (b"XMP ", &told.xmp)] {
        if let Some(part) = part {
            body.extend(chunk(name, part)?);
        }
    }
    chunk(b"RIFF", &body)
}

fn chunk(name: &[u8; 4], data: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(data.len()).ok()?;
    let mut chunk = [&name[..], &length.to_le_bytes(), data].concat();
    if data.len() % 2 == 1 {
        chunk.push(0);
    }
    Some(chunk)
}
