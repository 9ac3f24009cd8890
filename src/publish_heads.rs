//! Copies signed heads to a file and to a webhook, where somebody who controls the store cannot
//! change them. Each head covers the earlier ones. So a slow receiver gets only the newest, and the
//! head signer never waits.

use std::{
    fs::{File, OpenOptions},
    io::{BufReader, ErrorKind, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use genie_log::{
    Election, Log,
    head_signer::{self, Sealing},
    signed_heads::{Notes, PublicHeadKey, SignedHead},
};
use reqwest::Url;
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::config::Config;

/// How long a webhook may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Pause after the first failure. It doubles with each further one, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The signed heads, and which of them are kept outside of the store.
pub struct PublishedHeads {
    pub sealing: Sealing,
    /// The facts that the newest head kept outside covers; `None` when no place is configured.
    pub kept_outside: Option<watch::Receiver<u64>>,
}

/// Starts the head signer, and the copying of its heads to the configured places.
pub async fn start_sealing(
    config: &Config,
    log: &Log,
    election: Election,
) -> Result<PublishedHeads, String> {
    let sealing = head_signer::start(log, election, config.seal_every)
        .await
        .map_err(|error| error.to_string())?;
    let key = log
        .proofs()
        .head_key()
        .await
        .map_err(|error| error.to_string())?;
    let kept_outside = start(config, &sealing.heads, &key.public())?;
    Ok(PublishedHeads {
        sealing,
        kept_outside,
    })
}

type Heads = watch::Receiver<Option<SignedHead>>;

/// Starts copying to the configured places. Fails for a file that cannot be written, or that holds
/// another log's heads.
fn start(
    config: &Config,
    heads: &Heads,
    key: &PublicHeadKey,
) -> Result<Option<watch::Receiver<u64>>, String> {
    let (kept, told) = watch::channel(0);
    if let Some(path) = &config.heads_file {
        let file = HeadsFile::open(path, key)
            .map_err(|reason| format!("GENIE_HEADS_FILE {}: {reason}", path.display()))?;
        keep(&kept, file.size);
        tokio::spawn(keep_in_file(heads.clone(), file, kept.clone()));
    }
    if let Some(url) = &config.heads_webhook {
        let url = Url::parse(url.expose_secret())
            .map_err(|error| format!("GENIE_HEADS_WEBHOOK: {error}"))?;
        let client = reqwest::Client::builder()
            .timeout(ANSWER)
            .redirect(reqwest::redirect::Policy::none());
        let http = config.proxies.client(client, url.as_str()).build();
        let http = http.map_err(|error| format!("GENIE_HEADS_WEBHOOK: {}", error.without_url()))?;
        tokio::spawn(send(heads.clone(), http, url, kept));
    }
    let is_configured = config.heads_file.is_some() || config.heads_webhook.is_some();
    Ok(is_configured.then_some(told))
}

/// Notes that a head of this size is kept outside.
fn keep(kept: &watch::Sender<u64>, size: u64) {
    kept.send_if_modified(|known| {
        let is_more = size > *known;
        *known = size.max(*known);
        is_more
    });
}

/// A file of signed notes, each followed by an empty line. It stays locked while the server runs,
/// because each server needs its own file.
struct HeadsFile {
    path: PathBuf,
    file: File,
    /// The length of the complete notes, in bytes.
    length: u64,
    /// The number of facts that the last note covers.
    size: u64,
}

impl HeadsFile {
    fn open(path: &Path, key: &PublicHeadKey) -> Result<Self, String> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(|error| error.to_string())?;
        file.try_lock()
            .map_err(|_| "another server writes it; each server needs its own file")?;
        let mut length = 0;
        let mut last = None;
        for note in Notes::new(BufReader::new(&file)) {
            match note {
                Ok(note) => {
                    length += note.len() as u64 + 1;
                    last = Some(note);
                }
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break, // a power cut during a write
                Err(error) => return Err(format!("after {length} bytes: {error}")),
            }
        }
        let last = last.map(|note| key.open(&note)).transpose();
        let last = last.map_err(|error| {
            format!("its last head is not of this log: {error}; name another file")
        })?;
        let mut file = Self {
            path: path.to_owned(),
            file,
            length,
            size: last.map_or(0, |head| head.size),
        };
        file.cut_off_rest().map_err(|error| error.to_string())?;
        Ok(file)
    }

    /// Cuts off a head that a power cut or a full disk left incomplete.
    fn cut_off_rest(&mut self) -> std::io::Result<()> {
        if self.file.metadata()?.len() > self.length {
            self.file.set_len(self.length)
        } else {
            Ok(())
        }
    }

    /// Appends a head and flushes it.
    fn append(&mut self, head: &SignedHead) -> std::io::Result<()> {
        self.cut_off_rest()?;
        self.file.write_all(format!("{}\n", head.note).as_bytes())?;
        self.file.sync_all()?;
        self.length += head.note.len() as u64 + 1;
        self.size = head.size;
        Ok(())
    }
}

async fn keep_in_file(mut heads: Heads, mut file: HeadsFile, kept: watch::Sender<u64>) {
    let mut pause = FIRST_PAUSE;
    let path = file.path.display().to_string();
    while let Some(head) = next(&mut heads).await {
        if head.size < file.size {
            let signed = head.size;
            error!(
                path,
                kept = file.size,
                signed,
                "signed heads: the file covers more facts than the log; the store was set back or is another one"
            );
        }
        if head.size <= file.size {
            continue;
        }
        let written = tokio::task::spawn_blocking(move || (file.append(&head), file)).await;
        let Ok((written, same)) = written else { return }; // the runtime is ending
        file = same;
        match written {
            Ok(()) => {
                keep(&kept, file.size);
                pause = FIRST_PAUSE;
            }
            Err(error) => {
                warn!(path, %error, "signed heads: writing the file failed; trying again");
                again(&mut heads, &mut pause).await;
            }
        }
    }
}

/// Sends heads to the webhook. The URL may hold a secret and is never logged.
async fn send(mut heads: Heads, http: reqwest::Client, url: Url, kept: watch::Sender<u64>) {
    let mut pause = FIRST_PAUSE;
    while let Some(head) = next(&mut heads).await {
        let request = http
            .post(url.clone())
            .header("Content-Type", "text/plain; charset=utf-8")
            .body(head.note);
        match request
            .send()
            .await
            .and_then(|answer| answer.error_for_status())
        {
            Ok(answer) if answer.status().is_success() => {
                if pause > FIRST_PAUSE {
                    info!("signed heads: the webhook accepts them again");
                }
                keep(&kept, head.size);
                pause = FIRST_PAUSE;
            }
            refused => {
                let reason = match refused {
                    Ok(answer) => format!("it answered {}", answer.status()),
                    Err(error) => error.without_url().to_string(),
                };
                warn!(
                    reason,
                    "signed heads: the webhook did not accept one; trying again"
                );
                again(&mut heads, &mut pause).await;
            }
        }
    }
}

/// Waits for a new head and returns the newest; `None` when no more will come.
async fn next(heads: &mut Heads) -> Option<SignedHead> {
    loop {
        heads.changed().await.ok()?;
        if let Some(head) = heads.borrow_and_update().clone() {
            return Some(head);
        }
    }
}

/// Pauses, and marks the newest head as unseen, so that it is tried again.
async fn again(heads: &mut Heads, pause: &mut Duration) {
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(LONGEST_PAUSE);
    heads.mark_changed();
}
