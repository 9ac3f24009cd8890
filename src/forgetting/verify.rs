//! The verifier of `genie forget --verify`. It takes fingerprints of what must be gone: the wrapped key, and the sealed bytes of all
//! rows of the user. It looks for them where the store keeps its bytes, and only what it *found* there before it calls gone
//! afterwards: a search that could not have found anything proves nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use aho_corasick::AhoCorasick;
use genie_events::UserId;
use genie_log::{Log, LogError, forgetting::Fingerprint, store::Target};

use crate::config::Config;

/// As what is copied out of Postgres is told.
const ALL_TABLES: &str = "all tables";
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

/// Which fingerprints were found, by number, and in which places.
type Found = BTreeMap<usize, BTreeSet<String>>;

impl Places {
    /// An embedded store's files, and the log beside it; on Postgres its tables, and its files where they are named.
    pub fn of(config: &Config, postgres_data: Option<PathBuf>) -> Self {
        match config.target() {
            Target::Sqlite(path) => {
                let beside = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
                Self {
                    tables: false,
                    files: vec![beside(""), beside("-wal"), beside("-journal")],
                }
            }
            Target::Postgres(_) => Self {
                tables: true,
                files: postgres_data.into_iter().collect(),
            },
        }
    }

    fn named(&self) -> String {
        let files = self
            .files
            .iter()
            .filter(|path| path.exists())
            .map(|path| path.display().to_string());
        self.tables
            .then(|| ALL_TABLES.to_owned())
            .into_iter()
            .chain(files)
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// What no search of ours sees.
    fn unseen(&self) -> &'static str {
        match (self.tables, self.files.is_empty()) {
            (true, true) => {
                "Not looked at: Postgres' files, where dead rows stay until their room is used again or `VACUUM FULL` rewrites the \
                 table, and its write-ahead log; --postgres-data DIR searches them. Nor backups and replicas."
            }
            _ => "Not looked at: backups, replicas, and what a disk keeps of freed blocks.",
        }
    }

    fn remedy(&self) -> &'static str {
        match self.tables {
            true => {
                "In Postgres' files these are dead rows, which `VACUUM FULL` of those tables takes away (--rewrite does it), and the \
                 write-ahead log (pg_wal), whose old segments are written over in time."
            }
            false => "The log beside the store can't be emptied while somebody reads from it.",
        }
    }

    /// Which of the fingerprints are there.
    async fn search(&self, log: &Log, all: &[Fingerprint]) -> Result<Found, String> {
        let mut found = Found::new();
        if self.tables {
            let in_tables = log
                .find_in_tables(all.iter().map(|one| one.bytes.clone()).collect())
                .await;
            for n in in_tables.map_err(|error: LogError| error.to_string())? {
                found.entry(n).or_default().insert(ALL_TABLES.to_owned());
            }
        }
        let wanted = AhoCorasick::new(all.iter().map(|one| &one.bytes))
            .map_err(|error| error.to_string())?;
        let files = self.files.clone();
        let in_files = tokio::task::spawn_blocking(move || {
            let mut search = Search {
                wanted,
                found,
                left: MOST_FILES,
            };
            for path in &files {
                search
                    .path(path, None)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
            }
            Ok(search.found)
        });
        in_files.await.map_err(|stopped| stopped.to_string())?
    }
}

/// What must be gone, and what of it was found before.
#[derive(Debug)]
pub struct Fingerprints {
    all: Vec<Fingerprint>,
    found: Found,
    named: String,
}

impl Fingerprints {
    /// Takes and looks for them.
    pub async fn take(log: &Log, places: &Places, user: UserId) -> Result<Self, String> {
        let all = log
            .fingerprints(user)
            .await
            .map_err(|error| error.to_string())?;
        if all.is_empty() {
            return Err(format!(
                "there is nothing of user {user} to look for: nobody has that id, or they were forgotten before"
            ));
        }
        let found = places.search(log, &all).await?;
        if found.is_empty() {
            return Err(format!(
                "nothing of user {user} was found in {}: nobody was forgotten",
                places.named()
            ));
        }
        Ok(Self {
            all,
            found,
            named: places.named(),
        })
    }

    /// A sentence for the operator.
    pub fn found_before(&self) -> String {
        let (all, found) = (self.all.len(), self.found.len());
        let mut said = format!(
            "before: {found} of {all} sealed values of the user were found in {}",
            self.named
        );
        if found < all {
            said.push_str("; of the others nothing can be said afterwards");
        }
        said
    }

    /// Looks once more, after Postgres was asked to clean up: on demand by rewriting the tables, which locks them meanwhile. What
    /// is still there is an error.
    pub async fn look_again(
        &self,
        log: &Log,
        places: &Places,
        rewrite: bool,
    ) -> Result<String, String> {
        let tables = self
            .all
            .iter()
            .filter_map(|one| one.of.split('.').next())
            .map(str::to_owned)
            .collect();
        log.vacuum(tables, rewrite)
            .await
            .map_err(|error| error.to_string())?;
        let left = places.search(log, &self.all).await?;
        if left.is_empty() {
            let (found, unseen) = (self.found.len(), places.unseen());
            return Ok(format!(
                "after: none of the {found} that were found before is left in {}. {unseen}",
                places.named()
            ));
        }
        let mut counts = BTreeMap::<(&str, &str), usize>::new();
        for (n, where_found) in &left {
            for place in where_found {
                *counts.entry((place, &self.all[*n].of)).or_default() += 1;
            }
        }
        let counts: Vec<_> = counts
            .iter()
            .map(|((place, of), count)| format!("  {place}: {count} of {of}"))
            .collect();
        Err(format!(
            "something is left:\n{}\n{}",
            counts.join("\n"),
            places.remedy()
        ))
    }
}

struct Search {
    wanted: AhoCorasick,
    found: Found,
    /// Files that may still be looked at.
    left: usize,
}

impl Search {
    /// What is not there, or goes while it is looked at, holds nothing. `place`: the folder that it is told as.
    fn path(&mut self, path: &Path, place: Option<&str>) -> io::Result<()> {
        let kind = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let name = |path: &Path| {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        if kind.is_dir() || (kind.is_symlink() && path.is_dir()) {
            for entry in fs::read_dir(path)? {
                let entry = entry?.path();
                let own = name(&entry);
                self.path(&entry, Some(place.unwrap_or(&own)))?;
            }
            return Ok(());
        }
        if !kind.is_file() {
            return Ok(());
        }
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| io::Error::other(format!("more than {MOST_FILES} files")))?;
        let found = match File::open(path) {
            Ok(file) => search_file(file, &self.wanted)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let place = place.map_or_else(|| name(path), str::to_owned);
        for n in found {
            self.found.entry(n).or_default().insert(place.clone());
        }
        Ok(())
    }
}

fn search_file(mut file: impl Read, wanted: &AhoCorasick) -> io::Result<BTreeSet<usize>> {
    let mut found = BTreeSet::new();
    let mut buffer = vec![0; LONGEST + BUFFER];
    let mut kept = 0;
    loop {
        let read = file.read(&mut buffer[kept..])?;
        if read == 0 {
            return Ok(found);
        }
        let filled = kept + read;
        found.extend(
            wanted
                .find_overlapping_iter(&buffer[..filled])
                .map(|one| one.pattern().as_usize()),
        );
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
            assert_eq!(
                search_file(Slow(&hay, piece), &wanted).unwrap(),
                BTreeSet::from([0]),
                "{piece}"
            );
        }
    }
}
