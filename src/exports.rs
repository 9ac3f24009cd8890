//! The account exports that run on this server: one a user.

use std::{collections::HashSet, sync::Arc};

use genie_events::UserId;
use parking_lot::Mutex;

/// The users whose exports run.
#[derive(Debug, Clone, Default)]
pub struct Exports(Arc<Mutex<HashSet<UserId>>>);

/// Another export of the same user runs.
#[derive(Debug, thiserror::Error)]
#[error("Another export of yours is under way; let it end, or end it")]
pub struct ExportRunning;

/// An export that runs until this is dropped: at its end, or when its reader goes away.
pub struct RunningExport {
    user: UserId,
    exports: Exports,
}

impl Exports {
    /// Begins an export, unless one of the same user runs.
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
