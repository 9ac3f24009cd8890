//! `genie import credentials FILE`: imports credentials from the original, through the running
//! server when there is one. It reads the file line by line and reports each line by its number,
//! never by its content. Rejected lines go to a separate file, unchanged.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use genie_actors::{credentials::Credentials, users::Users, vault::Vault};
use genie_log::{Clock, Log, Opened};
use serde_json::Value;

use crate::{
    cli::{output::say, runtime},
    config::Config,
    socket::{client, requests::CredentialBatch},
    store::{lock_store, open_log},
    tier_limits,
};

pub mod importer;
pub mod line;
/// Opens the values that the original encrypted.
pub mod original;

use importer::{Importer, LineOutcome};
use line::{CredentialLine, MAX_LINE};

/// Lines of one request to the server: few enough that even a slow store answers in time.
const BATCH_LINES: usize = 32;
/// The most bytes of lines of one request, so that they fit into a body.
const BATCH_BYTES: usize = 512 * 1024;
/// The route on the server's socket.
const ROUTE: &str = "/credentials/import";
/// The end of the sentence about an import that stopped.
const AGAIN: &str = "run this again: imported lines are not imported twice";

/// The refusal of a server or command without the original's key.
pub const KEY_MISSING: &str = "CREDENTIALS_ENC_KEY_B64 is not set; set it to the original's key";

#[derive(Subcommand)]
pub enum ImportCommand {
    /// Import credentials that the original encrypted with CREDENTIALS_ENC_KEY_B64; may run beside
    /// the server, and be repeated
    Credentials(CredentialImportArguments),
}

#[derive(Args)]
pub struct CredentialImportArguments {
    /// JSON lines {"userId", "creatorProfileId", "platform", "platform_username"?, "credentials"};
    /// `-` is standard input
    file: PathBuf,
    /// A new file for the rejected lines, unchanged
    #[arg(long)]
    rejected: Option<PathBuf>,
}

/// Imports the lines and prints the outcome of each.
pub fn run(
    config: Config,
    ImportCommand::Credentials(options): ImportCommand,
) -> Result<(), String> {
    let lines = Lines::open(&options.file)?;
    let rejected = options
        .rejected
        .as_deref()
        .map(Rejected::create)
        .transpose()?;
    let runtime = runtime::start()?;
    let io = runtime.handle().clone();
    // Without a server, users' actors run here.
    let system = actix::System::with_tokio_rt(move || runtime);
    system.block_on(async move {
        let mut import = Import {
            way: Way::Unknown,
            config,
            io,
            rejected,
            counts: ImportCounts::default(),
        };
        let done = import.all(lines).await;
        import.end(done).await
    })
}

/// A line without an outcome yet.
struct PendingLine {
    number: u64,
    /// The line unchanged. Empty when it is in the rejected file already.
    bytes: Vec<u8>,
    /// The parsed line, or its fault.
    read: Result<CredentialLine, String>,
}

#[derive(Default)]
struct ImportCounts {
    imported: u64,
    before: u64,
    rejected: u64,
}

struct Import {
    way: Way,
    config: Config,
    io: tokio::runtime::Handle,
    rejected: Option<Rejected>,
    counts: ImportCounts,
}

/// The process that imports the lines.
enum Way {
    /// Not known until the first line is sent.
    Unknown,
    /// The server on this data folder.
    Server,
    /// This process, which has the store's lock.
    Here {
        log: Log,
        credentials: Credentials,
        _only_process: Option<File>,
    },
}

impl Import {
    async fn all(&mut self, mut lines: Lines) -> Result<(), String> {
        let mut pending = Vec::new();
        let mut bytes = 0;
        while let Some(next) = lines.next(self.rejected.as_mut())? {
            bytes += next.bytes.len();
            pending.push(next);
            if pending.len() == BATCH_LINES || bytes + MAX_LINE > BATCH_BYTES {
                self.batch(std::mem::take(&mut pending)).await?;
                bytes = 0;
            }
        }
        self.batch(pending).await
    }

