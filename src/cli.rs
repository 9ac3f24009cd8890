//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use genie_events::UserId;
use genie_media::mark_secret::MarkSecret;
use secrecy::ExposeSecret;

use crate::{
    audit,
    config::{self, Config},
    credential_import, forgetting, invite, keys, log_transfer, logging, serve,
    socket::requests::InviteRequest,
};

pub mod output;
pub mod runtime;
mod worker;

use worker::WorkerArguments;

#[derive(Parser)]
#[command(
    name = "genie",
    version,
    about = "A self-hosted back end for creator platforms"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Start the server (the default)
    Serve {
        /// Also work on media jobs, with a service key of its own
        #[arg(long)]
        with_worker: bool,
    },
    /// Work on the media jobs of a server, here or elsewhere
    Worker(WorkerArguments),
    /// Print the key of invisible marks, for media workers on other machines
    MarkKey,
    /// Print the configuration in force, secrets masked
    Config {
        /// Print the page of all settings instead: docs/operating/configuration.md
        #[arg(long)]
        markdown: bool,
    },
    /// Print a user's facts in order, or check the log; may run beside the server
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Audit {
        #[command(subcommand)]
        what: Option<AuditCommand>,
        /// The user's id
        #[arg(long, required = true)]
        user: Option<String>,
        /// One JSON object a line instead of text
        #[arg(long)]
        json: bool,
    },
    /// Make invites and print their codes; may run beside the server
    Invite(InviteRequest),
    /// Import data of another system
    #[command(subcommand)]
    Import(credential_import::ImportCommand),
    /// List, add, rotate and retire master keys
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Forget a user and print the certificate; may run beside the server
    Forget(forgetting::command::ForgetArguments),
    /// Forget users again who came back with a backup; every start of the server does the same; may
    /// run beside it
    RestoreCheck,
    /// Export or import the log
    #[command(subcommand)]
    Log(log_transfer::LogCommand),
}

#[derive(Subcommand)]
enum AuditCommand {
    /// Check the whole log against its digests, its tree and its signed heads
    Verify(audit::verify::VerifyArguments),
    /// Print the proof that the log contains a fact under the newest signed head
    Proof {
        /// The fact's position
        #[arg(long)]
        position: u64,
        /// Also prove that the log only grew since it had this many facts
        #[arg(long)]
        from: Option<u64>,
    },
    /// Print the public key of the signed heads
    Key,
}

/// Runs the command that the command line names.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let command = cli.command.unwrap_or(Command::Serve { with_worker: false });
    // They log. Other commands print.
    let logs = matches!(command, Command::Serve { .. } | Command::Worker(_));
    if logs {
        logging::choose(config::asks_for_json());
    }
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(wrong) => return fail(wrong),
    };
    // The log has these warnings in its own format.
    if !logs {
        for warning in &config.unknown {
            eprintln!("genie: warning: {warning}");
        }
    }
    let done = match command {
        Command::Serve { with_worker } => serve::run(config, with_worker),
        Command::Worker(options) => worker::run(&config, options),
        Command::MarkKey => print_mark_key(&config),
        Command::Config { markdown } => {
            if markdown {
                output::say(config::markdown::page().trim_end());
            } else {
                output::say(&config.in_force());
            }
            Ok(())
        }
        Command::Audit {
            what: None,
            user,
            json,
        } => match user.unwrap_or_default().parse::<UserId>() {
            Ok(user) => audit::with_log(&config, async |log| {
                audit::show::print(log, user, json).await
            }),
            Err(error) => Err(format!("--user: {error}")),
        },
        Command::Invite(wanted) => invite::make(config, wanted),
        Command::Import(command) => credential_import::run(config, command),
        Command::Keys(command) => keys::run(&config, command),
        Command::Forget(options) => forgetting::command::forget(&config, options),
        Command::RestoreCheck => forgetting::command::check_restored(&config),
        Command::Log(command) => log_transfer::run(&config, command),
        Command::Audit {
            what: Some(what), ..
        } => match what {
            AuditCommand::Verify(wanted) => audit::verify::run(&config, &wanted),
            AuditCommand::Proof { position, from } => audit::with_log(&config, async |log| {
                audit::proof::print(log, position, from).await
            }),
            AuditCommand::Key => audit::with_log(&config, async |log| audit::print_key(log).await),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => fail(sentence),
    }
}

fn print_mark_key(config: &Config) -> Result<(), String> {
    audit::with_log(config, async |log| {
        let secret = MarkSecret::new(log.hashes().mark_key());
        output::say(secret.text().expose_secret());
        Ok(())
    })
}

/// Reports the reason of a failure, and returns the exit code.
pub fn fail(sentence: impl std::fmt::Display) -> ExitCode {
    logging::say_why(&sentence.to_string());
    ExitCode::FAILURE
}
