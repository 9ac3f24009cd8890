//! What cameras write about a picture. Its directories are those of a TIFF.

use super::bytes::{be16, be32, le16, le32, part};

const ORIENTATION: u16 = 0x0112;
const THUMBNAIL_AT: u16 = 0x0201;
const THUMBNAIL_LENGTH: u16 = 0x0202;
/// The most entries of a directory that are looked at.
const MOST_ENTRIES: u16 = 1000;

/// How a stored picture is turned and mirrored before it is seen, in EXIF's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Orientation {
    #[default]
    Upright = 1,
    Mirrored = 2,
    HalfTurn = 3,
    UpsideDown = 4,
    Transposed = 5,
    TurnedRight = 6,
    Transversed = 7,
    TurnedLeft = 8,
}

impl Orientation {
    pub fn from_exif(number: u16) -> Self {
        match number {
            2 => Self::Mirrored,
            3 => Self::HalfTurn,
            4 => Self::UpsideDown,
            5 => Self::Transposed,
            6 => Self::TurnedRight,
            7 => Self::Transversed,
            8 => Self::TurnedLeft,
            _ => Self::Upright,
        }
    }

    /// ffmpeg's filter that makes the picture as it is seen.
    pub fn filter(self) -> Option<&'static str> {
        match self {
            Self::Upright => None,
            Self::Mirrored => Some("hflip"),
            Self::HalfTurn => Some("hflip,vflip"),
            Self::UpsideDown => Some("vflip"),
            Self::Transposed => Some("transpose=cclock_flip"),
            Self::TurnedRight => Some("transpose=clock"),
            Self::Transversed => Some("transpose=clock_flip"),
            Self::TurnedLeft => Some("transpose=cclock"),
        }
    }

    /// The size as it is seen.
    pub fn turn(self, (width, height): (u32, u32)) -> (u32, u32) {
        let swaps = matches!(
            self,
            Self::Transposed | Self::TurnedRight | Self::Transversed | Self::TurnedLeft
        );
        if swaps {
            (height, width)
        } else {
            (width, height)
        }
    }
}

/// The order of bytes of a TIFF's numbers.
#[derive(Clone, Copy)]
pub enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    pub fn of(file: &[u8]) -> Option<Self> {
        match file.get(..4)? {
            b"II*\0" => Some(Self::Little),
            b"MM\0*" => Some(Self::Big),
            _ => None,
        }
    }

    pub fn u16(self, file: &[u8], at: usize) -> Option<u16> {
        match self {
            Self::Little => le16(file, at),
            Self::Big => be16(file, at),
        }
    }

    pub fn u32(self, file: &[u8], at: usize) -> Option<u32> {
        match self {
            Self::Little => le32(file, at),
            Self::Big => be32(file, at),
        }
    }

    pub fn place(self, file: &[u8], at: usize) -> Option<usize> {
        usize::try_from(self.u32(file, at)?).ok()
    }
}

/// A directory of a TIFF.
pub struct Directory<'a> {
    file: &'a [u8],
    order: ByteOrder,
    at: usize,
    entries: u16,
}

impl<'a> Directory<'a> {
    pub fn first(file: &'a [u8]) -> Option<Self> {
        let order = ByteOrder::of(file)?;
        Self::at(file, order, order.place(file, 4)?)
    }

    fn at(file: &'a [u8], order: ByteOrder, at: usize) -> Option<Self> {
        let entries = order.u16(file, at)?.min(MOST_ENTRIES);
        Some(Self {
            file,
            order,
            at,
            entries,
        })
    }

    pub fn next(&self) -> Option<Self> {
        let at = self.at.checked_add(2 + usize::from(self.entries) * 12)?;
        match self.order.place(self.file, at)? {
            0 => None,
            next => Self::at(self.file, self.order, next),
        }
    }

    /// The place of the entry with this tag.
    fn entry(&self, tag: u16) -> Option<usize> {
        (0..usize::from(self.entries))
            .filter_map(|entry| self.at.checked_add(2 + entry * 12))
            .find(|at| self.order.u16(self.file, *at) == Some(tag))
    }

    /// The place of a tag's only value.
    fn value_place(&self, tag: u16) -> Option<usize> {
        self.entry(tag)?.checked_add(8)
    }

    /// A tag's only value: of two or four bytes.
    pub fn number(&self, tag: u16) -> Option<u32> {
        let entry = self.entry(tag)?;
        let value = entry.checked_add(8)?;
        match self.order.u16(self.file, entry.checked_add(2)?)? {
            3 => self.order.u16(self.file, value).map(u32::from),
            4 => self.order.u32(self.file, value),
            _ => None,
        }
    }

    /// A tag's bytes, which stand elsewhere in the file.
    pub fn bytes(&self, tag: u16) -> Option<&'a [u8]> {
        let entry = self.entry(tag)?;
        let length = self.order.place(self.file, entry.checked_add(4)?)?;
        let at = self.order.place(self.file, entry.checked_add(8)?)?;
        part(self.file, at, length).filter(|_| length > 4)
    }

    pub fn orientation(&self) -> Orientation {
        let number = self.number(ORIENTATION).unwrap_or(1);
        Orientation::from_exif(u16::try_from(number).unwrap_or(1))
    }
}

/// How EXIF says that the picture is turned.
pub fn orientation(exif: &[u8]) -> Orientation {
    Directory::first(exif).map_or(Orientation::Upright, |first| first.orientation())
}

/// EXIF that says nothing but how the picture is turned.
pub fn of_orientation(orientation: Orientation) -> Vec<u8> {
    let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation as u8, 0, 0, 0, 0, 0, 0, 0]);
    exif
}

/// EXIF of a picture that is not turned any further. The small copy inside is overwritten: it shows the picture before
/// the work.
pub(super) fn upright(mut exif: Vec<u8>) -> Vec<u8> {
    let Some(first) = Directory::first(&exif) else {
        return exif;
    };
    let order = first.order;
    let orientation = first.value_place(ORIENTATION);
    let thumbnail = first.next().and_then(|second| {
        let at = usize::try_from(second.number(THUMBNAIL_AT)?).ok()?;
        let length = usize::try_from(second.number(THUMBNAIL_LENGTH)?).ok()?;
        Some(at..at.checked_add(length)?)
    });
    let next = first.at + 2 + usize::from(first.entries) * 12;
    if let Some(value) = orientation.and_then(|at| exif.get_mut(at..at + 2)) {
        let upright = match order {
            ByteOrder::Little => 1u16.to_le_bytes(),
            ByteOrder::Big => 1u16.to_be_bytes(),
        };
        value.copy_from_slice(&upright);
    }
    if let Some(thumbnail) = thumbnail.and_then(|range| exif.get_mut(range)) {
        thumbnail.fill(0);
    }
    if let Some(next) = exif.get_mut(next..next + 4) {
        next.fill(0);
    }
    exif
}
