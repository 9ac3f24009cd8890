//! Reads an export.

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use uuid::Uuid;

use super::{
    CARRIED, LOG_FORMAT, LogHeader, LogLine, Row, TABLES_FORMAT, Table, TableLine, TablesHeader,
    TransferError,
    folder::{Listing, Segment},
    sealed::{self, ExportKey, SealedReader},
    tables,
};
use crate::{StoredRow, keys::WrappedKey};

/// A finished export, opened with its passphrase.
#[derive(Debug)]
pub struct Export {
    key: ExportKey,
    segments: Vec<Segment>,
    tables: PathBuf,
    head: u64,
}

impl Export {
    /// Opens the export in a folder. Argon2id takes about a second, so do not call it on a thread
    /// that others wait for.
    pub fn open(dir: &Path, passphrase: &SecretString) -> Result<Self, TransferError> {
        let Some(key) = ExportKey::read(dir, passphrase)? else {
            return Err(TransferError::file(
                &dir.join(sealed::KEY_FILE),
                "does not exist, so this folder holds no export",
            ));
        };
        let listing = Listing::of(dir)?;
        let end = listing.end();
        let Some((tables, head)) = listing.tables else {
            return Err(TransferError::file(
                dir,
                "the export did not finish; run `genie log export` again to continue it",
            ));
        };
        if end < head {
            return Err(TransferError::file(
                dir,
                format!("the file with position {} is missing", end + 1),
            ));
        }
        let export = Self {
            key,
            segments: listing.segments,
            tables,
            head,
        };
        export.check_formats()?;
        Ok(export)
    }

    /// Refuses an export of another format before anything is done with it.
    fn check_formats(&self) -> Result<(), TransferError> {
        self.tables().map(drop)?;
        match self.segments.first() {
            Some(first) => SegmentRows::open(&self.key, first).map(drop),
            None => Ok(()),
        }
    }

    /// True when the folder holds the beginning of an export: then its passphrase is needed, not a
    /// new one.
    pub fn is_begun(dir: &Path) -> bool {
        dir.join(sealed::KEY_FILE).exists()
    }

    /// The last position of the export.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The rows after a position, in order and up to the head, each with a matching digest. The
    /// first bad row ends the iteration with an error. It reads files as it goes, so do not use it
    /// on a thread that others wait for.
    pub fn rows(&self, after: u64) -> Rows<'_> {
        // Begins with the file that holds the row before: the next file must follow that very row.
        let begun = self
            .segments
            .partition_point(|segment| segment.last < after);
        Rows {
            export: self,
            files: self.segments[begun..].iter(),
            file: None,
            after,
            digest: None,
            ended: false,
        }
    }

    /// The rows of the working tables, table by table.
    pub(crate) fn tables(
        &self,
    ) -> Result<
        impl Iterator<Item = Result<(&'static Table, Row), TransferError>> + '_,
        TransferError,
    > {
        let mut lines =
            SealedReader::open(&self.tables, &self.key, &format!("tables-{}", self.head))?;
        let header: Option<TablesHeader> = lines.json()?;
        let header = header.ok_or_else(|| TransferError::file(&self.tables, NO_HEADER))?;
        expect_format(&self.tables, &header.format, TABLES_FORMAT)?;
        if header.head != self.head {
            let reason = format!("it holds the tables of head {}", header.head);
            return Err(TransferError::file(&self.tables, reason));
        }
        Ok(std::iter::from_fn(move || {
            let line = lines.json::<TableLine>().transpose()?;
            Some(line.and_then(|line| match CARRIED.iter().find(|table| table.name == line.table) {
                Some(table) => Ok((table, line.row)),
                None => {
                    let reason = format!("this release does not know the table `{}`; import with the release that exported it", line.table);
                    Err(TransferError::file(&self.tables, reason))
                }
            }))
        }))
    }

    /// The system's wrapped key, and its row.
    pub(crate) fn system_key(&self) -> Result<(WrappedKey, Row), TransferError> {
        for row in self.tables()? {
            let (table, row) = row?;
            let text = |column: &str| {
                row.get(column)
                    .and_then(|value| value.as_str())
                    .unwrap_or_default()
            };
            if table.name == "user_keys" && text("user_id") == Uuid::nil().to_string() {
                let key = WrappedKey {
                    owner: Uuid::nil(),
                    // An invalid UUID fails to unwrap.
                    key_id: Uuid::try_parse(text("key_id")).unwrap_or_default(),
                    master_id: text("master_id").to_owned(),
                    sealed: tables::bytes(&row, "wrapped").unwrap_or_default(),
                };
                return Ok((key, row));
            }
        }
        Err(TransferError::file(
            &self.tables,
            "the system's key is missing",
        ))
    }
}

