//! genie: a self-hosted back end for creator platforms. HTTP, command line, configuration and wiring; every rule is below.

/// The state that handlers are given.
pub mod app;
/// `genie audit`: prints and verifies the log.
mod audit;
/// The blob store: uploaded files, sealed.
mod blobs;
/// The command line.
pub mod cli;
/// Everything from the environment, read once and checked.
pub mod config;
/// Forbids core dumps.
pub mod core_dumps;
/// `genie import`: credentials of the original.
mod credential_import;
/// The account exports that run on this server.
mod exports;
/// Erases forgotten users; `genie forget`, `genie restore-check`.
mod forgetting;
/// Everything that is answered on the port.
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
/// Checks an upload and queues its job.
mod onboarding;
/// Answers with status 503, counted for the log.
mod outages;
/// Keeps signed heads outside the store.
mod publish_heads;
/// Counts requests by key.
mod rate_limiter;
/// The rates of requests.
mod request_limits;
/// The known roles.
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
/// Checks whether an uploaded ZIP may be unpacked.
mod zip_check;
