//! Generated pictures, what may happen to a marked picture, and how many marks survive it.

pub mod attacks;
pub mod chance;
pub mod matrix;
pub mod pictures;
