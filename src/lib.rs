//! genie: a self-hosted back end for creator platforms. HTTP, command line, configuration and wiring; every rule is below.

/// State only: what handlers are given.
pub mod app;
/// `genie audit`: what happened, and whether the log can be trusted.
mod audit;
/// The blob store: uploaded files, sealed.
mod blobs;
/// All commands.
pub mod cli;
/// Everything from the environment, read once and checked.
pub mod config;
/// No image of this process' memory is left behind.
pub mod core_dumps;
/// `genie import`: what the original held.
mod credential_import;
/// The account exports that run on this server.
mod exports;
/// What is left of the forgotten is erased; `genie forget`, `genie restore-check`.
mod forgetting;
/// All routes.
pub mod http;
/// Passwords and tokens of the built-in identity.
mod identity;
/// `genie invite`.
mod invite;
/// `genie keys`, and where the ring of master keys is.
mod keys;
/// Limits how often something may be wrong, by key.
mod limiter;
/// `genie log export`, `genie log import`.
mod log_transfer;
/// The log lines of this process.
mod logging;
/// The network that a client belongs to.
mod network;
/// An upload is looked through and queued.
mod onboarding;
/// Answers with status 503, counted for the log.
mod outages;
/// Keeps signed heads outside the store.
mod publish_heads;
/// How often something may happen for one key.
mod rate_limiter;
/// The rates of requests.
mod request_limits;
/// Which roles there are.
mod roles;
/// Builds a server and lets it listen.
pub mod serve;
/// The socket by which commands of the command line reach a running server.
mod socket;
/// Opens the log, and locks an embedded store.
mod store;
/// The limits of tiers.
mod tier_limits;
/// The uploads that this server receives and checks.
mod uploads;
/// Whether an uploaded ZIP may be unpacked.
mod zip_check;
