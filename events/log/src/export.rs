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
//! [`SealingKey::seal`](crate::encryption::SealingKey::seal) makes them, bound to the file's first position, the frame's number and
//! whether it is the last. So no frame can be cut off, swapped or brought from another file or export. Inside are lines of JSON.
//! The first line of a `log-` file is `{"format":"genie log v1","after":N,"digest_before":HEX}`, with the digest of the row
//! before it: files of two logs can't be mixed. Each further line is a row, columns by their names in the table, `digest` in
//! hexadecimal. The lines of a `tables-` file are `{"table":NAME,"row":{..}}`, bytes in base64, after a first
//! `{"format":"genie tables v1","head":N}`.
//!
//! A file is written beside, flushed and renamed, and `tables-HEAD` comes last: an export is what its newest `tables-` file says,
//! and what stands beyond it belongs to a run that did not finish. Master keys are not in it: it can be read as far as they allow.

use std::path::{Path, PathBuf};

use genie_events::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{LogError, StoredRow};

mod folder;
mod read;
mod sealed;
/// The working tables that an export carries.
mod tables;
mod write;

pub use read::{Export, Rows};
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
            digest: hex::encode(&row.digest),
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
            recorded_at: Timestamp(self.recorded_at),
            digest: vec![],
        };
        row.digest = row.computed_digest().to_vec();
        (hex::encode(&row.digest) == self.digest).then_some(row)
    }
}
