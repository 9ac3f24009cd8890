//! The log from outside, in one program: linking takes longer than most of its tests.

#![allow(clippy::unwrap_used)] // a test program
#![allow(clippy::too_many_lines)] // a story is read from its beginning to its end

mod contract;
mod engines;
mod poolers;
mod position_protocol;
mod property;
mod rotation;
mod transfer;
mod tree;
mod writer_queue;
