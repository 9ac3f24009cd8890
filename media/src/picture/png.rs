//! The chunks of a PNG.

use std::io::{Read, Write};

use flate2::{Compression, Crc, read::ZlibDecoder, write::ZlibEncoder};

use super::{
    MAX_PROFILE, Orientation, PictureFacts, Told,
    bytes::{be32, part},
    exif,
};

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
const XMP: &[u8] = b"XML:com.adobe.xmp\0";

struct PngChunk<'a> {
    name: [u8; 4],
    data: &'a [u8],
    whole: &'a [u8],
}

/// All chunks to the end of the picture.
fn chunks(file: &[u8]) -> Option<Vec<PngChunk<'_>>> {
    let mut found = Vec::new();
    file.strip_prefix(SIGNATURE)?;
    let mut at = SIGNATURE.len();
    loop {
        let length = usize::try_from(be32(file, at)?).ok()?;
        let name = *part(file, at + 4, 4)?.first_chunk()?;
        let data = part(file, at + 8, length)?;
        let end = at.checked_add(length)?.checked_add(12)?;
        let whole = file.get(at..end)?;
        found.push(PngChunk { name, data, whole });
        if name == *b"IEND" {
            return Some(found);
        }
        at = end;
    }
}

pub fn facts(file: &[u8]) -> Option<PictureFacts> {
    let chunks = chunks(file)?;
    let head = chunks.first().filter(|chunk| chunk.name == *b"IHDR")?.data;
    let told = told(&chunks);
    Some(PictureFacts {
        width: be32(head, 0)?,
        height: be32(head, 4)?,
        orientation: told
            .exif
            .as_deref()
            .map_or(Orientation::Upright, exif::orientation),
        told,
    })
}

fn told(chunks: &[PngChunk<'_>]) -> Told {
    let data = |name: &[u8; 4]| {
        let chunk = chunks.iter().find(|chunk| chunk.name == *name);
        chunk.map(|chunk| chunk.data)
    };
    let xmp = chunks
        .iter()
        .filter(|chunk| chunk.name == *b"iTXt")
        .find_map(|chunk| chunk.data.strip_prefix(XMP))
        // Not compressed, and no language.
        .and_then(|text| text.strip_prefix(b"\0\0\0\0"));
    Told {
        profile: data(b"iCCP").and_then(profile),
        exif: data(b"eXIf").map(<[u8]>::to_vec),
        xmp: xmp.map(<[u8]>::to_vec),
    }
}

fn profile(chunk: &[u8]) -> Option<Vec<u8>> {
    let name_end = chunk.iter().position(|byte| *byte == 0)?;
    let packed = chunk.get(name_end + 2..)?;
    let mut profile = Vec::new();
    let most = u64::try_from(MAX_PROFILE).ok()?;
    ZlibDecoder::new(packed)
        .take(most)
        .read_to_end(&mut profile)
        .ok()?;
    Some(profile)
}

/// Chunks without which the pixels look otherwise.
fn is_needed(name: [u8; 4]) -> bool {
    // A first letter in capitals marks what a decoder must know.
    name[0].is_ascii_uppercase()
        || matches!(
            &name,
            b"tRNS"
                | b"gAMA"
                | b"cHRM"
                | b"sRGB"
                | b"iCCP"
                | b"cICP"
                | b"sBIT"
                | b"pHYs"
                | b"acTL"
                | b"fcTL"
                | b"fdAT"
                | b"mDCV"
                | b"cLLI"
                | b"bKGD"
        )
}

pub fn strip(file: &[u8]) -> Option<Vec<u8>> {
    let chunks = chunks(file)?;
    let orientation = told(&chunks)
        .exif
        .as_deref()
        .map_or(Orientation::Upright, exif::orientation);
    let mut stripped = SIGNATURE.to_vec();
    for chunk in chunks.iter().filter(|chunk| is_needed(chunk.name)) {
        stripped.extend(chunk.whole);
        if chunk.name == *b"IHDR" && orientation != Orientation::Upright {
            stripped.extend(written(b"eXIf", &exif::of_orientation(orientation))?);
        }
    }
    Some(stripped)
}

/// Writes what is told behind the head.
pub fn tell(file: &[u8], told: &Told) -> Option<Vec<u8>> {
    let mut result = SIGNATURE.to_vec();
    for chunk in chunks(file)? {
        // Only one description of the colours may stand in a file.
        let is_other = matches!(&chunk.name, b"sRGB" | b"gAMA" | b"cHRM" | b"cICP");
        let is_profile = chunk.name == *b"iCCP" || is_other && told.profile.is_some();
        if is_needed(chunk.name) && !is_profile {
            result.extend(chunk.whole);
        }
        if chunk.name != *b"IHDR" {
            continue;
        }
        if let Some(profile) = &told.profile {
            let mut packed = ZlibEncoder::new(b"profile\0\0".to_vec(), Compression::default());
            packed.write_all(profile).ok()?;
            result.extend(written(b"iCCP", &packed.finish().ok()?)?);
        }
        if let Some(exif) = &told.exif {
            result.extend(written(b"eXIf", exif)?);
        }
        if let Some(xmp) = &told.xmp {
            result.extend(written(b"iTXt", &[XMP, b"\0\0\0\0", xmp].concat())?);
        }
    }
    Some(result)
}

fn written(name: &[u8; 4], data: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(data.len()).ok()?;
    let mut sum = Crc::new();
    sum.update(name);
    sum.update(data);
    let sum = sum.sum().to_be_bytes();
    Some([&length.to_be_bytes()[..], name, data, &sum].concat())
}
