//! The media worker of this process. Beside a server it has a service key of its own, made at each start and revoked at
//! the end.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use genie_events::{
    Metadata, ServiceKeyId,
    service_key::{Scope, ServiceKeyGrant},
};
use genie_media::{
    mark_secret::MarkSecret,
    worker::{Worker, WorkerSettings},
};
use secrecy::SecretString;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{app::App, config::Config};

/// The name of the key in lists.
const KEY_NAME: &str = "genie serve --with-worker";
/// How long a worker may take to give its jobs back.
const LAST_REPORTS: Duration = Duration::from_secs(12);

/// What a worker of this process works with.
pub fn settings(
    config: &Config,
    server: String,
    key: SecretString,
    mark_secret: Option<MarkSecret>,
) -> WorkerSettings {
    let worker = &config.worker;
    WorkerSettings {
        server,
        key,
        name: format!("genie-worker-{}", std::process::id()),
        folder: worker.folder.clone(),
        jobs: worker.jobs,
        min_free: config.files_min_free,
        max_input: config.file_max_bytes,
        must_confine: worker.must_confine,
        networks: worker.private_networks.clone(),
        search_path: worker.search_path.clone(),
        mark_secret,
    }
}

/// The signals that ask a process to end.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Signals {
    /// From now on they do not end the process.
    pub fn listen() -> Result<Self, String> {
        let listen =
            |kind| signal(kind).map_err(|error| format!("signals can't be heard: {error}"));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}

/// A worker that runs beside the server.
pub struct WorkerBeside {
    app: Arc<App>,
    key: ServiceKeyId,
    stop: CancellationToken,
    work: JoinHandle<()>,
}

impl WorkerBeside {
    /// Starts a worker for the server that listens on `address`. Call it on the runtime that owns all I/O.
    pub async fn start(app: Arc<App>, address: SocketAddr) -> Result<Self, String> {
        let (id, key) = make_key(&app).await?;
        let secret = MarkSecret::new(app.log.hashes().mark_key());
        let server = format!("http://{address}");
        let settings = settings(&app.config, server, key, Some(secret));
        let worker = Worker::prepare(settings, &app.worker).await?;
        let stop = CancellationToken::new();
        Ok(Self {
            work: tokio::spawn(worker.run(stop.clone())),
            app,
            key: id,
            stop,
        })
    }

    /// Lets the worker give back what is unfinished, and revokes its key. The server must still listen.
    pub async fn stop(self) {
        self.stop.cancel();
        if timeout(LAST_REPORTS, self.work).await.is_err() {
            warn!("media worker: does not end; the server stops without it");
        }
        let keys = &self.app.write.service_keys;
        match keys.revoke(&self.key, Metadata::system()).await {
            Ok(_) => {
                let _ = fs::remove_file(key_file(&self.app)); // the next start revokes it again
            }
            Err(error) => {
                warn!(%error, "media worker: its key is not revoked; the next start does it");
            }
        }
    }
}

/// The id of the key, which is no secret, so that a start after a crash can revoke it.
fn key_file(app: &App) -> PathBuf {
    app.config.data_dir.join("worker.key-id")
}

async fn make_key(app: &App) -> Result<(ServiceKeyId, SecretString), String> {
    let file = key_file(app);
    let keys = &app.write.service_keys;
    let old = fs::read_to_string(&file).ok();
    if let Some(old) = old.and_then(|old| old.trim().parse::<ServiceKeyId>().ok()) {
        // An error means that another store made it.
        let _ = keys.revoke(&old, Metadata::system()).await;
    }
    let sentence = |why: &dyn std::fmt::Display| format!("the media worker has no key: {why}");
    let scopes = vec![Scope::JobsWork];
    let grant = ServiceKeyGrant::new(KEY_NAME, scopes, None, app.log.clock().now())
        .map_err(|refused| sentence(&refused))?;
    let made = keys
        .make(grant, Metadata::system())
        .await
        .map_err(|error| sentence(&error))?;
    let written = fs::create_dir_all(&app.config.data_dir)
        .and_then(|()| fs::write(&file, made.id.to_string()));
    written.map_err(|error| sentence(&error))?;
    Ok((made.id, made.key))
}
