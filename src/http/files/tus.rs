//! Uploads that may break off and go on: tus 1.0 (<https://tus.io/protocols/resumable-upload>), with creation,
//! termination, checksum and expiration. The upload's id is that of the file to be.

use std::future::{Ready, ready};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse, HttpResponseBuilder, ResponseError,
    dev::Payload,
    error::PayloadError,
    http::{
        StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION},
    },
    web::{Bytes, Data, Path},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use futures_util::future::Either;
use genie_actors::{Caller, WriteError};
use genie_events::{BlobId, Refusal, Timestamp, UserId};
use genie_log::{
    blobs::Blob,
    resumable::{NewResumable, Resumable},
};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::{mpsc, oneshot};
use tracing::{Instrument, warn};

use super::{
    live_keys,
    receive::{self, FileBody},
    upload::{Measures, new_file},
};
use crate::{
    app::App,
    blobs::{ResumableUpload, ResumeError, hash_of_nothing},
    http::{
        caller::ActingUser,
        error::{ApiError, FailureBody},
        onboarding::drain,
        response::{RawAnswer, opaque},
    },
    resumable_uploads::UploadTurn,
    uploads::UploadSlot,
};

const VERSION: &str = "1.0.0";
const EXTENSIONS: &str = "creation,termination,checksum,expiration";
const ALGORITHMS: &str = "sha1,sha256";
const CHUNK_TYPE: &str = "application/offset+octet-stream";
/// How long an upload stays after its last request.
const KEPT_MILLIS: i64 = 24 * 3600 * 1000;
/// The most uploads of one user that are not finished.
const MAX_PENDING: u64 = 100;
/// Pieces of a body that wait to be written.
const PIECES: usize = 4;

const RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const VERSIONS: HeaderName = HeaderName::from_static("tus-version");
const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const LENGTH: HeaderName = HeaderName::from_static("upload-length");
const METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
const CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");
const FILE: HeaderName = HeaderName::from_static("genie-file");
const POSITION: HeaderName = HeaderName::from_static("genie-position");

/// An answer of the tus protocol, without a body.
pub enum TusAnswer {}
/// The same with the place of the new upload.
pub enum TusCreated {}
/// How far an upload is, without a body.
pub enum TusShown {}

/// A body of bytes, read piece by piece.
pub struct TusChunk(FileBody);

impl FromRequest for TusChunk {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        ready(
            FileBody::from_request(request, payload)
                .into_inner()
                .map(Self),
        )
    }
}

/// `OPTIONS /api/files/tus`
pub async fn options(app: Data<App>) -> RawAnswer<TusAnswer> {
    let response = HttpResponse::NoContent()
        .insert_header((RESUMABLE, VERSION))
        .insert_header((VERSIONS, VERSION))
        .insert_header(("Tus-Extension", EXTENSIONS))
        .insert_header(("Tus-Checksum-Algorithm", ALGORITHMS))
        .insert_header(("Tus-Max-Size", app.config.file_max_bytes))
        .finish();
    RawAnswer::new(response)
}

/// `POST /api/files/tus`
pub async fn create(
    app: Data<App>,
    request: HttpRequest,
    user: ActingUser,
) -> Result<RawAnswer<TusCreated>, ApiError> {
    Ok(told(begin(&app, &request, &user).await))
}

/// `HEAD /api/files/tus/{id}`
pub async fn show(
    app: Data<App>,
    request: HttpRequest,
    user: ActingUser,
    id: Path<String>,
) -> Result<RawAnswer<TusShown>, ApiError> {
    Ok(told(look(&app, &request, &user, &id).await))
}

/// `PATCH /api/files/tus/{id}`
pub async fn add(
    app: Data<App>,
    request: HttpRequest,
    user: ActingUser,
    id: Path<String>,
    TusChunk(FileBody(body)): TusChunk,
) -> Result<RawAnswer<TusAnswer>, ApiError> {
    let body = drain::Shared::new(body);
    let added = receive_bytes(&app, &request, &user, &id, body.clone()).await;
    Ok(match added {
        Ok(response) => told(Ok(response)),
        Err(error) => RawAnswer::new(with_version(body.refuse(&error).await)),
    })
}

