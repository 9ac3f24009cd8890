//! An export: the log by position and the working tables that it needs to be readable, in a folder of sealed files.
//!
//! | file | holds |
//! |---|---|
//! | `key.json` | the export's random key, sealed under the passphrase (Argon2id; its parameters and salt stand beside) |
//! | `log-FIRST-LAST.sealed` | the rows of `events` from position FIRST to LAST, 20 digits each |
//! | `tables-HEAD.sealed` | the working tables as they were when the log's head was HEAD |
//! | `*.part`, `export.lock` | being written; means nothing |
//!
//! A sealed file is a row of frames: one byte (1 for the last, else 0), the length as 32-bit big-endian, and that many bytes as
//! [`SealingKey::seal`](crate::seal::SealingKey::seal) makes them, bound to the file's first position, the frame's number and
//! whether it is the last. So no frame can be cut off, swapped or brought from another file or export. Inside are lines of JSON.
//! The first line of a `log-` file is `{"format":"genie log v1","after":N,"digest_before":HEX}`, with the digest of the row
//! before it: files of two logs can't be mixed. Each further line is a row, columns by their names in the table, `digest` in
//! hexadecimal. The lines of a `tables-` file are `{"table":NAME,"row":{..}}`, bytes in base64, after a first
//! `{"format":"genie tables v1","head":N}`.
//!
//! A file is written beside, flushed and renamed, and `tables-HEAD` comes last: an export is what its newest `tables-` file says,
//! and what stands beyond it belongs to a run that did not finish. Master keys are not in it: it can be read as far as they allow.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use genie_events::Moment;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    LogError, StoredRow,
    keys::{WrappedKey, hex},
    store::LONGEST,
};

mod sealed;
/// The working tables that an export carries.
mod tables;
mod write;

use sealed::{ExportKey, SealedReader};
pub(crate) use tables::{CARRIED, Row, Table};
pub use write::{Exported, export};

/// Why an export can't be written, read or taken in. Each says what is wrong where.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A file can't be read or written, or is not what it should be.
    #[error("{}: {reason}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A row of the log in a file is not what it should be.
    #[error("{}: position {position}: {reason}", file.display())]
    Row {
        /// In which file.
        file: PathBuf,
        /// Where in the log.
        position: u64,
        /// What is wrong.
        reason: String,
    },
    /// It does not fit what is there already.
    #[error("{0}")]
    Refused(String),
    /// The store.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl TransferError {
    fn file(file: &Path, reason: impl ToString) -> Self {
        Self::File { file: file.to_owned(), reason: reason.to_string() }
    }
}

impl From<sqlx::Error> for TransferError {
    fn from(error: sqlx::Error) -> Self {
        Self::Log(error.into())
    }
}

/// A step with the store, within the time that any may take: one that is gone without a word must not hold this for ever.
pub(crate) async fn in_time<T>(step: impl Future<Output = Result<T, TransferError>>) -> Result<T, TransferError> {
    let late = |_| Err(LogError::Away("it did not answer in time".into()).into());
    tokio::time::timeout(LONGEST, step).await.unwrap_or_else(late)
}

const LOG_FORMAT: &str = "genie log v1";
const TABLES_FORMAT: &str = "genie tables v1";

#[derive(Serialize, Deserialize)]
struct LogHeader {
    format: String,
    after: u64,
    /// Of the row before, in hexadecimal; empty before the first.
    digest_before: String,
}

#[derive(Serialize, Deserialize)]
struct TablesHeader {
    format: String,
    head: u64,
}

#[derive(Serialize, Deserialize)]
struct TableLine {
    table: String,
    row: Row,
}

/// A row of `events` on its line, columns by their names in the table.
#[derive(Serialize, Deserialize)]
struct LogLine {
    position: u64,
    aggregate_type: String,
    aggregate_id: String,
    sequence: u64,
    event_type: String,
    event_version: String,
    payload: String,
    metadata: String,
    event_id: Uuid,
    user_id: Uuid,
    user_seq: u64,
    slice: u64,
    recorded_at: i64,
    digest: String,
}

impl LogLine {
    fn of(row: &StoredRow) -> Self {
        Self {
            position: row.position,
            aggregate_type: row.kind.clone(),
            aggregate_id: row.id.clone(),
            sequence: row.sequence,
            event_type: row.event_type.clone(),
            event_version: row.event_version.clone(),
            payload: row.payload.clone(),
            metadata: row.metadata.clone(),
            event_id: row.event_id,
            user_id: row.owner,
            user_seq: row.owner_seq,
            slice: row.slice,
            recorded_at: row.recorded_at.0,
            digest: hex(&row.digest),
        }
    }

