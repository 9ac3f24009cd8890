//! genie: a self-hosted back end for creator platforms. HTTP, command line, configuration and wiring; every rule is below.

/// All construction.
mod app;
/// `genie audit`: a user's facts in order.
mod audit;
/// All commands.
mod cli;
/// Everything from the environment, read once and checked.
mod config;
/// All routes.
mod http;
/// Passwords and tokens of the built-in identity.
mod identity;
/// `genie invite`.
mod invite;
/// The socket by which commands of the command line reach a running server.
mod socket;
/// `genie log export`, `genie log import`.
mod transfer;

fn main() -> std::process::ExitCode {
    // reqwest asks for a provider to be chosen; this is the first thing that happens, so none was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    cli::run()
}
