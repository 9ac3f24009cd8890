//! The boxes of an AVIF. Its pictures are numbered items; properties are shared out to them.

use std::ops::Range;

use super::{
    Orientation, PictureError, PictureFacts, Told,
    bytes::{be, be16, be32, part},
};

/// The most items or properties that are looked at.
const MOST: usize = 4096;

#[derive(Clone, Copy)]
struct IsoBox<'a> {
    name: [u8; 4],
    data: &'a [u8],
    /// The place of `data` in the file.
    at: usize,
}

/// The boxes in a part of the file that begins at `at`.
fn boxes(mut data: &[u8], mut at: usize) -> Option<Vec<IsoBox<'_>>> {
    let mut found = Vec::new();
    while !data.is_empty() {
        let name = *part(data, 4, 4)?.first_chunk()?;
        let (head, length) = match be32(data, 0)? {
            0 => (8, data.len()),
            1 => (16, usize::try_from(be(data, 8, 8)?).ok()?),
            length => (8, usize::try_from(length).ok()?),
        };
        let inside = data.get(head..length)?;
        found.push(IsoBox {
            name,
            data: inside,
            at: at.checked_add(head)?,
        });
        data = data.get(length..)?;
        at = at.checked_add(length)?;
        if found.len() > MOST {
            return None;
        }
    }
    Some(found)
}

fn find<'a>(boxes: &[IsoBox<'a>], name: &[u8; 4]) -> Option<IsoBox<'a>> {
    boxes.iter().find(|one| one.name == *name).copied()
}

/// The boxes that describe the items.
fn meta(file: &[u8]) -> Option<Vec<IsoBox<'_>>> {
    let meta = find(&boxes(file, 0)?, b"meta")?;
    boxes(meta.data.get(4..)?, meta.at.checked_add(4)?)
}

pub fn facts(file: &[u8]) -> Result<Option<PictureFacts>, PictureError> {
    let Some(meta) = meta(file) else {
        return Ok(None);
    };
    let Some(items) = items(&meta) else {
        return Ok(None);
    };
    let Some(primary) = primary(&meta) else {
        return Ok(None);
    };
    let is_tiled = items
        .iter()
        .any(|item| item.number == primary && item.kind != *b"av01");
    if is_tiled {
        return Err(PictureError::Unreadable("an AVIF of several tiles"));
    }
    let has_auxiliary = find(&meta, b"iref")
        .is_some_and(|references| references.data.windows(4).any(|name| name == b"auxl"));
    if has_auxiliary {
        return Err(PictureError::Unreadable("an AVIF with transparency"));
    }
    Ok(of_properties(&meta, primary))
}

struct AvifItem {
    number: u32,
    kind: [u8; 4],
}

