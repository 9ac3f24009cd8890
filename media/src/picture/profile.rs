//! The colours that an ICC profile describes, as far as they have a number of their own in AVIF.

use super::bytes::{be32, part};

/// The primary colours of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProfileColours {
    Srgb,
    DisplayP3,
    Other,
}

/// The first two coordinates of red, green and blue in light of 5000 K.
type Primaries = [[f64; 2]; 3];

const SRGB: Primaries = [[0.4360, 0.2225], [0.3851, 0.7169], [0.1431, 0.0606]];
const DISPLAY_P3: Primaries = [[0.5151, 0.2412], [0.2920, 0.6922], [0.1571, 0.0666]];
/// Profiles of different makers differ by rounding.
const TOLERANCE: f64 = 0.004;
/// The most tags that are looked at.
const MOST_TAGS: usize = 200;

pub fn colours(icc: &[u8]) -> ProfileColours {
    let Some(found) = primaries(icc) else {
        return ProfileColours::Other;
    };
    let is = |known: Primaries| {
        let near = |(found, known): (&f64, &f64)| (found - known).abs() < TOLERANCE;
        let found = found.iter().flatten();
        found.zip(known.iter().flatten()).all(near)
    };
    if is(SRGB) {
        ProfileColours::Srgb
    } else if is(DISPLAY_P3) {
        ProfileColours::DisplayP3
    } else {
        ProfileColours::Other
    }
}

fn primaries(icc: &[u8]) -> Option<Primaries> {
    Some([
        colour(icc, b"rXYZ")?,
        colour(icc, b"gXYZ")?,
        colour(icc, b"bXYZ")?,
    ])
}

fn colour(icc: &[u8], name: &[u8; 4]) -> Option<[f64; 2]> {
    let count = usize::try_from(be32(icc, 128)?).ok()?.min(MOST_TAGS);
    let entry = (0..count)
        .map(|tag| 132 + tag * 12)
        .find(|at| part(icc, *at, 4) == Some(name))?;
    let at = usize::try_from(be32(icc, entry + 4)?).ok()?;
    let number = |place: usize| {
        let fixed = be32(icc, at.checked_add(place)?)?.cast_signed();
        Some(f64::from(fixed) / 65_536.0)
    };
    Some([number(8)?, number(12)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(primaries: Primaries) -> Vec<u8> {
        let mut icc = vec![0; 128];
        icc.extend(3u32.to_be_bytes());
        for (place, name) in (0u32..).zip([b"rXYZ", b"gXYZ", b"bXYZ"]) {
            icc.extend(name);
            icc.extend((168 + place * 20).to_be_bytes());
            icc.extend(20u32.to_be_bytes());
        }
        for [x, y] in primaries {
            icc.extend(b"XYZ \0\0\0\0");
            for number in [x, y, 0.0] {
                icc.extend(((number * 65_536.0) as i32).to_be_bytes());
            }
        }
        icc
    }

    #[test]
    fn primaries_are_known_by_their_coordinates() {
        assert_eq!(colours(&profile(SRGB)), ProfileColours::Srgb);
        assert_eq!(colours(&profile(DISPLAY_P3)), ProfileColours::DisplayP3);
        let adobe = [[0.6097, 0.3111], [0.2053, 0.6257], [0.1492, 0.0632]];
        assert_eq!(colours(&profile(adobe)), ProfileColours::Other);
        let cut = &profile(SRGB)[..200];
        assert_eq!(colours(cut), ProfileColours::Other);
        assert_eq!(colours(b""), ProfileColours::Other);
    }
}
