//! Tests that start real programs in the sandbox.

mod sandbox;
