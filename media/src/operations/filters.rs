//! The filters that ffmpeg runs, as text. Sizes are computed here, so that no filter has to guess.

use super::{
    edits::{MarkPlace, VisibleMark},
    geometry::{Part, Scaling, Size},
};
use crate::probe::{Colour, Film};

/// How every scaler of a graph works.
pub const SCALER: &str = "sws_flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp;";
/// The width of a visible mark, as a part of the picture's.
const MARK_WIDTH: f64 = 0.15;

/// Filters one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain(Vec<String>);

impl Chain {
    pub fn then(mut self, filter: impl Into<String>) -> Self {
        self.0.push(filter.into());
        self
    }

    pub fn maybe(self, filter: Option<impl Into<String>>) -> Self {
        match filter {
            Some(filter) => self.then(filter),
            None => self,
        }
    }

    pub fn join(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// From one pad to another.
    pub fn between(self, from: &str, to: &str) -> String {
        let filters = if self.0.is_empty() {
            "null".to_owned()
        } else {
            self.0.join(",")
        };
        format!("[{from}]{filters}[{to}]")
    }
}

/// Pixels stay square: a scaler would rather keep the shape of the picture.
pub fn scale((width, height): Size) -> String {
    format!("scale={width}:{height},setsar=1")
}

pub fn crop(part: Part) -> String {
    let ((width, height), x, y) = (part.size, part.x, part.y);
    format!("crop={width}:{height}:{x}:{y}:exact=1")
}

/// Scales, then cuts out the middle.
pub fn resize(scaling: Scaling) -> Chain {
    let cut = (scaling.cut != scaling.scaled).then(|| {
        crop(Part {
            size: scaling.cut,
            x: (scaling.scaled.0 - scaling.cut.0) / 2,
            y: (scaling.scaled.1 - scaling.cut.1) / 2,
        })
    });
    Chain::default().then(scale(scaling.scaled)).maybe(cut)
}

/// A film with square pixels. ffmpeg has turned it before.
pub fn as_seen(film: &Film) -> Chain {
    let deinterlaced = film
        .is_interlaced
        .then_some("bwdif=mode=send_frame:deint=interlaced");
    let squared = (!film.has_square_pixels).then(|| scale(film.size));
    Chain::default()
        .maybe(deinterlaced)
        .maybe(squared)
        .then("setsar=1")
}

/// Cuts a part out of a film at any pixel: colours of a film are stored for pairs of pixels.
pub fn crop_film(part: Part) -> Chain {
    let is_odd = part.x % 2 == 1 || part.y % 2 == 1;
    Chain::default()
        .maybe(is_odd.then_some("format=yuv444p|yuv444p10le|yuva444p|gbrp|gbrap"))
        .then(crop(part))
}

/// Makes both sides even. A row or column is cut off, but the only one is doubled.
pub fn even((width, height): Size) -> (Size, Chain) {
    let size = ((width & !1).max(2), (height & !1).max(2));
    let chain = Chain::default();
    if (width, height) == size {
        (size, chain)
    } else if width == 1 || height == 1 {
        (size, chain.then(scale(size)))
    } else {
        let part = Part { size, x: 0, y: 0 };
        (size, chain.then(crop(part)))
    }
}

/// The last filters of a film: colours for a common screen, `yuv420p`.
pub fn finish(colour: &Colour) -> Chain {
    let chain = Chain::default();
    if colour.is_hdr() {
        return tone_map(colour).then("format=yuv420p");
    }
    let chain = chain.join(flat(colour));
    let matrix = if colour.is_rgb() {
        ":out_color_matrix=bt709"
    } else {
        ""
    };
    chain
        .then(format!("scale=out_range=tv{matrix}"))
        .then("format=yuv420p")
}

/// Transparent places of a film become white: the negative is laid on black.
pub fn flat(colour: &Colour) -> Chain {
    if !colour.has_alpha() {
        return Chain::default();
    }
    Chain::default()
        .then("format=gbrap")
        .then("negate")
        .then("premultiply=inplace=1")
        .then("format=gbrp")
        .then("negate")
}

/// From the brightness of HDR to that of BT.709.
pub fn tone_map(colour: &Colour) -> Chain {
    let transfer = colour.transfer.as_deref().unwrap_or("smpte2084");
    let matrix = match colour.matrix.as_deref() {
        _ if colour.is_rgb() => "gbr",
        Some(matrix @ ("bt709" | "bt2020nc" | "bt2020c")) => matrix,
        _ => "bt2020nc",
    };
    let known = ["bt709", "smpte432", "bt2020"];
    let primaries = colour.primaries.as_deref();
    let primaries = primaries
        .filter(|primaries| known.contains(primaries))
        .unwrap_or("bt2020");
    Chain::default()
        .then(format!(
            "zscale=tin={transfer}:min={matrix}:pin={primaries}:t=linear:npl=100"
        ))
        .then("format=gbrpf32le")
        .then("zscale=p=bt709")
        .then("tonemap=tonemap=hable:desat=0")
        .then("zscale=t=bt709:m=bt709:r=tv")
}

/// The options that tell how an output's numbers become colours.
pub fn colour_options(colour: &Colour) -> Vec<String> {
    let all = if colour.is_hdr() || colour.is_rgb() {
        [Some("bt709"); 3]
    } else {
        let known = |name: &'_ Option<String>, names: &[&'static str]| {
            let name = name.as_deref()?;
            names.iter().find(|known| **known == name).copied()
        };
        [
            known(&colour.matrix, &MATRICES),
            known(&colour.primaries, &PRIMARIES),
            known(&colour.transfer, &TRANSFERS),
        ]
    };
    ["-colorspace", "-color_primaries", "-color_trc"]
        .into_iter()
        .zip(all)
        .filter_map(|(option, value)| Some([option.to_owned(), value?.to_owned()]))
        .flatten()
        .collect()
}

