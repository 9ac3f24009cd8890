//! An export: a folder of sealed files with the log by position, and the working tables that are
//! needed to read it.
//!
//! | file | holds |
//! |---|---|
//! | `key.json` | the export's random key, sealed under the passphrase by Argon2id, with its parameters and salt |
//! | `log-FIRST-LAST.sealed` | the rows of `events` from position FIRST to LAST, 20 digits each |
//! | `tables-HEAD.sealed` | the working tables at the moment when the log's head was HEAD |
//! | `*.part`, `export.lock` | work in progress; to be ignored |
//!
//! A sealed file is a row of frames: one byte (1 for the last frame, else 0), the length as 32-bit
//! big-endian, and that many bytes made by
//! [`SealingKey::seal`](crate::encryption::SealingKey::seal). Each frame is bound to the file's
//! first position, its own number, and whether it is the last. So no frame can be cut off, swapped,
//! or brought from another file or export.
//!
//! Inside are lines of JSON. The first line of a `log-` file is `{"format":"genie log
//! v2","after":N,"digest_before":HEX}`, with the digest of the row before it, so that files of two
//! logs cannot be mixed. Each further line is a row of `events`: columns by their names in the
//! table, `digest` in hexadecimal, `payload` in base64. A `tables-` file begins with `{"format":"genie tables
//! v2","head":N}`, then has lines `{"table":NAME,"row":{..}}`, bytes in base64.
//!
//! Each file is written under a temporary name, flushed and renamed, and `tables-HEAD` comes last.
//! So an export is what its newest `tables-` file says; anything beyond it belongs to a run that
//! did not finish. The export holds no master keys: it can be read as long as they are kept.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use genie_events::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{DigestCheck, LogError, StoredRow};

mod folder;
mod read;
mod sealed;
mod tables;
mod write;

pub use read::{Export, Rows};
pub(crate) use tables::{CARRIED, Chunk, Row, Table};
pub use write::{Exported, export};

/// Why an export cannot be written, read or imported. Each variant says what is wrong, and where.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A file cannot be read or written, or does not hold what it should.
    #[error("{}: {reason}", file.display())]
    File { file: PathBuf, reason: String },
    /// A row of the log in a file does not hold what it should.
    #[error("{}: position {position}: {reason}", file.display())]
    Row {
        file: PathBuf,
        position: u64,
        reason: String,
    },
    /// The export does not fit the store or the folder.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Log(#[from] LogError),
}

impl TransferError {
    fn file(file: &Path, reason: impl ToString) -> Self {
        Self::File {
            file: file.to_owned(),
            reason: reason.to_string(),
        }
    }
}

impl From<sqlx::Error> for TransferError {
    fn from(error: sqlx::Error) -> Self {
        Self::Log(error.into())
    }
}

const LOG_FORMAT: &str = "genie log v2";
const TABLES_FORMAT: &str = "genie tables v2";

#[derive(Serialize, Deserialize)]
struct LogHeader {
    format: String,
    after: u64,
    /// The digest of the row before, in hexadecimal; empty before the first row.
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
    owner: Uuid,
    owner_seq: u64,
    stream: Uuid,
    sequence: u64,
    kind: i16,
    event_type: String,
    event_version: i16,
    event_id: Uuid,
    slice: u16,
    recorded_at: i64,
    /// In hexadecimal.
    digest: String,
    metadata: String,
    /// In base64.
    payload: String,
}

impl LogLine {
    fn of(row: &StoredRow) -> Self {
        Self {
            position: row.position,
            owner: row.owner,
            owner_seq: row.owner_seq,
            stream: row.stream,
            sequence: row.sequence,
            kind: row.kind,
            event_type: row.event_type.clone().into_owned(),
            event_version: row.event_version,
            event_id: row.event_id,
            slice: row.slice,
            recorded_at: row.recorded_at.0,
            digest: hex::encode(&row.digest),
            metadata: row.metadata.clone(),
            payload: BASE64.encode(&row.payload),
        }
    }

    /// The row, if the digest on its line matches.
    fn into_row(self) -> Option<StoredRow> {
        let mut row = StoredRow {
            position: self.position,
            owner: self.owner,
            owner_seq: self.owner_seq,
            stream: self.stream,
            sequence: self.sequence,
            kind: self.kind,
            event_type: self.event_type.into(),
            event_version: self.event_version,
            event_id: self.event_id,
            slice: self.slice,
            recorded_at: Timestamp(self.recorded_at),
            digest: vec![],
            metadata: self.metadata,
            payload: BASE64.decode(self.payload).ok()?,
            digest_check: DigestCheck::good(),
        };
        row.digest = row.computed_digest().to_vec();
        (hex::encode(&row.digest) == self.digest).then_some(row)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use secrecy::SecretString;
    use serde_json::json;

    use super::{
        folder::{segment_name, tables_name},
        sealed::{ExportKey, SealedWriter},
        *,
    };
    use crate::testing::{TestStore, both_stores};

    fn passphrase() -> SecretString {
        SecretString::from("correct horse battery")
    }

    /// An export of one row, with these formats in its files.
    fn export_of(dir: &Path, log_format: &str, tables_format: &str) {
        fs::create_dir(dir).unwrap();
        let key = ExportKey::make(dir, &passphrase()).unwrap();
        let mut log = SealedWriter::create(dir, &key, "log-1").unwrap();
        let header = LogHeader {
            format: log_format.into(),
            after: 0,
            digest_before: String::new(),
        };
        log.line(&header).unwrap();
        let row =
            json!({"position": 1, "aggregate_type": "account", "aggregate_id": "a", "sequence": 1});
        log.line(&row).unwrap();
        log.finish(&dir.join(segment_name(1, 1))).unwrap();
        let mut tables = SealedWriter::create(dir, &key, "tables-1").unwrap();
        let header = TablesHeader {
            format: tables_format.into(),
            head: 1,
        };
        tables.line(&header).unwrap();
        tables.finish(&dir.join(tables_name(1))).unwrap();
    }

    /// The folder's files but the lock, with their content.
    fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = fs::read_dir(dir).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.ends_with("export.lock"))
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect()
    }

    both_stores!(
        an_export_of_the_former_format_is_refused_and_nothing_is_written,
        async |store: TestStore| {
            let log = store.open().await.log;
            let formats = [
                ("genie log v1", "genie tables v1", "genie tables"),
                ("genie log v1", TABLES_FORMAT, "genie log"),
            ];
            for (n, (of_log, of_tables, named)) in formats.into_iter().enumerate() {
                let dir = store.folder().join(format!("former-{n}"));
                export_of(&dir, of_log, of_tables);
                let before = files(&dir);
                let refused = Export::open(&dir, &passphrase()).unwrap_err().to_string();
                let sentence = format!(
                    "its format is `{named} v1`, and this release reads `{named} v2`; import it with the release that exported it"
                );
                assert!(refused.ends_with(&sentence), "{refused}");
                // Nor is an export of that format continued.
                let refused = export(&log, &dir, &passphrase()).await.unwrap_err();
                let refused = refused.to_string();
                assert!(
                    refused.contains("`genie log v1`") && refused.contains("`genie log v2`"),
                    "{refused}"
                );
                assert_eq!(files(&dir), before);
            }
        }
    );
}
