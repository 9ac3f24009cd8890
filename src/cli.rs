//! All commands.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use genie_events::UserId;

use crate::{app, audit, config::Config, invite, transfer};

#[derive(Parser)]
#[command(name = "genie", version, about = "A self-hosted back end for creator platforms")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Start the server (the default)
    Serve,
    /// Print what configuration is in force, secrets masked
    Config,
    /// Print a user's facts in order; may run beside the server
    Audit {
        /// The user's id
        #[arg(long)]
        user: String,
        /// One JSON object a line instead of text
        #[arg(long)]
        json: bool,
    },
    /// Make invites and print their codes; may run beside the server
    Invite(invite::NewInvites),
    /// Export or import the log
    #[command(subcommand)]
    Log(transfer::LogCommand),
}

/// Runs what the command line asks for.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(wrong) => return fail(wrong),
    };
    let done = match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => app::serve(config),
        Command::Config => {
            use std::io::Write;
            let _ = writeln!(std::io::stdout(), "{}", config.in_force()); // whoever reads may stop in the middle
            Ok(())
        }
        Command::Audit { user, json } => match user.parse::<UserId>() {
            Ok(user) => audit::print(&config, user, json),
            Err(error) => Err(format!("--user: {error}")),
        },
        Command::Invite(wanted) => invite::make(config, wanted),
        Command::Log(command) => transfer::run(&config, command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => fail(sentence),
    }
}

fn fail(sentence: impl std::fmt::Display) -> ExitCode {
    eprintln!("genie: {sentence}");
    ExitCode::FAILURE
}
