//! Sizes of pictures and films.

use super::edits::{Crop, Fit, Resize, Sides};
use crate::ffmpeg::{MAX_PIXELS, MediaFailure};

/// Width and height in pixels.
pub type Size = (u32, u32);

/// The greatest side of an output, in pixels.
const MOST_SIDE: f64 = 16_384.0;

/// What sizes an output may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parity {
    /// Pictures.
    Any,
    /// Films.
    Even,
}

impl Parity {
    /// The next side that is allowed, never 0.
    fn snap(self, side: f64) -> u32 {
        let step = match self {
            Self::Any => 1.0,
            Self::Even => 2.0,
        };
        ((side / step).round() * step).max(step) as u32
    }
}

/// A size to scale to, of which the middle is then cut out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scaling {
    pub scaled: Size,
    pub cut: Size,
}

/// How a picture of this size is resized.
pub fn resized(seen: Size, resize: &Resize, parity: Parity) -> Result<Scaling, MediaFailure> {
    let (width, height) = (f64::from(seen.0), f64::from(seen.1));
    let bounded = |factor: f64| {
        if resize.upscale {
            factor
        } else {
            factor.min(1.0)
        }
    };
    let proportional = |factor: f64| (width * factor, height * factor);
    let (scaled, cut) = match (resize.sides, resize.fit) {
        (Sides::Width(wanted), _) => {
            let size = proportional(bounded(f64::from(wanted) / width));
            (size, size)
        }
        (Sides::Height(wanted), _) => {
            let size = proportional(bounded(f64::from(wanted) / height));
            (size, size)
        }
        (
            Sides::Both {
                width: w,
                height: h,
            },
            fit,
        ) => {
            let (across, down) = (f64::from(w) / width, f64::from(h) / height);
            match fit {
                Fit::Contain => {
                    let size = proportional(bounded(across.min(down)));
                    (size, size)
                }
                Fit::Cover => {
                    let factor = across.max(down);
                    // Small media fill the same proportions, at their own size.
                    let smaller = bounded(factor) / factor;
                    let cut = (f64::from(w) * smaller, f64::from(h) * smaller);
                    (proportional(bounded(factor)), cut)
                }
                Fit::Fill => {
                    let least = across.max(down);
                    let smaller = bounded(least) / least;
                    let size = (f64::from(w) * smaller, f64::from(h) * smaller);
                    (size, size)
                }
            }
        }
    };
    check(scaled)?;
    let cut = (parity.snap(cut.0), parity.snap(cut.1));
    let scaled = (
        parity.snap(scaled.0).max(cut.0),
        parity.snap(scaled.1).max(cut.1),
    );
    Ok(Scaling { scaled, cut })
}

fn check((width, height): (f64, f64)) -> Result<(), MediaFailure> {
    if width <= MOST_SIDE && height <= MOST_SIDE && width * height <= MAX_PIXELS as f64 {
        return Ok(());
    }
    Err(MediaFailure::of_input(
        "too_many_pixels",
        format!("The result would have {width:.0} x {height:.0} pixels; ask for a smaller size"),
    ))
}

/// As large as fits into this width, never larger than it is.
pub fn within_width(seen: Size, width: u32, parity: Parity) -> Size {
    shrunk(seen, f64::from(width) / f64::from(seen.0), parity)
}

/// As large as fits into this height, never larger than it is.
pub fn within_height(seen: Size, height: Option<u32>, parity: Parity) -> Size {
    let factor = height.map_or(1.0, |height| f64::from(height) / f64::from(seen.1));
    shrunk(seen, factor, parity)
}

fn shrunk((width, height): Size, factor: f64, parity: Parity) -> Size {
    let factor = factor.min(1.0);
    let side = |side| parity.snap(f64::from(side) * factor);
    (side(width), side(height))
}

/// As large as fits into the frame, also larger than it is.
pub fn fitted(seen: Size, frame: Size) -> Size {
    let across = f64::from(frame.0) / f64::from(seen.0);
    let down = f64::from(frame.1) / f64::from(seen.1);
    let factor = across.min(down);
    let side = |side: u32, most: u32| Parity::Even.snap(f64::from(side) * factor).min(most);
    (side(seen.0, frame.0), side(seen.1, frame.1))
}

/// A part of a picture: its size and its upper left corner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub size: Size,
    pub x: u32,
    pub y: u32,
}

