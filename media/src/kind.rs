//! The kind of a file, judged by its first bytes alone. Names and declared types are not believed.

/// So many bytes decide the kind.
pub const SNIFFED: usize = 4096;

/// A kind of file that operations read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaKind {
    Jpeg,
    Png,
    Gif,
    Webp,
    Avif,
    Tiff,
    Bmp,
    Mp4,
    Mov,
    ThreeGp,
    Webm,
    Matroska,
    Avi,
    Flv,
    MpegTs,
    MpegPs,
    Asf,
    Ogg,
    M4a,
    Mp3,
    Aac,
    Wav,
    Flac,
}

/// What a kind is: how ffmpeg reads and writes it, and how it is called outside.
struct KindRow {
    kind: MediaKind,
    demuxer: &'static str,
    muxer: &'static str,
    mime: &'static str,
    /// The first is given to files of ours.
    endings: &'static [&'static str],
}

macro_rules! kinds {
    ($($kind:ident, $demuxer:literal, $muxer:literal, $mime:literal, [$($ending:literal),+];)+) => {
        const ROWS: &[KindRow] = &[$(KindRow {
            kind: MediaKind::$kind,
            demuxer: $demuxer,
            muxer: $muxer,
            mime: $mime,
            endings: &[$($ending),+],
        }),+];
    };
}

kinds! {
    Jpeg, "jpeg_pipe", "image2", "image/jpeg", ["jpg", "jpeg", "jpe"];
    Png, "png_pipe", "image2", "image/png", ["png"];
    Gif, "gif", "gif", "image/gif", ["gif"];
    Webp, "webp_pipe", "image2", "image/webp", ["webp"];
    Avif, "mov", "avif", "image/avif", ["avif"];
    Tiff, "tiff_pipe", "image2", "image/tiff", ["tif", "tiff"];
    Bmp, "bmp_pipe", "image2", "image/bmp", ["bmp"];
    Mp4, "mov", "mp4", "video/mp4", ["mp4", "m4v"];
    Mov, "mov", "mov", "video/quicktime", ["mov", "qt"];
    ThreeGp, "mov", "3gp", "video/3gpp", ["3gp", "3g2"];
    Webm, "matroska", "webm", "video/webm", ["webm"];
    Matroska, "matroska", "matroska", "video/matroska", ["mkv"];
    Avi, "avi", "avi", "video/x-msvideo", ["avi"];
    Flv, "flv", "flv", "video/x-flv", ["flv"];
    MpegTs, "mpegts", "mpegts", "video/mp2t", ["ts", "mts", "m2ts"];
    MpegPs, "mpeg", "vob", "video/mpeg", ["mpg", "mpeg", "vob"];
    Asf, "asf", "asf", "video/x-ms-asf", ["wmv", "asf"];
    Ogg, "ogg", "ogg", "video/ogg", ["ogv", "ogg", "oga", "opus"];
    M4a, "mov", "ipod", "audio/mp4", ["m4a", "m4b"];
    Mp3, "mp3", "mp3", "audio/mpeg", ["mp3"];
    Aac, "aac", "adts", "audio/aac", ["aac"];
    Wav, "wav", "wav", "audio/wav", ["wav"];
    Flac, "flac", "flac", "audio/flac", ["flac"];
}

impl MediaKind {
    fn row(self) -> &'static KindRow {
        ROWS.iter()
            .find(|row| row.kind == self)
            .expect("a test finds a row for each kind")
    }

    /// How ffmpeg calls what reads the kind.
    pub fn demuxer(self) -> &'static str {
        self.row().demuxer
    }

    /// How ffmpeg calls what writes the kind.
    pub fn muxer(self) -> &'static str {
        self.row().muxer
    }

    pub fn mime(self) -> &'static str {
        self.row().mime
    }

    pub fn ending(self) -> &'static str {
        self.row().endings[0]
    }

    /// A name with an ending of this kind.
    pub fn rename(self, name: &str) -> String {
        let name = name.rsplit(['/', '\\']).next().unwrap_or(name);
        let (stem, ending) = match name.rsplit_once('.') {
            Some((stem, ending)) if !stem.is_empty() => (stem, ending),
            _ => (name, ""),
        };
        let is_right = self
            .row()
            .endings
            .iter()
            .any(|known| known.eq_ignore_ascii_case(ending));
        match (stem, is_right) {
            ("", _) => format!("media.{}", self.ending()),
            (_, true) => name.to_owned(),
            (stem, false) => format!("{stem}.{}", self.ending()),
        }
    }

    pub fn is_picture(self) -> bool {
        matches!(
            self,
            Self::Jpeg | Self::Png | Self::Gif | Self::Webp | Self::Avif | Self::Tiff | Self::Bmp
        )
    }

    /// True for kinds that hold sound alone.
    pub fn is_sound(self) -> bool {
        matches!(
            self,
            Self::M4a | Self::Mp3 | Self::Aac | Self::Wav | Self::Flac
        )
    }

    /// True for the kinds of ISO's base format, whose index can stand in front.
    pub fn has_moov(self) -> bool {
        matches!(self, Self::Mp4 | Self::Mov | Self::ThreeGp | Self::M4a)
    }
}

