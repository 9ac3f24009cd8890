//! Onboarding (docs/api.md, Onboarding): the state, its steps, and the upload.

use actix_multipart::Multipart;
use actix_web::{
    Either, HttpMessage, HttpRequest, HttpResponse, http::header::CONTENT_LENGTH, web::Data,
};
use genie_events::{BlobId, UserId, account::Onboarding};
use genie_log::LogError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    app::App,
    http::{
        body::{Body, FormBody},
        caller::ActingUser,
        error::ApiError,
        idempotency::IdempotencyKey,
        read_your_writes::MinPosition,
        response::{Answer, Written},
        words,
    },
    onboarding,
};

pub mod drain;
mod upload_form;
use upload_form::UploadForm;

/// The form may have this many bytes beside the file.
const FORM: u64 = 64 * 1024;

/// `GET /api/onboarding/state`
pub async fn show_state(
    app: Data<App>,
    min_position: MinPosition,
    user: ActingUser,
) -> Result<Answer<OnboardingAnswer>, ApiError> {
    let id = user.account.user;
    min_position.wait(&app, "accounts", Some(id)).await?;
    let account = app
        .reads
        .accounts
        .get(id)
        .await?
        .ok_or(ApiError::NotFound("user"))?;
    Ok(Answer(OnboardingAnswer {
        state: account.onboarding,
        user: id,
    }))
}

#[derive(Deserialize, ToSchema)]
pub struct OnboardingStep {
    #[schema(value_type = words::OnboardingState)]
    state: String,
    /// The user to move on, when an administrator asks. Otherwise the caller.
    #[serde(rename = "userId")]
    #[schema(value_type = Option<Uuid>)]
    user: Option<UserId>,
}

#[derive(Serialize, ToSchema)]
pub struct OnboardingAnswer {
    #[schema(value_type = words::OnboardingState)]
    state: String,
    #[serde(rename = "userId")]
    #[schema(value_type = Uuid)]
    user: UserId,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = QueuedUpload)]
pub struct QueuedUploadAnswer {
    job_id: String,
    #[schema(value_type = Uuid)]
    file_id: BlobId,
    /// Opaque: the path of the file.
    file_path: String,
}

/// `PATCH /api/onboarding/state`
pub async fn advance(
    app: Data<App>,
    idempotency_key: IdempotencyKey,
    user: ActingUser,
    Body(body): Body<OnboardingStep>,
) -> Result<Written<OnboardingAnswer>, ApiError> {
    let asking = idempotency_key.asking(&app, &user.caller)?;
    let to = Onboarding::parse(&body.state).ok_or_else(|| {
        ApiError::field(
            "`state` must be one of: EXTENSION_INSTALL, DATA_COLLECTION, PROCESSING, COMPLETE",
        )
    })?;
    let caller = user.account.user;
    let is_admin = user.caller.is_admin();
    let whose = body.user.unwrap_or(caller);
    if whose != caller && !is_admin {
        return Err(ApiError::Forbidden(
            "Only an administrator may move another user's onboarding on",
        ));
    }
    let done = app
        .write
        .onboarding
        .advance(whose, to, is_admin, asking)
        .await?;
    let onboarding = OnboardingAnswer {
        state: to.as_str().to_owned(),
        user: whose,
    };
    Ok(Written(onboarding, done.position))
}

/// `POST /api/onboarding/zip-upload`
pub async fn upload(
    app: Data<App>,
    request: HttpRequest,
    idempotency_key: IdempotencyKey,
    user: ActingUser,
    FormBody { payload: body, .. }: FormBody<UploadForm>,
) -> Result<Either<Written<QueuedUploadAnswer>, HttpResponse>, ApiError> {
    let body = drain::Shared::new(body);
    let form = Multipart::new(request.headers(), body.clone());
    Ok(
        match take_in(&app, &request, &idempotency_key, &user, form).await {
            Ok(queued) => Either::Left(queued),
            Err(error) => Either::Right(body.refuse(&error).await),
        },
    )
}

async fn take_in(
    app: &Data<App>,
    request: &HttpRequest,
    idempotency_key: &IdempotencyKey,
    user: &ActingUser,
    mut form: Multipart,
) -> Result<Written<QueuedUploadAnswer>, ApiError> {
    let id = user.account.user;
    let most = app.config.max_upload;
    let declared = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > most.saturating_add(FORM)) {
        return Err(ApiError::TooLarge(most));
    }
    // A repeated upload with the same key gets the first answer, whatever the state is by now.
    if !idempotency_key.is_given() {
        app.write
            .onboarding
            .check_upload(id, user.caller.metadata())
            .await?;
    }
    let slot = app.uploads.begin(id)?;
    let keys = app.log.keys().live(id).await.map_err(|error| match error {
        LogError::KeyAbsent { .. } | LogError::Forgotten { .. } => ApiError::NotFound("user"),
        error => error.into(),
    })?;
    let mut upload = app.blobs.upload(id, keys);
    let received = match upload_form::receive(&mut form, &mut upload, most).await {
        Ok(received) => received,
        Err(error) => {
            upload.discard().await;
            return Err(error);
        }
    };
    request.extensions_mut().insert(received.hash);
    let asking = idempotency_key.asking(app, &user.caller)?;
    let file = onboarding::archive(received.name, received.found);
    let (queued, position) = onboarding::take_in(app.clone(), slot, upload, file, asking).await?;
    let upload = QueuedUploadAnswer {
        job_id: queued.job.to_string(),
        file_id: queued.file,
        file_path: format!("/api/files/{}", queued.file),
    };
    Ok(Written(upload, position))
}
