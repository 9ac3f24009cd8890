//! Writes an export of a log, which may be in use.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use secrecy::SecretString;
use sqlx::Row as _;

use super::{
    CARRIED, LOG_FORMAT, LogHeader, LogLine, TABLES_FORMAT, TableLine, TablesHeader, TransferError,
    folder::{Listing, segment_name, tables_name},
    read::SegmentRows,
    sealed::{ExportKey, SealedWriter},
};
use crate::{
    Log, LogError, import,
    store::{Writing, in_time},
};

/// The number of rows that one statement reads.
const PAGE: usize = 200;
/// A segment is closed after so many rows, or so many bytes of lines.
const SEGMENT_ROWS: u64 = 10_000;
const SEGMENT_BYTES: u64 = 32 << 20;

/// The outcome of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    pub head: u64,
    /// The number of rows that the folder held before.
    pub had: u64,
}

/// Exports a log into a folder, which is made when absent, and continues after the rows of an
/// earlier run. Call it on the runtime that owns the log's connections. It writes files as it goes,
/// so not on a thread that others wait for.
///
/// One snapshot holds the working tables and the head, and the log is written up to that head. So
/// tables and log are of one moment, whatever is written meanwhile.
pub async fn export(
    log: &Log,
    dir: &Path,
    passphrase: &SecretString,
) -> Result<Exported, TransferError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| TransferError::file(dir, error))?;
    if import::is_unfinished(log.store()).await? {
        return Err(LogError::ImportUnfinished.into()); // An unfinished import cannot be read.
    }
    let _alone = lock(dir)?;
    let listing = Listing::of(dir)?;
    let key = match ExportKey::read(dir, passphrase)? {
        Some(key) => key,
        None if listing.end() == 0 && listing.tables.is_none() => ExportKey::make(dir, passphrase)?,
        None => {
            return Err(TransferError::file(
                dir,
                "has files of an export, but not its key.json; use an empty folder",
            ));
        }
    };
    let had = listing.end();
    let mut digest_before = last_digest(log, &key, &listing).await?;
    let (tables, head) = write_tables(log, dir, &key).await?;
    if head < had {
        return Err(TransferError::Refused(format!(
            "the export in {} ends at position {had} and the log at {head}: the export belongs to another log, or the store was set back",
            dir.display()
        )));
    }
    let mut after = had;
    while after < head {
        (after, digest_before) = write_segment(log, dir, &key, after, head, digest_before).await?;
    }
    tables.finish(&dir.join(tables_name(head)))?;
    for leftover in Listing::of(dir)?.leftovers {
        fs::remove_file(&leftover).map_err(|error| TransferError::file(&leftover, error))?;
    }
    Ok(Exported { head, had })
}

/// A second export into the same folder is refused.
fn lock(dir: &Path) -> Result<File, TransferError> {
    let path = dir.join("export.lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let file = file.map_err(|error| TransferError::file(&path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => Err(TransferError::file(
            &path,
            "another export into this folder is running",
        )),
    }
}

/// The digest of the last row in the folder, after a check that the log has the same row; empty for
/// a new export.
async fn last_digest(
    log: &Log,
    key: &ExportKey,
    listing: &Listing,
) -> Result<String, TransferError> {
    let Some(segment) = listing.segments.last() else {
        return Ok(String::new());
    };
    let mut last = None;
    let mut rows = SegmentRows::open(key, segment)?;
    while let Some(row) = rows.next()? {
        last = Some(row.digest);
    }
    let stored = log
        .reader()
        .rows(segment.last - 1, 1)
        .await?
        .pop()
        .map(|row| row.digest);
    match last {
        Some(last) if stored.as_ref() == Some(&last) => Ok(hex::encode(last)),
        _ => Err(TransferError::Row {
            file: segment.path.clone(),
            position: segment.last,
            reason: "the log has another row or none there: the export belongs to another log, or the store was set back".into(),
        }),
    }
}

/// Writes the tables as they are now, without their final name, and answers the log's head at that
/// moment.
async fn write_tables<'a>(
    log: &Log,
    dir: &Path,
    key: &'a ExportKey,
) -> Result<(SealedWriter<'a>, u64), TransferError> {
    let begin = match log.store().writing {
        Writing::Postgres(_) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        Writing::Sqlite(..) => "BEGIN", // Its snapshot begins with the first read.
    };
    let mut snapshot = log.store().reads().begin_with(begin).await?;
    let sql = "SELECT coalesce(max(position), 0) AS head FROM events";
    let head = sqlx::query(sql)
        .fetch_one(&mut *snapshot)
        .await?
        .try_get::<i64, _>("head")? as u64;
    let mut out = SealedWriter::create(dir, key, &format!("tables-{head}"))?;
    out.line(&TablesHeader {
        format: TABLES_FORMAT.into(),
        head,
    })?;
    for table in CARRIED {
        let mut after = None;
        loop {
            let page = in_time(table.page(&mut snapshot, after.as_ref())).await?;
            after = page.rows.last().cloned();
            for row in page.rows {
                out.line(&TableLine {
                    table: table.name.to_owned(),
                    row,
                })?;
            }
            if !page.has_more {
                break;
            }
        }
    }
    snapshot.rollback().await?; // The transaction wrote nothing.
    Ok((out, head))
}

/// Writes one file of rows. Answers the last position in it, and the digest of that row.
async fn write_segment(
    log: &Log,
    dir: &Path,
    key: &ExportKey,
    after: u64,
    head: u64,
    digest_before: String,
) -> Result<(u64, String), TransferError> {
    let mut out = SealedWriter::create(dir, key, &format!("log-{}", after + 1))?;
    let mut last = after;
    let mut digest = digest_before.clone();
    out.line(&LogHeader {
        format: LOG_FORMAT.into(),
        after,
        digest_before,
    })?;
    while last < head && last - after < SEGMENT_ROWS && out.bytes() < SEGMENT_BYTES {
        let wanted = (head - last)
            .min(SEGMENT_ROWS - (last - after))
            .min(PAGE as u64);
        let rows = log.reader().rows(last, wanted as usize).await?;
        if rows.is_empty() {
            return Err(LogError::Hole { missing: last + 1 }.into());
        }
        for row in &rows {
            if row.computed_digest()[..] != row.digest[..] {
                return Err(row
                    .damaged("its digest does not match; the export ends before it")
                    .into());
            }
            out.line(&LogLine::of(row))?;
            last = row.position;
            digest = hex::encode(&row.digest);
        }
    }
    out.finish(&dir.join(segment_name(after + 1, last)))?;
    Ok((last, digest))
}