    async fn batch(&mut self, pending: Vec<PendingLine>) -> Result<(), String> {
        let mut lines = Vec::new();
        let mut numbered = Vec::with_capacity(pending.len());
        for PendingLine {
            number,
            bytes,
            read,
        } in pending
        {
            let name = read.map(|line| {
                let name = line.id.clone();
                lines.push(line);
                name
            });
            numbered.push((number, bytes, name));
        }
        let mut outcomes = if lines.is_empty() {
            vec![].into_iter()
        } else {
            self.send(CredentialBatch { lines }).await?.into_iter()
        };
        for (number, bytes, name) in numbered {
            let outcome = match &name {
                Ok(_) => outcomes.next().unwrap_or(LineOutcome::Later {
                    reason: "the server did not report this line".to_owned(),
                }),
                Err(reason) => LineOutcome::Rejected {
                    reason: reason.clone(),
                },
            };
            self.tell(number, &bytes, &name.unwrap_or_default(), outcome)?;
        }
        Ok(())
    }

    fn tell(
        &mut self,
        number: u64,
        bytes: &[u8],
        name: &str,
        outcome: LineOutcome,
    ) -> Result<(), String> {
        let said = match outcome {
            LineOutcome::Imported { id } => {
                self.counts.imported += 1;
                if id.to_string().eq_ignore_ascii_case(name) {
                    "imported".to_owned()
                } else {
                    format!(
                        "imported as {id}, because `{name}` is not a UUID; tell its clients the new id"
                    )
                }
            }
            LineOutcome::Before { .. } => {
                self.counts.before += 1;
                "imported before".to_owned()
            }
            LineOutcome::Rejected { reason } => {
                self.counts.rejected += 1;
                if let Some(rejected) = &mut self.rejected {
                    rejected.line(bytes)?;
                }
                format!("not imported: {reason}")
            }
            LineOutcome::Later { reason } => {
                return Err(format!("stopped at line {number}: {reason}; {AGAIN}"));
            }
        };
        say(&format!("line {number}: {said}"));
        Ok(())
    }

    async fn send(&mut self, batch: CredentialBatch) -> Result<Vec<LineOutcome>, String> {
        if !matches!(self.way, Way::Here { .. }) {
            match client::ask(&self.config, ROUTE, &batch)
                .await
                .map_err(|reason| format!("{reason}; {AGAIN}"))?
            {
                Some(answer) => {
                    self.way = Way::Server;
                    return outcomes_of(answer);
                }
                None if matches!(self.way, Way::Server) => {
                    return Err(format!("the server has stopped; {AGAIN}"));
                }
                None => self.way = self.open_here().await?,
            }
        }
        let Way::Here {
            log, credentials, ..
        } = &self.way
        else {
            return Err("neither a server nor a store takes the lines".to_owned());
        };
        let key = self.config.original_key().ok_or(KEY_MISSING)?;
        let log = log.clone();
        let credentials = credentials.clone();
        let taken = self.io.spawn(async move {
            Importer {
                log: &log,
                credentials: &credentials,
                key: &key,
            }
            .take(batch.lines)
            .await
        });
        taken
            .await
            .map_err(|stopped| format!("the import broke off: {stopped}; {AGAIN}"))
    }

    /// Opens the store as a starting server does.
    async fn open_here(&self) -> Result<Way, String> {
        self.config.original_key().ok_or(KEY_MISSING)?;
        let only_process = lock_store(&self.config)?;
        let limits = tier_limits::read(&self.config)?;
        let config = self.config.clone();
        let opened = self
            .io
            .spawn(async move { open_log(&config, Clock::system(), false).await });
        let Opened { log, append, vault } = opened
            .await
            .map_err(|stopped| format!("the store could not be opened: {stopped}"))??;
        let users = Users::new(append.clone(), limits, vec![actix::Arbiter::new().handle()]);
        Ok(Way::Here {
            credentials: Credentials::new(append, users, Vault::new(vault)),
            log,
            _only_process: only_process,
        })
    }

    async fn end(self, done: Result<(), String>) -> Result<(), String> {
        if let Way::Here { log, .. } = self.way {
            let _ = self
                .io
                .spawn(async move { log.store().close().await })
                .await;
        }
        if let Some(rejected) = self.rejected {
            rejected.close()?;
        }
        let ImportCounts {
            imported,
            before,
            rejected,
        } = self.counts;
        let counted =
            format!("{imported} imported, {before} imported before, {rejected} not imported");
        match (done, rejected) {
            (Err(reason), _) => Err(format!("{counted}; {reason}")),
            (Ok(()), 0) => {
                say(&counted);
                Ok(())
            }
            (Ok(()), _) => Err(counted),
        }
    }
}