/// `DELETE /api/files/tus/{id}`
pub async fn terminate(
    app: Data<App>,
    request: HttpRequest,
    user: ActingUser,
    id: Path<String>,
) -> Result<RawAnswer<TusAnswer>, ApiError> {
    Ok(told(end(&app, &request, &user, &id).await))
}

/// Every answer says which protocol it speaks, refusals, too.
fn told<T>(answered: Result<HttpResponse, ApiError>) -> RawAnswer<T> {
    RawAnswer::new(with_version(
        answered.unwrap_or_else(|error| error.error_response()),
    ))
}

fn with_version(mut response: HttpResponse) -> HttpResponse {
    let is_refused = response.status() == StatusCode::PRECONDITION_FAILED;
    let headers = response.headers_mut();
    headers.insert(RESUMABLE, HeaderValue::from_static(VERSION));
    if is_refused {
        headers.insert(VERSIONS, HeaderValue::from_static(VERSION));
    }
    response
}

fn check_version(request: &HttpRequest) -> Result<(), ApiError> {
    if text(request, &RESUMABLE)? == Some(VERSION) {
        return Ok(());
    }
    Err(ApiError::TusVersion)
}

fn text<'a>(request: &'a HttpRequest, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let Some(value) = request.headers().get(name) else {
        return Ok(None);
    };
    let wrong = |_| ApiError::field(format!("`{name}` must be visible ASCII"));
    value.to_str().map(|text| Some(text.trim())).map_err(wrong)
}

fn number(request: &HttpRequest, name: &HeaderName) -> Result<u64, ApiError> {
    let wrong = || {
        ApiError::field(format!(
            "`{name}` must be there, and a whole number of bytes"
        ))
    };
    let text = text(request, name)?.ok_or_else(wrong)?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    text.parse().map_err(|_| wrong())
}

/// The name in `Upload-Metadata`: pairs of a word and a value in base64, separated by commas.
fn name_in(metadata: &str) -> Result<Option<String>, ApiError> {
    let wrong = || ApiError::field("`Upload-Metadata` must be words with values in base64");
    let mut name = None;
    for pair in metadata
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
    {
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        let value = BASE64.decode(value.trim()).map_err(|_| wrong())?;
        if key == "filename" || (key == "name" && name.is_none()) {
            name = Some(String::from_utf8(value).map_err(|_| wrong())?);
        }
    }
    Ok(name)
}

async fn begin(
    app: &Data<App>,
    request: &HttpRequest,
    user: &ActingUser,
) -> Result<HttpResponse, ApiError> {
    check_version(request)?;
    let length = number(request, &LENGTH)?;
    let most = app.config.file_max_bytes;
    if length > most {
        return Err(ApiError::TooLarge(most));
    }
    let metadata = text(request, &METADATA)?.unwrap_or_default();
    let name = receive::base_name(name_in(metadata)?.as_deref());
    let owner = user.account.user;
    let table = app.log.resumable();
    let pending = table.pending(owner).await?;
    if pending.count >= MAX_PENDING {
        let sentence =
            format!("You have {MAX_PENDING} unfinished uploads; finish or delete some first");
        return Err(Refusal::conflict("too_many_uploads", sentence).into());
    }
    let room = pending.bytes.saturating_add(length);
    let asked = user.caller.metadata();
    app.write.files.check_room(owner, room, asked).await?;
    app.blobs.check_disk()?;
    let keys = live_keys(app, owner, "user").await?;
    let id = BlobId(app.log.clock().new_uuid());
    let expires_at = expiry(app);
    let new = NewResumable {
        id,
        user: owner,
        length,
        name,
        expires_at,
    };
    table.begin(new, hash_of_nothing(&keys, id), &keys).await?;
    let mut response = HttpResponse::Created();
    response
        .insert_header((LOCATION, format!("/api/files/tus/{id}")))
        .insert_header((EXPIRES, http_date(expires_at)));
    if length == 0 {
        let taken = OwnUpload::take(app, owner, &id.to_string()).await?;
        let OwnUpload::Pending(turn, row) = taken else {
            return Err(ApiError::Internal("a new upload is a file".into()));
        };
        let upload = app.blobs.resume(row, keys, false).await?;
        let empty = Receiving::new(app, turn, upload, user.caller.clone(), None)?;
        if let PatchOutcome::Stored { file, position } = empty.store().await? {
            response.insert_header((OFFSET, 0));
            response.insert_header((FILE, file.to_string()));
            response.insert_header((POSITION, opaque(position)));
        }
    }
    Ok(response.finish())
}

