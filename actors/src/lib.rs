//! genie-actors: the write side. It takes commands, lets the rules of `genie-events` decide, appends the facts, and
//! acts on the world for facts that ask for it. It writes no SQL and knows no read table.

/// The modules below, wired together.
pub mod write_side;

/// Callers, and the idempotency key of a command.
pub mod caller;
/// Failures of commands.
pub mod error;

/// Finds, starts, replaces and passivates users' actors.
pub mod users;

/// One user's actor: order, admission and cached state, not truth.
mod user;

/// Repeated tries of an append that another writer may overtake.
mod race;
/// The system's own streams.
mod system_stream;

pub mod accounts;
mod administrators;
/// Keys of users' own, for their programs.
pub mod api_keys;
/// E-mail addresses.
pub mod emails;
/// Files: uploads and what jobs made.
pub mod files;
/// Forgetting a user: the fact, the key and the address in one append.
pub mod forgetting;
/// Administrators who act for a user.
pub mod impersonations;
pub mod invites;
pub mod onboarding;
/// Registration: user, address and invite in one append.
pub mod registration;
pub mod service_keys;

pub mod credentials;
/// Seals secrets and opens them.
pub mod vault;

/// Jobs, and the workers that run them.
pub mod jobs;

pub mod captions;
pub mod chats;
/// The queue before the model server.
mod model_queue;
/// The model server's wire.
mod ollama;
/// Requests to other systems, and proxies.
pub mod outbound;
/// Running answers: leases, cancelling, take-over.
mod supervisor;
/// A running turn as its readers see it.
pub mod turn_feed;

pub mod usage;

/// Facts of reads of other users' data.
pub mod access;
/// Facts of the last minute, which are not recorded again.
mod dedupe;

pub use caller::{Caller, CommandContext};
pub use error::WriteError;
pub use ollama::{ModelPresence, TokenWaits};
pub use supervisor::{ModelProfile, ModelSettings, canonical_model};
pub use write_side::{WriteSettings, WriteSide};
