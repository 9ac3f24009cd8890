//! Limits each user to one account export at a time on this server.

use std::{collections::HashSet, sync::Arc};

use genie_events::UserId;
use parking_lot::Mutex;

/// The users whose exports run.
#[derive(Debug, Clone, Default)]
pub struct Exports(Arc<Mutex<HashSet<UserId>>>);

/// Another export of the same user runs.
#[derive(Debug, thiserror::Error)]
#[error("Another export of yours is running; let it finish, or stop it")]
pub struct ExportRunning;

/// Marks a running export. It is dropped at the end, or when the reader goes away.
pub struct RunningExport {
    user: UserId,
    exports: Exports,
}

impl Exports {
    /// Begins an export, unless another of the same user runs.
    pub fn begin(&self, user: UserId) -> Result<RunningExport, ExportRunning> {
        let is_new = self.0.lock().insert(user);
        if !is_new {
            return Err(ExportRunning);
        }
        Ok(RunningExport {
            user,
            exports: self.clone(),
        })
    }
}

impl Drop for RunningExport {
    fn drop(&mut self) {
        self.exports.0.lock().remove(&self.user);
    }
}
