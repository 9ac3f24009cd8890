//! Opens the log, and locks an embedded store.

use std::fs::{File, OpenOptions};

use genie_log::{Clock, Log, LogError, Opened, store::Target};

use crate::{config::Config, data_folder, keys::file};

/// Opens the log with the configured master keys, or with those in the data folder. An empty store
/// gets new ones there, unless `read_only`.
pub async fn open_log(config: &Config, clock: Clock, read_only: bool) -> Result<Opened, String> {
    let masters = file::ring(config, read_only).await?;
    let settings = genie_log::Settings {
        target: config.target(),
        masters,
        clock,
        read_only,
    };
    Log::open(settings).await.map_err(|error| match error {
        LogError::Away(reason) if read_only => format!("the store can't be read: {reason}"),
        error => error.to_string(),
    })
}

/// Opens the log for a command that only reads, and may run beside the server.
pub async fn read_log(config: &Config) -> Result<Log, String> {
    Ok(open_log(config, Clock::system(), true).await?.log)
}

/// Locks an embedded store, which only one process may write, until the returned file is dropped.
pub fn lock_store(config: &Config) -> Result<Option<File>, String> {
    let Target::Sqlite(_) = config.target() else {
        return Ok(None);
    };
    let path = config.data_dir.join("genie.lock");
    let open = || {
        data_folder::make(&config.data_dir)?;
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
    };
    let file = open().map_err(|error| format!("{} can't be written: {error}", path.display()))?;
    if file.try_lock().is_err() {
        let folder = config.data_dir.display();
        return Err(format!(
            "another genie runs on {folder}; stop it, or set GENIE_DATA_DIR"
        ));
    }
    Ok(Some(file))
}
