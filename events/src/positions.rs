//! Positions: how far something is in every shard of the log. Each shard has dense positions of its
//! own. There is one shard today, so that clients can keep what they hold when there are more.
//!
//! - A shard that is not named is at 0: nothing of it was read, and nothing of it is asked for.
//! - As a cursor, the vector names the last position read in each shard. Reading moves one entry.
//! - A write names its own shard only. A reader waits until its positions cover the write's.
//! - Two vectors merge to the higher position of each shard: what covers the merged one covers both.
//!   Neither of two vectors need cover the other, so they have no order.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// A database with a log of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shard(u16);

impl Shard {
    /// The only one today.
    pub const FIRST: Self = Self(0);
}

/// The most shards that a text may name.
const MOST: usize = 256;
/// A text of this form is told from one of another release.
const FORM: &str = "p2:";

/// A position in each shard. Invariant: no entry is 0, so equal vectors are equal values and texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions(BTreeMap<Shard, u64>);

impl Positions {
    /// A position in one shard.
    pub fn at(shard: Shard, position: u64) -> Self {
        let mut positions = Self::default();
        positions.advance(shard, position);
        positions
    }

    pub fn in_shard(&self, shard: Shard) -> u64 {
        self.0.get(&shard).copied().unwrap_or(0)
    }

    /// Moves one shard on. A lower position changes nothing.
    pub fn advance(&mut self, shard: Shard, position: u64) {
        if position > self.in_shard(shard) {
            self.0.insert(shard, position);
        }
    }

    /// Moves every shard to the higher of two positions.
    pub fn merge(&mut self, other: &Self) {
        for (shard, position) in &other.0 {
            self.advance(*shard, *position);
        }
    }

    /// True when no shard is behind the other's.
    pub fn cover(&self, other: &Self) -> bool {
        let reached = |(shard, position): (&Shard, &u64)| self.in_shard(*shard) >= *position;
        other.0.iter().all(reached)
    }

    /// The position in the first shard; `None` when another shard is named, which a server with one
    /// shard cannot have given.
    pub fn only_first(&self) -> Option<u64> {
        let names_another = self.0.keys().any(|shard| *shard != Shard::FIRST);
        (!names_another).then(|| self.in_shard(Shard::FIRST))
    }
}

/// `p2:SHARD.POSITION,SHARD.POSITION,...`, in order of the shards.
impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FORM)?;
        for (n, (shard, position)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{}.{position}", shard.0)?;
        }
        Ok(())
    }
}

/// Why a text is not a vector of positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a vector of positions in the form that `Positions` writes")]
pub struct NotPositions;

impl FromStr for Positions {
    type Err = NotPositions;

    /// Reads only what [`Positions`] writes: each vector has one text.
    fn from_str(text: &str) -> Result<Self, NotPositions> {
        let entries = text.strip_prefix(FORM).ok_or(NotPositions)?;
        let mut positions = Self::default();
        for entry in entries
            .split(',')
            .take(MOST)
            .filter(|_| !entries.is_empty())
        {
            let (shard, position) = entry.split_once('.').ok_or(NotPositions)?;
            let shard = Shard(shard.parse().map_err(|_| NotPositions)?);
            let position = position.parse::<i64>().map_err(|_| NotPositions)?;
            positions.advance(shard, u64::try_from(position).map_err(|_| NotPositions)?);
        }
        if positions.to_string() == text {
            Ok(positions)
        } else {
            Err(NotPositions)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(entries: &[(u16, u64)]) -> Positions {
        let mut positions = Positions::default();
        for (shard, position) in entries {
            positions.advance(Shard(*shard), *position);
        }
        positions
    }

    #[test]
    fn every_vector_has_one_text_and_nothing_else_is_read() {
        for positions in [
            vector(&[]),
            vector(&[(0, 42)]),
            vector(&[(0, 1), (7, i64::MAX as u64)]),
            vector(&[(65_535, 3)]),
        ] {
            assert_eq!(positions.to_string().parse(), Ok(positions));
        }
        assert_eq!(vector(&[(2, 7), (0, 42)]).to_string(), "p2:0.42,2.7");
        assert_eq!(vector(&[(0, 0)]).to_string(), "p2:");
        let many: Vec<String> = (0..=MOST).map(|n| format!("{n}.1")).collect();
        for bad in [
            "",
            "42",
            "p1:42",
            "p2:42",
            "p2:0.",
            "p2:.1",
            "p2:0.0",
            "p2:0.01",
            "p2:00.1",
            "p2:0.+1",
            "p2:0.-1",
            "p2:0.1,",
            "p2:1.1,0.1",
            "p2:0.1,0.2",
            "p2:65536.1",
            "p2:0.9223372036854775808",
            "p2:0.1 ",
            &format!("p2:{}", many.join(",")),
        ] {
            assert_eq!(bad.parse::<Positions>(), Err(NotPositions), "{bad}");
        }
    }

    #[test]
    fn a_vector_covers_another_only_when_no_shard_is_behind() {
        let [low, left, right, high] = [
            vector(&[(0, 1), (1, 1)]),
            vector(&[(0, 9), (1, 1)]),
            vector(&[(0, 1), (1, 9)]),
            vector(&[(0, 9), (1, 9)]),
        ];
        assert!(high.cover(&left) && high.cover(&right) && left.cover(&low) && low.cover(&low));
        assert!(!left.cover(&right) && !right.cover(&left) && !low.cover(&high));
        assert!(vector(&[]).cover(&vector(&[(3, 0)])));
        assert!(
            !left.cover(&vector(&[(2, 1)])),
            "nothing of shard 2 was read"
        );
        assert!(
            left.cover(&vector(&[(0, 9)])),
            "nothing of shard 1 is asked for"
        );
    }

    #[test]
    fn merging_takes_the_higher_position_of_each_shard_in_any_order() {
        let (left, right) = (vector(&[(0, 9), (1, 1)]), vector(&[(1, 9), (2, 3)]));
        let merged = |one: &Positions, other: &Positions| {
            let mut both = one.clone();
            both.merge(other);
            both
        };
        let both = merged(&left, &right);
        assert_eq!(both, vector(&[(0, 9), (1, 9), (2, 3)]));
        assert_eq!(merged(&right, &left), both);
        assert_eq!(merged(&both, &left), both);
        assert!(both.cover(&left) && both.cover(&right));
    }

    #[test]
    fn a_cursor_never_moves_back() {
        let mut cursor = vector(&[(0, 5)]);
        cursor.advance(Shard::FIRST, 3);
        assert_eq!(cursor.only_first(), Some(5));
        cursor.advance(Shard(1), 2);
        assert_eq!(cursor.only_first(), None, "this server has one shard");
        assert_eq!(Positions::default().only_first(), Some(0));
    }
}
