//! A file that Directus holds, for the worker of a job that names it. That its user may read the file was checked by the
//! user's own token when the job was queued (`src/http/jobs/named_files.rs`).

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{
        ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, ContentDisposition,
        HeaderValue, X_CONTENT_TYPE_OPTIONS,
    },
    web::Bytes,
};
use futures_util::{StreamExt, stream};
use genie_events::BlobId;

use super::{FileBytes, SANDBOX, disposition};
use crate::{
    app::App,
    http::{
        error::ApiError,
        request::{in_span, is_head},
        response::RawAnswer,
    },
    identity::directus::NoDirectusFile,
};

/// Always the whole file, as an attachment.
pub async fn answer(
    app: &App,
    request: &HttpRequest,
    id: BlobId,
) -> Result<RawAnswer<FileBytes>, ApiError> {
    let nothing = || ApiError::NotFound("file");
    let directus = app.directus.as_ref().ok_or_else(nothing)?;
    let most = app.config.file_max_bytes;
    let opened = directus.open_file(id, most).await;
    let mut file = opened.map_err(|why| match why {
        NoDirectusFile::NotThere => nothing(),
        NoDirectusFile::TooLarge => ApiError::TooLarge(most),
        NoDirectusFile::NoToken => ApiError::NotConfigured {
            code: "directus_admin_token_missing",
            sentence: "A file in Directus is fetched by DIRECTUS_ADMIN_TOKEN, which is not set on the server"
                .to_owned(),
        },
        NoDirectusFile::Trouble(trouble) => ApiError::Directus(trouble),
    })?;
    let media_type = file.media_type.as_deref();
    let media_type = media_type.unwrap_or("application/octet-stream").to_owned();
    let name = file.disposition.as_deref().and_then(name_in);
    let name = name.unwrap_or_else(|| id.to_string());
    let mut response = HttpResponse::Ok();
    response
        .content_type(media_type.as_str())
        .insert_header(disposition(&media_type, name, true))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((CONTENT_SECURITY_POLICY, SANDBOX))
        .insert_header((CACHE_CONTROL, "private, no-store"))
        .insert_header((ACCEPT_RANGES, "none"));
    if let Some(size) = file.size {
        response.no_chunking(size);
        if is_head(request) {
            response.insert_header((CONTENT_LENGTH, size));
        }
    }
    if is_head(request) {
        let nothing = stream::empty::<Result<Bytes, ApiError>>();
        return Ok(RawAnswer::new(response.streaming(nothing)));
    }
    let pieces = stream::poll_fn(move |context| file.content.poll_recv(context));
    let pieces = pieces.map(|piece| piece.map_err(ApiError::Directus));
    Ok(RawAnswer::new(response.streaming(in_span(pieces))))
}

/// The name of a file in `Content-Disposition`.
fn name_in(disposition: &str) -> Option<String> {
    let header = HeaderValue::from_bytes(disposition.as_bytes()).ok()?;
    let parsed = ContentDisposition::from_raw(&header).ok()?;
    let extended = parsed.get_filename_ext();
    let extended = extended.and_then(|name| String::from_utf8(name.value.clone()).ok());
    extended.or_else(|| parsed.get_filename().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_in_both_forms() {
        for (header, name) in [
            ("attachment; filename=\"a.png\"", Some("a.png")),
            (
                "attachment; filename=\"my \u{e4}.png\"",
                Some("my \u{e4}.png"),
            ),
            (
                "attachment; filename=\"?.png\"; filename*=UTF-8''%E2%82%AC.png",
                Some("\u{20ac}.png"),
            ),
            ("attachment", None),
        ] {
            assert_eq!(name_in(header).as_deref(), name, "{header}");
        }
    }
}