fn expiry(app: &App) -> Timestamp {
    app.log.clock().now().plus_millis(KEPT_MILLIS)
}

/// As in HTTP's `Expires`.
fn http_date(at: Timestamp) -> String {
    let seconds = u64::try_from(at.unix_seconds()).unwrap_or(0);
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    actix_web::http::header::HttpDate::from(at).to_string()
}

/// An upload of the caller.
enum OwnUpload {
    /// It waits for bytes, and this request is the only one that may add some.
    Pending(UploadTurn, Resumable),
    /// It has become a file.
    File(Blob),
}

impl OwnUpload {
    /// Ends the request that runs for the upload, and takes the next turn.
    async fn take(app: &App, user: UserId, id: &str) -> Result<Self, ApiError> {
        let nothing = || ApiError::NotFound("upload");
        let id: BlobId = id.parse().map_err(|_| nothing())?;
        let table = app.log.resumable();
        if table.get(user, id).await?.is_some() {
            let busy = |_| ApiError::from(WriteError::Busy);
            let turn = app.resumable_uploads.take_over(id).await.map_err(busy)?;
            if let Some(row) = table.take_turn(user, id, expiry(app)).await? {
                return Ok(Self::Pending(turn, row));
            }
        }
        // It may have been finished by the request that was waited for.
        let file = app.log.blobs().get(id).await?;
        let own = file.filter(|file| file.user == user);
        own.map(Self::File).ok_or_else(nothing)
    }
}

async fn look(
    app: &App,
    request: &HttpRequest,
    user: &ActingUser,
    id: &str,
) -> Result<HttpResponse, ApiError> {
    check_version(request)?;
    Ok(match OwnUpload::take(app, user.account.user, id).await? {
        OwnUpload::Pending(_, row) => offset_of(app, &row),
        OwnUpload::File(file) => finished(&mut HttpResponse::Ok(), &file),
    })
}

fn offset_of(app: &App, row: &Resumable) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((OFFSET, row.stored))
        .insert_header((LENGTH, row.length))
        .insert_header((EXPIRES, http_date(expiry(app))))
        .finish()
}

fn finished(response: &mut HttpResponseBuilder, file: &Blob) -> HttpResponse {
    response
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((OFFSET, file.size))
        .insert_header((LENGTH, file.size))
        .insert_header((FILE, file.id.to_string()))
        .finish()
}

async fn end(
    app: &Data<App>,
    request: &HttpRequest,
    user: &ActingUser,
    id: &str,
) -> Result<HttpResponse, ApiError> {
    check_version(request)?;
    let owner = user.account.user;
    let OwnUpload::Pending(_turn, row) = OwnUpload::take(app, owner, id).await? else {
        return Err(ApiError::NotFound("upload"));
    };
    if !app.log.resumable().end(owner, row.id).await? {
        return Err(ApiError::NotFound("upload"));
    }
    if let Err(error) = app.blobs.delete_upload(owner, row.id).await {
        warn!(%error, file.id = %row.id, "uploads: deleting an unfinished upload failed; the sweep deletes it");
    }
    Ok(HttpResponse::NoContent().finish())
}

