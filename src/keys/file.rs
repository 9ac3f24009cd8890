//! The ring of master keys: in `GENIE_MASTER_KEYS`, or in a file that only its owner may read, with
//! one entry per line. The file is replaced as a whole, so that a crash leaves the old one or the
//! new one.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use genie_log::{Log, MasterKeys};
use secrecy::ExposeSecret;
use tracing::warn;
use zeroize::Zeroizing;

use crate::{config::Config, data_folder};

/// The longest file of master keys, in bytes. No ring is longer.
const LONGEST: u64 = 16 * 1024;

/// The file of the ring; `None` when the ring is in the environment.
pub fn path(config: &Config) -> Option<PathBuf> {
    match &config.master_keys {
        Some(_) => None,
        None => Some(
            config
                .master_keys_file
                .clone()
                .unwrap_or_else(|| config.data_dir.join("master.key")),
        ),
    }
}

/// Reads the configured ring. For an empty store it makes one in the data folder, unless
/// `read_only`.
pub async fn ring(config: &Config, read_only: bool) -> Result<MasterKeys, String> {
    if let Some(ring) = &config.master_keys {
        return MasterKeys::parse(ring.expose_secret())
            .map_err(|error| format!("GENIE_MASTER_KEYS: {error}"));
    }
    if let Some(path) = &config.master_keys_file {
        return parsed(
            path,
            &read(path).map_err(|error| format!("GENIE_MASTER_KEYS_FILE: {error}"))?,
        );
    }
    let path = config.data_dir.join("master.key");
    let shown = path.display();
    // The lock makes one of two simultaneous first starts make the key, and the other read it.
    let _alone = if read_only {
        None
    } else {
        data_folder::make(&config.data_dir)
            .map_err(|error| format!("{}: {error}", config.data_dir.display()))?;
        Some(lock(&path)?)
    };
    match path.try_exists() {
        Ok(true) => parsed(&path, &read(&path)?),
        Ok(false) if read_only => Err(format!(
            "{shown} is missing; set GENIE_MASTER_KEYS, GENIE_MASTER_KEYS_FILE or GENIE_DATA_DIR"
        )),
        Ok(false) => {
            if Log::is_new(&config.target())
                .await
                .map_err(|error| error.to_string())?
            {
                write(&path, &MasterKeys::generate())?;
                warn!(
                    path = %shown,
                    "master keys: made a first key; without it nothing can be read, so keep a copy in a safe place"
                );
                parsed(&path, &read(&path)?)
            } else {
                Err(format!(
                    "{shown} is missing, and the store is encrypted with it; put it back, or set GENIE_MASTER_KEYS or GENIE_MASTER_KEYS_FILE"
                ))
            }
        }
        Err(error) => Err(format!(
            "{shown}: {error}; set GENIE_MASTER_KEYS, GENIE_MASTER_KEYS_FILE or GENIE_DATA_DIR"
        )),
    }
}

/// Reads the ring in a file.
pub fn in_file(path: &Path) -> Result<MasterKeys, String> {
    parsed(path, &read(path)?)
}

/// Puts an entry first. Refuses an id that the file has.
pub fn add(path: &Path, id: &str, entry: &str) -> Result<(), String> {
    let _alone = lock(path)?;
    let text = read(path)?;
    let shown = path.display();
    if parsed(path, &text)?.has(id) {
        return Err(format!("master key `{id}` is in {shown} already"));
    }
    let text = Zeroizing::new(format!("{entry}\n{}\n", text.trim()));
    parsed(path, &text)?;
    write(path, &text)
}

/// Removes a key, and returns whether the file had it. Refuses to remove the last one.
pub fn remove(path: &Path, id: &str) -> Result<bool, String> {
    let _alone = lock(path)?;
    let text = read(path)?;
    if !parsed(path, &text)?.has(id) {
        return Ok(false);
    }
    let entries = text
        .split(|c: char| c == ',' || c.is_ascii_whitespace())
        .filter(|entry| !entry.is_empty());
    let others: Vec<&str> = entries
        .filter(|entry| entry.split(':').next() != Some(id))
        .collect();
    let text = Zeroizing::new(others.join("\n") + "\n");
    parsed(path, &text)?;
    write(path, &text)?;
    Ok(true)
}

fn parsed(path: &Path, text: &str) -> Result<MasterKeys, String> {
    MasterKeys::parse(text).map_err(|error| format!("{}: {error}", path.display()))
}

fn read(path: &Path) -> Result<Zeroizing<String>, String> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| format!("{shown}: {error}"))?;
    let mode = file
        .metadata()
        .map_err(|error| format!("{shown}: {error}"))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        return Err(format!(
            "{shown} holds master keys and others may read or change it (mode {:03o}); run: chmod 600 {shown}",
            mode & 0o777
        ));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST)
        .read_to_string(&mut text)
        .map_err(|error| format!("{shown}: {error}"))?;
    Ok(text)
}

/// Writes a new file beside the old one, flushes it and renames it. The owner stays the same.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let write = || -> std::io::Result<()> {
        let path = match fs::canonicalize(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => path.to_owned(),
            found => found?, // follows a link, which stays a link
        };
        let mut beside = path.clone().into_os_string();
        beside.push(".new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        if let Ok(was) = fs::metadata(&path)
            && file.metadata()?.uid() != was.uid()
        {
            fchown(&file, Some(was.uid()), Some(was.gid()))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|error| format!("{} can't be written: {error}", path.display()))
}

/// Lets one process at a time change the file.
fn lock(path: &Path) -> Result<File, String> {
    let path = path.with_extension("lock");
    let lock = || {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        file.lock()?;
        Ok(file)
    };
    lock().map_err(|error: std::io::Error| format!("{} can't be locked: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_stays_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        write(&path, &MasterKeys::generate()).unwrap();
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        let ids = || {
            in_file(&path)
                .unwrap()
                .ids()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        add(&path, "m2", &MasterKeys::new_entry("m2")).unwrap();
        assert_eq!(
            (ids(), mode()),
            (vec!["m2".to_owned(), "m1".to_owned()], 0o600)
        );
        assert!(
            add(&path, "m1", &MasterKeys::new_entry("m1"))
                .unwrap_err()
                .contains("already")
        );
        assert!(remove(&path, "m1").unwrap() && !remove(&path, "m1").unwrap());
        assert_eq!(ids(), ["m2"]);
        assert!(
            remove(&path, "m2").unwrap_err().contains("empty"),
            "the last one stays"
        );
        assert_eq!(ids(), ["m2"]);
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}"); // and its lock
    }

    #[test]
    fn a_file_that_others_may_read_or_change_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        write(&path, &MasterKeys::generate()).unwrap();
        for (mode, is_good) in [
            (0o600, true),
            (0o400, true),
            (0o640, false),
            (0o604, false),
            (0o620, false),
            (0o601, false),
        ] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(in_file(&path).is_ok(), is_good, "{mode:o}");
        }
        assert!(in_file(&path).unwrap_err().contains("chmod 600"));
    }
}