const MATRICES: [&str; 6] = [
    "bt709",
    "smpte170m",
    "bt470bg",
    "bt2020nc",
    "smpte240m",
    "fcc",
];
const PRIMARIES: [&str; 6] = [
    "bt709",
    "smpte170m",
    "bt470bg",
    "bt2020",
    "smpte432",
    "smpte240m",
];
const TRANSFERS: [&str; 5] = [
    "bt709",
    "smpte170m",
    "smpte240m",
    "bt2020-10",
    "iec61966-2-1",
];

/// The matrix of a film after its last filter, as the scaler calls it.
pub fn matrix(film: &Film) -> &'static str {
    if film.colour.is_hdr() || film.colour.is_rgb() {
        return "bt709";
    }
    match film.colour.matrix.as_deref() {
        Some("bt709") => "bt709",
        Some("bt2020nc" | "bt2020c") => "bt2020",
        Some("bt470bg") => "bt470",
        Some("fcc") => "fcc",
        Some("smpte240m") => "smpte240m",
        Some(_) => "smpte170m",
        // Players guess the same for films that do not tell.
        None if film.size.0 >= 1280 || film.size.1 > 576 => "bt709",
        None => "smpte170m",
    }
}

/// Where a visible mark lies, and how large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkLayout {
    pub size: Size,
    pub x: u32,
    pub y: u32,
}

/// Lays a mark of this size out on a picture.
pub fn mark_layout(base: Size, mark: Size, wanted: &VisibleMark) -> MarkLayout {
    let width = (f64::from(base.0) * MARK_WIDTH).round().max(1.0);
    let proportion = f64::from(mark.1) / f64::from(mark.0);
    let high = width * proportion;
    // A high mark must not stand out.
    let factor = (f64::from(base.1) / high).min(1.0);
    let side = |side: f64, most: u32| (side * factor).round().clamp(1.0, f64::from(most)) as u32;
    let size = (side(width, base.0), side(high, base.1));
    let room = (base.0 - size.0, base.1 - size.1);
    let (near_x, near_y) = (wanted.margin.min(room.0), wanted.margin.min(room.1));
    let (far_x, far_y) = (room.0 - near_x, room.1 - near_y);
    let (x, y) = match wanted.place {
        MarkPlace::TopLeft => (near_x, near_y),
        MarkPlace::TopRight => (far_x, near_y),
        MarkPlace::BottomLeft => (near_x, far_y),
        MarkPlace::BottomRight => (far_x, far_y),
        MarkPlace::Center => (room.0 / 2, room.1 / 2),
    };
    MarkLayout { size, x, y }
}