fn outcomes_of(mut answer: Value) -> Result<Vec<LineOutcome>, String> {
    serde_json::from_value(answer["data"].take()).map_err(|_| client::NOT_UNDERSTOOD.to_owned())
}

/// The lines of a file, one at a time.
struct Lines {
    reader: Box<dyn BufRead>,
    shown: String,
    number: u64,
}

impl Lines {
    fn open(path: &Path) -> Result<Self, String> {
        let shown = path.display().to_string();
        let reader: Box<dyn BufRead> = if path == Path::new("-") {
            Box::new(io::stdin().lock())
        } else {
            Box::new(BufReader::new(
                File::open(path).map_err(|error| format!("{shown}: {error}"))?,
            ))
        };
        Ok(Self {
            reader,
            shown,
            number: 0,
        })
    }

    /// The next line that is not blank. A line that is too long goes to the rejected file as it is
    /// read, and is never in memory as a whole.
    fn next(&mut self, rejected: Option<&mut Rejected>) -> Result<Option<PendingLine>, String> {
        loop {
            let mut bytes = Vec::new();
            let most = MAX_LINE as u64 + 1;
            let read = self
                .reader
                .by_ref()
                .take(most)
                .read_until(b'\n', &mut bytes);
            let read = read.map_err(|error| format!("{}: {error}; {AGAIN}", self.shown))?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            let number = self.number;
            if read as u64 == most && !bytes.ends_with(b"\n") {
                self.pass_over(&bytes, rejected)?;
                let read = Err(format!("it is longer than {MAX_LINE} bytes"));
                return Ok(Some(PendingLine {
                    number,
                    bytes: Vec::new(),
                    read,
                }));
            }
            let line = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
            if !line.trim_ascii().is_empty() {
                return Ok(Some(PendingLine {
                    number,
                    read: CredentialLine::read(line),
                    bytes: line.strip_suffix(b"\n").unwrap_or(line).to_vec(),
                }));
            }
        }
    }

    fn pass_over(
        &mut self,
        begin: &[u8],
        mut rejected: Option<&mut Rejected>,
    ) -> Result<(), String> {
        let mut keep = |bytes: &[u8]| {
            rejected
                .as_mut()
                .map_or(Ok(()), |rejected| rejected.bytes(bytes))
        };
        keep(begin)?;
        loop {
            let buffer = self
                .reader
                .fill_buf()
                .map_err(|error| format!("{}: {error}; {AGAIN}", self.shown))?;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let used = end.map_or(buffer.len(), |end| end);
            keep(&buffer[..used])?;
            let is_end = end.is_some() || buffer.is_empty();
            let used = used + usize::from(end.is_some());
            self.reader.consume(used);
            if is_end {
                return keep(b"\n");
            }
        }
    }
}

/// The file of rejected lines.
struct Rejected {
    file: io::BufWriter<File>,
    shown: String,
}

impl Rejected {
    /// Creates the file, readable only by its owner. It never overwrites a file, which might be the
    /// one that is being imported.
    fn create(path: &Path) -> Result<Self, String> {
        let shown = path.display().to_string();
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        let file = file.map_err(|error| {
            format!("--rejected: {shown}: {error}; name a file that does not exist yet")
        })?;
        Ok(Self {
            file: io::BufWriter::new(file),
            shown,
        })
    }

    /// Adds a line. Empty bytes mean that the line is in the file already.
    fn line(&mut self, bytes: &[u8]) -> Result<(), String> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.bytes(bytes)?;
        self.bytes(b"\n")
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.file
            .write_all(bytes)
            .map_err(|error| format!("{} can't be written: {error}", self.shown))
    }

    fn close(self) -> Result<(), String> {
        let told =
            |error: &dyn std::fmt::Display| format!("{} can't be written: {error}", self.shown);
        let file = self
            .file
            .into_inner()
            .map_err(|error| told(&error.error()))?;
        file.sync_all().map_err(|error| told(&error))
    }
}