    /// The row, if it is what its digest was made over.
    fn into_row(self) -> Option<StoredRow> {
        let mut row = StoredRow {
            position: self.position,
            kind: self.aggregate_type,
            id: self.aggregate_id,
            sequence: self.sequence,
            event_type: self.event_type,
            event_version: self.event_version,
            payload: self.payload,
            metadata: self.metadata,
            event_id: self.event_id,
            owner: self.user_id,
            owner_seq: self.user_seq,
            slice: self.slice,
            recorded_at: Moment(self.recorded_at),
            digest: vec![],
        };
        row.digest = row.computed_digest().to_vec();
        (hex(&row.digest) == self.digest).then_some(row)
    }
}

/// A `log-` file.
#[derive(Debug, Clone)]
struct Segment {
    path: PathBuf,
    first: u64,
    last: u64,
}

/// What a folder holds, by the names of its files.
#[derive(Debug, Default)]
struct Listing {
    /// In order and without a hole.
    segments: Vec<Segment>,
    /// The newest `tables-` file, and its head.
    tables: Option<(PathBuf, u64)>,
    /// Older ones, and what a run that broke off left.
    leftovers: Vec<PathBuf>,
}

fn segment_name(first: u64, last: u64) -> String {
    format!("log-{first:020}-{last:020}.sealed")
}

fn tables_name(head: u64) -> String {
    format!("tables-{head:020}.sealed")
}

impl Listing {
    fn of(dir: &Path) -> Result<Self, TransferError> {
        let mut listing = Self::default();
        let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut paths: Vec<PathBuf> =
            entries.map_err(|error| TransferError::file(dir, error))?.iter().map(fs::DirEntry::path).collect();
        paths.sort(); // numbers have all their digits
        for path in paths {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if let Some((first, last)) = numbers(&name, "log-").and_then(|numbers| numbers.split_once('-')) {
                if let (Ok(first), Ok(last)) = (first.parse(), last.parse()) {
                    listing.segments.push(Segment { path, first, last });
                }
            } else if let Some(head) = numbers(&name, "tables-").and_then(|head| head.parse().ok()) {
                listing.leftovers.extend(listing.tables.replace((path, head)).map(|(older, _)| older));
            } else if name.ends_with(sealed::PART) {
                listing.leftovers.push(path);
            }
        }
        let mut expected = 1;
        for Segment { path, first, last } in &listing.segments {
            if *first != expected || last < first {
                let reason = format!("the file with position {expected} is missing before this one");
                return Err(TransferError::file(path, reason));
            }
            expected = last + 1;
        }
        Ok(listing)
    }

    /// The last position of all segments.
    fn end(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.last)
    }
}

fn numbers<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    name.strip_prefix(prefix)?.strip_suffix(".sealed")
}

/// A finished export, opened with its passphrase.
#[derive(Debug)]
pub struct Export {
    key: ExportKey,
    segments: Vec<Segment>,
    tables: PathBuf,
    head: u64,
}

impl Export {
    /// Opens the export in a folder. Argon2id takes about a second: not for a thread that has others waiting.
    pub fn open(dir: &Path, passphrase: &SecretString) -> Result<Self, TransferError> {
        let Some(key) = ExportKey::read(dir, passphrase)? else {
            return Err(TransferError::file(&dir.join(sealed::KEY_FILE), "is not there, so this folder holds no export"));
        };
        let listing = Listing::of(dir)?;
        let end = listing.end();
        let Some((tables, head)) = listing.tables else {
            return Err(TransferError::file(dir, "the export did not finish; run `genie log export` again, it goes on"));
        };
        if end < head {
            return Err(TransferError::file(dir, format!("the file with position {} is missing", end + 1)));
        }
        Ok(Self { key, segments: listing.segments, tables, head })
    }

    /// Whether an export was begun in a folder, so that its passphrase is wanted and not a new one.
    pub fn is_begun(dir: &Path) -> bool {
        dir.join(sealed::KEY_FILE).exists()
    }

