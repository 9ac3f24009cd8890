//! Tests with real programs in the sandbox, and with real connections.

#![allow(clippy::unwrap_used)] // a test program
#![allow(clippy::too_many_lines)] // a story is read from its beginning to its end

mod fetch;
mod operations;
mod sandbox;
mod studio;
