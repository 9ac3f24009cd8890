//! An upload is looked through and queued (contract, section 3). Its bytes are in the blob store by then, and nobody's; one append
//! makes them a file, queues the job that reads it in, and moves the account on.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actix_web::web::Data;
use genie_actors::{CommandContext, WriteError, users::Plan};
use genie_events::{BlobId, JobId, Refusal, User, UserCommand, UserId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    app::App,
    blobs::{BlobError, Upload},
    zip_check::{self, BadZip},
};

/// What it was found to be.
const MEDIA_TYPE: &str = "application/zip";
/// How many of the largest uploads a user's kept files may amount to.
const KEPT: u64 = 4;
/// Uploads that are received at once; one more is told to come again.
const AT_ONCE: usize = 32;
/// Uploads that are looked through at once: unpacking one takes a core, for seconds when it is large.
static LOOKING: Semaphore = Semaphore::const_new(2);
/// How long an upload may wait for others to be looked through, and how long that may take itself.
const LONGEST_LOOK: Duration = Duration::from_secs(300);

/// Who is uploading to this node now.
#[derive(Clone, Default)]
pub struct Uploading(Arc<Mutex<HashSet<UserId>>>);

/// A user's place among them; given back when it goes.
pub struct Place {
    uploading: Uploading,
    user: UserId,
}

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

/// What the answer is made from.
#[derive(Debug, Serialize, Deserialize)]
pub struct Queued {
    pub job: JobId,
    pub file: BlobId,
}

impl Uploading {
    /// Takes a place for a user, of which each has one.
    pub fn enter(&self, user: UserId) -> Result<Place, WriteError> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.contains(&user) {
            return Err(Refusal::conflict(
                "upload_running",
                "Another upload of yours is under way; wait for it to end",
            )
            .into());
        }
        if all.len() >= AT_ONCE {
            return Err(WriteError::Busy);
        }
        all.insert(user);
        Ok(Place {
            uploading: self.clone(),
            user,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.uploading
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.user);
    }
}

/// Whether an upload of this user would be taken, so that nobody sends one for nothing. It is asked again when the upload is there.
pub async fn may_upload(app: &App, user: UserId, asking: CommandContext) -> Result<(), WriteError> {
    let planner = |state: &User, _| state.may_upload().map(|()| Plan::default());
    app.write
        .users
        .plan(
            user,
            None,
            CommandContext {
                key: None,
                ..asking
            },
            Arc::new(planner),
        )
        .await
        .map(drop)
}

/// Refuses an upload of at most `most` bytes for which a user's kept files leave no room. Onboarding alone does not bound them:
/// each upload whose job is cancelled or fails is followed by another.
pub async fn check_room(app: &App, user: UserId, most: u64) -> Result<(), WriteError> {
    let (kept, room) = (app.log.kept_bytes(user).await?, most.saturating_mul(KEPT));
    match kept.saturating_add(most) <= room {
        true => Ok(()),
        false => {
            let sentence = format!(
                "Your earlier uploads leave no room for another ({kept} of {room} bytes); ask an administrator"
            );
            Err(Refusal::conflict("no_room", sentence).into())
        }
    }
}

/// Looks a whole upload through and queues it. Answers the position of the facts, too. What is refused leaves nothing behind.
pub async fn take_in(
    app: Data<App>,
    place: Place,
    upload: Upload,
    name: String,
    asking: CommandContext,
) -> Result<(Queued, u64), UploadError> {
    let io = app.log.store().io().clone();
    // On a task of its own: once the append is on its way, the bytes must not go because the caller did.
    let task = io.spawn(async move {
        let _place = place;
        if let Err(refused) = look_through(&upload).await {
            upload.discard().await;
            return Err(refused);
        }
        queue(&app, upload, name, asking).await
    });
    task.await.unwrap_or_else(|stopped| {
        Err(WriteError::Internal(format!("an upload stopped: {stopped}")).into())
    })
}

async fn look_through(upload: &Upload) -> Result<(), UploadError> {
    let Ok(permit) = timeout(LONGEST_LOOK, LOOKING.acquire()).await else {
        return Err(WriteError::Busy.into());
    };
    let reader = Arc::new(upload.reader());
    let (read, size) = (Arc::clone(&reader), upload.size());
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
    asking: CommandContext,
) -> Result<(Queued, u64), UploadError> {
    let (user, file, job) = (
        upload.user(),
        upload.id(),
        JobId::new(app.log.clock().new_uuid()),
    );
    let row = upload.row(name, MEDIA_TYPE, app.log.clock().now());
    let planner = move |state: &User, now| {
        let changes = state.decide(now, UserCommand::BeginOnboarding(job.clone(), file))?;
        Ok(Plan {
            changes,
            work: vec![row.clone()],
            outcome: json!(Queued {
                job: job.clone(),
                file
            }),
            ..Plan::default()
        })
    };
    let done = match app
        .write
        .users
        .plan(user, None, asking, Arc::new(planner))
        .await
    {
        Ok(done) => done,
        Err(error) => {
            match error {
                WriteError::Away(_) | WriteError::Internal(_) => upload.keep(), // the row may be there all the same
                _ => upload.discard().await,
            }
            return Err(error.into());
        }
    };
    let queued: Queued = match serde_json::from_value(done.outcome) {
        Ok(queued) => queued,
        Err(error) => {
            upload.keep();
            return Err(
                WriteError::Internal(format!("a queued upload has no outcome: {error}")).into(),
            );
        }
    };
    match queued.file == file {
        true => upload.keep(),
        false => upload.discard().await, // the same request came before
    }
    Ok((queued, done.position))
}
