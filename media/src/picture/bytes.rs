//! Single numbers of a file; `None` past its end.

fn array<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..)?.first_chunk().copied()
}

pub fn be16(file: &[u8], at: usize) -> Option<u16> {
    array(file, at).map(u16::from_be_bytes)
}

pub fn be32(file: &[u8], at: usize) -> Option<u32> {
    array(file, at).map(u32::from_be_bytes)
}

pub fn le16(file: &[u8], at: usize) -> Option<u16> {
    array(file, at).map(u16::from_le_bytes)
}

pub fn le32(file: &[u8], at: usize) -> Option<u32> {
    array(file, at).map(u32::from_le_bytes)
}

/// A number of three bytes.
pub fn le24(file: &[u8], at: usize) -> Option<u32> {
    let [a, b, c] = array(file, at)?;
    Some(u32::from_le_bytes([a, b, c, 0]))
}

/// The number of this many bytes, the first the greatest.
pub fn be(file: &[u8], at: usize, size: usize) -> Option<u64> {
    let end = at.checked_add(size)?;
    let bytes = file.get(at..end).filter(|_| size <= 8)?;
    Some(
        bytes
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)),
    )
}

/// So many bytes from a place.
pub fn part(file: &[u8], at: usize, length: usize) -> Option<&[u8]> {
    file.get(at..at.checked_add(length)?)
}
