//! Times in a film, as clients write them: seconds, or `HH:MM:SS.mmm`.

use std::fmt;

/// 100 hours.
pub(super) const MOST_SECONDS: f64 = 360_000.0;

/// A time in a film or a length, not below 0, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilmTime {
    micros: u64,
}

impl FilmTime {
    pub fn from_seconds(seconds: f64) -> Option<Self> {
        let is_near = (0.0..=MOST_SECONDS).contains(&seconds);
        is_near.then(|| Self {
            micros: (seconds * 1e6).round() as u64,
        })
    }

    /// Reads `SS`, `MM:SS` and `HH:MM:SS`, each with or without a fraction.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().rsplit(':');
        let seconds = decimal(parts.next()?)?;
        let minutes = parts.next().map_or(Some(0), whole)?;
        let hours = parts.next().map_or(Some(0), whole)?;
        let has_minutes = text.contains(':');
        let is_clock = !has_minutes || (seconds < 60.0 && minutes < 60);
        if parts.next().is_some() || !is_clock {
            return None;
        }
        let whole = hours.checked_mul(3600)?.checked_add(minutes * 60)?;
        Self::from_seconds(whole as f64 + seconds)
    }

    pub fn seconds(self) -> f64 {
        self.micros as f64 / 1e6
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            micros: self.micros.saturating_add(other.micros),
        }
    }

    pub fn is_zero(self) -> bool {
        self.micros == 0
    }
}

/// In seconds, as ffmpeg reads it.
impl fmt::Display for FilmTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:06}",
            self.micros / 1_000_000,
            self.micros % 1_000_000
        )
    }
}

fn whole(text: &str) -> Option<u64> {
    let has_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| has_digits)
}

fn decimal(text: &str) -> Option<f64> {
    let (whole_part, fraction) = text.split_once('.').unwrap_or((text, "0"));
    whole(whole_part)?;
    let has_digits = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| has_digits)
}
