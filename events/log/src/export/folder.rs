//! The files of an export, by their names.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{TransferError, sealed};

#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) first: u64,
    pub(super) last: u64,
}

/// The files of a folder.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// In order and without a hole.
    pub(super) segments: Vec<Segment>,
    /// The newest `tables-` file, and its head.
    pub(super) tables: Option<(PathBuf, u64)>,
    /// Older `tables-` files, and the files of a run that broke off.
    pub(super) leftovers: Vec<PathBuf>,
}

pub(super) fn segment_name(first: u64, last: u64) -> String {
    format!("log-{first:020}-{last:020}.sealed")
}

pub(super) fn tables_name(head: u64) -> String {
    format!("tables-{head:020}.sealed")
}

impl Listing {
    pub(super) fn of(dir: &Path) -> Result<Self, TransferError> {
        let mut listing = Self::default();
        let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut paths: Vec<PathBuf> = entries
            .map_err(|error| TransferError::file(dir, error))?
            .iter()
            .map(fs::DirEntry::path)
            .collect();
        paths.sort(); // By position and head: the numbers are padded to 20 digits.
        for path in paths {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default()
                .to_owned();
            if let Some((first, last)) =
                numbers(&name, "log-").and_then(|numbers| numbers.split_once('-'))
            {
                if let (Ok(first), Ok(last)) = (first.parse(), last.parse()) {
                    listing.segments.push(Segment { path, first, last });
                }
            } else if let Some(head) = numbers(&name, "tables-").and_then(|head| head.parse().ok())
            {
                listing
                    .leftovers
                    .extend(listing.tables.replace((path, head)).map(|(older, _)| older));
            } else if name.ends_with(sealed::PART) {
                listing.leftovers.push(path);
            }
        }
        let mut expected = 1;
        for Segment { path, first, last } in &listing.segments {
            if *first != expected || last < first {
                let reason =
                    format!("the file with position {expected} is missing before this file");
                return Err(TransferError::file(path, reason));
            }
            expected = last + 1;
        }
        Ok(listing)
    }

    /// The last position of all segments.
    pub(super) fn end(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.last)
    }
}

fn numbers<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    name.strip_prefix(prefix)?.strip_suffix(".sealed")
}
