//! One test program for the whole: the real binary on a real port, on both stores, with a scripted Ollama.

#![allow(clippy::unwrap_used)] // a test program

mod genie;
mod ollama;

mod accounts;
mod arrows;
mod audit;
mod bad_input;
mod callers;
mod chat;
mod events;
mod forgetting;
mod idempotency;
mod impersonation;
mod invites;
mod jobs;
mod limits;
mod nodes;
mod onboarding;
mod registering;
mod service_keys;
mod store_away;
mod story;
mod torture;
mod transfer;
mod usage;
