//! One test program for the whole: the real binary on a real port, on both stores, with a scripted Ollama.

#![allow(clippy::unwrap_used)] // a test program

mod genie;
mod ollama;

mod arrows;
mod audit;
mod bad_input;
mod chat;
mod events;
mod idempotency;
mod invites;
mod jobs;
mod limits;
mod nodes;
mod store_away;
mod story;
mod torture;
mod transfer;
mod usage;
