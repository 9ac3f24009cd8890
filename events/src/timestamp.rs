//! Moments, as integer microseconds since 1970 UTC: equal in both stores, and exact.

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, macros::format_description};

/// A point in time, in microseconds since 1970-01-01T00:00:00Z.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This many milliseconds later; earlier if negative. Saturates.
    pub fn plus_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis.saturating_mul(1000)))
    }

    /// This many seconds later. Saturates.
    pub fn plus_seconds(self, seconds: i64) -> Self {
        self.plus_millis(seconds.saturating_mul(1000))
    }

    /// Whole seconds since 1970.
    pub fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Whole milliseconds since 1970.
    pub fn unix_millis(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// RFC 3339 UTC with milliseconds, the form of times in every answer (docs/api.md, Everywhere).
    pub fn rfc3339(self) -> String {
        let format = format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        );
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1000)
            .ok()
            .and_then(|at| at.format(format).ok())
            .unwrap_or_else(|| self.0.to_string())
    }

    /// Reads RFC 3339 with any offset; `None` for any other text.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let at =
            OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
        i64::try_from(at.unix_timestamp_nanos() / 1000)
            .ok()
            .map(Self)
    }

    /// The calendar month in UTC, by which quotas count.
    pub fn month(self) -> Month {
        let at = OffsetDateTime::from_unix_timestamp(self.unix_seconds())
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Month(at.year() * 100 + i32::from(u8::from(at.month())))
    }
}

/// A calendar month in UTC, `year * 100 + month`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Month(pub i32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_back_to_the_millisecond() {
        let at = Timestamp(1_767_323_045_678_901);
        assert_eq!(at.rfc3339(), "2026-01-02T03:04:05.678Z");
        assert_eq!(
            Timestamp::parse_rfc3339("2026-01-02T04:04:05.678+01:00"),
            Some(Timestamp(1_767_323_045_678_000))
        );
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
        assert_eq!(at.month(), Month(202_601));
    }

    #[test]
    fn extreme_moments_do_not_panic() {
        for at in [Timestamp(i64::MIN), Timestamp(i64::MAX)] {
            assert!(!at.rfc3339().is_empty());
            let _ = at.month();
            let _ = at.plus_seconds(i64::MAX);
        }
    }
}