/// The rows of an export, file by file.
#[derive(Debug)]
pub struct Rows<'a> {
    export: &'a Export,
    files: std::slice::Iter<'a, Segment>,
    file: Option<SegmentRows<'a>>,
    /// Rows up to this position are read and skipped.
    after: u64,
    /// The digest of the row before, in hexadecimal.
    digest: Option<String>,
    ended: bool,
}

impl Iterator for Rows<'_> {
    type Item = Result<StoredRow, TransferError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.ended {
                return None;
            }
            let row = self.step().transpose();
            // After an error, and past the head, no row can be trusted.
            self.ended = !matches!(&row, Some(Ok(row)) if row.position < self.export.head);
            match row {
                Some(Ok(row)) if row.position <= self.after => {}
                Some(Ok(row)) if row.position > self.export.head => return None,
                row => return row,
            }
        }
    }
}

impl Rows<'_> {
    fn step(&mut self) -> Result<Option<StoredRow>, TransferError> {
        loop {
            if let Some(row) = self
                .file
                .as_mut()
                .map(SegmentRows::next)
                .transpose()?
                .flatten()
            {
                self.digest = Some(hex::encode(&row.digest));
                return Ok(Some(row));
            }
            let Some(segment) = self.files.next() else {
                return Ok(None);
            };
            let file = SegmentRows::open(&self.export.key, segment)?;
            if self
                .digest
                .as_ref()
                .is_some_and(|digest| *digest != file.digest_before)
            {
                let reason =
                    "the row before it is another than the file says: the file belongs to another log"
                        .into();
                return Err(TransferError::Row {
                    file: segment.path.clone(),
                    position: segment.first,
                    reason,
                });
            }
            self.file = Some(file);
        }
    }
}

const NO_HEADER: &str = "it is empty";

fn expect_format(file: &Path, found: &str, known: &str) -> Result<(), TransferError> {
    if found == known {
        return Ok(());
    }
    let reason = format!(
        "its format is `{found}`, and this release reads `{known}`; import it with the release that exported it"
    );
    Err(TransferError::file(file, reason))
}

/// The rows of one file.
#[derive(Debug)]
pub(super) struct SegmentRows<'a> {
    path: PathBuf,
    lines: SealedReader<'a>,
    next: u64,
    last: u64,
    digest_before: String,
}

impl<'a> SegmentRows<'a> {
    pub(super) fn open(key: &'a ExportKey, segment: &Segment) -> Result<Self, TransferError> {
        let mut lines = SealedReader::open(&segment.path, key, &format!("log-{}", segment.first))?;
        let header: Option<LogHeader> = lines.json()?;
        let header = header.ok_or_else(|| TransferError::file(&segment.path, NO_HEADER))?;
        expect_format(&segment.path, &header.format, LOG_FORMAT)?;
        if header.after + 1 != segment.first {
            let reason = format!("it begins after position {}", header.after);
            return Err(TransferError::file(&segment.path, reason));
        }
        Ok(Self {
            path: segment.path.clone(),
            lines,
            next: segment.first,
            last: segment.last,
            digest_before: header.digest_before,
        })
    }

    pub(super) fn next(&mut self) -> Result<Option<StoredRow>, TransferError> {
        let position = self.next;
        let wrong = |reason: &str| TransferError::Row {
            file: self.path.clone(),
            position,
            reason: reason.into(),
        };
        match self.lines.json::<LogLine>()? {
            None if position == self.last + 1 => Ok(None),
            None => Err(wrong(
                "the row is missing: the file holds fewer rows than its name says",
            )),
            Some(line) if line.position != position || position > self.last => {
                Err(wrong("another row stands in its place"))
            }
            Some(line) => {
                let row = line
                    .into_row()
                    .ok_or_else(|| wrong("the row's digest does not match"))?;
                self.next += 1;
                Ok(Some(row))
            }
        }
    }
}
