//! Checks an upload and queues its job (docs/api.md, Onboarding). The bytes are in the blob store
//! by then, but belong to no file. One append makes them a file of the user, queues the job that
//! imports it, and moves the account on.

use std::{sync::Arc, time::Duration};

use actix_web::web::Data;
use genie_actors::{CommandContext, WriteError, onboarding::QueuedUpload};
use genie_events::file::NewFile;
use genie_media::zip_check::{self, BadZip};
use tokio::time::timeout;
use tracing::Instrument;

use crate::{
    app::App,
    blobs::{BlobError, FoundFile, Upload},
    uploads::{UploadSlot, Uploads},
};

const MEDIA_TYPE: &str = "application/zip";
/// How long an upload may wait for its check, and how long the check may take.
const LONGEST_LOOK: Duration = Duration::from_secs(300);

/// Why an upload did not become a file.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error(transparent)]
    Zip(#[from] BadZip),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The fact about an archive.
pub fn archive(name: String, found: FoundFile) -> NewFile {
    NewFile {
        file_name: name,
        bytes: found.bytes,
        mime: MEDIA_TYPE.to_owned(),
        sha256: found.sha256,
        job: None,
        width: None,
        height: None,
        duration: None,
    }
}

/// Checks a whole upload and queues it. Also returns the position of the facts. Deletes a refused
/// upload.
pub async fn take_in(
    app: Data<App>,
    slot: UploadSlot,
    upload: Upload,
    file: NewFile,
    context: CommandContext,
) -> Result<(QueuedUpload, u64), UploadError> {
    let io = app.log.store().io().clone();
    // On its own task: once the append has begun, a caller who goes away must not delete the bytes.
    let work = async move {
        let _slot = slot;
        if let Err(refused) = look_through(&app.uploads, &upload).await {
            upload.discard().await;
            return Err(refused);
        }
        queue(&app, upload, file, context).await
    };
    let task = io.spawn(work.in_current_span());
    task.await.unwrap_or_else(|stopped| {
        Err(WriteError::Internal(format!("an upload stopped: {stopped}")).into())
    })
}

async fn look_through(uploads: &Uploads, upload: &Upload) -> Result<(), UploadError> {
    let Ok(permit) = timeout(LONGEST_LOOK, uploads.may_check()).await else {
        return Err(WriteError::Busy.into());
    };
    let reader = Arc::new(upload.reader());
    let read = Arc::clone(&reader);
    let size = upload.size();
    let looking = tokio::task::spawn_blocking(move || {
        let _permit = permit; // held as long as the thread runs, even when nobody waits for it
        zip_check::check(read, size)
    });
    let judged = match timeout(LONGEST_LOOK, looking).await {
        Ok(judged) => judged.map_err(|stopped| {
            WriteError::Internal(format!("a look into an upload stopped: {stopped}"))
        })?,
        Err(_) => {
            return Err(BlobError::Away("the upload could not be read in time".into()).into());
        }
    };
    match reader.failure() {
        Some(error) => Err(error.into()), // the check saw too few bytes, so its result means nothing
        None => Ok(judged.map(drop)?),
    }
}

async fn queue(
    app: &App,
    upload: Upload,
    file: NewFile,
    context: CommandContext,
) -> Result<(QueuedUpload, u64), UploadError> {
    let user = upload.user();
    let id = upload.id();
    let row = upload.row(&file, app.log.clock().now());
    let queued = app.write.onboarding.queue(user, (id, file), row, context);
    let (queued, position) = match queued.await {
        Ok(queued) => queued,
        Err(error) => {
            match error {
                WriteError::Away(_) | WriteError::Internal(_) => upload.keep(), // the row may be written
                _ => upload.discard().await,
            }
            return Err(error.into());
        }
    };
    if queued.file == id {
        upload.keep();
    } else {
        upload.discard().await; // an earlier copy of this request has queued its own upload
    }
    Ok((queued, position))
}
