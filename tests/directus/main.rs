//! Identity by a real Directus. genie stands in front of it, with a proxy between them
//! that counts, holds and breaks off requests. `scripts/test directus` and `scripts/test` run it.
//! It needs an installed Directus, so `cargo test` alone leaves it out.

#![allow(clippy::unwrap_used)] // a test program
#![allow(clippy::too_many_lines)] // a story is read from its beginning to its end

/// As in the binary, for servers inside the tests.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[allow(dead_code)]
#[path = "../genie/fake_ollama.rs"]
mod fake_ollama;
/// Users of this Directus, for the stories that run with either identity.
mod identity;
#[allow(dead_code)] // The other test program uses the rest.
#[path = "../genie/test_genie.rs"]
mod test_genie;
#[allow(dead_code)]
#[path = "../genie/until.rs"]
mod until;

/// Stands between genie and Directus.
mod proxy;
/// A real Directus, and what a test does there as its administrator.
mod test_directus;

mod account_export;
mod credential_import;
mod forgetting;
mod job_files;
mod outage;
mod refresh;
mod registration;
mod sdk;
mod token;

// The stories of the built-in identity that might depend on the kind of identity.
#[path = "../genie/impersonation.rs"]
mod impersonation;
#[path = "../genie/invite_to_answer.rs"]
mod invite_to_answer;
#[path = "../genie/service_keys.rs"]
mod service_keys;
#[path = "../genie/usage.rs"]
mod usage;