/// What a file is that no operation reads, to complete "The file is".
pub type OtherKind = &'static str;

/// Judges the kind by the first bytes.
pub fn sniff(bytes: &[u8]) -> Result<MediaKind, OtherKind> {
    if bytes.is_empty() {
        return Err("empty");
    }
    if let Some(found) = signature(bytes) {
        return found;
    }
    Err(text(bytes).unwrap_or("of a kind that this worker does not read"))
}

fn signature(bytes: &[u8]) -> Option<Result<MediaKind, OtherKind>> {
    let at = |place: usize, what: &[u8]| bytes.get(place..).is_some_and(|b| b.starts_with(what));
    let kind = match () {
        () if at(0, b"\xff\xd8\xff") => MediaKind::Jpeg,
        () if at(0, b"\x89PNG\r\n\x1a\n") => MediaKind::Png,
        () if at(0, b"GIF87a") || at(0, b"GIF89a") => MediaKind::Gif,
        () if at(0, b"RIFF") && at(8, b"WEBP") => MediaKind::Webp,
        () if at(0, b"RIFF") && at(8, b"AVI ") => MediaKind::Avi,
        () if at(0, b"RIFF") && at(8, b"WAVE") => MediaKind::Wav,
        () if at(0, b"II*\0") || at(0, b"MM\0*") => MediaKind::Tiff,
        () if at(0, b"BM") && is_bitmap(bytes) => MediaKind::Bmp,
        () if at(4, b"ftyp") => return Some(brand(bytes)),
        () if [&b"moov"[..], b"mdat", b"wide", b"pnot"]
            .iter()
            .any(|name| at(4, name)) =>
        {
            MediaKind::Mov
        }
        () if at(0, b"\x1a\x45\xdf\xa3") => return Some(Ok(matroska(bytes))),
        () if at(0, b"FLV\x01") => MediaKind::Flv,
        () if at(0, b"OggS") => MediaKind::Ogg,
        () if at(0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11") => MediaKind::Asf,
        () if at(0, b"\0\0\x01\xba") => MediaKind::MpegPs,
        () if at(0, b"fLaC") => MediaKind::Flac,
        () if at(0, b"ID3") => MediaKind::Mp3,
        () if is_transport_stream(bytes) => MediaKind::MpegTs,
        () if at(0, b"\xff\xf1") || at(0, b"\xff\xf9") => MediaKind::Aac,
        () if at(0, b"\xff\xfb") || at(0, b"\xff\xf3") || at(0, b"\xff\xfa") => MediaKind::Mp3,
        () if at(0, b"\xff\x0a") || at(4, b"JXL \r\n") => return Some(Err("a JPEG XL")),
        () if at(0, b"%PDF") => return Some(Err("a PDF")),
        () if at(0, b"PK\x03\x04") => return Some(Err("a ZIP archive")),
        () => return None,
    };
    Some(Ok(kind))
}

fn is_bitmap(bytes: &[u8]) -> bool {
    bytes
        .get(14..18)
        .is_some_and(|size| matches!(size, [12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0]))
}

/// By the brands that an ISO file names.
fn brand(bytes: &[u8]) -> Result<MediaKind, OtherKind> {
    let length = bytes
        .first_chunk::<4>()
        .map_or(0, |length| u32::from_be_bytes(*length));
    let end = bytes
        .len()
        .min(usize::try_from(length).unwrap_or(usize::MAX));
    let major = bytes.get(8..12).unwrap_or_default();
    let others = bytes.get(16..end).unwrap_or_default().chunks_exact(4);
    let has = |brand: &[u8]| major == brand || others.clone().any(|other| other == brand);
    match major {
        b"avif" => Ok(MediaKind::Avif),
        b"avis" => Err("an animated AVIF"),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" => Err("a HEIC picture"),
        b"mif1" | b"msf1" if has(b"avif") => Ok(MediaKind::Avif),
        b"mif1" | b"msf1" => Err("a HEIF picture"),
        b"crx " => Err("a raw picture of a camera"),
        b"qt  " => Ok(MediaKind::Mov),
        b"M4A " | b"M4B " => Ok(MediaKind::M4a),
        [b'3', b'g', b'p' | b'2', _] => Ok(MediaKind::ThreeGp),
        _ => Ok(MediaKind::Mp4),
    }
}

/// By the document type in the first element.
fn matroska(bytes: &[u8]) -> MediaKind {
    let head = &bytes[..bytes.len().min(64)];
    let is_webm = head
        .windows(7)
        .any(|window| window.starts_with(b"\x42\x82") && window.ends_with(b"webm"));
    if is_webm {
        MediaKind::Webm
    } else {
        MediaKind::Matroska
    }
}

/// Packets of 188 bytes, or of 192 with a time in front.
fn is_transport_stream(bytes: &[u8]) -> bool {
    let packets = |first: usize, step: usize| {
        (0..4).all(|packet| bytes.get(first + packet * step) == Some(&0x47))
    };
    packets(0, 188) || packets(4, 192)
}

/// What a text is. Some kinds of text name other files, so that none is given to a decoder.
fn text(bytes: &[u8]) -> Option<OtherKind> {
    let is_whole = bytes.len() < SNIFFED;
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if !is_whole && error.error_len().is_none() => {
            str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return None,
    };
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if text.contains('\0') {
        return None;
    }
    let begins = |words: &[&str]| {
        words.iter().any(|word| {
            text.get(..word.len())
                .is_some_and(|begin| begin.eq_ignore_ascii_case(word))
        })
    };
    Some(match () {
        () if begins(&["#EXTM3U", "[playlist]", "ffconcat", "<MPD", "#EXT-X-"]) => "a playlist",
        () if text.contains("<MPD") || text.contains("<smil") || text.contains("<playlist") => {
            "a playlist"
        }
        () if begins(&["<svg"]) || text.contains("<svg") => "an SVG",
        () if begins(&["WEBVTT", "[Script Info]"]) || text.contains(" --> ") => "subtitles",
        () if begins(&["<!doctype", "<html"]) => "a web page",
        () => "a text",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_row() {
        for kind in [
            MediaKind::Jpeg,
            MediaKind::Png,
            MediaKind::Gif,
            MediaKind::Webp,
            MediaKind::Avif,
            MediaKind::Tiff,
            MediaKind::Bmp,
            MediaKind::Mp4,
            MediaKind::Mov,
            MediaKind::ThreeGp,
            MediaKind::Webm,
            MediaKind::Matroska,
            MediaKind::Avi,
            MediaKind::Flv,
            MediaKind::MpegTs,
            MediaKind::MpegPs,
            MediaKind::Asf,
            MediaKind::Ogg,
            MediaKind::M4a,
            MediaKind::Mp3,
            MediaKind::Aac,
            MediaKind::Wav,
            MediaKind::Flac,
        ] {
            assert!(!kind.ending().is_empty());
        }
        assert_eq!(ROWS.len(), 23);
    }

    #[test]
    fn text_is_never_media() {
        for (bytes, what) in [
            (&b"#EXTM3U\n#EXTINF:1\nfile:///etc/passwd"[..], "a playlist"),
            (b"ffconcat version 1.0\nfile /etc/passwd", "a playlist"),
            (b"<?xml version='1.0'?><MPD></MPD>", "a playlist"),
            (b"\xef\xbb\xbf <?xml version='1.0'?>\n<svg></svg>", "an SVG"),
            (b"1\n00:00:01,000 --> 00:00:02,000\nHi", "subtitles"),
            (b"WEBVTT\n", "subtitles"),
            (b"<!DOCTYPE html>", "a web page"),
            (b"file 'a.mp4'\n", "a text"),
            (b"", "empty"),
            (b"PK\x03\x04", "a ZIP archive"),
            (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC picture"),
            (b"\0\0\0\x18ftypavis\0\0\0\0", "an animated AVIF"),
            (
                b"\x7fELF\x02\x01\x01\0",
                "of a kind that this worker does not read",
            ),
        ] {
            assert_eq!(sniff(bytes), Err(what));
        }
        // The last character is cut in the middle.
        let long = format!("a{}", "é".repeat(SNIFFED));
        assert_eq!(sniff(&long.as_bytes()[..SNIFFED]), Err("a text"));
    }

    #[test]
    fn a_name_gets_the_ending_of_its_kind() {
        for (kind, name, renamed) in [
            (MediaKind::Jpeg, "a.png", "a.jpg"),
            (MediaKind::Jpeg, "a.JPEG", "a.JPEG"),
            (
                MediaKind::Mp4,
                "my 100%: film.v2.mov",
                "my 100%: film.v2.mp4",
            ),
            (MediaKind::Mp4, "film", "film.mp4"),
            (MediaKind::Mp4, ".hidden", ".hidden.mp4"),
            (MediaKind::Png, "", "media.png"),
            (MediaKind::Png, "../../etc/a.gif", "a.png"),
        ] {
            assert_eq!(kind.rename(name), renamed);
        }
    }
}
