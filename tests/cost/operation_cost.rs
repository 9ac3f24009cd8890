//! What an operation took from its store, and the comparison of two sizes.

use std::fmt;

/// What one operation took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OperationCost {
    /// Postgres: rows and index entries that its plans looked at. SQLite: steps of its virtual machine.
    pub rows: u64,
    /// Without `BEGIN`, `COMMIT` and `ROLLBACK`.
    pub statements: u64,
    /// SQLite: only those that wrote.
    pub transactions: u64,
}

/// The rows may differ by this many, however few they are: each repetition leaves a login or a job.
const ROWS: u64 = 5;
/// The same for statements and transactions: a follower may read the log just then.
const STATEMENTS: u64 = 2;

impl OperationCost {
    /// The middle of several counts, each number by itself.
    pub fn median(counts: &[Self]) -> Self {
        let middle = |number: fn(&Self) -> u64| {
            let mut numbers: Vec<u64> = counts.iter().map(number).collect();
            numbers.sort_unstable();
            numbers.get(numbers.len() / 2).copied().unwrap_or_default()
        };
        Self {
            rows: middle(|counts| counts.rows),
            statements: middle(|counts| counts.statements),
            transactions: middle(|counts| counts.transactions),
        }
    }

    /// True when no number is more than a tenth above the other's.
    pub fn is_no_more_than(&self, other: &Self) -> bool {
        let is_within =
            |mine: u64, others: u64, slack: u64| mine <= others + slack.max(others / 10);
        is_within(self.rows, other.rows, ROWS)
            && is_within(self.statements, other.statements, STATEMENTS)
            && is_within(self.transactions, other.transactions, STATEMENTS)
    }
}

impl fmt::Display for OperationCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rows,
            statements,
            transactions,
        } = self;
        write!(f, "{rows:>8} {statements:>6} {transactions:>6}")
    }
}

#[test]
fn a_tenth_more_is_allowed_and_no_more() {
    let counts = |rows| OperationCost {
        rows,
        statements: 3,
        transactions: 1,
    };
    assert!(counts(110).is_no_more_than(&counts(100)));
    assert!(!counts(111).is_no_more_than(&counts(100)));
    assert!(counts(7).is_no_more_than(&counts(2)));
    assert!(!counts(8).is_no_more_than(&counts(2)));
    assert!(counts(1).is_no_more_than(&counts(100)));
    let more_statements = OperationCost {
        statements: 6,
        ..counts(100)
    };
    assert!(!more_statements.is_no_more_than(&counts(100)));
}

#[test]
fn the_median_forgets_an_outlier() {
    let counts = [3, 900, 4].map(|rows| OperationCost {
        rows,
        ..OperationCost::default()
    });
    assert_eq!(OperationCost::median(&counts).rows, 4);
}
