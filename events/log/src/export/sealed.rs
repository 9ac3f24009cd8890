//! The export's key, and the sealed files that hold lines in frames.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, BufWriter, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::TransferError;
use crate::{
    clock::random_bytes,
    encryption::{CantOpen, Place, SealingKey},
};

pub(super) const KEY_FILE: &str = "key.json";
pub(super) const PART: &str = ".part";
const KEY_FORMAT: &str = "genie export key v1";

/// Argon2id's cost: the second recommended choice of RFC 9106, section 4 (64 MiB, three passes),
/// with one lane.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
/// The most memory that a key file may ask for: a file from elsewhere must not take the machine
/// down.
const MOST_MEMORY_KIB: u32 = 1 << 20;
const MOST_PASSES: u32 = 20;

/// The bytes of one frame before sealing.
const FRAME: usize = 256 << 10;
/// The most bytes that sealing adds.
const OVERHEAD: usize = 128;
/// The longest line: an event has up to 1 MiB before it is sealed and written as text.
const LONGEST_LINE: usize = 16 << 20;

#[derive(Serialize, Deserialize)]
struct KeyFile {
    format: String,
    memory_kib: u32,
    passes: u32,
    salt: String,
    sealed: String,
}

#[derive(Debug)]
pub(super) struct ExportKey(SealingKey);

fn key_place() -> Place {
    Place::new(&[KEY_FORMAT])
}

/// Derives a key from the passphrase.
fn stretched(
    passphrase: &SecretString,
    salt: &[u8],
    memory_kib: u32,
    passes: u32,
) -> Result<SealingKey, argon2::Error> {
    let argon2 = Argon2::new(
        Algorithm::Argon2id,
        Version::V0x13,
        Params::new(memory_kib, passes, 1, Some(32))?,
    );
    let mut root = Zeroizing::new([0; 32]);
    argon2.hash_password_into(
        passphrase.expose_secret().as_bytes(),
        salt,
        root.as_mut_slice(),
    )?;
    Ok(SealingKey::derive(Uuid::nil(), &root, "export passphrase"))
}

impl ExportKey {
    fn from_root(root: &[u8; 32]) -> Self {
        Self(SealingKey::derive(Uuid::nil(), root, "export"))
    }

    /// Makes the key of a new export and writes it to the folder, sealed under the passphrase.
    pub(super) fn make(dir: &Path, passphrase: &SecretString) -> Result<Self, TransferError> {
        let path = dir.join(KEY_FILE);
        let root = Zeroizing::new(random_bytes::<32>());
        let salt = random_bytes::<16>();
        let outer = stretched(passphrase, &salt, MEMORY_KIB, PASSES)
            .map_err(|error| TransferError::file(&path, error))?;
        let file = KeyFile {
            format: KEY_FORMAT.into(),
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            salt: BASE64.encode(salt),
            sealed: BASE64.encode(outer.seal(root.as_slice(), &key_place())),
        };
        let part = dir.join(format!("{KEY_FILE}{PART}"));
        let write = || {
            let mut out = create(&part)?;
            out.write_all(&serde_json::to_vec_pretty(&file)?)?;
            settle(&out, &part, &path)
        };
        write().map_err(|error| TransferError::file(&path, error))?;
        Ok(Self::from_root(&root))
    }

    /// The key in the folder; `None` when the folder has none.
    pub(super) fn read(
        dir: &Path,
        passphrase: &SecretString,
    ) -> Result<Option<Self>, TransferError> {
        let path = dir.join(KEY_FILE);
        let wrong = |reason: &dyn ToString| TransferError::file(&path, reason.to_string());
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(&error)),
        };
        let form = "is not the key of an export, or is damaged";
        let file: KeyFile = serde_json::from_slice(&text).map_err(|_| wrong(&form))?;
        if file.format != KEY_FORMAT
            || file.memory_kib > MOST_MEMORY_KIB
            || file.passes > MOST_PASSES
        {
            return Err(wrong(&"this release does not know the file's format"));
        }
        let decode = |text: &str| BASE64.decode(text).map_err(|_| wrong(&form));
        let outer = stretched(
            passphrase,
            &decode(&file.salt)?,
            file.memory_kib,
            file.passes,
        )
        .map_err(|error| wrong(&error))?;
        let opened =
            outer
                .open(&decode(&file.sealed)?, &key_place())
                .map_err(|reason| match reason {
                    CantOpen::OtherKey => {
                        wrong(&"the passphrase is not the one that this export was made with")
                    }
                    _ => wrong(&form),
                })?;
        let root: &[u8; 32] = opened.as_slice().try_into().map_err(|_| wrong(&form))?;
        Ok(Some(Self::from_root(root)))
    }
}

fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// Flushes the temporary file and gives it its name: even after a crash the name means a whole
/// file.
fn settle(file: &File, part: &Path, path: &Path) -> std::io::Result<()> {
    file.sync_all()?;
    fs::rename(part, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

fn frame_place(begins: &str, number: u64, last: bool) -> Place {
    Place::new(&[
        "export v1",
        begins,
        &number.to_string(),
        if last { "last" } else { "more" },
    ])
}

/// A sealed file that is being written. It gets its name when it is finished.
pub(super) struct SealedWriter<'a> {
    key: &'a ExportKey,
    out: BufWriter<File>,
    part: PathBuf,
    begins: String,
    frame: u64,
    buffer: Vec<u8>,
    bytes: u64,
}

impl<'a> SealedWriter<'a> {
    /// `begins` names the part of the export that the file holds: its frames are bound to it.
    pub(super) fn create(
        dir: &Path,
        key: &'a ExportKey,
        begins: &str,
    ) -> Result<Self, TransferError> {
        let part = dir.join(format!("{begins}{PART}"));
        let out = BufWriter::new(create(&part).map_err(|error| TransferError::file(&part, error))?);
        Ok(Self {
            key,
            out,
            part,
            begins: begins.to_owned(),
            frame: 0,
            buffer: Vec::with_capacity(FRAME),
            bytes: 0,
        })
    }

    pub(super) fn line(&mut self, line: &impl Serialize) -> Result<(), TransferError> {
        let wrong = |error: &dyn ToString| TransferError::file(&self.part, error.to_string());
        let before = self.buffer.len();
        serde_json::to_writer(&mut self.buffer, line).map_err(|error| wrong(&error))?;
        self.buffer.push(b'\n');
        self.bytes += (self.buffer.len() - before) as u64;
        let whole = self.buffer.len() / FRAME * FRAME;
        let rest = self.buffer.split_off(whole);
        for frame in std::mem::replace(&mut self.buffer, rest).chunks(FRAME) {
            self.seal(frame, false)?;
        }
        Ok(())
    }

    /// The bytes of all lines so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn seal(&mut self, frame: &[u8], last: bool) -> Result<(), TransferError> {
        let sealed = self
            .key
            .0
            .seal(frame, &frame_place(&self.begins, self.frame, last));
        self.frame += 1;
        let head = [&[u8::from(last)][..], &(sealed.len() as u32).to_be_bytes()].concat();
        let written = self
            .out
            .write_all(&head)
            .and_then(|()| self.out.write_all(&sealed));
        written.map_err(|error| TransferError::file(&self.part, error))
    }

    pub(super) fn finish(mut self, path: &Path) -> Result<(), TransferError> {
        let rest = std::mem::take(&mut self.buffer);
        self.seal(&rest, true)?;
        let settled = self
            .out
            .flush()
            .and_then(|()| settle(self.out.get_ref(), &self.part, path));
        settled.map_err(|error| TransferError::file(path, error))
    }
}

#[derive(Debug)]
pub(super) struct SealedReader<'a> {
    key: &'a SealingKey,
    input: BufReader<File>,
    path: PathBuf,
    begins: String,
    frame: u64,
    ended: bool,
    buffer: Zeroizing<Vec<u8>>,
    at: usize,
}

impl<'a> SealedReader<'a> {
    pub(super) fn open(
        path: &Path,
        key: &'a ExportKey,
        begins: &str,
    ) -> Result<Self, TransferError> {
        let input =
            BufReader::new(File::open(path).map_err(|error| TransferError::file(path, error))?);
        Ok(Self {
            key: &key.0,
            input,
            path: path.to_owned(),
            begins: begins.to_owned(),
            frame: 0,
            ended: false,
            buffer: Zeroizing::default(),
            at: 0,
        })
    }

    /// The next line; `None` at the end.
    pub(super) fn json<T: DeserializeOwned>(&mut self) -> Result<Option<T>, TransferError> {
        let mut searched = self.at;
        let end = loop {
            match self.buffer[searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                Some(end) => break searched + end,
                None if self.ended && self.at == self.buffer.len() => return Ok(None),
                None if self.ended || self.buffer.len() - self.at > LONGEST_LINE => {
                    return Err(self.wrong("a line has no end"));
                }
                None => {
                    self.buffer.drain(..self.at);
                    self.at = 0;
                    searched = self.buffer.len();
                    self.read_frame()?;
                }
            }
        };
        let line = serde_json::from_slice(&self.buffer[self.at..end]);
        self.at = end + 1;
        line.map(Some)
            .map_err(|error| self.wrong(&format!("a line cannot be read: {error}")))
    }

    fn read_frame(&mut self) -> Result<(), TransferError> {
        let number = self.frame;
        let mut head = [0; 5];
        let read = self.input.read_exact(&mut head);
        read.map_err(|_| self.wrong(&format!("the file is cut short at frame {number}")))?;
        let [last, length @ ..] = head;
        let last = last == 1;
        let length = u32::from_be_bytes(length) as usize;
        let damaged = format!("frame {number} is damaged, or belongs to another export");
        if length > FRAME + OVERHEAD {
            return Err(self.wrong(&damaged));
        }
        let mut sealed = vec![0; length];
        let read = self.input.read_exact(&mut sealed);
        read.map_err(|_| self.wrong(&format!("the file is cut short at frame {number}")))?;
        let opened = self
            .key
            .open(&sealed, &frame_place(&self.begins, number, last))
            .map_err(|_| self.wrong(&damaged))?;
        self.buffer.extend_from_slice(&opened);
        self.frame = number + 1;
        self.ended = last;
        let more = self
            .input
            .fill_buf()
            .map_err(|error| TransferError::file(&self.path, error))?;
        if last && !more.is_empty() {
            return Err(self.wrong("something follows the last frame"));
        }
        Ok(())
    }

    fn wrong(&self, reason: &str) -> TransferError {
        TransferError::file(&self.path, reason)
    }
}
