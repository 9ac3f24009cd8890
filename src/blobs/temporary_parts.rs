//! In a local folder a part is written as `<part>#<number>` and then renamed. A crash may leave
//! such a file. The store does not list it, so the sweep looks into the folder itself.

use std::{
    fs::{self, DirEntry},
    io::{self, ErrorKind},
    path::Path,
    time::UNIX_EPOCH,
};

use genie_events::Timestamp;

/// Deletes unfinished parts that were last written before a time, and empty folders.
pub fn sweep(folder: &Path, before: Timestamp) -> io::Result<()> {
    for user in entries(folder)?.iter().map(DirEntry::path) {
        for file in entries(&user)?.iter().map(DirEntry::path) {
            for part in entries(&file)? {
                if part.file_name().to_string_lossy().contains('#')
                    && is_older(&part, before).or_else(or_gone)?
                {
                    fs::remove_file(part.path())
                        .map(|()| true)
                        .or_else(or_gone)?;
                }
            }
            remove_if_empty(&file);
        }
        remove_if_empty(&user);
    }
    Ok(())
}

/// The entries of a folder; none when it is a file or has been deleted.
fn entries(folder: &Path) -> io::Result<Vec<DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(vec![])
        }
        Err(error) => Err(error),
    }
}

fn is_older(part: &DirEntry, before: Timestamp) -> io::Result<bool> {
    let written = part
        .metadata()?
        .modified()?
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(i64::try_from(written.as_micros()).is_ok_and(|written| written <= before.0))
}

/// Safe during an upload: a running upload creates its folder again.
fn remove_if_empty(folder: &Path) {
    let _ = fs::remove_dir(folder); // the system refuses when the folder has entries
}

fn or_gone(error: io::Error) -> io::Result<bool> {
    match error.kind() {
        ErrorKind::NotFound => Ok(false),
        _ => Err(error),
    }
}
