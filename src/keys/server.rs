//! Requests about master keys, which a server answers, or the command itself without a server; and
//! the ring of a running server, which follows its file.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use genie_log::{
    Log, LogError,
    keys::{
        rings::ANNOUNCE,
        rotation::{RotationError, RotationStep},
    },
};
use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;
use tracing::{info, warn};

use crate::{
    config::Config,
    keys::file,
    socket::requests::{KeyList, KeyRequest},
};

/// Does a request. Only a running server has a `ring` to read again.
pub async fn perform(log: &Log, ring: Option<&Ring>, asked: KeyRequest) -> Result<Value, String> {
    let told = |error: RotationError| error.to_string();
    let done = match asked {
        KeyRequest::List => serde_json::to_value(list(log).await.map_err(told)?),
        KeyRequest::Reload => {
            if let Some(ring) = ring {
                ring.read_again().await?;
            }
            serde_json::to_value(list(log).await.map_err(told)?)
        }
        KeyRequest::Begin => Ok(Value::String(
            log.keys().rotation().begin().await.map_err(told)?,
        )),
        KeyRequest::Step { to, from } => serde_json::to_value::<RotationStep>(
            log.keys()
                .rotation()
                .rotate(&to, from)
                .await
                .map_err(told)?,
        ),
        KeyRequest::Retire { id } => Ok(Value::String(
            log.keys()
                .rotation()
                .retire(&id)
                .await
                .map_err(told)?
                .rfc3339(),
        )),
    };
    done.map_err(|error| error.to_string())
}

async fn list(log: &Log) -> Result<KeyList, RotationError> {
    let current = log.keys().rings().follow_current().await?;
    let retired = log.keys().rotation().retired().await?;
    Ok(KeyList {
        ring: log.keys().masters().ids().map(str::to_owned).collect(),
        current,
        wraps: log.keys().rotation().wraps().await?,
        retired: retired
            .into_iter()
            .map(|(id, at)| (id, at.rfc3339()))
            .collect(),
        servers: log.keys().rings().all().await?,
    })
}

/// The ring of a running server. It tells the other servers which keys it has, and reads its file
/// again when the file changes.
pub struct Ring {
    log: Log,
    node: String,
    file: Option<PathBuf>,
    /// The file's state when it was last read.
    taken: Mutex<Option<FileStamp>>,
}

/// Modification time and length, by which a change of the file is noticed.
type FileStamp = (SystemTime, u64);

impl Ring {
    /// Tells the other servers about this ring. Fails when the ring lacks the current master key.
    pub async fn announce(config: &Config, log: &Log, node: &str) -> Result<Arc<Self>, String> {
        let file = file::path(config);
        let taken = Mutex::new(file.as_deref().and_then(seen));
        let ring = Arc::new(Self {
            log: log.clone(),
            node: node.to_owned(),
            file,
            taken,
        });
        match log.keys().rings().announce(node).await {
            Ok(()) => {}
            // Nobody can rotate then either. `follow` tells the other servers once the store is
            // back.
            Err(LogError::Away(reason)) => {
                warn!(
                    reason,
                    "master keys: telling the other servers about this ring failed; trying again"
                )
            }
            Err(error) => return Err(error.to_string()),
        }
        match log.keys().lacking_master() {
            None => Ok(ring),
            Some(id) => {
                ring.withdraw().await;
                Err(format!(
                    "master key `{id}` is current and not in the ring; add it to GENIE_MASTER_KEYS or its file"
                ))
            }
        }
    }

    /// Repeats the announcement, and reads a changed file. Runs for ever; spawn it.
    pub async fn follow(self: Arc<Self>) {
        let mut told = None;
        loop {
            tokio::time::sleep(ANNOUNCE).await;
            let has_changed = self.file.as_deref().and_then(seen) != *self.taken();
            let reason = if has_changed {
                self.read_again().await.err()
            } else {
                None
            };
            if let Some(reason) = reason.as_ref().filter(|_| reason != told) {
                warn!(
                    reason,
                    "master keys: the changed ring is not usable; the previous one stays in use"
                );
            }
            told = reason;
            if let Err(error) = self.log.keys().rings().announce(&self.node).await {
                warn!(%error, "master keys: telling the other servers about this ring failed; trying again");
            }
        }
    }

    async fn read_again(&self) -> Result<(), String> {
        let Some(path) = &self.file else {
            return Ok(());
        };
        let seen = seen(path);
        let ring = file::in_file(path)?; // a change after `seen` is found the next time
        let ids = format!("{ring:?}");
        self.log
            .keys()
            .rings()
            .take(ring)
            .await
            .map_err(|error| format!("{}: {error}", path.display()))?;
        *self.taken() = seen;
        info!(ids, "master keys: took over the changed ring");
        self.log
            .keys()
            .rings()
            .announce(&self.node)
            .await
            .map_err(|error| error.to_string())
    }

    fn taken(&self) -> MutexGuard<'_, Option<FileStamp>> {
        self.taken.lock()
    }

    /// Tells the other servers that this one stops.
    pub async fn withdraw(&self) {
        if let Err(error) = self.log.keys().rings().withdraw(&self.node).await {
            warn!(%error, "master keys: signing off failed; other servers count this one as running for a while");
        }
    }
}

fn seen(path: &Path) -> Option<FileStamp> {
    let file = fs::metadata(path).ok()?;
    Some((file.modified().ok()?, file.len()))
}