/// The part that a crop asks for.
pub fn part(seen: Size, crop: &Crop) -> Result<Part, MediaFailure> {
    let (width, height) = (crop.width, crop.height);
    let middle = |whole: u32, part: u32| whole.saturating_sub(part) / 2;
    let x = crop.x.unwrap_or(middle(seen.0, width));
    let y = crop.y.unwrap_or(middle(seen.1, height));
    let is_inside = u64::from(x) + u64::from(width) <= u64::from(seen.0)
        && u64::from(y) + u64::from(height) <= u64::from(seen.1);
    if !is_inside {
        return Err(MediaFailure::of_input(
            "outside_picture",
            format!(
                "The part of {width} x {height} at {x}, {y} reaches outside of the picture, which is {} x {}",
                seen.0, seen.1
            ),
        ));
    }
    Ok(Part {
        size: (width, height),
        x,
        y,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resize(sides: Sides, fit: Fit, upscale: bool) -> Resize {
        Resize {
            sides,
            fit,
            upscale,
        }
    }

    #[test]
    fn sizes_keep_their_proportions_unless_filled() {
        let both = Sides::Both {
            width: 100,
            height: 100,
        };
        for (sides, fit, upscale, scaled, cut) in [
            (Sides::Width(32), Fit::Contain, false, (32, 24), (32, 24)),
            (Sides::Height(24), Fit::Fill, false, (32, 24), (32, 24)),
            (Sides::Width(128), Fit::Contain, false, (64, 48), (64, 48)),
            (Sides::Width(128), Fit::Contain, true, (128, 96), (128, 96)),
            (both, Fit::Contain, true, (100, 75), (100, 75)),
            (both, Fit::Cover, true, (133, 100), (100, 100)),
            (both, Fit::Cover, false, (64, 48), (48, 48)),
            (both, Fit::Fill, true, (100, 100), (100, 100)),
            (both, Fit::Fill, false, (48, 48), (48, 48)),
        ] {
            let found = resized((64, 48), &resize(sides, fit, upscale), Parity::Any).unwrap();
            assert_eq!(found, Scaling { scaled, cut }, "{sides:?} {fit:?}");
        }
    }

    #[test]
    fn a_result_of_too_many_pixels_is_refused() {
        let thin = resize(Sides::Width(8192), Fit::Contain, true);
        let failure = resized((10, 8000), &thin, Parity::Any).unwrap_err();
        assert_eq!(failure.code, "too_many_pixels");
    }

    #[test]
    fn a_part_outside_of_the_picture_is_refused_with_both_sizes() {
        let crop = |x, y| Crop {
            width: 32,
            height: 32,
            x,
            y,
        };
        let middle = part((64, 48), &crop(None, None)).unwrap();
        assert_eq!((middle.x, middle.y), (16, 8));
        assert!(part((64, 48), &crop(Some(32), Some(16))).is_ok());
        let failure = part((64, 48), &crop(Some(33), None)).unwrap_err();
        assert!(failure.sentence.contains("32 x 32"), "{failure}");
        assert!(failure.sentence.contains("64 x 48"), "{failure}");
        assert!(part((16, 48), &crop(None, None)).is_err());
    }

    fn any_resize() -> impl Strategy<Value = Resize> {
        let sides = prop_oneof![
            (1u32..=8192).prop_map(Sides::Width),
            (1u32..=8192).prop_map(Sides::Height),
            (1u32..=8192, 1u32..=8192).prop_map(|(width, height)| Sides::Both { width, height }),
        ];
        let fit = prop_oneof![Just(Fit::Contain), Just(Fit::Cover), Just(Fit::Fill)];
        (sides, fit, any::<bool>()).prop_map(|(sides, fit, upscale)| resize(sides, fit, upscale))
    }

    proptest! {
        #[test]
        fn no_side_is_zero_or_larger_than_allowed(
            width in 1u32..10_000,
            height in 1u32..10_000,
            wanted in any_resize(),
            even in any::<bool>(),
        ) {
            let parity = if even { Parity::Even } else { Parity::Any };
            if let Ok(Scaling { scaled, cut }) = resized((width, height), &wanted, parity) {
                prop_assert!(cut.0 > 0 && cut.1 > 0);
                prop_assert!(scaled.0 >= cut.0 && scaled.1 >= cut.1);
                if even {
                    prop_assert!([scaled.0, scaled.1, cut.0, cut.1].iter().all(|side| side % 2 == 0));
                }
                if !wanted.upscale {
                    // An odd side of a film may grow by one.
                    prop_assert!(cut.0 <= width + 1 && cut.1 <= height + 1);
                }
            }
        }

        #[test]
        fn what_is_fitted_stays_inside(
            width in 1u32..5000, height in 1u32..5000,
            frame_width in 1u32..2000, frame_height in 1u32..2000,
        ) {
            let frame = (frame_width * 2, frame_height * 2);
            let (w, h) = fitted((width, height), frame);
            prop_assert!(w > 0 && h > 0 && w <= frame.0 && h <= frame.1);
        }
    }
}
