//! Whether a film's file is whole: its parts say how long they are, and a file that was cut off ends before.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use crate::kind::MediaKind;

/// The most parts that are looked at.
const MOST_PARTS: usize = 100_000;

/// False for a file that ends inside a part. Kinds that do not say how long they are count as whole.
pub(super) fn is_whole(kind: MediaKind, path: &Path) -> std::io::Result<bool> {
    let mut file = File::open(path)?;
    let length = file.seek(SeekFrom::End(0))?;
    match kind {
        MediaKind::Mp4 | MediaKind::Mov | MediaKind::ThreeGp | MediaKind::M4a => {
            boxes_are_whole(&mut file, length)
        }
        MediaKind::Webm | MediaKind::Matroska => segment_is_whole(&mut file, length),
        _ => Ok(true),
    }
}

fn boxes_are_whole(file: &mut (impl Read + Seek), length: u64) -> std::io::Result<bool> {
    let mut at = 0;
    for _ in 0..MOST_PARTS {
        // A few bytes behind the last box hurt nobody.
        if at + 8 > length {
            return Ok(true);
        }
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0; 16];
        let read = read_up_to(file, &mut head)?;
        let size = match u32::from_be_bytes([head[0], head[1], head[2], head[3]]) {
            // To the end of the file.
            0 => return Ok(true),
            1 if read < 16 => return Ok(false),
            1 => u64::from_be_bytes([
                head[8], head[9], head[10], head[11], head[12], head[13], head[14], head[15],
            ]),
            size => u64::from(size),
        };
        let Some(end) = at.checked_add(size).filter(|_| size >= 8) else {
            return Ok(false);
        };
        if end > length {
            return Ok(false);
        }
        at = end;
    }
    Ok(true)
}

fn segment_is_whole(file: &mut (impl Read + Seek), length: u64) -> std::io::Result<bool> {
    file.seek(SeekFrom::Start(0))?;
    let mut head = [0; 4096];
    let read = read_up_to(file, &mut head)?;
    let head = &head[..read];
    let Some((header, at)) = number(head, 4) else {
        return Ok(false);
    };
    let segment = header
        .and_then(|header| usize::try_from(header).ok())
        .and_then(|header| at.checked_add(header));
    let Some(segment) = segment.filter(|segment| *segment < head.len()) else {
        return Ok(true);
    };
    // The element that holds all others; a live recording does not know its length.
    if !head[segment..].starts_with(b"\x18\x53\x80\x67") {
        return Ok(true);
    }
    Ok(match number(head, segment + 4) {
        Some((Some(size), at)) => (at as u64)
            .checked_add(size)
            .is_some_and(|end| end <= length),
        Some((None, _)) => true,
        None => false,
    })
}

/// A number of variable length with the place behind it. All bits set mean "unknown".
fn number(bytes: &[u8], at: usize) -> Option<(Option<u64>, usize)> {
    let first = *bytes.get(at)?;
    let size = usize::try_from(first.leading_zeros()).ok()? + 1;
    let all = bytes.get(at..at.checked_add(size)?).filter(|_| size <= 8)?;
    let most = (1u64 << (7 * size)) - 1;
    let value = all
        .iter()
        .fold(0u64, |value, byte| value << 8 | u64::from(*byte))
        & most;
    Some(((value != most).then_some(value), at + size))
}

fn read_up_to(file: &mut impl Read, bytes: &mut [u8]) -> std::io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read(&mut bytes[read..])? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn a_box_that_reaches_past_the_end_is_cut_off() {
        let whole = [&b"\0\0\0\x0cftypqt  "[..], b"\0\0\0\x0amdat\0\0"].concat();
        let check =
            |bytes: &[u8]| boxes_are_whole(&mut Cursor::new(bytes), bytes.len() as u64).unwrap();
        assert!(check(&whole));
        assert!(!check(&whole[..whole.len() - 1]));
        assert!(check(&[&whole[..], b"\0\0"].concat()));
        assert!(check(b"\0\0\0\0mdat\0"));
        assert!(!check(b"\0\0\0\x04mdat\0"));
    }

    #[test]
    fn a_segment_that_reaches_past_the_end_is_cut_off() {
        let head = b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67";
        let check = |rest: &[u8]| {
            let bytes = [&head[..], rest].concat();
            segment_is_whole(&mut Cursor::new(&bytes), bytes.len() as u64).unwrap()
        };
        assert!(check(b"\x82ab"));
        assert!(!check(b"\x82a"));
        assert!(check(b"\xffa"));
        assert!(check(b"\x01\xff\xff\xff\xff\xff\xff\xffa"));
        assert!(!check(b"\x01\0\0\0\0\0\0\x02a"));
    }
}
