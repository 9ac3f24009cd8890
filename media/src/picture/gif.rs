//! The blocks of a GIF.

use super::{PictureFacts, bytes::le16};

pub fn facts(file: &[u8]) -> Option<PictureFacts> {
    strip(file)?;
    Some(PictureFacts {
        width: u32::from(le16(file, 6)?),
        height: u32::from(le16(file, 8)?),
        ..PictureFacts::default()
    })
}

/// Leaves out comments, and what programs added for themselves.
pub fn strip(file: &[u8]) -> Option<Vec<u8>> {
    let mut at = 13 + colours(*file.get(10)?);
    let mut stripped = file.get(..at)?.to_vec();
    let mut has_picture = false;
    loop {
        let start = at;
        let keep = match *file.get(at)? {
            0x3b => {
                stripped.push(0x3b);
                return has_picture.then_some(stripped);
            }
            0x21 => {
                let label = *file.get(at + 1)?;
                let name = file.get(at + 3..at + 14);
                at = end_of_blocks(file, at + 2)?;
                match label {
                    0xfe => false,
                    0xff => matches!(name, Some(b"NETSCAPE2.0" | b"ANIMEXTS1.0" | b"ICCRGBG1012")),
                    _ => true,
                }
            }
            0x2c => {
                has_picture = true;
                at += 10 + colours(*file.get(at + 9)?) + 1;
                at = end_of_blocks(file, at)?;
                true
            }
            _ => return None,
        };
        if keep {
            stripped.extend(file.get(start..at)?);
        }
    }
}

/// The bytes of a table of colours that these flags announce.
fn colours(flags: u8) -> usize {
    if flags & 0x80 == 0 {
        0
    } else {
        3 << ((flags & 7) + 1)
    }
}

fn end_of_blocks(file: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*file.get(at)?);
        at += 1 + length;
        if length == 0 {
            return Some(at);
        }
    }
}
