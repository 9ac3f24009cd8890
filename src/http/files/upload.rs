//! An upload in one request.

use actix_web::{Either, HttpMessage, HttpRequest, HttpResponse, web::Data};
use genie_actors::{Caller, CommandContext, WriteError};
use genie_events::{BlobId, JobId, Refusal, UserId, file::NewFile};
use serde::Deserialize;
use tracing::Instrument;
use utoipa::IntoParams;

use super::{
    FileAnswer, live_keys,
    receive::{self, FileBody},
};
use crate::{
    app::App,
    blobs::{FoundFile, Upload},
    http::{
        caller::{AnyCaller, WorksOnJobs},
        error::ApiError,
        held_job::{LeaseHeaders, ShownLease},
        idempotency::{BodyHash, IdempotencyKey},
        input::Query,
        onboarding::drain,
        response::Written,
    },
};

/// No picture or film has more pixels in a row.
const MAX_SIDE: u32 = 1 << 20;
/// In seconds: a year.
const MAX_DURATION: f64 = 366.0 * 86_400.0;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UploadQuery {
    /// The file's name; without it, the one of the form.
    name: Option<String>,
    /// In pixels, as the worker measured them. Only with `Genie-Job`.
    width: Option<u32>,
    height: Option<u32>,
    /// In seconds, as the worker measured it. Only with `Genie-Job`.
    duration: Option<f64>,
}

/// The user whose file an upload becomes, and the job that makes it.
struct UploadOwner<'a> {
    user: UserId,
    job: Option<JobId>,
    caller: &'a Caller,
    lease: Option<ShownLease>,
}

/// `POST /api/files`
pub async fn upload(
    app: Data<App>,
    request: HttpRequest,
    idempotency_key: IdempotencyKey,
    caller: AnyCaller<WorksOnJobs>,
    lease: LeaseHeaders,
    Query(about): Query<UploadQuery>,
    FileBody(body): FileBody,
) -> Result<Either<Written<FileAnswer>, HttpResponse>, ApiError> {
    let body = drain::Shared::new(body);
    let taken = async {
        let owner = owner(&app, &caller, &lease).await?;
        take_in(
            &app,
            &request,
            &idempotency_key,
            &owner,
            about,
            body.clone(),
        )
        .await
    };
    Ok(match taken.await {
        Ok(stored) => Either::Left(stored),
        Err(error) => Either::Right(body.refuse(&error).await),
    })
}

async fn owner<'a>(
    app: &App,
    caller: &'a AnyCaller<WorksOnJobs>,
    lease: &LeaseHeaders,
) -> Result<UploadOwner<'a>, ApiError> {
    let server = match caller {
        AnyCaller::User(user) => {
            return Ok(UploadOwner {
                user: user.account.user,
                job: None,
                caller: &user.caller,
                lease: None,
            });
        }
        AnyCaller::Server(server) => server,
    };
    let Some(shown) = lease.shown()? else {
        return Err(Refusal::forbidden(
            "lease_needed",
            "A worker uploads what a job of its made; send `Genie-Job` and `Genie-Lease`",
        )
        .into());
    };
    Ok(UploadOwner {
        user: shown.held(app).await?.owner,
        job: Some(shown.job),
        caller: &server.caller,
        lease: Some(shown),
    })
}

async fn take_in(
    app: &Data<App>,
    request: &HttpRequest,
    idempotency_key: &IdempotencyKey,
    owner: &UploadOwner<'_>,
    about: UploadQuery,
    body: drain::Shared,
) -> Result<Written<FileAnswer>, ApiError> {
    let most = app.config.file_max_bytes;
    let declared = receive::check_length(request, most)?;
    let measured = about.measured(owner)?;
    if owner.job.is_none() {
        let asked = owner.caller.metadata();
        app.write
            .files
            .check_room(owner.user, declared, asked)
            .await?;
    }
    let _slot = app.uploads.begin_file(owner.user)?;
    app.blobs.check_disk()?;
    let keys = live_keys(app, owner.user, "user").await?;
    let mut upload = app.blobs.upload(owner.user, keys);
    let received = receive_whole(request, body, &mut upload, most).await;
    let (name, found) = match received {
        Ok(received) => received,
        Err(error) => {
            upload.discard().await;
            return Err(error);
        }
    };
    if let Some(shown) = &owner.lease
        && let Err(error) = shown.held(app).await
    {
        upload.discard().await; // the job went to another worker meanwhile
        return Err(error);
    }
    let name = receive::base_name(about.name.as_deref().or(name.as_deref()));
    let hash = BodyHash::known(format!("{}/{name}", found.sha256));
    request.extensions_mut().insert(hash);
    let file = new_file(name, found, owner.job, measured);
    let asking = idempotency_key.asking(app, owner.caller)?;
    let (id, position) = store(app.clone(), upload, file, asking).await?;
    show(app, owner.user, id, position).await
}

