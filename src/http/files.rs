//! Uploaded files, for their users and for workers whose jobs name them as `input_file_id`.

use actix_web::{
    HttpResponse,
    http::header::{ContentDisposition, DispositionParam, DispositionType},
    web::{Data, Path},
};
use futures_util::StreamExt;
use genie_events::BlobId;
use genie_log::LogError;

use crate::{
    app::App,
    blobs::BlobError,
    http::{
        caller::{AnyCaller, WorksOnJobs},
        error::ApiError,
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
    id: Path<String>,
) -> Result<RawAnswer<Archive>, ApiError> {
    let nothing = || ApiError::NotFound("file");
    let id: BlobId = id.parse().map_err(|_| nothing())?;
    let blob = app.log.blobs().get(id).await?.ok_or_else(nothing)?;
    if let AnyCaller::User(user) = caller
        && user.account.user != blob.user
    {
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
