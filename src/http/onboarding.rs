//! Onboarding (contract, section 3): the state, its steps, and the upload.

use actix_multipart::Multipart;
use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    http::header::CONTENT_LENGTH,
    web::{Data, Payload},
};
use genie_events::{UserId, account::Onboarding};
use genie_log::LogError;
use serde::Deserialize;
use serde_json::json;

use crate::{
    app::App,
    http::{
        body::Body, caller::ActingUser, error::ApiError, idempotency, read_your_writes, response,
    },
    onboarding,
};

/// What is left of a refused body.
mod drain;
/// The form that carries an upload.
mod upload_form;

/// What a form may have beside the file, in bytes.
const FORM: u64 = 64 * 1024;

/// `GET /api/onboarding/state`
pub async fn show_state(
    app: Data<App>,
    request: HttpRequest,
    user: ActingUser,
) -> Result<HttpResponse, ApiError> {
    let id = user.account.user;
    read_your_writes::wait(&app, &request, "accounts", Some(id)).await?;
    let account = app
        .reads
        .accounts
        .get(id)
        .await?
        .ok_or(ApiError::NotFound("user"))?;
    Ok(response::ok(
        json!({"state": account.onboarding, "userId": id}),
    ))
}

#[derive(Deserialize)]
pub struct Step {
    state: String,
    /// Whose, when an administrator asks; else the caller's.
    #[serde(rename = "userId")]
    user: Option<UserId>,
}

/// `PATCH /api/onboarding/state`
pub async fn advance(
    app: Data<App>,
    request: HttpRequest,
    user: ActingUser,
    Body(body): Body<Step>,
) -> Result<HttpResponse, ApiError> {
    let asking = idempotency::asking(&app, &request, &user.caller)?;
    let to = Onboarding::parse(&body.state).ok_or_else(|| {
        ApiError::field(
            "`state` must be one of: EXTENSION_INSTALL, DATA_COLLECTION, PROCESSING, COMPLETE",
        )
    })?;
    let (caller, is_admin) = (user.account.user, user.caller.is_admin());
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
    Ok(response::written(
        json!({"state": to.as_str(), "userId": whose}),
        done.position,
    ))
}

/// `POST /api/onboarding/zip-upload`
pub async fn upload(
    app: Data<App>,
    request: HttpRequest,
    user: ActingUser,
    body: Payload,
) -> HttpResponse {
    let body = drain::Shared::new(body);
    let form = Multipart::new(request.headers(), body.clone());
    match take_in(&app, &request, &user, form).await {
        Ok(answer) => answer,
        Err(error) => body.refuse(&error).await,
    }
}

async fn take_in(
    app: &Data<App>,
    request: &HttpRequest,
    user: &ActingUser,
    mut form: Multipart,
) -> Result<HttpResponse, ApiError> {
    let (id, most) = (user.account.user, app.config.max_upload);
    let declared = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > most.saturating_add(FORM)) {
        return Err(ApiError::TooLarge(most));
    }
    // One that is sent again under its key is answered as the first, whatever the state is by now.
    if !idempotency::has_key(request) {
        app.write
            .onboarding
            .check_upload(id, user.caller.metadata())
            .await?;
    }
    let slot = app.uploads.begin(id)?;
    onboarding::check_room(app, id, most).await?;
    let keys = app.log.live_keys(id).await.map_err(|error| match error {
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
    let asking = idempotency::asking(app, request, &user.caller)?;
    let (queued, position) =
        onboarding::take_in(app.clone(), slot, upload, received.name, asking).await?;
    let path = format!("/api/files/{}", queued.file);
    Ok(response::written(
        json!({"jobId": queued.job, "fileId": queued.file, "filePath": path}),
        position,
    ))
}
