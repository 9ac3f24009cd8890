//! The directory of a TIFF.

use super::{PictureError, PictureFacts, Told, exif::Directory};

const WIDTH: u16 = 0x0100;
const HEIGHT: u16 = 0x0101;
const SUBFILE: u16 = 0x00fe;
const PROFILE: u16 = 0x8773;
const XMP: u16 = 0x02bc;

pub fn facts(file: &[u8]) -> Result<Option<PictureFacts>, PictureError> {
    let Some(first) = Directory::first(file) else {
        return Ok(None);
    };
    // A second directory may hold a smaller copy of the same picture.
    let is_page = |page: &Directory<'_>| page.number(SUBFILE).is_none_or(|kind| kind & 1 == 0);
    if first.next().is_some_and(|second| is_page(&second)) {
        return Err(PictureError::Unreadable("a TIFF of several pages"));
    }
    Ok(of_directory(&first))
}

fn of_directory(first: &Directory<'_>) -> Option<PictureFacts> {
    Some(PictureFacts {
        width: first.number(WIDTH)?,
        height: first.number(HEIGHT)?,
        orientation: first.orientation(),
        told: Told {
            profile: first.bytes(PROFILE).map(<[u8]>::to_vec),
            exif: None,
            xmp: first.bytes(XMP).map(<[u8]>::to_vec),
        },
    })
}
