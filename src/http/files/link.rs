//! Links that show a file to whoever has them, for a while: an `<img>` or `<video>` of a page sends no token.

use actix_web::{
    HttpRequest,
    http::header::{HeaderValue, REFERRER_POLICY},
    web::{Data, Path},
};
use genie_events::{BlobId, Timestamp};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use utoipa::{IntoParams, ToSchema};

use super::{
    download::{FileBytes, answer, is_to_be_saved},
    file_id,
};
use crate::{
    app::App,
    http::{
        body::OptionalBody,
        caller::ActingUser,
        error::ApiError,
        input::Query,
        response::{Answer, RawAnswer},
        words::Time,
    },
};

/// In seconds.
const MOST: u64 = 86_400;
/// In seconds.
const BY_DEFAULT: u64 = 3600;

#[derive(Deserialize, ToSchema)]
pub struct LinkRequest {
    /// In seconds; 3600 by default.
    #[schema(minimum = 1, maximum = 86_400)]
    expires_in: Option<u64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = FileLink)]
pub struct FileLinkAnswer {
    /// A path on this server.
    url: String,
    expires_at: Time,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LinkQuery {
    /// As the link has it.
    until: i64,
    /// As the link has it.
    signature: String,
    /// Anything: the file is to be saved rather than shown.
    download: Option<String>,
}

/// `POST /api/files/{id}/link`
pub async fn make(
    app: Data<App>,
    user: ActingUser,
    id: Path<String>,
    OptionalBody(body): OptionalBody<LinkRequest>,
) -> Result<Answer<FileLinkAnswer>, ApiError> {
    let seconds = match body.and_then(|body| body.expires_in) {
        None => BY_DEFAULT,
        Some(seconds @ 1..=MOST) => seconds,
        Some(_) => {
            let sentence = format!("`expires_in` must be 1 to {MOST} seconds");
            return Err(ApiError::field(sentence));
        }
    };
    let id = file_id(&id)?;
    let file = app.log.blobs().get(id).await?;
    if file.is_none_or(|file| file.user != user.account.user) {
        return Err(ApiError::NotFound("file"));
    }
    let until = app.log.clock().now().unix_seconds() + seconds as i64;
    let signature = app.log.hashes().file_link(id, until);
    Ok(Answer(FileLinkAnswer {
        url: format!("/api/files/{id}/linked?until={until}&signature={signature}"),
        expires_at: Timestamp(until * 1_000_000).into(),
    }))
}

/// `GET /api/files/{id}/linked`
pub async fn linked(
    app: Data<App>,
    request: HttpRequest,
    id: Path<String>,
    Query(link): Query<LinkQuery>,
) -> Result<RawAnswer<FileBytes>, ApiError> {
    let id = file_id(&id)?;
    check(&app, id, &link)?;
    let blob = app.log.blobs().get(id).await?;
    let blob = blob.ok_or(ApiError::NotFound("file"))?;
    let is_download = link.download.is_some() || is_to_be_saved(&request);
    let mut response = answer(&app, &request, &blob, is_download).await?;
    // The address is all that it takes to read the file.
    let policy = HeaderValue::from_static("no-referrer");
    response.headers_mut().insert(REFERRER_POLICY, policy);
    Ok(RawAnswer::new(response))
}

fn check(app: &App, id: BlobId, link: &LinkQuery) -> Result<(), ApiError> {
    let signature = app.log.hashes().file_link(id, link.until);
    let is_good: bool = signature.as_bytes().ct_eq(link.signature.as_bytes()).into();
    if is_good && app.log.clock().now().unix_seconds() < link.until {
        return Ok(());
    }
    Err(ApiError::Forbidden(
        "This link is over, or is not one of this server; ask for a new one",
    ))
}
