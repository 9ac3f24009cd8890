//! The data folder: the embedded store, the master key, uploads. Only its owner may enter it or read
//! its files.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use rustix::fs::Mode;
use tracing::warn;

/// Lets nobody else read what this process and its children make from now on.
pub fn make_private_files() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Makes the folder if it is missing.
pub fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Takes everybody else's rights from the folder and what lies in it: an earlier release, or a copy,
/// may have left them. What another user owns stays as it is, with a warning. The file of master keys
/// stays as it is, too: a file that others could read is refused, because they may have read it.
pub fn narrow(folder: &Path, keys: Option<&Path>) {
    if let Err(error) = narrow_all(folder, keys) {
        warn!(%error, folder = %folder.display(), "data folder: others may be able to read it; give it and its files to the user that runs the server");
    }
}

fn narrow_all(folder: &Path, keys: Option<&Path>) -> io::Result<()> {
    if !folder.try_exists()? {
        return Ok(()); // everything is elsewhere
    }
    narrow_one(folder, 0o700)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            narrow_one(&entry.path(), 0o700)?; // nobody else gets past it to what is inside
        } else if kind.is_file() && keys != Some(entry.path().as_path()) {
            narrow_one(&entry.path(), 0o600)?;
        }
    }
    Ok(())
}

fn narrow_one(path: &Path, mode: u32) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.permissions().mode() & 0o077 != 0 => {
            fs::set_permissions(path, Permissions::from_mode(mode))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()), // private already, or gone meanwhile
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_others_could_read_becomes_private() {
        let outside = tempfile::tempdir().unwrap();
        let folder = outside.path().join("a/data");
        make(&folder).unwrap();
        let mode = |name: &str| {
            let found = fs::metadata(folder.join(name)).unwrap();
            found.permissions().mode() & 0o777
        };
        assert_eq!(mode(""), 0o700);
        make(&folder).unwrap();
        fs::create_dir(folder.join("blobs")).unwrap();
        fs::write(folder.join("genie.db-wal"), "").unwrap();
        fs::write(folder.join("master.key"), "").unwrap();
        let files = ["", "blobs", "genie.db-wal", "master.key"];
        for (name, wide) in files.into_iter().zip([0o755, 0o755, 0o644, 0o644]) {
            fs::set_permissions(folder.join(name), Permissions::from_mode(wide)).unwrap();
        }
        narrow(&folder, Some(&folder.join("master.key")));
        assert_eq!(files.map(mode), [0o700, 0o700, 0o600, 0o644]);
    }
}