fn items(meta: &[IsoBox<'_>]) -> Option<Vec<AvifItem>> {
    let infos = find(meta, b"iinf")?;
    let head = if infos.data.first() == Some(&0) { 6 } else { 8 };
    let entries = boxes(infos.data.get(head..)?, 0)?;
    entries
        .iter()
        .map(|entry| {
            let wide = *entry.data.first()? >= 3;
            let (number, at) = if wide {
                (be32(entry.data, 4)?, 10)
            } else {
                (u32::from(be16(entry.data, 4)?), 8)
            };
            let kind = *part(entry.data, at, 4)?.first_chunk()?;
            Some(AvifItem { number, kind })
        })
        .collect()
}

fn primary(meta: &[IsoBox<'_>]) -> Option<u32> {
    let primary = find(meta, b"pitm")?.data;
    match primary.first()? {
        0 => be16(primary, 4).map(u32::from),
        _ => be32(primary, 4),
    }
}

fn of_properties(meta: &[IsoBox<'_>], primary: u32) -> Option<PictureFacts> {
    let properties = find(meta, b"iprp")?;
    let parts = boxes(properties.data, 0)?;
    let all = boxes(find(&parts, b"ipco")?.data, 0)?;
    let mut facts = PictureFacts::default();
    let mut turned = 0;
    let mut mirrored = None;
    for number in properties_of(find(&parts, b"ipma")?.data, primary)? {
        let Some(property) = number.checked_sub(1).and_then(|number| all.get(number)) else {
            continue;
        };
        match &property.name {
            b"ispe" => {
                facts.width = be32(property.data, 4)?;
                facts.height = be32(property.data, 8)?;
            }
            b"irot" => turned = property.data.first()? & 3,
            b"imir" => mirrored = Some(property.data.first()? & 1),
            b"colr" if matches!(property.data.get(..4), Some(b"prof" | b"rICC")) => {
                facts.told = Told {
                    profile: property.data.get(4..).map(<[u8]>::to_vec),
                    ..Told::default()
                };
            }
            _ => {}
        }
    }
    facts.orientation = orientation(turned, mirrored);
    Some(facts)
}

/// Quarter turns to the left come first, then the mirror: 0 swaps above and below, 1 left and right.
fn orientation(turned: u8, mirrored: Option<u8>) -> Orientation {
    match (turned, mirrored) {
        (0, None) => Orientation::Upright,
        (1, None) => Orientation::TurnedLeft,
        (2, None) => Orientation::HalfTurn,
        (_, None) => Orientation::TurnedRight,
        (0, Some(0)) | (2, Some(1)) => Orientation::UpsideDown,
        (0, Some(_)) | (2, Some(_)) => Orientation::Mirrored,
        (1, Some(0)) | (3, Some(1)) => Orientation::Transposed,
        (_, Some(_)) => Orientation::Transversed,
    }
}

/// The numbers of an item's properties, from 1.
fn properties_of(table: &[u8], item: u32) -> Option<Vec<usize>> {
    let is_wide_item = *table.first()? >= 1;
    let is_wide_number = be32(table, 0)? & 1 == 1;
    let mut at = 8;
    for _ in 0..be32(table, 4)? {
        let number = if is_wide_item {
            be32(table, at)?
        } else {
            u32::from(be16(table, at)?)
        };
        at += if is_wide_item { 4 } else { 2 };
        let count = usize::from(*table.get(at)?);
        at += 1;
        let size = if is_wide_number { 2 } else { 1 };
        // The first bit says whether a reader must know the property.
        let most = if is_wide_number { 0x7fff } else { 0x7f };
        if number == item {
            return (0..count)
                .map(|one| {
                    let number = be(table, at + one * size, size)? & most;
                    usize::try_from(number).ok()
                })
                .collect();
        }
        at += count * size;
    }
    None
}

/// The file with its texts overwritten in place, so that nothing moves.
pub fn strip(file: &[u8]) -> Option<Vec<u8>> {
    let meta = meta(file)?;
    let inner = find(&meta, b"idat").map(|inner| inner.at);
    let mut stripped = file.to_vec();
    for item in items(&meta)? {
        if !matches!(&item.kind, b"Exif" | b"mime" | b"uri ") {
            continue;
        }
        for range in places(&meta, inner, item.number)? {
            let text = stripped.get_mut(range)?;
            text.fill(b' ');
            if item.kind == *b"Exif" && text.len() >= 18 {
                text.fill(0);
                text[..18].copy_from_slice(b"\0\0\0\0II*\0\x08\0\0\0\0\0\0\0\0\0");
            }
        }
    }
    Some(stripped)
}

/// The places of an item in the file.
fn places(meta: &[IsoBox<'_>], inner: Option<usize>, item: u32) -> Option<Vec<Range<usize>>> {
    let table = find(meta, b"iloc")?.data;
    let version = *table.first()?;
    let sizes = be16(table, 4)?;
    let size = |shift: u16| usize::from(sizes >> shift & 15);
    let (offset_size, length_size, base_size) = (size(12), size(8), size(4));
    let index_size = if version == 0 { 0 } else { size(0) };
    let number_size = if version < 2 { 2 } else { 4 };
    let count = be(table, 6, number_size)?;
    let mut at = 6 + number_size;
    for _ in 0..count {
        let number = be(table, at, number_size)?;
        at += number_size;
        let is_inner = version > 0 && be16(table, at)? & 15 == 1;
        at += if version > 0 { 4 } else { 2 };
        let base = usize::try_from(be(table, at, base_size)?).ok()?;
        at += base_size;
        let extents = usize::from(be16(table, at)?);
        at += 2;
        let mut found = Vec::new();
        for _ in 0..extents {
            at += index_size;
            let offset = usize::try_from(be(table, at, offset_size)?).ok()?;
            let length = usize::try_from(be(table, at + offset_size, length_size)?).ok()?;
            at += offset_size + length_size;
            let start = base
                .checked_add(offset)?
                .checked_add(if is_inner { inner? } else { 0 })?;
            found.push(start..start.checked_add(length)?);
        }
        if number == u64::from(item) {
            return Some(found);
        }
    }
    Some(Vec::new())
}
