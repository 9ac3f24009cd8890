//! `genie worker`: a media worker without a server in its process.

use genie_media::{
    mark_secret::MarkSecret,
    worker::{Worker, WorkerWatch},
};
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::runtime;
use crate::{
    config::Config,
    logging,
    media_worker::{Signals, settings},
};

#[derive(clap::Args)]
pub struct WorkerArguments {
    /// The server's address; else GENIE_WORKER_URL
    #[arg(long)]
    url: Option<String>,
    /// A service key with the scope jobs:work. Better set GENIE_WORKER_KEY: every user of the machine sees arguments
    #[arg(long)]
    key: Option<String>,
}

/// Works until a signal comes.
pub fn run(config: &Config, arguments: WorkerArguments) -> Result<(), String> {
    logging::start(config)?;
    for warning in &config.unknown {
        warn!("{warning}");
    }
    let url = arguments.url.unwrap_or_else(|| config.worker.url.clone());
    let key = arguments.key.map(SecretString::from);
    let key = key
        .or_else(|| config.worker.key.clone())
        .ok_or("a service key with the scope jobs:work is needed: set GENIE_WORKER_KEY")?;
    runtime::run(async {
        let mut signals = Signals::listen()?;
        let mark_key = config.worker.mark_key.as_ref();
        let secret = mark_key.and_then(|key| MarkSecret::read(key.expose_secret()));
        let settings = settings(config, url, key, secret);
        let worker = Worker::prepare(settings, &WorkerWatch::default()).await?;
        let stop = CancellationToken::new();
        let mut work = std::pin::pin!(worker.run(stop.clone()));
        tokio::select! {
            () = &mut work => return Ok(()),
            () = signals.next() => stop.cancel(),
        }
        tokio::select! {
            () = work => {}
            () = signals.next() => warn!("media worker: stopped at once by a second signal"),
        }
        Ok(())
    })
}