    /// The last position of the export.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The rows after a position, in order and up to the head, each as its digest says. The first that is not ends it with an
    /// error. Reads files as it goes, so not for a thread that has others waiting.
    pub fn rows(&self, after: u64) -> impl Iterator<Item = Result<StoredRow, TransferError>> + '_ {
        let mut before = None;
        let files = self.segments.iter().filter(move |segment| segment.last >= after && segment.first <= self.head);
        let mut failed = false;
        files
            .flat_map(move |segment| SegmentRows::open(&self.key, segment))
            .map(move |row| {
                let (row, digest_before) = row?;
                let linked = before.as_deref().is_none_or(|before: &[u8]| hex(before) == digest_before);
                before = Some(row.digest.clone());
                match linked {
                    true => Ok(row),
                    false => {
                        let file = self.segments.iter().find(|segment| segment.first == row.position);
                        let file = file.map(|segment| segment.path.clone()).unwrap_or_default();
                        let reason = "it follows another row than the one before it: this file is of another log".into();
                        Err(TransferError::Row { file, position: row.position, reason })
                    }
                }
            })
            .skip_while(move |row| row.as_ref().is_ok_and(|row| row.position <= after))
            .take_while(move |row| {
                let goes_on = !failed && row.as_ref().map_or(true, |row| row.position <= self.head);
                failed |= row.is_err();
                goes_on
            })
    }

    /// The rows of the working tables, table by table.
    pub(crate) fn tables(
        &self,
    ) -> Result<impl Iterator<Item = Result<(&'static Table, Row), TransferError>> + '_, TransferError> {
        let mut lines = SealedReader::open(&self.tables, &self.key, &format!("tables-{}", self.head))?;
        let header: Option<TablesHeader> = lines.json()?;
        if header.is_none_or(|header| header.format != TABLES_FORMAT || header.head != self.head) {
            return Err(TransferError::file(&self.tables, "this release does not know its format"));
        }
        Ok(std::iter::from_fn(move || {
            let line = lines.json::<TableLine>().transpose()?;
            Some(line.and_then(|line| match CARRIED.iter().find(|table| table.name == line.table) {
                Some(table) => Ok((table, line.row)),
                None => {
                    let reason = format!("this release does not know the table `{}`; use the one that exported it", line.table);
                    Err(TransferError::file(&self.tables, reason))
                }
            }))
        }))
    }

    /// The system's wrapped key.
    pub(crate) fn system_key(&self) -> Result<(WrappedKey, Row), TransferError> {
        for row in self.tables()? {
            let (table, row) = row?;
            let text = |column: &str| row.get(column).and_then(|value| value.as_str()).unwrap_or_default();
            if table.name == "user_keys" && text("user_id") == Uuid::nil().to_string() {
                let key = WrappedKey {
                    owner: Uuid::nil(),
                    key_id: Uuid::try_parse(text("key_id")).unwrap_or_default(), // one that is no UUID fails to unwrap
                    master_id: text("master_id").to_owned(),
                    sealed: tables::bytes(&row, "wrapped").unwrap_or_default(),
                };
                return Ok((key, row));
            }
        }
        Err(TransferError::file(&self.tables, "the system's key is not in it"))
    }
}

/// The rows of one file, and what each is said to follow.
struct SegmentRows<'a> {
    path: PathBuf,
    lines: SealedReader<'a>,
    next: u64,
    last: u64,
    before: String,
}

impl<'a> SegmentRows<'a> {
    /// A file that can't be opened is one row that is an error.
    fn open(key: &'a ExportKey, segment: &Segment) -> Box<dyn Iterator<Item = Result<(StoredRow, String), TransferError>> + 'a> {
        match Self::begin(key, segment) {
            Ok(mut rows) => Box::new(std::iter::from_fn(move || rows.next().transpose())),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }

    fn begin(key: &'a ExportKey, segment: &Segment) -> Result<Self, TransferError> {
        let mut lines = SealedReader::open(&segment.path, key, &format!("log-{}", segment.first))?;
        match lines.json::<LogHeader>()? {
            Some(LogHeader { format, after, digest_before }) if format == LOG_FORMAT && after + 1 == segment.first => {
                let (path, first, last) = (segment.path.clone(), segment.first, segment.last);
                Ok(Self { path, lines, next: first, last, before: digest_before })
            }
            _ => Err(TransferError::file(&segment.path, "this release does not know its format")),
        }
    }

    fn next(&mut self) -> Result<Option<(StoredRow, String)>, TransferError> {
        let position = self.next;
        let wrong = |reason: &str| TransferError::Row { file: self.path.clone(), position, reason: reason.into() };
        match self.lines.json::<LogLine>()? {
            None if position == self.last + 1 => Ok(None),
            None => Err(wrong("it is missing: the file holds less than its name says")),
            Some(line) if line.position != position || position > self.last => Err(wrong("another row stands in its place")),
            Some(line) => {
                let row = line.into_row().ok_or_else(|| wrong("its digest does not match"))?;
                self.next += 1;
                let before = std::mem::replace(&mut self.before, hex(&row.digest));
                Ok(Some((row, before)))
            }
        }
    }
}
