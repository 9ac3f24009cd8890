//! What bytes are, told by their beginning: the kind, and the size of a picture. Only headers are read. Nothing is
//! decoded here: that is done in a sandbox, by workers.

use std::io::Cursor;

/// Bytes that say nothing about themselves.
const UNKNOWN: &str = "application/octet-stream";
const TEXT: &str = "text/plain";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileKind {
    /// As in HTTP's `Content-Type`.
    pub mime: &'static str,
    /// Width and height of a picture in pixels, as it is seen.
    pub size: Option<(u32, u32)>,
}

impl FileKind {
    /// `is_whole` says that nothing follows the head.
    pub fn of(head: &[u8], is_whole: bool) -> Self {
        let mime = match infer::get(head) {
            Some(found) => found.mime_type(),
            None if is_text(head, is_whole) => TEXT,
            None => UNKNOWN,
        };
        let size = if mime.starts_with("image/") {
            picture_size(head)
        } else {
            None
        };
        Self { mime, size }
    }
}

/// True for kinds that a browser shows by itself and that run no script.
pub fn is_shown_in_browsers(mime: &str) -> bool {
    let shown = ["image/", "video/", "audio/"];
    shown.iter().any(|kind| mime.starts_with(kind)) && mime != "image/svg+xml"
}

fn is_text(head: &[u8], is_whole: bool) -> bool {
    if head.is_empty() || head.contains(&0) {
        return false;
    }
    match std::str::from_utf8(head) {
        Ok(_) => true,
        // The head may end within a character.
        Err(error) => !is_whole && error.error_len().is_none(),
    }
}

fn picture_size(head: &[u8]) -> Option<(u32, u32)> {
    let size = imagesize::blob_size(head).ok()?;
    let width = u32::try_from(size.width).ok()?;
    let height = u32::try_from(size.height).ok()?;
    Some(if lies_on_its_side(head) {
        (height, width)
    } else {
        (width, height)
    })
}

/// True when the picture's EXIF says that it is turned by a quarter before it is shown.
fn lies_on_its_side(head: &[u8]) -> bool {
    let read = exif::Reader::new().read_from_container(&mut Cursor::new(head));
    let orientation = read.ok().and_then(|exif| {
        exif.get_field(exif::Tag::Orientation, exif::In::PRIMARY)?
            .value
            .get_uint(0)
    });
    matches!(orientation, Some(5..=8))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A JPEG of 3 by 2 pixels up to its frame header, with an EXIF orientation.
    fn jpeg(orientation: u8) -> Vec<u8> {
        let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
        let mut jpeg = vec![0xff, 0xd8, 0xff, 0xe1];
        jpeg.extend((exif.len() as u16 + 2).to_be_bytes());
        jpeg.extend(exif);
        jpeg.extend([0xff, 0xc0, 0, 11, 8, 0, 2, 0, 3, 1, 1, 0x11, 0]);
        jpeg.extend([0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0]);
        jpeg
    }

    #[test]
    fn bytes_are_what_they_are_and_not_what_they_are_called() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x07\0\0\0\x05\x08\x06\0\0\0";
        for (head, mime, size) in [
            (&png[..], "image/png", Some((7, 5))),
            (&jpeg(1), "image/jpeg", Some((3, 2))),
            (&jpeg(6), "image/jpeg", Some((2, 3))),
            (b"PK\x03\x04rest", "application/zip", None),
            (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video/mp4", None),
            ("Grüße".as_bytes(), TEXT, None),
            (b"", UNKNOWN, None),
            (b"\0\x01\x02", UNKNOWN, None),
        ] {
            assert_eq!(
                FileKind::of(head, true),
                FileKind { mime, size },
                "{head:?}"
            );
        }
        let cut = &"Grüße".as_bytes()[..3];
        assert_eq!(FileKind::of(cut, false).mime, TEXT);
        assert_eq!(FileKind::of(cut, true).mime, UNKNOWN);
    }

    #[test]
    fn pages_and_drawings_are_not_shown_by_themselves() {
        let svg = b"<svg xmlns=\"http://www.w3.org/2000/svg\"><script>alert(1)</script></svg>";
        let page = b"<!DOCTYPE html><script>alert(1)</script>";
        for head in [
            &svg[..],
            page,
            b"<?xml version=\"1.0\"?><svg/>",
            b"%PDF-1.7",
        ] {
            let kind = FileKind::of(head, true);
            assert!(!is_shown_in_browsers(kind.mime), "{}", kind.mime);
        }
        assert!(is_shown_in_browsers("video/mp4") && !is_shown_in_browsers("image/svg+xml"));
    }
}
