//! `genie forget` and `genie restore-check`: through the running server when there is one on the data folder, else here, as a server
//! that nobody can reach.

use std::{fs::File, path::PathBuf, time::Duration};

use clap::Args;
use genie_actors::{credentials::Credentials, forgetting::Forgetter, registration::Registrar};
use genie_events::{Metadata, UserId, account::ForgottenBy};
use genie_log::{
    Election, Log, Opened,
    forgetting::{Forgetting, Stage},
};
use genie_projections::ReadSide;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    Eraser, Ledger,
    verify::{Fingerprints, Places},
};
use crate::{app, blobs::Blobs, config::Config, http::forgetting::Whom, socket};

/// How long a command waits until nothing is left. It goes on afterwards, by the server or by the next command.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(250);

/// Whom to forget.
#[derive(Args)]
pub struct Options {
    /// The user's id
    user: UserId,
    /// Look for the user's key and sealed rows in the store's files (SQLite) or tables (Postgres) before and after
    #[arg(long)]
    verify: bool,
    /// With --verify on Postgres: its data folder, whose files are searched as well
    #[arg(long, requires = "verify", value_name = "DIR")]
    postgres_data: Option<PathBuf>,
    /// With --verify on Postgres: rewrite the tables (VACUUM FULL), which nobody can use meanwhile, so that no dead rows are left
    #[arg(long, requires = "verify")]
    rewrite: bool,
}

fn with_runtime<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime
        .map_err(|error| format!("the runtime can't be started: {error}"))?
        .block_on(work)
}

/// `genie forget`
pub fn forget(config: &Config, options: Options) -> Result<(), String> {
    with_runtime(async {
        let user = options.user;
        let places = Places::of(config, options.postgres_data);
        let before = match options.verify {
            true => Some(look_before(config, &places, user).await?),
            false => None,
        };
        match socket::ask(config, "/forget", &Whom { user }).await? {
            Some(_) => {
                let log = app::open_log(config, true).await?.log;
                tell(&wait(&log, user).await?);
                log.store().close().await;
            }
            None => {
                let node = Node::start(config).await?;
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
        let Some(before) = before else { return Ok(()) };
        let log = app::open_log(config, true).await?.log;
        let report = before.look_again(&log, &places, options.rewrite).await;
        log.store().close().await;
        app::say(&report?);
        Ok(())
    })
}

/// The fingerprints are taken, and found: a search that finds nothing afterwards then says something.
async fn look_before(
    config: &Config,
    places: &Places,
    user: UserId,
) -> Result<Fingerprints, String> {
    let log = app::open_log(config, true).await?.log;
    let fingerprints = Fingerprints::take(&log, places, user).await;
    log.store().close().await;
    let fingerprints = fingerprints?;
    app::say(&fingerprints.found_before());
    Ok(fingerprints)
}

/// Until nothing is left.
async fn wait(log: &Log, user: UserId) -> Result<Forgetting, String> {
    let started = Instant::now();
    loop {
        let forgetting = log
            .forgetting(user)
            .await
            .map_err(|error| error.to_string())?;
        match forgetting {
            Some(one) if matches!(one.stage, Stage::Erased | Stage::Closed) => return Ok(one),
            _ if started.elapsed() > PATIENCE => {
                return Err(format!(
                    "user {user} is forgotten, and something is left to be erased; a server goes on with it, and logs why it can't"
                ));
            }
            _ => sleep(LOOK).await,
        }
    }
}

fn tell(one: &Forgetting) {
    app::say(&format!(
        "user {} is forgotten, at position {}; nothing is left. The certificate:\n",
        one.user, one.position
    ));
    app::say(one.certificate.as_deref().unwrap_or("none"));
}

/// `genie restore-check`
pub fn check_restored(config: &Config) -> Result<(), String> {
    let back: Vec<UserId> = with_runtime(async {
        if let Some(mut answer) = socket::ask(config, "/restore-check", &json!({})).await? {
            return serde_json::from_value(answer["data"].take())
                .map_err(|_| socket::NOT_UNDERSTOOD.to_owned());
        }
        let node = Node::start(config).await?;
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
        app::say(&format!(
            "user {user} had been forgotten and was back: forgotten again"
        ));
    }
    if back.is_empty() {
        app::say(&format!(
            "nobody who stands in {} is back",
            config.forgotten_file.display()
        ));
    }
    Ok(())
}

/// As much of a server as forgetting needs: who follows the log, and who erases.
struct Node {
    log: Log,
    forget: Forgetter,
    eraser: Eraser,
    _election: Election,
    _only_process: Option<File>,
}

impl Node {
    async fn start(config: &Config) -> Result<Self, String> {
        let _only_process = app::lock_store(config)?;
        let Opened { log, vault } = app::open_log(config, false).await?;
        let name = format!("command-{}", log.clock().new_uuid());
        let election = log
            .stand_for_election(&name)
            .await
            .map_err(|error| error.to_string())?;
        let reads = ReadSide::start(log.clone(), election.clone());
        let _ = app::start_sealing(config, &log, election.clone()).await?;
        let register = Registrar::new(log.clone(), Credentials::new(log.clone(), vault));
        let directus = app::directus(config, &log, register)?;
        let blobs = Blobs::open(log.clone(), config.blobs())?;
        let forget = Forgetter::new(log.clone(), None);
        let ledger = Ledger::open(&config.forgotten_file)?;
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
