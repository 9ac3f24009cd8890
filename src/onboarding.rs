//! Checks an upload and queues its job (docs/api.md, Onboarding). Its bytes are in the blob store by then, but no user's file yet. One append
//! makes them a file, queues the job that imports it, and moves the account on.

use std::{sync::Arc, time::Duration};

use actix_web::web::Data;
use genie_actors::{CommandContext, WriteError, onboarding::QueuedUpload};
use genie_events::{Refusal, UserId};
use tokio::time::timeout;
use tracing::Instrument;

use crate::{
    app::App,
    blobs::{BlobError, Upload},
    uploads::{UploadSlot, Uploads},
    zip_check::{self, BadZip},
};

const MEDIA_TYPE: &str = "application/zip";
/// How many of the largest uploads a user's kept files may amount to.
const KEPT: u64 = 4;
/// How long an upload may wait for others to be looked through, and how long that may take itself.
const LONGEST_LOOK: Duration = Duration::from_secs(300);

/// An upload did not become a file.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error(transparent)]
    Zip(#[from] BadZip),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Refuses an upload of at most `most` bytes for which a user's kept files leave no room. Onboarding alone does not bound them:
/// each upload whose job is cancelled or fails is followed by another.
pub async fn check_room(app: &App, user: UserId, most: u64) -> Result<(), WriteError> {
    let kept = app.log.blobs().kept_bytes(user).await?;
    let room = most.saturating_mul(KEPT);
    if kept.saturating_add(most) <= room {
        Ok(())
    } else {
        let sentence = format!(
            "Your earlier uploads leave no room for another ({kept} of {room} bytes); ask an administrator"
        );
        Err(Refusal::conflict("no_room", sentence).into())
    }
}

/// Looks a whole upload through and queues it. Answers the position of the facts, too. What is refused leaves nothing behind.
pub async fn take_in(
    app: Data<App>,
    slot: UploadSlot,
    upload: Upload,
    name: String,
    context: CommandContext,
) -> Result<(QueuedUpload, u64), UploadError> {
    let io = app.log.store().io().clone();
    // On a task of its own: once the append is on its way, the bytes must not go because the caller did.
    let work = async move {
        let _slot = slot;
        if let Err(refused) = look_through(&app.uploads, &upload).await {
            upload.discard().await;
            return Err(refused);
        }
        queue(&app, upload, name, context).await
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
        let _permit = permit; // for as long as the thread runs, even when nobody waits for it any more
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
        Some(error) => Err(error.into()), // then what was made of the bytes means nothing
        None => Ok(judged?),
    }
}

async fn queue(
    app: &App,
    upload: Upload,
    name: String,
    context: CommandContext,
) -> Result<(QueuedUpload, u64), UploadError> {
    let user = upload.user();
    let file = upload.id();
    let row = upload.row(name, MEDIA_TYPE, app.log.clock().now());
    let (queued, position) = match app.write.onboarding.queue(user, file, row, context).await {
        Ok(queued) => queued,
        Err(error) => {
            match error {
                WriteError::Away(_) | WriteError::Internal(_) => upload.keep(), // the row may be there all the same
                _ => upload.discard().await,
            }
            return Err(error.into());
        }
    };
    if queued.file == file {
        upload.keep();
    } else {
        upload.discard().await; // the same request came before
    }
    Ok((queued, position))
}