async fn receive_whole(
    request: &HttpRequest,
    body: drain::Shared,
    upload: &mut Upload,
    most: u64,
) -> Result<(Option<String>, FoundFile), ApiError> {
    let name = receive::receive(request, body, upload, most).await?;
    Ok((name, upload.finish().await?))
}

/// Width, height and duration that a worker measured.
#[derive(Default)]
pub struct Measures {
    size: Option<(u32, u32)>,
    duration: Option<f64>,
}

impl UploadQuery {
    /// What anybody but a worker says of the measures is not believed.
    fn measured(&self, owner: &UploadOwner<'_>) -> Result<Measures, ApiError> {
        if owner.job.is_none() {
            return Ok(Measures::default());
        }
        let size = match (self.width, self.height) {
            (None, None) => None,
            (Some(width @ 1..=MAX_SIDE), Some(height @ 1..=MAX_SIDE)) => Some((width, height)),
            _ => {
                let sentence =
                    format!("`width` and `height` come together and are 1 to {MAX_SIDE}");
                return Err(ApiError::field(sentence));
            }
        };
        let is_long = |seconds: f64| !(0.0..=MAX_DURATION).contains(&seconds);
        if self.duration.is_some_and(is_long) {
            return Err(ApiError::field(
                "`duration` must be seconds from 0, at most a year",
            ));
        }
        let duration = self.duration;
        Ok(Measures { size, duration })
    }
}

/// The fact about whole bytes.
pub fn new_file(name: String, found: FoundFile, job: Option<JobId>, measured: Measures) -> NewFile {
    let size = measured.size.or(found.kind.size);
    NewFile {
        file_name: name,
        bytes: found.bytes,
        mime: found.kind.mime.to_owned(),
        sha256: found.sha256,
        job,
        width: size.map(|(width, _)| width),
        height: size.map(|(_, height)| height),
        duration: measured.duration,
    }
}

/// Makes an upload a file. The same request again answers the first file, and the bytes of this one go.
async fn store(
    app: Data<App>,
    upload: Upload,
    file: NewFile,
    context: CommandContext,
) -> Result<(BlobId, u64), WriteError> {
    let io = app.log.store().io().clone();
    // On its own task: once the append has begun, a caller who goes away must not delete the bytes.
    let work = async move {
        let user = upload.user();
        let id = upload.id();
        let row = upload.row(&file, app.log.clock().now());
        match app.write.files.store(user, id, file, row, context).await {
            Ok((stored, position)) => {
                if stored == id {
                    upload.keep();
                } else {
                    upload.discard().await;
                }
                Ok((stored, position))
            }
            Err(error) => {
                match error {
                    WriteError::Away(_) | WriteError::Internal(_) => upload.keep(), // the row may be written
                    _ => upload.discard().await,
                }
                Err(error)
            }
        }
    };
    let task = io.spawn(work.in_current_span());
    task.await.unwrap_or_else(|stopped| {
        Err(WriteError::Internal(format!(
            "an upload stopped: {stopped}"
        )))
    })
}

async fn show(
    app: &App,
    user: UserId,
    id: BlobId,
    position: u64,
) -> Result<Written<FileAnswer>, ApiError> {
    let blob = app.log.blobs().get(id).await?;
    // A repeated request names the first file, which may have been deleted since.
    let blob = blob.ok_or(ApiError::NotFound("file"))?;
    let keys = live_keys(app, user, "file").await?;
    let details = blob.details(&keys)?;
    Ok(Written(FileAnswer::new(&blob, &details), position))
}
