//! One test program for the whole: the real binary on a real port, on both stores, with a scripted Ollama.

#![allow(clippy::unwrap_used)] // a test program

mod genie;
mod hunt;
mod identity;
mod ollama;

mod accounts;
mod arrows;
mod audit;
mod bad_input;
mod bucket;
mod callers;
mod canaries;
mod chat;
mod credentials;
mod events;
mod exports;
mod forgetting;
mod idempotency;
mod impersonation;
mod imports;
mod invites;
mod jobs;
mod joining;
mod keys;
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
