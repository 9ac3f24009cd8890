//! Checks that an uploaded file is a ZIP that is safe to unpack: whoever unpacks it must stay
//! within its folder, its disk and its time. No statement of the file is believed without a check. The server
//! checks an upload before it queues the import, and the worker before it imports.
//!
//! The checks:
//! - The file begins with an entry and ends with a directory (APPNOTE 6.3.10, section 4.3).
//! - The number of entries and the sum of their stated sizes are within bounds. The sum is also
//!   within a bound that depends on the file's size.
//! - Names are harmless. Old Windows tools separate folders by `\`, as unzip reads it, too. Of two
//!   equal names the last is the file, as for unzip and Python.
//! - Entries are plain files or folders, not encrypted, and stored, deflated or packed by Deflate64,
//!   as Windows does with large files. Only what is unpacked here can be told from a bomb.
//! - An archive inside is a file like another, and is not looked into.
//! - Entries do not overlap: many entries could point at one compressed heap.
//! - Each entry's own header agrees with the directory.
//! - Each entry is unpacked, to nowhere, and must have the stated length and checksum. So none can
//!   unpack to more than it states.

use std::collections::BTreeMap;

use deflate64::Deflate64Decoder;
use flate2::read::DeflateDecoder;
use rawzip::{
    CompressionMethod, CreatorSystem, Error, ErrorKind, MAX_CENTRAL_DIRECTORY_RECORD_SIZE,
    ReaderAt, ZipArchive, ZipArchiveEntryWayfinder, ZipFileHeaderRecord,
};
use serde::Serialize;

/// The first bytes of an archive's first entry.
pub const MAGIC: [u8; 4] = *b"PK\x03\x04";
const MAX_ENTRIES: usize = 20_000;
/// In bytes.
const MAX_NAME: usize = 1024;
/// The most bytes that all entries together may unpack to.
const MAX_UNPACKED: u64 = 4 << 30;
/// The most unpacked bytes for each byte of the file. Text rarely packs better than 20 to 1.
/// Deflate's best is 1,032 to 1.
const MAX_RATIO: u64 = 100;
/// So many unpacked bytes are allowed whatever the file's size.
const ALWAYS_ALLOWED: u64 = 16 << 20;
/// How far from the end of the file the directory's end record is looked for: the record's length,
/// and that of the longest comment.
const LONGEST_END: u64 = 22 + 65_535;

/// Why an upload is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadZip {
    #[error("The file is not a ZIP archive")]
    NotZip,
    #[error("The ZIP archive is damaged, or was cut short; make it anew")]
    Damaged,
    #[error("The ZIP archive has no files in it")]
    Empty,
    #[error("The ZIP archive has more than {MAX_ENTRIES} entries; leave some out")]
    TooMany,
    #[error("The ZIP archive would unpack to more than {} GiB, or to more than {MAX_RATIO} times its size", MAX_UNPACKED >> 30)]
    Bomb,
    /// Entries are counted from 1, in the order of the directory.
    #[error("Entry {entry} of the ZIP archive {why}")]
    Entry { entry: usize, why: BadEntry },
}

/// Why an entry of an archive is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    #[error("has a name that {0}")]
    Name(&'static str),
    #[error("is neither a file nor a folder, such as a link; leave it out")]
    Special,
    #[error("is encrypted; make the archive anew without a password")]
    Encrypted,
    #[error("is packed in an uncommon way; make the archive anew with the usual one (deflate)")]
    Method,
    #[error("contradicts the archive's directory; make the archive anew")]
    Contradiction,
    #[error("is damaged, or was cut short; make the archive anew")]
    Damaged,
}

impl BadEntry {
    fn at(self, number: usize) -> BadZip {
        BadZip::Entry {
            entry: number,
            why: self,
        }
    }
}

impl From<Error> for BadZip {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::MissingEndOfCentralDirectory => Self::NotZip,
            _ => Self::Damaged,
        }
    }
}

struct Entry {
    /// From 1, in the order of the directory.
    number: usize,
    place: ZipArchiveEntryWayfinder,
    at: u64,
    /// As the archive has it.
    name: Vec<u8>,
    method: CompressionMethod,
}