async fn receive_bytes(
    app: &Data<App>,
    request: &HttpRequest,
    user: &ActingUser,
    id: &str,
    mut body: drain::Shared,
) -> Result<HttpResponse, ApiError> {
    check_version(request)?;
    if text(request, &CONTENT_TYPE)? != Some(CHUNK_TYPE) {
        return Err(ApiError::NotChunk);
    }
    let offset = number(request, &OFFSET)?;
    let checksum = Checksum::of(request)?;
    let owner = user.account.user;
    let (turn, row) = match OwnUpload::take(app, owner, id).await? {
        OwnUpload::Pending(turn, row) => (turn, row),
        // The answer to the last bytes was lost, and they are not sent again.
        OwnUpload::File(file) if file.size == offset => {
            return Ok(finished(&mut HttpResponse::NoContent(), &file));
        }
        OwnUpload::File(file) => return Err(other_offset(file.size)),
    };
    if row.stored != offset {
        return Err(other_offset(row.stored));
    }
    let missing = row.length - row.stored;
    receive::check_length(request, missing)?;
    let keys = live_keys(app, owner, "user").await?;
    let upload = app.blobs.resume(row, keys, checksum.is_some()).await?;
    let receiving = Receiving::new(app, turn, upload, user.caller.clone(), checksum)?;
    let (to, pieces) = mpsc::channel(PIECES);
    let (reply, answer) = oneshot::channel();
    let work = async move {
        let _ = reply.send(receiving.run(pieces).await); // the client may have gone
    };
    // On its own task: when the client goes away, what has come is made durable.
    let io = app.log.store().io();
    io.spawn(work.in_current_span());
    let sent = forward(&mut body, &to, missing).await;
    if sent.is_ok() {
        let _ = to.send(UploadPiece::End).await; // it may have ended by itself
    }
    drop(to);
    let stopped = |_| ApiError::Internal("an upload stopped".into());
    let received = answer.await.map_err(stopped)?;
    sent?;
    let mut response = HttpResponse::NoContent();
    response.insert_header((EXPIRES, http_date(expiry(app))));
    Ok(match received? {
        PatchOutcome::Paused(offset) => response.insert_header((OFFSET, offset)).finish(),
        PatchOutcome::Stored { file, position } => response
            .insert_header((OFFSET, offset + missing))
            .insert_header((FILE, file.to_string()))
            .insert_header((POSITION, opaque(position)))
            .finish(),
        PatchOutcome::OtherChecksum => mismatch(),
    })
}

fn other_offset(stored: u64) -> ApiError {
    let sentence = format!("The upload has {stored} bytes; go on from there");
    Refusal::conflict("other_offset", sentence).into()
}

/// tus' own status.
fn mismatch() -> HttpResponse {
    let status = StatusCode::from_u16(460).expect("460 is a status of three digits");
    let sentence = "The bytes do not have this checksum, and none was kept; send them again".into();
    HttpResponse::build(status).json(FailureBody::new("checksum_mismatch", sentence, None))
}

/// Hands the body on piece by piece. A piece waits until there is room for it.
async fn forward(
    body: &mut drain::Shared,
    to: &mpsc::Sender<UploadPiece>,
    missing: u64,
) -> Result<(), ApiError> {
    let mut left = missing;
    while let Some(bytes) = receive::next(body, |_: PayloadError| receive::broke_off()).await? {
        left = left
            .checked_sub(bytes.len() as u64)
            .ok_or(ApiError::TooLarge(missing))?;
        if to.send(UploadPiece::Bytes(bytes)).await.is_err() {
            return Ok(()); // its answer says why
        }
    }
    Ok(())
}

enum UploadPiece {
    Bytes(Bytes),
    /// The body came to its end.
    End,
}

enum PatchOutcome {
    /// So many bytes are durable.
    Paused(u64),
    Stored {
        file: BlobId,
        position: u64,
    },
    OtherChecksum,
}

/// One request that adds bytes to an upload.
struct Receiving {
    app: Data<App>,
    turn: UploadTurn,
    upload: ResumableUpload,
    caller: Caller,
    checksum: Option<Checksum>,
    _slot: UploadSlot,
}

impl Receiving {
    fn new(
        app: &Data<App>,
        turn: UploadTurn,
        upload: ResumableUpload,
        caller: Caller,
        checksum: Option<Checksum>,
    ) -> Result<Self, ApiError> {
        Ok(Self {
            app: app.clone(),
            turn,
            _slot: app.uploads.begin_file(upload.user())?,
            upload,
            caller,
            checksum,
        })
    }

