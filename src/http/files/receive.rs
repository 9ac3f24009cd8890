//! The bytes of an upload as they come: a form with one part `file` (RFC 7578), or the body itself.

use std::time::Duration;

use actix_multipart::{Field, Multipart, MultipartError};
use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    error::PayloadError,
    http::header::{CONTENT_LENGTH, CONTENT_TYPE},
    web::{self, Bytes},
};
use futures_util::{Stream, StreamExt};
use std::future::{Ready, ready};
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::{
    blobs::Upload,
    http::{error::ApiError, onboarding::drain::Shared},
};

/// The longest wait for the next bytes.
const NEXT: Duration = Duration::from_secs(30);
/// The longest time for the whole upload. Bytes without a row stay in the blob store for longer than that, so none is
/// deleted while it arrives.
const ALL: Duration = Duration::from_secs(12 * 3600);
/// A form may have this many bytes beside the file.
const FORM: u64 = 64 * 1024;
/// In characters.
const MAX_NAME: usize = 255;
/// The name of a file that was sent without one.
const UNNAMED: &str = "file";

/// A body that the handler reads piece by piece: a form, or the bytes of a file.
pub struct FileBody(pub web::Payload);

impl FromRequest for FileBody {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let payload = web::Payload::from_request(request, payload).into_inner();
        ready(payload.map(Self))
    }
}

#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "the form goes to the store as it comes; this only describes it"
)]
pub struct FileForm {
    /// The file, at most `FILE_MAX_BYTES`.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// Refuses a body that says of itself that it is too large.
pub fn check_length(request: &HttpRequest, most: u64) -> Result<u64, ApiError> {
    let header = request.headers().get(CONTENT_LENGTH);
    let declared = header.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let declared = declared.unwrap_or(0);
    let beside = if is_form(request) { FORM } else { 0 };
    if declared > most.saturating_add(beside) {
        return Err(ApiError::TooLarge(most));
    }
    Ok(declared.saturating_sub(beside))
}

/// Receives the body to its end: at most `most` bytes of a file. Answers the file's name, if it came with one.
pub async fn receive(
    request: &HttpRequest,
    body: Shared,
    upload: &mut Upload,
    most: u64,
) -> Result<Option<String>, ApiError> {
    let receiving = async {
        if is_form(request) {
            let mut form = Multipart::new(request.headers(), body);
            receive_form(&mut form, upload, most).await
        } else {
            receive_bytes(body, upload, most).await?;
            Ok(None)
        }
    };
    let received = timeout(ALL, receiving).await;
    received.unwrap_or_else(|_| Err(too_slow()))
}

fn is_form(request: &HttpRequest) -> bool {
    let header = request.headers().get(CONTENT_TYPE);
    header
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| {
            kind.trim_start()
                .to_ascii_lowercase()
                .starts_with("multipart/")
        })
}

async fn receive_bytes(mut body: Shared, upload: &mut Upload, most: u64) -> Result<(), ApiError> {
    while let Some(bytes) = next(&mut body, |_: PayloadError| broke_off()).await? {
        take(upload, &bytes, most).await?;
    }
    Ok(())
}

async fn receive_form(
    form: &mut Multipart,
    upload: &mut Upload,
    most: u64,
) -> Result<Option<String>, ApiError> {
    let mut name = None;
    let mut other = 0;
    while let Some(mut field) = next(form, broken).await? {
        match (field.name(), &name) {
            (Some("file"), None) => {
                let sent = field
                    .content_disposition()
                    .and_then(|about| about.get_filename());
                name = Some(sent.map(str::to_owned));
                while let Some(bytes) = next(&mut field, broken).await? {
                    take(upload, &bytes, most).await?;
                }
            }
            (Some("file"), Some(_)) => {
                let sentence = "The form must have one field `file`, not several";
                return Err(ApiError::field(sentence));
            }
            _ => skip(&mut field, &mut other).await?,
        }
    }
    name.ok_or_else(|| ApiError::field("The form must have a field `file`"))
}

async fn take(upload: &mut Upload, bytes: &Bytes, most: u64) -> Result<(), ApiError> {
    if upload.size() + bytes.len() as u64 > most {
        return Err(ApiError::TooLarge(most));
    }
    Ok(upload.write(bytes).await?)
}

/// Skips a field that the route does not read.
async fn skip(field: &mut Field, other: &mut u64) -> Result<(), ApiError> {
    while let Some(bytes) = next(field, broken).await? {
        *other += bytes.len() as u64;
        if *other > FORM {
            let sentence = "The form has too much beside the field `file`";
            return Err(ApiError::field(sentence));
        }
    }
    Ok(())
}

pub async fn next<T, E>(
    stream: &mut (impl Stream<Item = Result<T, E>> + Unpin),
    broken: impl Fn(E) -> ApiError,
) -> Result<Option<T>, ApiError> {
    match timeout(NEXT, stream.next()).await {
        Ok(next) => next.transpose().map_err(broken),
        Err(_) => Err(too_slow()),
    }
}

fn broken(error: MultipartError) -> ApiError {
    use MultipartError as E;
    match error {
        E::ContentTypeMissing
        | E::ContentTypeParse
        | E::ContentTypeIncompatible
        | E::BoundaryMissing => ApiError::NotForm,
        E::Incomplete | E::Payload(_) => broke_off(),
        _ => ApiError::field(
            "The form cannot be read; it must be multipart/form-data with a field `file`",
        ),
    }
}

pub fn broke_off() -> ApiError {
    ApiError::field("The upload broke off; send it again")
}

fn too_slow() -> ApiError {
    ApiError::field("The upload came too slowly; send it again")
}

/// A file's name without what could mislead: some browsers send a path, of which the last part is the name.
pub fn base_name(sent: Option<&str>) -> String {
    let name = sent.unwrap_or_default();
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String = name
        .chars()
        .filter(|char| !char.is_control())
        .take(MAX_NAME)
        .collect();
    match name.trim() {
        "" | "." | ".." => UNNAMED.to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_part_of_a_path_without_control_characters() {
        for (sent, name) in [
            (
                Some("C:\\films\\my film 100%: a.mp4"),
                "my film 100%: a.mp4",
            ),
            (Some("../../etc/passwd"), "passwd"),
            (Some("a\r\nb\0c.png"), "abc.png"),
            (Some(".."), UNNAMED),
            (Some("  "), UNNAMED),
            (Some("folder/"), UNNAMED),
            (None, UNNAMED),
        ] {
            assert_eq!(base_name(sent), name);
        }
        assert_eq!(base_name(Some(&"ö".repeat(300))).chars().count(), MAX_NAME);
    }
}
