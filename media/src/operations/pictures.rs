//! The parameters of operations on pictures.

use super::{
    MAX_SIDE,
    params::{Params, WrongParams},
    time::FilmTime,
};

pub(super) const QUALITY: u32 = 85;
pub(super) const THUMBNAIL_WIDTH: u32 = 640;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PictureFormat {
    Jpeg,
    Png,
    Webp,
    Avif,
}

impl PictureFormat {
    pub const WORDS: [(&str, Self); 4] = [
        ("jpeg", Self::Jpeg),
        ("png", Self::Png),
        ("webp", Self::Webp),
        ("avif", Self::Avif),
    ];
}

/// A picture of another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureConversion {
    pub format: PictureFormat,
    /// 1 to 100; PNG is always without loss.
    pub quality: u32,
    /// What shows through transparent places of kinds without transparency.
    pub background: Rgb,
}

impl PictureConversion {
    pub(super) fn read(params: &Params<'_>) -> Result<Self, WrongParams> {
        let format = params
            .word("format", &PictureFormat::WORDS)?
            .ok_or_else(|| WrongParams::missing("format"))?;
        Ok(Self {
            format,
            quality: params.whole("quality", 1..=100)?.unwrap_or(QUALITY),
            background: background(params)?.unwrap_or(Rgb::WHITE),
        })
    }
}

/// A colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rgb(pub [u8; 3]);

impl Rgb {
    pub const WHITE: Self = Self([255; 3]);
    /// The names of HTML.
    const NAMES: [(&str, [u8; 3]); 17] = [
        ("aqua", [0, 255, 255]),
        ("black", [0, 0, 0]),
        ("blue", [0, 0, 255]),
        ("fuchsia", [255, 0, 255]),
        ("gray", [128, 128, 128]),
        ("green", [0, 128, 0]),
        ("grey", [128, 128, 128]),
        ("lime", [0, 255, 0]),
        ("maroon", [128, 0, 0]),
        ("navy", [0, 0, 128]),
        ("olive", [128, 128, 0]),
        ("purple", [128, 0, 128]),
        ("red", [255, 0, 0]),
        ("silver", [192, 192, 192]),
        ("teal", [0, 128, 128]),
        ("white", [255, 255, 255]),
        ("yellow", [255, 255, 0]),
    ];

    fn parse(text: &str) -> Option<Self> {
        if let Some(digits) = text.strip_prefix('#') {
            return Self::from_digits(digits);
        }
        let (_, colour) = Self::NAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text))?;
        Some(Self(*colour))
    }

    fn from_digits(digits: &str) -> Option<Self> {
        let digits: Vec<u8> = digits
            .chars()
            .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
            .collect::<Option<_>>()?;
        match digits[..] {
            [red, green, blue] => Some(Self([red * 17, green * 17, blue * 17])),
            [a, b, c, d, e, f] => Some(Self([a * 16 + b, c * 16 + d, e * 16 + f])),
            _ => None,
        }
    }
}

fn background(params: &Params<'_>) -> Result<Option<Rgb>, WrongParams> {
    let Some(value) = params.get("background") else {
        return Ok(None);
    };
    match value.as_str().and_then(Rgb::parse) {
        Some(colour) => Ok(Some(colour)),
        None => Err(WrongParams::new(
            "background",
            "must be a colour: #rrggbb, or one of the names of HTML such as white",
        )),
    }
}

/// One picture of a film, or a small copy of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thumbnail {
    /// `None` is a tenth of the film's length.
    pub at: Option<FilmTime>,
    pub width: u32,
    pub format: PictureFormat,
}

impl Thumbnail {
    pub(super) fn read(params: &Params<'_>) -> Result<Self, WrongParams> {
        Ok(Self {
            at: params.time("at")?,
            width: params
                .whole("width", 1..=MAX_SIDE)?
                .unwrap_or(THUMBNAIL_WIDTH),
            format: params
                .word("format", &PictureFormat::WORDS)?
                .unwrap_or(PictureFormat::Jpeg),
        })
    }
}
