//! Runs of `genie-torture` against the real server. They need the `genie` binary: `cargo build --bin genie`, or a test run of the
//! whole workspace, builds it.

#![allow(clippy::unwrap_used)] // a test program

#[allow(dead_code)] // what the stories use
#[path = "../../../tests/genie/fake_ollama.rs"]
mod fake_ollama;

mod run;