    async fn run(
        mut self,
        mut pieces: mpsc::Receiver<UploadPiece>,
    ) -> Result<PatchOutcome, ApiError> {
        let is_whole = loop {
            let stopped = Box::pin(self.turn.stopped());
            let piece = Box::pin(pieces.recv());
            let piece = match futures_util::future::select(piece, stopped).await {
                Either::Left((piece, _)) => piece,
                Either::Right(_) => break false,
            };
            match piece {
                Some(UploadPiece::Bytes(bytes)) => {
                    if let Some(checksum) = &mut self.checksum {
                        checksum.update(&bytes);
                    }
                    self.upload.write(&bytes).await.map_err(resume_error)?;
                }
                Some(UploadPiece::End) => break true,
                None => break false,
            }
        };
        if let Some(checksum) = self.checksum.take() {
            if !is_whole {
                return Err(receive::broke_off()); // what was not checked to its end does not count
            }
            if !checksum.matches() {
                return Ok(PatchOutcome::OtherChecksum);
            }
        }
        if self.upload.size() == self.upload.length() {
            return self.store().await;
        }
        self.upload.pause().await.map_err(resume_error)?;
        if is_whole {
            Ok(PatchOutcome::Paused(self.upload.size()))
        } else {
            Err(taken_over())
        }
    }

    async fn store(mut self) -> Result<PatchOutcome, ApiError> {
        let found = self.upload.finish().await?;
        let name = self.upload.name()?;
        let file = new_file(name, found, None, Measures::default());
        let (user, id) = (self.upload.user(), self.upload.id());
        let row = self.upload.row(&file, self.app.log.clock().now());
        let caller = self.caller.metadata();
        let stored = self.app.write.files.store(user, id, file, row, caller);
        let (file, position) = stored.await?;
        self.upload.settle().await;
        Ok(PatchOutcome::Stored { file, position })
    }
}

fn resume_error(error: ResumeError) -> ApiError {
    match error {
        ResumeError::TakenOver => taken_over(),
        ResumeError::Blob(error) => error.into(),
    }
}

fn taken_over() -> ApiError {
    let sentence = "A newer request goes on with this upload";
    Refusal::conflict("upload_taken_over", sentence).into()
}

/// The checksum that a request's bytes have to have.
struct Checksum {
    hash: ChecksumHash,
    wanted: Vec<u8>,
}

enum ChecksumHash {
    Sha1(Sha1),
    Sha256(Box<Sha256>),
}

impl Checksum {
    fn of(request: &HttpRequest) -> Result<Option<Self>, ApiError> {
        let Some(header) = text(request, &CHECKSUM)? else {
            return Ok(None);
        };
        let wrong = || {
            let sentence = format!(
                "`Upload-Checksum` must be one of {ALGORITHMS}, a space, and the checksum in base64"
            );
            ApiError::field(sentence)
        };
        let (algorithm, wanted) = header.split_once(' ').ok_or_else(wrong)?;
        let hash = match algorithm {
            "sha1" => ChecksumHash::Sha1(Sha1::new()),
            "sha256" => ChecksumHash::Sha256(Box::default()),
            _ => return Err(wrong()),
        };
        let wanted = BASE64.decode(wanted.trim()).map_err(|_| wrong())?;
        Ok(Some(Self { hash, wanted }))
    }

    fn update(&mut self, bytes: &[u8]) {
        match &mut self.hash {
            ChecksumHash::Sha1(hash) => hash.update(bytes),
            ChecksumHash::Sha256(hash) => hash.update(bytes),
        }
    }

    fn matches(self) -> bool {
        let found = match self.hash {
            ChecksumHash::Sha1(hash) => hash.finalize().to_vec(),
            ChecksumHash::Sha256(hash) => hash.finalize().to_vec(),
        };
        found.ct_eq(&self.wanted).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_read_from_the_metadata() {
        let pair = |key: &str, value: &str| format!("{key} {}", BASE64.encode(value));
        let both = [pair("filetype", "video/mp4"), pair("filename", "ü.mp4")].join(",");
        for (metadata, name) in [
            ("", None),
            ("is_confidential", None),
            (&pair("name", "a"), Some("a")),
            (
                &format!("{},{}", pair("name", "a"), pair("filename", "b")),
                Some("b"),
            ),
            (
                &format!("{}, {}", pair("filename", "b"), pair("name", "a")),
                Some("b"),
            ),
            (&both, Some("ü.mp4")),
        ] {
            assert_eq!(name_in(metadata).unwrap().as_deref(), name, "{metadata}");
        }
        assert!(name_in("filename not*base64").is_err());
        assert!(name_in(&format!("filename {}", BASE64.encode(b"\xff"))).is_err());
    }
}
