//! Runs of `genie-torture` against the real server. They need the `genie` binary: `cargo build --bin genie`, or a test run of the
//! whole workspace, builds it.

#![allow(clippy::unwrap_used)] // a test program
#![allow(clippy::too_many_lines)] // a story is read from its beginning to its end

#[allow(dead_code)] // torture uses only a part of it
#[path = "../../../tests/genie/fake_ollama.rs"]
mod fake_ollama;

#[allow(dead_code)]
#[path = "../../../tests/genie/until.rs"]
mod until;

mod run;
