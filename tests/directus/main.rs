//! Identity by a real Directus: the real binary in front of it, with a proxy between them that counts, holds and breaks off requests.
//! `scripts/test directus` runs it, and so does `scripts/test`: it needs a Directus installed, so `cargo test` alone leaves it out.

#![allow(clippy::unwrap_used)] // a test program

#[allow(dead_code)]
#[path = "../genie/fake_ollama.rs"]
mod fake_ollama;
/// Users by this Directus, for the stories that run with either identity.
mod identity;
#[allow(dead_code)] // what the other test program uses
#[path = "../genie/test_genie.rs"]
mod test_genie;
#[allow(dead_code)]
#[path = "../genie/until.rs"]
mod until;

/// Between genie and Directus.
mod proxy;
/// A real Directus, and what a test does there as its administrator.
mod test_directus;

mod account_export;
mod credential_import;
mod forgetting;
mod outage;
mod refresh;
mod registration;
mod token;

// The same stories as with the built-in identity, where it could matter who says who is who.
#[path = "../genie/impersonation.rs"]
mod impersonation;
#[path = "../genie/invite_to_answer.rs"]
mod invite_to_answer;
#[path = "../genie/service_keys.rs"]
mod service_keys;
#[path = "../genie/usage.rs"]
mod usage;