/// What an archive holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ZipContents {
    pub files: u64,
    pub folders: u64,
    /// Unpacked.
    pub bytes: u64,
    /// By what their names end in.
    pub kinds: BTreeMap<ContentKind, KindCount>,
}

/// Files of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KindCount {
    pub files: u64,
    pub bytes: u64,
}

/// A kind of files, as their names tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentKind {
    Archives,
    Data,
    Documents,
    Films,
    Other,
    Pages,
    Pictures,
    Sounds,
}

impl ContentKind {
    fn of(path: &[u8]) -> Self {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        // Macs keep a second file beside each, with the first one's ending.
        if name.starts_with(b"._") {
            return Self::Other;
        }
        let Some(dot) = name.iter().rposition(|byte| *byte == b'.') else {
            return Self::Other;
        };
        match name[dot + 1..].to_ascii_lowercase().as_slice() {
            b"zip" | b"gz" | b"tgz" | b"tar" | b"7z" | b"rar" => Self::Archives,
            b"json" | b"jsonl" | b"ndjson" | b"csv" | b"tsv" | b"xml" => Self::Data,
            b"txt" | b"md" | b"pdf" | b"doc" | b"docx" | b"rtf" | b"odt" => Self::Documents,
            b"mp4" | b"m4v" | b"mov" | b"webm" | b"mkv" | b"avi" | b"mpg" | b"mpeg" => Self::Films,
            b"htm" | b"html" => Self::Pages,
            b"jpg" | b"jpeg" | b"png" | b"gif" | b"webp" | b"avif" | b"heic" | b"bmp" | b"tif"
            | b"tiff" => Self::Pictures,
            b"mp3" | b"m4a" | b"aac" | b"ogg" | b"opus" | b"wav" | b"flac" => Self::Sounds,
            _ => Self::Other,
        }
    }
}

impl ZipContents {
    fn add(&mut self, path: &[u8], bytes: u64) {
        if path.ends_with(b"/") {
            self.folders += 1;
            return;
        }
        self.files += 1;
        self.bytes += bytes;
        let kind = self.kinds.entry(ContentKind::of(path)).or_default();
        kind.files += 1;
        kind.bytes += bytes;
    }
}

/// Checks a file of `size` bytes, and tells what it holds. When `reader` fails, the result is some refusal, so the
/// caller asks the reader for its failure first.
pub fn check(reader: impl ReaderAt, size: u64) -> Result<ZipContents, BadZip> {
    let mut magic = [0; MAGIC.len()];
    reader
        .read_exact_at(&mut magic, 0)
        .map_err(|_| BadZip::NotZip)?;
    if magic != MAGIC {
        return Err(BadZip::NotZip);
    }
    let mut buffer = vec![0; MAX_CENTRAL_DIRECTORY_RECORD_SIZE];
    let locator = ZipArchive::with_max_search_space(LONGEST_END);
    let archive = locator
        .locate_in_reader(reader, &mut buffer, size)
        .map_err(|(_, error)| error)?;
    let (mut entries, contents) = entries(&archive, &mut buffer, size)?;
    // In the order of the file, so that it is read once from beginning to end.
    entries.sort_unstable_by_key(|entry| entry.at);
    let mut end_before = 0;
    for entry in &entries {
        let (begin, end) = archive.get_entry(entry.place)?.compressed_data_range();
        if entry.at < end_before || begin > end || end > archive.directory_offset() {
            return Err(BadEntry::Contradiction.at(entry.number));
        }
        end_before = end;
        unpack(&archive, entry, &mut buffer)?.map_err(|why| why.at(entry.number))?;
    }
    Ok(contents)
}

/// The entries of the directory, checked by the directory alone.
fn entries(
    archive: &ZipArchive<impl ReaderAt>,
    buffer: &mut [u8],
    size: u64,
) -> Result<(Vec<Entry>, ZipContents), BadZip> {
    let mut entries = Vec::new();
    let mut contents = ZipContents::default();
    let mut unpacked = 0_u64;
    let mut listed = archive.entries(buffer);
    while let Some(record) = listed.next_entry()? {
        if entries.len() == MAX_ENTRIES {
            return Err(BadZip::TooMany);
        }
        let number = entries.len() + 1;
        let name = record.file_path().as_bytes().to_vec();
        let path = slashed(&name);
        judge(&record, &path).map_err(|why| why.at(number))?;
        contents.add(&path, record.uncompressed_size_hint());
        unpacked = unpacked.saturating_add(record.uncompressed_size_hint());
        if unpacked > MAX_UNPACKED || unpacked > size.saturating_mul(MAX_RATIO).max(ALWAYS_ALLOWED)
        {
            return Err(BadZip::Bomb);
        }
        entries.push(Entry {
            number,
            place: record.wayfinder(),
            at: record.local_header_offset(),
            name,
            method: record.compression_method(),
        });
    }
    if contents.files > 0 {
        Ok((entries, contents))
    } else {
        Err(BadZip::Empty)
    }
}

