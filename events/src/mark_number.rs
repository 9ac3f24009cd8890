//! The number of an invisible mark.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number in an invisible mark. It is random, and means something only beside the fact that names it: the
/// submission of the job that makes the mark. So it means nothing once that job's user is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MarkNumber(pub u32);

impl fmt::Display for MarkNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
