//! The verifier of `genie forget --verify`. It takes fingerprints of what must be gone: the wrapped key, and the sealed bytes of all
//! rows of the user. It looks for them where the store keeps its bytes, and only what it *found* there before it calls gone
//! afterwards: a search that could not have found anything proves nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use aho_corasick::AhoCorasick;
use genie_events::UserId;
use genie_log::{Log, LogError, forget::Fingerprint, store::Target};

use crate::config::Config;

/// Bytes that are read of a file at once.
const BUFFER: usize = 1 << 20;
/// The longest fingerprint, which may lie across two of them.
const LONGEST: usize = 64;
/// The most files of a folder that are searched.
const MOST_FILES: usize = 1_000_000;

/// Where a store keeps its bytes.
#[derive(Debug)]
pub struct Places {
    /// Whether all tables are searched, as a dump would hold them.
    tables: bool,
    /// Files and folders.
    files: Vec<PathBuf>,
}

impl Places {
    /// An embedded store's files, and the log beside it; on Postgres its tables, and its files where they are named.
    pub fn of(config: &Config, postgres_data: Option<PathBuf>) -> Self {
        match config.target() {
            Target::Sqlite(path) => {
                let beside = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
                Self { tables: false, files: vec![beside(""), beside("-wal"), beside("-journal")] }
            }
            Target::Postgres(_) => Self { tables: true, files: postgres_data.into_iter().collect() },
        }
    }

    fn named(&self) -> String {
        let files = self.files.iter().filter(|path| path.exists()).map(|path| path.display().to_string());
        self.tables.then(|| "all tables".to_owned()).into_iter().chain(files).collect::<Vec<_>>().join(", ")
    }
}

/// What must be gone, and where it was found before.
#[derive(Debug)]
pub struct Fingerprints {
    all: Vec<Fingerprint>,
    /// Found before, by number.
    found: BTreeSet<usize>,
    named: String,
}

impl Fingerprints {
    /// Takes and looks for them.
    pub async fn take(log: &Log, places: &Places, user: UserId) -> Result<Self, String> {
        let all = log.fingerprints(user).await.map_err(|error| error.to_string())?;
        if all.is_empty() {
            return Err(format!(
                "there is nothing of user {user} to look for: nobody has that id, or they were forgotten before"
            ));
        }
        let found = search(log, places, &all).await?;
        if found.is_empty() {
            return Err(format!("nothing of user {user} was found in {}: nobody was forgotten", places.named()));
        }
        Ok(Self { all, found, named: places.named() })
    }

    /// A sentence for the operator.
    pub fn found_before(&self) -> String {
        let (all, found) = (self.all.len(), self.found.len());
        let mut said = format!("before: {found} of {all} sealed values of the user were found in {}", self.named);
        if found < all {
            said.push_str("; of the others nothing will be said (the rest of the search is as good)");
        }
        said
    }

    /// Looks once more. What is still there is an error.
    pub async fn look_again(&self, log: &Log, places: &Places, user: UserId) -> Result<String, String> {
        let tables = self.all.iter().filter_map(|one| one.of.split('.').next()).map(str::to_owned).collect();
        log.vacuum(tables).await.map_err(|error| error.to_string())?;
        let left = search(log, places, &self.all).await?;
        let mut by_kind = BTreeMap::<&str, usize>::new();
        left.iter().for_each(|n| *by_kind.entry(self.all[*n].of.as_str()).or_default() += 1);
        if by_kind.is_empty() {
            return Ok(format!(
                "after: none of the {} that were found before is left in {}.{}",
                self.found.len(),
                places.named(),
                places.unseen()
            ));
        }
        let mut said = format!("something of user {user} is left in {}:", places.named());
        for (of, count) in by_kind {
            let _ = write!(said, " {count} of {of}"); // writing to a String can't fail
        }
        said.push_str(places.remedy());
        Err(said)
    }
}

impl Places {
    /// What no search of ours sees.
    fn unseen(&self) -> &'static str {
        match (self.tables, self.files.is_empty()) {
            (true, true) => {
                " Not looked at: dead rows in Postgres' files until `VACUUM FULL` rewrites them, and its write-ahead log until it is \
                 recycled; give --postgres-data DIR to search those. Backups are the certificate's business."
            }
            _ => " Backups, replicas and what a disk keeps of freed blocks are not looked at.",
        }
    }

    fn remedy(&self) -> &'static str {
        match self.tables {
            true => {
                ". In Postgres' files these are dead rows and the write-ahead log: run `VACUUM FULL` on those tables, then \
                 `CHECKPOINT` and `SELECT pg_switch_wal()` until the old segments are recycled, and `genie forget --verify` \
                 says no more of them"
            }
            false => ". The log beside the store is emptied when nobody reads from it; look again when the server is idle",
        }
    }
}

/// Which of the fingerprints are there, by number.
async fn search(log: &Log, places: &Places, all: &[Fingerprint]) -> Result<BTreeSet<usize>, String> {
    let mut found = BTreeSet::new();
    if places.tables {
        let in_tables = log.find_in_tables(all.iter().map(|one| one.bytes.clone()).collect()).await;
        found.extend(in_tables.map_err(|error: LogError| error.to_string())?);
    }
    let searched = AhoCorasick::new(all.iter().map(|one| &one.bytes)).map_err(|error| error.to_string())?;
    let files = places.files.clone();
    let in_files = tokio::task::spawn_blocking(move || {
        let mut found = BTreeSet::new();
        let mut left = MOST_FILES;
        for path in &files {
            search_path(path, &searched, &mut found, &mut left).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok::<_, String>(found)
    });
    found.extend(in_files.await.map_err(|stopped| stopped.to_string())??);
    Ok(found)
}

/// What is not there, or goes while it is looked at, holds nothing.
fn search_path(path: &Path, wanted: &AhoCorasick, found: &mut BTreeSet<usize>, left: &mut usize) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if kind.is_dir() || (kind.is_symlink() && path.is_dir()) {
        for entry in fs::read_dir(path)? {
            search_path(&entry?.path(), wanted, found, left)?;
        }
        return Ok(());
    }
    if !kind.is_file() {
        return Ok(());
    }
    *left = left.checked_sub(1).ok_or_else(|| io::Error::other(format!("more than {MOST_FILES} files")))?;
    match File::open(path) {
        Ok(file) => search_file(file, wanted, found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn search_file(mut file: impl Read, wanted: &AhoCorasick, found: &mut BTreeSet<usize>) -> io::Result<()> {
    let mut buffer = vec![0; LONGEST + BUFFER];
    let mut kept = 0;
    loop {
        let read = file.read(&mut buffer[kept..])?;
        if read == 0 {
            return Ok(());
        }
        let filled = kept + read;
        found.extend(wanted.find_overlapping_iter(&buffer[..filled]).map(|one| one.pattern().as_usize()));
        // One may begin at the end of this piece and go on in the next.
        kept = filled.min(LONGEST);
        buffer.copy_within(filled - kept..filled, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(buffer.len());
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn what_lies_across_two_pieces_is_found() {
        let wanted = AhoCorasick::new(["needle", "absent"]).unwrap();
        let hay = [vec![b'x'; 1000], b"needle".to_vec(), vec![b'x'; 500]].concat();
        for piece in [1, 3, 64, 1003, 5000] {
            let mut found = BTreeSet::new();
            search_file(Slow(&hay, piece), &wanted, &mut found).unwrap();
            assert_eq!(found, BTreeSet::from([0]), "{piece}");
        }
    }
}
