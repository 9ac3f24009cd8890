//! Identity by a real Directus: the real binary in front of it, with a proxy between them that counts, holds and breaks off requests.
//! `scripts/test directus` runs it, and so does `scripts/test`: it needs a Directus installed, so `cargo test` alone leaves it out.

#![allow(clippy::unwrap_used)] // a test program

#[allow(dead_code)] // what the other test program uses
#[path = "../genie/genie.rs"]
mod genie;
/// Users by this Directus, for the stories that run with either identity.
mod identity;
#[allow(dead_code)]
#[path = "../genie/ollama.rs"]
mod ollama;

/// A real Directus, and what a test does there as its administrator.
mod directus;
/// Between genie and Directus.
mod proxy;

mod export;
mod forgetting;
mod import;
mod outage;
mod refresh;
mod register;
mod token;

// The same stories as with the built-in identity, where it could matter who says who is who.
#[path = "../genie/impersonation.rs"]
mod impersonation;
#[path = "../genie/joining.rs"]
mod joining;
#[path = "../genie/service_keys.rs"]
mod service_keys;
#[path = "../genie/usage.rs"]
mod usage;
