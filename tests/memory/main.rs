//! How much memory a server takes when its store is large and its clients do their worst: the real
//! binary, on both stores. `scripts/test long` runs it with an optimised server, on a machine that does nothing
//! else. Without `GENIE_MEMORY_WHOLE=yes` it takes a tenth of the store and the clients, and small reads of
//! others have no time limit.

#![allow(clippy::unwrap_used)] // a test program
#![allow(clippy::too_many_lines)] // a story is read from its beginning to its end

#[allow(dead_code)]
#[path = "../genie/fake_ollama.rs"]
mod fake_ollama;
#[allow(dead_code)]
#[path = "../genie/identity.rs"]
mod identity;
#[allow(dead_code)]
#[path = "../genie/test_genie.rs"]
mod test_genie;
#[allow(dead_code)]
#[path = "../genie/until.rs"]
mod until;

/// Somebody who asks for little, and is served whatever the others do.
mod bystander;
/// A store with many jobs and one long chat.
mod large_store;
/// The most memory that a process had.
mod peak;
/// Clients that ask for much and do not read it.
mod silent_clients;

mod story;
