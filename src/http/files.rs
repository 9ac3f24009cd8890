//! Files of users (docs/api.md, Files): uploaded, listed, read and deleted by their users, and read and made by
//! workers for the jobs that they hold.

use actix_web::web::{Data, Path};
use genie_events::{BlobId, JobId, UserId, file::RemovedBecause};
use genie_log::{
    LogError, UserKeys,
    blobs::{Blob, FileDetails, ROWS_AT_ONCE},
    pages::Paged,
};
use serde::Serialize;
use serde_json::Value;
use tracing::{Instrument, warn};
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        caller::ActingUser,
        error::ApiError,
        idempotency::IdempotencyKey,
        input::Query,
        response::{ListPage, PageQuery, Written},
        words::Time,
    },
};

pub mod download;
pub mod link;
pub mod receive;
pub mod tus;
mod upload;

pub use download::download;
pub use upload::upload;

/// A file.
#[derive(Serialize, ToSchema)]
#[schema(as = File)]
pub struct FileAnswer {
    #[schema(value_type = Uuid)]
    id: BlobId,
    name: String,
    /// What the bytes are, told by their beginning, whatever the client said.
    mime: String,
    #[schema(minimum = 0)]
    bytes: u64,
    /// Of the bytes, in hexadecimal.
    sha256: String,
    created_at: Time,
    /// In pixels, of a picture or film as it is seen. Absent when it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    height: Option<u32>,
    /// In seconds, of a film or sound. Absent when it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<f64>,
    /// The job that made the file. Absent for an upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    job: Option<JobId>,
}

impl FileAnswer {
    fn new(blob: &Blob, details: &FileDetails) -> Self {
        Self {
            id: blob.id,
            name: details.name.clone(),
            mime: blob.media_type.clone(),
            bytes: blob.size,
            sha256: details.sha256.clone(),
            created_at: blob.created_at.into(),
            width: details.width,
            height: details.height,
            duration: details.duration,
            job: blob.job,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = RemovedFile)]
pub struct RemovedFileAnswer {
    #[schema(value_type = Uuid)]
    id: BlobId,
    removed: bool,
}

/// `GET /api/files`
pub async fn list(
    app: Data<App>,
    user: ActingUser,
    Query(page): Query<PageQuery>,
) -> Result<ListPage<FileAnswer>, ApiError> {
    list_for(&app, user.account.user, page).await
}

/// A page of this user's files.
pub async fn list_for(
    app: &App,
    id: UserId,
    page: PageQuery,
) -> Result<ListPage<FileAnswer>, ApiError> {
    let limit = page.limit()?;
    let after = match page.after_pair()? {
        None => None,
        Some((at, id)) => {
            let id = id
                .parse()
                .map_err(|_| ApiError::field("`cursor` is none of ours"))?;
            Some((genie_events::Timestamp(at), id))
        }
    };
    let keys = live_keys(app, id, "user").await?;
    let mut rows = app.log.blobs().of_user(id, after, limit + 1).await?;
    let has_more = rows.len() as i64 > limit;
    rows.truncate(limit as usize);
    let page = Paged { rows, has_more }.try_map(|blob| {
        let details = blob.details(&keys)?;
        Ok::<_, LogError>((blob, details))
    })?;
    ListPage::of(
        &page,
        |(blob, _)| format!("{}/{}", blob.created_at.0, blob.id),
        |(blob, details)| FileAnswer::new(blob, details),
    )
}

/// `DELETE /api/files/{id}`
pub async fn remove(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    user: ActingUser,
    id: Path<String>,
) -> Result<Written<RemovedFileAnswer>, ApiError> {
    let asking = idempotency_key.asking(&app, &user.caller)?;
    let owner = user.account.user;
    let id = file_id(&id)?;
    let kept = app.log.blobs().get(id).await?;
    if kept.is_some_and(|blob| blob.user != owner) {
        return Err(ApiError::NotFound("file"));
    }
    // A job that is queued in this very moment fails when it asks for the file.
    let asked = RemovedBecause::Asked;
    let done = app.write.files.remove(owner, id, asked, asking).await?;
    let blobs = app.blobs.clone();
    let deleting = async move {
        if let Err(error) = blobs.delete_file(owner, id).await {
            warn!(%error, file.id = %id, "files: deleting the bytes of a removed file failed; the sweep deletes them");
        }
    };
    // On its own task, because a caller who goes away changes nothing about it.
    let deleted = app.log.store().io().spawn(deleting.in_current_span());
    let _ = deleted.await; // after a panic the sweep deletes the bytes
    let removed = RemovedFileAnswer { id, removed: true };
    Ok(Written(removed, done.position))
}

fn file_id(text: &str) -> Result<BlobId, ApiError> {
    text.parse().map_err(|_| ApiError::NotFound("file"))
}

/// Checks that each file which a worker names as an output is the user's of its job.
pub async fn check_outputs(app: &App, user: UserId, outputs: &[Value]) -> Result<(), ApiError> {
    let foreign =
        || ApiError::field("`outputs` may name files of the job's user only; upload them first");
    let named = outputs.iter().filter_map(|output| output.get("file_id"));
    let named = named.filter(|id| !id.is_null());
    let ids: Vec<BlobId> = named
        .map(|id| {
            id.as_str()
                .and_then(|id| id.parse().ok())
                .ok_or_else(foreign)
        })
        .collect::<Result<_, _>>()?;
    for page in ids.chunks(ROWS_AT_ONCE) {
        let kept = app.log.blobs().get_many(page).await?;
        let is_own = |id: &BlobId| kept.iter().any(|blob| blob.id == *id && blob.user == user);
        if !page.iter().all(is_own) {
            return Err(foreign());
        }
    }
    Ok(())
}

async fn live_keys(
    app: &App,
    user: UserId,
    what: &'static str,
) -> Result<std::sync::Arc<UserKeys>, ApiError> {
    app.log
        .keys()
        .live(user)
        .await
        .map_err(|error| match error {
            LogError::KeyAbsent { .. } | LogError::Forgotten { .. } => ApiError::NotFound(what),
            error => error.into(),
        })
}