/// A name with `/` between folders. Some tools of Windows write `\`.
fn slashed(name: &[u8]) -> Vec<u8> {
    let slash = |byte: &u8| if *byte == b'\\' { b'/' } else { *byte };
    name.iter().map(slash).collect()
}

fn judge(record: &ZipFileHeaderRecord<'_>, path: &[u8]) -> Result<(), BadEntry> {
    if let Some(wrong) = wrong_with(path) {
        return Err(BadEntry::Name(wrong));
    }
    let made_on_unix = [CreatorSystem::UNIX, CreatorSystem::MACOS]
        .contains(&record.version_made_by().creator_system());
    // The file type of the Unix mode. Many tools leave it out, and some give a folder that of a file.
    let kind = if made_on_unix {
        (record.external_attributes() >> 16) & 0o170_000
    } else {
        0
    };
    if ![0, 0o040_000, 0o100_000].contains(&kind) {
        return Err(BadEntry::Special);
    }
    let flags = record.flags();
    if flags.is_encrypted() || flags.has_strong_encryption() || flags.is_masked() {
        return Err(BadEntry::Encrypted);
    }
    let methods = [
        CompressionMethod::STORE,
        CompressionMethod::DEFLATE,
        CompressionMethod::DEFLATE64,
    ];
    if !methods.contains(&record.compression_method()) {
        return Err(BadEntry::Method);
    }
    if path.ends_with(b"/") && record.uncompressed_size_hint() > 0 {
        return Err(BadEntry::Contradiction);
    }
    Ok(())
}

/// The fault of a path, if it has one. On every system an unpacked file must stay in its folder. A Mac's icon of a
/// folder is a file whose name ends with a carriage return.
fn wrong_with(path: &[u8]) -> Option<&'static str> {
    let is_drive = matches!(path, [letter, b':', ..] if letter.is_ascii_alphabetic());
    if path.is_empty() {
        Some("is empty")
    } else if path.len() > MAX_NAME {
        Some("is too long")
    } else if path.contains(&0) {
        Some("has a character of code 0 in it")
    } else if path.starts_with(b"/") || is_drive {
        Some("is absolute; it must be relative to the archive")
    } else if path.split(|byte| *byte == b'/').any(|part| part == b"..") {
        Some("leads out of the archive by `..`")
    } else {
        None
    }
}

/// Unpacks an entry to nowhere, and checks its length and checksum. The outer failure is one of the archive.
fn unpack(
    archive: &ZipArchive<impl ReaderAt>,
    entry: &Entry,
    buffer: &mut [u8],
) -> Result<Result<(), BadEntry>, BadZip> {
    let found = archive.get_entry(entry.place)?;
    let local = found.local_header(buffer)?;
    let agrees =
        local.file_path().as_bytes() == entry.name && local.compression_method() == entry.method;
    if !agrees || local.flags().is_encrypted() {
        return Ok(Err(BadEntry::Contradiction));
    }
    // The reader stops with an error at most one buffer past the stated length.
    let unpacked = match entry.method {
        CompressionMethod::DEFLATE => std::io::copy(
            &mut found.verifying_reader(DeflateDecoder::new(found.reader())),
            &mut std::io::sink(),
        ),
        CompressionMethod::DEFLATE64 => std::io::copy(
            &mut found.verifying_reader(Deflate64Decoder::new(found.reader())),
            &mut std::io::sink(),
        ),
        _ => std::io::copy(
            &mut found.verifying_reader(found.reader()),
            &mut std::io::sink(),
        ),
    };
    Ok(unpacked.map(drop).map_err(|_| BadEntry::Damaged))
}

#[cfg(test)]
mod tests;
