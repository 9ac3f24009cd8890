//! The parameters of operations on pictures and films alike.

use super::{
    MAX_SIDE,
    films::Container,
    params::{Params, WrongParams},
    pictures::PictureFormat,
};

/// The most characters of the name that an invisible mark is made for.
pub(super) const MAX_RECIPIENT: usize = 1000;
/// The margin of a visible mark, in pixels.
pub(super) const MARGIN: u32 = 20;
/// The opacity of a visible mark, in percent.
pub(super) const OPACITY: u32 = 70;

/// A new size. At least one side is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resize {
    pub sides: Sides,
    pub fit: Fit,
    /// Smaller media are made larger.
    pub upscale: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sides {
    Width(u32),
    Height(u32),
    Both { width: u32, height: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// As large as fits in, the proportions kept.
    Contain,
    /// Fills the size, the proportions kept; what stands out is cut off.
    Cover,
    /// Fills the size, the proportions changed.
    Fill,
}

impl Fit {
    pub(super) const WORDS: [(&str, Self); 3] = [
        ("contain", Self::Contain),
        ("cover", Self::Cover),
        ("fill", Self::Fill),
    ];
}

impl Resize {
    pub(super) fn read(params: &Params<'_>) -> Result<Self, WrongParams> {
        let width = params.whole("width", 1..=MAX_SIDE)?;
        let height = params.whole("height", 1..=MAX_SIDE)?;
        let sides = match (width, height) {
            (Some(width), Some(height)) => Sides::Both { width, height },
            (Some(width), None) => Sides::Width(width),
            (None, Some(height)) => Sides::Height(height),
            (None, None) => {
                return Err(WrongParams::new(
                    "width",
                    "is missing; say a width, a height or both",
                ));
            }
        };
        Ok(Self {
            sides,
            fit: params.word("fit", &Fit::WORDS)?.unwrap_or(Fit::Contain),
            upscale: params.flag("upscale")?.unwrap_or(false),
        })
    }
}

/// A part of the picture as it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    pub width: u32,
    pub height: u32,
    /// The left edge; `None` is the middle.
    pub x: Option<u32>,
    /// The upper edge; `None` is the middle.
    pub y: Option<u32>,
}

impl Crop {
    pub(super) fn read(params: &Params<'_>) -> Result<Self, WrongParams> {
        let side = |field| {
            params
                .whole(field, 1..=MAX_SIDE)?
                .ok_or_else(|| WrongParams::missing(field))
        };
        Ok(Self {
            width: side("width")?,
            height: side("height")?,
            x: params.whole("x", 0..=u32::from(u16::MAX))?,
            y: params.whole("y", 0..=u32::from(u16::MAX))?,
        })
    }
}

/// A picture laid over a picture or film.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VisibleMark {
    pub place: MarkPlace,
    /// In percent.
    pub opacity: u32,
    /// In pixels, from the edges.
    pub margin: u32,
    pub format: MarkedFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkPlace {
    TopLeft,
    TopRight,
    BottomLeft,
    BottomRight,
    Center,
}

/// The kind of what comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkedFormat {
    /// The kind of the input.
    Auto,
    Picture(PictureFormat),
    Film(Container),
}

impl MarkPlace {
    pub(super) const WORDS: [(&str, Self); 5] = [
        ("tl", Self::TopLeft),
        ("tr", Self::TopRight),
        ("bl", Self::BottomLeft),
        ("br", Self::BottomRight),
        ("center", Self::Center),
    ];
}

impl MarkedFormat {
    pub(super) fn words() -> impl Iterator<Item = (&'static str, Self)> {
        let pictures = PictureFormat::WORDS.map(|(word, kind)| (word, Self::Picture(kind)));
        let films = Container::WORDS.map(|(word, kind)| (word, Self::Film(kind)));
        let auto = ("auto", Self::Auto);
        [auto].into_iter().chain(pictures).chain(films)
    }
}

impl VisibleMark {
    /// What teasers are marked with, too.
    pub const DEFAULT: Self = Self {
        place: MarkPlace::BottomRight,
        opacity: OPACITY,
        margin: MARGIN,
        format: MarkedFormat::Auto,
    };

    pub(super) fn read(params: &Params<'_>) -> Result<Self, WrongParams> {
        let formats: Vec<(&str, MarkedFormat)> = MarkedFormat::words().collect();
        let default = Self::DEFAULT;
        Ok(Self {
            place: params
                .word("position", &MarkPlace::WORDS)?
                .unwrap_or(default.place),
            opacity: params.whole("opacity", 0..=100)?.unwrap_or(default.opacity),
            margin: params
                .whole("margin", 0..=MAX_SIDE)?
                .unwrap_or(default.margin),
            format: params.word("format", &formats)?.unwrap_or(default.format),
        })
    }
}

/// A mark that eyes do not see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvisibleMark {
    /// The person that the copy is for, in free words.
    pub recipient: Option<String>,
}

impl InvisibleMark {
    pub(super) fn read(params: &Params<'_>) -> Result<Self, WrongParams> {
        Ok(Self {
            recipient: params.text("recipient", MAX_RECIPIENT)?,
        })
    }
}
