//! Tests that start real programs in the sandbox.

#![allow(clippy::unwrap_used)] // a test program
#![allow(clippy::too_many_lines)] // a story is read from its beginning to its end

mod operations;
mod sandbox;
mod studio;
