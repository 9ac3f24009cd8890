//! Uploaded files, for their users and for workers whose jobs name them.

use actix_web::{
    HttpResponse,
    http::header::{ContentDisposition, DispositionParam, DispositionType},
    web::{Data, Path},
};
use futures_util::StreamExt;
use genie_actors::Caller;
use genie_events::{BlobId, Refusal, UserId};
use genie_log::LogError;

use crate::{
    app::App,
    blobs::BlobError,
    http::{
        caller::{AnyCaller, WorksOnJobs},
        error::ApiError,
        held_job::LeaseHeaders,
        request::in_span,
        response::RawAnswer,
    },
};

/// The bytes of a ZIP archive.
pub enum Archive {}

/// `GET /api/files/{id}`
pub async fn download(
    app: Data<App>,
    caller: AnyCaller<WorksOnJobs>,
    lease: LeaseHeaders,
    id: Path<String>,
) -> Result<RawAnswer<Archive>, ApiError> {
    let nothing = || ApiError::NotFound("file");
    let id: BlobId = id.parse().map_err(|_| nothing())?;
    let readable = match caller {
        AnyCaller::User(user) => Some(user.account.user),
        AnyCaller::Server(server) => readable_by(&app, &server.caller, &lease, id).await?,
    };
    let blob = app.log.blobs().get(id).await?.ok_or_else(nothing)?;
    if readable.is_some_and(|owner| owner != blob.user) {
        return Err(nothing());
    }
    let keys = app
        .log
        .keys()
        .live(blob.user)
        .await
        .map_err(|error| match error {
            LogError::KeyAbsent { .. } | LogError::Forgotten { .. } => nothing(),
            error => error.into(),
        })?;
    let name = DispositionParam::Filename(blob.name(&keys)?);
    let mut parts = Box::pin(app.blobs.read(&blob, keys));
    // Read the first part now: a failure can still become a status.
    let first = parts
        .next()
        .await
        .unwrap_or_else(|| Err(BlobError::Away("a file has no parts".into())))?;
    let body = futures_util::stream::once(std::future::ready(Ok(first))).chain(parts);
    let response = HttpResponse::Ok()
        .content_type(blob.media_type.as_str())
        .insert_header(ContentDisposition {
            disposition: DispositionType::Attachment,
            parameters: vec![name],
        })
        .insert_header(("X-Content-Type-Options", "nosniff"))
        .insert_header(("Cache-Control", "private, no-store"))
        .no_chunking(blob.size)
        .streaming(in_span(body.map(|part| part.map_err(ApiError::from))));
    Ok(RawAnswer::new(response))
}

/// The user whose file a server or worker may read: the owner of the job that it holds, if the job names the file.
/// `None` stands for every user: the shared secret without a job reads any file.
async fn readable_by(
    app: &App,
    caller: &Caller,
    lease: &LeaseHeaders,
    file: BlobId,
) -> Result<Option<UserId>, ApiError> {
    let Some(shown) = lease.shown()? else {
        if caller.is_service_key() {
            return Err(Refusal::forbidden(
                "lease_needed",
                "A worker's key opens a file for a job that names it; send `Genie-Job` and `Genie-Lease`",
            )
            .into());
        }
        return Ok(None);
    };
    let held = shown.held(app).await?;
    let files = held.spec.named_files();
    let is_named = files.iter().any(|(_, id)| id.parse() == Ok(file));
    is_named
        .then_some(Some(held.owner))
        .ok_or(ApiError::NotFound("file"))
}