/// The filters that make a mark ready to be laid over.
pub fn mark_chain(turned: Option<&str>, layout: MarkLayout, opacity: u32) -> Chain {
    let opacity = f64::from(opacity) / 100.0;
    Chain::default()
        .maybe(turned)
        .then("format=gbrap")
        .then("premultiply=inplace=1")
        .then(scale(layout.size))
        .then("unpremultiply=inplace=1")
        .then("format=rgba")
        .then(format!("colorchannelmixer=aa={opacity}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn colour(pixel_format: &str, transfer: Option<&str>) -> Colour {
        Colour {
            pixel_format: pixel_format.into(),
            transfer: transfer.map(str::to_owned),
            ..Colour::default()
        }
    }

    #[test]
    fn a_chain_is_written_in_its_order() {
        let chain = Chain::default()
            .then("a")
            .maybe(None::<String>)
            .join(Chain::default().then("b=1"));
        assert_eq!(chain.between("0:v", "out"), "[0:v]a,b=1[out]");
        assert_eq!(Chain::default().between("x", "y"), "[x]null[y]");
    }

    #[test]
    fn odd_sides_become_even_and_never_zero() {
        let written = |size| {
            let (size, chain) = even(size);
            (size, chain.between("a", "b"))
        };
        assert_eq!(written((64, 48)), ((64, 48), "[a]null[b]".into()));
        assert_eq!(
            written((65, 47)),
            ((64, 46), "[a]crop=64:46:0:0:exact=1[b]".into())
        );
        assert_eq!(written((1, 9)), ((2, 8), "[a]scale=2:8,setsar=1[b]".into()));
    }

    #[test]
    fn hdr_and_rgb_are_told_as_bt709() {
        let told = [
            "-colorspace",
            "bt709",
            "-color_primaries",
            "bt709",
            "-color_trc",
            "bt709",
        ];
        assert_eq!(
            colour_options(&colour("yuv420p10le", Some("smpte2084"))),
            told
        );
        assert_eq!(colour_options(&colour("bgra", None)), told);
        assert_eq!(
            colour_options(&colour("yuv420p", None)),
            Vec::<String>::new()
        );
        assert_eq!(
            colour_options(&colour("yuv420p", Some("bt709"))),
            ["-color_trc", "bt709"]
        );
        let filters = finish(&colour("yuv420p10le", Some("arib-std-b67"))).between("a", "b");
        assert!(filters.contains("tin=arib-std-b67") && filters.contains("tonemap"));
        assert!(
            !finish(&colour("yuv420p", None))
                .between("a", "b")
                .contains("tonemap")
        );
    }

    #[test]
    fn a_mark_has_fifteen_percent_of_the_width() {
        let wanted = |place| VisibleMark {
            place,
            ..VisibleMark::DEFAULT
        };
        let layout = |place| mark_layout((1000, 500), (300, 100), &wanted(place));
        let size = (150, 50);
        for (place, x, y) in [
            (MarkPlace::TopLeft, 20, 20),
            (MarkPlace::TopRight, 830, 20),
            (MarkPlace::BottomLeft, 20, 430),
            (MarkPlace::BottomRight, 830, 430),
            (MarkPlace::Center, 425, 225),
        ] {
            assert_eq!(layout(place), MarkLayout { size, x, y });
        }
    }

    proptest! {
        #[test]
        fn a_mark_never_stands_out(
            width in 1u32..4000, height in 1u32..4000,
            mark_width in 1u32..4000, mark_height in 1u32..4000,
            margin in 0u32..8192, place in 0usize..5,
        ) {
            let places = [
                MarkPlace::TopLeft, MarkPlace::TopRight, MarkPlace::BottomLeft,
                MarkPlace::BottomRight, MarkPlace::Center,
            ];
            let wanted = VisibleMark { place: places[place], margin, ..VisibleMark::DEFAULT };
            let layout = mark_layout((width, height), (mark_width, mark_height), &wanted);
            prop_assert!(layout.size.0 > 0 && layout.size.1 > 0);
            prop_assert!(layout.x + layout.size.0 <= width);
            prop_assert!(layout.y + layout.size.1 <= height);
        }
    }
}
