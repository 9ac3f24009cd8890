//! Files that Directus holds, for the work of jobs. They are fetched by the administrator's token, because a user's token
//! is not kept and has ended when a job runs. So the caller must know that the file was the user's own to read.

use std::time::Duration;

use bytes::Bytes;
use genie_events::BlobId;
use reqwest::{
    Method, Response,
    header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName},
};
use tokio::{sync::mpsc, time::timeout};
use tracing::{Instrument, warn};

use super::{
    Directus,
    upstream::{DirectusReply, DirectusTrouble, OpenedFile, UpstreamRequest, reason},
};

/// The longest time for a whole file.
const FILE_TIME: Duration = Duration::from_secs(2 * 3600);
/// The longest time without a byte.
const SILENCE: Duration = Duration::from_secs(30);
/// The pieces that wait for a slow reader.
const PIECES: usize = 4;

/// A file in Directus, as Directus describes it.
pub struct DirectusFile {
    pub media_type: Option<String>,
    /// A header `Content-Disposition` that names the file.
    pub disposition: Option<String>,
    pub size: Option<u64>,
    /// Its bytes. The last item is an error when they broke off.
    pub content: mpsc::Receiver<Result<Bytes, DirectusTrouble>>,
}

/// Why a file is not opened.
#[derive(Debug)]
pub enum NoDirectusFile {
    /// Nor is one that the administrator's token may not read.
    NotThere,
    TooLarge,
    /// genie has no administrator's token to fetch it by.
    NoToken,
    Trouble(DirectusTrouble),
}

impl From<DirectusTrouble> for NoDirectusFile {
    fn from(trouble: DirectusTrouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl Directus {
    /// Opens a file of at most `most` bytes.
    pub async fn open_file(&self, file: BlobId, most: u64) -> Result<DirectusFile, NoDirectusFile> {
        let admin = self.0.upstream.admin().ok_or(NoDirectusFile::NoToken)?;
        let asking = UpstreamRequest::new(Method::GET, format!("/assets/{file}"))
            .authorized(Some(admin))
            .parameter("download", "")
            .within(FILE_TIME);
        let this = self.clone();
        let opening = async move {
            match this.0.upstream.open(asking).await? {
                OpenedFile::Found(answer) => this.found(answer, most),
                OpenedFile::Refused(reply) => Err(refused(&reply)),
            }
        };
        // Connections live on the runtime that opened them.
        let opened = self.0.io.spawn(opening.in_current_span()).await;
        opened.unwrap_or(Err(DirectusTrouble::Failed("the request broke off").into()))
    }

    fn found(&self, answer: Response, most: u64) -> Result<DirectusFile, NoDirectusFile> {
        let headers = answer.headers();
        let size = text(headers, &CONTENT_LENGTH).and_then(|size| size.parse().ok());
        if size.is_some_and(|size: u64| size > most) {
            return Err(NoDirectusFile::TooLarge);
        }
        let media_type = text(headers, &CONTENT_TYPE);
        let disposition = text(headers, &CONTENT_DISPOSITION);
        let (pieces, content) = mpsc::channel(PIECES);
        let reading = read(answer, most, pieces);
        self.0.io.spawn(reading.in_current_span());
        Ok(DirectusFile {
            media_type,
            disposition,
            size,
            content,
        })
    }
}

/// Directus writes headers in ISO 8859-1.
fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let bytes = headers.get(name)?.as_bytes();
    Some(bytes.iter().copied().map(char::from).collect())
}

fn refused(reply: &DirectusReply) -> NoDirectusFile {
    match reply.status {
        // Directus says 403 for a file that is not there, too.
        403 | 404 => NoDirectusFile::NotThere,
        status => {
            warn!(
                http.status = status,
                code = reply.code(),
                "Directus: reading a file was refused"
            );
            let why = "it refuses to read a file for the administrator's token";
            DirectusTrouble::Failed(why).into()
        }
    }
}

/// Hands on a file's bytes, as fast as their reader takes them.
async fn read(
    mut answer: Response,
    most: u64,
    pieces: mpsc::Sender<Result<Bytes, DirectusTrouble>>,
) {
    let mut size = 0;
    loop {
        let piece = match timeout(SILENCE, answer.chunk()).await {
            Ok(Ok(Some(piece))) => piece,
            Ok(Ok(None)) => return,
            Ok(Err(error)) => {
                warn!(reason = reason(&error), "Directus: file broke off");
                let _ = pieces.send(Err(DirectusTrouble::Silent)).await;
                return;
            }
            Err(_) => {
                let reason = "it sent nothing for too long";
                warn!(reason, "Directus: file broke off");
                let _ = pieces.send(Err(DirectusTrouble::Silent)).await;
                return;
            }
        };
        size += piece.len() as u64;
        let piece = if size > most {
            Err(DirectusTrouble::Failed(
                "its file is larger than FILE_MAX_BYTES",
            ))
        } else {
            Ok(piece)
        };
        let is_last = piece.is_err();
        // The reader may have gone.
        if pieces.send(piece).await.is_err() || is_last {
            return;
        }
    }
}
