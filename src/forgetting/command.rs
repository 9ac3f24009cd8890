//! `genie forget` and `genie restore-check`. They ask the server that runs on the data folder.
//! Without one, this process does the work, as a server that listens nowhere.

use std::{fs::File, time::Duration};

use clap::Args;
use genie_actors::{forgetting::Forgetter, registration::Registrar, vault::Vault};
use genie_events::{Metadata, UserId, account::ForgottenBy};
use genie_log::{
    Clock, Election, Log, Opened,
    forgetting::{Forgetting, Stage},
};
use genie_projections::ReadSide;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Eraser, ForgottenLedger};
use crate::{
    blobs::Blobs,
    cli::{output::say, runtime},
    config::Config,
    identity::directus::Directus,
    publish_heads,
    socket::{client, requests::ForgetRequest},
    store::{lock_store, open_log, read_log},
};

/// How long a command waits until nothing is left. Afterwards a server or the next command
/// continues.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the command looks.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Args)]
pub struct ForgetArguments {
    /// The user's id
    user: UserId,
}

/// Forgets a user and prints the certificate.
pub fn forget(config: &Config, ForgetArguments { user }: ForgetArguments) -> Result<(), String> {
    runtime::run(async {
        match client::ask(config, "/forget", &ForgetRequest { user }).await? {
            Some(_) => {
                let log = read_log(config).await?;
                tell(&wait(&log, user).await?);
                log.store().close().await;
            }
            None => {
                let node = ForgettingNode::start(config).await?;
                let metadata = Metadata::system();
                node.forget
                    .now(user, ForgottenBy::Operator, metadata)
                    .await
                    .map_err(|error| error.to_string())?;
                let done = wait(&node.log, user).await;
                node.stop().await;
                tell(&done?);
            }
        }
        Ok(())
    })
}

/// Waits until nothing is left.
async fn wait(log: &Log, user: UserId) -> Result<Forgetting, String> {
    let started = Instant::now();
    loop {
        let forgetting = log
            .forgettings()
            .get(user)
            .await
            .map_err(|error| error.to_string())?;
        match forgetting {
            Some(one) if matches!(one.stage, Stage::Erased | Stage::Closed) => return Ok(one),
            _ if started.elapsed() > PATIENCE => {
                return Err(format!(
                    "user {user} is forgotten, but not everything is erased yet; a server continues, and logs the obstacle"
                ));
            }
            _ => sleep(LOOK).await,
        }
    }
}

fn tell(one: &Forgetting) {
    say(&format!(
        "user {} is forgotten, at position {}; nothing is left. The certificate:\n",
        one.user, one.position
    ));
    say(one.certificate.as_deref().unwrap_or("none"));
}

/// Forgets the users again whom a restored backup brought back, and prints them.
pub fn check_restored(config: &Config) -> Result<(), String> {
    let back: Vec<UserId> = runtime::run(async {
        if let Some(mut answer) = client::ask(config, "/restore-check", &json!({})).await? {
            return serde_json::from_value(answer["data"].take())
                .map_err(|_| client::NOT_UNDERSTOOD.to_owned());
        }
        let node = ForgettingNode::start(config).await?;
        let back = node.eraser.apply_ledger().await;
        if let Ok(back) = &back {
            for user in back {
                wait(&node.log, *user).await?;
            }
        }
        node.stop().await;
        back
    })?;
    for user in &back {
        say(&format!(
            "user {user} was forgotten and came back; forgotten again"
        ));
    }
    if back.is_empty() {
        say(&format!(
            "no user of the ledger {} is back",
            config.forgotten_file.display()
        ));
    }
    Ok(())
}

/// The parts of a server that forgetting needs: projections, head signer and eraser.
struct ForgettingNode {
    log: Log,
    forget: Forgetter,
    eraser: Eraser,
    _election: Election,
    _only_process: Option<File>,
}

impl ForgettingNode {
    async fn start(config: &Config) -> Result<Self, String> {
        let _only_process = lock_store(config)?;
        let Opened { log, append, vault } = open_log(config, Clock::system(), false).await?;
        let name = format!("command-{}", log.clock().new_uuid());
        let election = log
            .elections()
            .stand(&name)
            .await
            .map_err(|error| error.to_string())?;
        let reads = ReadSide::start(log.clone(), election.clone());
        let _ = publish_heads::start_sealing(config, &log, election.clone()).await?;
        let register = Registrar::new(append.clone(), Vault::new(vault));
        let directus = Directus::open(config.directus.as_ref(), &log, register)?;
        let blobs = Blobs::open(log.clone(), config.blobs(), 0)?;
        let forget = Forgetter::new(append, None);
        let ledger = ForgottenLedger::open(&config.forgotten_file, log.hashes())?;
        let eraser = Eraser::new(log.clone(), forget.clone(), reads, blobs, directus, ledger);
        tokio::spawn(eraser.clone().run(election.clone()));
        Ok(Self {
            log,
            forget,
            eraser,
            _election: election,
            _only_process,
        })
    }

    async fn stop(self) {
        self.log.store().close().await;
    }
}
