//! Tests that start real programs in the sandbox.

mod operations;
mod sandbox;
mod studio;
